//! Goal: whatever an flist says, it is read or refused with an error that says what and where; nothing hangs, panics, or
//! takes more memory than it may.
//! Method: good flists of both formats with one thing wrong, and with random bytes changed.

use muxfs::{ErrorKind, FileKind, Result, testing::fault::Dice};
use rusqlite::{Connection, params};

use super::made::{RIGHTS_KEY, What, World, archive, rights};
use crate::{
    Flist, Inode, NodeId,
    chunk::{blake2b_128, hex},
    values::AllValues,
    write::words::Words,
};

fn nodes() -> Vec<(String, What)> {
    vec![
        ("a".into(), What::Dir),
        ("a/b".into(), What::Dir),
        ("a/b/file".into(), What::File(vec![7; 600_000])),
        ("link".into(), What::Symlink(b"a/b".to_vec())),
    ]
}

/// Reads everything there is to read but chunks, and says how many nodes that was.
fn walk(flist: &Flist) -> Result<usize> {
    let (mut dirs, mut count) = (vec![flist.root()?], 1);
    flist.metadata()?;
    flist.routes()?;
    while let Some(dir) = dirs.pop() {
        for entry in flist.dir(&dir)?.entries {
            count += 1;
            assert!(count < 1000, "it has no end");
            match entry.inode.kind {
                FileKind::Dir => dirs.push(entry.inode),
                FileKind::File => drop(flist.chunks(entry.inode.id, 0, 10)?),
                _ => {}
            }
        }
    }
    Ok(count)
}

/// What comes of an `.fl` with something wrong.
fn fl(sql: &str) -> Result<usize> {
    let world = World::new();
    world.fl("x.fl", &nodes(), |database| database.execute_batch(sql).expect(sql));
    walk(&world.open("x.fl")?)
}

/// What comes of an `.flist` with something wrong.
fn flist(change: impl FnOnce(&Connection)) -> Result<usize> {
    let world = World::new();
    world.flist("x.flist", &nodes(), change);
    walk(&world.open("x.flist")?)
}

#[track_caller]
fn refused(done: Result<usize>, what: &str) {
    let error = done.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
    let text = format!("{error:#}");
    assert!(text.contains(what) && text.contains("x.fl"), "{text} does not name {what}");
}

#[test]
fn good_ones_are_read() {
    assert_eq!(fl("").expect("good"), 5);
    assert_eq!(flist(|_| {}).expect("good"), 5);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["'../x'", "'..'", "'.'", "''", "'a/b'", "x'6100'", "NULL"] {
        refused(fl(&format!("UPDATE inode SET name = {name} WHERE ino = 4")), "inode 4");
    }
    let long = "x".repeat(256);
    refused(fl(&format!("UPDATE inode SET name = '{long}' WHERE ino = 4")), "at most 255");
    for name in ["..", "a/b", "", "."] {
        let world = World::new();
        let nodes = [("file".to_owned(), What::File(Vec::new())), ("file2".to_owned(), What::File(Vec::new()))];
        world.flist("x.flist", &nodes, |database| {
            let mut words = Words::default();
            let root = words.root(2, 5);
            words.text(root + 3, b"");
            words.text(root + 6, RIGHTS_KEY.as_bytes());
            let list = words.structs(root + 4, 1, 3, 3);
            words.text(list + 3, name.as_bytes());
            replace(database, b"", &words.message());
        });
        refused(world.open("x.flist").and_then(|flist| walk(&flist)), "entry 0 of directory /");
    }
}

/// Puts another value in the place of a directory.
fn replace(database: &Connection, path: &[u8], value: &[u8]) {
    let update = "UPDATE entries SET value = ?2 WHERE key = ?1";
    assert_eq!(database.execute(update, params![hex(&blake2b_128(path)), value]).expect("updated"), 1);
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    refused(fl("UPDATE inode SET name = 'a' WHERE ino = 5"), "twice");
}

