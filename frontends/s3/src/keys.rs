//! Who may ask: access keys, their secrets, and what each is for.
//!
//! A file in TOML has them, which only its owner may read: a signature can be checked only by whoever knows the secret
//! itself. Spec: spec/s3.md #keys-and-rights.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use muxfs::{Env, Error, ErrorKind, Result};
use s3s::{
    S3Error, S3ErrorCode,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    path::S3Path,
};
use serde::{Deserialize, Serialize};

/// The version of the files of keys that are read and written.
pub const KEYS_VERSION: u32 = 1;
/// What ids and secrets are made of.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ID_LEN: usize = 20;
const SECRET_LEN: usize = 40;

/// An access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What it is called: 3 to 128 letters, digits, `-` and `_`.
    pub id: String,
    /// What requests are signed with: 8 to 128 visible characters of ASCII.
    pub secret: String,
    /// May change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// What it is for: buckets, or a bucket, a slash and what keys begin with. All where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("allow", &self.allow).finish_non_exhaustive()
    }
}

impl Key {
    /// Makes a key with an id and a secret of 200 bits.
    ///
    /// ```
    /// let key = muxfs_s3_serve::Key::generate(&muxfs_s3_serve::Options::default().env);
    /// assert_eq!((key.id.len(), key.secret.len()), (20, 40));
    /// ```
    pub fn generate(env: &Env) -> Self {
        let draw = |len| {
            let mut random = vec![0; len];
            (env.fill)(&mut random);
            random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
        };
        Self { id: draw(ID_LEN), secret: draw(SECRET_LEN), read_only: false, allow: Vec::new() }
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "s3.key").at(&self.id).because(why));
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(3..=128).contains(&self.id.len()) || !self.id.bytes().all(is_id) {
            return refuse("an id has 3 to 128 letters, digits, hyphens and underscores");
        }
        if !(8..=128).contains(&self.secret.len()) || !self.secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("a secret has 8 to 128 visible characters of ASCII");
        }
        if self.allow.iter().any(|allowed| !crate::names::is_bucket(allowed.split('/').next().unwrap_or_default())) {
            return refuse("allow names buckets, as \"photos\", or what keys begin with, as \"photos/2026/\"");
        }
        Ok(())
    }

    /// Whether it is for a key of a bucket, or for the bucket itself.
    fn covers(&self, bucket: &str, key: Option<&str>) -> bool {
        self.allow.is_empty()
            || self.allow.iter().any(|allowed| match (allowed.split_once('/'), key) {
                (None, _) => allowed == bucket,
                (Some((of, prefix)), Some(key)) => of == bucket && key.starts_with(prefix),
                (Some((of, _)), None) => of == bucket,
            })
    }

    /// Whether a listing by this prefix shows only what it is for.
    fn covers_listing(&self, bucket: &str, listed: &str) -> bool {
        self.covers(bucket, Some(listed))
    }

    /// Whether it is for all of a bucket.
    fn covers_all(&self, bucket: &str) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|allowed| allowed == bucket)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    key: Vec<Key>,
}

/// The keys of a server, by id. A clone is the same keys: what [`Keys::replace`] puts into one is in the other.
#[derive(Debug, Clone, Default)]
pub struct Keys(Arc<RwLock<Arc<BTreeMap<String, Key>>>>);

impl Keys {
    /// Takes keys.
    ///
    /// # Errors
    /// `InvalidArgument` for an id or a secret that is none, and for an id that is there twice.
    pub fn new(keys: Vec<Key>) -> Result<Self> {
        let mut by_id = BTreeMap::new();
        for key in keys {
            key.check()?;
            if let Some(twice) = by_id.insert(key.id.clone(), key) {
                return Err(Error::new(ErrorKind::InvalidArgument, "s3.keys")
                    .at(twice.id)
                    .because("it is there twice"));
            }
        }
        Ok(Self(Arc::new(RwLock::new(Arc::new(by_id)))))
    }

