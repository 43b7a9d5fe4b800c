//! What 0-db 2.0.7 replied, command by command, is what this server replies.
//!
//! `spec/vectors/zdb-transcript.json` was recorded from 0-db itself. Masked are places in files (cursors, places of history,
//! offsets), times, sizes on disk, paths, challenges and the versions of the engine; everything else is compared, byte for byte.
//! A place that a later command names is the one that this server gave.

mod node;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use muxfs_zdb::{DirHome, EngineOptions};
use serde_json::Value;

use self::node::{Node, Reply, options};

/// As long as the data files of the 0-db were.
const FILE_LEN_MAX: u32 = 512 << 10;

/// Lines of `INFO` and `NSINFO` of which the names alone are compared.
const MASKED_LINES: [&str; 30] = [
    "engine_revision",
    "instance_id",
    "boot_time",
    "uptime",
    "clients_lifetime",
    "commands_executed",
    "commands_failed",
    "index_disk_read_bytes",
    "index_disk_read_mb",
    "index_disk_write_bytes",
    "index_disk_write_mb",
    "data_disk_read_bytes",
    "data_disk_read_mb",
    "data_disk_write_bytes",
    "data_disk_write_mb",
    "network_rx_bytes",
    "network_rx_mb",
    "network_tx_bytes",
    "network_tx_mb",
    "index_size_bytes",
    "index_size_kb",
    "index_disk_freespace_bytes",
    "index_disk_freespace_mb",
    "data_disk_freespace_bytes",
    "data_disk_freespace_mb",
    "data_path",
    "data_active",
    "index_path",
    "index_active",
    "data_current_offset",
];

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).expect("ASCII"), 16).expect("hex"))
        .collect()
}

/// An argument: hex, or how long it is, of `k` as it was recorded.
fn argument(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("text");
    match text.strip_prefix("len:") {
        Some(len) => vec![b'k'; len.parse().expect("a number")],
        None => unhex(text),
    }
}

/// A reply as it was recorded: `+`, `-` and `:` as they are, bulk strings in hex, `null`, arrays.
fn recorded(value: &Value) -> Reply {
    match value {
        Value::Null => Reply::Nil,
        Value::Array(items) => Reply::Array(items.iter().map(recorded).collect()),
        Value::String(text) => match text.split_at_checked(1) {
            Some(("+", text)) => Reply::Simple(text.into()),
            Some(("-", text)) => Reply::Error(text.into()),
            Some((":", number)) => Reply::Number(number.parse().expect("a number")),
            _ => Reply::Bulk(unhex(text)),
        },
        other => panic!("{other}"),
    }
}

fn masked_bulk(reply: Reply, len: usize) -> Reply {
    match reply {
        Reply::Bulk(bytes) => {
            assert_eq!(bytes.len(), len);
            Reply::bulk("masked")
        }
        other => other,
    }
}

/// What of a reply is to be the same.
fn masked(command: &str, arguments: usize, reply: Reply) -> Reply {
    let items = |reply: Reply| match reply {
        Reply::Array(items) => Ok(items),
        other => Err(other),
    };
    match command {
        "KEYCUR" => masked_bulk(reply, 17),
        "AUTH" if arguments == 3 => match reply {
            Reply::Simple(challenge) => {
                assert!(challenge.len() == 16 && challenge.bytes().all(|digit| digit.is_ascii_hexdigit()));
                Reply::Simple("masked".into())
            }
            other => other,
        },
        "HISTORY" => items(reply).map_or_else(
            |other| other,
            |items| {
                let [previous, timestamp, value] = items.try_into().expect("three");
                assert!(timestamp.text().parse::<u32>().is_ok());
                Reply::Array(vec![masked_bulk(previous, 8), value])
            },
        ),
        "SCAN" | "RSCAN" => items(reply).map_or_else(
            |other| other,
            |items| {
                let [next, listed] = items.try_into().expect("two");
                let entries = listed.items().into_iter().map(|entry| {
                    let [key, len, timestamp] = entry.items().try_into().expect("three");
                    assert!(matches!(timestamp, Reply::Number(_)));
                    Reply::Array(vec![key, len])
                });
                let entries = Reply::Array(entries.collect());
                Reply::Array(vec![masked_bulk(next, 17), entries])
            },
        ),
        "TIME" => {
            let times = reply.items().into_iter().map(|time| time.text().parse::<u64>().is_ok().to_string());
            Reply::Array(times.map(Reply::bulk).collect())
        }
        "INFO" | "NSINFO" => match reply {
            Reply::Bulk(bytes) => {
                let text = String::from_utf8(bytes).expect("UTF-8");
                let lines = text.lines().map(|line| match line.split_once(": ") {
                    Some((name, _)) if MASKED_LINES.contains(&name) => format!("{name}: masked\n"),
                    _ => format!("{line}\n"),
                });
                Reply::bulk(lines.collect::<String>())
            }
            other => other,
        },
        _ => reply,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replies_are_those_of_0_db() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/zdb-transcript.json");
    let transcript: Value = serde_json::from_slice(&fs::read(file).expect("read")).expect("JSON");
    let dir = tempfile::tempdir().expect("a directory");
    let home = Arc::new(DirHome::open(dir.path()).expect("free"));
    let engine = EngineOptions { file_len_max: FILE_LEN_MAX, ..EngineOptions::new(&muxfs::testing::env()) };
    let node = Node::over(home, engine, options()).await;
    let mut client = node.client().await;
    // Places that 0-db gave, and those that stand for them here.
    let mut places = HashMap::<Vec<u8>, Vec<u8>>::new();
    let steps = transcript.as_array().expect("a list");
    assert!(steps.len() > 90);
    for (number, step) in steps.iter().enumerate() {
        let arguments: Vec<Vec<u8>> = step["cmd"].as_array().expect("a list").iter().map(argument).collect();
        let command = String::from_utf8(arguments[0].clone()).expect("UTF-8");
        let expected = recorded(&step["reply"]);
        let sent: Vec<&Vec<u8>> = arguments.iter().map(|argument| places.get(argument).unwrap_or(argument)).collect();
        let reply = client.ask(&sent).await;
        if let (Reply::Array(theirs), Reply::Array(ours), "HISTORY") = (&expected, &reply, &command[..])
            && let (Some(Reply::Bulk(theirs)), Some(Reply::Bulk(ours))) = (theirs.first(), ours.first())
        {
            places.insert(theirs.clone(), ours.clone());
        }
        let [expected, reply] = [expected, reply].map(|reply| masked(&command, arguments.len(), reply));
        if command.ends_with("INFO") {
            let [expected, reply] = [&expected, &reply].map(|reply| reply.clone().text());
            assert_eq!(reply, expected, "{number}: {}", step["txt"]);
        }
        assert_eq!(reply, expected, "{number}: {}", step["txt"]);
    }
    node.stop().await;
}
