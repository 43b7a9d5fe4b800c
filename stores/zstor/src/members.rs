//! Which nodes a store has, and changing that while it is open.
//!
//! The configuration is the one list of nodes; here is what follows when it says others than before. All is looked at
//! before anything is changed: a place that cannot be a node, or a node that would take blocks with it, leaves everything
//! as it is. Spec: spec/zstor.md #nodes-that-come-and-go, spec/adr/0021.

use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{StreamExt as _, future::join_all};
use muxfs::{
    BlockStore as _, Error, ErrorKind, Result,
    block::{Erasure, ErasureNode, Nowhere},
};

use crate::{
    node::{Look, Node, OpenNode, Place, check_places, one_place},
    store::{Zstor, in_group, new_store},
};

const OP: &str = "zstor.set_nodes";

/// A node, as the configuration names it, and open.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) open: OpenNode,
}

impl Member {
    pub(crate) fn name(&self) -> &str {
        &self.node.name
    }

    fn in_shards(&self) -> ErasureNode {
        in_group(&self.node, self.open.store.clone())
    }
}

/// Those that there are, in the order of the configuration at the start, and then in which they came.
#[derive(Debug)]
pub(crate) struct Members(RwLock<Vec<Member>>);

impl Members {
    pub(crate) fn new(nodes: &[Node], open: Vec<OpenNode>) -> Arc<Self> {
        let members = nodes.iter().cloned().zip(open).map(|(node, open)| Member { node, open });
        Arc::new(Self(RwLock::new(members.collect())))
    }

    pub(crate) fn all(&self) -> Vec<Member> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn open(&self) -> Vec<OpenNode> {
        self.all().into_iter().map(|member| member.open).collect()
    }

    fn set(&self, members: Vec<Member>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members;
    }
}

