//! The laws of [`Store`]: what every store of whole files keeps, by content or by place.
//!
//! Who writes a store writes one line, [`store_laws!`](crate::store_laws), and gets a test for each law.
//!
//! ```
//! # use std::sync::Arc;
//! # use muxfs::{Prefix, Store, testing::{self, model::ModelFs}, vfs::as_store::AsStore};
//! async fn store() -> Arc<dyn Store> {
//!     let env = testing::env();
//!     Arc::new(AsStore::new(Prefix::new("model").unwrap(), ModelFs::new(env.clone()), env))
//! }
//! muxfs::store_laws!(model, Location, store());
//! ```

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    Addressing, ErrorKind, FileKind, Name, QfsPath, Result, SecretKey, Source, Store, cid::Codec, cid_of, dag::Ipld,
};

/// Runs every law of [`Store`] over a store, each as a test of its own.
///
/// `store_laws!(name, Content, make)` and `store_laws!(name, Location, make)` make a module `name` of tests; `make` is a
/// future that gives a new, empty `Arc<dyn Store>`. A law that a store cannot keep is named with the reason, which the
/// test prints: `store_laws!(name, Location, make, except: { a_law: "why" })`.
#[macro_export]
macro_rules! store_laws {
    ($module:ident, Content, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::store_laws!(@module $module, $make, [$($except)?],
            what_is_put_is_read, readers_give_what_bytes_give, has_tells_what_open_finds, put_twice_is_put_once,
            delete_tells_whether_there_was_something, a_source_that_fails_puts_nothing, the_mount_is_a_directory,
            what_is_sealed_is_read_with_its_key, what_cannot_be_sealed_is_not_put,
            content_is_named_by_its_cid, a_cid_asked_for_must_be_met, only_cids_are_paths, put_pins_and_delete_unpins,
            linked_data_is_walked, blocks_go_back_where_they_came_from);
    };
    ($module:ident, Location, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::store_laws!(@module $module, $make, [$($except)?],
            what_is_put_is_read, readers_give_what_bytes_give, has_tells_what_open_finds, put_twice_is_put_once,
            delete_tells_whether_there_was_something, a_source_that_fails_puts_nothing, the_mount_is_a_directory,
            what_is_sealed_is_read_with_its_key, what_cannot_be_sealed_is_not_put,
            cid_paths_are_not_written, put_makes_the_directories_it_needs, an_open_file_outlives_its_replacement,
            directories_are_not_files, names_are_bytes, linked_data_needs_content);
    };
    (@module $module:ident, $make:expr, [$({ $($except:ident: $reason:expr),* $(,)? })?], $($law:ident),* $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "a constructor may need nothing from outside")]
            use super::*;
            const EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
            $(
                #[tokio::test]
                async fn $law() {
                    if let Some((law, reason)) = EXCEPTIONS.iter().find(|(law, _)| *law == stringify!($law)) {
                        $crate::testing::skip(format_args!("{}::{law}: {reason}", stringify!($module)));
                        return;
                    }
                    $crate::testing::store::$law(&*$make.await).await;
                }
            )*
            #[test]
            fn exceptions_name_laws() {
                const LAWS: &[&str] = &[$(stringify!($law)),*];
                for (law, _) in EXCEPTIONS {
                    assert!(LAWS.contains(law), "{law} is no law of a store");
                }
            }
        }
    };
}

/// Bytes of no pattern that a store could guess, the same each time.
fn content(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from((i * i + i / 251) % 256).unwrap_or_default()).collect::<Vec<_>>().into()
}

