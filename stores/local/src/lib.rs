//! A host directory as a MuxFS store: `/local`, and [`Media`](muxfs::media::Media) on files.

mod file_media;

pub use crate::file_media::FileMedia;
