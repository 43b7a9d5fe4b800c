//! The scenarios: one `async fn` each, run over every wire by [`wire_laws!`](crate::wire_laws).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{Ability, Answer, Bed, Client, Refusal};
use crate::{
    ErrorKind, FileKind, Name,
    vfs::{
        Lease, NewNode, SetAttr, Vfs,
        ext::{read_to_end, walk},
        narrow::read_only_view,
    },
};

/// Bytes of no pattern that a wire could mend, the same each time; line ends of all sorts among them.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * i + i / 251 + i / 65_537) % 256).unwrap_or_default()).collect()
}

/// Asserts a refusal, and its kind where the wire tells kinds.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Answer<T>, kinds: &[ErrorKind]) {
    match answer.expect_err("it is refused") {
        Refusal::Kind(kind) => assert!(kinds.contains(&kind), "{kind:?} instead of one of {kinds:?}"),
        Refusal::Unnamed(_) => {}
    }
}

fn sorted(names: &[&[u8]]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.to_vec()).collect::<BTreeSet<_>>().into_iter().collect()
}

async fn listed(client: &dyn Client, path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = client.list(path).await.expect("list");
    names.sort();
    names
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).expect("a good name")
}

/// A path of names below the root, looked up without any wire.
async fn node(vfs: &Arc<dyn Vfs>, names: &[&[u8]]) -> Lease {
    let names: Vec<Name> = names.iter().map(|bytes| name(bytes)).collect();
    walk(vfs, vfs.root(), &names).await.expect("it is there").0
}

/// Makes a file without any wire, open to everybody.
async fn make_file(vfs: &Arc<dyn Vfs>, bytes: &[u8], data: &[u8]) -> Lease {
    let set = SetAttr { mode: Some(0o666), ..SetAttr::default() };
    let made = vfs.create(vfs.root(), &name(bytes), NewNode::File, set).await.expect("create");
    let file = Lease::adopt(vfs.clone(), made.node.ino);
    vfs.write(file.ino(), 0, Bytes::copy_from_slice(data), false).await.expect("write");
    file
}

// ---- content

/// Files of every length around a boundary come back byte for byte.
pub async fn files_of_any_length_come_back(bed: &Bed) {
    for len in [0, 1, 2, 3, 4, 511, 512, 4095, 4096, 4097, 65_535, 65_536, 65_537] {
        let path = format!("/f{len}");
        bed.client.put(path.as_bytes(), &content(len)).await.expect("put");
        assert!(bed.client.get(path.as_bytes()).await.expect("get") == content(len), "{len} bytes");
    }
}

/// A file longer than any one message comes back byte for byte.
pub async fn a_large_file_comes_back(bed: &Bed) {
    let data = content((3 << 20) + 1);
    bed.client.put(b"/large", &data).await.expect("put");
    assert!(bed.client.get(b"/large").await.expect("get") == data, "3 MiB and a byte");
}

/// A shorter content leaves nothing of a longer one, and the other way round.
pub async fn overwriting_leaves_nothing_of_the_old(bed: &Bed) {
    for len in [10_000, 100, 0, 20_000] {
        let data = vec![u8::try_from(len % 251).unwrap_or_default(); len];
        bed.client.put(b"/f", &data).await.expect("put");
        assert!(bed.client.get(b"/f").await.expect("get") == data, "{len} bytes");
    }
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[b"f"]));
}

/// A range gives the bytes in it, is short at the end of the file only, and empty past it.
pub async fn ranges_are_cut_at_the_end(bed: &Bed) {
    let data = content(10_000);
    bed.client.put(b"/f", &data).await.expect("put");
    for (offset, len) in [(0, 1), (0, 10_000), (1, 9_998), (4_095, 2), (9_999, 1), (9_990, 100), (0, 20_000)] {
        let end = (offset + len).min(data.len());
        let found = bed.client.get_range(b"/f", offset as u64, len).await.expect("get_range");
        assert!(found == data[offset..end], "{len} bytes from {offset}");
    }
    assert_eq!(bed.client.get_range(b"/f", 10_000, 10).await.expect("at the end"), b"");
}