/// The path at which a test puts a file: the mount itself where the CID will be found, a name elsewhere.
fn target(store: &dyn Store, name: &str) -> QfsPath {
    let prefix = store.kind();
    match store.addressing() {
        Addressing::Content => QfsPath::mount(prefix),
        Addressing::Location => format!("/{prefix}/{name}").parse().expect("a path"),
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn below(store: &dyn Store, rest: &str) -> QfsPath {
    format!("/{}/{rest}", store.kind()).parse().expect("a path")
}

async fn put(store: &dyn Store, name: &str, bytes: impl Into<Bytes>) -> QfsPath {
    store.put(&target(store, name), Source::Bytes(bytes.into())).await.expect("put")
}

async fn read(store: &dyn Store, path: &QfsPath) -> Bytes {
    let file = store.open(path).await.expect("open");
    let len = u32::try_from(file.info().size).expect("a small file");
    file.read_at(0, len).await.expect("read")
}

async fn links(store: &dyn Store, path: &QfsPath) -> BTreeMap<String, Ipld> {
    let file = store.open(path).await.expect("open a directory");
    assert_eq!(file.info().kind, FileKind::Dir, "{path} is a directory");
    match file.linked_data().await.expect("linked data") {
        Some(Ipld::Map(links)) => links,
        other => panic!("the linked data of a directory are links by name, not {other:?}"),
    }
}

fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("refused").kind()
}

/// A reader that gives its bytes few at a time, and then perhaps fails.
struct Trickle {
    bytes: Bytes,
    step: usize,
    fails: bool,
}

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.bytes.is_empty() && self.fails {
            return Poll::Ready(Err(std::io::Error::other("the line went dead")));
        }
        let len = self.step.min(self.bytes.len()).min(buf.remaining());
        let step = self.bytes.split_to(len);
        buf.put_slice(&step);
        Poll::Ready(Ok(()))
    }
}

/// Any bytes come back as they were, whole and in parts; a read is short only at the end and empty past it.
pub async fn what_is_put_is_read(store: &dyn Store) {
    for len in [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 7] {
        let bytes = content(len);
        let path = put(store, &format!("file-{len}"), bytes.clone()).await;
        let file = store.open(&path).await.expect("open");
        assert_eq!((file.info().kind, file.info().size), (FileKind::File, len as u64));
        assert_eq!(Some(&file.info().name), path.parts.last(), "named by its path");
        for (offset, count) in [(0, len), (0, len + 10), (len / 2, 4096), (len.saturating_sub(1), 5), (len, 5)] {
            let end = (offset + count).min(len);
            let part = file.read_at(offset as u64, u32::try_from(count).expect("small")).await.expect("read");
            assert_eq!(part, bytes.slice(offset..end), "{count} bytes from {offset} of {len}");
        }
        assert_eq!(file.read_at(u64::MAX, 5).await.expect("read"), "", "past every end");
        assert_eq!(file.linked_data().await.expect("linked data"), None, "but bytes");
    }
}

/// A reader's bytes are put as if they had come at once, however few at a time it gives.
pub async fn readers_give_what_bytes_give(store: &dyn Store) {
    let bytes = content((1 << 20) + 4321);
    for step in [7919, 65_536, 1 << 20, 2 << 20] {
        let source = Trickle { bytes: bytes.clone(), step, fails: false };
        let path = store.put(&target(store, "read"), Source::Reader(Box::new(source))).await.expect("put");
        assert!(read(store, &path).await == bytes, "{step} bytes at a time");
        assert_eq!(path, put(store, "read", bytes.clone()).await);
    }
}

/// `has` is whether `open` finds something.
pub async fn has_tells_what_open_finds(store: &dyn Store) {
    let absent = match store.addressing() {
        Addressing::Content => QfsPath::content(store.kind(), &cid_of(Codec::Raw, b"absent")),
        Addressing::Location => below(store, "absent"),
    };
    assert!(!store.has(&absent).await.expect("has"));
    assert_eq!(kind_of(store.open(&absent).await), ErrorKind::NotFound);
    let path = put(store, "present", "present").await;
    assert!(store.has(&path).await.expect("has"));
    let inside = path.join(&name("x"));
    assert!(!store.has(&inside).await.expect("has"), "nothing is below a file");
    let error = kind_of(store.open(&inside).await);
    assert!(matches!(error, ErrorKind::NotFound | ErrorKind::NotDir), "{error:?}");
    assert!(store.has(&QfsPath::mount(store.kind())).await.expect("has"), "the mount itself");
}

