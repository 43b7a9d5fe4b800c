//! A mount in a bucket of S3, through the program, the bucket served by another one.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs_s3_serve::Key;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{PATIENCE, Server, WITHOUT_ZSTOR, World, assert_same_tree, private, put, s3::client::Client};

/// A server of S3 with empty buckets, and who may ask it.
pub(crate) struct Buckets {
    world: World,
    pub(crate) server: Server,
    pub(crate) credentials: String,
}

impl Buckets {
    pub(crate) async fn new(names: &[&str]) -> Self {
        let world = World::new();
        let config = world.path("s3.toml");
        fs::write(&config, format!("{WITHOUT_ZSTOR}\n[s3]\nroot = \"/ipfs\"\n")).expect("written");
        let world = World { config: Some(config), ..world };
        let credentials = world.ok(&["s3", "key", "add", "ann"]);
        let secret = credentials.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = "));
        let server = world.serve(&["--s3", "127.0.0.1:0"]);
        let key =
            Key { id: "ann".into(), secret: secret.expect("a secret").into(), read_only: false, allow: Vec::new() };
        let client = Client { addr: server.addr("s3"), key, skew: 0 };
        for name in names {
            client.put(&format!("/{name}"), b"").await.expect(200);
        }
        Self { world, server, credentials }
    }

    /// A machine with a mount at `/s` of these lines besides where it is, with the key of all of them.
    fn machine(&self, lines: &str) -> World {
        let world = World::new();
        let key = self.world.path("s3.key");
        if !key.exists() {
            self.world.ok(&["key", "new", key.to_str().expect("UTF-8")]);
        }
        let credentials = world.path("credentials");
        private(&credentials, &self.credentials);
        let place = format!(
            "endpoint = \"http://{}\"\ncredentials = \"{}\"\nkey = \"{}\"",
            self.server.addr("s3"),
            credentials.display(),
            key.display()
        );
        let config = world.path("bucket.toml");
        fs::write(&config, format!("[[mount]]\nkind = \"s3\"\nprefix = \"s\"\n{place}\n{lines}\n")).expect("written");
        World { config: Some(config), ..world }
    }
}

/// A way to a server, shut at first: who comes is not let in.
struct Door {
    addr: SocketAddr,
    is_open: Arc<AtomicBool>,
    _passing: AbortOnDropHandle<()>,
}

impl Door {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (addr, is_open) = (listener.local_addr().expect("bound"), Arc::new(AtomicBool::new(false)));
        let opened = is_open.clone();
        let passing = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if opened.load(Ordering::SeqCst) {
                    let mut server = TcpStream::connect(server).await.expect("it listens");
                    drop(tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await }));
                }
            }
        });
        Self { addr, is_open, _passing: AbortOnDropHandle::new(passing) }
    }
}

/// What `serve` says that does not begin.
fn refused(world: &World) -> String {
    let output = world.run(&["serve", "--quiet", "--nfs", "127.0.0.1:0", "--ftp", "off", "--http", "off"]);
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server whose bucket is away serves all else, says what is missing, and has it when the bucket comes; one that is for the bucket
/// alone does not begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_away_comes_later() {
    let buckets = Buckets::new(&["bucket"]).await;
    let door = Door::to(buckets.server.addr("s3")).await;
    let [alone, one] = ["alone", "one"].map(|below| {
        let machine = buckets.machine(&format!("bucket = \"bucket\"\nbelow = \"{below}\""));
        let config = machine.path("bucket.toml");
        let text = fs::read_to_string(&config).expect("read");
        let text = text.replace(&buckets.server.addr("s3").to_string(), &door.addr.to_string());
        let others = if below == "alone" { "" } else { WITHOUT_ZSTOR };
        fs::write(&config, format!("{others}\n{text}\n[s3]\nroot = \"/s/buckets\"\n")).expect("written");
        machine
    });
    let alone = tokio::task::spawn_blocking(move || refused(&alone));
    one.ok(&["s3", "key", "add", "bob"]);
    let server = one.serve(&["--s3", "127.0.0.1:0"]);
    put(&one, "others are served", "/ipfs/file");
    assert_eq!(one.ok(&["cat", "/ipfs/file"]), "others are served");
    assert!(one.ok(&["ls", "/"]).contains('s'));
    for args in [&["ls", "/s"][..], &["commit", "/s"], &["pin", "ls"], &["verify", "--all"], &["gc"], &["gc", "/s"]] {
        let told = one.fails(args, 5);
        assert!(told.contains("/s") && told.contains("away"), "{args:?}: {told}");
    }
    one.ok(&["gc", "/ipfs"]);
    assert!(alone.await.expect("ran").contains("unavailable"));

    door.is_open.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while !one.run(&["ls", "/s"]).status.success() {
        // A look may take half a minute, and so may the pause before the next.
        assert!(begun.elapsed() < 4 * PATIENCE, "it did not come");
        std::thread::yield_now();
    }
    put(&one, "it came", "/s/file");
    one.ok(&["commit", "/s"]);
    one.ok(&["verify", "--all"]);
    one.ok(&["gc"]);
    put(&one, "synced", "/s/synced");
    server.kill();
    let server = one.serve(&[]);
    assert_eq!((one.ok(&["cat", "/s/file"]), one.ok(&["cat", "/s/synced"])), ("it came".into(), "synced".into()));
    assert_eq!(server.terminate(), Some(0));
}

