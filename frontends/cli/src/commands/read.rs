//! `cat` and `has`.

use futures_util::TryStreamExt as _;
use muxfs::{QfsPath, Result};
use serde_json::json;

use crate::{
    namespace::Namespace,
    output::{self, Output},
};

/// Prints the bytes of files, one after the other.
pub(crate) async fn cat(namespace: &dyn Namespace, paths: &[QfsPath]) -> Result<()> {
    for path in paths {
        let mut pieces = namespace.read(path);
        while let Some(piece) = pieces.try_next().await? {
            output::raw(&piece)?;
            // Where nothing is waited for, this is where the command can be interrupted.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Says whether a path is there.
pub(crate) async fn has(namespace: &dyn Namespace, path: &QfsPath, output: Output) -> Result<bool> {
    let has = namespace.has(path).await?;
    let plain: &[u8] = if has { b"yes" } else { b"no" };
    output.result(plain, &json!({ "has": has }))?;
    Ok(has)
}
