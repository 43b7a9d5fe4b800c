//! What the blocks of a CAR lead to.

use bytes::Bytes;

use crate::{Cid, dag::for_each_link_of};

/// Follows links, and counts what cannot be read.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// How many nodes are not what their codec says, so that what they link to is not known.
    pub(super) unreadable_count: u64,
}

impl Links {
    /// The blocks that a block leads to.
    pub(super) fn of(&mut self, cid: &Cid, block: &Bytes) -> Vec<Cid> {
        let links = self.read(cid, block);
        self.through(links)
    }

    /// The blocks that links lead to: a node that its CID holds itself does not come, and what it links to does.
    pub(super) fn through(&mut self, mut links: Vec<Cid>) -> Vec<Cid> {
        let mut blocks = Vec::new();
        while let Some(link) = links.pop() {
            match link.identity() {
                Some(content) => links.extend(self.read(&link, &Bytes::copy_from_slice(content))),
                None => blocks.push(link),
            }
        }
        blocks
    }

    fn read(&mut self, cid: &Cid, block: &Bytes) -> Vec<Cid> {
        let mut links = Vec::new();
        if for_each_link_of(cid, block, &mut |link| links.push(*link)).is_err() {
            self.unreadable_count += 1;
        }
        links
    }
}