/// An offset past 4 GiB is that offset, not what is left of it in 32 bits.
pub async fn offsets_pass_four_gibibytes(bed: &Bed) {
    const END: u64 = (5 << 30) + 5;
    let file = make_file(&bed.vfs, b"sparse", b"the beginning").await;
    bed.vfs.write(file.ino(), END - 5, Bytes::from_static(b"tail!"), false).await.expect("write");
    drop(file);
    assert_eq!(bed.client.stat(b"/sparse").await.expect("stat").size, END);
    assert_eq!(bed.client.get_range(b"/sparse", END - 7, 100).await.expect("get_range"), b"\0\0tail!");
    if !bed.skips(Ability::WriteWithin) {
        bed.client.write_at(b"/sparse", END - 5, b"TAIL").await.expect("write_at");
        assert_eq!(bed.client.get_range(b"/sparse", END - 6, 100).await.expect("get_range"), b"\0TAIL!");
        assert_eq!(bed.client.get_range(b"/sparse", 0, 13).await.expect("get_range"), b"the beginning");
    }
}

/// Bytes written at the end of a file follow those that are there.
pub async fn appending_continues(bed: &Bed) {
    let data = content(200_000);
    bed.client.put(b"/f", &data[..70_000]).await.expect("put");
    bed.client.write_at(b"/f", 70_000, &data[70_000..150_001]).await.expect("write_at");
    bed.client.write_at(b"/f", 150_001, &data[150_001..]).await.expect("write_at");
    assert!(bed.client.get(b"/f").await.expect("get") == data);
}

/// Bytes written within a file replace as many, and nothing else.
pub async fn writing_within_keeps_the_rest(bed: &Bed) {
    if bed.skips(Ability::WriteWithin) {
        return;
    }
    let mut data = content(100_000);
    bed.client.put(b"/f", &data).await.expect("put");
    for (offset, len) in [(0, 1), (4_095, 3), (50_000, 30_000), (99_999, 1)] {
        let patch = vec![b'x'; len];
        bed.client.write_at(b"/f", offset as u64, &patch).await.expect("write_at");
        data[offset..offset + len].copy_from_slice(&patch);
        assert!(bed.client.get(b"/f").await.expect("get") == data, "{len} bytes at {offset}");
    }
}

/// Bytes written past the end leave zeros between.
pub async fn writing_past_the_end_leaves_zeros(bed: &Bed) {
    if bed.skips(Ability::WritePastEnd) {
        return;
    }
    bed.client.put(b"/f", b"ab").await.expect("put");
    bed.client.write_at(b"/f", 5_000, b"cd").await.expect("write_at");
    let expected = [&b"ab"[..], &[0; 4_998], b"cd"].concat();
    assert!(bed.client.get(b"/f").await.expect("get") == expected);
}

// ---- names and listings

/// An empty directory lists nothing, not even itself.
pub async fn an_empty_directory_lists_nothing(bed: &Bed) {
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[]));
    bed.client.mkdir(b"/d").await.expect("mkdir");
    assert_eq!(listed(&*bed.client, b"/d").await, sorted(&[]));
}

/// A listing has the names of one directory, files and directories alike, and no others.
pub async fn a_listing_is_exact(bed: &Bed) {
    bed.client.mkdir(b"/d").await.expect("mkdir");
    bed.client.put(b"/f", b"1").await.expect("put");
    bed.client.put(b"/d/g", b"2").await.expect("put");
    bed.client.mkdir(b"/d/e").await.expect("mkdir");
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[b"d", b"f"]));
    assert_eq!(listed(&*bed.client, b"/d").await, sorted(&[b"e", b"g"]));
}

/// A directory that does not fit in one message is listed whole, each name once.
pub async fn a_thousand_entries_are_listed_once(bed: &Bed) {
    let made = bed.vfs.create(bed.vfs.root(), &name(b"many"), NewNode::Dir, SetAttr::default()).await.expect("create");
    let dir = Lease::adopt(bed.vfs.clone(), made.node.ino);
    let names: Vec<Vec<u8>> = (0..1000).map(|i| format!("a name of some length {i:04}").into_bytes()).collect();
    for bytes in &names {
        let made = bed.vfs.create(dir.ino(), &name(bytes), NewNode::File, SetAttr::default()).await.expect("create");
        drop(Lease::adopt(bed.vfs.clone(), made.node.ino));
    }
    drop(dir);
    assert_eq!(listed(&*bed.client, b"/many").await, names);
}

