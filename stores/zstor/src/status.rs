//! What a store says of itself: which nodes are there, what they hold, and how much more may be lost.
//!
//! Said of now: nodes are asked, and not waited for long. What follows from the loss of nodes follows from where shards
//! belong ([`Erasure::loss_of`](muxfs::block::Erasure::loss_of)). Spec: spec/zstor.md #what-it-says-of-itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use muxfs::{
    Error, ErrorKind, Result,
    block::{Erasure, ErasureLoss},
};
use tokio::time::timeout;

use crate::{
    members::Member,
    node::{Node, OpenNode},
    settler::Settling,
    store::Zstor,
};

/// A node is waited for so long by who asks how it does.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// And so long for what is free there.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(100);

/// How a node does.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// What it is lost together with.
    pub group: Option<String>,
    /// Where it is: its directory.
    pub place: String,
    /// Why nothing is read or written there; `None` where all is well.
    pub lost: Option<String>,
    /// What it takes there, in bytes; `None` where it does not tell.
    pub len: Option<u64>,
    /// What is free there, in bytes, which nodes of one disk share; `None` where it does not tell.
    pub free: Option<u64>,
    /// How long it takes to answer; `None` where it does not, or not in time.
    pub answer_time: Option<Duration>,
    /// Whether nothing new is put there, and what it has is put elsewhere.
    pub is_drained: bool,
    /// Of a node that is drained, how many blocks it has shards of still; `None` where it does not tell.
    pub blocks_left: Option<u64>,
    /// Whether it came, or came back, and may lack shards until all is where it belongs.
    pub is_filling: bool,
}

/// How a store does.
#[derive(Debug, Clone)]
pub struct ZstorStatus {
    /// k and m.
    pub counts: (u8, u8),
    /// In the order of the configuration.
    pub nodes: Vec<NodeStatus>,
    /// What it means that those are lost that are.
    pub loss: ErasureLoss,
    /// How many blocks wait to be repaired by themselves.
    pub repairs_waiting: usize,
    /// How many deletions wait for nodes that missed them.
    pub deletions_waiting: usize,
    /// How far it is that everything is where it belongs.
    pub settling: Settling,
}

/// What would be, were some nodes lost.
#[derive(Debug, Clone)]
pub struct ZstorPlan {
    /// The nodes that are taken for lost, in the order of the configuration, and
    pub lose: Vec<String>,
    /// those besides that are lost now.
    pub lost_now: Vec<String>,
    /// What it means that all of these are lost.
    pub loss: ErasureLoss,
}

/// Which nodes are lost, in their order, and why: those that are not there, and those that do not answer.
pub(crate) fn lost(nodes: &[OpenNode], shards: &Erasure) -> Vec<(String, String)> {
    let mut down = shards.node_status();
    let mut why = |name: &str| down.iter_mut().find(|status| status.name == name)?.down.take();
    let lost = nodes.iter().map(|node| (node.name().to_owned(), node.lost().or_else(|| why(node.name()))));
    lost.filter_map(|(name, why)| Some((name, why?))).collect()
}

/// What a node takes, if it tells in time.
async fn len(node: &OpenNode) -> Option<u64> {
    timeout(ANSWER_WAIT_MAX, node.len()).await.ok()?.ok()
}

/// What is free where a node is, if it tells in time.
fn free(node: &OpenNode) -> Option<u64> {
    Arc::clone(&node.store).ask_room();
    node.store.room(Instant::now() + ROOM_WAIT_MAX).map(|room| room.free)
}

impl Zstor {
    /// The nodes by name, each with how long its answers to reads took in the last 30 seconds, if there were any; asks
    /// none of them.
    pub fn answer_times(&self) -> impl Iterator<Item = (String, Option<Duration>)> {
        self.shards.node_status().into_iter().map(|node| (node.name, node.answer_time))
    }

    /// How many blocks wait to be repaired by themselves.
    pub fn repairs_waiting(&self) -> usize {
        self.shards.repairs_waiting()
    }

    /// How many deletions wait for nodes that missed them.
    pub fn deletions_waiting(&self) -> usize {
        self.shards.deletions_waiting()
    }

