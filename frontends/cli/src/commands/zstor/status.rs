//! `zstor status`: a table of the nodes, and below it what it all means.

use muxfs::{Prefix, Result};
use muxfs_zstor::{NamedBlock, ScrubTotals, Zstor};
use serde::{Deserialize, Serialize};

use super::{
    look::Looker,
    plan::{of_blocks, part},
};
use crate::output::{Output, ago, bytes, count};

/// So many blocks that a scrub left weak or unhealed are named to people.
const NAMED_MAX: usize = 5;

/// How a store does, as the control protocol and `--json` tell it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) mount: String,
    /// Whether a server told it.
    pub(crate) served: bool,
    /// k and m.
    pub(crate) data: u8,
    pub(crate) parity: u8,
    pub(crate) nodes: Vec<Node>,
    /// Which part of all blocks, 0 to 1; between those about so many.
    pub(crate) readable: f64,
    pub(crate) writable: f64,
    /// So many nodes more may be lost, whichever they are; absent where not everything can be read as it is.
    pub(crate) spare: Option<usize>,
    /// Blocks that are repaired as soon as can be.
    pub(crate) repairs_waiting: usize,
    /// Deletions that nodes missed, each counted for each node.
    pub(crate) deletions_waiting: usize,
    pub(crate) settling: Settling,
    /// Another key that is being taken; absent where none is.
    pub(crate) key_rotation: Option<KeyRotation>,
    /// What is in the journal of this machine and in no commit on the nodes, at most, in bytes.
    pub(crate) uncommitted_bytes: u64,
    pub(crate) scrub: Scrubbed,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) group: Option<String>,
    pub(crate) place: String,
    /// Why it is lost; absent where it is up.
    pub(crate) lost: Option<String>,
    /// What it takes, and what is free where it is, in bytes.
    pub(crate) bytes: Option<u64>,
    pub(crate) free: Option<u64>,
    pub(crate) answer_seconds: Option<f64>,
    /// Whether nothing new is put there, and how many blocks it has shards of still.
    pub(crate) drained: bool,
    pub(crate) blocks_left: Option<u64>,
    /// Whether it came, or came back, and may lack shards.
    pub(crate) filling: bool,
}

/// How far it is that every shard is where it belongs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settling {
    pub(crate) settled: bool,
    /// Whether it is being looked at, or moved, now, and which part of all keys was, 0 to 1.
    pub(crate) running: bool,
    pub(crate) coverage: f64,
    /// How many blocks this server has moved.
    pub(crate) moved: u64,
    /// What keeps it; absent where nothing does.
    pub(crate) left: Option<String>,
}

/// How far it is that everything is under the newest key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyRotation {
    /// Which part of the blocks that this server found under older keys is done, 0 to 1.
    pub(crate) coverage: f64,
    pub(crate) moved: u64,
    /// About how many are left; absent where they were not counted.
    pub(crate) remaining: Option<u64>,
    /// What keeps it; absent where nothing does.
    pub(crate) left: Option<String>,
}

/// What is known of scrubs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scrubbed {
    /// Whether somebody scrubs at this moment.
    pub(crate) running: bool,
    /// Whether blocks may lack what nobody noted, so that a pass is due when all nodes are there.
    pub(crate) due: bool,
    /// Each block that was there then, in seconds since 1970, was read since; absent where no pass came to its end.
    pub(crate) covered_since: Option<u64>,
    /// The pass that has not come to its end, and the last that has.
    pub(crate) current: Option<Totals>,
    pub(crate) last: Option<Totals>,
}

/// What a pass found so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// In seconds since 1970.
    pub(crate) began: u64,
    pub(crate) ended: Option<u64>,
    /// Which part of all blocks is done, 0 to 1.
    pub(crate) coverage: f64,
    pub(crate) blocks: u64,
    pub(crate) shards: u64,
    pub(crate) bytes: u64,
    pub(crate) bad: u64,
    pub(crate) missing: u64,
    pub(crate) healed: u64,
    pub(crate) removed: u64,
    pub(crate) weak: u64,
    pub(crate) unhealed: u64,
    /// The first of the blocks that are weak or unhealed.
    pub(crate) named: Vec<Named>,
}

/// A block that a pass left weak, and readable, or unhealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) block: String,
    pub(crate) why: String,
    pub(crate) readable: bool,
}

