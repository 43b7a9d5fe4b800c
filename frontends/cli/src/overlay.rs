//! What a configuration says of overlays: a working tree, and the flist it lies over.

use std::sync::Arc;

use muxfs::{
    Error, ErrorKind, QfsPath, Result,
    overlay::Overlay,
    tree::Tree,
    vfs::{Vfs, ext::walk},
};

/// A tree over what is at a path of a mount of flists. One that is new is laid over it; one that was is not asked for it:
/// what it lies over may be gone for a while.
pub(crate) async fn open(tree: Tree, lower: Option<&Arc<dyn Vfs>>, over: &QfsPath) -> Result<Arc<Overlay>> {
    let lower = lower.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "overlay.open").at(over).because("there is no mount of flists")
    })?;
    let overlay = Overlay::new(tree, lower.clone());
    match overlay.base().await? {
        None => {
            let (top, _) = walk(lower, lower.root(), &over.parts).await.map_err(|error| error.at(over))?;
            overlay.begin(top.ino()).await.map_err(|error| error.at(over))?;
        }
        Some(base) => match lower.resolve(&base.handle).await {
            Ok(attr) => lower.release(attr.ino, 1),
            Err(error) => tracing::warn!(
                over = %over,
                error = format!("{error:#}"),
                "what an overlay lies over cannot be found: what was not looked at or changed before cannot be read"
            ),
        },
    }
    Ok(Arc::new(overlay))
}
