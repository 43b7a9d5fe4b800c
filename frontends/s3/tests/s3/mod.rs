//! A server over a working tree in memory, and a client of it.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod client;

use std::sync::Arc;

use muxfs::{
    Name,
    testing::wire::working_tree,
    vfs::{NewNode, Place, RenameMode, SetAttr, Vfs, ext},
};
use muxfs_s3_serve::{Key, Keys, Options, Server};

pub(crate) use client::{Client, Reply, date, escape, hex, send, unescape};

/// A server, and what it serves.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) vfs: Arc<dyn Vfs>,
}

pub(crate) fn key(id: &str) -> Key {
    Key { id: id.into(), secret: format!("secret-of-{id}"), read_only: false, allow: Vec::new() }
}

impl Site {
    pub(crate) async fn new() -> Self {
        let (vfs, ()) = working_tree().await;
        Self::over(vfs, vec![key("ann")]).await
    }

    pub(crate) async fn over(vfs: Arc<dyn Vfs>, keys: Vec<Key>) -> Self {
        let keys = Keys::new(keys).expect("keys");
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), keys, part_len_min: 16, ..Options::default() };
        let server = muxfs_s3_serve::serve(vfs.clone(), options).await.expect("listens");
        Self { server, vfs }
    }

    pub(crate) fn ann(&self) -> Client {
        Client { addr: self.server.local_addr(), key: key("ann"), skew: 0 }
    }

    /// Puts another file in the place of one in a directory, as another frontend does.
    pub(crate) async fn replace(&self, dir: &str, name: &str, bytes: &'static [u8]) {
        let named = |text: &str| Name::new(text.as_bytes()).expect("a name");
        let (dir, _) = ext::walk(&self.vfs, self.vfs.root(), &[named(dir)]).await.expect("a directory");
        let set = SetAttr { mode: Some(0o644), ..SetAttr::default() };
        let made = self.vfs.create(dir.ino(), &named("new"), NewNode::File, set).await.expect("made").node.ino;
        self.vfs.write(made, 0, bytes.into(), false).await.expect("written");
        let place = |name| Place { dir: dir.ino(), name, expect: None };
        self.vfs.rename(place(&named("new")), place(&named(name)), RenameMode::Replace).await.expect("moved");
        self.vfs.release(made, 1);
    }

    /// The bytes of a file, as another frontend reads it.
    pub(crate) async fn file(&self, path: &str) -> Option<Vec<u8>> {
        let names: Vec<_> = path.split('/').map(|part| Name::new(part.as_bytes()).expect("a name")).collect();
        let (lease, attr) = ext::walk(&self.vfs, self.vfs.root(), &names).await.ok()?;
        let bytes = self.vfs.read(lease.ino(), 0, u32::try_from(attr.size).expect("small")).await.ok()?;
        Some(bytes.to_vec())
    }
}
