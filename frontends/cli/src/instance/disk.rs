//! The blocks of a mount on disk, in a bucket, on nodes or in a database: how much they take, and how they end.

use std::sync::Arc;

use muxfs::{
    BlockStore as _, Prefix, Result,
    block::{Segments, SegmentsStats},
    media::Media as _,
};
use muxfs_local::FileMedia;
use muxfs_s3::S3Store;
use muxfs_zstor::{OpenNode, Zstor};
use tokio_util::task::AbortOnDropHandle;

use crate::{database::Database, vault::OpenVault, zstor};

/// The blocks of a mount on disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(super) prefix: Prefix,
    pub(super) kept: Kept,
}

#[derive(Debug)]
pub(super) enum Kept {
    /// As they are.
    Whole {
        segments: Arc<Segments>,
        /// Where the blocks are, and their index.
        media: [Arc<FileMedia>; 2],
    },
    /// In shards on nodes.
    Shards(Box<Zstor>),
    /// In packs in a bucket.
    Packs {
        store: S3Store,
        /// What of it is kept here.
        near: Option<Arc<Segments>>,
        /// Looks for what another machine commits, or whether it takes over.
        _watching: AbortOnDropHandle<()>,
    },
    /// In an SQLite file, or on a Redis server.
    Rows(Database),
    /// In a vault, which is in any store.
    Vault(Box<OpenVault>),
}

impl Disk {
    /// What it takes, in bytes.
    pub(crate) async fn len(&self) -> Result<u64> {
        let mut len = 0;
        match &self.kept {
            Kept::Whole { media, .. } => {
                for media in media {
                    len += media.segments().await?.iter().map(|segment| segment.len).sum::<u64>();
                }
            }
            Kept::Shards(zstor) => len = zstor::len(zstor).await?,
            Kept::Packs { store, .. } => len = store.usage().live_len + store.usage().dead_len,
            Kept::Rows(database) => len = database.len().await?,
            Kept::Vault(vault) => len = vault.len().await?,
        }
        Ok(len)
    }

    /// What holds the blocks: one, or one for each node that is there.
    pub(crate) fn all_segments(&self) -> Vec<Arc<Segments>> {
        match &self.kept {
            Kept::Whole { segments, .. } => vec![segments.clone()],
            Kept::Shards(zstor) => zstor.nodes().iter().filter_map(OpenNode::segments).collect(),
            Kept::Vault(vault) => vault.below().segments(),
            Kept::Packs { .. } | Kept::Rows(_) => Vec::new(),
        }
    }

    /// What all of these hold: of blocks in shards, each shard.
    pub(crate) fn stats(&self) -> SegmentsStats {
        let packs = match &self.kept {
            Kept::Rows(database) => return database.stats(),
            Kept::Vault(vault) => return vault.stats(),
            Kept::Whole { .. } => Vec::new(),
            Kept::Shards(zstor) => zstor.nodes().iter().filter_map(OpenNode::packs).collect(),
            Kept::Packs { store, .. } => vec![store.clone()],
        };
        let of_packs = packs.iter().map(S3Store::usage).map(|usage| SegmentsStats {
            block_count: usage.block_count as u64,
            live_len: usage.live_len,
            dead_len: usage.dead_len,
        });
        let of_segments = self.all_segments().into_iter().map(|segments| segments.stats());
        of_segments.chain(of_packs).fold(SegmentsStats::default(), |all, stats| SegmentsStats {
            block_count: all.block_count + stats.block_count,
            live_len: all.live_len + stats.live_len,
            dead_len: all.dead_len + stats.dead_len,
        })
    }

    /// The store of blocks in shards.
    pub(super) fn zstor(&self) -> Option<&Zstor> {
        match &self.kept {
            Kept::Whole { .. } | Kept::Packs { .. } | Kept::Rows(_) => None,
            Kept::Shards(zstor) => Some(zstor),
            Kept::Vault(vault) => vault.below().nodes(),
        }
    }

    /// The store of blocks that lie on disk as they are.
    pub(super) fn segments(&self) -> Option<&Segments> {
        match &self.kept {
            Kept::Whole { segments, .. } => Some(segments),
            Kept::Shards(_) | Kept::Packs { .. } | Kept::Rows(_) | Kept::Vault(_) => None,
        }
    }

    /// The nodes of blocks in shards; none of others.
    pub(crate) fn nodes(&self) -> Vec<OpenNode> {
        self.zstor().map_or_else(Vec::new, Zstor::nodes)
    }

    /// Gives the room of what is dead back where it is not in segments; how many objects of a bucket went.
    pub(crate) async fn compact_others(&self) -> Result<u64> {
        match &self.kept {
            Kept::Packs { store, .. } => store.compact().await.map(|done| done.objects_deleted),
            Kept::Rows(database) => database.compact().await.map(|()| 0),
            Kept::Vault(vault) => vault.compact().await,
            Kept::Whole { .. } => Ok(0),
            Kept::Shards(zstor) => zstor::compact_packs(zstor).await,
        }
    }

    /// Whether a quarter of it or more is dead.
    pub(crate) fn is_worth_compacting(&self) -> bool {
        let stats = self.stats();
        stats.dead_len >= stats.live_len / 3 && stats.dead_len > 0
    }

    /// Whether another machine may go on where this one ends.
    pub(super) fn is_shared(&self) -> bool {
        match &self.kept {
            Kept::Packs { .. } => true,
            Kept::Vault(vault) => vault.is_lent(),
            Kept::Whole { .. } | Kept::Shards(_) | Kept::Rows(_) => false,
        }
    }

    /// Ends the work with it; of what is shared others are told so only if `is_all_there`: nothing is left here alone.
    pub(super) async fn close(&self, is_all_there: bool) -> Result<()> {
        match &self.kept {
            Kept::Whole { segments, .. } => segments.close().await,
            Kept::Shards(zstor) => zstor.close().await,
            Kept::Rows(database) => database.close().await,
            Kept::Vault(vault) => vault.close(is_all_there).await,
            Kept::Packs { store, near, .. } => {
                let closed = if is_all_there { store.close().await } else { store.flush().await };
                match near {
                    Some(near) => closed.and(near.close().await),
                    None => closed,
                }
            }
        }
    }
}
