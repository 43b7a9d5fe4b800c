//! `commit`, `log`, `diff`, `snapshot`, `checkout` and `restore`: the commits of a working tree.

use futures_util::TryStreamExt as _;
use muxfs::{Prefix, QfsPath, Result};
use serde_json::json;

use super::list::shown;
use crate::{
    namespace::{Difference, Namespace},
    output::Output,
};

/// Commits what a working tree holds now.
pub(crate) async fn commit(namespace: &dyn Namespace, mount: Prefix, note: &str, output: Output) -> Result<()> {
    let commit = namespace.commit(mount, note).await?.to_string();
    output.result(commit.as_bytes(), &json!({ "commit": commit }))
}

/// Lists the kept commits, newest first; of a path, those that changed it.
pub(crate) async fn log(namespace: &dyn Namespace, path: &QfsPath, output: Output) -> Result<()> {
    for commit in namespace.log(path).await? {
        let note = shown(commit.note.as_bytes());
        let head = format!("{} {}", commit.commit, String::from_utf8_lossy(&shown(commit.names.join(" ").as_bytes())));
        let line = if note.is_empty() { head.into_bytes() } else { [head.as_bytes(), b"  ", &note].concat() };
        output.result(&line, &commit)?;
    }
    Ok(())
}

/// Tells what changed from one commit to another, of a path only what is below it.
pub(crate) async fn diff(
    namespace: &dyn Namespace,
    path: &QfsPath,
    (before, after): (&str, &str),
    output: Output,
) -> Result<()> {
    let mut differences = namespace.diff(path, before, after);
    while let Some(found) = differences.try_next().await? {
        let line = match &found {
            Difference::Added { path } => [b"A ", &shown(path.as_bytes())[..]].concat(),
            Difference::Removed { path } => [b"D ", &shown(path.as_bytes())[..]].concat(),
            Difference::Changed { path } => [b"M ", &shown(path.as_bytes())[..]].concat(),
            Difference::Renamed { from, to } => {
                [b"R ", &shown(from.as_bytes())[..], b" -> ", &shown(to.as_bytes())[..]].concat()
            }
        };
        output.result(&line, &found)?;
    }
    Ok(())
}

/// Commits and names the commit, so that it stays.
pub(crate) async fn snapshot(namespace: &dyn Namespace, mount: Prefix, name: &str, output: Output) -> Result<()> {
    let commit = namespace.snapshot(mount, name).await?.to_string();
    output.notice(&format!("/{mount}/.history/{name}"));
    output.result(commit.as_bytes(), &json!({ "commit": commit, "name": name }))
}

/// Lets a name go.
pub(crate) async fn remove_snapshot(
    namespace: &dyn Namespace,
    mount: Prefix,
    name: &str,
    output: Output,
) -> Result<()> {
    namespace.remove_snapshot(mount, name).await?;
    output.notice(&format!("removed the name {name}; its commit stays for as long as others of its time"));
    if output.json { output.result(b"", &json!({ "removed": name })) } else { Ok(()) }
}

/// Makes the whole tree what a commit says.
pub(crate) async fn checkout(namespace: &dyn Namespace, mount: Prefix, commit: &str, output: Output) -> Result<()> {
    let head = namespace.checkout(mount, commit).await?.to_string();
    output.notice("what stood before was committed first: muxfs log has it");
    output.result(head.as_bytes(), &json!({ "commit": head }))
}

/// Makes a path what it was in a commit, there or elsewhere.
pub(crate) async fn restore(
    namespace: &dyn Namespace,
    commit: &str,
    path: &QfsPath,
    target: &QfsPath,
    output: Output,
) -> Result<()> {
    let count = namespace.restore(commit, path, target).await?;
    output.notice(&format!("restored {count} nodes; what stood before was committed first"));
    output.result(&target.to_bytes(), &json!({ "path": target.to_string(), "nodes": count }))
}
