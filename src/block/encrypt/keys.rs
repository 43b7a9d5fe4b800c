//! What comes of a root key: the names of blocks, and the keys of each block.
//!
//! All is a keyed BLAKE3 under the root key, told apart by context. Spec: spec/layers.md #keys.

use std::{fmt, iter, sync::Arc};

use aes_siv::{KeyInit, siv::Aes256Siv};
use zeroize::Zeroizing;

use crate::{
    SecretKey,
    block::BlockKey,
    cipher::{Cipher, NONCE_LEN, Nonce},
};

/// How much longer a name is than its key.
pub(super) const NAME_TAG_LEN: usize = 16;

const ID_CONTEXT: &[u8] = b"muxfs encrypted blocks 1: id of the root key";
const NAMES_CONTEXT: &[u8] = b"muxfs encrypted blocks 1: key of the names";
/// The only one with something behind it: the key of the block.
const BLOCK_CONTEXT: &[u8] = b"muxfs encrypted blocks 1: keys of the block ";

/// Which root key a block was put under, for those who have it: tells nothing about the key.
pub(super) type KeyId = [u8; 16];

/// A root key and what is the same for all blocks under it. Zeroed when dropped, never printed.
pub(super) struct Keys {
    root: SecretKey,
    names: Zeroizing<[u8; 64]>,
    id: KeyId,
}

/// The root keys of a store.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    pub(super) newest: Arc<Keys>,
    /// From newer to older.
    pub(super) older: Vec<Arc<Keys>>,
    /// What blocks were put under that are no more: one that is met is of no use.
    pub(super) retired: Vec<KeyId>,
}

impl Ring {
    pub(super) fn new(newest: SecretKey) -> Self {
        Self { newest: Keys::new(newest).into(), older: Vec::new(), retired: Vec::new() }
    }

    /// From newer to older.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<Keys>> + Send {
        iter::once(&self.newest).chain(&self.older)
    }

    /// Whether a key is, or was, of this store.
    pub(super) fn knows(&self, id: &KeyId) -> bool {
        self.all().any(|keys| keys.id() == id) || self.retired.contains(id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    pub(super) fn new(root: SecretKey) -> Self {
        let (mut names, mut id) = (Zeroizing::new([0; 64]), KeyId::default());
        root.derive(&[NAMES_CONTEXT], &mut *names);
        root.derive(&[ID_CONTEXT], &mut id);
        Self { root, names, id }
    }

    pub(super) fn id(&self) -> &KeyId {
        &self.id
    }

    fn siv(&self) -> Aes256Siv {
        Aes256Siv::new((&*self.names).into())
    }

    /// What a block of this key is called below; `None` for a key that is too long.
    pub(super) fn name_of(&self, key: &BlockKey) -> Option<BlockKey> {
        let mut name = [&[0; NAME_TAG_LEN][..], key.as_bytes()].concat();
        let (tag, sealed) = name.split_at_mut(NAME_TAG_LEN);
        tag.copy_from_slice(&self.siv().encrypt_inout_detached(iter::empty::<&[u8]>(), sealed.into()).ok()?);
        BlockKey::new(&name).ok()
    }

    /// The key that [`Keys::name_of`] made this name of; `None` for any other name.
    pub(super) fn key_of(&self, name: &BlockKey) -> Option<BlockKey> {
        let (tag, sealed) = name.as_bytes().split_first_chunk::<NAME_TAG_LEN>()?;
        let mut key = sealed.to_vec();
        let opened = self.siv().decrypt_inout_detached(iter::empty::<&[u8]>(), key.as_mut_slice().into(), tag.into());
        opened.ok()?;
        BlockKey::new(&key).ok()
    }

    /// The keys of one block.
    pub(super) fn of_block(&self, key: &BlockKey) -> BlockKeys {
        let mut derived = Zeroizing::new([0; 96]);
        self.root.derive(&[BLOCK_CONTEXT, key.as_bytes()], &mut *derived);
        let part = |at: usize| -> Zeroizing<[u8; 32]> {
            let mut part = Zeroizing::new([0; 32]);
            part.copy_from_slice(&derived[at..at + 32]);
            part
        };
        BlockKeys { front: Cipher::new(&part(0)), rest: Cipher::new(&part(32)), nonce: SecretKey::new(*part(64)) }
    }
}

/// The keys of one block: no other block has them.
pub(super) struct BlockKeys {
    pub(super) front: Cipher,
    pub(super) rest: Cipher,
    nonce: SecretKey,
}

impl BlockKeys {
    /// The nonce of these bytes: others have another.
    pub(super) fn nonce_of(&self, block: &[u8]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        self.nonce.derive(&[block], &mut nonce);
        nonce
    }
}
