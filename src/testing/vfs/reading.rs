//! Laws of reading, over the specimen: they change nothing.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Bed, MANY, SpecimenNode, assert_kind, assert_same, at_once, name, place, specimen};
use crate::{
    ErrorKind, FileKind,
    vfs::{
        Cookie, Handle, INO_BITS, Ino, LEAF_HANDLE_LEN_MAX, LEAF_HANDLE_LEN_MAX as LEN_MAX, Listing, NewNode,
        RemoveKind, RenameMode, SetAttr,
    },
};

/// A handle may have passed through a union, which adds the number of a prefix.
const UNION_LEN: usize = 4;

/// Every name of the specimen is found, of the right kind and size.
pub async fn lookup_finds_each_name(bed: &Bed) {
    for (path, node) in specimen() {
        let (lease, attr) = bed.at(&path).await;
        let kind = match node {
            SpecimenNode::Dir => FileKind::Dir,
            SpecimenNode::File(data) => {
                assert_eq!(attr.size, data.len() as u64, "{path}");
                FileKind::File
            }
            SpecimenNode::Symlink(target) => {
                assert_eq!(attr.size, target.len() as u64, "{path}");
                FileKind::Symlink
            }
        };
        assert_eq!(attr.kind, kind, "{path}");
        assert_same(&attr, &bed.attr(lease.ino()).await);
    }
}

/// A name that is not there is `NotFound`, also one that differs in case or by a byte.
pub async fn lookup_of_no_name_is_not_found(bed: &Bed) {
    for absent in ["none", "SMALL", "smal", "small ", "dir\\deep"] {
        assert_kind(bed.find(bed.root(), absent).await, ErrorKind::NotFound);
    }
    let (empty, _) = bed.at("empty dir").await;
    assert_kind(bed.find(empty.ino(), "small").await, ErrorKind::NotFound);
}

/// Nothing is below what is no directory.
pub async fn lookup_in_a_file_is_not_dir(bed: &Bed) {
    for path in ["small", "link", "nowhere"] {
        let (node, _) = bed.at(path).await;
        assert_kind(bed.find(node.ino(), "below").await, ErrorKind::NotDir);
    }
}

/// A symlink is a node of its own; what it points to is the client's business.
pub async fn lookup_follows_no_symlink(bed: &Bed) {
    let (link, attr) = bed.at("link").await;
    let (small, _) = bed.at("small").await;
    assert_eq!(attr.kind, FileKind::Symlink);
    assert_ne!(link.ino(), small.ino());
}

/// ".." of a directory is the one it was found in; the root is its own.
pub async fn parent_is_the_directory_above(bed: &Bed) {
    let root = bed.vfs.parent(bed.root()).await.expect("parent");
    assert_eq!(bed.adopt(&root).ino(), bed.root());
    for (path, above) in [("dir", ""), ("dir/deep", "dir"), ("dir/deep/er", "dir/deep"), ("many", "")] {
        let ((node, _), (above, attr)) = (bed.at(path).await, bed.at(above).await);
        let found = bed.vfs.parent(node.ino()).await.expect("parent");
        assert_eq!(bed.adopt(&found).ino(), above.ino(), "{path}");
        assert_same(&found, &attr);
    }
}

/// Every node has a number of its own, the same each time, and leaves room for a mount's slot.
pub async fn numbers_are_distinct_and_stay(bed: &Bed) {
    let mut seen = BTreeSet::from([bed.root()]);
    let mut nodes = Vec::new();
    for (path, _) in specimen() {
        let (node, _) = bed.at(&path).await;
        assert!(seen.insert(node.ino()), "{path} has the number of another");
        nodes.push((path, node));
    }
    let slots: BTreeSet<u64> = seen.iter().map(|ino| ino.0.get() >> INO_BITS).collect();
    assert_eq!(slots.len(), 1, "the bits on top are those of one slot");
    for (path, node) in &nodes {
        assert_eq!(bed.at(path).await.0.ino(), node.ino(), "{path}");
    }
}

/// Where the fsid changes a client sees a mount point: there is none here.
pub async fn all_nodes_are_in_one_file_system(bed: &Bed) {
    let fsid = bed.attr(bed.root()).await.fsid;
    for (path, _) in specimen() {
        assert_eq!(bed.at(&path).await.1.fsid, fsid, "{path}");
    }
}