/// What a careless client or server would trip over.
const AWKWARD: [&[u8]; 16] = [
    b"two words",
    b" leading",
    b"trailing ",
    b"-rf",
    b"--",
    b".hidden",
    b"...",
    b"~",
    b"*",
    b"a\\b",
    b"quote\"'`",
    b"100%25",
    b"semi;colon=1; c",
    b"tab\tbell\x07",
    "å日本 \u{1f980}".as_bytes(),
    b"CON",
];

async fn assert_names_come_back(bed: &Bed, names: &[&[u8]]) {
    for bytes in names {
        let path = [b"/", *bytes].concat();
        bed.client.put(&path, bytes).await.expect("put");
    }
    assert_eq!(listed(&*bed.client, b"/").await, sorted(names));
    for bytes in names {
        let path = [b"/", *bytes].concat();
        assert_eq!(bed.client.get(&path).await.expect("get"), *bytes);
        assert_eq!(bed.client.stat(&path).await.expect("stat").size, bytes.len() as u64);
        let there = node(&bed.vfs, &[bytes]).await;
        assert_eq!(read_to_end(&*bed.vfs, there.ino(), 1000).await.expect("read"), *bytes);
        drop(there);
        bed.client.remove(&path).await.expect("remove");
    }
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[]));
}

/// Names with spaces, signs, other scripts, and of 255 bytes come back as they were given.
pub async fn names_come_back_as_given(bed: &Bed) {
    let long = [b'x'; 255];
    assert_names_come_back(bed, &[&AWKWARD[..], &[&long[..]]].concat()).await;
}

/// Names that are no UTF-8 come back as they were given.
pub async fn binary_names_come_back_as_given(bed: &Bed) {
    if !bed.skips(Ability::BinaryNames) {
        assert_names_come_back(bed, &[b"\xff", b"latin \xe9", b"\x80\x80", b"half \xf0\x9f"]).await;
    }
}

/// Names that end lines come back as they were given.
pub async fn names_with_line_breaks_come_back_as_given(bed: &Bed) {
    if !bed.skips(Ability::LineBreakNames) {
        assert_names_come_back(bed, &[b"two\nlines", b"\r", b"dos\r\n"]).await;
    }
}

/// A name of 256 bytes is refused, and nothing is made.
pub async fn long_names_are_refused(bed: &Bed) {
    let path = [b"/".as_slice(), &[b'x'; 256]].concat();
    let kinds = [ErrorKind::NameTooLong];
    assert_refused(bed.client.put(&path, b"1").await, &kinds);
    assert_refused(bed.client.mkdir(&path).await, &kinds);
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[]));
}

// ---- refusals

/// Whatever is asked of a name that is not there, the answer is that it is not there.
pub async fn what_is_not_there_is_not_found(bed: &Bed) {
    let client = &*bed.client;
    let kinds = [ErrorKind::NotFound];
    for path in [&b"/none"[..], b"/none/below"] {
        assert_refused(client.get(path).await, &kinds);
        assert_refused(client.get_range(path, 0, 1).await, &kinds);
        assert_refused(client.stat(path).await, &kinds);
        assert_refused(client.list(path).await, &kinds);
        assert_refused(client.remove(path).await, &kinds);
        assert_refused(client.rmdir(path).await, &kinds);
        assert_refused(client.rename(path, b"/other").await, &kinds);
    }
    assert_refused(client.put(b"/none/below", b"1").await, &kinds);
    assert_refused(client.mkdir(b"/none/below").await, &kinds);
    assert_eq!(listed(client, b"/").await, sorted(&[]));
}

/// A directory is not made where a name is taken, and what is there stays.
pub async fn what_is_in_the_way_is_named(bed: &Bed) {
    bed.client.mkdir(b"/d").await.expect("mkdir");
    bed.client.put(b"/d/f", b"1").await.expect("put");
    assert_refused(bed.client.mkdir(b"/d").await, &[ErrorKind::Exists]);
    assert_refused(bed.client.mkdir(b"/d/f").await, &[ErrorKind::Exists]);
    assert_eq!(bed.client.get(b"/d/f").await.expect("get"), b"1");
}

