//! Nothing is deleted where it is not known what is kept.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture, stream::BoxStream};

use super::{BlockKey, BlockStore, Expected, Given, OpenBlock, Subtree};
use crate::{Cid, Error, ErrorKind, Result};

/// Why nothing may be deleted now, if so.
type MayDelete = dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync;

/// A [`BlockStore`] over another that asks before each deletion whether it may be, and refuses it where it may not. All else is as below.
///
/// ```
/// use std::sync::Arc;
/// use muxfs::{BlockKey, BlockStore as _, ErrorKind, block::{Keeping, Mem}};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let file = std::env::temp_dir().join("muxfs-doc-pins-lost-which-is-absent");
/// let (store, key) = (Keeping::while_there(Arc::new(Mem::default()), file), BlockKey::new(b"key")?);
/// store.put(&key, "block".into()).await?;
/// store.delete(&key).await?;
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
pub struct Keeping {
    inner: Arc<dyn BlockStore>,
    may_delete: Box<MayDelete>,
}

impl Keeping {
    /// Asks `may_delete` before each deletion; its error is that of the deletion.
    pub fn new(
        inner: Arc<dyn BlockStore>,
        may_delete: impl Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, may_delete: Box::new(may_delete) }
    }

    /// Refuses deletions (`Denied`) for as long as there is a file on the host, which says that the pins of another machine are lost:
    /// what only they kept would be collected as garbage. Where that cannot be found out, too.
    pub fn while_there(inner: Arc<dyn BlockStore>, pins_lost: PathBuf) -> Self {
        Self::new(inner, move || std::future::ready(check_pins(&pins_lost)).boxed())
    }
}

/// Refuses where there is the file that says that pins are lost.
///
/// # Errors
/// `Denied`.
pub fn check_pins(pins_lost: &Path) -> Result<()> {
    if matches!(pins_lost.try_exists(), Ok(false)) {
        return Ok(());
    }
    let why = format!(
        "another machine wrote here before, whose pins are not known, and what only they kept would go: pin what is to stay \
         (muxfs pin add), and remove the file {}",
        pins_lost.display()
    );
    Err(Error::new(ErrorKind::Denied, "block.delete").because(why))
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockStore for Keeping {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }
    async fn get_opened(&self, key: &BlockKey, open: OpenBlock<'_>) -> Result<Option<Result<Bytes>>> {
        self.inner.get_opened(key, open).await
    }
    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        self.inner.get_checked(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        (self.may_delete)().await?;
        self.inner.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.block_len(key).await
    }
    fn expect(&self, expected: &Expected<'_>) {
        self.inner.expect(expected);
    }
    fn subtree<'a>(&'a self, root: &Cid) -> Option<Subtree<'a>> {
        self.inner.subtree(root)
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Mem;

    crate::block_store_laws!(alone, async {
        Keeping::new(Arc::new(Mem::default()), || std::future::ready(Ok(())).boxed())
    });

    #[tokio::test]
    async fn nothing_is_deleted_while_the_file_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pins-lost");
        let (mem, key) = (Arc::new(Mem::default()), BlockKey::new(b"key").expect("a key"));
        let store = Keeping::while_there(mem.clone(), file.clone());
        store.put(&key, "block".into()).await.expect("put");
        std::fs::write(&file, "").expect("written");
        let error = store.delete(&key).await.expect_err("the pins are lost");
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(format!("{error:#}").contains("pins-lost"), "{error:#}");
        assert!(mem.has(&key).await.expect("has"));
        std::fs::remove_file(&file).expect("removed");
        store.delete(&key).await.expect("it may be");
        assert!(!mem.has(&key).await.expect("has"));
    }
}