/// Every name in a directory, page by page of `count`.
async fn pages(bed: &Bed, dir: Ino, count: usize) -> Vec<(String, Cookie)> {
    let mut found = Vec::new();
    let mut after = Cookie::START;
    loop {
        let page = bed.vfs.readdir(dir, after, count, Listing::Names).await.expect("readdir");
        assert!(page.entries.len() <= count.max(1), "{} entries for {count}", page.entries.len());
        assert!(page.eof || !page.entries.is_empty(), "an empty page is the last");
        found.extend(page.entries.iter().map(|entry| (entry.name.to_string(), entry.cookie)));
        if page.eof {
            return found;
        }
        after = found.last().map_or(after, |(_, cookie)| *cookie);
    }
}

/// However few are asked for at a time, each name comes once, "." and ".." never.
pub async fn readdir_lists_each_name_once_at_any_page_size(bed: &Bed) {
    let (many, _) = bed.at("many").await;
    let expected: Vec<String> = (0..MANY).map(|number| format!("f{number:03}")).collect();
    for count in [0, 1, 2, 7, MANY - 1, MANY, MANY + 1, 100_000] {
        let mut names: Vec<String> = pages(bed, many.ino(), count).await.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, expected, "pages of {count}");
    }
    let (empty, _) = bed.at("empty dir").await;
    assert_eq!(pages(bed, empty.ino(), 10).await, []);
}

/// Attributes come when they are asked for, are those of `getattr`, and lease their inodes.
pub async fn readdir_gives_attributes_when_asked(bed: &Bed) {
    let page = bed.vfs.readdir(bed.root(), Cookie::START, 1000, Listing::Names).await.expect("readdir");
    assert!(page.entries.iter().all(|entry| entry.attr.is_none()), "attributes nobody asked for");
    let page = bed.vfs.readdir(bed.root(), Cookie::START, 1000, Listing::Attrs).await.expect("readdir");
    assert!(page.eof);
    for entry in page.entries {
        let attr = entry.attr.expect("attributes");
        let lease = bed.adopt(&attr);
        assert_eq!(attr.ino, entry.ino, "{}", entry.name);
        assert_same(&attr, &bed.attr(lease.ino()).await);
        let found = bed.vfs.lookup(bed.root(), &entry.name).await.expect("lookup");
        assert_eq!(bed.adopt(&found).ino(), entry.ino, "{}", entry.name);
    }
}

/// Cookies are distinct within a directory, below 2^63, and none of those that frontends use.
pub async fn cookies_are_distinct_and_in_range(bed: &Bed) {
    let (many, _) = bed.at("many").await;
    let cookies: BTreeSet<Cookie> = pages(bed, many.ino(), 50).await.into_iter().map(|(_, cookie)| cookie).collect();
    assert_eq!(cookies.len(), MANY);
    assert!(cookies.iter().all(|cookie| *cookie > Cookie::DOT_DOT && cookie.0 < 1 << 63), "{cookies:?}");
}

/// From the cookie of any entry the listing goes on with the next one.
pub async fn readdir_resumes_after_any_entry(bed: &Bed) {
    let (many, _) = bed.at("many").await;
    let all = pages(bed, many.ino(), 1000).await;
    for (index, (_, cookie)) in all.iter().enumerate() {
        let page = bed.vfs.readdir(many.ino(), *cookie, 1000, Listing::Names).await.expect("readdir");
        let rest: Vec<Cookie> = page.entries.iter().map(|entry| entry.cookie).collect();
        let expected: Vec<Cookie> = all[index + 1..].iter().map(|(_, cookie)| *cookie).collect();
        let whole = if page.eof { &expected[..] } else { &expected[..rest.len()] };
        assert_eq!(rest, whole, "after entry {index}");
    }
}

/// Only a directory lists.
pub async fn readdir_of_a_file_is_not_dir(bed: &Bed) {
    for path in ["small", "link"] {
        let (node, _) = bed.at(path).await;
        let page = bed.vfs.readdir(node.ino(), Cookie::START, 10, Listing::Names).await;
        assert_kind(page, ErrorKind::NotDir);
    }
}

