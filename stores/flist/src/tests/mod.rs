//! Flists as their readers see them: the fixtures byte for byte, and what hostile ones come to.

mod archives;
mod fixtures;
mod hostile;
pub(crate) mod made;
mod mount;
mod sources;
mod writing;
