//! Stores on the host's own file system.
//!
//! * [`LocalVfs`] gives a host directory as a [`Vfs`](muxfs::vfs::Vfs): what `/local` is. Confined to its root, with the
//!   host's inode numbers, and handles that survive restarts without any privilege. Spec: spec/local.md.
//! * [`FileMedia`] gives a directory of segment files as a [`Media`](muxfs::media::Media): the disk under a log.
//!
//! This crate knows `muxfs` and no frontend.

mod buffers;
mod file_media;
mod handles;
mod local_vfs;

pub use crate::{
    file_media::FileMedia,
    local_vfs::{LocalOptions, LocalVfs},
};
