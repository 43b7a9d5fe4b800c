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
//! Where there are repositories:
//!
//! ```text
//! 0    1      tag: 2 a repository, or a directory in one, by its path (alice, alice/tags, alice/tags/v1); 3 a node of an flist in one
//! 1    2      3: the beginning of BLAKE3 of the name of the repository
//! 1    8      2: the low 54 bits of the first 64 of BLAKE3 of the path; 3, from 3 on: the beginning of BLAKE3 of the path, a slash, and the name of
//!             the flist
//! 11          3: the rest as of 1, from 9 on
//! ```
//!
//! Numbers are big-endian. Formats are forever: another form gets another tag.

use muxfs::{Error, ErrorKind, Result, vfs::Handle};

use crate::{FlistId, NodeId};

const TAG_ROOT: u8 = 0;
const TAG_NODE: u8 = 1;
const TAG_REPOSITORY: u8 = 2;
const TAG_NODE_WITHIN: u8 = 3;

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The directory of flists, or of repositories.
    Top,
    /// A repository, by some bits of the hash of its name.
    Repository([u8; 8]),
    /// A node.
    Node(NodeName),
}

/// Which node: that of which flist, and where it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeName {
    /// The beginning of the hash of the name of the repository, where there are several.
    pub(super) repository: Option<[u8; 2]>,
    pub(super) place: [u8; 8],
    pub(super) id: FlistId,
    pub(super) node: NodeId,
}

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

/// The handle of a repository.
pub(super) fn of_repository(digest: [u8; 8]) -> Handle {
    Handle([&[TAG_REPOSITORY][..], &digest].concat().into())
}

/// The handle of a node.
pub(super) fn encode(NodeName { repository, place, id, node: node_id }: NodeName) -> Handle {
    let head = match repository {
        None => vec![TAG_NODE],
        Some(repository) => [&[TAG_NODE_WITHIN][..], &repository].concat(),
    };
    Handle([&head[..], &place, &id.0, &node(node_id)].concat().into())
}

/// Which node of which flist a handle of an [`FlistVfs`](super::FlistVfs) names; `None` for a directory of flists.
///
/// # Errors
/// `InvalidArgument` for bytes that are none.
pub fn node_of_handle(handle: &Handle) -> Result<Option<(FlistId, NodeId)>> {
    Ok(match decode(handle)? {
        Named::Node(NodeName { id, node, .. }) => Some((id, node)),
        Named::Top | Named::Repository(_) => None,
    })
}

/// What a handle names.
pub(super) fn decode(handle: &Handle) -> Result<Named> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "flist.handle").because("not a handle of this mount");
    let (tag, rest) = handle.0.split_first().ok_or_else(refuse)?;
    let (repository, rest) = match *tag {
        TAG_ROOT if rest.is_empty() => return Ok(Named::Top),
        TAG_REPOSITORY => return Ok(Named::Repository(rest.try_into().map_err(|_| refuse())?)),
        TAG_NODE => (None, rest),
        TAG_NODE_WITHIN => {
            rest.split_first_chunk::<2>().map(|(digest, rest)| (Some(*digest), rest)).ok_or_else(refuse)?
        }
        _ => return Err(refuse()),
    };
    let (place, rest) = rest.split_first_chunk::<8>().ok_or_else(refuse)?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or_else(refuse)?;
    let (kind, rest) = rest.split_first().ok_or_else(refuse)?;
    let node = match kind {
        0 if rest.is_empty() => NodeId::Root,
        1 => {
            let (dir, index) = rest.split_first_chunk::<16>().ok_or_else(refuse)?;
            let index = index.try_into().map_err(|_| refuse())?;
            NodeId::Entry { dir: *dir, index: u32::from_be_bytes(index) }
        }
        2 => NodeId::Row(u64::from_be_bytes(rest.try_into().map_err(|_| refuse())?)),
        _ => return Err(refuse()),
    };
    Ok(Named::Node(NodeName { repository, place: *place, id: FlistId(*id), node }))
}

#[cfg(test)]
mod tests {
    use muxfs::vfs::LEAF_HANDLE_LEN_MAX;

    use super::*;

    #[test]
    fn handles_are_read_again_and_nothing_else_is_one() {
        let nodes = [NodeId::Root, NodeId::Entry { dir: [7; 16], index: 9 }, NodeId::Row(1 << 40)];
        let all = nodes.into_iter().flat_map(|node| {
            let name = |repository| Named::Node(NodeName { repository, place: [1; 8], id: FlistId([2; 16]), node });
            [name(None), name(Some([4; 2]))]
        });
        for named in all.chain([Named::Top, Named::Repository([5; 8])]) {
            let handle = match named {
                Named::Top => root(),
                Named::Repository(digest) => of_repository(digest),
                Named::Node(name) => encode(name),
            };
            assert!(handle.0.len() <= LEAF_HANDLE_LEN_MAX);
            assert_eq!(decode(&handle).expect("good"), named);
            for len in 0..handle.0.len() {
                decode(&Handle(handle.0.slice(..len))).expect_err("cut");
            }
            decode(&Handle([&handle.0[..], b"x"].concat().into())).expect_err("longer");
        }
        decode(&Handle(vec![4].into())).expect_err("another tag");
    }

    /// The bytes are a promise to clients that hold them over an update.
    #[test]
    fn the_bytes_are_these() {
        let name = NodeName { repository: None, place: [1; 8], id: FlistId([2; 16]), node: NodeId::Row(3) };
        let rest = [&[1; 8][..], &[2; 16], &[2, 0, 0, 0, 0, 0, 0, 0, 3]].concat();
        assert_eq!(encode(name).0, [&[1][..], &rest].concat());
        assert_eq!(encode(NodeName { repository: Some([8, 9]), ..name }).0, [&[3, 8, 9][..], &rest].concat());
        assert_eq!(of_repository([7; 8]).0, [2, 7, 7, 7, 7, 7, 7, 7, 7][..]);
    }
}
