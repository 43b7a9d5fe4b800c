//! `mount` and `umount`: by a process of its own, by a server, after a crash, beside other ways in.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use super::{Mount, PATIENCE, World};

/// A world that can mount, with a directory to mount on; says so where this machine cannot.
pub(crate) fn mountable() -> Option<(World, PathBuf)> {
    let world = World::new();
    let dir = world.mount_dir()?;
    Some((world, dir))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The process that owns the data directory.
fn owner(world: &World) -> rustix::process::Pid {
    let lock = fs::read(world.path("data/lock")).expect("there is one");
    let lock: serde_json::Value = serde_json::from_slice(&lock).expect("JSON");
    let pid = lock["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a number");
    rustix::process::Pid::from_raw(pid).expect("not 0")
}

/// Waits until a process is gone that is no child of this one.
fn wait_for_end(pid: rustix::process::Pid) {
    let begun = Instant::now();
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "{pid:?} does not end");
        std::thread::yield_now();
    }
}

fn silent(output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty() && told.is_empty(), "{output:?}");
}

/// Takes a mount away that nothing here uses. A program that another test is just starting has what this one had open,
/// until it is on its way.
pub(crate) fn unmounted(umount: impl Fn() -> Output) {
    let begun = Instant::now();
    loop {
        let output = umount();
        let told = String::from_utf8_lossy(&output.stderr);
        if !["busy", "programs use it"].iter().any(|busy| told.contains(busy)) {
            return silent(&output);
        }
        assert!(begun.elapsed() < PATIENCE, "{output:?}");
    }
}

/// The command returns when the mount answers; what is written through it and by other commands is one tree; after
/// `umount` the process is gone and everything is there.
#[test]
fn a_process_of_its_own_serves_a_mount() {
    let Some((world, dir)) = mountable() else { return };
    let _mount = Mount(&world, &dir);
    silent(&world.run(&["mount", "/ipfs", text(&dir)]));
    let pid = owner(&world);
    fs::write(dir.join("a.txt"), "by a program").expect("written");
    assert_eq!(world.ok(&["cat", "/ipfs/a.txt"]), "by a program");
    fs::metadata(dir.join("b.txt")).expect_err("not there, and the kernel knows");
    let put = world.fed(&["put", "-", "/ipfs/b.txt"], b"by a command");
    assert!(put.status.success(), "{put:?}");
    assert_eq!(fs::read_to_string(dir.join("b.txt")).expect("seen at once"), "by a command");
    world.ok(&["rm", "/ipfs/a.txt"]);
    fs::metadata(dir.join("a.txt")).expect_err("gone at once");

    let told = world.fails(&["mount", "/ipfs", text(&dir)], 1);
    assert!(told.contains("umount"), "it says what to do: {told}");
    // A second one is served by the same process, which stays until both are gone.
    let second = world.path("second");
    fs::create_dir(&second).expect("made");
    silent(&world.run(&["mount", "-o", "ro", text(&second)]));
    assert_eq!(owner(&world), pid);
    assert_eq!(fs::read_to_string(second.join("ipfs/b.txt")).expect("there"), "by a command");
    fs::write(dir.join("b.txt"), "changed here").expect("written");
    assert_eq!(fs::read_to_string(second.join("ipfs/b.txt")).expect("there"), "changed here");
    fs::write(second.join("ipfs/c"), "").expect_err("it only reads");
    unmounted(|| world.run(&["umount", text(&second)]));
    unmounted(|| world.run(&["umount", text(&dir)]));
    wait_for_end(pid);
    assert!(fs::read_dir(&dir).expect("a directory again").next().is_none());
    assert_eq!(world.ok(&["cat", "/ipfs/b.txt"]), "changed here");
}

/// A checkout replaces the tree below the mount, and the kernel forgets what it knew of it.
#[test]
fn a_checkout_is_seen_through_a_mount() {
    let Some((world, dir)) = mountable() else { return };
    let _mount = Mount(&world, &dir);
    silent(&world.run(&["mount", "/ipfs", text(&dir)]));
    fs::create_dir(dir.join("d")).expect("made");
    fs::write(dir.join("d/f"), "then").expect("written");
    world.ok(&["snapshot", "then"]);
    assert_eq!(fs::read_to_string(dir.join(".history/then/d/f")).expect("there"), "then");
    fs::write(dir.join("d/f"), "now").expect("written");
    fs::remove_file(dir.join("d/f")).expect("removed");
    fs::metadata(dir.join("d/f")).expect_err("gone, and the kernel knows");
    fs::write(dir.join("g"), "later").expect("written");
    world.ok(&["checkout", "then"]);
    assert_eq!(fs::read_to_string(dir.join("d/f")).expect("back"), "then");
    fs::metadata(dir.join("g")).expect_err("it was not there then");
}

