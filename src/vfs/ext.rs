//! Comforts over [`Vfs`].

use std::sync::Arc;

use super::{Ino, Vfs};

/// One lease that gives itself back: made from what a leasing call returned.
#[derive(Debug)]
pub struct Lease {
    vfs: Arc<dyn Vfs>,
    ino: Ino,
}
impl Lease {
    pub fn adopt(vfs: Arc<dyn Vfs>, ino: Ino) -> Self {
        Self { vfs, ino }
    }
    pub fn ino(&self) -> Ino {
        self.ino
    }
}
impl Clone for Lease {
    fn clone(&self) -> Self {
        self.vfs.retain(self.ino);
        Self { vfs: self.vfs.clone(), ino: self.ino }
    }
}
impl Drop for Lease {
    fn drop(&mut self) {
        self.vfs.release(self.ino, 1);
    }
}
