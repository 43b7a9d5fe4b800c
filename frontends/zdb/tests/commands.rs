//! Each command, its replies and its refusals, as spec/zdb.md has them. What 0-db was seen to reply is in `transcript`.

mod node;

use muxfs_zdb_serve::{Options, Password};

use self::node::{Client, Node, Reply, options, proof};

fn admin(password: &str) -> Options {
    Options { admin: Some(Password::new(password).expect("a password")), ..options() }
}

#[tokio::test]
async fn values_are_set_and_got() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(client.say("PING").await, Reply::Simple("PONG".into()));
    assert_eq!(client.say("ping and more").await, Reply::Simple("PONG".into()));
    assert_eq!(client.say("SET k v").await, Reply::bulk("k"));
    assert_eq!(client.say("SETX k v").await, Reply::Nil, "the same");
    assert_eq!(client.say("get k").await, Reply::bulk("v"));
    assert_eq!(client.ask(&["SET", "empty", ""]).await, Reply::bulk("empty"));
    assert_eq!(client.say("GET empty").await, Reply::bulk(""));
    assert_eq!(client.say("LENGTH empty").await, Reply::Number(0));
    for (long, text) in
        [("GET", "Invalid key"), ("DEL", "Invalid key"), ("EXISTS", "Invalid key"), ("MGET", "Invalid key")]
    {
        assert_eq!(client.ask(&[long, &"k".repeat(256)]).await, Reply::error(text), "{long}");
    }
    for (words, text) in [
        ("GET", "Unexpected arguments"),
        ("GET a b", "Unexpected arguments"),
        ("GET ", "Invalid argument"),
        ("SET a", "Unexpected arguments"),
        ("SET a b 1 2", "Unexpected arguments"),
        ("SET a b x", "Invalid argument"),
        ("DEL", "Unexpected arguments"),
        ("DEL ", "Invalid argument"),
        ("DEL nope", "Key not found"),
        ("MGET", "Invalid arguments"),
        ("KEYCUR nope", "Key not found"),
        ("*", "This is not a valid command"),
        ("PIN", "Command not supported"),
        ("GETX k", "Command not supported"),
        ("MIRROR", "Replication is not supported by this server"),
        ("MASTER", "Replication is not supported by this server"),
        ("STOP", "Unauthorized"),
        ("KSCAN k", "Command disabled in release code, not yet available"),
    ] {
        assert_eq!(client.refused(words).await, text, "{words}");
    }
    assert_eq!(client.ask(&[""]).await, Reply::error("Command not supported"));
    assert_eq!(client.say("HOOKS").await, Reply::Array(Vec::new()));
    assert_eq!(
        client.ask(&["MGET", "k", "", "nope", "empty"]).await,
        Reply::Array(vec![Reply::bulk("v"), Reply::Nil, Reply::Nil, Reply::bulk("")])
    );
    // An administrator says when.
    assert_eq!(client.say("SET then v 1234567890").await, Reply::bulk("then"));
    assert_eq!(client.say("KEYTIME then").await, Reply::Number(1_234_567_890));
    client.ok("DEL then 1234567891").await;
    for (words, absent) in [
        ("KEYTIME then", Reply::Nil),
        ("LENGTH then", Reply::Nil),
        ("CHECK then", Reply::Nil),
        ("EXISTS then", Reply::Number(0)),
    ] {
        assert_eq!(client.say(words).await, absent, "{words}");
    }
    assert_eq!(client.say("CHECK k").await, Reply::Number(1));
    assert_eq!(client.say("DBSIZE").await, Reply::Number(2));
    node.stop().await;
}