#[test]
fn loops_have_an_end() {
    // The root below itself, and two directories in each other.
    assert_eq!(fl("UPDATE inode SET parent = 1 WHERE ino = 1").expect("it ends"), 5);
    assert_eq!(fl("UPDATE inode SET parent = 3 WHERE ino = 1").expect("it ends"), 5);
    assert_eq!(fl("UPDATE inode SET parent = 3 WHERE ino = 2").expect("it ends"), 2);
    let world = World::new();
    world.fl("x.fl", &nodes(), |database| {
        database.execute_batch("UPDATE inode SET parent = 2 WHERE ino = 2").expect("set");
    });
    world.open("x.fl").expect("opens").parent(NodeId::Row(2)).expect_err("it is in itself");
    // A directory that is said to be the one above it: its path is not what it should be.
    let done = flist(|database| {
        let above = "UPDATE entries SET value = (SELECT value FROM entries WHERE key = ?1) WHERE key = ?2";
        let key = |path: &[u8]| hex(&blake2b_128(path));
        database.execute(above, [key(b"a"), key(b"a/b")]).expect("set");
    });
    refused(done, "whose key is another");
}

/// A table of inodes without a key can have a number twice, and an index other rows than its table.
#[test]
fn an_inode_is_in_one_directory() {
    let without_key = "CREATE TABLE other AS SELECT * FROM inode; DROP TABLE inode; ALTER TABLE other RENAME TO inode;";
    let twice =
        "INSERT INTO inode SELECT ino, 3, 'again', size, uid, gid, mode, rdev, ctime, mtime FROM inode WHERE ino = 2;";
    assert_eq!(fl(&format!("{without_key} {twice}")).expect("it ends"), 6);
    // The index of a table that has the symlink elsewhere, as if it were one of the inodes.
    let done = fl("CREATE TABLE other AS SELECT * FROM inode; UPDATE other SET parent = 2 WHERE ino = 5;
        DROP INDEX parents; CREATE INDEX parents ON other (parent); PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET tbl_name = 'inode', sql = 'CREATE INDEX parents ON inode (parent)'
            WHERE name = 'parents'");
    refused(done, "inode 5");
}

#[test]
fn a_directory_under_another_key_than_its_own_is_refused() {
    let done = flist(|database| {
        let mut words = Words::default();
        let root = words.root(2, 5);
        words.text(root + 3, b"");
        words.text(root + 6, RIGHTS_KEY.as_bytes());
        let list = words.structs(root + 4, 1, 3, 3);
        words.text(list + 3, b"x");
        let dir = words.object(list + 4, 0, 1);
        words.text(dir, hex(&blake2b_128(b"")).as_bytes());
        replace(database, b"", &words.message());
    });
    refused(done, "x in directory /");
}

#[test]
fn numbers_that_nothing_has_are_refused() {
    for (column, number, what) in [
        ("size", "-1", "size"),
        ("uid", "-1", "uid"),
        ("gid", "4294967296", "gid"),
        ("mode", "0", "mode"),
        ("mtime", "-5", "mtime"),
        ("mode", "'x'", "inode"),
        ("mode", "40960", "leads nowhere"),
    ] {
        refused(fl(&format!("UPDATE inode SET {column} = {number} WHERE ino = 4")), what);
    }
    refused(fl("UPDATE inode SET mode = 33188 WHERE ino = 1"), "root");
    refused(fl("DELETE FROM inode WHERE ino = 1"), "root");
    refused(fl("DELETE FROM extra"), "leads nowhere");
    refused(fl("UPDATE block SET key = x'00'"), "has 1 bytes");
    refused(fl("INSERT INTO route VALUES (0, 256, 'dir:///x')"), "0 to 255");
    let done = flist(|database| {
        let update = "UPDATE entries SET value = ?2 WHERE key = ?1";
        database.execute(update, params![RIGHTS_KEY, rights(0o644, 1 << 40, 0)]).expect("set");
    });
    refused(done, "its rights");
    refused(flist(|database| drop(database.execute("INSERT INTO metadata VALUES ('backend', '{')", []))), "backend");
}

#[test]
fn what_is_missing_is_named() {
    let key = hex(&blake2b_128(b"a/b"));
    refused(flist(|database| drop(database.execute("DELETE FROM entries WHERE key = ?1", [&key]))), &key);
    refused(flist(|database| drop(database.execute("UPDATE entries SET value = x'00'", []))), "segments");
    // Rights that are not there are those of nobody.
    assert_eq!(
        flist(|database| drop(database.execute("DELETE FROM entries WHERE key = ?1", [RIGHTS_KEY]))).expect("read"),
        5
    );
}

/// A schema is a program: what is no plain table is not run.
#[test]
fn views_in_the_place_of_tables_are_no_flist() {
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, x";
    for table in ["inode", "block", "extra"] {
        refused(fl(&format!("DROP TABLE {table}; CREATE VIEW {table} AS {endless} FROM n")), "no flist");
    }
    assert_eq!(fl(&format!("DROP TABLE tag; CREATE VIEW tag AS {endless} FROM n")).expect("without tags"), 5);
    let done = flist(|database| {
        database.execute_batch(&format!("DROP TABLE entries; CREATE VIEW entries AS {endless} FROM n")).expect("made");
    });
    refused(done, "no flist");
}

/// What would be computed where it is read is not: neither a virtual table, nor a column that its maker wrote a program for.
#[test]
fn what_is_computed_is_no_flist() {
    let column =
        "DROP TABLE extra; CREATE TABLE extra (ino INTEGER, data TEXT AS (replace(hex(zeroblob(9999)), '0', 'x')))";
    refused(fl(column), "no flist");
    let hidden =
        "DROP TABLE inode; CREATE TABLE inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime, RowID)";
    refused(fl(hidden), "no flist");
    let named = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE extra USING fts5(ino, data)' \
        WHERE name = 'extra'";
    refused(fl(named), "VIRTUAL");
}

/// To read a schema takes longer than its length says, and nothing ends it: how long it is is found out before.
#[test]
fn long_schemas_are_refused_before_they_are_read() {
    let tables =
        |count: usize| (0..count).map(|number| format!("CREATE TABLE t{number} (x);")).collect::<Vec<_>>().concat();
    assert_eq!(fl(&tables(40)).expect("some tables more"), 5);
    for count in [80, 2000] {
        refused(fl(&tables(count)), "its schema");
    }
    let column = "x".repeat(20_000);
    refused(fl(&format!("CREATE TABLE t ({column})")), "x.fl");
}

#[test]
fn what_is_no_flist_is_refused() {
    let world = World::new();
    let path = |name: &str| world.path("flists").join(name);
    for (name, bytes) in [
        ("x.fl", &b""[..]),
        ("x.fl1", b"hello"),
        ("x.fl2", b"SQLite format 3\0"),
        ("x.fl3", b"\x1f\x8b"),
        ("x.fl4", &archive(b"no database")),
        ("x.fl5", &archive(b"")),
    ] {
        std::fs::write(path(name), bytes).expect("written");
        let error = world.open(name).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error:#}");
    }
    assert_eq!(world.open("absent.fl").expect_err("absent").kind(), ErrorKind::NotFound);
    std::fs::create_dir(path("dir.fl")).expect("made");
    assert_eq!(world.open("dir.fl").expect_err("a directory").kind(), ErrorKind::InvalidArgument);
    assert_eq!(world.path("scratch").read_dir().expect("listed").count(), 0, "nothing is left");
}

#[test]
fn truncated_databases_are_refused() {
    let world = World::new();
    world.fl("x.fl", &nodes(), |_| {});
    let bytes = std::fs::read(world.path("flists").join("x.fl")).expect("read");
    for len in (0..bytes.len()).step_by(4096).chain([100, 5000]) {
        std::fs::write(world.path("flists").join("cut.fl"), &bytes[..len]).expect("written");
        world.open("cut.fl").and_then(|flist| walk(&flist)).expect_err("it is not all there");
    }
}

/// Of a damaged database some is read and some refused; nothing else comes of it.
#[test]
fn damaged_flists_never_panic() {
    let world = World::new();
    world.fl("x.fl", &nodes(), |_| {});
    let path = world.path("flists").join("x.fl");
    let bytes = std::fs::read(&path).expect("read");
    let mut dice = Dice::new(3);
    for _ in 0..150 {
        let mut damaged = bytes.clone();
        for _ in 0..=dice.roll(20) {
            let at = dice.roll(damaged.len());
            damaged[at] = u8::try_from(dice.roll(256)).expect("a byte");
        }
        std::fs::write(&path, damaged).expect("written");
        world.open("x.fl").and_then(|flist| walk(&flist)).ok();
    }
    for seed in 0..50 {
        let done = flist(|database| {
            let mut dice = Dice::new(seed);
            let key = hex(&blake2b_128([&b"a"[..], b"a/b", b""][dice.roll(3)]));
            let value: Vec<u8> = database
                .query_row("SELECT value FROM entries WHERE key = ?1", [&key], |row| row.get(0))
                .expect("there");
            let mut damaged = value;
            for _ in 0..=dice.roll(6) {
                let at = dice.roll(damaged.len());
                damaged[at] = u8::try_from(dice.roll(256)).expect("a byte");
            }
            database.execute("UPDATE entries SET value = ?2 WHERE key = ?1", params![key, damaged]).expect("set");
        });
        done.ok();
    }
}

/// A node of one flist is none of another.
#[test]
fn ids_of_the_other_format_are_not_there() {
    let world = World::new();
    world.fl("x.fl", &nodes(), |_| {});
    let flist = world.open("x.fl").expect("opens");
    let entry = NodeId::Entry { dir: [0; 16], index: 0 };
    assert!(flist.inode(entry).expect("reads").is_none());
    assert!(flist.inode(NodeId::Row(99)).expect("reads").is_none());
    let root: Inode = flist.root().expect("a root");
    assert_eq!(flist.chunks(root.id, 0, 1).expect_err("no file").kind(), ErrorKind::InvalidArgument);
}

/// Who looks at the entries of a long directory one by one would read all of it for each.
#[test]
fn a_long_directory_is_read_once() {
    let world = World::new();
    let target = vec![b'x'; 4000];
    let link = |number: u32| (format!("a/{number}"), What::Symlink(target.clone()));
    let mut nodes = vec![("a".to_owned(), What::Dir), ("b".to_owned(), What::Dir)];
    nodes.extend((0..2000).map(link));
    world.flist("x.flist", &nodes, |_| {});
    let values = AllValues::default();
    let path = world.path("flists").join("x.flist");
    let flist = Flist::open_among(&path, &world.path("scratch"), None, &values).expect("opens");
    let find = |dir: &Inode, text: &str| {
        let name = muxfs::Name::new(text.as_bytes()).expect("a name");
        flist.dir(dir).expect("read").find(&name).expect("there").1.inode.clone()
    };
    let root = flist.root().expect("a root");
    let (a, b) = (find(&root, "a"), find(&root, "b"));
    let link = find(&a, "7");
    let values = values.of(flist.id());
    let kept = || values.get(&blake2b_128(b"a")).expect("it is remembered");
    let before = kept();
    assert!(before.len() > 8_000_000, "it is long");
    for _ in 0..10 {
        flist.dir(&b).expect("read");
        flist.inode(link.id).expect("read").expect("there");
    }
    assert!(std::sync::Arc::ptr_eq(&before, &kept()), "it was read again");
}
