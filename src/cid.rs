//! Content identifiers, strictly: what parses prints as it was written, and its hash is one that can be checked.
//!
//! The crate `cid` accepts more than the specification does (version 0 with a multibase prefix, bytes after the CID,
//! any text before `/ipfs/`), so its parser is never used bare: text and bytes are parsed, encoded again in the same
//! base and compared. Two CIDs of the same bytes may differ in version and codec; blocks go by multihash, so either
//! finds them. Spec: spec/cids.md, <https://github.com/multiformats/cid>.

mod hash;
pub(crate) mod sha256;

use std::{fmt, str::FromStr};

use cid::CidGeneric;
use multibase::Base;
use multihash::Multihash;

use self::sha256::{Digest32, sha256};
use crate::{Error, ErrorKind, Result};

/// How the bytes of a block are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// The multihash code of identity: the digest is the block itself.
pub const IDENTITY: u64 = 0x00;
/// The multihash code of sha2-256.
pub const SHA2_256: u64 = 0x12;
/// The longest digest of an identity CID, in bytes (IPIP-512).
pub const IDENTITY_LEN_MAX: usize = 128;
/// The longest binary form, in bytes: version, codec, hash code and digest length as varints, and the digest.
pub const CID_LEN_MAX: usize = 1 + 9 + 9 + 2 + IDENTITY_LEN_MAX;
/// The longest text, in bytes: base16, the longest base, and its prefix. Bounds what decoding base58 can cost, which
/// grows with the square of the length.
pub const CID_TEXT_LEN_MAX: usize = 1 + 2 * CID_LEN_MAX;
/// The length of every CID of version 0, as text.
const V0_TEXT_LEN: usize = 46;
/// Multicodec and multihash numbers are varints of at most nine bytes.
const CODE_MAX: u64 = (1 << 63) - 1;

const _: () = assert!(hash::DIGEST_LEN_MAX <= IDENTITY_LEN_MAX);

/// A content identifier, version 0 or 1, whose hash is on the allow-list. Two CIDs of the same bytes may differ in
/// version and codec.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(CidGeneric<IDENTITY_LEN_MAX>);

impl Cid {
    /// Version 1, of a sha2-256 digest.
    ///
    /// ```
    /// use muxfs::{Cid, Codec};
    /// let cid = Cid::v1_sha256(Codec::Raw, [0; 32]);
    /// assert_eq!(cid.to_string(), "bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    /// ```
    pub fn v1_sha256(codec: Codec, digest: [u8; 32]) -> Self {
        let hash = Multihash::wrap(SHA2_256, &digest).expect("32 bytes fit");
        Self(CidGeneric::new_v1(codec.code(), hash))
    }

    /// Version 0, always dag-pb, of a sha2-256 digest.
    ///
    /// ```
    /// use muxfs::Cid;
    /// assert_eq!(Cid::v0_sha256([0; 32]).to_string(), "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51");
    /// ```
    pub fn v0_sha256(digest: [u8; 32]) -> Self {
        let hash = Multihash::wrap(SHA2_256, &digest).expect("32 bytes fit");
        Self(CidGeneric::new_v0(hash).expect("a sha2-256 hash"))
    }