#[tokio::test]
async fn the_longest_values_and_keys_fit() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let (key, value) = (vec![b'k'; 255], vec![7; 8 << 20]);
    assert_eq!(client.ask(&[&b"SET"[..], &key, &value]).await, Reply::Bulk(key.clone()));
    assert_eq!(client.ask(&[&b"LENGTH"[..], &key]).await, Reply::Number(8 << 20));
    // More than may wait for one client, in one request.
    let keys = [&b"MGET"[..], &key, &key, b"nope", &key, &key];
    let values = client.ask(&keys).await.items();
    assert_eq!(values.len(), 5);
    for (at, got) in values.into_iter().enumerate() {
        assert!(if at == 2 { got == Reply::Nil } else { got == Reply::Bulk(value.clone()) }, "{at}");
    }
    node.stop().await;
}

#[tokio::test]
async fn the_history_of_a_key_is_walked_back() {
    let node = Node::start().await;
    let mut client = node.client().await;
    for value in ["one", "two", "three"] {
        assert_eq!(client.ask(&["SET", "k", value]).await, Reply::bulk("k"));
    }
    let mut place: Option<Vec<u8>> = None;
    for value in ["three", "two", "one"] {
        let mut words = vec![b"HISTORY".to_vec(), b"k".to_vec()];
        words.extend(place.take());
        let [previous, timestamp, got] = client.ask(&words).await.items().try_into().expect("three");
        assert_eq!(got, Reply::bulk(value));
        assert!(timestamp.text().parse::<u32>().is_ok());
        place = match previous {
            Reply::Bulk(place) => Some(place),
            _ => None,
        };
        assert_eq!(place.is_none(), value == "one");
    }
    assert_eq!(client.say("HISTORY nope").await, Reply::error("Key not found"));
    assert_eq!(client.say("HISTORY").await, Reply::error("Invalid arguments"));
    assert_eq!(client.say("HISTORY k short").await, Reply::error("Invalid arguments"));
    assert_eq!(client.ask(&[&b"HISTORY"[..], b"k", &[0; 8]]).await, Reply::error("No more history"));
    assert_eq!(client.ask(&[&b"HISTORY"[..], b"k", &[255; 8]]).await, Reply::error("Invalid arguments (index query)"));
    client.ok("DEL k").await;
    assert_eq!(client.say("HISTORY k").await, Reply::error("Key not found"));
    node.stop().await;
}

/// The keys of a page, and where the next one begins.
async fn page(client: &mut Client, command: &str, cursor: Option<&[u8]>) -> Option<(Vec<u8>, Vec<String>)> {
    let mut words = vec![command.as_bytes()];
    words.extend(cursor);
    match client.ask(&words).await {
        Reply::Error(text) => {
            assert_eq!(text, "No more data");
            None
        }
        reply => {
            let [next, entries] = reply.items().try_into().expect("two");
            let keys = entries.items().into_iter().map(|entry| entry.items().swap_remove(0).text());
            Some((next.bytes(), keys.collect()))
        }
    }
}

#[tokio::test]
async fn all_keys_are_scanned_both_ways() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(client.refused("SCAN").await, "No more data");
    let keys: Vec<String> = (0..3000).map(|n| format!("key-{n}")).collect();
    for key in &keys {
        assert_eq!(client.ask(&["SET", key, "v"]).await, Reply::bulk(key));
    }
    for command in ["SCAN", "SCANX", "RSCAN"] {
        let (mut all, mut cursor) = (Vec::new(), None::<Vec<u8>>);
        while let Some((next, keys)) = page(&mut client, command, cursor.as_deref()).await {
            assert!(!keys.is_empty());
            all.extend(keys);
            cursor = Some(next);
        }
        if command == "RSCAN" {
            all.reverse();
        }
        assert!(all == keys, "{command}: {} keys", all.len());
    }
    let cursor = client.say("KEYCUR key-10").await.bytes();
    let (_, after) = page(&mut client, "SCAN", Some(&cursor)).await.expect("more");
    assert_eq!(after[0], "key-11");
    let (_, before) = page(&mut client, "RSCAN", Some(&cursor)).await.expect("more");
    assert_eq!(before[0], "key-9");
    assert_eq!(client.refused("SCAN short").await, "Invalid key format");
    assert_eq!(client.ask(&[&b"RSCAN"[..], &[255; 17]]).await, Reply::error("Invalid key format"));
    node.stop().await;
}

