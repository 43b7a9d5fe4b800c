//! `cat` and `has`.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use muxfs::{QfsPath, Result, SecretKey, seal};
use serde_json::json;

use crate::{
    namespace::Namespace,
    output::{self, Output},
};

/// The bytes of a file, unsealed where there is a key.
pub(super) fn pieces<'a>(
    namespace: &'a dyn Namespace,
    path: &'a QfsPath,
    key: Option<&SecretKey>,
) -> BoxStream<'a, Result<Bytes>> {
    let pieces = namespace.read(path);
    match key {
        Some(key) => seal::unseal(key, pieces).map_err(move |error| error.at(path)).boxed(),
        None => pieces,
    }
}

/// Prints the bytes of files, one after the other.
pub(crate) async fn cat(namespace: &dyn Namespace, paths: &[QfsPath], key: Option<&SecretKey>) -> Result<()> {
    for path in paths {
        let mut pieces = pieces(namespace, path, key);
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
