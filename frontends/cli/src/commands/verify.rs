//! `verify`: re-hashes everything reachable and names what is missing or wrong, without stopping at the first.

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{Cid, Error, ErrorKind, QfsPath, Result};

use crate::{
    instance::Instance,
    namespace::{Finding, Namespace},
    output::{Output, bytes, count},
};

/// After so many blocks the progress is told.
const PROGRESS_EVERY: u64 = 256;

/// Prints what is wrong, and a summary.
///
/// # Errors
/// `Corrupt` if anything was missing or wrong.
pub(crate) async fn verify(namespace: &dyn Namespace, path: &QfsPath, output: Output) -> Result<()> {
    let progress = output.progress(None);
    let mut findings = namespace.verify(path);
    while let Some(finding) = findings.try_next().await? {
        match &finding {
            Finding::Progress { blocks, bytes } => {
                progress.set_bytes(*bytes);
                progress.say(format!("{} blocks", count(*blocks)));
            }
            Finding::Bad { cid, error } => output.result(format!("bad {cid}: {error}").as_bytes(), &finding)?,
            Finding::Done { blocks, bytes: len, bad } => {
                let (blocks, len) = (count(*blocks), bytes(*len));
                if *bad > 0 {
                    if output.json {
                        output.result(b"", &finding)?;
                    }
                    let why = format!("{} of {blocks} blocks are missing or wrong", count(*bad));
                    return Err(Error::new(ErrorKind::Corrupt, "verify").at(path).because(why));
                }
                return output.result(format!("{blocks} blocks, {len}: all there and whole").as_bytes(), &finding);
            }
        }
    }
    Err(Error::new(ErrorKind::Internal, "verify").at(path).because("the walk ended without a result"))
}

/// The walk itself, by the owner of the blocks.
pub(crate) fn walk<'a>(instance: &'a Instance, path: &'a QfsPath) -> BoxStream<'a, Result<Finding>> {
    let visits = stream::once(roots(instance, path)).map_ok(|(dag, roots)| {
        let walks = stream::iter(roots).flat_map(move |root| dag.walk(&root)).map(Some).chain(stream::iter([None]));
        let counted = walks.scan((0, 0, 0), |(blocks, bytes, bad), visit| {
            let findings = match visit {
                None => vec![Finding::Done { blocks: *blocks, bytes: *bytes, bad: *bad }],
                Some(visit) => {
                    let mut findings = Vec::new();
                    *bytes += visit.len.unwrap_or(0);
                    *blocks += 1;
                    if let Some(error) = visit.error {
                        *bad += 1;
                        findings.push(Finding::Bad { cid: visit.cid.to_string(), error: format!("{error:#}") });
                    }
                    if blocks.is_multiple_of(PROGRESS_EVERY) {
                        findings.push(Finding::Progress { blocks: *blocks, bytes: *bytes });
                    }
                    findings
                }
            };
            std::future::ready(Some(stream::iter(findings.into_iter().map(Ok))))
        });
        counted.flatten()
    });
    visits.try_flatten().boxed()
}

/// Where the walks begin: at what the path leads to, or at every pin of the mount it names.
async fn roots<'a>(instance: &'a Instance, path: &QfsPath) -> Result<(&'a muxfs::dag::Dag, Vec<Cid>)> {
    let cas = instance.by_content(path.prefix)?;
    if path.parts.is_empty() {
        return Ok((cas.dag(), cas.pins().list().try_collect().await?));
    }
    Ok((cas.dag(), vec![super::root_of(instance, path, "verify").await?]))
}