#[tokio::test]
async fn namespaces_come_and_go() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.ok("NSNEW one").await;
    for (words, text) in [
        ("NSNEW one", "This namespace is not available"),
        ("NSNEW ../../hello", "This name is not allowed"),
        ("NSNEW .", "This name is not allowed"),
        ("NSNEW default", "This name is not allowed"),
        ("NSNEW", "Unexpected arguments"),
        ("NSNEW ", "Invalid argument"),
        ("SELECT nope", "Namespace not found"),
        ("SELECT", "Invalid argument"),
        ("NSINFO nope", "Namespace not found"),
        ("NSDEL nope", "This namespace doesn't exists"),
        ("NSDEL default", "Cannot remove default namespace"),
        ("NSDEL one more", "Unexpected arguments"),
        ("NSSET nope public 0", "Namespace not found"),
        ("NSSET one", "Unexpected arguments"),
        ("NSSET one bogus 1", "Invalid property"),
        ("NSSET one mode fast", "Invalid property value (expected: user, seq)"),
        ("NSSET default public 0", "Cannot update default namespace"),
        ("NSSET default maxsize 1", "Cannot update default namespace"),
        ("RELOAD nope", "Namespace not found"),
        ("RELOAD one two", "Unexpected arguments"),
    ] {
        assert_eq!(client.refused(words).await, text, "{words}");
    }
    let long = "x".repeat(129);
    for command in ["NSNEW", "NSDEL", "SELECT", "NSINFO", "RELOAD"] {
        assert_eq!(client.ask(&[command, &long]).await, Reply::error("Namespace too long"), "{command}");
    }
    assert_eq!(client.ask(&["NSSET", "one", "maxsize", &"4".repeat(64)]).await, Reply::error("Argument too long"));
    assert_eq!(client.say("NSLIST").await, Reply::Array(vec![Reply::bulk("default"), Reply::bulk("one")]));

    client.ok("SELECT one").await;
    client.say("SET k v").await;
    assert_eq!(client.refused("NSDEL one").await, "Cannot remove namespace you're currently using.");
    client.ok("RELOAD one").await;
    assert_eq!(client.say("GET k").await, Reply::bulk("v"));
    client.ok("SELECT default").await;
    assert_eq!(client.say("GET k").await, Reply::Nil, "each has its own keys");

    // Who is in a namespace that is removed is told so, and cut off.
    let mut other = node.client().await;
    other.ok("SELECT one").await;
    client.ok("NSDEL one").await;
    assert_eq!(other.refused("PING").await, "Your active namespace is not available anymore (probably removed).");
    assert!(other.has_ended().await);
    assert_eq!(client.refused("SELECT one").await, "Namespace not found");
    client.ok("NSNEW one").await;
    client.ok("SELECT one").await;
    assert_eq!(client.say("GET k").await, Reply::Nil, "it is another");
    node.stop().await;
}

#[tokio::test]
async fn sequential_namespaces_give_the_keys() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.ok("NSNEW seq").await;
    client.ok("NSSET seq mode seq").await;
    client.ok("SELECT seq").await;
    for n in 0..3_u64 {
        assert_eq!(client.ask(&["SET", "", "v"]).await, Reply::bulk(n.to_le_bytes()));
    }
    assert_eq!(client.say("SET key v").await, Reply::error("Invalid key, only update authorized"));
    assert_eq!(client.ask(&[&b"SET"[..], &1_u64.to_le_bytes(), b"w"]).await, Reply::bulk(1_u64.to_le_bytes()));
    assert_eq!(client.ask(&[&b"GET"[..], &1_u64.to_le_bytes()]).await, Reply::bulk("w"));
    assert_eq!(client.refused("NSSET seq mode user").await, "Cannot change mode of used namespace");
    let info = client.say("NSINFO seq").await.text();
    assert!(info.contains("\nmode: sequential\n") && info.contains("\nentries: 3\n"), "{info}");
    node.stop().await;
}

