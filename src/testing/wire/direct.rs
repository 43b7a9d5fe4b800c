//! The client without a wire: it calls the file system itself.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Ability, Answer, Client, Refusal, Stat};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Lease, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs,
        ext::{list, read_to_end, walk},
    },
};

/// The longest file that a scenario reads whole.
const FILE_LEN_MAX: u64 = 64 << 20;
/// The most entries that a scenario lists.
const ENTRY_COUNT_MAX: usize = 100_000;

/// A [`Client`] that calls a [`Vfs`] without any wire between.
#[derive(Debug)]
pub struct Direct {
    vfs: Arc<dyn Vfs>,
}

impl Direct {
    /// Makes a client of `vfs`.
    ///
    /// ```
    /// use muxfs::testing::{self, model::ModelFs, wire::Direct};
    /// let client = Direct::new(ModelFs::new(testing::env()));
    /// # drop(client);
    /// ```
    #[expect(clippy::new_ret_no_self, reason = "scenarios know clients as the trait alone")]
    pub fn new(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
        Arc::new(Self { vfs })
    }

    async fn node(&self, path: &[u8]) -> Result<Lease> {
        Ok(walk(&self.vfs, self.vfs.root(), &names(path)?).await?.0)
    }

    /// The directory of a path, and the name in it.
    async fn place(&self, path: &[u8]) -> Result<(Lease, Name)> {
        let mut names = names(path)?;
        let last = names.pop().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "direct.place"))?;
        Ok((walk(&self.vfs, self.vfs.root(), &names).await?.0, last))
    }

    async fn put_file(&self, path: &[u8], data: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path).await?;
        let made = self.vfs.create(dir.ino(), &name, NewNode::File, SetAttr::default()).await;
        let file = match made {
            Ok(made) => Lease::adopt(self.vfs.clone(), made.node.ino),
            Err(error) if error.kind() == ErrorKind::Exists => {
                let there = self.vfs.lookup(dir.ino(), &name).await?;
                let file = Lease::adopt(self.vfs.clone(), there.ino);
                self.vfs.setattr(file.ino(), SetAttr { size: Some(0), ..SetAttr::default() }).await?;
                file
            }
            Err(error) => return Err(error),
        };
        self.vfs.write(file.ino(), 0, Bytes::copy_from_slice(data), false).await?;
        self.vfs.sync(file.ino()).await?;
        self.vfs.sync(dir.ino()).await
    }

    async fn change_names(&self, path: &[u8], kind: RemoveKind) -> Result<()> {
        let (dir, name) = self.place(path).await?;
        self.vfs.remove(Place { dir: dir.ino(), name: &name, expect: None }, kind).await?;
        self.vfs.sync(dir.ino()).await
    }
}

fn names(path: &[u8]) -> Result<Vec<Name>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(Name::new).collect()
}

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|error| Refusal::Kind(error.kind()))
}

#[async_trait]
impl Client for Direct {
    fn cannot(&self, _ability: Ability) -> Option<&'static str> {
        None
    }

    async fn another(&self) -> Arc<dyn Client> {
        Self::new(self.vfs.clone())
    }

    async fn mkdir(&self, path: &[u8]) -> Answer<()> {
        let work = async {
            let (dir, name) = self.place(path).await?;
            let made = self.vfs.create(dir.ino(), &name, NewNode::Dir, SetAttr::default()).await?;
            drop(Lease::adopt(self.vfs.clone(), made.node.ino));
            self.vfs.sync(dir.ino()).await
        };
        answer(work.await)
    }

    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()> {
        answer(self.put_file(path, data).await)
    }

    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        let work = async {
            let file = self.node(path).await?;
            self.vfs.write(file.ino(), offset, Bytes::copy_from_slice(data), false).await?;
            self.vfs.sync(file.ino()).await
        };
        answer(work.await)
    }

    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>> {
        let work = async {
            let file = self.node(path).await?;
            read_to_end(&*self.vfs, file.ino(), FILE_LEN_MAX).await
        };
        answer(work.await).map(Vec::from)
    }

    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        let work = async {
            let file = self.node(path).await?;
            self.vfs.read(file.ino(), offset, u32::try_from(len).unwrap_or(u32::MAX)).await
        };
        answer(work.await).map(Vec::from)
    }

    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>> {
        let work = async {
            let dir = self.node(path).await?;
            list(&*self.vfs, dir.ino(), ENTRY_COUNT_MAX).await
        };
        answer(work.await).map(|entries| entries.iter().map(|entry| entry.name.as_bytes().to_vec()).collect())
    }

    async fn stat(&self, path: &[u8]) -> Answer<Stat> {
        let work = async {
            let (_node, attr) = walk(&self.vfs, self.vfs.root(), &names(path)?).await?;
            Ok(Stat {
                kind: attr.kind,
                size: if attr.kind == FileKind::Dir { 0 } else { attr.size },
                mtime: attr.mtime,
            })
        };
        answer(work.await)
    }

    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()> {
        let work = async {
            let ((from_dir, from), (to_dir, to)) = (self.place(from).await?, self.place(to).await?);
            let from = Place { dir: from_dir.ino(), name: &from, expect: None };
            let to = Place { dir: to_dir.ino(), name: &to, expect: None };
            self.vfs.rename(from, to, RenameMode::Replace).await?;
            self.vfs.sync(from.dir).await?;
            self.vfs.sync(to.dir).await
        };
        answer(work.await)
    }

    async fn remove(&self, path: &[u8]) -> Answer<()> {
        answer(self.change_names(path, RemoveKind::NonDir).await)
    }

    async fn rmdir(&self, path: &[u8]) -> Answer<()> {
        answer(self.change_names(path, RemoveKind::Dir).await)
    }
}