/// Flists come, change and go in a directory that nobody watches, and the kernel does not believe for ever what it knew.
#[test]
fn flists_that_come_and_go_are_seen_through_a_mount() {
    use std::os::unix::fs::MetadataExt as _;
    let Some((world, dir)) = mountable() else { return };
    let flists = world.path("flists");
    fs::create_dir(&flists).expect("made");
    let config = format!("[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\ndir = \"{}\"\n", text(&flists));
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist");
    let place = |from: &str| {
        fs::copy(vectors.join(from), flists.join(".a")).expect("copied");
        fs::rename(flists.join(".a"), flists.join("a.fl")).expect("renamed");
    };
    let number = || fs::metadata(dir.join("a/etc")).ok().map(|about| about.ino());
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{what} is not seen");
            std::thread::yield_now();
        }
    };
    let _mount = Mount(&world, &dir);
    silent(&world.run(&["mount", "/flist", text(&dir)]));
    assert_eq!(number(), None);
    place("small.fl");
    wait("one that comes", &|| number().is_some());
    let old = number();
    place("small.flist");
    wait("another in its place", &|| number().is_some_and(|number| Some(number) != old));
    fs::remove_file(flists.join("a.fl")).expect("removed");
    wait("one that goes", &|| number().is_none());
    assert_eq!(fs::read_dir(&dir).expect("listed").count(), 0);
    unmounted(|| world.run(&["umount", text(&dir)]));
}

/// What was synced through a mount outlives `kill -9` of its process, and the next `mount` replaces what that left. A dead
/// mount was taken for one that answers where the kernel still had the attributes of its directory.
#[test]
fn a_killed_mount_is_replaced_and_loses_nothing_synced() {
    let Some((world, dir)) = mountable() else { return };
    let _mount = Mount(&world, &dir);
    for round in 0..5 {
        silent(&world.run(&["mount", "/ipfs", text(&dir)]));
        let pid = owner(&world);
        for before in 0..round {
            let text = fs::read_to_string(dir.join(format!("f{before}"))).expect("it was synced");
            assert_eq!(text, format!("round {before}"));
        }
        let path = dir.join(format!("f{round}"));
        fs::write(&path, format!("round {round}")).expect("written");
        fs::File::open(&path).expect("open").sync_all().expect("durable");
        fs::File::open(&dir).expect("open").sync_all().expect("durable");
        fs::write(dir.join("unsynced"), "may be lost").expect("written");
        fs::metadata(&dir).expect("the kernel knows");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        wait_for_end(pid);
        fs::read_dir(&dir).expect_err("nobody answers");
    }
    unmounted(|| world.run(&["umount", text(&dir)]));
}

/// A server mounts what it is told to, and takes it along when it ends. FTP and the mount show one tree.
#[test]
fn a_server_serves_mounts_too() {
    let Some((world, dir)) = mountable() else { return };
    let _mount = Mount(&world, &dir);
    let server = world.serve(&["--mount", text(&dir)]);
    assert_eq!(server.ready["mounts"][0].as_str(), dir.to_str());
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    for prefix in ["ipfs", "mem", "local"] {
        for round in 0..10 {
            let (path, sent) = (dir.join(prefix).join("f"), format!("{prefix} by FTP {round}"));
            ftp.put_file(format!("/{prefix}/f"), &mut sent.as_bytes()).expect("put");
            assert_eq!(fs::read_to_string(&path).expect("seen at once"), sent);
            let written = format!("by a program {round}");
            fs::write(&path, &written).expect("written");
            let got = ftp.retr_as_buffer(&format!("/{prefix}/f")).expect("got").into_inner();
            assert_eq!(String::from_utf8_lossy(&got), written);
        }
    }
    let second = world.path("second");
    fs::create_dir(&second).expect("made");
    silent(&world.run(&["mount", "/local", text(&second)]));
    assert_eq!(fs::read_to_string(second.join("f")).expect("there"), "by a program 9");
    let told = world.fails(&["mount", "-f", "/mem", text(&second)], 5);
    assert!(told.contains("server"), "{told}");
    let open = fs::File::open(second.join("f")).expect("open");
    let told = world.fails(&["umount", text(&second)], 5);
    assert!(told.contains("-l"), "it says what to do: {told}");
    drop(open);
    unmounted(|| world.run(&["umount", text(&second)]));
    assert_eq!(server.terminate(), Some(0));
    assert!(fs::read_dir(&dir).expect("a directory again").next().is_none());
}

