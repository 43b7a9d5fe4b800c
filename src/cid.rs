//! Content identifiers, strictly: what parses prints as it was written, and its hash is on the allow-list.
//!
//! The crate `cid` accepts more than the specification does, so its parser is never used bare. Spec: spec/cids.md,
//! <https://github.com/multiformats/cid>.

use std::{fmt, str::FromStr};

use cid::CidGeneric;
use multihash::Multihash;
use sha2::{Digest, Sha256};

use crate::{Error, ErrorKind, Result};

/// How the bytes of a block are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Plain bytes.
    Raw,
    /// `UnixFS` and other nodes of protobuf.
    DagPb,
    /// Linked data in CBOR.
    DagCbor,
    /// Linked data in JSON.
    DagJson,
}

impl Codec {
    /// The multicodec number.
    pub fn code(self) -> u64 {
        match self {
            Self::Raw => 0x55,
            Self::DagPb => 0x70,
            Self::DagCbor => 0x71,
            Self::DagJson => 0x0129,
        }
    }

    /// The codec of a multicodec number; `None` if it is not one that `MuxFS` reads.
    pub fn from_code(code: u64) -> Option<Self> {
        [Self::Raw, Self::DagPb, Self::DagCbor, Self::DagJson].into_iter().find(|codec| codec.code() == code)
    }
}

/// The multihash code of sha2-256.
pub const SHA2_256: u64 = 0x12;
/// The longest digest of an identity CID, in bytes (IPIP-512).
pub const IDENTITY_LEN_MAX: usize = 128;

/// A content identifier, version 0 or 1. Two CIDs of the same bytes may differ in version and codec.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(CidGeneric<IDENTITY_LEN_MAX>);

impl Cid {
    /// Version 1, of a sha2-256 digest.
    pub fn v1_sha256(codec: Codec, digest: [u8; 32]) -> Self {
        let hash = Multihash::wrap(SHA2_256, &digest).expect("32 bytes fit");
        Self(CidGeneric::new_v1(codec.code(), hash))
    }

    /// Version 0, always dag-pb, of a sha2-256 digest.
    pub fn v0_sha256(digest: [u8; 32]) -> Self {
        let hash = Multihash::wrap(SHA2_256, &digest).expect("32 bytes fit");
        Self(CidGeneric::new_v0(hash).expect("a sha2-256 hash"))
    }

    /// Reads the binary form; every byte must belong to it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let cid = CidGeneric::read_bytes(bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "cid.parse").because(error))?;
        let cid = Self(cid);
        if cid.to_bytes() != bytes {
            return Err(Error::new(ErrorKind::InvalidArgument, "cid.parse").because("bytes after the CID"));
        }
        Ok(cid)
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// 0 or 1.
    pub fn version(&self) -> u8 {
        u64::from(self.0.version()).try_into().unwrap_or(1)
    }

    /// The multicodec number.
    pub fn codec_code(&self) -> u64 {
        self.0.codec()
    }

    /// The codec; `None` if it is not one that `MuxFS` reads.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_code(self.0.codec())
    }

    /// The multihash number of the hash function.
    pub fn hash_code(&self) -> u64 {
        self.0.hash().code()
    }

    /// The digest.
    pub fn digest(&self) -> &[u8] {
        self.0.hash().digest()
    }

    /// The multihash: what a block is keyed by.
    pub fn multihash_bytes(&self) -> Vec<u8> {
        self.0.hash().to_bytes()
    }

    /// Checks that `block` hashes to this CID.
    ///
    /// # Errors
    /// `Corrupt` if it does not; `InvalidArgument` if the hash is not allowed.
    pub fn verify(&self, block: &[u8]) -> Result<()> {
        if self.hash_code() == SHA2_256 && self.digest() == Sha256::digest(block).as_slice() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "cid.verify"))
    }
}

/// The canonical text: base58btc for version 0, lower-case base32 for version 1.
impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let cid = CidGeneric::try_from(text)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "cid.parse").because(error))?;
        let cid = Self(cid);
        if cid.to_string() != text {
            return Err(Error::new(ErrorKind::InvalidArgument, "cid.parse").because("not canonical"));
        }
        Ok(cid)
    }
}

/// The `CIDv1` of a block, sha2-256.
pub fn cid_of(codec: Codec, block: &[u8]) -> Cid {
    Cid::v1_sha256(codec, Sha256::digest(block).into())
}
