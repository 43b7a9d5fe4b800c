//! `cat` and `has`.

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{ErrorKind, QfsPath, Result, SecretKey, seal};
use serde_json::json;

use crate::{
    namespace::Namespace,
    output::{self, Output},
};

/// The bytes of a file, unsealed where there are keys, with the first that fits.
pub(super) fn pieces<'a>(
    namespace: &'a dyn Namespace,
    path: &'a QfsPath,
    keys: &'a [SecretKey],
) -> BoxStream<'a, Result<Bytes>> {
    let Some((last, others)) = keys.split_last() else { return namespace.read(path) };
    let unsealed = async move {
        for key in others {
            let mut pieces = seal::unseal(key, namespace.read(path)).boxed();
            match pieces.next().await {
                Some(Err(error)) if error.kind() == ErrorKind::BadKey => {}
                first => return stream::iter(first).chain(pieces).boxed(),
            }
        }
        seal::unseal(last, namespace.read(path)).boxed()
    };
    stream::once(unsealed).flatten().map_err(move |error| error.at(path)).boxed()
}

/// Prints the bytes of files, one after the other.
pub(crate) async fn cat(namespace: &dyn Namespace, paths: &[QfsPath], keys: &[SecretKey]) -> Result<()> {
    for path in paths {
        let mut pieces = pieces(namespace, path, keys);
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
