//! MuxFS: a multiplexing content-addressed filesystem.
//!
//! Paths with a prefix (`/mem`, `/local`, `/ipfs`, …) are routed to stores; directories are linked data; content is
//! named by CID and every block is verified as it enters memory, so the same content has the same CID in every store
//! and in IPFS.
//!
//! Calls only go down:
//!
//! ```text
//!    library                       NFS   FTP            frontends/*   who asks us for bytes
//!       |                           |_____|
//!     MuxFs (QFS paths, CIDs)    MuxFs::vfs() : Vfs     mux, vfs/union
//!       |                           |
//!    Mount::content | Mount::location                   cas, cas_view, working, vfs/as_store
//!       |               |
//!      Tree          LocalVfs                           tree: names over content, a journal of what changed since
//!       |
//!      Dag                                              dag: the only code that knows a CID
//!       |
//!    Mem | Segments                                     block: untrusted bytes under opaque keys
//!       |
//!     Media                                             media: the disk under a log
//! ```
//!
//! Content is put, gets a path by its CID, and is opened by that path, in every store of content the same:
//!
//! ```
//! use std::sync::Arc;
//!
//! use muxfs::{Mount, MuxFs, Prefix, block::Mem, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> muxfs::Result<()> {
//! let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
//! let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
//! let mut mux = MuxFs::new();
//! mux.mount(Mount::cas(Prefix::new("mem")?, dag, pins))?;
//!
//! let path = mux.put("/mem", &b"hello"[..]).await?;
//! assert_eq!(path.to_string(), "/mem/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");
//! assert_eq!(mux.open(path).await?.read_at(0, 100).await?, "hello");
//! # Ok(()) }
//! ```
//!
//! This crate touches no network, no host files, no wall clock and no randomness except through [`Env`] and the traits
//! it defines; it runs in a simulator. Stores (`stores/*`) and frontends (`frontends/*`) are crates of their own.

pub mod block;
mod bloom;
pub mod calendar;
pub mod car;
pub mod cas;
pub mod cas_view;
pub mod cid;
pub mod cipher;
pub mod dag;
pub mod error;
pub mod file;
pub mod heads;
#[cfg(feature = "aws-lc-rs")]
pub mod ipns;
pub mod log;
pub mod media;
pub mod mux;
pub mod overlay;
mod padding;
pub mod path;
pub mod pins;
mod rank;
pub mod repo;
pub mod seal;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tree;
pub mod vfs;
mod walk;
pub mod working;

use std::{fmt, sync::Arc, time::SystemTime};

pub use crate::{
    block::{BlockKey, BlockStore},
    cid::{Cid, Codec, cid_of},
    error::{BoxError, Error, ErrorKind, Result},
    file::{File, FileInfo, FileKind, Source},
    mux::{IntoPath, Mount, MuxFs},
    path::{Name, Prefix, QfsPath},
    seal::SecretKey,
    store::{Addressing, Store},
};

/// The clock and the randomness that a caller lends; this crate has no others, so a simulator owns both. Only how long a
/// node of [`block::Erasure`] is waited for is told by the clock of the tokio runtime, which a simulator can pause.
#[derive(Clone)]
pub struct Env {
    /// Tells the time.
    pub now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Fills a buffer with bytes nobody can predict.
    #[allow(clippy::type_complexity, reason = "a name for it would say no more")]
    pub fill: Arc<dyn Fn(&mut [u8]) + Send + Sync>,
}

impl Env {
    /// 128 random bits as 32 hexadecimal digits: a name that nobody else has and nobody can predict.
    ///
    /// ```
    /// let env = muxfs::testing::env();
    /// assert_eq!(env.random_id().len(), 32);
    /// assert_ne!(env.random_id(), env.random_id());
    /// ```
    pub fn random_id(&self) -> String {
        let mut random = [0; 16];
        (self.fill)(&mut random);
        format!("{:032x}", u128::from_le_bytes(random))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env(..)")
    }
}
