//! `LocalVfs` as its callers see it, and as the host sees what it does.
//!
//! One program, so that it is linked once; each module tells one story.

mod confinement;
mod handles;
mod limits;
mod listing;
mod model;
mod others;
mod plain;
mod processes;
mod world;