/// Putting the same twice is putting it once.
pub async fn put_twice_is_put_once(store: &dyn Store) {
    let first = put(store, "same", "same").await;
    let before = links(store, &QfsPath::mount(store.kind())).await;
    assert_eq!(put(store, "same", "same").await, first);
    assert_eq!(store.put(&first, Source::from(&b"same"[..])).await.expect("put where it is"), first);
    assert_eq!(links(store, &QfsPath::mount(store.kind())).await, before);
    assert_eq!(read(store, &first).await, "same");
}

/// `delete` is idempotent and says whether there was something.
pub async fn delete_tells_whether_there_was_something(store: &dyn Store) {
    let path = put(store, "doomed", "doomed").await;
    let other = put(store, "other", "other").await;
    assert!(store.delete(&path).await.expect("delete"));
    assert!(!store.delete(&path).await.expect("delete again"));
    assert_eq!(read(store, &other).await, "other", "nothing else went");
    assert_eq!(put(store, "doomed", "doomed").await, path, "it can come again");
    assert!(store.delete(&path).await.expect("delete"));
}

/// A source that breaks off is an error, and leaves no trace: no part of a file, no pin, and what was there stays.
pub async fn a_source_that_fails_puts_nothing(store: &dyn Store) {
    let path = put(store, "kept", "kept").await;
    let before = links(store, &QfsPath::mount(store.kind())).await;
    for len in [0, 10, (2 << 20) + 1] {
        let broken = || Source::Reader(Box::new(Trickle { bytes: content(len), step: 4096, fails: true }));
        for to in [target(store, "kept"), target(store, "broken"), path.clone()] {
            let error = kind_of(store.put(&to, broken()).await);
            // What is longer than a CID allows is known to be wrong before the source ends.
            let too_long = error == ErrorKind::InvalidArgument && to.cid().is_some() && len > 0;
            assert!(error == ErrorKind::Io || too_long, "{to}: {error:?}");
        }
    }
    assert_eq!(links(store, &QfsPath::mount(store.kind())).await, before);
    assert_eq!(read(store, &path).await, "kept");
}

/// The prefix alone opens as a directory whose links are what is kept there; it has no bytes and cannot be deleted.
pub async fn the_mount_is_a_directory(store: &dyn Store) {
    let mount = QfsPath::mount(store.kind());
    assert!(links(store, &mount).await.is_empty(), "a new store is empty");
    let path = put(store, "a-file", "a file").await;
    let name = path.parts.first().expect("a part").to_string();
    assert_eq!(links(store, &mount).await.keys().collect::<Vec<_>>(), [&name]);
    let dir = store.open(&mount).await.expect("open");
    assert_eq!(dir.info().name.as_str(), Some(store.kind().as_str()));
    assert_eq!(kind_of(dir.read_at(0, 1).await), ErrorKind::IsDir);
    assert_eq!(kind_of(store.delete(&mount).await), ErrorKind::InvalidArgument);
}

/// What is put with a key is read with it alone, whatever it is in; a call that takes a key never reads or writes in clear.
pub async fn what_is_sealed_is_read_with_its_key(store: &dyn Store) {
    let (key, other) = (SecretKey::new([7; 32]), SecretKey::new([8; 32]));
    let (place, secret) = (target(store, "sealed"), content(200_000));
    let path = store.put_encrypted(&key, &place, secret.clone().into()).await.expect("put");
    let sealed = read(store, &path).await;
    assert!(!sealed.windows(16).any(|window| window == &secret[..16]), "nothing of it is in clear");
    let opened = store.open_encrypted(&key, &path).await.expect("open");
    assert_eq!((opened.info().kind, opened.info().size), (FileKind::File, secret.len() as u64));
    assert_eq!(opened.read_at(0, u32::MAX).await.expect("read"), secret);
    assert_eq!(opened.read_at(70_000, 5).await.expect("read"), secret.slice(70_000..70_005));
    assert_eq!(kind_of(store.open_encrypted(&other, &path).await), ErrorKind::BadKey);

    // As anything may be put under a name, or have another CID.
    let mut changed = sealed.to_vec();
    changed[100] ^= 1;
    let path = put(store, "changed", changed).await;
    let opened = store.open_encrypted(&key, &path).await.expect("its header and its end are good");
    assert_eq!(kind_of(opened.read_at(0, 1).await), ErrorKind::Corrupt);
    let path = put(store, "plain", "plain").await;
    assert_eq!(kind_of(store.open_encrypted(&key, &path).await), ErrorKind::Corrupt);
    assert_eq!(kind_of(store.open_encrypted(&key, &QfsPath::mount(store.kind())).await), ErrorKind::IsDir);
}

