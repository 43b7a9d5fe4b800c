//! From paths to nodes: the names of a path, and what they lead to.

use std::sync::Arc;

use super::Repo;
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Ino, Lease, NewNode, SetAttr},
};

/// The names of a path, from the root.
pub(super) fn parse(path: &[u8]) -> Result<Vec<Name>> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split(|byte| *byte == b'/').map(Name::new).collect()
}

impl Repo {
    /// Takes over a lease.
    pub(super) fn lease(&self, ino: Ino) -> Lease {
        Lease::adopt(Arc::clone(&self.vfs), ino)
    }

    pub(super) fn root(&self) -> Lease {
        self.vfs.retain(self.vfs.root());
        self.lease(self.vfs.root())
    }

    /// The node that names lead to from the root. Nothing else of it is asked, so that a transaction goes by nothing else.
    pub(super) async fn walk(&self, names: &[Name]) -> Result<Lease> {
        let mut at = self.root();
        for (index, name) in names.iter().enumerate() {
            self.vfs.expect(at.ino(), names.get(index..).unwrap_or_default());
            at = self.lease(self.vfs.lookup(at.ino(), name).await?.ino);
        }
        Ok(at)
    }

    /// The directory above the last name.
    pub(super) async fn above<'a>(&self, names: &'a [Name], op: &'static str) -> Result<(Lease, &'a Name)> {
        let (last, above) = names.split_last().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, op).at("/").because("the root is what it is: name something in it")
        })?;
        Ok((self.walk(above).await?, last))
    }

    /// What names lead to, if anything.
    pub(super) async fn lookup(&self, names: &[Name]) -> Result<Option<(Lease, Attr)>> {
        let Some((last, above)) = names.split_last() else {
            let root = self.root();
            let attr = self.vfs.getattr(root.ino()).await?;
            return Ok(Some((root, attr)));
        };
        let found = match self.walk(above).await {
            Ok(dir) => self.vfs.lookup(dir.ino(), last).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(attr) => Ok(Some((self.lease(attr.ino), attr))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn file_at(&self, names: &[Name], op: &'static str) -> Result<(Lease, Attr)> {
        let Some((last, above)) = names.split_last() else { return Err(Error::new(ErrorKind::IsDir, op).at("/")) };
        let dir = self.walk(above).await?;
        let attr = self.vfs.lookup(dir.ino(), last).await?;
        let file = self.lease(attr.ino);
        check_file(attr.kind, last, op)?;
        Ok((file, attr))
    }

    /// A file without bytes: a new one, or the one that is there.
    pub(super) async fn empty_file(&self, names: &[Name], op: &'static str) -> Result<Lease> {
        let Some((last, above)) = names.split_last() else { return Err(Error::new(ErrorKind::IsDir, op).at("/")) };
        let dir = self.walk(above).await?;
        let attr = match self.vfs.lookup(dir.ino(), last).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match self.vfs.create(dir.ino(), last, NewNode::File, SetAttr::default()).await {
                    Ok(made) => return Ok(self.lease(made.node.ino)),
                    // Somebody was faster.
                    Err(error) if error.kind() == ErrorKind::Exists => self.vfs.lookup(dir.ino(), last).await?,
                    Err(error) => return Err(error),
                }
            }
            found => found?,
        };
        let file = self.lease(attr.ino);
        check_file(attr.kind, last, op)?;
        if attr.size > 0 {
            self.vfs.setattr(file.ino(), SetAttr { size: Some(0), ..SetAttr::default() }).await?;
        }
        Ok(file)
    }
}

fn check_file(kind: FileKind, name: &Name, op: &'static str) -> Result<()> {
    match kind {
        FileKind::File => Ok(()),
        FileKind::Dir => Err(Error::new(ErrorKind::IsDir, op).at(name)),
        _ => Err(Error::new(ErrorKind::InvalidArgument, op).at(name).because("only a file has bytes")),
    }
}
