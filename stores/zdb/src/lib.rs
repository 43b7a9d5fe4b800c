//! The engine of a 0-db storage node: namespaces of keys and values in append-only files.
//!
//! An [`Engine`] has namespaces, a [`Namespace`] has keys and values, and nothing here speaks a protocol: what a command
//! came to is a value ([`Set`], [`Delete`], [`Page`]), and whoever serves it gives it the words of its protocol. Every
//! namespace is a [`Log`](muxfs::log::Log) of its own over a [`Media`](muxfs::media::Media), so what is written is
//! appended, checksummed, and durable together with its neighbours after one sync; where the current value of a key is
//! lives in a table in memory, 12 bytes a slot, and in index files that are derived from the log and built again where
//! one is missing or damaged.
//!
//! Where the media are is said by a [`Home`]: [`DirHome`] is a directory, [`MemHome`] memory. Spec: spec/zdb.md.
//!
//! ```
//! use std::sync::Arc;
//! use muxfs_zdb::{Engine, EngineOptions, MemHome, Set};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> muxfs::Result<()> {
//! let options = EngineOptions::new(&muxfs::testing::env());
//! let engine = Engine::open(Arc::new(MemHome::default()), options).await?;
//! let namespace = engine.default_namespace();
//! assert_eq!(namespace.set(b"hello", "world".into(), None).await?, Set::Stored { key: "hello".into() });
//! namespace.durable().await?;
//! assert_eq!(namespace.get(b"hello").await?.map(|entry| entry.value), Some("world".into()));
//! # Ok(()) }
//! ```

mod engine;
mod home;
mod ids;
pub mod import;
mod index;
mod namespace;
mod outcome;
mod record;
mod registry;
mod scan;
mod settings;
mod state;
mod store;
mod table;

pub use crate::{
    engine::{Create, DEFAULT_NAMESPACE, Engine, EngineOptions, ModeRule, Remove, SyncRule, Update},
    home::{DirHome, Home, MemHome, Part},
    namespace::Namespace,
    outcome::{Cursor, Delete, Direction, Entry, Figures, Key, Listed, Page, Raw, Refused, ScanLimit, Set, Version},
    settings::{Mode, Setting, Settings},
};

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 255;
/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = 8 << 20;
/// The longest name of a namespace, in bytes.
pub const NAME_LEN_MAX: usize = 128;
