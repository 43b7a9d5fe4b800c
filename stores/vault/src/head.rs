//! The head of a vault: what a password opens, and what is current. Always of one length.
//!
//! In front the slot, in clear but for the master key in it: how dear it is to try a password, a salt, and the master key
//! under what the password gives. Then the superblock ([`Superblock`]), sealed under a key that a salt of its own makes, and
//! bound to the slot, so that an old slot with its old password fits no new superblock. Spec: spec/vault.md #head.

use bytes::Bytes;
use muxfs::{
    Env, Error, ErrorKind, Result,
    cipher::{TAG_LEN, Tag},
};
use zeroize::Zeroizing;

use crate::{
    cipher::{Cipher, ObjectKey},
    keys::{Keys, derive},
    password::{Cost, Password},
    secret::Secret,
    superblock::Superblock,
};

/// How long every head is, in bytes.
pub(crate) const HEAD_LEN: usize = 32 << 10;

const MAGIC: &[u8; 8] = b"MUXVAULT";
/// What stands in the place of a vault that was destroyed; before a head, in that of one that is being destroyed.
pub(crate) const GONE: &[u8; 8] = b"MUXVGONE";
const VERSION: u8 = 1;

const VERSION_AT: usize = 8;
const CIPHER_AT: usize = 10;
const LANES_AT: usize = 11;
const MEMORY_AT: usize = 12;
const PASSES_AT: usize = 16;
const SALT_AT: usize = 32;
const CHECK_AT: usize = 64;
const WRAPPED_AT: usize = 96;
const SLOT_LEN: usize = WRAPPED_AT + 32 + TAG_LEN;
const SUPERBLOCK_AT: usize = SLOT_LEN + 32 + TAG_LEN;

/// How long a superblock is with the zeros behind it, in bytes.
pub(crate) const SUPERBLOCK_LEN: usize = HEAD_LEN - SUPERBLOCK_AT;

/// What is in the place of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// The head of a vault, as far as who has no password can tell.
    Vault,
    /// That of a vault that is being destroyed.
    Going(&'a [u8]),
    /// There was a vault.
    Gone,
    /// Something else, or a damaged head.
    Other,
}

/// Tells what is in the place of a head.
pub(crate) fn standing(bytes: &[u8]) -> Standing<'_> {
    match bytes.strip_prefix(GONE) {
        Some([]) => Standing::Gone,
        Some(head) => Standing::Going(head),
        None if bytes.starts_with(MAGIC) => Standing::Vault,
        None => Standing::Other,
    }
}

/// What a head begins with: the master key under a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Slot([u8; SLOT_LEN]);

impl Slot {
    /// Puts the master key under a password: with a salt that is drawn each time, so that what it gives seals once.
    ///
    /// Takes as long as it costs to try the password.
    pub(crate) fn new(keys: &Keys, password: &Password, cost: Cost, env: &Env) -> Self {
        let mut slot = [0; SLOT_LEN];
        slot[..VERSION_AT].copy_from_slice(MAGIC);
        slot[VERSION_AT] = VERSION;
        slot[VERSION_AT + 1] = !VERSION;
        slot[CIPHER_AT] = keys.cipher().number();
        slot[LANES_AT] = cost.lanes;
        slot[MEMORY_AT..PASSES_AT].copy_from_slice(&cost.memory_kib.to_le_bytes());
        slot[PASSES_AT..PASSES_AT + 4].copy_from_slice(&cost.passes.to_le_bytes());
        (env.fill)(&mut slot[SALT_AT..CHECK_AT]);
        let wrapping = Wrapping::new(password, cost, &array(&slot, SALT_AT));
        slot[CHECK_AT..WRAPPED_AT].copy_from_slice(&*wrapping.check);
        let (bound, wrapped) = slot.split_at_mut(WRAPPED_AT);
        let (master, tag) = wrapped.split_at_mut(32);
        master.copy_from_slice(keys.master().as_bytes());
        tag.copy_from_slice(&ObjectKey::new(keys.cipher(), &wrapping.key).seal(0, bound, master));
        Self(slot)
    }

    /// Whether it is that password which opens it. Takes as long as it costs to try one.
    pub(crate) fn is_opened_by(&self, password: &Password) -> bool {
        let wrapping = Wrapping::new(password, self.cost(), &array(&self.0, SALT_AT));
        wrapping.is_checked_by(&array(&self.0, CHECK_AT))
    }

    /// How dear it is to try a password; what it says, whoever wrote that.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            memory_kib: u32::from_le_bytes(array(&self.0, MEMORY_AT)),
            passes: u32::from_le_bytes(array(&self.0, PASSES_AT)),
            lanes: self.0[LANES_AT],
        }
    }
}

