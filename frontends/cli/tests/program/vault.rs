//! Vaults through the program: a mount of kind `vault`, and the commands that make one, open it alone and look after it.

mod rekeying;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    PATIENCE, World, assert_same_tree,
    bucket::Buckets,
    database::{REDIS, address, server::Server as Redis},
};

const PASSWORD: &str = "correct horse";
/// What a store may not show: what is in a file, and what a file is called.
const SECRET: &str = "nobody is to read these words";
const NAME: &str = "name-that-nobody-is-to-see";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A file that only its owner reads.
fn private(file: &Path, text: &str) {
    fs::write(file, text).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("set");
}

/// A machine with the example, but for where things are, and small packs.
fn machine() -> World {
    let world = World::by_default();
    for dir in ["etc", "srv"] {
        fs::create_dir(world.path(dir)).expect("made");
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs/vault.toml");
    let example = fs::read_to_string(example).expect("read");
    let places = [("/etc/muxfs", world.path("etc")), ("/srv", world.path("srv"))];
    let text = places.iter().fold(example, |text, (from, to)| text.replace(from, to.to_str().expect("UTF-8")));
    let config = world.path("config.toml");
    fs::write(&config, text).expect("written");
    private(&world.path("etc/v.password"), &format!("{PASSWORD}\n"));
    World { config: Some(config), ..world }
}

fn create(world: &World, vault: &str) -> String {
    let file = world.path("etc/v.password");
    let small = ["--pack-size", "64KiB", "--unlock-time", "0s"];
    let args = [&["vault", "create", "--password-file", text(&file)], &small[..], &[vault]].concat();
    world.ok(&args)
}

/// The arguments of a command with the password.
fn with_password(world: &World, command: &str, rest: &[&str]) -> Vec<String> {
    let file = world.path("etc/v.password");
    let args = [&["vault", command, "--password-file", text(&file)], rest].concat();
    args.into_iter().map(Into::into).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn put(world: &World, what: &str, name: &str) {
    let file = world.path("file");
    fs::write(&file, what).expect("written");
    world.ok(&["put", text(&file), name]);
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

/// Nothing that was put is readable below a directory, nor what it is called; so much is there.
fn shows_nothing(dir: &Path) -> u64 {
    let mut len = 0;
    for file in files(dir) {
        let bytes = fs::read(&file).expect("read");
        len += bytes.len() as u64;
        for secret in [SECRET, NAME, PASSWORD] {
            let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret:?} is in {}", file.display());
        }
    }
    len
}

#[test]
fn a_mount_keeps_all_of_it_and_its_store_learns_nothing() {
    let world = machine();
    let told = world.fails(&["ls", "/v"], 3);
    assert!(told.contains("muxfs vault create"), "{told}");
    let told = world.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("muxfs vault create /v"), "{told:?}");
    assert!(create(&world, "/v").starts_with("vault "));
    let told = world.fails(&strs(&with_password(&world, "create", &["/v"])), 1);
    assert!(told.contains("already"), "{told}");

    // Over FTP, and by a command; what is acknowledged survives kill -9.
    let server = world.serve(&[]);
    let tree = world.tree();
    world.ok(&["put", "-r", text(&tree), "/v/tree"]);
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.cwd("/v").expect("there");
    ftp.put_file(NAME, &mut SECRET.as_bytes()).expect("stored");
    ftp.quit().expect("left");
    world.ok(&["commit", "-m", "one", "/v"]);
    put(&world, SECRET, "/v/later");
    let told = world.fails(&strs(&with_password(&world, "info", &["/v"])), 5);
    assert!(!told.is_empty());
    server.kill();

    let server = world.serve(&[]);
    assert_eq!(world.ok(&["cat", &format!("/v/{NAME}")]), SECRET);
    assert_eq!(world.ok(&["cat", "/v/later"]), SECRET);
    world.ok(&["get", "/v/tree", text(&world.path("back"))]);
    assert_same_tree(&tree, &world.path("back"));
    fs::write(world.path("file"), "garbage").expect("written");
    let garbage = world.ok(&["put", text(&world.path("file")), "/v"]);
    fs::write(world.path("file"), "pinned").expect("written");
    let pinned = world.ok(&["put", text(&world.path("file")), "/v"]);
    world.ok(&["rm", garbage.trim()]);
    world.ok(&["gc", "/v"]);
    assert_eq!(world.ok(&["cat", pinned.trim()]), "pinned");
    world.ok(&["verify", "--all", "/v"]);
    world.ok(&["commit", "-m", "two", "/v"]);
    assert_eq!(server.terminate(), Some(0));

    assert_eq!(world.ok(&["cat", "/v/later"]), SECRET);
    assert_eq!(world.ok(&["cat", pinned.trim()]), "pinned");
    let printed = world.ok(&["config"]);
    fs::write(world.config.as_ref().expect("named"), &printed).expect("written");
    assert_eq!(world.ok(&["config"]), printed);
    world.ok(&["doctor"]);
    assert!(shows_nothing(&world.path("srv")) > 3_000_000 / 100, "it is there");
    shows_nothing(&world.path("data/mounts/v"));

    // Elsewhere, with nothing but the store and the password, all that was committed is there; but not to be written while
    // this data directory has what belongs to it.
    let other = machine();
    copy_dir(&world.path("srv/vault"), &other.path("srv/vault"));
    copy_dir(&world.path("srv/vault"), &world.path("older"));
    let told = other.fails(&["ls", "/v"], 6);
    assert!(told.contains("has the journal"), "{told}");
    let dest = other.path("exported");
    other.ok(&strs(&with_password(&other, "export", &["/v", text(&dest)])));
    assert_same_tree(&tree, &dest.join("tree"));
    assert_eq!(fs::read_to_string(dest.join("later")).expect("read"), SECRET);
    fs::write(other.path("data/mounts/v/take-over"), "").expect("written");
    assert_eq!(other.ok(&["cat", "/v/later"]), SECRET);

    // An older state of the whole store is refused where a newer one was seen.
    put(&world, "newer", "/v/newer");
    world.ok(&["commit", "/v"]);
    let store = world.path("srv/vault");
    fs::remove_dir_all(&store).expect("removed");
    copy_dir(&world.path("older"), &store);
    let told = world.fails(&["ls", "/v"], 4);
    assert!(told.contains("epoch"), "{told}");
}

#[test]
fn a_password_is_changed_and_a_wrong_one_opens_nothing() {
    let world = machine();
    create(&world, "/v");
    put(&world, "kept", "/v/kept");
    let wrong = world.path("etc/wrong");
    private(&wrong, "wrong\n");
    let told = world.fails(&["vault", "info", "--password-file", text(&wrong), "/v"], 6);
    assert!(told.contains("the password is wrong"), "{told}");
    let told = world.fails(&["vault", "info", "--password-env", "NOT_SET_AT_ALL", "/v"], 6);
    assert!(told.contains("NOT_SET_AT_ALL"), "{told}");
    let told = world.fails(&["vault", "info", "--password-command", "echo nothing >&2; false", "/v"], 6);
    assert!(told.contains("and failed"), "{told}");
    world.ok(&["vault", "info", "--password-command", &format!("echo {PASSWORD}"), "/v"]);

    private(&world.path("etc/new"), "battery staple\n");
    let new = world.path("etc/new");
    let rest = ["--new-password-file", text(&new), "--unlock-time", "0s", "/v"];
    world.ok(&strs(&with_password(&world, "passwd", &rest)));
    let told = world.fails(&["cat", "/v/kept"], 6);
    assert!(told.contains("the password is wrong"), "{told}");
    private(&world.path("etc/v.password"), "battery staple\n");
    assert_eq!(world.ok(&["cat", "/v/kept"]), "kept");
    let told = world.ok(&strs(&with_password(&world, "rekey", &["/v"])));
    assert!(told.contains("another master key"), "{told}");
    assert_eq!(world.ok(&["cat", "/v/kept"]), "kept");
    world.fails(&["vault", "rekey", "--password-file", text(&wrong), "/v"], 6);

    // By a descriptor, and by the environment.
    let output = world.fed(&["vault", "info", "--password-fd", "0", "/v"], b"battery staple\n");
    assert!(output.status.success(), "{output:?}");
    let mut command = world.command();
    command.args(["--json", "vault", "info", "--password-env", "OF_THE_VAULT", "/v"]);
    let output = command.env("OF_THE_VAULT", "battery staple").output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((info["pack_len"].as_u64(), info["cipher"].as_str()), (Some(64 << 10), Some("AES-256-GCM")));
    assert!(info["live_len"].as_u64() > Some(0) && info["epoch"].as_u64() > Some(1), "{info}");
    let sealed = world.ok(&["vault", "info", "--sealed", "/v"]);
    assert!(sealed.contains("64 MiB of memory") && !sealed.contains("epoch"), "{sealed}");
}

#[test]
fn check_finds_a_flipped_bit_and_destroy_removes_everything() {
    let world = machine();
    let vault = world.path("srv/by-place");
    create(&world, text(&vault));
    let told = world.ok(&strs(&with_password(&world, "check", &[text(&vault)])));
    assert!(told.contains("are whole"), "{told}");
    // In the middle of the longest file of objects: records of the store below are checked first, so damage of any kind is found.
    let of_blocks = files(&vault.join("blocks"));
    let longest = of_blocks.iter().max_by_key(|file| fs::metadata(file).expect("there").len()).expect("there is one");
    let file = fs::File::options().read(true).write(true).open(longest).expect("opened");
    let (at, mut byte) = (100_000, [0]);
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 4], at).expect("written");
    let told = world.fails(&strs(&with_password(&world, "check", &[text(&vault)])), 4);
    assert!(told.contains("damaged"), "{told}");
    file.write_all_at(&byte, at).expect("mended");
    world.ok(&strs(&with_password(&world, "check", &[text(&vault)])));

    let told = world.fails(&strs(&with_password(&world, "destroy", &[text(&vault)])), 2);
    assert!(told.contains("--yes"), "{told}");
    let told = world.ok(&strs(&with_password(&world, "destroy", &["--yes", text(&vault)])));
    assert!(told.contains("is destroyed"), "{told}");
    assert!(!vault.exists(), "nothing is left of it");
    world.fails(&strs(&with_password(&world, "info", &[text(&vault)])), 3);

    // A directory with something in it is nobody's vault; a new one takes the place of one that was destroyed.
    fs::create_dir(&vault).expect("made");
    fs::write(vault.join("mine"), "").expect("written");
    let told = world.fails(&strs(&with_password(&world, "create", &[text(&vault)])), 1);
    assert!(told.contains("something in it"), "{told}");
    fs::remove_file(vault.join("mine")).expect("removed");
    // Nor that of another mount, which looks like one.
    fs::create_dir(vault.join("heads")).expect("made");
    world.fails(&strs(&with_password(&world, "create", &[text(&vault)])), 1);
    fs::remove_dir(vault.join("heads")).expect("removed");
    create(&world, text(&vault));

    let file = format!("sqlite:{}", text(&world.path("srv/vault.sqlite")));
    create(&world, &file);
    world.ok(&strs(&with_password(&world, "check", &[&file])));
    world.ok(&strs(&with_password(&world, "destroy", &["--yes", &file])));
    world.fails(&strs(&with_password(&world, "check", &[&file])), 3);
    create(&world, &file);
}

