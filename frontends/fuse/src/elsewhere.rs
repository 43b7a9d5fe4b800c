//! Where there is no FUSE frontend yet: the same calls, each refused.

use std::path::Path;

use muxfs::{Error, ErrorKind, Result, vfs::watch::Watch};

use crate::Options;

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "fuse.mount").because("FUSE is served on Linux only: mount it over NFS"))
}

/// A mounted file system: there is none on this system.
#[derive(Debug)]
pub struct Mounted(std::convert::Infallible);

impl Mounted {
    /// Where it is.
    pub fn dir(&self) -> &Path {
        match self.0 {}
    }

    /// Whether the kernel reads and writes host files by itself.
    pub fn passes_through(&self) -> bool {
        match self.0 {}
    }

    /// How long nothing has been asked.
    pub fn idle(&self) -> std::time::Duration {
        match self.0 {}
    }

    /// Waits until it is unmounted.
    pub async fn wait(&self) -> Result<()> {
        match self.0 {}
    }

    /// Unmounts.
    pub async fn unmount(&self) -> Result<()> {
        match self.0 {}
    }

    /// Answers nobody any more.
    pub fn abandon(&self) {
        match self.0 {}
    }

    /// Takes it out of its place at once.
    pub async fn detach(&self) -> Result<()> {
        match self.0 {}
    }
}

/// Refuses: `Unsupported`.
pub async fn mount(_watch: &Watch, _dir: impl AsRef<Path>, _options: Options) -> Result<Mounted> {
    unsupported()
}

/// Refuses: `Unsupported`.
pub fn unmount(_dir: &Path, _lazy: bool) -> Result<()> {
    unsupported()
}
