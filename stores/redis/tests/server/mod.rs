//! A Redis server of the test's own, and a way to it that a test can spoil.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    io::Read as _,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs::testing::skip;
use muxfs_redis::{RedisAddress, RedisOptions, RedisStore};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// A server that syncs before each reply.
pub(crate) const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
/// A server that loses everything.
pub(crate) const MEMORY: &[&str] = &["--save", ""];
/// Where servers and ways to them listen.
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// It starts in less.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// The first port of servers; none of them is one that a system gives to connections, which begin at 32768.
const PORT_MIN: u16 = 10_000;
/// So many processes have ports of their own, and so many servers of each.
const PROCESS_COUNT: u16 = 440;
const SERVER_COUNT: u16 = 50;

/// A port that no server of another test has, as far as can be told: one which was killed is to have it again.
fn port_of_its_own() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let server = COUNT.fetch_add(1, Ordering::Relaxed) % SERVER_COUNT;
    let process = u16::try_from(std::process::id() % u32::from(PROCESS_COUNT)).expect("less than a port");
    PORT_MIN + process * SERVER_COUNT + server
}

/// `redis-server`, ended by its process when it is dropped.
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one; `None`, said loudly, where the program is absent.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("there is no redis-server: what takes one is not tested");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let arguments = arguments.iter().map(ToString::to_string).collect();
        // A port may be that of a server which somebody left behind.
        let mut server = Self { dir, port: port_of_its_own(), arguments, child: None };
        for _ in 0..SERVER_COUNT {
            if server.run() {
                return Some(server);
            }
            server.port = port_of_its_own();
        }
        panic!("the server does not start");
    }

    /// Starts it, or again on what it has; whether it answers.
    pub(crate) fn run(&mut self) -> bool {
        // Else another's might answer before this one finds out that it cannot have the port.
        if std::net::TcpListener::bind((HOST, self.port)).is_err() {
            return false;
        }
        let mut command = Command::new("redis-server");
        command.args(["--bind", &HOST.to_string(), "--daemonize", "no", "--port", &self.port.to_string()]);
        command.arg("--dir").arg(self.dir.path()).args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("started");
        let until = Instant::now() + START_TIME_MAX;
        loop {
            if child.try_wait().expect("asked").is_some() {
                return false;
            }
            if self.answers() {
                self.child = Some(child);
                return true;
            }
            assert!(Instant::now() < until, "the server does not answer");
            std::thread::yield_now();
        }
    }

    fn answers(&self) -> bool {
        use std::io::Write as _;
        let Ok(mut stream) = std::net::TcpStream::connect((HOST, self.port)) else { return false };
        let mut reply = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").is_ok()
            && stream.read_exact(&mut reply).is_ok()
            // It answers, or wants a password; what it cannot yet is to answer while it loads.
            && (reply == *b"+PONG" || reply == *b"-NOAU")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    pub(crate) fn address(&self) -> RedisAddress {
        RedisAddress::Tcp(HOST.to_string(), self.port)
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::new(self.address(), "me")
    }

    pub(crate) async fn open(&self) -> RedisStore {
        RedisStore::open(self.options(), &muxfs::testing::env()).await.expect("open")
    }

    /// Says something to it, as an administrator would, and gives the bytes of the reply.
    pub(crate) async fn say(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut stream = TcpStream::connect((HOST, self.port)).await.expect("connected");
        let (before, long, after) = muxfs_zstor::resp::request(parts);
        stream.write_all(&[&before, long, &after].concat()).await.expect("sent");
        let mut reply = vec![0; 1 << 16];
        let len = stream.read(&mut reply).await.expect("replied");
        reply.truncate(len);
        reply
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a way does with what the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Spoilt {
    /// It passes it on.
    No,
    /// It says something else instead.
    Says,
    /// It says nothing.
    Silent,
    /// It ends the connection.
    Cut,
    /// It passes it on, once what was asked has been done, to nobody: the connection ends.
    LosesReplies,
}

type Say = Arc<Mutex<Vec<u8>>>;
type Replace = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

/// A way to a server.
pub(crate) struct Way {
    pub(crate) address: RedisAddress,
    spoilt: Arc<AtomicU8>,
    says: Say,
    replaces: Replace,
    task: JoinHandle<()>,
}

impl Way {
    pub(crate) async fn to(server: RedisAddress) -> Self {
        let listener = tokio::net::TcpListener::bind((HOST, 0)).await.expect("a port");
        let address = RedisAddress::Tcp(HOST.to_string(), listener.local_addr().expect("bound").port());
        let (spoilt, says, replaces) = (Arc::new(AtomicU8::new(0)), Say::default(), Replace::default());
        let RedisAddress::Tcp(host, port) = server else { panic!("a port") };
        let shared = (spoilt.clone(), says.clone(), replaces.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let (server, shared) = ((host.clone(), port), shared.clone());
                drop(tokio::spawn(async move { pass(client, server, shared).await }));
            }
        });
        Self { address, spoilt, says, replaces, task }
    }

    pub(crate) fn spoil(&self, spoilt: Spoilt) {
        self.spoilt.store(spoilt as u8, Ordering::SeqCst);
    }

    pub(crate) fn say(&self, bytes: impl Into<Vec<u8>>) {
        *self.says.lock().expect("whole") = bytes.into();
        self.spoil(Spoilt::Says);
    }

    /// From here on one thing is said for another.
    pub(crate) fn replace(&self, pairs: &[(&str, &str)]) {
        let pairs = pairs.iter().map(|(from, to)| (from.as_bytes().to_vec(), to.as_bytes().to_vec()));
        *self.replaces.lock().expect("whole") = pairs.collect();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, server: (String, u16), (spoilt, says, replaces): (Arc<AtomicU8>, Say, Replace)) {
    let is = |what: Spoilt| spoilt.load(Ordering::SeqCst) == what as u8;
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut asked, mut said) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            len = client.read(&mut asked) => {
                let Ok(len @ 1..) = len else { return };
                if is(Spoilt::Cut) {
                    return;
                }
                if is(Spoilt::Says) {
                    let says = says.lock().expect("whole").clone();
                    if client.write_all(&says).await.is_err() {
                        return;
                    }
                } else if !is(Spoilt::Silent) && server.write_all(&asked[..len]).await.is_err() {
                    return;
                }
            }
            len = server.read(&mut said) => {
                let Ok(len @ 1..) = len else { return };
                if is(Spoilt::LosesReplies) {
                    return;
                }
                let mut bytes = said[..len].to_vec();
                for (from, to) in replaces.lock().expect("whole").iter() {
                    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
                        bytes.splice(at..at + from.len(), to.iter().copied());
                    }
                }
                if client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}