    /// Reads the text of a file.
    ///
    /// ```
    /// use muxfs_s3_serve::{Key, Keys, Options};
    /// let key = Key::generate(&Options::default().env);
    /// let keys = Keys::new(vec![key.clone()])?;
    /// assert_eq!(Keys::parse(&keys.to_text()?)?.all(), [key]);
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`, which shows no secret.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::InvalidArgument, "s3.keys").because(why);
        // The message of the parser shows the line, which may have a secret.
        let file: File = toml::from_str(text).map_err(|error: toml::de::Error| refuse(error.message().to_owned()))?;
        if file.version != KEYS_VERSION {
            return Err(refuse(format!("the file has version {}, and this reads {KEYS_VERSION}", file.version)));
        }
        Self::new(file.key)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// `Internal`, which does not happen.
    pub fn to_text(&self) -> Result<String> {
        let file = File { version: KEYS_VERSION, key: self.held().values().cloned().collect() };
        toml::to_string(&file).map_err(|error| Error::new(ErrorKind::Internal, "s3.keys").because(error))
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Key> {
        self.held().values().cloned().collect()
    }

    /// Takes the keys of another in the place of its own, for a server that goes on: a request is held against what is
    /// there when it comes.
    pub fn replace(&self, by: &Self) {
        let new = by.held();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn held(&self) -> Arc<BTreeMap<String, Key>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a key sees a bucket in the list of them.
    pub(crate) fn sees(&self, id: Option<&str>, bucket: &str) -> bool {
        id.and_then(|id| self.held().get(id).cloned()).is_some_and(|key| key.covers(bucket, None))
    }

    /// Whether a key may read what is copied from.
    pub(crate) fn may_read(&self, id: Option<&str>, bucket: &str, key: &str) -> bool {
        id.and_then(|id| self.held().get(id).cloned()).is_some_and(|found| found.covers(bucket, Some(key)))
    }

    /// Whether a key may remove what many are removed of.
    pub(crate) fn may_write(&self, id: Option<&str>, bucket: &str, key: &str) -> bool {
        id.and_then(|id| self.held().get(id).cloned())
            .is_some_and(|found| !found.read_only && found.covers(bucket, Some(key)))
    }
}

/// Holds requests against the keys.
#[derive(Debug, Clone)]
pub(crate) struct Guard(pub(crate) Keys);

#[async_trait::async_trait]
impl S3Auth for Guard {
    async fn get_secret_key(&self, id: &str) -> Result<SecretKey, S3Error> {
        let held = self.0.held();
        let key = held.get(id).ok_or_else(|| S3Error::new(S3ErrorCode::InvalidAccessKeyId))?;
        Ok(SecretKey::from(key.secret.as_str()))
    }
}

/// What only looks: `Get…`, `Head…` and `List…`.
fn is_reading(operation: &str) -> bool {
    ["Get", "Head", "List"].iter().any(|word| operation.starts_with(word))
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> Result<(), S3Error> {
        let denied = |why: &'static str| Err(S3Error::with_message(S3ErrorCode::AccessDenied, why));
        let held = self.0.held();
        let key = cx.credentials().and_then(|shown| held.get(&shown.access_key));
        let Some(key) = key else { return denied("Requests are signed here.") };
        let operation = cx.s3_op().name();
        // What a form may do is said by its policy, which is signed.
        if operation != "PostObject" {
            crate::signed::check(cx.headers(), cx.uri().query().unwrap_or_default())?;
        }
        crate::absent::check(cx.headers())?;
        if key.read_only && !is_reading(operation) {
            return denied("This key may only read.");
        }
        let is_covered = match cx.s3_path() {
            S3Path::Root => true,
            S3Path::Object { bucket, key: object } => key.covers(bucket, Some(object)),
            S3Path::Bucket { bucket } if operation.starts_with("ListObject") || operation == "ListMultipartUploads" => {
                key.covers_listing(bucket, &listed(cx.uri().query().unwrap_or_default()))
            }
            // What is removed is looked at one by one.
            S3Path::Bucket { bucket } if is_reading(operation) || operation == "DeleteObjects" => {
                key.covers(bucket, None)
            }
            S3Path::Bucket { bucket } => key.covers_all(bucket),
        };
        if is_covered { Ok(()) } else { denied("This key is for something else.") }
    }
}

/// The prefix that a listing is asked for by.
fn listed(query: &str) -> String {
    unescape(query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default())
}

/// Text that was escaped for an address.
pub(crate) fn unescape(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte.unwrap_or_default()).to_digit(16);
        match byte {
            b'%' => {
                let pair = digit(rest.next()).zip(digit(rest.next()));
                bytes.extend(pair.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()));
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(allow: &[&str]) -> Key {
        let allow = allow.iter().map(|&text| text.to_owned()).collect();
        Key { id: "abc".into(), secret: "12345678".into(), read_only: false, allow }
    }

    #[test]
    fn a_key_is_for_buckets_and_prefixes() {
        let some = key(&["photos", "docs/public/"]);
        for (bucket, object, expected) in [
            ("photos", Some("a"), true),
            ("photos", None, true),
            ("photos2", Some("a"), false),
            ("docs", Some("public/a"), true),
            ("docs", Some("public"), false),
            ("docs", Some("private/a"), false),
            ("docs", None, true),
            ("other", None, false),
        ] {
            assert_eq!(some.covers(bucket, object), expected, "{bucket} {object:?}");
            assert!(key(&[]).covers(bucket, object));
        }
        assert!(some.covers_listing("docs", "public/x") && !some.covers_listing("docs", ""));
        assert!(some.covers_all("photos") && !some.covers_all("docs"));
    }

    #[test]
    fn a_prefix_is_read_as_the_server_reads_it() {
        for (query, prefix) in [
            ("prefix=a%2Fb&x=1", "a/b"),
            ("list-type=2&prefix=a+b", "a b"),
            ("", ""),
            ("prefix=%", ""),
            ("prefix=%zz", ""),
            ("xprefix=a", ""),
        ] {
            assert_eq!(listed(query), prefix, "{query}");
        }
    }

    #[test]
    fn bad_files_are_refused_without_their_secrets() {
        let secret = "geheimnis-geheimnis";
        for (text, word) in [
            (format!("version = 2\n[[key]]\nid = 'abc'\nsecret = '{secret}'"), "version"),
            (format!("version = 1\n[[key]]\nid = 'a'\nsecret = '{secret}'"), "3 to 128"),
            ("version = 1\n[[key]]\nid = 'abc'\nsecret = 'x'".to_owned(), "8 to 128"),
            (format!("version = 1\n[[key]]\nid = 'abc'\nsecret = '{secret}'\nallow = ['/x']"), "buckets"),
            (format!("version = 1\n[[key]]\nid = 'abc'\nsecret = '{secret}' x"), ""),
            (format!("version = 1\n[[key]]\nid = 'abc'\nsecret = '{secret}'\nmore = 1"), "more"),
            (format!("version = 1\n{0}{0}", format!("[[key]]\nid = 'abc'\nsecret = '{secret}'\n")), "twice"),
        ] {
            let error = Keys::parse(&text).expect_err(word);
            let told = format!("{error:#}");
            assert!(told.contains(word) && !told.contains(secret), "{told}");
        }
        assert!(!format!("{:?}", key(&[])).contains("12345678"));
    }
}
