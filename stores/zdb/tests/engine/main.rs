//! The engine against a model: random operations, crashes at every call of the media, damage anywhere, scans while others
//! write, compaction, copies, and what 0-db left.

mod compaction;
mod copies;
mod crash;
mod damage;
mod home;
mod import;
mod limits;
mod model;
mod namespaces;
mod scans;