/// A file is no directory and a directory no file.
pub async fn the_wrong_kind_is_refused(bed: &Bed) {
    let client = &*bed.client;
    client.mkdir(b"/d").await.expect("mkdir");
    client.put(b"/f", b"1").await.expect("put");
    assert_refused(client.list(b"/f").await, &[ErrorKind::NotDir]);
    assert_refused(client.mkdir(b"/f/below").await, &[ErrorKind::NotDir]);
    assert_refused(client.put(b"/f/below", b"2").await, &[ErrorKind::NotDir]);
    assert_refused(client.rmdir(b"/f").await, &[ErrorKind::NotDir]);
    if !bed.skips(Ability::RemoveByKind) {
        assert_refused(client.remove(b"/d").await, &[ErrorKind::IsDir]);
    }
    assert_refused(client.get(b"/d").await, &[ErrorKind::IsDir, ErrorKind::InvalidArgument]);
    assert_refused(client.put(b"/d", b"2").await, &[ErrorKind::IsDir, ErrorKind::Exists, ErrorKind::InvalidArgument]);
    assert_eq!(listed(client, b"/").await, sorted(&[b"d", b"f"]));
    assert_eq!(client.get(b"/f").await.expect("get"), b"1");
}

/// A directory with entries is not removed, and keeps them.
pub async fn a_directory_with_entries_stays(bed: &Bed) {
    bed.client.mkdir(b"/d").await.expect("mkdir");
    bed.client.put(b"/d/f", b"1").await.expect("put");
    if !bed.skips(Ability::RemoveByKind) {
        assert_refused(bed.client.rmdir(b"/d").await, &[ErrorKind::NotEmpty]);
    }
    assert_eq!(bed.client.get(b"/d/f").await.expect("get"), b"1");
    bed.client.remove(b"/d/f").await.expect("remove");
    bed.client.rmdir(b"/d").await.expect("rmdir");
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[]));
}

/// What was removed is gone, and its name is free again for anything.
pub async fn what_is_removed_is_gone(bed: &Bed) {
    bed.client.put(b"/n", b"1").await.expect("put");
    bed.client.remove(b"/n").await.expect("remove");
    assert_refused(bed.client.get(b"/n").await, &[ErrorKind::NotFound]);
    bed.client.mkdir(b"/n").await.expect("mkdir");
    bed.client.rmdir(b"/n").await.expect("rmdir");
    assert_refused(bed.client.stat(b"/n").await, &[ErrorKind::NotFound]);
    bed.client.put(b"/n", b"2").await.expect("put");
    assert_eq!(bed.client.get(b"/n").await.expect("get"), b"2");
}

// ---- renames

/// A rename moves a file or a directory with all that is below it, within a directory and to another.
pub async fn a_rename_moves(bed: &Bed) {
    let client = &*bed.client;
    client.mkdir(b"/a").await.expect("mkdir");
    client.mkdir(b"/b").await.expect("mkdir");
    client.put(b"/a/f", b"1").await.expect("put");
    client.rename(b"/a/f", b"/a/g").await.expect("rename");
    client.rename(b"/a/g", b"/b/h").await.expect("rename");
    assert_eq!(client.get(b"/b/h").await.expect("get"), b"1");
    assert_eq!(listed(client, b"/a").await, sorted(&[]));
    client.rename(b"/b", b"/a/c").await.expect("rename");
    assert_eq!(client.get(b"/a/c/h").await.expect("get"), b"1");
    assert_eq!(listed(client, b"/").await, sorted(&[b"a"]));
}

/// A rename replaces a file with a file and an empty directory with a directory.
pub async fn a_rename_replaces(bed: &Bed) {
    let client = &*bed.client;
    client.put(b"/f", b"new").await.expect("put");
    client.put(b"/g", b"old and longer").await.expect("put");
    client.rename(b"/f", b"/g").await.expect("rename");
    assert_eq!(client.get(b"/g").await.expect("get"), b"new");
    client.mkdir(b"/d").await.expect("mkdir");
    client.put(b"/d/x", b"1").await.expect("put");
    client.mkdir(b"/e").await.expect("mkdir");
    client.rename(b"/d", b"/e").await.expect("rename");
    assert_eq!(client.get(b"/e/x").await.expect("get"), b"1");
    assert_eq!(listed(client, b"/").await, sorted(&[b"e", b"g"]));
}