/// Opens a vault alone, and waits until it answers.
fn opened(world: &World, vault: &Path, dir: &Path, more: &[&str]) -> std::process::Child {
    let args = with_password(world, "open", &[more, &[text(vault), text(dir)]].concat());
    let mut child = world.command().args(args).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut told = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut told).expect("read");
    assert!(told.contains("is open at"), "{told}");
    child
}

fn ended(mut child: std::process::Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn one_is_opened_alone_and_locks_itself() {
    let world = machine();
    let Some(dir) = world.mount_dir() else { return };
    let vault = world.path("srv/alone");
    create(&world, text(&vault));
    let child = opened(&world, &vault, &dir, &[]);
    let mut file = fs::File::create_new(dir.join(NAME)).expect("made");
    file.write_all(SECRET.as_bytes()).expect("written");
    drop(file);
    let told = world.fails(&strs(&with_password(&world, "info", &[text(&vault)])), 5);
    assert!(!told.is_empty());
    let core = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("read");
    let core = core.lines().find(|line| line.starts_with("Max core file size")).expect("it is told").to_owned();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .expect("signalled");
    assert_eq!(ended(child), Some(0));
    assert!(!dir.join(NAME).exists(), "it is taken away");
    shows_nothing(&world.path("srv"));

    // Another data directory goes on, since the first left nothing behind.
    fs::remove_dir_all(world.path("data/vaults")).expect("removed");
    let child = opened(&world, &vault, &dir, &["--lock-after", "10s"]);
    assert_eq!(fs::read_to_string(dir.join(NAME)).expect("read"), SECRET);
    assert_eq!(ended(child), Some(0), "nothing used it");
    assert!(!dir.join(NAME).exists(), "it is locked");
}

/// A machine with a vault of small packs at `/v` in a store that others reach as well.
fn machine_over(store: &str) -> World {
    let world = World::by_default();
    fs::create_dir(world.path("etc")).expect("made");
    private(&world.path("etc/v.password"), &format!("{PASSWORD}\n"));
    private(&world.path("etc/redis.password"), "open sesame\n");
    let (store, etc) = (store.replace("/etc/muxfs", text(&world.path("etc"))), world.path("etc"));
    let config = world.path("config.toml");
    let mount = format!(
        "[[mount]]\nkind = \"vault\"\nprefix = \"v\"\nstore = {{ {store} }}\npassword_file = \"{}\"\n",
        text(&etc.join("v.password"))
    );
    fs::write(&config, mount).expect("written");
    World { config: Some(config), ..world }
}

/// What `ls` says where the vault is not opened.
fn refused(world: &World) -> String {
    let output = world.run(&["ls", "/v"]);
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was acknowledged survives `kill -9`; another machine is refused, and when somebody says that the first is gone goes on with what
/// was committed, and deletes nothing that it may have pinned.
fn machines_take_it_over(one: &World, two: &World) {
    assert!(refused(one).contains("muxfs vault create"));
    create(one, "/v");
    let server = one.serve(&[]);
    let tree = one.tree();
    one.ok(&["put", "-r", text(&tree), "/v/tree"]);
    fs::write(one.path("file"), "pinned").expect("written");
    let pinned = one.ok(&["put", text(&one.path("file")), "/v"]);
    one.ok(&["commit", "-m", "one", "/v"]);
    put(one, SECRET, "/v/synced");
    server.kill();

    let server = one.serve(&[]);
    assert_eq!(one.ok(&["cat", "/v/synced"]), SECRET);
    one.ok(&["gc", "/v"]);
    one.ok(&["verify", "--all", "/v"]);
    let told = refused(two);
    assert!(told.contains("take-over"), "{told}");
    one.ok(&["commit", "-m", "two", "/v"]);
    put(one, "nowhere else", "/v/lost");
    server.kill();

    let local = two.path("data/mounts/v");
    fs::create_dir_all(&local).expect("made");
    fs::write(local.join("take-over"), "").expect("written");
    let server = two.serve(&[]);
    assert!(!local.join("take-over").exists());
    assert_eq!(two.ok(&["cat", "/v/synced"]), SECRET);
    two.ok(&["get", "/v/tree", text(&two.path("back"))]);
    assert_same_tree(&tree, &two.path("back"));
    two.fails(&["cat", "/v/lost"], 3);
    let told = two.fails(&["gc", "/v"], 6);
    assert!(told.contains("pins-lost"), "{told}");
    two.ok(&["pin", "add", &pinned]);
    fs::remove_file(local.join("pins-lost")).expect("there");
    two.ok(&["gc", "/v"]);
    assert_eq!(two.ok(&["cat", &pinned]), "pinned");
    put(two, "two", "/v/two");
    two.ok(&["commit", "/v"]);
    assert_eq!(server.terminate(), Some(0));
    assert!(!local.join("pins-lost").exists(), "it was said once");
    assert_eq!(two.ok(&["cat", "/v/two"]), "two");

    let told = refused(one);
    assert!(told.contains("take-over"), "{told}");
    for world in [one, two] {
        shows_nothing(&world.path("data/mounts/v"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_a_bucket_is_taken_over() {
    let buckets = Buckets::new(&["bucket"]).await;
    let place = format!("endpoint = \"http://{}\", bucket = \"bucket\"", buckets.server.addr("s3"));
    let store = format!("s3 = {{ {place}, below = \"v\", credentials = \"/etc/muxfs/s3\" }}");
    let machines = [machine_over(&store), machine_over(&store)];
    for world in &machines {
        private(&world.path("etc/s3"), &buckets.credentials);
    }
    machines_take_it_over(&machines[0], &machines[1]);
}

#[tokio::test]
async fn one_on_a_redis_server_is_taken_over() {
    let Some(redis) = Redis::start(REDIS) else { return };
    let server = format!("server = \"{}\", password_file = \"/etc/muxfs/redis.password\"", address(&redis));
    let store = format!("redis = {{ {server} }}");
    machines_take_it_over(&machine_over(&store), &machine_over(&store));
}

/// A node is lost after a `kill -9`, and the machine as well: another one has it all, with the key and the password.
#[test]
fn one_on_nodes_outlives_one_of_them_and_its_machine() {
    let disks = tempfile::tempdir().expect("a directory");
    let disk = |n: usize| disks.path().join(format!("disk{n}"));
    let nodes: Vec<_> = (0..5).map(|n| format!("{{ dir = \"{}\" }}", text(&disk(n)))).collect();
    (0..5).for_each(|n| fs::create_dir(disk(n)).expect("made"));
    let store =
        format!("zstor = {{ data = 3, parity = 2, key = \"/etc/muxfs/z.key\", nodes = [{}] }}", nodes.join(", "));
    let one = machine_over(&store);
    one.ok(&["key", "new", text(&one.path("etc/z.key"))]);
    assert!(refused(&one).contains("muxfs vault create"));
    create(&one, "/v");
    let server = one.serve(&[]);
    let tree = one.tree();
    one.ok(&["put", "-r", text(&tree), "/v/tree"]);
    put(&one, SECRET, &format!("/v/{NAME}"));
    let status: serde_json::Value = serde_json::from_str(&one.ok(&["--json", "zstor", "status", "/v"])).expect("JSON");
    assert_eq!((status["data"].as_u64(), status["parity"].as_u64()), (Some(3), Some(2)), "{status}");
    let told = one.fails(&["zstor", "node", "drain", "--mount", "/v", text(&disk(4))], 2);
    assert!(told.contains("restart the server"), "{told}");
    one.ok(&["commit", "/v"]);
    one.ok(&["gc", "/v"]);
    put(&one, "synced", "/v/synced");
    server.kill();

    fs::remove_dir_all(disk(1)).expect("lost");
    assert_eq!(one.ok(&["cat", "/v/synced"]), "synced");
    one.ok(&["get", "/v/tree", text(&one.path("back"))]);
    assert_same_tree(&tree, &one.path("back"));
    one.ok(&["doctor"]);
    shows_nothing(disks.path());
    shows_nothing(&one.path("data/mounts/v"));

    // An opening writes, and takes as many nodes as a write does.
    fs::rename(disk(3), disk(7)).expect("moved");
    let told = refused(&one);
    assert!(told.contains("it takes 4"), "{told}");
    fs::rename(disk(7), disk(3)).expect("back");

    let two = machine_over(&store);
    fs::copy(one.path("etc/z.key"), two.path("etc/z.key")).expect("copied");
    let told = refused(&two);
    assert!(told.contains("take-over"), "{told}");
    let local = two.path("data/mounts/v");
    fs::write(local.join("take-over"), "").expect("written");
    assert_eq!(two.ok(&["cat", &format!("/v/{NAME}")]), SECRET);
    two.ok(&["get", "/v/tree", text(&two.path("back"))]);
    assert_same_tree(&tree, &two.path("back"));
    fs::remove_file(local.join("pins-lost")).expect("it is not known what the first had pinned");
    // Packs that count no more are deleted on the nodes.
    put(&two, "two", "/v/two");
    two.ok(&["commit", "/v"]);
    two.ok(&["gc", "/v"]);
    assert_eq!(two.ok(&["cat", "/v/two"]), "two");
}
