//! A host directory, mounted: what the kernel writes and reads by itself, past this program, and who sees it.
//!
//! Goal: FUSE passthrough changes nothing but speed. Method: `/local` behind a witness that notes the reads and writes
//! that reach it, mounted by `muxfs-fuse`, used through `std::fs` and by another user's processes. Without root, or with a
//! kernel that cannot, each test says so and passes. Spec: spec/fuse.md #passthrough
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    os::unix::{
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    ErrorKind, Result, forward_vfs, testing,
    vfs::{Changed, Fsid, Ino, Vfs, watch::Watch},
};
use muxfs_fuse::{Mounted, Options, mount};
use muxfs_local::{LocalOptions, LocalVfs};

/// A mount that is in use for longer than this is one that leaks.
const PATIENCE: Duration = Duration::from_mins(1);

/// Nobody in particular.
const OTHER: u32 = 65_534;

/// A file system that notes how many reads and writes came to it.
#[derive(Debug)]
struct Witness {
    vfs: Arc<LocalVfs>,
    count: AtomicU64,
}

#[async_trait]
impl Vfs for Witness {
    forward_vfs!(vfs: root, lookup, parent, getattr, readdir, host_file, readlink, statfs, handle, resolve);
    forward_vfs!(vfs: retain, release, setattr, create, remove, rename, link, allocate, punch_hole);
    forward_vfs!(vfs: copy_range, seek, getxattr, listxattr, setxattr, removexattr, sync, sync_inode);

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.vfs.read(ino, offset, len).await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.vfs.write(ino, offset, data, clear_suid).await
    }
}

/// A host directory, mounted in two places by one process.
struct World {
    witness: Arc<Witness>,
    watch: Watch,
    mounts: Vec<Mounted>,
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where the kernel does not read and write by itself for this user.
    async fn new(options: Options) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            testing::skip("only root may have the kernel read and write host files by itself");
            return None;
        }
        if File::options().read(true).write(true).open("/dev/fuse").is_err() {
            testing::skip("this machine has no /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["host", "first", "second"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let local = LocalVfs::open(&dir.path().join("host"), &dir.path().join("handles"), LocalOptions::default());
        let witness = Arc::new(Witness { vfs: local.expect("opened"), count: AtomicU64::new(0) });
        let watch = Watch::new(witness.clone());
        let mut mounts = Vec::new();
        for name in ["first", "second"] {
            mounts.push(mount(&watch, dir.path().join(name), options.clone()).await.expect("mounted"));
        }
        if options.passthrough && !mounts.iter().all(Mounted::passes_through) {
            testing::skip("this kernel has no FUSE passthrough (Linux 6.9)");
            return None;
        }
        Some(Self { witness, watch, mounts, dir })
    }

    /// Does calls that block while the mounts are served, and ends them.
    async fn run(self, work: impl FnOnce(&Self) + Send + 'static) {
        let this = tokio::task::spawn_blocking(move || {
            work(&self);
            self
        });
        let this = this.await.expect("it does not panic");
        for mounted in &this.mounts {
            unmounted(mounted).await;
        }
    }

    fn path(&self, place: &str) -> PathBuf {
        self.dir.path().join(place)
    }

    /// How many reads and writes came to the file system.
    fn count(&self) -> u64 {
        self.witness.count.load(Ordering::SeqCst)
    }
}

/// Unmounts what no test uses any more. A process that another test begins holds for a moment whatever this one had open.
async fn unmounted(mounted: &Mounted) {
    let ended = async {
        while let Err(error) = mounted.unmount().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "unmounted: {error:#}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("nobody uses it");
}

/// Attributes are believed for longer than any test takes: what is not told is not seen.
fn options() -> Options {
    Options {
        allow_other: true,
        outside: vec![Fsid(0)],
        outside_timeout: Duration::from_hours(1),
        ..Options::default()
    }
}

fn read(path: PathBuf) -> Vec<u8> {
    fs::read(path).expect("read")
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_past_us_and_everybody_sees_them() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            let noise: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
            let mut file =
                File::options().read(true).write(true).create_new(true).open(world.path("first/a")).expect("a");
            file.write_all(&noise).expect("written");
            file.sync_all().expect("synced");
            assert_eq!(read(world.path("host/a")), noise);
            assert_eq!(file.metadata().expect("stat").len(), noise.len() as u64, "before it is closed");
            // What the host's own programs write is in the next read, with no opening in between.
            File::options()
                .write(true)
                .open(world.path("host/a"))
                .expect("open")
                .write_all_at(b"host", 7)
                .expect("written");
            let mut back = [0; 4];
            file.read_exact_at(&mut back, 7).expect("read");
            assert_eq!(&back[..], b"host");
            drop(file);
            assert_eq!(read(world.path("second/a")), read(world.path("host/a")));
            assert_eq!(world.count(), 0, "no byte of a file went through the file system");
        })
        .await;
}

/// The kernel writes, and nobody here hears of it until the file is closed: then the other mount forgets what it knew.
#[tokio::test(flavor = "multi_thread")]
async fn who_closes_what_they_wrote_tells_the_other_mounts() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            fs::write(world.path("first/a"), b"old").expect("written");
            assert_eq!(fs::metadata(world.path("second/a")).expect("stat").len(), 3);
            let mut file = OpenOptions::new().append(true).open(world.path("first/a")).expect("open");
            file.write_all(b" and new").expect("written");
            drop(file);
            let there = fs::metadata(world.path("second/a")).expect("stat");
            let host = fs::metadata(world.path("host/a")).expect("stat");
            assert_eq!((there.len(), there.mtime_nsec()), (11, host.mtime_nsec()));
        })
        .await;
}

