//! Uploads: a name shows a whole file or none, whatever breaks, and what broke can be resumed.
//!
//! Method: a raw client breaks off at a chosen point; the model tells what is there, hidden names included.

mod raw;

use std::{sync::Arc, time::Duration};

use muxfs::{
    testing::{Clock, model::ModelFs},
    vfs::Vfs,
};
use muxfs_ftp::Options;
use raw::{Raw, at_rest, make_file, model, model_on, names, options, start};
use tokio::io::AsyncWriteExt;

/// What the server writes at once: after as many bytes it is known how far an upload is.
const PIECE: usize = 1024 * 1024;

/// Uploads two pieces of a new file and loses the control connection; `raw` is another session of the same user.
///
/// Returns when the server has ended that session: what it has not done by then it does not do.
async fn break_off(fs: &Arc<ModelFs>, raw: &mut Raw, name: &str, first: &[u8]) {
    assert_eq!(first.len() % PIECE, 0);
    raw.want("NOOP", 200).await;
    let before = fs.lease_count();
    let mut dying = Raw::enter(raw.server).await;
    let mut data = dying.begin(&format!("STOR {name}")).await;
    data.write_all(first).await.expect("sends");
    size_becomes(raw, name, first.len()).await;
    drop(dying);
    // The data connection ends well, as far as it knows.
    drop(data);
    let ended = async {
        while fs.lease_count() > before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the session ends");
}

/// Waits for an upload to be that far.
async fn size_becomes(raw: &mut Raw, name: &str, size: usize) {
    let wait = async {
        while raw.ask(&format!("SIZE {name}")).await != (213, format!("213 {size}\r\n")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the partial is as long as what arrived");
}

#[tokio::test]
async fn a_control_connection_that_dies_makes_no_file_and_the_upload_is_resumed() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let content: Vec<u8> = (0..3_000_000u32).map(|index| index.to_be_bytes()[2] ^ index.to_be_bytes()[3]).collect();
    let (first, rest) = content.split_at(2 * PIECE);
    let mut other = Raw::enter(server.local_addr()).await;
    break_off(&fs, &mut other, "new.bin", first).await;
    assert!(other.lines("NLST").await.is_empty(), "a partial is in no listing");
    assert!(other.lines("LIST -la").await.is_empty());
    assert!(other.lines("MLSD").await.is_empty());
    other.passive().await;
    other.want("RETR new.bin", 550).await;
    assert!(other.want("MLST new.bin", 250).await.contains("size=2097152;"));
    let mut bob = Raw::enter_as(server.local_addr(), "bob", "x").await;
    bob.want("SIZE new.bin", 550).await;

    other.want("REST 2097152", 350).await;
    assert_eq!(other.put("STOR new.bin", rest).await, 226);
    assert!(other.get("RETR new.bin").await == content, "other bytes came back");
    assert_eq!(names(&fs).await, ["new.bin"]);
    drop((other, bob));
    at_rest(&fs).await;
}

#[tokio::test]
async fn appending_to_what_broke_off_completes_it() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let mut data = raw.begin("STOR new").await;
    data.write_all(b"one ").await.expect("sends");
    raw.send(b"\xff\xf4\xff\xf2ABOR\r\n").await;
    assert_eq!((raw.reply().await.0, raw.reply().await.0), (426, 226));
    drop(data);
    raw.want("RNFR new", 550).await;
    // Whether the bytes had been read when the ABOR came, the size tells.
    let left = raw.ask("SIZE new").await;
    let want = if left.0 == 213 { b"one two".as_slice() } else { b"two" };
    assert_eq!(raw.put("APPE new", b"two").await, 226);
    assert_eq!(raw.get("RETR new").await, want);
}

#[tokio::test]
async fn abor_that_overtakes_the_data_connection_is_answered_as_any_other() {
    // A client's connection may still wait to be accepted when its ABOR is read. It was told that the data connection
    // did not come about (425), which ftplib takes for a failure of ABOR itself.
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    raw.want("EPSV", 229).await;
    raw.want("STOR late", 150).await;
    raw.send(b"ABOR\r\n").await;
    assert_eq!((raw.reply().await.0, raw.reply().await.0), (426, 226));
    raw.want("NOOP", 200).await;
    assert!(names(&fs).await.is_empty(), "nothing arrived, so nothing is left");
}

#[tokio::test]
async fn an_overwrite_that_breaks_off_leaves_the_old_file_and_nothing_else() {
    let fs = model().await;
    make_file(&fs, "old", b"the old content").await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let mut data = raw.begin("STOR old").await;
    data.write_all(b"new").await.expect("sends");
    raw.send(b"ABOR\r\n").await;
    assert_eq!((raw.reply().await.0, raw.reply().await.0), (426, 226));
    assert_eq!(raw.get("RETR old").await, b"the old content");
    assert_eq!(names(&fs).await, ["old"]);

    let mut dying = Raw::enter(server.local_addr()).await;
    let mut data = dying.begin("STOR old").await;
    data.write_all(b"new").await.expect("sends");
    drop((dying, data));
    let settled = async {
        while names(&fs).await != ["old"] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("the partial goes");
    assert_eq!(raw.get("RETR old").await, b"the old content");
}

#[tokio::test]
async fn an_overwrite_keeps_mode_and_replaces_at_one_stroke() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    assert_eq!(raw.put("STOR f", b"a longer first content").await, 226);
    raw.want("SITE CHMOD 640 f", 200).await;
    let mut data = raw.begin("STOR f").await;
    data.write_all(b"second").await.expect("sends");
    let mut reader = Raw::enter(server.local_addr()).await;
    assert_eq!(reader.get("RETR f").await, b"a longer first content", "while the new one comes");
    drop(data);
    assert_eq!(raw.reply().await.0, 226);
    assert_eq!(reader.get("RETR f").await, b"second");
    assert!(raw.want("MLST f", 250).await.contains("unix.mode=0640;"));
}

#[tokio::test]
async fn restarting_within_a_file_ends_it_where_the_upload_ends() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    assert_eq!(raw.put("STOR f", b"0123456789").await, 226);
    raw.want("REST 4", 350).await;
    assert_eq!(raw.put("STOR f", b"ab").await, 226);
    assert_eq!(raw.get("RETR f").await, b"0123ab");
    assert_eq!(raw.put("APPE f", b"cd").await, 226);
    assert_eq!(raw.get("RETR f").await, b"0123abcd");
    raw.want("REST 2", 350).await;
    assert_eq!(raw.get("RETR f").await, b"23abcd");
    for command in ["STOR f", "RETR f", "STOR none"] {
        raw.passive().await;
        raw.want("REST 9", 350).await;
        raw.want(command, 554).await;
    }
    // An offset is for the next transfer alone, refused or not.
    assert_eq!(raw.get("RETR f").await, b"0123abcd");
    raw.want("REST 3", 350).await;
    raw.passive().await;
    raw.want("RETR none", 550).await;
    assert_eq!(raw.put("STOR f", b"xy").await, 226);
    assert_eq!(raw.get("RETR f").await, b"xy");
}