/// Synced survives `kill -9` of the machine that writes, committed its loss; one writes, another that comes is told who does, follows
/// within seconds, and goes on when somebody says that the first is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_share_a_bucket() {
    let buckets = Buckets::new(&["bucket"]).await;
    let one = buckets.machine("bucket = \"bucket\"\nbelow = \"laptop\"");
    let server = one.serve(&[]);
    let tree = one.tree();
    one.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/s/tree"]);
    fs::write(one.path("file"), "pinned").expect("written");
    let pinned = one.ok(&["put", one.path("file").to_str().expect("UTF-8"), "/s"]);
    one.ok(&["commit", "-m", "one", "/s"]);
    put(&one, "synced", "/s/synced");
    server.kill();

    let server = one.serve(&[]);
    assert_eq!(one.ok(&["cat", "/s/synced"]), "synced");
    one.ok(&["get", "/s/tree", one.path("back").to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &one.path("back"));

    let two = buckets.machine("bucket = \"bucket\"\nbelow = \"laptop\"");
    let told = refused(&two);
    assert!(told.contains("follow = true") && told.contains("take-over"), "{told}");
    put(&one, "it was not disturbed", "/s/later");
    one.ok(&["commit", "-m", "two", "/s"]);

    let reader = buckets.machine("bucket = \"bucket\"\nbelow = \"laptop\"\nfollow = true");
    let follower = reader.serve(&[]);
    assert_eq!(reader.ok(&["cat", "/s/later"]), "it was not disturbed");
    put(&one, "new", "/s/new");
    one.ok(&["commit", "-m", "three", "/s"]);
    let begun = Instant::now();
    while !reader.run(&["cat", "/s/new"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "who follows sees nothing new");
        std::thread::yield_now();
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "a commit was seen after {took:?}");
    assert!(!reader.run(&["put", reader.path("credentials").to_str().expect("UTF-8"), "/s/x"]).status.success());
    assert_eq!(follower.terminate(), Some(0));

    // The machine is gone, and with it what was not committed.
    put(&one, "synced on that machine alone", "/s/lost");
    server.kill();
    fs::create_dir_all(two.path("data/mounts/s")).expect("made");
    fs::write(two.path("data/mounts/s/take-over"), "").expect("written");
    let server = two.serve(&[]);
    assert!(!two.path("data/mounts/s/take-over").exists());
    assert_eq!(two.ok(&["cat", "/s/new"]), "new");
    two.ok(&["get", "/s/tree", two.path("back").to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &two.path("back"));
    let told = two.fails(&["gc", "/s"], 6);
    assert!(told.contains("pins-lost"), "{told}");
    assert_eq!(two.ok(&["cat", &pinned]), "pinned");
    two.ok(&["pin", "add", &pinned]);
    fs::remove_file(two.path("data/mounts/s/pins-lost")).expect("there");
    two.ok(&["gc", "/s"]);
    assert_eq!(two.ok(&["cat", &pinned]), "pinned");
    put(&two, "two", "/s/two");
    two.ok(&["commit", "-m", "four", "/s"]);
    let told = refused(&one);
    assert!(told.contains("take-over"), "{told}");
    assert_eq!(server.terminate(), Some(0));

    // Who ended needs nobody to say that it is gone.
    let server = one.serve(&[]);
    assert_eq!(one.ok(&["cat", "/s/two"]), "two");
    assert!(!one.run(&["cat", "/s/lost"]).status.success(), "it was played over what another machine did");
    assert_eq!(server.terminate(), Some(0));
    // What is nowhere else is told whenever it is opened.
    let told = one.run(&["cat", "/s/two"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("journal-") && told.contains("before the changes in this journal were committed"), "{told}");
    let told = String::from_utf8_lossy(&one.run(&["doctor"]).stdout).into_owned();
    assert!(told.contains("journal-") && told.contains("changes that no commit has"), "{told}");
    let told = two.run(&["cat", "/s/two"]);
    assert!(told.stderr.is_empty(), "{}", String::from_utf8_lossy(&told.stderr));
    // A command that fails ends as well.
    one.fails(&["cat", "/s/absent"], 3);
    assert_eq!(two.ok(&["cat", "/s/two"]), "two");
    one.ok(&["verify", "--all", "/s"]);
    // A command is a machine that ends, too.
    put(&one, "by a command", "/s/command");
    assert_eq!(two.ok(&["cat", "/s/command"]), "by a command");
}

/// Who was passed over acknowledges nothing more within seconds: it would be in a journal that is never played.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_passed_over_acknowledges_nothing() {
    let buckets = Buckets::new(&["bucket"]).await;
    let one = buckets.machine("bucket = \"bucket\"");
    let passed_over = one.serve(&[]);
    put(&one, "committed", "/s/committed");
    one.ok(&["commit", "-m", "one", "/s"]);
    put(&one, "synced", "/s/synced");
    let two = buckets.machine("bucket = \"bucket\"");
    fs::create_dir_all(two.path("data/mounts/s")).expect("made");
    fs::write(two.path("data/mounts/s/take-over"), "").expect("written");
    let server = two.serve(&[]);
    let begun = Instant::now();
    let mut count = 0;
    let told = loop {
        // One that is there is not put again.
        let output = one.run(&["put", one.path("file").to_str().expect("UTF-8"), &format!("/s/more-{count}")]);
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        count += 1;
        assert!(begun.elapsed() < PATIENCE, "it goes on as if nothing had happened");
    };
    assert!(begun.elapsed() < Duration::from_secs(30), "it was told after {:?}", begun.elapsed());
    assert!(told.contains("taken over"), "{told}");
    assert_eq!(one.ok(&["cat", "/s/committed"]), "committed");
    assert_ne!(passed_over.terminate(), Some(0), "not all is durable for others");
    assert_eq!(two.ok(&["cat", "/s/committed"]), "committed");
    assert_eq!(server.terminate(), Some(0));
}

/// A key that a bucket is encrypted with is not replaced for another mount: what is in the bucket would be lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_bucket_is_not_rotated_away() {
    let buckets = Buckets::new(&["bucket"]).await;
    let key = buckets.world.path("s3.key");
    let one = buckets.machine(&format!(
        "bucket = \"bucket\"\n[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\nkey = \"{}\"",
        key.display()
    ));
    put(&one, "one", "/s/one");
    let text = fs::read_to_string(&key).expect("read");
    let told = one.run(&["key", "rotate"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("in a file of its own"), "{told}");
    assert_eq!(fs::read_to_string(&key).expect("read"), text);
    assert_eq!(one.ok(&["cat", "/s/one"]), "one");
}

/// Who has another key is nobody whom others wait for, or whose journal counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_takes_nothing_over() {
    let buckets = Buckets::new(&["bucket"]).await;
    let one = buckets.machine("bucket = \"bucket\"");
    put(&one, "one", "/s/one");
    let stranger = buckets.machine("bucket = \"bucket\"");
    let config = stranger.config.clone().expect("named");
    let other = stranger.path("other.key");
    stranger.ok(&["key", "new", other.to_str().expect("UTF-8")]);
    let text = fs::read_to_string(&config).expect("read");
    let key = buckets.world.path("s3.key").display().to_string();
    fs::write(&config, text.replace(&key, &other.display().to_string())).expect("written");
    let told = refused(&stranger);
    assert!(told.contains("key"), "{told}");
    assert_eq!(one.ok(&["cat", "/s/one"]), "one");
    assert!(!one.path("data/mounts/s/pins-lost").exists(), "somebody else wrote there");

    // Nor where somebody says that the writer is gone, and nor without a key.
    let server = one.serve(&[]);
    fs::create_dir_all(stranger.path("data/mounts/s")).expect("made");
    fs::write(stranger.path("data/mounts/s/take-over"), "").expect("written");
    let with_other = fs::read_to_string(&config).expect("read");
    let without: String = text.split_inclusive('\n').filter(|line| !line.starts_with("key")).collect();
    for text in [with_other, without] {
        fs::write(&config, text).expect("written");
        let told = refused(&stranger);
        assert!(told.contains("key"), "{told}");
        assert!(stranger.path("data/mounts/s/take-over").exists());
    }
    put(&one, "more", "/s/more");
    one.ok(&["commit", "-m", "it writes still", "/s"]);
    assert_eq!(server.terminate(), Some(0));
    assert!(!one.path("data/mounts/s/pins-lost").exists(), "somebody else wrote there");
}