/// Linked data may be a directory, and those stay plain; a sealed file has no CID before it was sealed.
pub async fn what_cannot_be_sealed_is_not_put(store: &dyn Store) {
    let key = SecretKey::new([7; 32]);
    let before = links(store, &QfsPath::mount(store.kind())).await;
    let linked = Source::LinkedData(Ipld::Map(BTreeMap::new()));
    assert_eq!(kind_of(store.put_encrypted(&key, &target(store, "sealed"), linked).await), ErrorKind::InvalidArgument);
    let place = QfsPath::content(store.kind(), &cid_of(Codec::Raw, b"secret"));
    assert_eq!(
        kind_of(store.put_encrypted(&key, &place, Source::from(&b"secret"[..])).await),
        ErrorKind::InvalidArgument
    );
    assert_eq!(links(store, &QfsPath::mount(store.kind())).await, before);
}

// ---- by content

/// The path that `put` gives is made of the content alone: the same for the same bytes, another for others.
pub async fn content_is_named_by_its_cid(store: &dyn Store) {
    let path = put(store, "", "hello").await;
    assert_eq!((path.prefix, path.parts.len()), (store.kind(), 1));
    let file = store.open(&path).await.expect("open");
    assert_eq!(file.info().cid, path.cid(), "a CID, and the file knows it");
    assert_ne!(put(store, "", "hellO").await, path);
    assert_eq!(put(store, "", "hello").await, path);
}

/// `put` to a CID takes the bytes that hash to it; others are refused and not pinned.
pub async fn a_cid_asked_for_must_be_met(store: &dyn Store) {
    let wanted = QfsPath::content(store.kind(), &cid_of(Codec::Raw, b"wanted"));
    for other in [content(0), content(10), content((2 << 20) + 1), content(5 << 20)] {
        let source = Source::Reader(Box::new(Trickle { bytes: other, step: 65_536, fails: false }));
        assert_eq!(kind_of(store.put(&wanted, source).await), ErrorKind::InvalidArgument);
    }
    assert_eq!(kind_of(store.put(&wanted, Source::LinkedData(Ipld::Null)).await), ErrorKind::InvalidArgument);
    assert!(!store.delete(&wanted).await.expect("delete"), "was not pinned");
    assert!(!store.has(&wanted).await.expect("has"));
    assert_eq!(store.put(&wanted, Source::from(&b"wanted"[..])).await.expect("the right bytes"), wanted);
    assert_eq!(read(store, &wanted).await, "wanted");
    assert!(store.delete(&wanted).await.expect("delete"), "was pinned");

    let long = content((3 << 20) + 1);
    let path = put(store, "", long.clone()).await;
    assert_eq!(store.put(&path, Source::Bytes(long.clone())).await.expect("a file of many blocks"), path);
    let error = kind_of(store.put(&path, Source::Bytes(long.slice(1..))).await);
    assert_eq!(error, ErrorKind::InvalidArgument);
}

