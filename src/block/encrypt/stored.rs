//! The bytes that the store below has of a block: a header in clear, then what is sealed.
//!
//! Sealed are two parts: the front, which is short, tells the length and holds what the block begins with, so that
//! neither takes the whole block to read; and the rest. In memory they are one behind the other, so that a block is
//! decrypted where it lies. Spec: spec/layers.md #stored.

use bytes::{BufMut, Bytes, BytesMut};

use super::keys::{BlockKeys, KeyId};
use crate::{
    Error, ErrorKind, Result,
    block::BlockKey,
    cipher::{NONCE_LEN, Nonce, TAG_LEN, Tag},
    padding::padded_len,
};

const MAGIC: &[u8; 8] = b"MUXCRYPT";
const VERSION: u8 = 1;

const KEY_ID_AT: usize = 16;
const NONCE_AT: usize = 32;
const CRC_AT: usize = NONCE_AT + NONCE_LEN;
const TAGS_AT: usize = CRC_AT + 4;
/// How long the header is, with both tags.
const HEADER_LEN: usize = TAGS_AT + 2 * TAG_LEN;

/// How many bytes of the block are in the front.
pub(super) const FIRST_LEN: usize = 32;
/// Before them in the front: the length of the block, and zeros.
const LEN_LEN: usize = 16;
const FRONT_LEN: usize = LEN_LEN + FIRST_LEN;
/// Where the block begins.
const BLOCK_AT: usize = HEADER_LEN + LEN_LEN;
/// Where the front ends and the rest begins.
pub(super) const FRONT_END: usize = HEADER_LEN + FRONT_LEN;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| corrupt("it is shorter than any block"))
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "encrypt.get").because(why)
}

/// How long the rest of a block is, in bytes.
const fn rest_len(block_len: usize) -> usize {
    padded_len(block_len.saturating_sub(FIRST_LEN))
}

/// How long a block of this length is below, in bytes.
pub(super) const fn stored_len(block_len: usize) -> usize {
    FRONT_END + rest_len(block_len)
}

/// What is in clear.
pub(super) struct Header {
    pub(super) key_id: KeyId,
    nonce: Nonce,
    front_tag: Tag,
    rest_tag: Tag,
}

impl Header {
    /// What a block begins with: whether it is true only the tags tell.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for a newer version.
    pub(super) fn decode(stored: &[u8]) -> Result<Self> {
        let said: [u8; CRC_AT] = array(stored, 0)?;
        if !said.starts_with(MAGIC) || crc32c::crc32c(&said) != u32::from_le_bytes(array(stored, CRC_AT)?) {
            return Err(corrupt("it does not begin as an encrypted block does"));
        }
        let [version, zero @ ..]: [u8; 8] = array(&said, MAGIC.len())?;
        if version > VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "encrypt.get").because("a newer MuxFS encrypted the block"));
        }
        if version < VERSION || zero != [0; 7] {
            return Err(corrupt("its header says what none does"));
        }
        Ok(Self {
            key_id: array(&said, KEY_ID_AT)?,
            nonce: array(&said, NONCE_AT)?,
            front_tag: array(stored, TAGS_AT)?,
            rest_tag: array(stored, TAGS_AT + TAG_LEN)?,
        })
    }
}

/// The length of a block and what it begins with, verified.
pub(super) struct Front {
    block_len: usize,
    first: [u8; FIRST_LEN],
}

impl Front {
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    /// The first 32 bytes of the block, or all of a shorter one.
    pub(super) fn first(&self) -> &[u8] {
        &self.first[..self.block_len.min(FIRST_LEN)]
    }
}

/// What the store below is to have of a block: the same for the same keys, name and block.
pub(super) fn seal(key_id: &KeyId, keys: &BlockKeys, name: &BlockKey, block: &[u8]) -> Bytes {
    let nonce = keys.nonce_of(block);
    let len = stored_len(block.len());
    let mut stored = BytesMut::with_capacity(len);
    stored.put_slice(MAGIC);
    stored.put_u8(VERSION);
    stored.put_bytes(0, KEY_ID_AT - MAGIC.len() - 1);
    stored.put_slice(key_id);
    stored.put_slice(&nonce);
    stored.put_u32_le(crc32c::crc32c(&stored));
    stored.put_bytes(0, 2 * TAG_LEN);
    stored.put_u32_le(u32::try_from(block.len()).unwrap_or(u32::MAX));
    stored.put_bytes(0, LEN_LEN - 4);
    stored.put_slice(block);
    stored.resize(len, 0);
    let (header, sealed) = stored.split_at_mut(HEADER_LEN);
    let (front, rest) = sealed.split_at_mut(FRONT_LEN);
    let tags = [keys.front.seal(&nonce, name.as_bytes(), front), keys.rest.seal(&nonce, name.as_bytes(), rest)];
    header[TAGS_AT..].copy_from_slice(tags.as_flattened());
    stored.freeze()
}

/// Opens the front of a block of which `start` is the beginning, at least to [`FRONT_END`].
///
/// # Errors
/// `Corrupt`.
pub(super) fn open_front(header: &Header, keys: &BlockKeys, name: &BlockKey, start: &[u8]) -> Result<Front> {
    let mut front: [u8; FRONT_LEN] = array(start, HEADER_LEN)?;
    if !keys.front.open(&header.nonce, name.as_bytes(), &mut front, &header.front_tag) {
        return Err(corrupt("its front is damaged, or another block's"));
    }
    let len: [u8; 4] = array(&front, 0)?;
    Ok(Front { block_len: u32::from_le_bytes(len) as usize, first: array(&front, LEN_LEN)? })
}

/// Opens a block, where it lies if nobody else holds its bytes.
///
/// # Errors
/// `Corrupt`.
pub(super) fn open(header: &Header, keys: &BlockKeys, name: &BlockKey, stored: Bytes) -> Result<Bytes> {
    let front = open_front(header, keys, name, &stored)?;
    if stored.len() != stored_len(front.block_len) {
        return Err(corrupt("it is not as long as it was"));
    }
    let mut stored = BytesMut::from(stored);
    if !keys.rest.open(&header.nonce, name.as_bytes(), &mut stored[FRONT_END..], &header.rest_tag) {
        return Err(corrupt("it is damaged, or another block's"));
    }
    stored[BLOCK_AT..FRONT_END].copy_from_slice(&front.first);
    Ok(stored.freeze().slice(BLOCK_AT..BLOCK_AT + front.block_len))
}
