//! `ipfs publish`: what is here, given to a Kubo node to keep.
//!
//! The blocks come from whoever owns the data directory, as a CAR, and go to the node as they come.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use muxfs::{Cid, QfsPath, Result};
use muxfs_ipfs::Kubo;
use serde_json::json;

use super::car::{Export, Piece};
use crate::{
    args::{CarScope, IpfsPublish},
    config::Config,
    instance::random_u128,
    namespace::Namespace,
    opened::InUse,
    output::{self, Output, count},
    sources,
};

/// So many pieces of the CAR wait for the node: it takes them one after the other.
const PIECE_COUNT: usize = 8;

/// Sends what a path leads to and pins it; the path that everybody reads it by is the result.
pub(crate) async fn publish(namespace: &dyn Namespace, node: &Kubo, args: &IpfsPublish, output: Output) -> Result<()> {
    let path = match args.path.to_str().and_then(|text| text.parse::<Cid>().ok()) {
        Some(cid) => QfsPath::content(namespace.default_write().await?, &cid),
        None => super::path(&args.path)?,
    };
    let root = super::root_of(namespace, &path, "ipfs.publish").await?;
    let was_pinned = node.is_pinned(&root).await?;
    let sent = AtomicU64::new(0);
    let mut block_count = 0;
    if was_pinned && !args.again {
        output.notice(&format!("{} keeps it already: nothing was sent", node.url()));
    } else {
        block_count = send(namespace, node, (&path, &root), &sent, output).await?;
        let (blocks, len) = (count(block_count), output::bytes(sent.load(Ordering::Relaxed)));
        output.notice(&format!("{} took {blocks} blocks, a CAR of {len}", node.url()));
    }
    if !was_pinned || args.name.is_some() {
        let progress = output.progress(None);
        node.pin(&root, args.name.as_deref(), |blocks| progress.say(format!("pinning, {} blocks", count(blocks))))
            .await?;
        drop(progress);
        output.notice(&format!("{} keeps it from now on", node.url()));
    }
    let public = format!("/ipfs/{root}");
    let value = json!({
        "cid": root.to_string(), "path": public, "node": node.url().to_string(), "was_pinned": was_pinned,
        "blocks": block_count, "bytes": sent.load(Ordering::Relaxed),
    });
    output.result(public.as_bytes(), &value)
}

/// Sends all blocks; how many the node took.
async fn send(
    namespace: &dyn Namespace,
    node: &Kubo,
    (path, root): (&QfsPath, &Cid),
    sent: &AtomicU64,
    output: Output,
) -> Result<u64> {
    let options = Export { scope: CarScope::All, bytes: None, duplicates: false, partial: false };
    let mut pieces = namespace.car_export(path.prefix, root, &options);
    // The first before anybody is asked: what is not here at all is not begun.
    let first = pieces.try_next().await?;
    let progress = output.progress(None);
    let (into, out) = tokio::sync::mpsc::channel(PIECE_COUNT);
    let feed = async {
        let (into, mut next) = (into, Ok(first));
        while let Some(piece) = next.transpose() {
            let piece = piece.map(|piece| match piece {
                Piece::Bytes(bytes) => bytes,
                // Nothing is left out where nobody asked for that.
                Piece::Absent(_) => Bytes::new(),
            });
            let len = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            sent.fetch_add(len, Ordering::Relaxed);
            progress.add_bytes(len);
            let is_last = piece.is_err();
            // The node may have ended it, and says why.
            if into.send(piece).await.is_err() || is_last {
                return;
            }
            next = pieces.try_next().await;
        }
    };
    let car = futures_util::stream::unfold(out, |mut out| async move { Some((out.recv().await?, out)) });
    let import = node.import(car.boxed(), random_u128());
    let (imported, ()) = futures_util::join!(import, feed);
    imported.map(|imported| imported.block_count)
}

/// Carries out `ipfs publish`, with what whoever owns the data directory has.
pub(crate) async fn run_publish(config: Config, in_use: &InUse, args: &IpfsPublish, output: Output) -> Result<()> {
    let node = sources::publish_node(&config.ipfs, args.to.as_ref())?;
    let served = in_use.open(config).await?;
    let done = publish(&*served, &node, args, output).await;
    served.close().await?;
    done
}
