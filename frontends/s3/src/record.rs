//! What is kept of an object beside its bytes: one extended attribute of its file, in JSON, which people can read.
//!
//! What is said of the bytes (their tag, checksums) holds for as long as the file has the length and the time that it had
//! then: whoever writes it over another frontend moves the time. Spec: spec/s3.md #records.

use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use muxfs::vfs::Attr;
use s3s::dto::{Checksum, ChecksumType};
use serde::{Deserialize, Serialize};

/// The extended attribute.
pub(crate) const ATTRIBUTE: &[u8] = b"user.muxfs.s3";

/// A record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "what is kept are fields of their own")]
pub(crate) struct Record {
    /// What is known of the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Content>,
    /// Headers that are given back: their names in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    /// `x-amz-meta-…`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<(String, String)>,
    /// Which version it is; `None`: what S3 calls null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// The key, of what does not lie where its key says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Whether it says that there is nothing: a delete marker.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) is_marker: bool,
    /// Of a directory: whether it is an object too, whose key ends with a slash.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) is_folder: bool,
    /// Of a directory: whether this frontend made it, and takes it away when it is empty.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) is_made: bool,
    /// The upload in parts that it came of, or that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upload: Option<String>,
    /// When that upload was begun, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) begun: Option<u64>,
    /// The checksum that the parts of an upload are to have, and of what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) algorithm: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) is_composite: bool,
    /// Of a bucket: `Enabled` or `Suspended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) versioning: Option<String>,
    /// Of a bucket: the access key that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maker: Option<String>,
}

/// What is known of the bytes of a file that has this length and this time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) etag: String,
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime: u64,
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub(crate) sums: Sums,
    /// The lengths of the parts that it came in, and their checksums.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<PartRecord>,
}

/// A part of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(crate) number: i32,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub(crate) sums: Sums,
}

/// Checksums in Base64, by algorithm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32c: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc64nvme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha1: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// Whether they are of the checksums of the parts, and not of the bytes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_composite: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Sums {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What kind of checksums they are; `None` where there are none.
    pub(crate) fn kind(&self) -> Option<ChecksumType> {
        let kind = if self.is_composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        (!self.is_empty()).then(|| ChecksumType::from_static(kind))
    }
}

/// What a request says that its bytes have: the types of the library that say so have the same fields for it.
macro_rules! said_sums {
    ($input:expr) => {
        $crate::record::Sums {
            crc32: $input.checksum_crc32,
            crc32c: $input.checksum_crc32c,
            crc64nvme: $input.checksum_crc64nvme,
            sha1: $input.checksum_sha1,
            sha256: $input.checksum_sha256,
            is_composite: false,
        }
    };
}

/// An answer that tells checksums, and nothing else yet, in the same way.
macro_rules! told_sums {
    ($output:ident, $sums:expr) => {{
        let $crate::record::Sums { crc32, crc32c, crc64nvme, sha1, sha256, .. } = $sums;
        $output {
            checksum_crc32: crc32,
            checksum_crc32c: crc32c,
            checksum_crc64nvme: crc64nvme,
            checksum_sha1: sha1,
            checksum_sha256: sha256,
            ..$output::default()
        }
    }};
}

pub(crate) use {said_sums, told_sums};

impl From<Checksum> for Sums {
    fn from(sums: Checksum) -> Self {
        said_sums!(sums)
    }
}

/// Whether a version is one that this frontend made: 32 digits, which are a name.
pub(crate) fn is_version(version: &str) -> bool {
    version.len() == 32 && version.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Record {
    /// Reads what is in the attribute, which others may have written: an empty record where it is none, and no version
    /// that could be none.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let read: Self = serde_json::from_slice(bytes).unwrap_or_default();
        Self { version: read.version.filter(|version| is_version(version)), ..read }
    }

    /// What is known of the bytes of the file as it is now.
    pub(crate) fn content_of(&self, attr: &Attr) -> Option<&Content> {
        self.content.as_ref().filter(|content| content.size == attr.size && content.mtime == nanos(attr.mtime))
    }

    /// The `ETag` of the file as it is now. One that was made elsewhere has one that looks like that of an upload in one
    /// part, which no client takes for an MD5.
    pub(crate) fn etag(&self, attr: &Attr) -> String {
        if self.is_folder {
            return EMPTY_ETAG.to_owned();
        }
        self.content_of(attr).map_or_else(|| foreign_etag(attr), |content| content.etag.clone())
    }

    /// The user's metadata, and the CID of committed bytes.
    pub(crate) fn metadata(&self, attr: &Attr) -> HashMap<String, String> {
        let mut meta: HashMap<_, _> = self.meta.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(cid) = attr.cid.filter(|_| !self.is_folder) {
            meta.entry("cid".to_owned()).or_insert_with(|| cid.to_string());
        }
        meta
    }

    /// The name of the version, as S3 tells it.
    pub(crate) fn version_name(&self) -> &str {
        self.version.as_deref().unwrap_or(NULL_VERSION)
    }
}

/// What the version is called that was put while a bucket kept none.
pub(crate) const NULL_VERSION: &str = "null";
/// The MD5 of nothing.
pub(crate) const EMPTY_ETAG: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn foreign_etag(attr: &Attr) -> String {
    let mut hash = blake3::Hasher::new();
    for number in [attr.ino.0.get(), attr.size, nanos(attr.mtime)] {
        hash.update(&number.to_le_bytes());
    }
    format!("{}-1", &hash.finalize().to_hex()[..32])
}

/// A time in nanoseconds since 1970; 0 for one before.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_no_version_and_no_panic() {
        for bad in ["../../x", "a/b", "", "null", "0123456789ABCDEF0123456789ABCDEF"] {
            let record = Record { version: Some(bad.to_owned()), is_made: true, ..Record::default() };
            let read = Record::parse(&serde_json::to_vec(&record).expect("JSON"));
            assert_eq!(read, Record { version: None, ..record }, "{bad:?}");
        }
        let good = Record { version: Some("0123456789abcdef".repeat(2)), ..Record::default() };
        assert_eq!(Record::parse(&serde_json::to_vec(&good).expect("JSON")), good);
        assert_eq!(Record::parse(b"{\"version\": 7}"), Record::default());
    }
}