#[tokio::test]
async fn a_partial_expires_and_is_removed_when_its_directory_is_listed() {
    let clock = Clock::default();
    let fs = model_on(clock.env(1)).await;
    let server = start(fs.clone(), Options { env: clock.env(2), ..options() }).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    for name in ["a", "b"] {
        break_off(&fs, &mut raw, name, &vec![7; PIECE]).await;
    }
    clock.advance(Duration::from_hours(23));
    raw.want("SIZE a", 213).await;
    clock.advance(Duration::from_hours(2));
    raw.want("SIZE a", 550).await;
    raw.passive().await;
    raw.want("REST 4", 350).await;
    raw.want("STOR a", 554).await;
    assert_eq!(names(&fs).await.len(), 2);
    assert!(raw.lines("NLST").await.is_empty());
    assert!(names(&fs).await.is_empty(), "listing removed them");
}

#[tokio::test]
async fn a_directory_that_looks_empty_can_be_removed_and_a_leftover_deleted() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    raw.want("MKD d", 257).await;
    for name in ["d/a", "b"] {
        break_off(&fs, &mut raw, name, &vec![7; PIECE]).await;
    }
    raw.want("DELE b", 250).await;
    raw.want("SIZE b", 550).await;
    raw.want("DELE b", 550).await;
    raw.want("RMD d", 250).await;
    assert!(names(&fs).await.is_empty());
    raw.want("MKD d", 257).await;
    assert_eq!(raw.put("STOR d/x", b"x").await, 226);
    raw.want("RMD d", 550).await;
    assert_eq!(raw.get("RETR d/x").await, b"x");
}