/// A session of the kernel ends a moment after `umount` of the system returns, and once took away whatever was mounted at
/// its directory by then: programs wrote into the bare directory below. So did a process that ended with the last of its
/// mounts and had just taken a command for one more. What is mounted again at once stays mounted.
#[test]
fn what_is_mounted_again_at_once_stays() {
    let Some((world, dir)) = mountable() else { return };
    if !rustix::process::geteuid().is_root() {
        muxfs::testing::skip("umount of the system is root's");
        return;
    }
    let _mount = Mount(&world, &dir);
    let server = world.serve(&[]);
    mount_again_and_again(&world, &dir, "served");
    assert_eq!(server.terminate(), Some(0));
    mount_again_and_again(&world, &dir, "alone");
    assert_eq!(world.ok(&["ls", "/ipfs"]).lines().count(), 60);
}

fn mount_again_and_again(world: &World, dir: &Path, name: &str) {
    for round in 0..30 {
        silent(&world.run(&["mount", "/ipfs", text(dir)]));
        fs::write(dir.join(format!("{name}{round}")), "").expect("written");
        unmounted(|| Command::new("umount").arg(dir).output().expect("the program runs"));
        let below = fs::read_dir(dir).expect("a directory again").count();
        assert_eq!(below, 0, "round {round}, {name}, wrote past the mount");
    }
}

/// In the foreground the command is the process: SIGTERM ends both in order. `mount.fuse` calls it in a way of its own.
#[test]
fn a_mount_in_the_foreground_ends_with_its_command() {
    let Some((world, dir)) = mountable() else { return };
    let _mount = Mount(&world, &dir);
    let mut command = Command::new(env!("CARGO_BIN_EXE_muxfs"));
    let options = format!("rw,noauto,data={}", world.path("data").display());
    let mut child = command.args(["/ipfs", text(&dir), "-o", &options, "-f"]).spawn().expect("the program runs");
    let begun = Instant::now();
    while !is_mounted(&dir) {
        assert!(begun.elapsed() < PATIENCE, "it is not mounted");
        std::thread::yield_now();
    }
    fs::write(dir.join("f"), "through the mount").expect("written");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    assert_eq!(world.ok(&["cat", "/ipfs/f"]), "through the mount");
}

fn is_mounted(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|attr| attr.dev()).ok();
    device(dir) != dir.parent().and_then(device)
}

#[test]
fn what_cannot_be_mounted_is_said() {
    let Some((world, dir)) = mountable() else { return };
    let absent = world.path("absent");
    for (args, code, hint) in [
        (vec!["mount", "/ipfs", text(&absent)], 3, "make it first"),
        (vec!["mount", "/nope", text(&dir)], 3, "nope"),
        (vec!["mount", "-o", "allow_othre", text(&dir)], 2, "allow_othre"),
        (vec!["mount", "a", "b", "c"], 2, "DIR"),
        (vec!["umount", text(&dir)], 2, "nothing is mounted"),
    ] {
        let told = world.fails(&args, code);
        assert!(told.contains(hint), "{args:?}: {told}");
    }
}

/// A process that only mounts was told by its command not to listen: a reload named what the file says of frontends as
/// something that takes a restart.
#[test]
fn a_process_that_only_mounts_takes_no_restart_for_what_it_does_not_serve() {
    let world = World::new();
    let Some(dir) = world.mount_dir() else { return };
    let config = world.config.clone().expect("a file");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, format!("[nfs]\nlisten = \"127.0.0.1:0\"\n{text}")).expect("written");
    let _mount = Mount(&world, &dir);
    world.ok(&["mount", "/mem", dir.to_str().expect("UTF-8")]);
    assert_eq!(world.ok(&["reload"]), "changed: nothing\ntakes a restart: nothing");
    world.ok(&["umount", dir.to_str().expect("UTF-8")]);
}