impl From<&ScrubTotals> for Totals {
    fn from(totals: &ScrubTotals) -> Self {
        Self {
            began: totals.began,
            ended: totals.ended,
            coverage: totals.coverage,
            blocks: totals.blocks,
            shards: totals.shards,
            bytes: totals.bytes,
            bad: totals.bad,
            missing: totals.missing,
            healed: totals.healed,
            removed: totals.removed,
            weak: totals.weak,
            unhealed: totals.unhealed,
            named: totals.named.iter().map(Named::from).collect(),
        }
    }
}

impl From<&NamedBlock> for Named {
    fn from(named: &NamedBlock) -> Self {
        Self { block: named.block.clone(), why: named.why.clone(), readable: named.readable }
    }
}

/// What a store does not know itself.
pub(super) struct Beside {
    pub(super) served: bool,
    pub(super) uncommitted_bytes: u64,
}

impl Status {
    pub(super) async fn of(prefix: Prefix, store: &Zstor, beside: Beside) -> Self {
        let (status, scrub) = (store.status().await, store.scrubber().state());
        let node = |node: muxfs_zstor::NodeStatus| Node {
            name: node.name,
            group: node.group,
            place: node.place,
            lost: node.lost,
            bytes: node.len,
            free: node.free,
            answer_seconds: node.answer_time.map(|time| time.as_secs_f64()),
            drained: node.is_drained,
            blocks_left: node.blocks_left,
            filling: node.is_filling,
        };
        let rotation = store.rotation().borrow().clone();
        let coverage = rotation.coverage();
        let muxfs_zstor::Rotation { is_under_way, moved, remaining, left, .. } = rotation;
        let key_rotation = is_under_way.then_some(KeyRotation { coverage, moved, remaining, left });
        let muxfs_zstor::Settling { is_settled, is_running, coverage, moved, left, .. } = status.settling;
        Self {
            mount: prefix.to_string(),
            served: beside.served,
            data: status.counts.0,
            parity: status.counts.1,
            nodes: status.nodes.into_iter().map(node).collect(),
            readable: part(status.loss.readable),
            writable: part(status.loss.writable),
            spare: status.loss.spare,
            repairs_waiting: status.repairs_waiting,
            deletions_waiting: status.deletions_waiting,
            settling: Settling { settled: is_settled, running: is_running, coverage, moved, left },
            key_rotation,
            uncommitted_bytes: beside.uncommitted_bytes,
            scrub: Scrubbed {
                running: store.scrubber().is_running(),
                due: scrub.is_due,
                covered_since: scrub.last.as_ref().map(|last| last.began),
                current: scrub.current.as_ref().map(Totals::from),
                last: scrub.last.as_ref().map(Totals::from),
            },
        }
    }
}

/// Prints how stores do.
pub(crate) async fn status(looker: &Looker, mount: Option<Prefix>, output: Output) -> Result<()> {
    for status in looker.status(mount).await? {
        output.result(text(&status).as_bytes(), &status)?;
    }
    Ok(())
}

fn text(status: &Status) -> String {
    let Status { mount, data, parity, nodes, .. } = status;
    let mut lines = vec![format!("/{mount}: {data} + {parity} shards of each block on {} nodes", nodes.len())];
    lines.push(String::new());
    lines.extend(table(nodes));
    lines.push(String::new());
    let mut say = |what: &str, how: String| lines.push(format!("{what:16}{how}"));
    say("readable", of_blocks(status.readable));
    say("writable", of_blocks(status.writable));
    let lost = nodes.iter().filter(|node| node.lost.is_some()).count();
    say(
        "may be lost",
        match status.spare {
            None => format!("{lost} nodes are lost, and {parity} may be: bring some back"),
            Some(0) => format!("no more node: {lost} are lost"),
            Some(spare) => format!("{spare} more, whichever they are, of blocks at full strength"),
        },
    );
    say("to be repaired", format!("{} blocks", count(status.repairs_waiting as u64)));
    let at_most = if status.served { "" } else { "at most " };
    if status.deletions_waiting > 0 {
        say("to be deleted", format!("{} shards, on nodes that missed it", count(status.deletions_waiting as u64)));
    }
    settling(&status.settling, &mut say);
    rotation(status, &mut say);
    say("not on nodes", format!("{at_most}{}, in the sealed journal on this machine", bytes(status.uncommitted_bytes)));
    scrub(&status.scrub, &mut say);
    lines.join("\n")
}

