//! Handles: the name of an flist, which flist it was, and the node, so that it is found again by a server that never met it.
//!
//! ```text
//! 0    1      tag: 0 the directory of flists, alone; 1 a node of an flist
//! 1    8      the beginning of BLAKE3 of the name
//! 9    16     the beginning of BLAKE3 of the file
//! 25   1      node: 0 the root; 1 an entry of an .flist; 2 a row of an .fl
//! 26   20     1: the key of the directory, and which of its entries, u32; 2: the number of the row, u64
//! ```
//!
//! Numbers are big-endian. Formats are forever: another form gets another tag.

use muxfs::{Error, ErrorKind, Result, vfs::Handle};

use crate::{FlistId, NodeId};

const TAG_ROOT: u8 = 0;
const TAG_NODE: u8 = 1;

/// A node, as bytes.
pub(super) fn node(node: NodeId) -> Vec<u8> {
    match node {
        NodeId::Root => vec![0],
        NodeId::Entry { dir, index } => [&[1][..], &dir, &index.to_be_bytes()].concat(),
        NodeId::Row(row) => [&[2][..], &row.to_be_bytes()].concat(),
    }
}

/// The handle of the directory of flists.
pub(super) fn root() -> Handle {
    Handle(vec![TAG_ROOT].into())
}

/// The handle of a node.
pub(super) fn encode(place: [u8; 8], id: FlistId, node_id: NodeId) -> Handle {
    Handle([&[TAG_NODE][..], &place, &id.0, &node(node_id)].concat().into())
}

/// Which node of which flist a handle of an [`FlistVfs`](super::FlistVfs) names; `None` for the directory of flists.
///
/// # Errors
/// `InvalidArgument` for bytes that are none.
pub fn node_of_handle(handle: &Handle) -> Result<Option<(FlistId, NodeId)>> {
    Ok(decode(handle)?.map(|(_, id, node)| (id, node)))
}

/// What a handle names; `None` for the directory of flists.
pub(super) fn decode(handle: &Handle) -> Result<Option<([u8; 8], FlistId, NodeId)>> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "flist.handle").because("not a handle of this mount");
    let (tag, rest) = handle.0.split_first().ok_or_else(refuse)?;
    match (*tag, rest.is_empty()) {
        (TAG_ROOT, true) => return Ok(None),
        (TAG_NODE, _) => {}
        _ => return Err(refuse()),
    }
    let (place, rest) = rest.split_first_chunk::<8>().ok_or_else(refuse)?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or_else(refuse)?;
    let (kind, rest) = rest.split_first().ok_or_else(refuse)?;
    let found = match kind {
        0 if rest.is_empty() => NodeId::Root,
        1 => {
            let (dir, index) = rest.split_first_chunk::<16>().ok_or_else(refuse)?;
            let index = index.try_into().map_err(|_| refuse())?;
            NodeId::Entry { dir: *dir, index: u32::from_be_bytes(index) }
        }
        2 => NodeId::Row(u64::from_be_bytes(rest.try_into().map_err(|_| refuse())?)),
        _ => return Err(refuse()),
    };
    Ok(Some((*place, FlistId(*id), found)))
}

#[cfg(test)]
mod tests {
    use muxfs::vfs::LEAF_HANDLE_LEN_MAX;

    use super::*;

    #[test]
    fn handles_are_read_again_and_nothing_else_is_one() {
        let nodes = [NodeId::Root, NodeId::Entry { dir: [7; 16], index: 9 }, NodeId::Row(1 << 40)];
        for node in nodes {
            let handle = encode([1; 8], FlistId([2; 16]), node);
            assert!(handle.0.len() <= LEAF_HANDLE_LEN_MAX);
            assert_eq!(decode(&handle).expect("good"), Some(([1; 8], FlistId([2; 16]), node)));
            for len in 0..handle.0.len() {
                decode(&Handle(handle.0.slice(..len))).expect_err("cut");
            }
            decode(&Handle([&handle.0[..], b"x"].concat().into())).expect_err("longer");
        }
        assert_eq!(decode(&root()).expect("good"), None);
        decode(&Handle(vec![2].into())).expect_err("another tag");
    }

    /// The bytes are a promise to clients that hold them over an update.
    #[test]
    fn the_bytes_are_these() {
        let handle = encode([1; 8], FlistId([2; 16]), NodeId::Row(3));
        let expected = [&[1][..], &[1; 8], &[2; 16], &[2, 0, 0, 0, 0, 0, 0, 0, 3]].concat();
        assert_eq!(handle.0, expected);
    }
}
