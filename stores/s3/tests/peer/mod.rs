//! Servers of S3 with one bucket: ours in this process, another program, and one that the environment names.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    env,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use muxfs::{
    Name,
    testing::wire::working_tree,
    vfs::{NewNode, SetAttr},
};
use muxfs_s3::{Bucket, S3Credentials, S3Limits, S3Place};
use muxfs_s3_serve::{Key, Keys, Options, Server, serve};

pub(crate) const BUCKET: &str = "bucket";

/// Who asks.
pub(crate) fn me() -> S3Credentials {
    S3Credentials { access_key: "mine".into(), secret_key: "the-secret-of-mine".into(), token: None }
}

/// A server that ends with it.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    running: Running,
}

/// A bucket of a server that runs anyway, by `MUXFS_S3_ENDPOINT`, `MUXFS_S3_BUCKET`, `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`; `None` where they name none.
pub(crate) fn named(prefix: &str) -> Option<(S3Place, S3Credentials)> {
    let variable = |name| env::var(name).ok();
    let (endpoint, bucket) = (variable("MUXFS_S3_ENDPOINT"), variable("MUXFS_S3_BUCKET")?);
    let access_key = variable("AWS_ACCESS_KEY_ID").unwrap_or_default();
    let secret_key = variable("AWS_SECRET_ACCESS_KEY").unwrap_or_default();
    // Garage tells its own name for it.
    let region = variable("AWS_REGION");
    let place = S3Place { endpoint, bucket, prefix: prefix.into(), region, path_style: None };
    Some((place, S3Credentials { access_key, secret_key, token: variable("AWS_SESSION_TOKEN") }))
}

enum Running {
    Ours(Server),
    Program(Program),
}

/// A program, and the directory it serves.
struct Program(Child, tempfile::TempDir);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Peer {
    /// Ours.
    pub(crate) async fn ours() -> Self {
        let (vfs, ()) = working_tree().await;
        let bucket = Name::new(BUCKET.as_bytes()).expect("a name");
        vfs.create(vfs.root(), &bucket, NewNode::Dir, SetAttr::default()).await.expect("made");
        let S3Credentials { access_key: id, secret_key: secret, .. } = me();
        let keys = Keys::new(vec![Key { id, secret, read_only: false, allow: Vec::new() }]).expect("keys");
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), keys, ..Options::default() };
        let server = serve(vfs, options).await.expect("listens");
        Self { addr: server.local_addr(), running: Running::Ours(server) }
    }

    /// The program `s3s-fs` that `MUXFS_S3S_FS` names, over a directory; `None` where it is not named.
    pub(crate) async fn s3s_fs() -> Option<Self> {
        let Some(program) = env::var_os("MUXFS_S3S_FS") else {
            muxfs::testing::skip("MUXFS_S3S_FS names no program s3s-fs");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("made");
        // It takes no port 0: one that was free a moment ago.
        let addr = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let S3Credentials { access_key, secret_key, .. } = me();
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &addr.port().to_string()]);
        command.args(["--access-key", &access_key, "--secret-key", &secret_key]).arg(dir.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let running = Running::Program(Program(child, dir));
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "s3s-fs does not listen");
            tokio::task::yield_now().await;
        }
        Some(Self { addr, running })
    }

    /// Where its bucket is.
    pub(crate) fn place(&self, prefix: &str) -> S3Place {
        place_at(self.addr, prefix)
    }

    /// Its bucket, below a prefix.
    pub(crate) fn bucket(&self, limits: S3Limits) -> Arc<Bucket> {
        bucket_at(self.addr, limits)
    }

    pub(crate) async fn end(self) {
        match self.running {
            Running::Ours(server) => server.shutdown().await,
            Running::Program(program) => drop(program),
        }
    }
}

/// The bucket of a server, or of what leads to one.
pub(crate) fn bucket_at(addr: SocketAddr, limits: S3Limits) -> Arc<Bucket> {
    let bucket = place_at(addr, "below this").open(&me(), limits, &muxfs::testing::env());
    Arc::new(bucket.expect("a place"))
}

pub(crate) fn place_at(addr: SocketAddr, prefix: &str) -> S3Place {
    S3Place {
        endpoint: Some(format!("http://{addr}")),
        bucket: BUCKET.into(),
        prefix: prefix.into(),
        region: None,
        path_style: None,
    }
}