/// The nodes, a line for each, and why one is lost below it.
fn table(nodes: &[Node]) -> Vec<String> {
    let unknown = || "-".to_owned();
    let rows = nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.group.clone().unwrap_or_else(unknown),
            state(node),
            node.bytes.map_or_else(unknown, bytes),
            node.free.map_or_else(unknown, bytes),
            node.answer_seconds.map_or_else(unknown, |seconds| format!("{:.2} ms", seconds * 1000.0)),
            node.place.clone(),
        ]
    });
    let head = ["NODE", "GROUP", "STATE", "HOLDS", "FREE", "ANSWERS IN", "PLACE"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
            // Numbers end, all else begins, in one column.
            3..6 => format!("{cell:>width$}"),
            6 => cell.clone(),
            _ => format!("{cell:width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    let whys = std::iter::once(None).chain(nodes.iter().map(|node| node.lost.as_ref()));
    let lines = rows.iter().zip(whys).flat_map(|(row, why)| [Some(line(row)), why.map(|why| format!("    {why}"))]);
    lines.flatten().collect()
}

fn state(node: &Node) -> String {
    match (&node.lost, node.drained, node.blocks_left) {
        (Some(_), ..) => "LOST".into(),
        (None, true, Some(0)) => "empty: may be removed".into(),
        (None, true, Some(left)) => format!("drained, {} blocks left", count(left)),
        (None, true, None) => "drained".into(),
        (None, false, _) if node.filling => "up, being filled".into(),
        (None, false, _) => "up".into(),
    }
}

fn settling(settling: &Settling, say: &mut impl FnMut(&str, String)) {
    let Settling { settled, running, coverage, moved, left } = settling;
    if *settled {
        return;
    }
    let how = match (running, left) {
        (true, _) => format!("under way at {:.0} %, {} blocks moved", coverage * 100.0, count(*moved)),
        (false, Some(why)) => format!("waits: {why}"),
        (false, None) => "when a server runs".into(),
    };
    say("to be moved", how);
}

fn rotation(status: &Status, say: &mut impl FnMut(&str, String)) {
    let Some(KeyRotation { coverage, moved, remaining, left }) = &status.key_rotation else { return };
    let how = match (left, remaining) {
        (Some(why), _) => format!("waits: {why}"),
        (None, _) if !status.served => "goes on when a server runs".into(),
        (None, None) => "under way".into(),
        (None, Some(remaining)) => {
            let (part, moved, remaining) = (coverage * 100.0, count(*moved), count(*remaining));
            format!("under way at {part:.0} %: {moved} blocks are under the newest key, about {remaining} are left")
        }
    };
    say("another key", how);
}

fn scrub(scrub: &Scrubbed, say: &mut impl FnMut(&str, String)) {
    if let Some(pass) = &scrub.current {
        let way = if scrub.running { "under way" } else { "interrupted" };
        let done = format!("{way} at {:.0} %, begun {}", pass.coverage * 100.0, ago(pass.began));
        say("scrub", format!("{done}: {}", found(pass)));
        left(pass, say);
    }
    if let Some(pass) = &scrub.last {
        let ended = pass.ended.map_or_else(String::new, |ended| format!(", ended {}", ago(ended)));
        say("last scrub", format!("begun {}{ended}: {}", ago(pass.began), found(pass)));
        left(pass, say);
    }
    let covered = scrub.covered_since.map(|since| format!("every shard that was there {} was read since", ago(since)));
    say("covered", covered.unwrap_or_else(|| "not yet: no scrub has come to its end".into()));
    if scrub.due {
        say("due", "blocks may lack shards that nobody noted: a scrub of all nodes finds them".into());
    }
}

/// What a pass read and found.
pub(super) fn found(pass: &Totals) -> String {
    let Totals { bad, missing, healed, weak, unhealed, .. } = pass;
    let read = format!("{} blocks, {} read", count(pass.blocks), bytes(pass.bytes));
    if [bad, missing, weak, unhealed] == [&0; 4] {
        return format!("{read}, all at full strength");
    }
    let mut found =
        format!("{read}, {} bad and {} missing shards, {} written", count(*bad), count(*missing), count(*healed));
    if *weak > 0 {
        found = format!("{found}; {} blocks left weak", count(*weak));
    }
    if *unhealed > 0 {
        found = format!("{found}; {} blocks could not be healed", count(*unhealed));
    }
    found
}

fn left(pass: &Totals, say: &mut impl FnMut(&str, String)) {
    for named in pass.named.iter().take(NAMED_MAX) {
        let how = if named.readable { "weak" } else { "NOT HEALED" };
        say("", format!("{how} {}: {}", named.block, named.why));
    }
    let more = (pass.weak + pass.unhealed).saturating_sub(pass.named.len().min(NAMED_MAX) as u64);
    if more > 0 {
        say("", format!("and {} more", count(more)));
    }
}
