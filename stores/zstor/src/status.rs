//! What a store says of itself: which nodes are there, what they hold, and how much more may be lost.
//!
//! Said of now: nodes are asked, and not waited for long. What follows from the loss of nodes follows from where shards
//! belong ([`Erasure::loss_of`](muxfs::block::Erasure::loss_of)). Spec: spec/zstor.md #what-it-says-of-itself.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use muxfs::{
    Error, ErrorKind, Result,
    block::{Erasure, ErasureLoss},
};
use tokio::time::timeout;

use crate::{node::OpenNode, store::Zstor};

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
pub(crate) fn lost(nodes: &[OpenNode], shards: &Erasure) -> Vec<(usize, String)> {
    let down = shards.node_status().into_iter().map(|status| status.down);
    let lost = nodes.iter().zip(down).map(|(node, down)| node.lost().or(down));
    lost.enumerate().filter_map(|(node, why)| Some((node, why?))).collect()
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

    /// Tells how the store and each of its nodes do; asks them, and waits two seconds at most for those that do not answer.
    pub async fn status(&self) -> ZstorStatus {
        // Whoever keeps its index in memory looks for its directory then.
        let answers = self.shards.ask_nodes(ANSWER_WAIT_MAX).await;
        let gone = lost(&self.nodes, &self.shards);
        let usual = self.shards.node_status().into_iter().map(|status| status.answer_time);
        let mut nodes = Vec::new();
        for (at, ((node, usual), answer)) in self.nodes.iter().zip(usual).zip(answers).enumerate() {
            let why = gone.iter().find(|(gone, _)| *gone == at).map(|(_, why)| why.clone());
            let is_there = why.is_none();
            nodes.push(NodeStatus {
                name: node.name().to_owned(),
                group: self.groups.get(at).cloned().flatten(),
                place: node.place().to_owned(),
                len: if is_there { len(node).await } else { None },
                free: if is_there { free(node) } else { None },
                answer_time: usual.or(answer).filter(|_| is_there),
                lost: why,
            });
        }
        let is_lost = |name: &str| nodes.iter().any(|node| node.name == name && node.lost.is_some());
        ZstorStatus {
            counts: self.counts,
            loss: self.shards.loss_of(is_lost),
            repairs_waiting: self.shards.repairs_waiting(),
            nodes,
        }
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
        let gone = lost(&self.nodes, &self.shards);
        let name = |node: usize| self.nodes[node].name().to_owned();
        let lost_now = gone.iter().filter(|(node, _)| !losing.contains(node)).map(|(node, _)| name(*node)).collect();
        let is_lost = |at: usize| losing.contains(&at) || gone.iter().any(|(gone, _)| *gone == at);
        let of_name = |name: &str| self.nodes.iter().position(|node| node.name() == name);
        Ok(ZstorPlan {
            lose: losing.iter().copied().map(name).collect(),
            lost_now,
            loss: self.shards.loss_of(|name| of_name(name).is_some_and(is_lost)),
        })
    }

    /// The node of a name, or those of a group.
    fn named(&self, name: &str) -> Result<Vec<usize>> {
        if let Some(node) = self.nodes.iter().position(|node| node.name() == name) {
            return Ok(vec![node]);
        }
        let in_group = self.groups.iter().enumerate().filter(|(_, group)| group.as_deref() == Some(name));
        let in_group: Vec<usize> = in_group.map(|(at, _)| at).collect();
        if !in_group.is_empty() {
            return Ok(in_group);
        }
        let names: Vec<&str> = self.nodes.iter().map(OpenNode::name).collect();
        let groups: BTreeSet<&str> = self.groups.iter().filter_map(Option::as_deref).collect();
        let mut why = format!("there is no node of that name; the nodes are {}", names.join(", "));
        if !groups.is_empty() {
            let groups: Vec<&str> = groups.into_iter().collect();
            why = format!("{why}, and the groups {}", groups.join(", "));
        }
        Err(Error::new(ErrorKind::InvalidArgument, "zstor.plan").at(name).because(why))
    }
}
