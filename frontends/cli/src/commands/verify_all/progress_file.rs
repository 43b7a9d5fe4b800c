//! How far a verification is, in a small file that is replaced at one stroke. Spec: spec/verify.md #progress.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use muxfs::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{
    commands::put::host,
    data_dir::private_dir,
    host_file::{Mode, replace},
};

const MAGIC: &str = "muxfs-verify";
const VERSION: u32 = 1;
/// The longest file that is read: a thousand findings are far below.
const FILE_LEN_MAX: u64 = 16 << 20;
/// So many findings are kept to be told again; more are only counted.
const BAD_COUNT_MAX: usize = 1000;

/// How far a run is, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Seconds since 1970.
    pub(super) began: u64,
    /// Likewise; 0 while it goes on.
    pub(super) ended: u64,
    pub(super) place: Place,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) roots: u64,
    pub(super) bad_count: u64,
    /// The first of them.
    pub(super) bad: Vec<Bad>,
}

/// Where it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// At the block in this segment at this offset, or at the first.
    Blocks { from: Option<(u64, u32)> },
    /// At the first root whose CID, as text, is after this.
    Roots { after: Option<String> },
    /// Nowhere: all was gone through.
    Done,
}

/// Something that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bad {
    pub(super) path: String,
    pub(super) error: String,
    pub(super) needed_by: Option<String>,
}

impl Run {
    pub(super) fn new(began: u64) -> Self {
        let place = Place::Blocks { from: None };
        Self { began, ended: 0, place, blocks: 0, bytes: 0, roots: 0, bad_count: 0, bad: Vec::new() }
    }

    pub(super) fn add(&mut self, bad: Bad) {
        self.bad_count += 1;
        if self.bad.len() < BAD_COUNT_MAX {
            self.bad.push(bad);
        }
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct ProgressFile {
    path: PathBuf,
}

impl ProgressFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What it says; `None` if there is none, or a damaged one: a verification can always begin again.
    ///
    /// # Errors
    /// `Unsupported` for one of a newer program.
    pub(super) async fn load(&self) -> Result<Option<Run>> {
        let path = self.path.clone();
        blocking(move || match read(&path) {
            Ok(text) => decode(&text).map_err(|error| error.at(path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(host(&path, error)),
        })
        .await
    }

    /// Replaces it, durably.
    pub(super) async fn save(&self, run: &Run) -> Result<()> {
        let (path, text) = (self.path.clone(), encode(run)?);
        blocking(move || {
            let dir = path.parent().unwrap_or(Path::new("."));
            private_dir(dir)?;
            replace(&path, text.as_bytes(), Mode::Given(0o600)).map_err(|error| host(&path, error))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Internal, "verify.progress").because(error))?
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, FILE_LEN_MAX), &mut text)?;
    Ok(text)
}

fn encode(run: &Run) -> Result<String> {
    let body = serde_json::to_string(run);
    let body = body.map_err(|error| Error::new(ErrorKind::Internal, "verify.progress").because(error))?;
    Ok(format!("{MAGIC} {VERSION} {:08x}\n{body}\n", crc32c::crc32c(body.as_bytes())))
}

fn decode(text: &[u8]) -> Result<Option<Run>> {
    let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
    let Some((front, body)) = text.split_once('\n') else { return Ok(None) };
    let mut words = front.split(' ');
    let (magic, version) = (words.next(), words.next().and_then(|version| version.parse::<u32>().ok()));
    match (magic, version) {
        (Some(MAGIC), Some(VERSION)) => {}
        (Some(MAGIC), Some(newer)) if newer > VERSION => {
            let why = format!(
                "written by a newer muxfs (version {newer}, this one reads {VERSION}): use that one, or remove it"
            );
            return Err(Error::new(ErrorKind::Unsupported, "verify.progress").because(why));
        }
        _ => return Ok(None),
    }
    let body = body.trim_end_matches('\n');
    if words.next() != Some(&*format!("{:08x}", crc32c::crc32c(body.as_bytes()))) {
        return Ok(None);
    }
    Ok(serde_json::from_str(body).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Run {
        let mut run = Run::new(17);
        run.place = Place::Roots { after: Some("bafy".into()) };
        let bad = Bad { path: "bafk".into(), error: "no".into(), needed_by: None };
        (0..BAD_COUNT_MAX + 5).for_each(|_| run.add(bad.clone()));
        run
    }

    #[tokio::test]
    async fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = ProgressFile::new(dir.path().join("verify/ipfs"));
        assert_eq!(file.load().await.expect("none"), None);
        for place in [Place::Blocks { from: Some((u64::MAX, 7)) }, Place::Done, Place::Roots { after: None }] {
            let run = Run { place, ..some() };
            file.save(&run).await.expect("saved");
            assert_eq!(file.load().await.expect("loaded"), Some(run));
        }
        assert_eq!((some().bad_count, some().bad.len()), (BAD_COUNT_MAX as u64 + 5, BAD_COUNT_MAX));
    }

    /// Whatever the file says, nothing panics, and a flip or a cut is no other place.
    #[test]
    fn a_damaged_file_is_none() {
        let text = encode(&Run::new(17)).expect("encoded").into_bytes();
        for bit in 0..(text.len() - 1) * 8 {
            let mut bad = text.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A version that became a higher one is refused.
            assert!(!matches!(decode(&bad), Ok(Some(_))), "bit {bit}");
        }
        for len in 0..text.len() - 1 {
            assert_eq!(decode(&text[..len]).expect("not even a version"), None);
        }
        let error = decode(b"muxfs-verify 2 anything\n").expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