/// A cookie that no entry ever had is `BadCookie`: those of frontends, and any from 2^63 up.
pub async fn cookies_that_were_never_given_are_refused(bed: &Bed) {
    let (many, _) = bed.at("many").await;
    for cookie in [Cookie::DOT, Cookie::DOT_DOT, Cookie(1 << 63), Cookie(u64::MAX)] {
        let page = bed.vfs.readdir(many.ino(), cookie, 10, Listing::Names).await;
        assert_kind(page, ErrorKind::BadCookie);
    }
}

/// A read gives the bytes from its offset, is short at the end of the file only, and empty past it.
pub async fn read_gives_the_bytes(bed: &Bed) {
    for (path, node) in specimen() {
        let SpecimenNode::File(data) = node else { continue };
        let (file, _) = bed.at(&path).await;
        assert!(bed.read(file.ino()).await == data, "{path}");
        let len = data.len() as u64;
        for offset in [len, len + 1, len + 4096, 1 << 40, i64::MAX as u64, u64::MAX] {
            let read = bed.vfs.read(file.ino(), offset, 100).await.expect("past the end");
            assert_eq!(read, Bytes::new(), "{path} from {offset}");
        }
        assert_eq!(bed.vfs.read(file.ino(), 0, 0).await.expect("nothing"), Bytes::new());
    }
    let (large, attr) = bed.at("large").await;
    let whole = bed.read(large.ino()).await;
    let len = usize::try_from(attr.size).expect("it fits");
    let cases = [
        (0, 1),
        (0, 4096),
        (1, 4096),
        (4095, 2),
        (65_536, 65_536),
        (1 << 20, 1),
        ((1 << 20) - 1, 2),
        (1_000_000, 1_500_000),
        (len - 1, 1),
        (len - 1, 100),
        (len - 5000, 1 << 20),
        (0, len + 1),
    ];
    for (offset, count) in cases {
        let read =
            bed.vfs.read(large.ino(), offset as u64, u32::try_from(count).expect("it fits")).await.expect("read");
        assert!(read == whole[offset..(offset + count).min(len)], "{count} bytes from {offset}");
    }
}

/// A directory is `IsDir`, and anything else without bytes `InvalidArgument`.
pub async fn read_of_what_is_no_file_is_refused(bed: &Bed) {
    let ((dir, _), (link, _)) = (bed.at("dir").await, bed.at("link").await);
    assert_kind(bed.vfs.read(dir.ino(), 0, 10).await, ErrorKind::IsDir);
    assert_kind(bed.vfs.read(bed.root(), 0, 10).await, ErrorKind::IsDir);
    assert_kind(bed.vfs.read(link.ino(), 0, 10).await, ErrorKind::InvalidArgument);
}

/// The target of a symlink comes back byte for byte; nothing else has one.
pub async fn readlink_gives_the_target(bed: &Bed) {
    for (path, node) in specimen() {
        let (lease, _) = bed.at(&path).await;
        match node {
            SpecimenNode::Symlink(target) => {
                assert_eq!(bed.vfs.readlink(lease.ino()).await.expect("readlink"), target, "{path}");
            }
            _ => assert_kind(bed.vfs.readlink(lease.ino()).await, ErrorKind::InvalidArgument),
        }
    }
}

/// Every node tells the space of its file system, and no more is free than there is.
pub async fn statfs_answers_for_each_node(bed: &Bed) {
    for path in ["", "dir/deep", "small", "link"] {
        let stat = bed.vfs.statfs(bed.at(path).await.0.ino()).await.expect("statfs");
        assert!(stat.bytes_free <= stat.bytes_total && stat.inodes_free <= stat.inodes_total, "{path}: {stat:?}");
    }
}

/// A handle is short, of its node alone, the same each time, and leads back to it when nothing else is leased.
pub async fn handles_are_short_and_stay(bed: &Bed) {
    let mut seen = BTreeSet::new();
    for path in specimen().into_iter().map(|(path, _)| path).chain([String::new()]) {
        let (node, attr) = bed.at(&path).await;
        let handle = bed.vfs.handle(node.ino()).expect("handle");
        assert!(!handle.0.is_empty() && handle.0.len() <= LEN_MAX + UNION_LEN, "{path}: {} bytes", handle.0.len());
        assert_eq!(bed.vfs.handle(node.ino()).expect("handle"), handle, "{path}");
        assert!(seen.insert(handle.0.clone()), "{path} has the handle of another");
        drop(node);
        let found = bed.vfs.resolve(&handle).await.expect("resolve");
        let node = bed.adopt(&found);
        assert_same(&found, &attr);
        assert_eq!(bed.vfs.handle(node.ino()).expect("handle"), handle, "{path}");
    }
}

