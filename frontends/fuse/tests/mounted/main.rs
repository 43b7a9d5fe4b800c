//! A mounted directory as programs see it: through `std::fs` and the calls of the kernel.
//!
//! Where this machine has no FUSE that can be used each test says so and passes. One that hangs ends the process: a
//! thread in a call of a mount that does not answer cannot be ended otherwise.
#![cfg(target_os = "linux")]

mod ends;
mod exercise;
mod files;
mod laws;
mod past;
mod shared_names;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use muxfs::{
    ErrorKind, Name,
    testing::{self, model::ModelFs},
    vfs::{Ino, Lease, NewNode, SetAttr, Vfs, watch::Watch},
};
use muxfs_fuse::{Mounted, Options, mount};
use tempfile::TempDir;

/// How long a test may take before it is taken for hung, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Whether tests can mount; says so where they cannot.
fn can_mount() -> bool {
    let usable = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !usable {
        testing::skip("this machine has no /dev/fuse that this user can open");
    }
    usable
}

/// Runs what must end.
async fn within_patience<T>(work: impl Future<Output = T>) -> T {
    if let Ok(done) = tokio::time::timeout(PATIENCE, work).await {
        return done;
    }
    eprintln!("hung for {PATIENCE:?}: a mount does not answer");
    std::process::abort();
}

/// Runs calls that block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    within_patience(tokio::task::spawn_blocking(work)).await.expect("it does not panic")
}

/// A model file system, mounted, and a view of it as another frontend has.
struct Bed {
    fs: Arc<ModelFs>,
    watch: Watch,
    elsewhere: Arc<dyn Vfs>,
    mounted: Mounted,
    _dir: TempDir,
}

impl Bed {
    /// `None` where this machine cannot mount.
    async fn new() -> Option<Self> {
        Self::with(Options { allow_other: true, ..Options::default() }).await
    }

    async fn with(options: Options) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let fs = ModelFs::new(testing::env());
        let watch = Watch::new(fs.clone());
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = mount(&watch, dir.path(), options).await.expect("mounted");
        let elsewhere = watch.view();
        Some(Self { fs, watch, elsewhere, mounted, _dir: dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted.dir().join(name)
    }

    /// Makes a node through the other frontend.
    async fn make(&self, dir: Ino, name: &str, node: NewNode) -> Lease {
        let made = self.elsewhere.create(dir, &self::name(name), node, SetAttr::default()).await.expect("created");
        Lease::adopt(self.elsewhere.clone(), made.node.ino)
    }

    /// Reads a file through the other frontend.
    async fn read(&self, name: &str) -> Vec<u8> {
        let file = self.elsewhere.lookup(self.elsewhere.root(), &self::name(name)).await.expect("there");
        let bytes = self.elsewhere.read(file.ino, 0, 1 << 20).await.expect("read");
        self.elsewhere.release(file.ino, 1);
        bytes.to_vec()
    }

    /// Ends it, and finds that nothing is leased any more.
    async fn end(self) {
        unmounted(&self.mounted).await;
        assert_eq!(self.fs.lease_count(), 0, "what the kernel forgot was given back, and the rest at the end");
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
    within_patience(ended).await;
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("listed");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Whether the tests run as root, as some calls need.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        testing::skip("only root may");
    }
    is_root
}
