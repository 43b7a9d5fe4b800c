//! Uploads by forms of a browser, of which few are taken at once.
//!
//! The library holds the file of a form in memory, and does so before it knows who sends it: a form has to be small, there
//! may be few of them, and one that does not come is given up. Spec: spec/s3.md #limits.

use std::{sync::Arc, time::Duration};

use hyper::{Method, Request, header::CONTENT_TYPE};
use s3s::config::{S3Config, StaticConfigProvider};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The longest file of a form, and all its fields and one of them, in bytes: AWS's limit for fields is 20 KB.
const FILE_LEN_MAX: u64 = 16 << 20;
const FIELDS_LEN_MAX: usize = 64 << 10;
const FIELD_LEN_MAX: usize = 32 << 10;
/// How many forms are taken at once: with their files they are this many times 16 MiB.
const FORM_COUNT_MAX: usize = 8;
/// How long one may take.
pub(crate) const FORM_TIME_MAX: Duration = Duration::from_mins(1);

/// What the library is told of sizes.
pub(crate) fn limits() -> Arc<StaticConfigProvider> {
    let mut config = S3Config::default();
    config.post_object_max_file_size = FILE_LEN_MAX;
    config.form_max_fields_size = FIELDS_LEN_MAX;
    config.form_max_field_size = FIELD_LEN_MAX;
    Arc::new(StaticConfigProvider::new(Arc::new(config)))
}

/// The places for forms.
#[derive(Debug)]
pub(crate) struct Forms(Semaphore);

impl Default for Forms {
    fn default() -> Self {
        Self(Semaphore::new(FORM_COUNT_MAX))
    }
}

impl Forms {
    /// A place, once there is one.
    pub(crate) async fn place(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("nobody closes it")
    }
}

/// Whether a request is a form.
pub(crate) fn is_form<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().trim_ascii().to_ascii_lowercase());
    request.method() == Method::POST && kind.is_some_and(|kind| kind.starts_with(b"multipart/"))
}
