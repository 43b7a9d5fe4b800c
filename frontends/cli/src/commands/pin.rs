//! `pin ls|add|rm`: the roots to keep.

use futures_util::TryStreamExt as _;
use muxfs::{Cid, Error, ErrorKind, Prefix, QfsPath, Result};
use serde_json::json;

use crate::{
    namespace::{Finding, Namespace, Place},
    output::Output,
};

/// Lists pins as paths.
pub(crate) async fn ls(namespace: &dyn Namespace, mount: Option<Prefix>, output: Output) -> Result<()> {
    for (mount, cid) in namespace.pins(mount).await? {
        let path = format!("/{mount}/{cid}");
        output.result(path.as_bytes(), &json!({ "path": path, "cid": cid.to_string() }))?;
    }
    Ok(())
}

/// Pins what a path leads to, once all below it was found here and whole.
pub(crate) async fn add(namespace: &dyn Namespace, path: &QfsPath, output: Output) -> Result<()> {
    let cid = root(namespace, path).await?;
    let mut findings = namespace.verify(path);
    while let Some(finding) = findings.try_next().await? {
        if let Finding::Bad { cid, error } = finding {
            return Err(Error::new(ErrorKind::NotFound, "pin.add")
                .at(path)
                .because(format!("not all of it is here and whole: {cid}: {error}")));
        }
    }
    let new = namespace.pin(path.prefix, &cid).await?;
    let pinned = format!("/{}/{cid}", path.prefix);
    if !new {
        output.notice("it was pinned before");
    }
    output.result(pinned.as_bytes(), &json!({ "path": pinned, "new": new }))
}

/// Unpins what a path leads to.
pub(crate) async fn rm(namespace: &dyn Namespace, path: &QfsPath, output: Output) -> Result<()> {
    let cid = root(namespace, path).await?;
    if !namespace.unpin(path.prefix, &cid).await? {
        return Err(Error::new(ErrorKind::NotFound, "pin.rm").at(path).because("it is not pinned"));
    }
    let unpinned = format!("/{}/{cid}", path.prefix);
    if output.json {
        return output.result(b"", &json!({ "removed": unpinned }));
    }
    output.notice(&format!("unpinned {unpinned}"));
    Ok(())
}

/// The CID that a path leads to: the one it names, where that is all it names.
async fn root(namespace: &dyn Namespace, path: &QfsPath) -> Result<Cid> {
    if let (Some(cid), 1) = (path.cid(), path.parts.len()) {
        return Ok(cid);
    }
    let stat = namespace.stat(&Place::Path(path.clone())).await?;
    stat.cid.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "pin")
            .at(path)
            .because("it has no CID: a pin is for content, as /ipfs/<cid>")
    })
}
