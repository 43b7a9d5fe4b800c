//! What a configuration says of overlays: a working tree, and the flist it lies over.

use std::sync::Arc;

use muxfs::{Error, ErrorKind, QfsPath, Result, overlay::Overlay, tree::Tree, vfs::Vfs};

/// A tree over what is at a path of a mount of flists: one that is new is laid over it, when that is there. What it lies over
/// may be gone for a while, which is no reason for others to wait, and for it none not to show what it has.
pub(crate) async fn open(tree: Tree, lower: Option<&Arc<dyn Vfs>>, over: &QfsPath) -> Result<Arc<Overlay>> {
    let lower = lower.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "overlay.open").at(over).because("there is no mount of flists")
    })?;
    let overlay = Overlay::new(tree, lower.clone()).over(over.parts.clone());
    if let Err(error) = overlay.ready().await {
        let error = format!("{error:#}");
        tracing::warn!(over = %over, error, "an overlay cannot be looked into before what it is to lie over is there");
        return Ok(Arc::new(overlay));
    }
    let found = match overlay.base().await? {
        Some(base) => lower.resolve(&base.handle).await.map(|attr| lower.release(attr.ino, 1)),
        None => {
            Err(Error::new(ErrorKind::NotFound, "overlay.open").because("it has files, and never lay over anything"))
        }
    };
    if let Err(error) = found {
        tracing::warn!(
            over = %over,
            error = format!("{error:#}"),
            "what an overlay lies over cannot be found: what was not looked at or changed before cannot be read"
        );
    }
    Ok(Arc::new(overlay))
}
