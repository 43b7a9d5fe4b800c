//! Who is asked for chunks: a directory, a 0-db namespace, a bucket of S3, an HTTP server.
//!
//! A source is nobody to trust, and nobody to wait for: what it gives is held against the id by who asked, and one that
//! is out of reach or silent rests for a while, so that a dead one costs one wait and not one for each chunk. Spec: spec/flist.md #sources.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use muxfs_ipfs::{HttpFiles, HttpOptions};
use muxfs_s3::{Bucket, S3Limits};
use muxfs_zstor::ZdbValues;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    address::{Address, SourceUrl, open_bucket},
    chunk::{STORED_LEN_MAX, hex},
};

/// So many chunks are asked of a source at a time.
const ASKED_COUNT_MAX: usize = 8;
/// How long a source may take for a chunk, to its last byte.
const SOURCE_TIME_MAX: Duration = Duration::from_secs(10);
/// One that failed is left alone for so long, and for twice as long with each failure more,
const REST_MIN: Duration = Duration::from_secs(1);
/// but no longer.
const REST_MAX: Duration = Duration::from_mins(1);
/// So many attempts are made to get a chunk of a bucket: one more where a connection was closed that waited to be used.
const S3_ATTEMPT_COUNT: u32 = 2;

const OP: &str = "flist.source";

/// Who is asked for chunks, and whether it is worth it.
#[derive(Debug)]
pub(crate) struct Source {
    url: SourceUrl,
    asked: Asked,
    /// Of a source, not of all: those who wait for a slow one hold up nobody who asks another.
    permits: Semaphore,
    rest: Mutex<Option<Rest>>,
}

#[derive(Debug)]
enum Asked {
    Dir(PathBuf),
    Zdb(ZdbValues),
    S3(Bucket),
    Http(HttpFiles),
}

/// It failed.
#[derive(Debug, Clone)]
struct Rest {
    until: Instant,
    len: Duration,
    why: String,
}

impl Source {
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none.
    pub(crate) fn new(url: SourceUrl) -> Result<Arc<Self>> {
        let asked = match &url.address {
            Address::Dir(dir) => Asked::Dir(dir.clone()),
            Address::Http(url) => Asked::Http(HttpFiles::new(url.clone(), HttpOptions::default())),
            Address::Zdb { host, port, namespace, password } => {
                Asked::Zdb(ZdbValues::new(host, *port, namespace.clone(), password.clone()))
            }
            Address::S3 { place, who } => {
                let limits = S3Limits { attempt_count_max: S3_ATTEMPT_COUNT, ..S3Limits::default() };
                Asked::S3(open_bucket(place, who, limits)?)
            }
        };
        Ok(Arc::new(Self { url, asked, permits: Semaphore::new(ASKED_COUNT_MAX), rest: Mutex::default() }))
    }

    pub(crate) fn url(&self) -> &SourceUrl {
        &self.url
    }

    /// Whether an id may be there.
    pub(crate) fn has(&self, id: &[u8]) -> bool {
        self.url.has(id)
    }

    /// What is stored under an id; `None` where it says that there is nothing. One that failed is not asked again for a while.
    ///
    /// # Errors
    /// Naming the source.
    pub(crate) async fn get(&self, id: &[u8]) -> Result<Option<Bytes>> {
        self.within(self.ask(id)).await
    }

    /// Whether something is stored under an id, as it says itself: nothing is fetched, but of HTTP, and none verified.
    ///
    /// # Errors
    /// Those of [`Source::get`].
    pub(crate) async fn has_stored(&self, id: &[u8]) -> Result<bool> {
        let asked = async {
            match &self.asked {
                Asked::Zdb(zdb) => zdb.has(id).await,
                Asked::S3(bucket) => bucket.has(&hex(id)).await.map_err(|error| self.url.told(error)),
                Asked::Http(_) => self.ask(id).await.map(|stored| stored.is_some()),
                Asked::Dir(dir) => {
                    let paths = paths(dir, id);
                    let look = move || paths.iter().any(|path| fs::metadata(path).is_ok_and(|about| about.is_file()));
                    let looked = tokio::task::spawn_blocking(look).await;
                    looked.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))
                }
            }
        };
        self.within(asked).await
    }

    /// What it answers, if it is to be asked now and answers in time.
    async fn within<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|closed| Error::new(ErrorKind::Internal, OP).because(closed))?;
        // It may have failed for those who were before.
        let resting = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(rest) = resting.filter(|rest| Instant::now() < rest.until) {
            return Err(self.unavailable(format!("it failed a moment ago: {}", rest.why)));
        }
        let asked = timeout(SOURCE_TIME_MAX, asked).await;
        let late = || self.unavailable(format!("no answer within {SOURCE_TIME_MAX:?}"));
        let answered = asked.unwrap_or_else(|_elapsed| Err(late()));
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match &answered {
            Ok(_) => *rest = None,
            // One value that it does not give, or not as it should be, tells nothing of the others.
            Err(error) if error.kind() != ErrorKind::Unavailable || self.url.is_dir() => {}
            // Those that were asked beside it tell nothing more.
            Err(_) if rest.as_ref().is_some_and(|rest| Instant::now() < rest.until) => {}
            Err(error) => {
                let len = rest.as_ref().map_or(REST_MIN, |rest| (rest.len * 2).min(REST_MAX));
                *rest = Some(Rest { until: Instant::now() + len, len, why: format!("{error:#}") });
            }
        }
        answered
    }

    fn unavailable(&self, why: String) -> Error {
        Error::new(ErrorKind::Unavailable, OP).at(&self.url).because(why)
    }

    async fn ask(&self, id: &[u8]) -> Result<Option<Bytes>> {
        let digits = hex(id);
        let front = digits.get(..2).unwrap_or_default();
        match &self.asked {
            Asked::Zdb(zdb) => zdb.get(id).await,
            Asked::S3(bucket) => {
                let got = bucket.get(&digits, STORED_LEN_MAX as u64).await;
                got.map_err(|error| self.url.told(error))
            }
            Asked::Http(http) => match http.get(&format!("/{front}/{digits}"), STORED_LEN_MAX).await? {
                Some(stored) => Ok(Some(stored)),
                None => http.get(&format!("/{digits}"), STORED_LEN_MAX).await,
            },
            Asked::Dir(dir) => {
                let paths = paths(dir, id);
                let read = tokio::task::spawn_blocking(move || {
                    paths.iter().find_map(|path| read_file(path).transpose()).transpose()
                });
                read.await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
            }
        }
    }
}

/// Where a directory may have a chunk.
fn paths(dir: &Path, id: &[u8]) -> [PathBuf; 2] {
    let digits = hex(id);
    [dir.join(digits.get(..2).unwrap_or_default()).join(&digits), dir.join(&digits)]
}

/// The bytes of a file; `None` where it is not there.
fn read_file(path: &Path) -> Result<Option<Bytes>> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Unavailable, OP).at(path.display()).because(error);
    let absent = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
    };
    let about = match fs::metadata(path) {
        Ok(about) if about.is_file() => about,
        // Nobody waits for what a pipe may give.
        Ok(_) => return Ok(None),
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0).min(STORED_LEN_MAX));
    match fs::File::open(path) {
        Ok(file) => file.take(STORED_LEN_MAX as u64).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(bytes.into()))
}