    /// Tells how the store and each of its nodes do; asks them, and waits two seconds at most for those that do not answer.
    pub async fn status(&self) -> ZstorStatus {
        // Whoever keeps its index in memory looks for its directory then.
        let asked = self.shards.node_status();
        let answers = self.shards.ask_nodes(ANSWER_WAIT_MAX).await;
        let answers: BTreeMap<_, _> = asked.into_iter().map(|status| status.name).zip(answers).collect();
        let members = self.members.all();
        let gone = lost(&self.nodes(), &self.shards);
        let usual = self.shards.node_status();
        let settling = self.settling();
        let mut nodes = Vec::new();
        for Member { node: Node { name, group, is_drained, .. }, open } in members {
            let why = gone.iter().find(|(gone, _)| *gone == name).map(|(_, why)| why.clone());
            let is_there = why.is_none();
            let usual = usual.iter().find(|status| status.name == name).and_then(|status| status.answer_time);
            let answer = answers.get(&name).copied().flatten();
            nodes.push(NodeStatus {
                place: open.place().to_owned(),
                len: if is_there { len(&open).await } else { None },
                free: if is_there { free(&open) } else { None },
                answer_time: usual.or(answer).filter(|_| is_there),
                blocks_left: if is_there && is_drained { self.blocks_left(&name).await } else { None },
                is_filling: settling.filling.contains(&name),
                lost: why,
                name,
                group,
                is_drained,
            });
        }
        let is_lost = |name: &str| nodes.iter().any(|node| node.name == name && node.lost.is_some());
        ZstorStatus {
            counts: self.counts,
            loss: self.shards.loss_of(is_lost),
            repairs_waiting: self.shards.repairs_waiting(),
            deletions_waiting: self.shards.deletions_waiting(),
            settling,
            nodes,
        }
    }

    /// How many blocks a node has shards of, if it tells in time.
    async fn blocks_left(&self, name: &str) -> Option<u64> {
        timeout(ANSWER_WAIT_MAX, self.shards.blocks_on(name)).await.ok()?.ok()
    }

    /// Tells what would be, were these nodes lost, besides those that are. Each is the name of a node, or of a group for
    /// all of its nodes, or several of those between commas.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none, which lists the names.
    pub async fn plan(&self, names: &[String]) -> Result<ZstorPlan> {
        self.shards.ask_nodes(ANSWER_WAIT_MAX).await;
        let mut losing = BTreeSet::new();
        for named in names {
            match self.named(named) {
                // A directory may have a comma in its name.
                Ok(nodes) => losing.extend(nodes),
                Err(_) if named.contains(',') => {
                    for part in named.split(',') {
                        losing.extend(self.named(part.trim())?);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let names: Vec<String> = self.members.all().into_iter().map(|member| member.node.name).collect();
        let gone: BTreeSet<String> = lost(&self.nodes(), &self.shards).into_iter().map(|(name, _)| name).collect();
        let of = |which: &dyn Fn(&String) -> bool| names.iter().filter(|name| which(name)).cloned().collect();
        Ok(ZstorPlan {
            lose: of(&|name| losing.contains(name)),
            lost_now: of(&|name| gone.contains(name) && !losing.contains(name)),
            loss: self.shards.loss_of(|name| losing.contains(name) || gone.contains(name)),
        })
    }

    /// The node of a name, or those of a group.
    fn named(&self, name: &str) -> Result<Vec<String>> {
        let nodes: Vec<Node> = self.members.all().into_iter().map(|member| member.node).collect();
        if nodes.iter().any(|node| node.name == name) {
            return Ok(vec![name.to_owned()]);
        }
        let in_group = nodes.iter().filter(|node| node.group.as_deref() == Some(name));
        let in_group: Vec<String> = in_group.map(|node| node.name.clone()).collect();
        if !in_group.is_empty() {
            return Ok(in_group);
        }
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let groups: BTreeSet<&str> = nodes.iter().filter_map(|node| node.group.as_deref()).collect();
        let mut why = format!("there is no node of that name; the nodes are {}", names.join(", "));
        if !groups.is_empty() {
            let groups: Vec<&str> = groups.into_iter().collect();
            why = format!("{why}, and the groups {}", groups.join(", "));
        }
        Err(Error::new(ErrorKind::InvalidArgument, "zstor.plan").at(name).because(why))
    }
}