/// A rename into itself, over what is in the way, or of nothing, changes nothing.
pub async fn a_rename_that_cannot_be_changes_nothing(bed: &Bed) {
    let client = &*bed.client;
    client.mkdir(b"/d").await.expect("mkdir");
    client.mkdir(b"/d/e").await.expect("mkdir");
    client.put(b"/f", b"1").await.expect("put");
    assert_refused(client.rename(b"/d", b"/d/e/d").await, &[ErrorKind::InvalidArgument]);
    let by_kind = !bed.skips(Ability::RemoveByKind);
    if by_kind {
        assert_refused(client.rename(b"/f", b"/d").await, &[ErrorKind::IsDir, ErrorKind::Exists]);
        assert_refused(client.rename(b"/d/e", b"/f").await, &[ErrorKind::NotDir, ErrorKind::Exists]);
    }
    client.put(b"/d/e/x", b"2").await.expect("put");
    client.mkdir(b"/g").await.expect("mkdir");
    if by_kind {
        assert_refused(client.rename(b"/g", b"/d/e").await, &[ErrorKind::NotEmpty, ErrorKind::Exists]);
    }
    assert_eq!(listed(client, b"/").await, sorted(&[b"d", b"f", b"g"]));
    assert_eq!(client.get(b"/d/e/x").await.expect("get"), b"2");
    assert_eq!(client.get(b"/f").await.expect("get"), b"1");
}

/// Directories nest, and a file at the bottom is reached.
pub async fn directories_nest(bed: &Bed) {
    let mut path = Vec::new();
    for depth in 0..30 {
        path.extend_from_slice(format!("/level {depth}").as_bytes());
        bed.client.mkdir(&path).await.expect("mkdir");
    }
    path.extend_from_slice(b"/bottom");
    bed.client.put(&path, b"here").await.expect("put");
    assert_eq!(bed.client.get(&path).await.expect("get"), b"here");
}

/// ".." is no way out of what is served, and no name that could be made.
pub async fn dot_dot_leads_nowhere(bed: &Bed) {
    let made = bed.vfs.create(bed.vfs.root(), &name(b"top"), NewNode::Dir, SetAttr::default()).await.expect("create");
    let top = Lease::adopt(bed.vfs.clone(), made.node.ino);
    drop(make_file(&bed.vfs, b"secret", b"outside").await);
    let client = bed.connect(crate::vfs::narrow::subtree(bed.vfs.clone(), top)).await;
    for path in [&b"/../secret"[..], b"/../../secret", b"/./../secret"] {
        // Refused, or clamped to a root that has no such name; never answered.
        client.get(path).await.expect_err("it is outside");
    }
}

// ---- many clients, and what lies below them

/// What one client did the others see at once.
pub async fn clients_see_each_other(bed: &Bed) {
    let other = bed.client.another().await;
    bed.client.put(b"/f", b"one").await.expect("put");
    assert_eq!(other.get(b"/f").await.expect("get"), b"one");
    other.put(b"/f", b"another").await.expect("put");
    assert_eq!(bed.client.get(b"/f").await.expect("get"), b"another");
    other.rename(b"/f", b"/g").await.expect("rename");
    assert_eq!(listed(&*bed.client, b"/").await, sorted(&[b"g"]));
    bed.client.remove(b"/g").await.expect("remove");
    assert_refused(other.get(b"/g").await, &[ErrorKind::NotFound]);
}

/// Clients that work at the same time do not get in each other's way.
pub async fn clients_work_at_once(bed: &Bed) {
    let mut tasks = Vec::new();
    for number in 0..4usize {
        let client = bed.client.another().await;
        tasks.push(tokio::spawn(async move {
            let dir = format!("/client {number}");
            client.mkdir(dir.as_bytes()).await.expect("mkdir");
            for round in 0..10usize {
                let path = format!("{dir}/{round}");
                let data = content(number * 10_000 + round);
                client.put(path.as_bytes(), &data).await.expect("put");
                assert!(client.get(path.as_bytes()).await.expect("get") == data, "{path}");
            }
            client.remove(format!("{dir}/0").as_bytes()).await.expect("remove");
        }));
    }
    for task in tasks {
        task.await.expect("the client finished");
    }
    for number in 0..4usize {
        let dir = format!("/client {number}");
        assert_eq!(listed(&*bed.client, dir.as_bytes()).await.len(), 9);
        for round in 1..10usize {
            let found = bed.client.get(format!("{dir}/{round}").as_bytes()).await.expect("get");
            assert!(found == content(number * 10_000 + round), "{dir}/{round}");
        }
    }
}

