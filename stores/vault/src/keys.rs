//! The keys of a vault: one for each purpose, made of the master key, and one for each object under those; and secrets that stay
//! when the master key is another.
//!
//! HKDF-SHA-256 makes them (RFC 5869), with the purpose, or what is random in an object, as its info. So what a key seals is
//! one object, and nothing that is made of one tells anything of another. Spec: spec/vault.md #keys.

use std::{fmt, sync::Arc};

use hkdf::Hkdf;
use muxfs::{Env, SecretKey};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    cipher::{Cipher, ObjectKey},
    secret::Secret,
    superblock::Superblock,
};

const SALT: &[u8] = b"muxfs vault 1";

/// Fills `out` with what HKDF makes of a key for some use.
pub(crate) fn derive(key: &[u8], info: &[u8], out: &mut [u8]) {
    let (mut extracted, hkdf) = Hkdf::<Sha256>::extract(Some(SALT), key);
    extracted.as_mut_slice().zeroize();
    hkdf.expand(info, out).expect("nothing longer than 8160 bytes is asked for");
}

fn derive_key(key: &[u8], info: &[u8]) -> SecretKey {
    let mut derived = Zeroizing::new([0; 32]);
    derive(key, info, &mut *derived);
    SecretKey::new(*derived)
}

/// How long the name of a pack is, in bytes.
pub(crate) const PACK_NAME_LEN: usize = 24;

/// What a pack is called in the store below: random, and the salt of its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PackName(pub(crate) [u8; PACK_NAME_LEN]);

impl PackName {
    pub(crate) fn draw(env: &Env) -> Self {
        let mut name = [0; PACK_NAME_LEN];
        (env.fill)(&mut name);
        Self(name)
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a piece is called: a keyed hash of its bytes, which who has not the key can neither compute nor find a second
/// piece for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PieceId(pub(crate) [u8; 16]);

impl Secret {
    /// The secret that HKDF makes of this one for some use.
    fn derive(&self, info: &[u8]) -> Self {
        Self::filled(|to| derive(self.as_bytes(), info, to))
    }

    /// What hashes pieces into their names, where it is the seed of a vault.
    pub(crate) fn names_of_pieces(&self) -> SecretKey {
        derive_key(self.as_bytes(), b"names of pieces")
    }

    /// The table that cuts are made by, where it is the seed of a vault.
    pub(crate) fn gear(&self) -> Box<[u64; 256]> {
        let mut bytes = Zeroizing::new([0; 2048]);
        derive(self.as_bytes(), b"cuts", &mut *bytes);
        let mut gear = Box::new([0; 256]);
        for (number, bytes) in gear.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        gear
    }

    /// For what stands above a vault and keeps something beside it.
    pub(crate) fn above(&self, purpose: &str) -> SecretKey {
        derive_key(self.as_bytes(), format!("beside: {purpose}").as_bytes())
    }
}

/// What a piece of these bytes is called.
pub(crate) fn piece_id(names_of_pieces: &SecretKey, bytes: &[u8]) -> PieceId {
    let mut id = [0; 16];
    names_of_pieces.derive(&[bytes], &mut id);
    PieceId(id)
}

/// How long the name of a master key is, in bytes.
pub(crate) const KEYS_ID_LEN: usize = 16;

/// A master key, and what is made of it. Zeroed when dropped, never printed.
pub(crate) struct Keys {
    cipher: Cipher,
    master: Secret,
    superblocks: Secret,
    packs: Secret,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    pub(crate) fn new(cipher: Cipher, master: Secret) -> Self {
        let (superblocks, packs) = (master.derive(b"superblocks"), master.derive(b"packs"));
        Self { cipher, master, superblocks, packs }
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn master(&self) -> &Secret {
        &self.master
    }

    /// What tells master keys apart, and nothing of them.
    pub(crate) fn id(&self) -> [u8; KEYS_ID_LEN] {
        let mut id = [0; KEYS_ID_LEN];
        derive(self.master.as_bytes(), b"name of the master key", &mut id);
        id
    }

    /// What seals the pack of a name.
    pub(crate) fn pack(&self, name: &PackName) -> ObjectKey {
        ObjectKey::new(self.cipher, derive_key(self.packs.as_bytes(), &name.0).as_bytes())
    }

    /// What seals the superblock of a salt.
    pub(crate) fn superblock(&self, salt: &[u8; 32]) -> ObjectKey {
        ObjectKey::new(self.cipher, derive_key(self.superblocks.as_bytes(), salt).as_bytes())
    }
}

/// The keys of an open vault: while it is rekeyed those of before, too, for the packs of data up to a number.
///
/// Which of them a pack is under is never tried out: whoever stole the older one could put a pack of his own in the place of a newer.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) newest: Arc<Keys>,
    pub(crate) older: Option<(Arc<Keys>, u64)>,
    /// For what is beside the vault.
    pub(crate) beside: Secret,
    pub(crate) older_beside: Option<Secret>,
}

impl Ring {
    pub(crate) fn new(newest: Arc<Keys>, superblock: &Superblock) -> Self {
        let older = superblock.older.as_ref().map(|older| {
            let keys = Keys::new(newest.cipher(), older.master.clone());
            (Arc::new(keys), older.through)
        });
        let (beside, older_beside) = (superblock.beside.clone(), superblock.older_beside.clone());
        Self { newest, older, beside, older_beside }
    }

    /// Those of a pack of data.
    pub(crate) fn of(&self, number: u64) -> &Arc<Keys> {
        match &self.older {
            Some((older, through)) if number <= *through => older,
            _ => &self.newest,
        }
    }
}
