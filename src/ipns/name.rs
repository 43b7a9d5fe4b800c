//! Names: the multihash of a public key, in the forms that people write it in.

use std::{fmt, str::FromStr};

use multibase::Base;

use super::key::PublicKey;
use crate::{
    Cid, Error, ErrorKind, Result,
    cid::{CID_TEXT_LEN_MAX, Hex, IDENTITY, SHA2_256},
};

/// The multicodec number of a public key of libp2p.
const LIBP2P_KEY: u64 = 0x72;

/// A name of IPNS: the multihash of a public key, or, of a short one as Ed25519 has, the key itself.
///
/// Shown as a CID in base36, `k51…`. That, the CID in any other base, and the bare multihash in base58 (`12D3Koo…`, `Qm…`)
/// are read. Two are equal when they are of one key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpnsName {
    multihash: Box<[u8]>,
}

impl IpnsName {
    /// The name of a public key.
    pub(super) fn of_key(key: &PublicKey) -> Self {
        Self { multihash: key.multihash().into() }
    }

    /// Reads the multihash of a public key: identity, or sha2-256 of 32 bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for another hash function, and where the bytes are not exactly one multihash.
    pub fn from_multihash(bytes: &[u8]) -> Result<Self> {
        let cid = Cid::from_bytes(&[&[1, 0x72], bytes].concat()).map_err(|_| bad(&Hex(bytes), "it is no multihash"))?;
        Self::of_cid(&cid).ok_or_else(|| bad(&Hex(bytes), "it is hashed in a way that no name is"))
    }

    /// The name that a CID is; `None` for one of content.
    ///
    /// ```
    /// use muxfs::ipns::IpnsName;
    /// let name: IpnsName = "k51qzi5uqu5dlkw8pxuw9qmqayfdeh4kfebhmreauqdc6a7c3y7d5i9fi8mk9w".parse()?;
    /// assert_eq!(IpnsName::of_cid(&name.cid()), Some(name));
    /// assert_eq!(IpnsName::of_cid(&"bafkqaaa".parse()?), None);
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn of_cid(cid: &Cid) -> Option<Self> {
        let is_of_a_key = match cid.hash_code() {
            IDENTITY => !cid.digest().is_empty(),
            SHA2_256 => cid.digest().len() == 32,
            _ => false,
        };
        (cid.codec_code() == LIBP2P_KEY && is_of_a_key).then(|| Self { multihash: cid.multihash_bytes().into() })
    }

    /// As a CID: version 1, of the codec `libp2p-key`.
    pub fn cid(&self) -> Cid {
        Cid::from_bytes(&self.cid_bytes()).expect("made from a CID")
    }

    /// The multihash.
    pub fn multihash_bytes(&self) -> &[u8] {
        &self.multihash
    }

    fn cid_bytes(&self) -> Vec<u8> {
        [&[1, 0x72], &*self.multihash].concat()
    }

    /// Whether it holds an Ed25519 key, as the names do of all keys that sign here.
    pub fn is_ed25519(&self) -> bool {
        matches!(self.key(), Some(Ok(key)) if key.is_ed25519())
    }

    /// Checks what [`NameKey::sign`](super::NameKey::sign) gave.
    ///
    /// # Errors
    /// `Corrupt` where it is no signature of this name's key for these bytes; `Unsupported` where the name does not hold its
    /// key, or one of another kind. They name it.
    pub fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<()> {
        let key = self.key().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unsupported, "ipns.verify")
                .because("the name is the hash of its key, and not the key"))
        });
        key.and_then(|key| key.verify(signed, signature)).map_err(|error| error.at(self))
    }

    /// The public key, where the name holds it.
    pub(super) fn key(&self) -> Option<Result<PublicKey>> {
        self.cid().identity().map(PublicKey::decode)
    }
}

/// A CID or a bare multihash in base58.
///
/// ```
/// use muxfs::ipns::IpnsName;
/// let name: IpnsName = "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d".parse()?;
/// assert_eq!(name.to_string(), "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam");
/// # Ok::<(), muxfs::Error>(())
/// ```
impl FromStr for IpnsName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > CID_TEXT_LEN_MAX {
            return Err(bad(&format_args!("{} bytes", text.len()), "it is longer than any name"));
        }
        if text.starts_with('1') || text.starts_with("Qm") {
            let multihash = Base::Base58Btc.decode(text).map_err(|_| bad(&text, "it is not base58"))?;
            return Self::from_multihash(&multihash);
        }
        let cid: Cid = text.parse().map_err(|_| bad(&text, "a name is a CID of a key, as k51…"))?;
        Self::of_cid(&cid).ok_or_else(|| bad(&text, "that is a CID of content; one of a key begins with k51 or bafz"))
    }
}

impl fmt::Display for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&multibase::encode(Base::Base36Lower, self.cid_bytes()))
    }
}

impl fmt::Debug for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpnsName({self})")
    }
}

fn bad(shown: &dyn fmt::Display, why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "ipns.name").at(shown).because(why)
}
