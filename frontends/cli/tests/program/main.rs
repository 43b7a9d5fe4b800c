//! The program from outside: what a user types, what comes back, what survives.
//!
//! Each test owns a data directory, starts `muxfs` as a process and speaks to it as a client would.

mod browser;
mod bucket;
mod car;
mod care;
mod cluster;
mod coherence;
mod collecting;
mod commands;
mod copies;
mod cp;
mod database;
mod doctor;
mod flist;
mod helia;
mod hostile;
mod hub;
mod mounting;
mod names;
mod nodes;
mod overlay;
mod real_root;
mod replaced;
mod roots;
mod rotate;
mod rounds;
mod s3;
mod s3_clients;
mod sealed;
mod serving;
mod sources;
mod trees;
mod vault;
mod verify;
mod webdav;
mod zdb;
mod zstor;
mod zstor_v2;

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long to wait for what must happen, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A data directory of its own, and the program to run on it.
struct World {
    dir: TempDir,
    /// Where there is one, commands are given it that name no other.
    config: Option<PathBuf>,
}

/// What most tests run on: without `/zstor`, which is opened with each command and is tested by itself.
const WITHOUT_ZSTOR: &str = r#"
[[mount]]
kind = "mem"
prefix = "mem"
[[mount]]
kind = "local"
prefix = "local"
[[mount]]
kind = "ipfs"
prefix = "ipfs"
"#;

impl World {
    fn new() -> Self {
        let world = Self::by_default();
        let config = world.path("without-zstor.toml");
        fs::write(&config, WITHOUT_ZSTOR).expect("written");
        Self { config: Some(config), ..world }
    }

    /// As the program is without a configuration.
    fn by_default() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), config: None }
    }

    /// One whose default mount is `/ipfs` or `/zstor`.
    fn of(prefix: &str) -> Self {
        if prefix == "zstor" { Self::by_default() } else { Self::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        self.command_for(&[])
    }

    /// The program, before it is given `args`.
    fn command_for(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muxfs"));
        command.arg("--data").arg(self.path("data")).stdin(Stdio::null());
        if let Some(config) = self.config.as_ref().filter(|_| !args.contains(&"--config")) {
            command.arg("--config").arg(config);
        }
        command
    }

    /// A directory to mount on; `None`, and said so, where this machine cannot mount.
    fn mount_dir(&self) -> Option<PathBuf> {
        if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
            muxfs::testing::skip("this machine has no /dev/fuse that this user can open");
            return None;
        }
        let dir = self.path("mnt");
        fs::create_dir(&dir).expect("made");
        Some(dir)
    }

    /// Runs a command to its end.
    fn run(&self, args: &[&str]) -> Output {
        self.command_for(args).args(args).output().expect("the program runs")
    }

    /// Runs a command that must succeed; its standard output, without the last newline.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end_matches('\n').into()
    }

    /// Runs a command that must fail with `code`; its standard error.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(!told.is_empty(), "{args:?} failed in silence");
        told
    }

    /// Runs a command with standard input.
    fn fed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command_for(args);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        child.wait_with_output().expect("it ends")
    }

    /// Starts a server on free ports and waits until it is ready.
    fn serve(&self, args: &[&str]) -> Server {
        let ready = self.path("ready.json");
        fs::remove_file(&ready).ok();
        let mut command = self.command_for(args);
        command.args(["serve", "--quiet", "--nfs", "127.0.0.1:0", "--ftp", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0", "--ready-file"]);
        let mut child = command.arg(&ready).args(args).spawn().expect("the program runs");
        let begun = Instant::now();
        loop {
            if let Ok(text) = fs::read(&ready) {
                let ready = serde_json::from_slice(&text).expect("JSON");
                return Server { child, ready };
            }
            if let Some(status) = child.try_wait().expect("a child") {
                panic!("the server ended: {status}");
            }
            // The store of a mount that is away is waited for, half a minute of a bucket.
            assert!(begun.elapsed() < 3 * PATIENCE, "the server is not ready");
            std::thread::yield_now();
        }
    }

    /// Removes what a machine takes along that is lost: all in its data directory but the nodes of /zstor and their key.
    fn lose_machine(&self) {
        for entry in fs::read_dir(self.path("data")).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.file_name().and_then(|name| name.to_str()) {
                Some("zstor") => {}
                _ if path.is_dir() => fs::remove_dir_all(path).expect("removed"),
                _ => fs::remove_file(path).expect("removed"),
            }
        }
    }

    /// A tree with what trees have.
    fn tree(&self) -> PathBuf {
        let tree = self.path("tree");
        fs::create_dir_all(tree.join("sub/empty")).expect("made");
        fs::write(tree.join("a.txt"), b"hello world").expect("written");
        fs::write(tree.join(".hidden"), b"").expect("written");
        let long: Vec<u8> = (0..3_000_000u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
        fs::write(tree.join("sub/long.bin"), long).expect("written");
        fs::write(tree.join("sub/ünï code"), "text").expect("written");
        std::os::unix::fs::symlink("../a.txt", tree.join("sub/link")).expect("linked");
        tree
    }
}

/// The number that the environment sets, else `default`.
fn number_of(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// A file that only its owner reads.
fn private(file: &Path, text: &str) {
    let made = fs::File::options().write(true).create_new(true).mode(0o600).open(file).expect("made");
    made.set_permissions(fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(file, text).expect("written");
}

/// Puts a file with a text.
fn put(world: &World, text: &str, name: &str) {
    let file = world.path("file");
    fs::write(&file, text).expect("written");
    world.ok(&["put", file.to_str().expect("UTF-8"), name]);
}

/// Takes a mount away at the end of a test, however it ends: a test that failed leaves none behind.
struct Mount<'a>(&'a World, &'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let taken = self.0.command().args(["umount", "-l"]).arg(self.1).output();
        taken.expect("the program runs");
    }
}

/// A running server.
struct Server {
    child: Child,
    ready: serde_json::Value,
}

impl Server {
    fn addr(&self, frontend: &str) -> std::net::SocketAddr {
        self.ready[frontend].as_str().expect("an address").parse().expect("an address")
    }

    /// Ends it as `kill` does and waits; its exit code.
    fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        self.child.wait().expect("a child").code()
    }

    /// Ends it as `kill -9` does.
    fn kill(mut self) {
        self.kill_now();
        self.child.wait().expect("a child");
    }

    /// The same while others use it, who find out; it is gone when it is dropped.
    fn kill_now(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves no server behind; one that ended is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Compares two trees: names, kinds, bytes, targets.
fn assert_same_tree(a: &Path, b: &Path) {
    let list = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(a), list(b), "{} {}", a.display(), b.display());
    for name in list(a) {
        let (a, b) = (a.join(&name), b.join(&name));
        let kind = fs::symlink_metadata(&a).expect("there").file_type();
        assert_eq!(kind, fs::symlink_metadata(&b).expect("there").file_type(), "{}", a.display());
        if kind.is_dir() {
            assert_same_tree(&a, &b);
        } else if kind.is_symlink() {
            assert_eq!(fs::read_link(&a).expect("a link"), fs::read_link(&b).expect("a link"));
        } else {
            assert!(fs::read(&a).expect("read") == fs::read(&b).expect("read"), "{} differs", a.display());
        }
    }
}