/// What a password gives: the key that the master key is under, and a value that tells whether it is the one. Without that
/// value somebody could make up a wrapped key that opens under many passwords, and learn by whether it does.
struct Wrapping {
    key: Zeroizing<[u8; 32]>,
    check: Zeroizing<[u8; 32]>,
}

impl Wrapping {
    fn new(password: &Password, cost: Cost, salt: &[u8; 32]) -> Self {
        let stretched = password.derive(cost, salt);
        let (mut key, mut check) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        derive(&*stretched, b"key of the master key", &mut *key);
        derive(&*stretched, b"check of the password", &mut *check);
        Self { key, check }
    }

    /// Takes as long whether it is.
    fn is_checked_by(&self, check: &[u8; 32]) -> bool {
        self.check.iter().zip(check).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    array
}

/// The bytes of a head; each time others.
///
/// # Errors
/// `TooLarge` where the superblock has no room in it.
pub(crate) fn encode(slot: &Slot, superblock: &Superblock, keys: &Keys, env: &Env) -> Result<Bytes> {
    let mut plain = superblock.encode();
    if plain.len() > SUPERBLOCK_LEN {
        return Err(Error::new(ErrorKind::TooLarge, "vault.head").because("the superblock is too long"));
    }
    plain.resize(SUPERBLOCK_LEN, 0);
    let mut salt = [0; 32];
    (env.fill)(&mut salt);
    let tag = keys.superblock(&salt).seal(0, &slot.0, &mut plain);
    Ok([&slot.0[..], &salt, &tag, &plain[..]].concat().into())
}

/// What stands in a head in clear: the cipher, and how dear it is to try a password; as whoever wrote it says.
pub(crate) fn in_clear(head: &[u8]) -> (Cipher, Cost) {
    let slot = Slot(array(head, 0));
    (Cipher::of_number(slot.0[CIPHER_AT]), slot.cost())
}

/// Opens a head with a password. Takes as long as it costs to try one, whatever the head is.
///
/// # Errors
/// `BadKey` where the password is wrong, and where any byte of the head was changed: nobody can tell these apart;
/// `Unsupported` where a newer version wrote it.
pub(crate) fn unlock(head: &[u8], password: &Password) -> Result<(Slot, Keys, Superblock)> {
    let slot = Slot(array(head, 0));
    let [version, twin] = array(&slot.0, VERSION_AT);
    if slot.0.starts_with(MAGIC) && version > VERSION && twin == !version {
        let error = Error::new(ErrorKind::Unsupported, "vault.open");
        return Err(error.because("a newer MuxFS wrote this vault: use that"));
    }
    let said = slot.cost();
    let mut is_good = said.is_valid() && head.len() == HEAD_LEN && slot.0.starts_with(MAGIC) && version == VERSION;
    let cost = if said.is_valid() { said } else { Cost::default() };
    let wrapping = Wrapping::new(password, cost, &array(&slot.0, SALT_AT));
    is_good &= wrapping.is_checked_by(&array(&slot.0, CHECK_AT));
    let cipher = Cipher::of_number(slot.0[CIPHER_AT]);
    let mut master = Zeroizing::new(array::<32>(&slot.0, WRAPPED_AT));
    let tag: Tag = array(&slot.0, WRAPPED_AT + 32);
    is_good &= ObjectKey::new(cipher, &wrapping.key).open(0, &slot.0[..WRAPPED_AT], &mut *master, &tag);
    let keys = Keys::new(cipher, Secret::new(&master));
    let superblock = open_superblock(head, &slot, &keys);
    match superblock {
        Ok(superblock) if is_good => Ok((slot, keys, superblock)),
        // What only who has the key can have written.
        Err(error) if is_good && error.kind() == ErrorKind::Unsupported => Err(error),
        _ => Err(wrong()),
    }
}

/// The superblock in a head whose slot is known.
///
/// # Errors
/// As [`unlock`].
pub(crate) fn reopen(head: &[u8], slot: &Slot, keys: &Keys) -> Result<Superblock> {
    if !head.starts_with(&slot.0) {
        return Err(wrong());
    }
    open_superblock(head, slot, keys)
}

fn open_superblock(head: &[u8], slot: &Slot, keys: &Keys) -> Result<Superblock> {
    let mut plain = Zeroizing::new(head.get(SUPERBLOCK_AT..).unwrap_or_default().to_vec());
    let key = keys.superblock(&array(head, SLOT_LEN));
    let tag: Tag = array(head, SLOT_LEN + 32);
    if !key.open(0, &slot.0, &mut plain, &tag) || head.len() != HEAD_LEN {
        return Err(wrong());
    }
    Superblock::decode(&plain)
}

fn wrong() -> Error {
    Error::new(ErrorKind::BadKey, "vault.open").because("the password is wrong, or the header of the vault was changed")
}
