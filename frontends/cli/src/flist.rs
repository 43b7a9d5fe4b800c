//! What a configuration says of flists, as `/flist` takes it: who is asked for chunks, behind a cache on disk.

use std::{path::Path, sync::Arc};

use muxfs::{BlockStore, Env, Result, block::Segments};
use muxfs_flist::{Chunks, ChunksOptions, Signers, SourceUrl};

use crate::{bucket::credentials_of_environment, config::FlistMount, sources::near};

/// The same addresses; those of buckets that leave open who asks are asked with the key that the environment has, if any.
pub(crate) fn with_key<'a>(urls: impl IntoIterator<Item = &'a SourceUrl>) -> Vec<SourceUrl> {
    let key = credentials_of_environment();
    let with_key = |url: &SourceUrl| match &key {
        Some(key) => url.clone().with_key(key),
        None => url.clone(),
    };
    urls.into_iter().map(with_key).collect()
}

/// Who gives the chunks of a mount, and what is kept of them below `data`. Nobody is asked. Where the cache cannot be
/// opened, that is told, and nothing is kept.
pub(crate) async fn chunks(data: &Path, mount: &FlistMount, env: &Env) -> Result<(Arc<Chunks>, Option<Arc<Segments>>)> {
    let dir = data.join("cache/flist").join(mount.prefix.0.as_str());
    let sources = with_key(mount.sources.iter().map(|source| &source.0));
    let options = ChunksOptions { sources, follow: mount.follow, kept: None };
    if mount.cache.0 > 0 {
        let opened = async {
            let kept = near(&dir, mount.cache.0, env).await?;
            let store = Some((kept.clone() as Arc<dyn BlockStore>, mount.cache.0));
            Chunks::open(ChunksOptions { kept: store, ..options.clone() }).await.map(|chunks| (chunks, kept))
        };
        match opened.await {
            Ok((chunks, kept)) => return Ok((Arc::new(chunks), Some(kept))),
            // It holds nothing that its sources have not.
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "chunks of flists are not kept: with no server running, the directory can be removed"
            ),
        }
    }
    Ok((Arc::new(Chunks::open(options).await?), None))
}

/// Whose signature the flists of a mount have to have, if any.
pub(crate) fn signers(mount: &FlistMount) -> Result<Option<Signers>> {
    let names: Vec<_> = mount.signers.iter().map(|signer| signer.0.clone()).collect();
    if names.is_empty() { Ok(None) } else { Signers::new(names).map(Some) }
}