#[tokio::test]
async fn the_same_user_takes_an_upload_over_and_another_user_has_to_wait() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut first = Raw::enter(server.local_addr()).await;
    let mut data = first.begin("STOR f").await;
    data.write_all(b"stale").await.expect("sends");
    let mut again = Raw::enter(server.local_addr()).await;
    assert_eq!(again.put("STOR f", b"fresh").await, 226);
    assert_eq!(first.reply().await.0, 426, "the older one is broken off");
    assert_eq!(again.get("RETR f").await, b"fresh");
    drop(data);

    let mut data = first.begin("STOR g").await;
    data.write_all(b"mine").await.expect("sends");
    let mut bob = Raw::enter_as(server.local_addr(), "bob", "x").await;
    bob.passive().await;
    bob.want("STOR g", 450).await;
    drop(data);
    assert_eq!(first.reply().await.0, 226);
    assert_eq!(names(&fs).await.len(), 2);
}

#[tokio::test]
async fn a_reply_of_226_comes_after_a_sync() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let mut synced = fs.sync_count();
    for command in ["STOR f", "APPE f", "STOR f", "STOU"] {
        assert_eq!(raw.put(command, b"x").await, 226);
        assert!(fs.sync_count() > synced, "{command}");
        synced = fs.sync_count();
    }
    for (command, code) in [("MKD d", 257), ("RMD d", 250), ("SITE CHMOD 600 f", 200), ("DELE f", 250)] {
        raw.want(command, code).await;
        assert!(fs.sync_count() > synced, "{command}");
        synced = fs.sync_count();
    }
}

/// Where names are not promised an upload is synced all the same, and nothing else is.
#[tokio::test]
async fn names_of_an_excepted_file_system_wait_for_no_sync() {
    let fs = model().await;
    let excepted = fs.getattr(fs.root()).await.expect("the root").fsid;
    let server = start(fs.clone(), Options { sync_names_except: vec![excepted], ..options() }).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    for command in ["STOR f", "APPE f", "STOR f", "STOU"] {
        let before = fs.sync_count();
        assert_eq!(raw.put(command, b"x").await, 226);
        assert_eq!(fs.sync_count(), before + 1, "{command}: the bytes");
    }
    let before = fs.sync_count();
    for (command, code) in [("MKD d", 257), ("RMD d", 250), ("SITE CHMOD 600 f", 200), ("DELE f", 250)] {
        raw.want(command, code).await;
    }
    assert_eq!(fs.sync_count(), before);
}

#[tokio::test]
async fn the_names_of_partials_are_nobodys() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    raw.passive().await;
    raw.want("STOR .muxfs-part.x", 553).await;
    raw.want("MKD .muxfs-part.x", 553).await;
    raw.want("DELE .muxfs-part.x", 553).await;
    raw::make_link(&fs, "link", ".muxfs-part.x").await;
    raw.want("SIZE link", 550).await;
}
