//! Flists as their readers see them: the fixtures byte for byte, and what hostile ones come to.

mod archives;
mod buckets;
mod fixtures;
mod hostile;
pub(crate) mod made;
mod mount;
mod programs;
mod replaced;
mod repositories;
mod sources;
mod writing;
