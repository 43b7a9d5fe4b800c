//! Keys: the public ones in the form of libp2p, and the secret ones that we sign with.
//!
//! ```text
//! PublicKey  = 08 type 12 len data      type: 0 RSA (data: SubjectPublicKeyInfo), 1 Ed25519 (32 bytes)
//! PrivateKey = 08 type 12 len data      type: 1 Ed25519 (the seed, 32 bytes, then the public key, 32 bytes)
//! ```
//! Spec: <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::name::IpnsName;
use crate::{
    Env, Error, ErrorKind, Result, SecretKey,
    cid::{IDENTITY, SHA2_256, sha256::sha256},
    dag::wire::{Value, put_bytes, put_number, put_varint, take_field},
};

const RSA: u64 = 0;
const ED25519_TYPE: u64 = 1;
const ED25519_LEN: usize = 32;
/// A key that is no longer is its own name, in bytes.
const INLINED_LEN_MAX: usize = 42;

/// A public key.
pub(super) struct PublicKey {
    encoded: Vec<u8>,
    kind: u64,
    data: Vec<u8>,
}

impl PublicKey {
    fn ed25519(key: &[u8]) -> Self {
        let mut encoded = Vec::with_capacity(4 + key.len());
        put_number(&mut encoded, 1, ED25519_TYPE);
        put_bytes(&mut encoded, 2, key);
        Self { encoded, kind: ED25519_TYPE, data: key.to_vec() }
    }

    pub(super) fn decode(encoded: &[u8]) -> Result<Self> {
        let (kind, data) = fields(encoded).map_err(|why| bad("ipns.key", why))?;
        Ok(Self { encoded: encoded.to_vec(), kind, data: data.to_vec() })
    }

    pub(super) fn multihash(&self) -> Vec<u8> {
        let (code, digest): (u64, &[u8]) = if self.encoded.len() <= INLINED_LEN_MAX {
            (IDENTITY, &self.encoded)
        } else {
            (SHA2_256, &sha256(&self.encoded))
        };
        let mut multihash = Vec::new();
        put_varint(&mut multihash, code);
        put_varint(&mut multihash, digest.len() as u64);
        multihash.extend_from_slice(digest);
        multihash
    }

    pub(super) fn is_ed25519(&self) -> bool {
        self.kind == ED25519_TYPE && self.data.len() == ED25519_LEN
    }

    /// # Errors
    /// `Corrupt` if `signature` is not one of this key for these bytes; `Unsupported` for a key of another kind.
    pub(super) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<()> {
        let is_good = match self.kind {
            ED25519_TYPE => UnparsedPublicKey::new(&ED25519, &self.data).verify(signed, signature).is_ok(),
            RSA => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.data).verify(signed, signature).is_ok(),
            _ => {
                let why = format!("a key of kind {} is not read: Ed25519 and RSA are", self.kind);
                return Err(Error::new(ErrorKind::Unsupported, "ipns.verify").because(why));
            }
        };
        if is_good { Ok(()) } else { Err(bad("ipns.verify", "the signature is not one of the name's key")) }
    }
}

/// Kind and data of a key.
fn fields(mut encoded: &[u8]) -> std::result::Result<(u64, &[u8]), &'static str> {
    let (mut kind, mut data) = (None, None);
    while let Some(field) = take_field(&mut encoded)? {
        match field {
            (1, Value::Varint(value)) if kind.is_none() => kind = Some(value),
            (2, Value::Bytes(value)) if data.is_none() => data = Some(value),
            _ => return Err("a key has a kind and data and nothing else"),
        }
    }
    kind.zip(data).ok_or("a key has a kind and data")
}

fn bad(op: &'static str, why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, op).because(why)
}

/// A secret Ed25519 key: who has it says where its name leads. Zeroed when dropped, never printed.
#[derive(Clone)]
pub struct NameKey {
    seed: SecretKey,
    name: IpnsName,
}

impl NameKey {
    /// Draws a new one.
    pub fn generate(env: &Env) -> Self {
        let mut seed = Zeroizing::new([0; ED25519_LEN]);
        (env.fill)(&mut *seed);
        Self::of_seed(SecretKey::new(*seed))
    }

    /// The key of an Ed25519 seed (RFC 8032 5.1.5).
    ///
    /// ```
    /// use muxfs::{SecretKey, ipns::NameKey};
    /// let key = NameKey::of_seed(SecretKey::new([0; 32]));
    /// assert_eq!(key.name().to_string(), "k51qzi5uqu5dhnwe629wdlncpql6frppdpwnz4wtlcw816aysd5wwlk63g4wmh");
    /// ```
    pub fn of_seed(seed: SecretKey) -> Self {
        let public = pair(&seed).public_key().as_ref().to_vec();
        Self { name: IpnsName::of_key(&PublicKey::ed25519(&public)), seed }
    }

    /// Reads the form that libp2p and Kubo export.
    ///
    /// # Errors
    /// `InvalidArgument` for anything but an Ed25519 key whose halves belong together.
    pub fn decode(encoded: &[u8]) -> Result<Self> {
        let refuse = |why: &'static str| Error::new(ErrorKind::InvalidArgument, "ipns.key").because(why);
        let (kind, data) = fields(encoded).map_err(refuse)?;
        if kind != ED25519_TYPE {
            return Err(refuse("only Ed25519 keys sign here"));
        }
        // Older programs wrote the public key once more.
        let (seed, public) = data.split_first_chunk::<ED25519_LEN>().ok_or_else(|| refuse("the key is too short"))?;
        let key = Self::of_seed(SecretKey::new(*seed));
        let own = pair(&key.seed).public_key().as_ref().to_vec();
        if !matches!(public.len(), ED25519_LEN | 64) || !public.chunks(ED25519_LEN).all(|half| half == own) {
            return Err(refuse("the public half of the key is not that of the secret one"));
        }
        Ok(key)
    }

    /// The form that libp2p and Kubo import; whoever has it can sign.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let pair = pair(&self.seed);
        let data = Zeroizing::new([self.seed.as_bytes(), pair.public_key().as_ref()].concat());
        let mut encoded = Zeroizing::new(Vec::with_capacity(4 + data.len()));
        put_number(&mut encoded, 1, ED25519_TYPE);
        put_bytes(&mut encoded, 2, &data);
        encoded
    }

    /// What is signed with it is told about this name.
    pub fn name(&self) -> &IpnsName {
        &self.name
    }

    /// The Ed25519 signature of bytes, which has 64. Whoever signs anything but a record has it begin with what it is, so
    /// that what is signed is never taken for something else.
    ///
    /// ```
    /// use muxfs::{SecretKey, ipns::NameKey};
    /// let key = NameKey::of_seed(SecretKey::new([7; 32]));
    /// let signature = key.sign(b"my format 1: x");
    /// key.name().verify(b"my format 1: x", &signature)?;
    /// assert!(key.name().verify(b"my format 1: y", &signature).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        pair(&self.seed).sign(bytes).as_ref().to_vec()
    }
}

impl fmt::Debug for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameKey({})", self.name)
    }
}

fn pair(seed: &SecretKey) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).expect("every 32 bytes are a seed")
}
