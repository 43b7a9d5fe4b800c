//! The scenario table of every wire, driven through suppaftp; names as the bytes they are.

mod raw;

use std::{io, sync::Arc, time::UNIX_EPOCH};

use async_trait::async_trait;
use muxfs::{
    FileKind,
    testing::wire::{Ability, Answer, Client, Refusal, Stat},
    vfs::Vfs,
};
use muxfs_ftp::Server;
use suppaftp::{Encoding, FtpError, FtpResult, tokio::AsyncFtpStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Mutex,
};

/// One character per byte: suppaftp's text is the wire's bytes.
#[derive(Debug)]
struct Bytes;

impl Encoding for Bytes {
    fn decode(&self, bytes: &[u8]) -> String {
        text(bytes)
    }

    fn encode(&self, text: &str) -> io::Result<Vec<u8>> {
        Ok(bytes(text))
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).expect("made of bytes")).collect()
}

struct Ftp {
    server: Arc<Server>,
    stream: Mutex<AsyncFtpStream>,
}

impl std::fmt::Debug for Ftp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ftp").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Ftp {
    async fn connect(server: Arc<Server>) -> Arc<dyn Client> {
        let mut stream = AsyncFtpStream::connect(server.local_addr()).await.expect("connects");
        stream.set_mode(suppaftp::Mode::ExtendedPassive);
        stream.set_encoding(Bytes).await;
        stream.login("ann", "x").await.expect("logs in");
        stream.transfer_type(suppaftp::types::FileType::Binary).await.expect("bytes are bytes");
        Arc::new(Self { server, stream: Mutex::new(stream) })
    }

    /// Uploads, whole or after what is there.
    async fn upload(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        let mut stream = self.stream.lock().await;
        let offset = usize::try_from(offset).expect("64 bits");
        answer(stream.resume_transfer(offset).await)?;
        let mut upload = answer(stream.put_with_stream(text(path)).await)?;
        // A server that refuses meanwhile says why on the control connection.
        drop(upload.write_all(data).await);
        answer(upload.finish().await)
    }

    async fn download(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        let mut stream = self.stream.lock().await;
        answer(stream.resume_transfer(usize::try_from(offset).expect("64 bits")).await)?;
        let mut download = match stream.retr_as_stream(text(path)).await {
            // What suppaftp holds against the offset, the scenarios call the end of the file.
            Err(FtpError::UnexpectedResponse(response)) if response.status.code() == 554 => return Ok(Vec::new()),
            download => answer(download)?,
        };
        let mut data = Vec::new();
        let limit = u64::try_from(len).expect("64 bits");
        (&mut download).take(limit).read_to_end(&mut data).await.expect("the data arrive");
        let cut = data.len() == len && len < usize::MAX;
        let finished = download.finish().await;
        if cut { Ok(data) } else { answer(finished).map(|()| data) }
    }
}

fn answer<T>(result: FtpResult<T>) -> Answer<T> {
    result.map_err(|error| match error {
        FtpError::UnexpectedResponse(response) => {
            Refusal::Unnamed(format!("{} {}", response.status.code(), String::from_utf8_lossy(&response.body)))
        }
        other => panic!("no refusal but a failure: {other}"),
    })
}

#[async_trait]
impl Client for Ftp {
    fn cannot(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::BinaryNames | Ability::Sync | Ability::RemoveByKind => None,
            Ability::LineBreakNames => Some("a line feed ends a command: such names are refused and not listed"),
            Ability::WriteWithin => Some("a file ends where an upload into it ends"),
            Ability::WritePastEnd => Some("REST past the end is refused (554)"),
        }
    }

    async fn another(&self) -> Arc<dyn Client> {
        Self::connect(self.server.clone()).await
    }

    async fn mkdir(&self, path: &[u8]) -> Answer<()> {
        answer(self.stream.lock().await.mkdir(text(path)).await)
    }

    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()> {
        self.upload(path, 0, data).await
    }

    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        self.upload(path, offset, data).await
    }

    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>> {
        self.download(path, 0, usize::MAX).await
    }

    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        self.download(path, offset, len).await
    }

    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>> {
        let lines = answer(self.stream.lock().await.mlsd(Some(&text(path))).await)?;
        Ok(lines.iter().map(|line| bytes(line.split_once(' ').expect("facts, then a name").1)).collect())
    }

    async fn stat(&self, path: &[u8]) -> Answer<Stat> {
        let told = answer(self.stream.lock().await.mlst(Some(&text(path))).await)?;
        let facts = told.trim_start().split_once(' ').expect("facts, then a name").0;
        let fact = |key: &str| facts.split(';').find_map(|fact| fact.strip_prefix(key)?.strip_prefix('='));
        let kind = match fact("type").expect("a type") {
            "file" => FileKind::File,
            "dir" => FileKind::Dir,
            link if link.starts_with("OS.unix=slink") => FileKind::Symlink,
            other => panic!("no such type: {other}"),
        };
        let digits = fact("modify").expect("a time");
        let time = chrono_free(digits);
        Ok(Stat { kind, size: fact("size").map_or(0, |size| size.parse().expect("a number")), mtime: time })
    }

    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()> {
        answer(self.stream.lock().await.rename(text(from), text(to)).await)
    }

    async fn remove(&self, path: &[u8]) -> Answer<()> {
        answer(self.stream.lock().await.rm(text(path)).await)
    }

    async fn rmdir(&self, path: &[u8]) -> Answer<()> {
        answer(self.stream.lock().await.rmdir(text(path)).await)
    }
}

/// The time of a stamp, counted day by day: not the way the server does it.
fn chrono_free(digits: &str) -> std::time::SystemTime {
    let part = |from: usize, to: usize| digits[from..to].parse::<u64>().expect("digits");
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (year, month, day) = (part(0, 4), part(4, 6), part(6, 8));
    let mut days: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    for month in 1..month {
        days += match month {
            2 => 28 + u64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
    }
    let secs = (days + day - 1) * 86_400 + part(8, 10) * 3600 + part(10, 12) * 60 + part(12, 14);
    UNIX_EPOCH + std::time::Duration::from_secs(secs)
}

async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
    Ftp::connect(Arc::new(raw::start(vfs, raw::options()).await)).await
}

muxfs::wire_laws!(ftp, connect);
muxfs::wire_laws!(ftp_on_a_working_tree, connect, on: muxfs::testing::wire::working_tree());