impl Zstor {
    /// Changes which nodes there are, while blocks are read and written: those that are not named by now come, those that are
    /// not named any more go, and of the others it changes their groups, whether they are drained, and their passwords, which new
    /// connections use. Told apart by name.
    /// What is not where it belongs then is moved in the background.
    ///
    /// Only a node goes that is drained and has nothing left, or that is lost: what that had is made anew from parity. Only
    /// a directory comes that somebody marked, by an empty file `muxfs-node`, or a namespace; either without shards.
    ///
    /// # Errors
    /// With nothing changed: `NotEmpty` where a node that is there has blocks and is not named; `InvalidArgument` where shards
    /// cannot be placed so, a node is named at another place, or two nodes are one place; `Unavailable` where what comes cannot
    /// be opened, with the reason, or too few nodes take the heads.
    pub async fn set_nodes(&self, nodes: &[Node]) -> Result<()> {
        let _turn = self.changing.lock().await;
        check_places(nodes)?;
        let before = self.members.all();
        let named = |member: &Member| nodes.iter().find(|node| node.name == member.name());
        let (mut after, mut gone) = (Vec::new(), Vec::new());
        for member in &before {
            let Some(node) = named(member) else {
                gone.push(member.clone());
                continue;
            };
            if !node.place.is(&member.node.place) {
                let why = format!(
                    "the node {:?} is at {}, and is moved by a restart alone: stop, move what it has, start",
                    node.name, member.node.place
                );
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(&node.place).because(why));
            }
            after.push(Member { node: node.clone(), open: member.open.clone() });
        }
        for member in &gone {
            self.may_go(member).await?;
        }
        let new = nodes.iter().filter(|node| before.iter().all(|member| member.name() != node.name));
        let new: Vec<Node> = new.cloned().collect();
        // Refused before a place is marked.
        let layout = after.iter().map(|member| &member.node).chain(&new);
        Erasure::new(layout.map(|node| in_group(node, Arc::new(Nowhere))), self.erasure)?;
        let is_dir = |node: &Node| node.place.dir().is_some();
        if before.iter().all(|member| is_dir(&member.node)) && !new.iter().all(is_dir) {
            // Whose heads are then kept in another way.
            let why = "the first namespace of a store on directories comes by a restart alone";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        }
        let mut came = Vec::new();
        for node in new {
            match self.take(&node, after.iter().chain(&gone).chain(&came)).await {
                Ok(member) => came.push(member),
                Err(error) => {
                    close(&came).await;
                    return Err(error.at(&node.place));
                }
            }
        }
        after.extend(came.iter().cloned());
        let holders = |members: &[Member]| {
            let holders = members.iter().map(|member| (member.node.name.clone(), member.open.store.clone() as _));
            holders.collect::<Vec<_>>()
        };
        if let Err(error) = self.heads.set_holders(holders(&after)).await {
            close(&came).await;
            return Err(error);
        }
        if let Err(error) = self.shards.set_nodes(after.iter().map(Member::in_shards)).await {
            // Those that came are known to be none, or are nodes without anything until the next try.
            self.heads.set_holders(holders(&before)).await.ok();
            close(&came).await;
            return Err(error);
        }
        for member in &after {
            if let Place::Zdb(place) = &member.node.place {
                member.open.store.set_password(place.password.clone());
            }
        }
        self.members.set(after);
        self.settler.want(came.iter().map(|member| member.node.name.clone()));
        close(&gone).await;
        for member in &gone {
            tracing::info!(node = member.name(), place = member.open.place(), "a node is none any more");
        }
        Ok(())
    }

    /// The nodes that there are now, as they were named last.
    pub fn named_nodes(&self) -> Vec<Node> {
        self.members.all().into_iter().map(|member| member.node).collect()
    }

    /// Whether a node may go with what it has.
    async fn may_go(&self, member: &Member) -> Result<()> {
        let name = member.name();
        let is_down = self.shards.node_status().iter().any(|status| status.name == name && status.down.is_some());
        if member.open.lost().is_some() || is_down {
            return Ok(());
        }
        let refuse = |why: String| Err(Error::new(ErrorKind::NotEmpty, OP).at(member.open.place()).because(why));
        if !member.node.is_drained {
            return refuse(format!(
                "the node {name:?} is not drained: say drain = true of it, and wait until it is empty"
            ));
        }
        match self.shards.blocks_on(name).await? {
            0 => Ok(()),
            blocks => refuse(format!("the node {name:?} has shards of {blocks} blocks still: wait until it is empty")),
        }
    }

    /// Opens what is to be a node.
    async fn take(&self, node: &Node, others: impl Iterator<Item = &Member>) -> Result<Member> {
        let store = new_store(node, &self.how);
        let (look, place) = store.look().await;
        for other in others {
            if place.is_some() && other.open.store.look().await.1 == place {
                return Err(one_place(other.name(), &node.name, store.place()));
            }
        }
        let is_no_disk = node.place.dir().is_none();
        match look {
            Look::Marked => {}
            Look::Offered => store.take().await?,
            // There is no disk that might not be mounted.
            Look::Unmarked if is_no_disk => store.take().await?,
            look => {
                let why = store.refusal(&look).unwrap_or_default();
                return Err(Error::new(ErrorKind::Unavailable, OP).because(why));
            }
        }
        store.open().await?;
        let open = OpenNode { store };
        let mut keys = open.store.keys();
        while let Some(key) = keys.next().await.transpose()? {
            // Heads end in another byte.
            if key.as_bytes().last().is_some_and(|slot| *slot < 2) {
                drop(keys);
                open.store.close().await.ok();
                let why =
                    "it has shards of another time, which may be of blocks that were deleted since: empty it first";
                return Err(Error::new(ErrorKind::NotEmpty, OP).because(why));
            }
        }
        drop(keys);
        Ok(Member { node: node.clone(), open })
    }
}

async fn close(members: &[Member]) {
    let closed = join_all(members.iter().map(|member| member.open.store.close())).await;
    for (member, error) in members.iter().zip(closed).filter_map(|(member, closed)| Some((member, closed.err()?))) {
        tracing::warn!(
            node = member.name(),
            cause = format!("{error:#}"),
            "a node that is none any more did not close"
        );
    }
}