    /// Reads the binary form; every byte must belong to it.
    ///
    /// ```
    /// use muxfs::Cid;
    /// let cid = Cid::from_bytes(&[0x01, 0x55, 0x00, 0x00])?;
    /// assert_eq!((cid.to_string().as_str(), cid.identity()), ("bafkqaaa", Some(&b""[..])));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where the bytes are not exactly one CID, or its hash or the length of its digest is not
    /// allowed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes).map_err(|why| {
            let shown = bytes.get(..32).unwrap_or(bytes);
            Error::new(ErrorKind::InvalidArgument, "cid.parse").at(Hex(shown)).because(why)
        })
    }

    /// Parses text as it may stand in a path: as [`str::parse`] does, but only in the bases that paths admit (58, 32,
    /// 36, 16 and 64url without padding). Text in base64 can hold a slash, so no text in base64 names anything there.
    ///
    /// ```
    /// use muxfs::Cid;
    /// assert!(Cid::parse_in_path("bafkqaaa").is_ok());
    /// assert!("mAVUAAA".parse::<Cid>().is_ok() && Cid::parse_in_path("mAVUAAA").is_err());
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn parse_in_path(text: &str) -> Result<Self> {
        let cid: Self = text.parse()?;
        if cid.version() == 0 || text.starts_with(['b', 'B', 'k', 'K', 'z', 'f', 'F', 'u']) {
            return Ok(cid);
        }
        Err(Error::new(ErrorKind::InvalidArgument, "cid.parse")
            .at(text)
            .because("a CID in a path is written in base32"))
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > CID_LEN_MAX {
            return Err("a CID has at most 149 bytes");
        }
        let cid = Self(CidGeneric::read_bytes(bytes).map_err(|_| "not a CID of version 0 or 1")?);
        let len = cid.digest().len();
        if cid.codec_code() > CODE_MAX || cid.hash_code() > CODE_MAX {
            return Err("a codec and a hash function are numbers of at most 63 bits");
        }
        if cid.to_bytes() != bytes {
            return Err("there are bytes after the CID");
        }
        if cid.hash_code() == IDENTITY {
            return Ok(cid); // CidGeneric<IDENTITY_LEN_MAX> holds no longer ones.
        }
        let hash = hash::find(cid.hash_code()).ok_or("its hash function is not allowed")?;
        if len < hash::DIGEST_LEN_MIN {
            return Err("its digest is too short to be safe: 20 bytes at least");
        }
        if len > hash.digest_len_max {
            return Err("its digest is longer than its hash function gives");
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

    /// The block of an identity CID, which holds it itself; `None` for all others. No store is ever asked for it.
    pub fn identity(&self) -> Option<&[u8]> {
        (self.hash_code() == IDENTITY).then(|| self.digest())
    }

    /// Checks that `block` hashes to this CID, whatever its hash function. Costs one pass over the block.
    ///
    /// # Errors
    /// `Corrupt` if it does not.
    pub fn verify(&self, block: &[u8]) -> Result<()> {
        let mut buffer = [0; hash::DIGEST_LEN_MAX];
        let computed = buffer.get_mut(..self.digest().len()).unwrap_or_default();
        let same = match (self.identity(), hash::find(self.hash_code())) {
            (Some(content), _) => content == block,
            (None, Some(hash)) => {
                (hash.fill)(block, computed);
                self.digest() == computed
            }
            (None, None) => false, // No Cid of such a hash can be made; were there one, it would verify nothing.
        };
        verified(same)
    }

    /// Whether it names a block by sha2-256, so that [`Cid::verify_sha256`] verifies it.
    pub(crate) fn is_sha256(&self) -> bool {
        self.hash_code() == SHA2_256
    }

    /// Checks that this is the sha2-256 digest of the block it names, or that the CID has the digest's beginning.
    pub(crate) fn verify_sha256(&self, digest: &Digest32) -> Result<()> {
        verified(self.is_sha256() && digest.starts_with(self.digest()))
    }
}

fn verified(same: bool) -> Result<()> {
    if same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "cid.verify").because("the bytes do not hash to the CID"))
}

/// The base of a multibase prefix; `None` for those that no CID is written in: the raw bytes, base 2, 8, 10 and 45,
/// emoji, and the two that are told from others by nothing but their alphabet (base32z, base58flickr).
fn base(prefix: char) -> Option<Base> {
    match prefix {
        'f' | 'F' | 'v' | 'V' | 't' | 'T' | 'b' | 'B' | 'c' | 'C' | 'k' | 'K' | 'z' | 'u' | 'U' | 'm' | 'M' => {
            Base::from_code(prefix).ok()
        }
        _ => None,
    }
}

/// Decodes text; what is not written exactly as it would be printed in the same base is refused.
fn decode_text(text: &str) -> Result<Cid, &'static str> {
    if text.len() > CID_TEXT_LEN_MAX {
        return Err("a CID has at most 299 characters");
    }
    let v0 = text.starts_with("Qm") && text.len() == V0_TEXT_LEN;
    let (base, digits) = if v0 {
        (Base::Base58Btc, text)
    } else {
        let mut chars = text.chars();
        let base = chars.next().and_then(base);
        (base.ok_or("a CID begins with Qm and has 46 characters, or with b, k, z, f or another base")?, chars.as_str())
    };
    let bytes = base.decode(digits).map_err(|_| "a character does not belong to its base")?;
    if base.encode(&bytes) != digits {
        return Err("not written as its base is: check case, padding and the last character");
    }
    let cid = Cid::decode(&bytes)?;
    if (cid.version() == 0) != v0 {
        return Err("a CID of version 0 is written in base58btc without a prefix");
    }
    Ok(cid)
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

/// Parses the text of a CID in any base it may be written in; `InvalidArgument` says what is wrong with it.
impl FromStr for Cid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        decode_text(text).map_err(|why| {
            let shown: String = text.chars().take(64).collect();
            Error::new(ErrorKind::InvalidArgument, "cid.parse").at(shown.escape_debug()).because(why)
        })
    }
}

/// Bytes in base16, for messages.
/// Shows bytes in base16.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The `CIDv1` of a block, sha2-256.
///
/// ```
/// use muxfs::{Codec, cid_of};
/// assert_eq!(cid_of(Codec::Raw, b"").to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
/// ```
pub fn cid_of(codec: Codec, block: &[u8]) -> Cid {
    Cid::v1_sha256(codec, sha256(block))
}

#[cfg(test)]
pub(crate) mod tests;
