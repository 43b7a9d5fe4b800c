//! Whole flists: the container of an `.flist`, the directories in it, and the tables of an `.fl`.

use std::fs;

use muxfs::testing::fault::Dice;
use rusqlite::{Connection, params};

use crate::{
    fuzz,
    made::{BLOCK_LEN, WRONG_LENS, World, damage, gunzip, gzip, header, octal, with_checksum},
};

/// How many inputs are tried where nobody says: each is a file that is written and opened.
const COUNT: u64 = 1000;

/// The tar in an `.flist`, from the header of the database on: before that is one of `./` alone.
fn tar_of(packed: &[u8]) -> Vec<u8> {
    let tar = gunzip(packed);
    assert!(tar[BLOCK_LEN..].starts_with(b"./flistdb.sqlite3"), "it is made otherwise");
    tar[BLOCK_LEN..].to_vec()
}

/// The database behind that header.
fn database_of(tar: &[u8]) -> Vec<u8> {
    let len = std::str::from_utf8(&tar[124..135]).expect("digits");
    let len = usize::from_str_radix(len, 8).expect("octal digits");
    tar[BLOCK_LEN..BLOCK_LEN + len].to_vec()
}

fn archive(database: &[u8]) -> Vec<u8> {
    let mut tar = header(b"flistdb.sqlite3", b'0', b"", &octal(database.len())).to_vec();
    tar.extend(database);
    tar.resize(tar.len().next_multiple_of(BLOCK_LEN) + 2 * BLOCK_LEN, 0);
    gzip(&tar)
}

/// Gzip and tar around the database: other names, lengths, kinds and files in front, packed again or damaged as it is packed.
#[test]
fn containers() {
    let world = World::new();
    let packed = fs::read(world.create(&world.path("source"), "good.flist").expect("made")).expect("read");
    let tar = tar_of(&packed);
    assert_eq!(world.attempt(&packed), "read");
    fuzz(COUNT, &["read", "refused"], move |dice| {
        let mut tar = tar.clone();
        if dice.roll(4) == 0 {
            let mut packed = packed.clone();
            damage(dice, &mut packed);
            return world.attempt(&packed);
        }
        let mut first: [u8; BLOCK_LEN] = *tar.first_chunk().expect("a header");
        match dice.roll(5) {
            0 => {
                let name: &[u8] =
                    [&b"../flistdb.sqlite3"[..], b"/flistdb.sqlite3", b"./flistdb.sqlite3", b"a/../../x"][dice.roll(4)];
                first[..100].fill(0);
                first[..name.len()].copy_from_slice(name);
            }
            1 => first[124..136].copy_from_slice(WRONG_LENS[dice.roll(WRONG_LENS.len())]),
            2 => first[156] = b"01235LKxgS\0"[dice.roll(11)],
            3 => first[dice.roll(BLOCK_LEN)] ^= 1 << dice.roll(8),
            _ => {}
        }
        first = with_checksum(first);
        tar[..BLOCK_LEN].copy_from_slice(&first);
        if dice.roll(3) == 0 {
            let kind = b"05LKxgS2"[dice.roll(8)];
            let len = dice.roll(3000);
            let name: &[u8] = [&b"../../escaped"[..], b"router.yaml", b"././@LongLink"][dice.roll(3)];
            let mut before = header(name, kind, b"/etc/passwd", &octal(len)).to_vec();
            before.extend(dice.bytes(len));
            before.resize(before.len().next_multiple_of(BLOCK_LEN), 0);
            tar.splice(0..0, before);
        }
        if dice.roll(4) == 0 {
            tar.truncate(dice.roll(tar.len()));
        }
        world.attempt(&gzip(&tar))
    });
}

/// Directories of Cap'n Proto, rights and metadata: each value of the table, under its own key or that of another.
#[test]
fn directories() {
    let world = World::new();
    let packed = fs::read(world.create(&world.path("source"), "good.flist").expect("made")).expect("read");
    let database = database_of(&tar_of(&packed));
    assert_eq!(world.attempt(&archive(&database)), "read");
    let path = world.path("made").join("database");
    fuzz(COUNT, &["read", "refused"], move |dice| {
        fs::write(&path, &database).expect("written");
        let connection = Connection::open(&path).expect("opens");
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").expect("set");
        let rows = values(&connection);
        let (key, value) = &rows[dice.roll(rows.len())];
        let mut value = value.clone();
        if dice.roll(6) == 0 {
            value.clone_from(&rows[dice.roll(rows.len())].1);
        }
        if dice.roll(10) > 0 {
            damage(dice, &mut value);
        }
        let update = "UPDATE entries SET value = ?2 WHERE key = ?1";
        assert_eq!(connection.execute(update, params![key, value]).expect("updated"), 1);
        drop(connection);
        world.attempt(&archive(&fs::read(&path).expect("read")))
    });
}

fn values(connection: &Connection) -> Vec<(String, Vec<u8>)> {
    let mut statement = connection.prepare("SELECT key, value FROM entries ORDER BY key").expect("a table");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("asked");
    rows.collect::<Result<_, _>>().expect("read")
}

/// Tables of an `.fl`: other values in any place, and pages of the file that are not what SQLite wrote.
#[test]
fn tables() {
    let world = World::new();
    let good = fs::read(world.create(&world.path("source"), "good.fl").expect("made")).expect("read");
    assert_eq!(world.attempt(&good), "read");
    let path = world.path("made").join("database");
    fuzz(COUNT, &["read", "refused"], move |dice| {
        let mut bytes = good.clone();
        if dice.roll(3) == 0 {
            damage(dice, &mut bytes);
            return world.attempt(&bytes);
        }
        fs::write(&path, &bytes).expect("written");
        let connection = Connection::open(&path).expect("opens");
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").expect("set");
        for _ in 0..=dice.roll(2) {
            let sql = change(dice);
            // One that breaks a rule of the table is none.
            connection.execute_batch(&sql).ok();
        }
        drop(connection);
        world.attempt(&fs::read(&path).expect("read"))
    });
}

/// Something that a table may say.
fn change(dice: &mut Dice) -> String {
    const COLUMNS: [&str; 9] = ["ino", "parent", "name", "size", "uid", "gid", "mode", "rdev", "mtime"];
    const VALUES: [&str; 16] = [
        "0",
        "1",
        "2",
        "3",
        "-1",
        "4294967296",
        "9223372036854775807",
        "'..'",
        "'a/b'",
        "''",
        "NULL",
        "x'00ff'",
        "16877",
        "33188",
        "41471",
        "zeroblob(70000)",
    ];
    let (column, value) = (COLUMNS[dice.roll(COLUMNS.len())], VALUES[dice.roll(VALUES.len())]);
    let ino = dice.roll(9);
    match dice.roll(10) {
        0 => format!("UPDATE block SET id = {value} WHERE rowid = {ino}"),
        1 => format!("UPDATE block SET ino = {value} WHERE rowid = {ino}"),
        2 => format!("UPDATE extra SET data = {value}"),
        3 => format!("INSERT INTO route VALUES ({value}, {ino}, 'dir:///x')"),
        4 => format!("INSERT OR REPLACE INTO tag VALUES ({value}, {value})"),
        5 => format!("DELETE FROM inode WHERE ino = {ino}"),
        6 => format!("CREATE TABLE more (x DEFAULT ({value}))"),
        _ => format!("UPDATE inode SET {column} = {value} WHERE ino = {ino}"),
    }
}