/// The example means what it says, but for where things are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_a_configuration_works() {
    let buckets = Buckets::new(&["muxfs"]).await;
    let world = World::by_default();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs/s3-store.toml");
    let there = world.path("etc").display().to_string();
    let text = fs::read_to_string(example).expect("read");
    let text = text.replace("/etc/muxfs", &there);
    let text = text.replace("https://s3.example.org", &format!("http://{}", buckets.server.addr("s3")));
    let config = world.path("s3-store.toml");
    fs::write(&config, text).expect("written");
    fs::create_dir(&there).expect("made");
    let world = World { config: Some(config), ..world };
    private(&world.path("etc/s3-credentials"), &buckets.credentials);
    let told = refused(&world);
    assert!(told.contains("s3.key") && told.contains("muxfs key new"), "{told}");
    world.ok(&["key", "new", world.path("etc/s3.key").to_str().expect("UTF-8")]);
    let server = world.serve(&[]);
    put(&world, "text", "/s/x");
    world.ok(&["commit", "-m", "x", "/s"]);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(world.ok(&["cat", "/s/x"]), "text");
    let printed = world.ok(&["config"]);
    fs::write(world.config.as_ref().expect("named"), &printed).expect("written");
    assert_eq!(world.ok(&["config"]), printed);
    assert_eq!(world.ok(&["cat", "/s/x"]), "text");
}