#[tokio::test]
async fn who_has_no_password_reads_what_is_public_and_nothing_else() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.ok("NSNEW n").await;
    client.ok("NSSET n password secret").await;
    client.ok("SELECT n secret").await;
    client.say("SET k v").await;
    client.ok("SELECT n").await;
    assert_eq!(client.say("GET k").await, Reply::bulk("v"));
    for words in ["SET k w", "DEL k"] {
        assert_eq!(client.refused(words).await, "Namespace is in read-only mode", "{words}");
    }
    client.ok("NSSET n public 0").await;
    client.ok("SELECT default").await;
    assert_eq!(client.refused("SELECT n").await, "Namespace protected and private");
    for (words, text) in [
        ("SELECT n sec", "Access denied"),
        ("SELECT n secretsecret", "Access denied"),
        (
            "SELECT n SECURE 9444a8840596815e66829db9a2c7a71b442ceeeb",
            "No CHALLENGE requested, secure authentication not available",
        ),
        ("SELECT n METHOD x", "Only SECURE extra method supported"),
        ("SELECT n SECURE a b", "Too many arguments"),
    ] {
        assert_eq!(client.refused(words).await, text, "{words}");
    }
    assert_eq!(client.ask(&["SELECT", "n", &"x".repeat(256)]).await, Reply::error("Password too long"));
    let challenge = client.say("AUTH SECURE CHALLENGE").await.text();
    assert_eq!(client.refused("SELECT n SECURE abcdef").await, "Invalid hash length");
    let zeros = "0".repeat(40);
    assert_eq!(client.ask(&["SELECT", "n", "SECURE", &zeros]).await, Reply::error("Access denied"));
    assert_eq!(client.ask(&["SELECT", "n", "secure", &proof(&challenge, "secret")]).await, Reply::ok());
    assert_eq!(client.say("SET k w").await, Reply::bulk("k"));
    assert!(client.say("NSINFO n").await.text().contains("\npassword: yes\n"));
    client.ok("NSSET n password *").await;
    client.ok("SELECT n").await;
    node.stop().await;
}

#[tokio::test]
async fn an_administrator_is_who_knows_the_password() {
    let node = Node::with(admin("root")).await;
    let mut client = node.client().await;
    for words in [
        "NSNEW n",
        "NSDEL n",
        "NSSET n public 0",
        "NSJUMP",
        "RELOAD default",
        "INDEX DIRTY",
        "DATA RAW 0 0",
        "HOOKS",
        "MIRROR",
        "MASTER",
        "SET k v 1",
        "DEL k 1",
    ] {
        assert_eq!(client.refused(words).await, "Permission denied", "{words}");
    }
    let told = client.say("NSINFO default").await.text();
    assert!(!told.contains("data_path"), "{told}");
    assert_eq!(client.say("SET k v").await, Reply::bulk("k"), "the default namespace is everybody's");
    for (words, text) in [
        ("AUTH", "Unexpected arguments"),
        ("AUTH a b c", "Unexpected arguments"),
        ("AUTH roo", "Access denied"),
        ("AUTH root1", "Access denied"),
        ("AUTH SECURE abc", "No CHALLENGE requested, secure authentication not available"),
        ("AUTH METHOD abc", "Only SECURE extra method supported"),
    ] {
        assert_eq!(client.refused(words).await, text, "{words}");
    }
    assert_eq!(client.ask(&["AUTH", &"x".repeat(129)]).await, Reply::error("Password too long"));
    client.say("AUTH SECURE CHALLENGE").await;
    assert_eq!(client.refused("AUTH SECURE short").await, "Invalid hash length");
    assert_eq!(client.ask(&["AUTH", "SECURE", &"0".repeat(40)]).await, Reply::error("Access denied"));
    // A challenge is good once.
    let challenge = client.say("AUTH SECURE CHALLENGE").await.text();
    assert_eq!(client.ask(&["AUTH", "SECURE", &proof(&challenge, "toor")]).await, Reply::error("Access denied"));
    let answer = proof(&challenge, "root");
    assert!(
        matches!(client.ask(&["AUTH", "SECURE", &answer]).await, Reply::Error(text) if text.starts_with("No CHALLENGE"))
    );
    let challenge = client.say("AUTH SECURE CHALLENGE").await.text();
    assert_eq!(client.ask(&["AUTH", "SECURE", &proof(&challenge, "root")]).await, Reply::ok());
    client.ok("NSNEW n").await;
    assert!(client.say("NSINFO default").await.text().contains("data_path"));
    let mut other = node.client().await;
    assert_eq!(other.refused("NSNEW m").await, "Permission denied", "each connection by itself");
    other.ok("AUTH root").await;
    other.ok("NSNEW m").await;
    node.stop().await;

    let node = Node::start().await;
    let mut client = node.client().await;
    for words in ["AUTH x", "AUTH SECURE abc"] {
        assert_eq!(client.refused(words).await, "Authentication disabled");
    }
    node.stop().await;
}

