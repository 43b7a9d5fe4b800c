//! `gc`: removes what nothing keeps, and gives its room back.

use futures_util::TryStreamExt as _;
use muxfs::{Prefix, Result};

use crate::{
    namespace::{Collected, Collecting, Namespace},
    output::{Output, bytes, count},
};

/// Collects a mount, or every one that can be, and prints a line for each.
pub(crate) async fn gc(namespace: &dyn Namespace, mount: Option<Prefix>, dry_run: bool, output: Output) -> Result<()> {
    let progress = output.progress(None);
    let mut news = namespace.gc(mount, dry_run);
    while let Some(told) = news.try_next().await? {
        match told {
            Collecting::Marking { mount, nodes } => progress.say(format!("/{mount}: {} nodes met", count(nodes))),
            Collecting::Sweeping { mount, blocks_kept, blocks_removed } => {
                let looked_at = count(blocks_kept.saturating_add(blocks_removed));
                progress.say(format!("/{mount}: {looked_at} blocks looked at, {} garbage", count(blocks_removed)));
            }
            Collecting::Compacting { mount } => progress.say(format!("/{mount}: giving the room back")),
            Collecting::Done(collected) => output.result(line(&collected).as_bytes(), &collected)?,
        }
    }
    Ok(())
}

/// What was done, or would be, for people.
fn line(collected: &Collected) -> String {
    let Collected { mount, dry_run, seconds, .. } = collected;
    let (removed, kept) = (count(collected.blocks_removed), count(collected.blocks_kept));
    let (removing, keeping) = if *dry_run { ("would remove", "would keep") } else { ("removed", "kept") };
    let mut parts = vec![format!("/{mount}: {removing} {removed} blocks, {}", bytes(collected.bytes_removed))];
    parts.push(match collected.bytes_kept {
        Some(len) => format!("{keeping} {kept}, {}", bytes(len)),
        None => format!("{keeping} {kept}"),
    });
    if collected.blocks_fresh > 0 {
        parts.push(format!("{} of them because they were just put", count(collected.blocks_fresh)));
    }
    match (collected.disk_before, collected.disk_after) {
        (Some(before), Some(after)) if !dry_run => {
            parts.push(format!("on disk {}, before {}", bytes(after), bytes(before)));
        }
        (Some(before), _) => parts.push(format!("on disk {}", bytes(before))),
        (None, _) => {}
    }
    parts.push(format!("{seconds:.1} s"));
    parts.join("; ")
}