fn secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A node's kind, size and time are those of the file system, to the second at least.
pub async fn stat_tells_kind_size_and_time(bed: &Bed) {
    let file = make_file(&bed.vfs, b"f", &content(12_345)).await;
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    let set = SetAttr { mtime: Some(crate::vfs::SetTime::At(mtime)), ..SetAttr::default() };
    bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    drop(file);
    let stat = bed.client.stat(b"/f").await.expect("stat");
    assert_eq!((stat.kind, stat.size, secs(stat.mtime)), (FileKind::File, 12_345, 1_234_567_890));
    bed.client.put(b"/f", b"new").await.expect("put");
    let stat = bed.client.stat(b"/f").await.expect("stat");
    assert_eq!(stat.size, 3);
    assert!(secs(stat.mtime) > 1_234_567_890, "a change moves the time");
    bed.client.mkdir(b"/d").await.expect("mkdir");
    assert_eq!(bed.client.stat(b"/d").await.expect("stat").kind, FileKind::Dir);
}

/// What a client put is in the file system, under that name and no other.
pub async fn what_is_put_is_in_the_file_system(bed: &Bed) {
    let data = content(100_000);
    bed.client.mkdir(b"/d").await.expect("mkdir");
    bed.client.put(b"/d/f", &data).await.expect("put");
    let file = node(&bed.vfs, &[b"d", b"f"]).await;
    assert!(read_to_end(&*bed.vfs, file.ino(), 1 << 20).await.expect("read") == data);
    let dir = node(&bed.vfs, &[b"d"]).await;
    assert_eq!(crate::vfs::ext::list(&*bed.vfs, dir.ino(), 10).await.expect("list").len(), 1);
}

/// What is in the file system a client gets, also where it came while the client was connected.
pub async fn what_is_in_the_file_system_is_got(bed: &Bed) {
    for (round, len) in [10, 100_000, 0].into_iter().enumerate() {
        let path = format!("f{round}");
        drop(make_file(&bed.vfs, path.as_bytes(), &content(len)).await);
        assert!(bed.client.get(format!("/{path}").as_bytes()).await.expect("get") == content(len), "{len} bytes");
    }
}

/// A put that returned was synced.
pub async fn what_returned_is_durable(bed: &Bed) {
    let Some(model) = &bed.model else {
        crate::testing::skip("only the model counts how often it was synced");
        return;
    };
    if bed.skips(Ability::Sync) {
        return;
    }
    for round in 0..3 {
        let before = model.sync_count();
        bed.client.put(format!("/f{round}").as_bytes(), b"1").await.expect("put");
        assert!(model.sync_count() > before, "a put that returned was synced");
    }
}

/// A file system that only reads is read, and refuses every change.
pub async fn a_read_only_file_system_refuses_changes(bed: &Bed) {
    drop(make_file(&bed.vfs, b"f", b"kept").await);
    let made = bed.vfs.create(bed.vfs.root(), &name(b"d"), NewNode::Dir, SetAttr::default()).await.expect("create");
    drop(Lease::adopt(bed.vfs.clone(), made.node.ino));
    let client = bed.connect(read_only_view(bed.vfs.clone())).await;
    let kinds = [ErrorKind::ReadOnly];
    assert_refused(client.put(b"/g", b"1").await, &kinds);
    assert_refused(client.put(b"/f", b"1").await, &kinds);
    assert_refused(client.write_at(b"/f", 4, b"1").await, &kinds);
    assert_refused(client.mkdir(b"/e").await, &kinds);
    assert_refused(client.rename(b"/f", b"/g").await, &kinds);
    assert_refused(client.remove(b"/f").await, &kinds);
    assert_refused(client.rmdir(b"/d").await, &kinds);
    assert_eq!(listed(&*client, b"/").await, sorted(&[b"d", b"f"]));
    assert_eq!(client.get(b"/f").await.expect("get"), b"kept");
}

/// A file system that fails for a while costs refusals, not the connection.
pub async fn a_failing_file_system_recovers(bed: &Bed) {
    let Some(model) = &bed.model else {
        crate::testing::skip("only the model fails when it is told to");
        return;
    };
    bed.client.put(b"/f", b"1").await.expect("put");
    for kind in [ErrorKind::Io, ErrorKind::Corrupt, ErrorKind::Internal] {
        model.fail(Some(kind));
        bed.client.get(b"/f").await.expect_err("the file system fails");
        bed.client.put(b"/g", b"2").await.expect_err("the file system fails");
        model.fail(None);
        assert_eq!(bed.client.get(b"/f").await.expect("well again"), b"1");
    }
}