#[tokio::test]
async fn locks_freezes_worms_and_quotas_hold() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.ok("NSNEW n").await;
    client.ok("NSSET n password secret").await;
    client.ok("NSSET n public 0").await;
    client.ok("SELECT n secret").await;
    client.say("SET k v").await;

    client.ok("NSSET n lock 1").await;
    for words in ["SET k w", "SET new v", "DEL k", "FLUSH"] {
        assert_eq!(client.refused(words).await, "Namespace is temporarily locked (read-only)", "{words}");
    }
    assert_eq!(client.say("GET k").await, Reply::bulk("v"));
    assert!(client.say("NSINFO n").await.text().contains("\nlocked: yes\n"));
    client.ok("NSSET n lock 0").await;

    client.ok("NSSET n freeze 1").await;
    for words in [
        "SET k w",
        "DEL k",
        "GET k",
        "MGET k",
        "EXISTS k",
        "CHECK k",
        "LENGTH k",
        "KEYTIME k",
        "KEYCUR k",
        "SCAN",
        "RSCAN",
        "HISTORY k",
        "FLUSH",
    ] {
        assert_eq!(client.refused(words).await, "Namespace is temporarily frozen (read-write disabled)", "{words}");
    }
    client.ok("NSSET n freeze 0").await;

    client.ok("NSSET n worm 1").await;
    assert_eq!(client.refused("SET k w").await, "Namespace is protected by worm mode");
    assert_eq!(client.refused("DEL k").await, "Cannot delete a key when namespace is in worm mode");
    assert_eq!(client.refused("FLUSH").await, "Namespace is protected by worm mode");
    assert_eq!(client.say("SET new v").await, Reply::bulk("new"));
    client.ok("NSSET n worm 0").await;

    // 2 bytes are used.
    client.ok("NSSET n maxsize 10").await;
    assert_eq!(client.say("SET long 123456789").await, Reply::error("No space left on this namespace"));
    assert_eq!(client.say("SET long 12345678").await, Reply::bulk("long"), "to the last byte");
    assert_eq!(client.say("SET more 1").await, Reply::error("No space left on this namespace"));
    assert_eq!(client.say("SET long 87654321").await, Reply::bulk("long"), "what it takes the place of does not count");
    client.ok("DEL long").await;
    let told = client.say("NSINFO n").await.text();
    assert!(told.contains("\ndata_limits_bytes: 10\n") && told.contains("\nspace_available: 8\n"), "{told}");
    assert_eq!(
        client.refused("NSSET n maxsize lots").await,
        "Invalid property value (expected: a number of bytes, 0 for no limit)"
    );
    client.ok("NSSET n maxsize 0").await;

    client.ok("FLUSH").await;
    assert_eq!(client.say("DBSIZE").await, Reply::Number(0));
    client.ok("SELECT default").await;
    assert_eq!(client.refused("FLUSH").await, "Flushing public namespace denied");
    node.stop().await;
}