/// Bytes that no handle ever was are `InvalidArgument`, or `Stale` where they could have been one; never a node.
pub async fn garbage_is_no_handle(bed: &Bed) {
    let (small, _) = bed.at("small").await;
    let good = bed.vfs.handle(small.ino()).expect("handle").0;
    let mut cases: Vec<Vec<u8>> = vec![vec![], vec![0xff; LEAF_HANDLE_LEN_MAX], vec![0xff; 64], vec![0xff; 1000]];
    cases.extend((0..good.len()).map(|len| good[..len].to_vec()));
    cases.push([&good[..], b"x"].concat());
    for bytes in cases {
        let found = bed.vfs.resolve(&Handle(bytes.clone().into())).await;
        let kind = found.map(|attr| bed.adopt(&attr).ino()).expect_err("garbage").kind();
        assert!(matches!(kind, ErrorKind::InvalidArgument | ErrorKind::Stale), "{kind:?}: {}", bytes.escape_ascii());
    }
    assert_kind(bed.vfs.resolve(&Handle(Bytes::new())).await, ErrorKind::InvalidArgument);
}

/// Twelve bits of mode, a name at least, no device numbers, and 0777 for a symlink.
pub async fn attributes_make_sense(bed: &Bed) {
    for (path, _) in specimen() {
        let (_node, attr) = bed.at(&path).await;
        assert_eq!(attr.mode & !0o7777, 0, "{path}");
        assert!(attr.nlink >= 1, "{path}");
        assert_eq!((attr.rdev.major, attr.rdev.minor), (0, 0), "{path}");
        if attr.kind == FileKind::Symlink {
            assert_eq!(attr.mode, 0o777, "{path}");
        }
    }
}

/// Readers at the same time all see the same.
pub async fn reads_at_once_see_the_same(bed: &Bed) {
    let (large, _) = bed.at("large").await;
    let whole = bed.read(large.ino()).await;
    let readers = (0..16u64).map(|number| {
        let (vfs, lease, whole) = (bed.vfs.clone(), large.clone(), whole.clone());
        async move {
            for round in 0..8 {
                let offset = number * 180_001 + round * 4096;
                let read = vfs.read(lease.ino(), offset, 10_000).await.expect("read");
                let start = usize::try_from(offset).expect("it fits").min(whole.len());
                assert!(read == whole[start..(start + 10_000).min(whole.len())], "reader {number}, round {round}");
            }
        }
    });
    at_once(readers).await;
}

/// As many leases as were taken can be given back before an inode may be forgotten.
pub async fn a_retained_inode_answers(bed: &Bed) {
    let (small, attr) = bed.at("small").await;
    bed.vfs.retain(small.ino());
    bed.vfs.retain(small.ino());
    bed.vfs.release(small.ino(), 2);
    assert_same(&bed.attr(small.ino()).await, &attr);
    let again = small.clone();
    drop(small);
    assert_same(&bed.attr(again.ino()).await, &attr);
}

/// A node of any kind can be synced, and the root for all of them.
pub async fn anything_can_be_synced(bed: &Bed) {
    for path in ["", "dir", "small", "link"] {
        bed.vfs.sync(bed.at(path).await.0.ino()).await.expect("sync");
    }
}

/// A file system that cannot be changed says `ReadOnly`, and stays as it is.
pub async fn changes_are_refused(bed: &Bed) {
    let (small, attr) = bed.at("small").await;
    let (root, new, there, dir) = (bed.root(), name("new"), name("small"), name("empty dir"));
    let from = place(root, &there);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_kind(bed.vfs.create(root, &new, NewNode::File, SetAttr::default()).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.create(root, &new, NewNode::Dir, SetAttr::default()).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.write(small.ino(), 0, Bytes::from_static(b"x"), false).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.setattr(small.ino(), mode).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.remove(from, RemoveKind::NonDir).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.remove(place(root, &dir), RemoveKind::Dir).await, ErrorKind::ReadOnly);
    assert_kind(bed.vfs.rename(from, place(root, &new), RenameMode::Replace).await, ErrorKind::ReadOnly);
    assert_same(&bed.attr(small.ino()).await, &attr);
    assert_kind(bed.find(root, "new").await, ErrorKind::NotFound);
}