/// `/zstor` in three buckets of three servers, as the example has it: any one may be lost, what it missed is brought to it, and
/// another machine goes on where one has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zstor_lives_in_three_buckets() {
    let mut providers = Vec::new();
    for _ in 0..3 {
        providers.push(Buckets::new(&["muxfs"]).await);
    }
    let addrs: Vec<_> = providers.iter().map(|provider| provider.server.addr("s3")).collect();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs/s3-erasure.toml");
    let example = fs::read_to_string(example).expect("read");
    let machine = || {
        let world = World::by_default();
        let there = world.path("etc");
        fs::create_dir(&there).expect("made");
        let mut text = example.replace("/etc/muxfs", there.to_str().expect("UTF-8"));
        for (name, provider) in ["a", "b", "c"].into_iter().zip(&providers) {
            let addr = provider.server.addr("s3");
            text = text.replace(&format!("https://s3.{name}.example.org"), &format!("http://{addr}"));
            private(&there.join(format!("{name}-credentials")), &provider.credentials);
        }
        let config = world.path("s3-erasure.toml");
        fs::write(&config, text).expect("written");
        World { config: Some(config), ..world }
    };
    let (world, other) = (machine(), machine());
    let tree = world.tree();
    let whole = |name: &str| {
        let back = world.path("back");
        fs::remove_dir_all(&back).ok();
        world.ok(&["get", name, back.to_str().expect("UTF-8")]);
        assert_same_tree(&tree, &back);
    };
    let server = world.serve(&[]);
    world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/zstor/tree"]);
    world.ok(&["commit"]);
    for (lost, addr) in addrs.iter().enumerate() {
        let provider = &mut providers[lost];
        provider.server.kill_now();
        provider.server.child.wait().expect("a child");
        whole("/zstor/tree");
        let meanwhile = format!("/zstor/without {lost}");
        world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), &meanwhile]);
        world.ok(&["commit"]);
        whole(&meanwhile);
        provider.server = provider.world.serve(&["--s3", &addr.to_string()]);
        let begun = Instant::now();
        while !world.run(&["zstor", "repair"]).status.success() {
            assert!(begun.elapsed() < PATIENCE, "a bucket does not come back");
            std::thread::yield_now();
        }
    }
    world.ok(&["gc", "/zstor"]);
    world.ok(&["verify", "--all", "/zstor"]);
    // Another machine is none as long as this one writes.
    fs::copy(world.path("etc/zstor.key"), other.path("etc/zstor.key")).expect("copied");
    let told = refused(&other);
    assert!(told.contains("has not said that it ended"), "{told}");
    assert_eq!(server.terminate(), Some(0));
    let server = other.serve(&[]);
    put(&other, "other", "/zstor/other");
    other.ok(&["commit"]);
    assert_eq!(server.terminate(), Some(0));
    let printed = other.ok(&["config"]);
    fs::write(other.config.as_ref().expect("named"), &printed).expect("written");
    assert_eq!(other.ok(&["config"]), printed);
    assert_eq!(other.ok(&["cat", "/zstor/other"]), "other");
    other.ok(&["verify", "--all", "/zstor"]);
}
