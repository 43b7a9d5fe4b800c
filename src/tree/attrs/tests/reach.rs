//! Every block of a tree once: what says that an update leaves no others behind.

use std::collections::HashSet;

use super::*;
use crate::tree::attrs::{
    list::Part,
    names::{Child, Names},
    node::{AttrNode, NodeId, load},
};

/// The blocks that the tree itself consists of, and how many could not be read.
pub(super) async fn blocks(dag: &Dag, attrs: &Attrs) -> (HashSet<Cid>, usize) {
    let mut to_load: Vec<NodeId> = NodeId::of(&attrs.cid()).into_iter().collect();
    let (mut met, mut bad_count) = (HashSet::new(), 0);
    while let Some(id) = to_load.pop() {
        if met.contains(&id.cid()) {
            continue;
        }
        match load(dag, id).await {
            Ok(node) => {
                met.insert(id.cid());
                to_load.extend(links(&node));
            }
            Err(_) => bad_count += 1,
        }
    }
    (met, bad_count)
}

/// The nodes that a node links to.
fn links(node: &AttrNode) -> Vec<NodeId> {
    match node {
        AttrNode::Root(root) => root.inodes.into_iter().collect(),
        AttrNode::InodeIndex(index) => index.children().map(|(_, id)| id).collect(),
        AttrNode::Inodes(leaf) => {
            let mut links = Vec::new();
            for (_, record) in leaf.records() {
                let inode = Inode::decode(record).expect("a record");
                let parts = [Some(&inode.parents), inode.data.as_ref(), Some(&inode.xattrs)];
                links.extend(parts.into_iter().flatten().filter_map(|part| match part {
                    Part::Node(id) => Some(*id),
                    Part::Inline(_) => None,
                }));
                if let Names::Node(id) = inode.names {
                    links.push(id);
                }
            }
            links
        }
        AttrNode::NameIndex(index) => {
            let link = |(_, child): &(u32, Child)| match child {
                Child::Leaf(id, _) | Child::Index(id) => Some(*id),
                Child::Empty => None,
            };
            index.children.iter().filter_map(link).collect()
        }
        AttrNode::ListIndex(index) => index.children.clone(),
        AttrNode::Names(_) | AttrNode::List(_) => Vec::new(),
    }
}
