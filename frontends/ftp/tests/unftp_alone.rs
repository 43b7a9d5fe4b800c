//! What libunftp itself does with a backend that only writes down what it is asked: the faults that
//! spec/adr/0010-ftp-control.md names. Where one of these tests fails, libunftp was mended, and the record is to be read
//! again.

mod raw;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_trait::async_trait;
use libunftp::ServerBuilder;
use raw::Raw;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use unftp_core::{
    auth::UserDetail,
    storage::{Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Result, StorageBackend},
};

/// What a backend was asked that changes something.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Path, place of the first byte, the bytes to their end.
    Put(PathBuf, u64, Vec<u8>),
    Del(PathBuf),
}

/// Holds directories without end, and no file; `metadata` fails for all of them as a store does that is out of reach.
#[derive(Debug, Clone)]
struct Scribe(Arc<Mutex<UnboundedSender<Asked>>>);

impl Scribe {
    fn write_down(&self, asked: Asked) {
        self.0.lock().expect("no panic holds it").send(asked).expect("the test listens");
    }
}

fn absent<T>() -> Result<T> {
    Err(Error::from(ErrorKind::PermanentFileNotAvailable))
}

#[derive(Debug)]
struct Nothing;

impl Metadata for Nothing {
    fn len(&self) -> u64 {
        0
    }
    fn is_dir(&self) -> bool {
        false
    }
    fn is_file(&self) -> bool {
        true
    }
    fn is_symlink(&self) -> bool {
        false
    }
    fn modified(&self) -> Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }
    fn gid(&self) -> u32 {
        0
    }
    fn uid(&self) -> u32 {
        0
    }
}

#[async_trait]
impl<User: UserDetail> StorageBackend<User> for Scribe {
    type Metadata = Nothing;

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }
    async fn metadata<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, _: P) -> Result<Nothing> {
        Err(Error::from(ErrorKind::TransientFileNotAvailable))
    }
    async fn list<P: AsRef<Path> + Send + std::fmt::Debug>(
        &self,
        _: &User,
        _: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Nothing>>> {
        Ok(Vec::new())
    }
    async fn get<P: AsRef<Path> + Send + std::fmt::Debug>(
        &self,
        _: &User,
        _: P,
        _: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        absent()
    }
    async fn put<P: AsRef<Path> + Send + std::fmt::Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        _: &User,
        mut input: R,
        path: P,
        start: u64,
    ) -> Result<u64> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).await.map_err(Error::from)?;
        let len = bytes.len() as u64;
        self.write_down(Asked::Put(path.as_ref().into(), start, bytes));
        Ok(len)
    }
    async fn del<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, path: P) -> Result<()> {
        self.write_down(Asked::Del(path.as_ref().into()));
        Ok(())
    }
    async fn mkd<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, _: P) -> Result<()> {
        absent()
    }
    async fn rename<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, _: P, _: P) -> Result<()> {
        absent()
    }
    async fn rmd<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, _: P) -> Result<()> {
        absent()
    }
    async fn cwd<P: AsRef<Path> + Send + std::fmt::Debug>(&self, _: &User, _: P) -> Result<()> {
        Ok(())
    }
}

/// Serves one connection, not logged in yet.
async fn connect() -> (Raw, UnboundedReceiver<Asked>) {
    let (out, asked) = unbounded_channel();
    let scribe = Scribe(Arc::new(Mutex::new(out)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let server = ServerBuilder::new(Box::new(move || scribe.clone())).build().expect("builds");
        server.service(stream).await.expect("serves");
    });
    (Raw::connect(address).await, asked)
}

async fn enter() -> (Raw, UnboundedReceiver<Asked>) {
    let (mut raw, asked) = connect().await;
    raw.want("USER anonymous", 331).await;
    raw.want("PASS x", 230).await;
    (raw, asked)
}

fn put(path: &str, start: u64, bytes: &[u8]) -> Asked {
    Asked::Put(path.into(), start, bytes.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offset_of_a_failed_transfer_moves_the_bytes_of_another_file() {
    let (mut raw, mut asked) = enter().await;
    raw.want("REST 1000", 350).await;
    let data = raw.begin("RETR absent").await;
    assert_eq!(raw.reply().await.0, 550);
    drop(data);
    assert_eq!(raw.put("STOR other", b"whole").await, 226);
    assert_eq!(asked.recv().await, Some(put("/other", 1000, b"whole")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appe_to_what_cannot_be_looked_at_begins_at_its_first_byte() {
    let (mut raw, mut asked) = enter().await;
    assert_eq!(raw.put("APPE there", b"more").await, 226);
    assert_eq!(asked.recv().await, Some(put("/there", 0, b"more")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cdup_leads_down_after_cwd_led_up() {
    let (mut raw, mut asked) = enter().await;
    raw.want("CWD a", 250).await;
    raw.want("CWD b", 250).await;
    raw.want("CWD ..", 250).await;
    raw.want("CDUP", 250).await;
    raw.want("DELE file", 250).await;
    assert_eq!(asked.recv().await, Some(Asked::Del("/a/b/file".into())), "two steps up from /a/b is /");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_cut_short_looks_whole() {
    // By a client that dies.
    let (mut raw, mut asked) = enter().await;
    let mut data = raw.begin("STOR file").await;
    data.write_all(b"half").await.expect("sends data");
    drop(raw);
    drop(data);
    assert_eq!(asked.recv().await, Some(put("/file", 0, b"half")));
    // By one that says that it is to end.
    let (mut raw, mut asked) = enter().await;
    let mut data = raw.begin("STOR file").await;
    data.write_all(b"half").await.expect("sends data");
    raw.send(b"ABOR\r\n").await;
    drop(data);
    assert_eq!(asked.recv().await, Some(put("/file", 0, b"half")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_has_no_limit_before_any_login() {
    const LINE_LEN: usize = 32 << 20;
    let (mut raw, _asked) = connect().await;
    // An answer before the end of the line would be a limit; without one all of it was held.
    raw.send(&vec![b'x'; LINE_LEN]).await;
    raw.send(b"\r\n").await;
    let (code, text) = raw.reply().await;
    assert_eq!(code, 530, "log in first, is all it says: {}", text.len());
    raw.want("USER anonymous", 331).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotes_are_not_doubled_and_commands_are_missing() {
    let (mut raw, _asked) = enter().await;
    raw.want("CWD a\"b", 250).await;
    assert!(raw.want("PWD", 257).await.contains("\"/a\"b\""), "RFC 959 would have \"/a\"\"b\"");
    for command in ["MFMT 20200101000000 file", "EPRT |1|127.0.0.1|2121|"] {
        let (code, text) = raw.ask(command).await;
        assert!((500..=504).contains(&code), "{command}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_utf_8_lose_bytes() {
    let (mut raw, mut asked) = enter().await;
    raw.send(b"DELE \xff\r\n").await;
    assert_eq!(raw.reply().await.0, 250);
    assert_eq!(asked.recv().await, Some(Asked::Del("/\u{fffd}".into())));
}
