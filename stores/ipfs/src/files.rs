//! Files that a plain HTTP server has below an address: for who knows by their hash what they must be.

use std::fmt;

use bytes::Bytes;
use hyper::Method;
use muxfs::{Error, ErrorKind, Result};

use crate::{
    http::{Http, HttpOptions, shown},
    url::Url,
};

/// Reads files below the address of an HTTP server. What it gives is not verified here.
pub struct HttpFiles(Http);

impl fmt::Debug for HttpFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpFiles({})", self.0.url())
    }
}

impl HttpFiles {
    /// Reads below `url`. Nobody is asked yet.
    ///
    /// ```
    /// use muxfs_ipfs::{HttpFiles, HttpOptions};
    /// let files = HttpFiles::new("https://files.example/chunks".parse()?, HttpOptions::default());
    /// assert_eq!(files.url().to_string(), "https://files.example/chunks");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn new(url: Url, options: HttpOptions) -> Self {
        Self(Http::new(url, options))
    }

    /// The address.
    pub fn url(&self) -> &Url {
        self.0.url()
    }

    /// The file at `path`, which begins with a slash and has neither `?` nor `#`; `None` where the server says that there
    /// is none, or that it is nobody's to read: those that list nothing say so of what they have not got. It waits for as long as whoever calls lets it.
    ///
    /// # Errors
    /// `Unavailable`, naming the address: also where it is longer than `len_max` bytes. `Io` where the server is there and
    /// fails for this file: every other status but those that say it cannot answer now (429, 502, 503, 504).
    pub async fn get(&self, path: &str, len_max: usize) -> Result<Option<Bytes>> {
        let answer = self.0.ask(&Method::GET, path, &[]).await?;
        match answer.status.as_u16() {
            200 => answer.read(len_max).await.map(Some),
            403 | 404 | 410 => {
                drop(answer.discard().await);
                Ok(None)
            }
            code => {
                let status = shown(answer.status.to_string().as_bytes());
                drop(answer.discard().await);
                let kind = if matches!(code, 429 | 502..=504) { ErrorKind::Unavailable } else { ErrorKind::Io };
                Err(Error::new(kind, "ipfs.files").at(self.url()).because(format!("it answers {status}")))
            }
        }
    }
}