#[tokio::test]
async fn an_administrator_looks_at_files() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.say("SET k one").await;
    let told = client.say("NSINFO default").await.text();
    let figure = |told: &str, name: &str| -> u64 {
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).expect("told");
        line.parse().expect("a number")
    };
    let file = figure(&told, "data_current_id");
    assert_eq!(client.say("SET k two").await, Reply::bulk("k"));
    // A place of history is a file and an offset in it.
    let place = client.say("HISTORY k").await.items().swap_remove(0).bytes();
    let part = |at: usize| u32::from_le_bytes(place[at..at + 4].try_into().expect("four")).to_string();
    let raw = client.ask(&["DATA", "RAW", &part(0), &part(4)]).await.items();
    assert_eq!((raw.len(), &raw[0], &raw[3], &raw[5]), (6, &Reply::bulk("k"), &Reply::Number(0), &Reply::bulk("one")));
    let crc = raw[2].clone().text();
    assert!(crc.len() == 10 && crc.starts_with("0x"), "{crc}");
    // A deletion has none: it is near the end.
    let before = figure(&client.say("NSINFO default").await.text(), "data_current_offset");
    client.ok("DEL k").await;
    let after = figure(&client.say("NSINFO default").await.text(), "data_current_offset");
    let mut mark = None;
    for offset in before..after {
        match client.ask(&["DATA", "RAW", &file.to_string(), &offset.to_string()]).await {
            Reply::Array(found) => mark = Some(found),
            other => assert!(other == Reply::error("EOF") || other == Reply::error("Invalid Request"), "{other:?}"),
        }
    }
    let mark = mark.expect("a deletion is a record");
    assert_eq!((&mark[0], &mark[3], &mark[5]), (&Reply::bulk("k"), &Reply::Number(1), &Reply::Nil));
    assert_eq!(client.say("DATA EXISTS 0").await, Reply::Number(1));
    assert_eq!(client.say("DATA EXISTS 7000").await, Reply::Number(0));
    for (words, text) in [
        ("DATA", "Missing arguments"),
        ("DATA RAW 0", "Missing arguments"),
        ("DATA RAW x 0", "Invalid argument"),
        ("DATA RAW 7000 0", "EOF"),
        ("DATA COOKED", "Unknown DATA subcommand"),
        ("INDEX", "Missing arguments"),
        ("INDEX CLEAN", "Unknown INDEX subcommand"),
        ("INDEX DIRTY CLEAN", "Unknown INDEX DIRTY subcommand"),
    ] {
        assert_eq!(client.refused(words).await, text, "{words}");
    }
    assert_eq!(client.say("INDEX DIRTY").await, Reply::Array(vec![Reply::Number(file)]));
    client.ok("INDEX DIRTY RESET").await;
    assert_eq!(client.say("index dirty").await, Reply::Array(Vec::new()));
    client.ok("NSJUMP").await;
    client.say("SET k three").await;
    let jumped = client.say("NSINFO default").await.text();
    assert_eq!(figure(&jumped, "data_current_id"), file + 1);
    assert_eq!(client.say("GET k").await, Reply::bulk("three"));
    node.stop().await;
}

#[tokio::test]
async fn the_server_tells_of_itself() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let time = client.say("TIME").await.items();
    assert!(time.len() == 2 && time.into_iter().all(|part| part.text().parse::<u64>().is_ok()));
    client.say("FOO").await;
    let told = client.say("INFO").await.text();
    for line in [
        "# server",
        "server_name: 0-db (zdb)",
        "sequential_key_size: 8",
        "data_version: 3",
        "index_version: 4",
        "clients_lifetime: 1",
        "commands_executed: 1",
        "commands_failed: 1",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in {told}");
    }
    node.stop().await;
}