/// Two append by turns, one past us and one on the host: each at the end as it is.
#[tokio::test(flavor = "multi_thread")]
async fn appends_go_to_the_end_as_it_is() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            let append = |place| OpenOptions::new().append(true).create(true).open(world.path(place)).expect("open");
            let (mut ours, mut hosts) = (append("first/log"), append("host/log"));
            for _ in 0..3 {
                ours.write_all(b"a").expect("written");
                hosts.write_all(b"b").expect("written");
            }
            assert_eq!(read(world.path("second/log")), b"ababab");
        })
        .await;
}

/// Opened, cut, grown, copied, punched and closed in any order, by several at once: no opening is refused.
#[tokio::test(flavor = "multi_thread")]
async fn several_openings_of_a_file_agree() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            let path = world.path("first/a");
            fs::write(&path, vec![7; 10_000]).expect("written");
            std::thread::scope(|scope| {
                for number in 0..4_u8 {
                    let path = &path;
                    scope.spawn(move || {
                        for round in 0..200 {
                            let mut reader = File::open(path).expect("open");
                            let writer = OpenOptions::new().write(true).open(path).expect("open");
                            writer.write_all_at(&[number], number.into()).expect("written");
                            reader.seek(std::io::SeekFrom::Start(4)).expect("seek");
                            let mut rest = Vec::new();
                            reader.read_to_end(&mut rest).expect("read");
                            assert!(rest.len() >= 5_000 - 4, "round {round}");
                            if number == 0 {
                                writer.set_len(if round % 2 == 0 { 5_000 } else { 10_000 }).expect("cut");
                            }
                        }
                    });
                }
            });
            assert_eq!(read(path), read(world.path("host/a")));
            assert_eq!(world.count(), 0);
        })
        .await;
}

/// An open file that lost its name is read and written on.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_outlives_its_name() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            let path = world.path("first/a");
            let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
            fs::remove_file(&path).expect("removed");
            file.write_all(b"still here").expect("written");
            let mut back = [0; 10];
            file.read_exact_at(&mut back, 0).expect("read");
            assert_eq!((&back[..], file.metadata().expect("stat").len()), (&b"still here"[..], 10));
            assert!(!world.path("host/a").exists());
        })
        .await;
}

/// The kernel writes with the rights of this process, which is root: so it would leave setuid where a write of another
/// user takes it away. Such a file is written through us, and one that somebody writes past us is not given setuid.
#[tokio::test(flavor = "multi_thread")]
async fn setuid_goes_when_another_user_writes() {
    let Some(world) = World::new(options()).await else { return };
    world
        .run(|world| {
            let mode = |place: &str| fs::metadata(world.path(place)).expect("stat").mode() & 0o7777;
            let chmod = |place: &str, bits| {
                fs::set_permissions(world.path(place), fs::Permissions::from_mode(bits)).expect("chmod");
            };
            let shell = |script: &str| {
                let mut shell = Command::new("sh");
                shell.args(["-c", script]).current_dir(world.path("first")).uid(OTHER).gid(OTHER);
                shell
            };
            for (opening, name) in [(">>", "appended"), ("1<>", "written")] {
                let place = format!("first/{name}");
                fs::write(world.path(&place), b"x").expect("written");
                // A reader holds it open past us meanwhile.
                let _reader = File::open(world.path(&place)).expect("open");
                chmod(&place, 0o4777);
                assert!(shell(&format!("echo y {opening} {name}")).status().expect("sh").success());
                assert_eq!(fs::metadata(world.path(&format!("host/{name}"))).expect("stat").mode() & 0o7777, 0o777);
            }

            fs::write(world.path("first/open"), b"x").expect("written");
            chmod("first/open", 0o777);
            let script = "exec 3>>open; echo ready; read go; echo y >&3";
            let mut writer = shell(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
            let mut ready = String::new();
            BufReader::new(writer.stdout.take().expect("piped")).read_line(&mut ready).expect("ready");
            chmod("first/open", 0o4777);
            assert_eq!(mode("first/open"), 0o777, "as the next write would leave it");
            writer.stdin.take().expect("piped").write_all(b"go\n").expect("told");
            assert!(writer.wait().expect("sh").success());
            chmod("first/open", 0o4777);
            assert_eq!(mode("first/open"), 0o4777, "nobody writes any more");

            // Root keeps it, as anywhere.
            fs::write(world.path("first/open"), b"root").expect("written");
            assert_eq!(mode("host/open"), 0o4777);
        })
        .await;
}

/// The option turns it off, and a mount that only reads has it.
#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_left_out_and_reading_alone_has_it() {
    let Some(world) = World::new(options()).await else { return };
    let plain = Options { passthrough: false, ..options() };
    let read_only = Options { read_only: true, ..options() };
    for (name, options) in [("plain", plain), ("read-only", read_only)] {
        fs::create_dir(world.path(name)).expect("made");
        let passes = options.read_only;
        let mounted = mount(&world.watch, world.path(name), options).await.expect("mounted");
        assert_eq!(mounted.passes_through(), passes);
        let (path, host) = (world.path(name), world.path("host/a"));
        let before = world.count();
        let work = move || {
            fs::write(host, b"bytes").expect("written");
            let refused = OpenOptions::new().write(true).open(path.join("a")).is_err();
            (read(path.join("a")), refused)
        };
        let (bytes, refused) = tokio::task::spawn_blocking(work).await.expect("it does not panic");
        assert_eq!((&bytes[..], refused, world.count() > before), (&b"bytes"[..], passes, !passes), "{name}");
        unmounted(&mounted).await;
    }
    world.run(|_| ()).await;
}