/// A path is `/prefix` or begins with a CID; and only a CID itself is written or deleted.
pub async fn only_cids_are_paths(store: &dyn Store) {
    let named = below(store, "photos/a.jpg");
    let almost = below(store, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykU");
    for path in [&named, &almost, &below(store, "Qm"), &below(store, ".history")] {
        assert_eq!(kind_of(store.has(path).await), ErrorKind::InvalidArgument, "{path}");
        assert_eq!(kind_of(store.open(path).await), ErrorKind::InvalidArgument, "{path}");
        assert_eq!(kind_of(store.put(path, Source::from(&b"x"[..])).await), ErrorKind::InvalidArgument, "{path}");
        assert_eq!(kind_of(store.delete(path).await), ErrorKind::InvalidArgument, "{path}");
    }
    let inside = put(store, "", "x").await.join(&name("y"));
    assert_eq!(kind_of(store.put(&inside, Source::from(&b"x"[..])).await), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(store.delete(&inside).await), ErrorKind::InvalidArgument);
}

/// What is put is listed at the mount by its CID until it is deleted.
pub async fn put_pins_and_delete_unpins(store: &dyn Store) {
    let mount = QfsPath::mount(store.kind());
    let mut expected = BTreeMap::new();
    for i in 0..100_u32 {
        let path = put(store, "", i.to_string().into_bytes()).await;
        let cid = path.cid().expect("a CID");
        expected.insert(cid.to_string(), Ipld::from(cid));
    }
    assert_eq!(links(store, &mount).await, expected);
    let (gone, _) = expected.pop_first().expect("one of them");
    assert!(store.delete(&below(store, &gone)).await.expect("delete"));
    assert_eq!(links(store, &mount).await, expected);
}

/// Linked data comes back as it was, and a path walks through it, from block to block.
pub async fn linked_data_is_walked(store: &dyn Store) {
    let file = put(store, "", "at the end").await;
    let inner = Ipld::Map(BTreeMap::from([("file".to_owned(), Ipld::from(file.cid().expect("a CID")))]));
    let inner_path = store.put(&target(store, ""), Source::LinkedData(inner.clone())).await.expect("put");
    let list = vec![Ipld::Integer(7), Ipld::from(inner_path.cid().expect("a CID"))];
    let outer = Ipld::Map(BTreeMap::from([("list".to_owned(), Ipld::List(list))]));
    let path = store.put(&target(store, ""), Source::LinkedData(outer.clone())).await.expect("put");

    let node = store.open(&path).await.expect("open");
    assert_eq!(node.linked_data().await.expect("linked data"), Some(outer.clone()));
    let block = node.read_at(0, 1000).await.expect("read");
    assert_eq!(node.info().size, block.len() as u64);
    assert_eq!(Some(cid_of(Codec::DagCbor, &block)), path.cid(), "its bytes are its block");

    let walked = below(store, &format!("{}/list/1/file", path.parts.first().expect("a part")));
    assert_eq!(read(store, &walked).await, "at the end");
    let value = below(store, &format!("{}/list/0", path.parts.first().expect("a part")));
    let value = store.open(&value).await.expect("a value within a block");
    assert_eq!((value.linked_data().await.expect("linked data"), value.info().cid), (Some(Ipld::Integer(7)), None));
    for absent in ["list/2", "list/01", "list/0/x", "other", "list/1/file/x"] {
        let absent = below(store, &format!("{}/{absent}", path.parts.first().expect("a part")));
        assert!(!store.has(&absent).await.expect("has"), "{absent}");
    }
}

/// The bytes that `open` reads at the CID of a file or of linked data can be put back there.
pub async fn blocks_go_back_where_they_came_from(store: &dyn Store) {
    let value = Ipld::List(vec![Ipld::Null, Ipld::String("x".to_owned())]);
    let linked = store.put(&target(store, ""), Source::LinkedData(value.clone())).await.expect("put");
    assert_eq!(store.put(&linked, Source::LinkedData(value)).await.expect("as a value"), linked);
    for path in [linked, put(store, "", "small").await, put(store, "", content(2 << 20)).await] {
        let bytes = read(store, &path).await;
        assert!(store.delete(&path).await.expect("delete"));
        assert_eq!(store.put(&path, Source::Bytes(bytes)).await.expect("put back"), path);
        assert!(store.delete(&path).await.expect("delete"), "pinned again");
    }
}

// ---- by place

/// A path whose first part is a CID is not written, whatever stands there.
pub async fn cid_paths_are_not_written(store: &dyn Store) {
    let cid = cid_of(Codec::Raw, b"x");
    for rest in [cid.to_string(), format!("{cid}/a"), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH".to_owned()] {
        let path = below(store, &rest);
        assert_eq!(kind_of(store.put(&path, Source::from(&b"x"[..])).await), ErrorKind::InvalidArgument, "{path}");
        assert_eq!(kind_of(store.delete(&path).await), ErrorKind::InvalidArgument, "{path}");
        assert!(!store.has(&path).await.expect("reading is another matter"), "{path}");
    }
    assert!(links(store, &QfsPath::mount(store.kind())).await.is_empty());
    let further_down = below(store, &format!("a/{cid}"));
    store.put(&further_down, Source::from(&b"x"[..])).await.expect("a name like any other");
}

/// `put` makes the directories on the way, once; nothing else appears beside the file.
pub async fn put_makes_the_directories_it_needs(store: &dyn Store) {
    let path = below(store, "a/b/c.txt");
    for text in ["one", "two"] {
        store.put(&path, Source::Bytes(text.into())).await.expect("put");
        assert_eq!(read(store, &path).await, text);
    }
    let kept = links(store, &below(store, "a/b")).await;
    let expected = BTreeMap::from([("c.txt".to_owned(), Ipld::String(path.to_string()))]);
    assert_eq!(kept, expected, "by name, the path of what stands there");
    assert_eq!(links(store, &QfsPath::mount(store.kind())).await.keys().collect::<Vec<_>>(), ["a"]);
}

/// A file is replaced at one stroke: who has it open goes on reading what was there.
pub async fn an_open_file_outlives_its_replacement(store: &dyn Store) {
    let path = put(store, "file", content(5000)).await;
    let old = store.open(&path).await.expect("open");
    put(store, "file", "new").await;
    assert_eq!(old.read_at(0, 9999).await.expect("read"), content(5000));
    assert_eq!(read(store, &path).await, "new");
    let new = store.open(&path).await.expect("open");
    assert!(store.delete(&path).await.expect("delete"));
    assert_eq!(new.read_at(0, 9999).await.expect("read"), "new");
}

/// A directory is not overwritten, has no bytes, and is deleted only when it is empty; a file is no directory.
pub async fn directories_are_not_files(store: &dyn Store) {
    let file = put(store, "dir/file", "file").await;
    let dir = below(store, "dir");
    assert_eq!(kind_of(store.put(&dir, Source::from(&b"x"[..])).await), ErrorKind::IsDir);
    assert_eq!(kind_of(store.open(&dir).await.expect("open").read_at(0, 1).await), ErrorKind::IsDir);
    assert_eq!(kind_of(store.delete(&dir).await), ErrorKind::NotEmpty);
    let under_file = below(store, "dir/file/x");
    assert_eq!(kind_of(store.put(&under_file, Source::from(&b"x"[..])).await), ErrorKind::NotDir);
    assert!(!store.delete(&under_file).await.expect("there is nothing"));
    assert!(!store.delete(&below(store, "no/such/file")).await.expect("there is nothing"));
    assert!(store.delete(&file).await.expect("delete"));
    assert!(store.delete(&dir).await.expect("empty now"));
    assert!(links(store, &QfsPath::mount(store.kind())).await.is_empty());
}

/// Names are bytes, not text: what is not UTF-8 is put, listed (under a key that says so) and opened.
pub async fn names_are_bytes(store: &dyn Store) {
    let names: [(&[u8], &str); 4] =
        [(b"\xff\xfe", "\0fffe"), ("\u{fc}".as_bytes(), "ü"), (b" ", " "), (b"a\nb", "a\nb")];
    for (name, key) in names {
        let name = Name::new(name).expect("a name");
        let path = QfsPath::mount(store.kind()).join(&name);
        store.put(&path, Source::from(&b"x"[..])).await.expect("put");
        assert_eq!(read(store, &path).await, "x");
        assert!(links(store, &QfsPath::mount(store.kind())).await.contains_key(key), "{name:?}");
    }
}

/// A store of plain files does not pretend to hold linked data.
pub async fn linked_data_needs_content(store: &dyn Store) {
    let error = kind_of(store.put(&target(store, "linked"), Source::LinkedData(Ipld::Null)).await);
    assert_eq!(error, ErrorKind::Unsupported);
    assert!(links(store, &QfsPath::mount(store.kind())).await.is_empty());
}
