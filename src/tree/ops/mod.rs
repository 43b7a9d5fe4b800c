//! The calls of a tree, one file for each thing a caller does. Each is an attempt: see `state`.

mod create;
mod io;
mod lookup;
mod remove;
mod rename;
mod setattr;
mod xattr;

pub(super) use self::{create::new_meta, io::Part};
