//! `pin ls|add|rm`: the roots to keep.

use futures_util::TryStreamExt as _;
use muxfs::{Error, ErrorKind, Prefix, QfsPath, Result};
use serde_json::json;

use crate::{
    namespace::{Finding, Namespace},
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
    let cid = super::root_of(namespace, path, "pin").await?;
    // What is found whole is still so when it is pinned.
    let _hold = namespace.hold(path.prefix, Some(&cid)).await?;
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
    let cid = super::root_of(namespace, path, "pin").await?;
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
