//! The bytes of a sealed segment: its header, and its records with their keys and nonces.
//!
//! Everything begins at a multiple of [`ALIGN`], so that records behind damage are found again. A record tells its own
//! salt: one that is good is good whatever happened to those before it. Spec: spec/sealed.md #media.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result, SecretKey, media::SegmentId, padding::padded_len};

/// Records and what follows the header begin at multiples of this.
pub(super) const ALIGN: u64 = 64;
pub(super) const SEGMENT_HEADER_LEN: usize = 64;
pub(super) const RECORD_HEADER_LEN: usize = 64;
/// The most that one record holds, in bytes: what a read of one byte decrypts. With its tag it is 64 KiB.
pub(super) const RECORD_LEN_MAX: usize = 64 * 1024 - TAG_LEN;

const MAGIC: &[u8; 8] = b"MUXSEALM";
const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
const SALT_LEN: usize = 16;
const CHECK_CONTEXT: &[u8] = b"muxfs sealed media 1: check of the key";
const RECORD_CONTEXT: &[u8] = b"muxfs sealed media 1: key of the records";

/// What makes the key of one segment in one opening another than all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(pub(super) [u8; SALT_LEN]);

fn derive(key: &SecretKey, context: &[u8], salt: Salt, segment: SegmentId) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    key.derive(&[context, &salt.0, &segment.0.to_le_bytes()], &mut *derived);
    derived
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// What stands where the header of a segment belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    Good,
    /// It never reached the disk.
    Absent,
}

impl SegmentHeader {
    pub(super) fn encode(key: &SecretKey, segment: SegmentId, salt: Salt) -> Bytes {
        let mut bytes = BytesMut::with_capacity(SEGMENT_HEADER_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_bytes(0, 7);
        bytes.put_slice(&salt.0);
        bytes.put_slice(&derive(key, CHECK_CONTEXT, salt, segment)[..16]);
        bytes.put_u64_le(segment.0);
        bytes.put_bytes(0, 4);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        bytes.freeze()
    }

    /// # Errors
    /// `BadKey`; `Unsupported` for a newer version; `Corrupt` for bytes that no crash leaves.
    pub(super) fn decode(key: &SecretKey, segment: SegmentId, bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, "sealed_media.open").because(why));
        let Some(bytes) = array::<SEGMENT_HEADER_LEN>(bytes, 0) else { return Ok(Self::Absent) };
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Ok(Self::Absent);
        }
        let (said, crc) = bytes.split_at(SEGMENT_HEADER_LEN - 4);
        if !bytes.starts_with(MAGIC) || crc != crc32c::crc32c(said).to_le_bytes() {
            return refuse(
                ErrorKind::Corrupt,
                "it does not begin as a sealed segment does: it is damaged, or was written without a key",
            );
        }
        if bytes[8] > VERSION {
            return refuse(ErrorKind::Unsupported, "the segment was sealed by a newer MuxFS");
        }
        let salt = Salt(array(&bytes, 16).unwrap_or_default());
        let sealed_as = SegmentId(u64::from_le_bytes(array(&bytes, 48).unwrap_or_default()));
        // The check is as public as the salt, so nothing is learned from how long comparing them takes.
        if bytes[32..48] != derive(key, CHECK_CONTEXT, salt, sealed_as)[..16] {
            return refuse(ErrorKind::BadKey, "the segment was sealed with another key");
        }
        if sealed_as != segment {
            return refuse(ErrorKind::Corrupt, &format!("it was sealed as {sealed_as}"));
        }
        Ok(Self::Good)
    }
}

/// What the header of a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Where the record was sealed to stand in the inner segment.
    pub(super) at: u64,
    /// Where its bytes are in the plain segment.
    pub(super) offset: u64,
    /// How far the plain segment was durable when it was made.
    pub(super) synced: u64,
    /// How many bytes it holds, 1 to [`RECORD_LEN_MAX`].
    pub(super) len: u32,
}

impl RecordHeader {
    /// The part that is sealed.
    fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.synced.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    fn decode(at: u64, bytes: &[u8]) -> Option<Self> {
        let header = Self {
            at,
            offset: u64::from_le_bytes(array(bytes, 0)?),
            synced: u64::from_le_bytes(array(bytes, 8)?),
            len: u32::from_le_bytes(array(bytes, 16)?),
        };
        let is_good = header.len > 0
            && header.len as usize <= RECORD_LEN_MAX
            && header.offset.checked_add(header.len.into()).is_some()
            && header.synced <= header.offset;
        is_good.then_some(header)
    }

    /// Where the bytes that follow it are in the plain segment.
    pub(super) fn end(self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// How long the record is, header, padding and tags included.
    pub(super) fn record_len(self) -> usize {
        RECORD_HEADER_LEN + body_len(self.len as usize)
    }
}

/// How long the sealed body of `len` bytes is, its tag included: it tells the length to about 6 % only.
pub(super) fn body_len(len: usize) -> usize {
    padded_len(len + TAG_LEN)
}

#[derive(Clone, Copy)]
enum Part {
    Header = 0,
    Body = 1,
}

/// Seals and opens the records of one segment under one salt.
pub(super) struct Sealer {
    cipher: Aes256Gcm,
    segment: SegmentId,
    salt: Salt,
}

impl Sealer {
    pub(super) fn new(key: &SecretKey, segment: SegmentId, salt: Salt) -> Self {
        let key = derive(key, RECORD_CONTEXT, salt, segment);
        Self { cipher: Aes256Gcm::new((&*key).into()), segment, salt }
    }

    pub(super) fn salt(&self) -> Salt {
        self.salt
    }

    fn nonce(part: Part, at: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[0] = part as u8;
        nonce[4..].copy_from_slice(&at.to_le_bytes());
        nonce
    }

    /// What is authenticated besides: the segment and the place.
    fn bound_to(&self, at: u64) -> [u8; 16] {
        let mut bound = [0; 16];
        bound[..8].copy_from_slice(&self.segment.0.to_le_bytes());
        bound[8..].copy_from_slice(&at.to_le_bytes());
        bound
    }

    fn seal_part(&self, part: Part, at: u64, plain: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Self::nonce(part, at);
        let tag = self.cipher.encrypt_inout_detached((&nonce).into(), &self.bound_to(at), plain.into());
        tag.expect("a record is shorter than AES-GCM's limit of 64 GiB").into()
    }

    fn open_part<'a>(&self, part: Part, at: u64, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let (body, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_LEN)?)?;
        let tag: [u8; TAG_LEN] = (&*tag).try_into().ok()?;
        let nonce = Self::nonce(part, at);
        let opened =
            self.cipher.decrypt_inout_detached((&nonce).into(), &self.bound_to(at), (&mut *body).into(), (&tag).into());
        opened.ok()?;
        Some(body)
    }

    /// Appends the record of `bytes`. Never twice for one place.
    pub(super) fn seal(&self, header: RecordHeader, bytes: &[u8], to: &mut BytesMut) {
        let at = header.at;
        to.put_slice(&self.salt.0);
        to.put_u64_le(at);
        let mut plain = header.encode();
        let tag = self.seal_part(Part::Header, at, &mut plain);
        to.put_slice(&plain);
        to.put_slice(&tag);
        let start = to.len();
        to.put_slice(bytes);
        to.put_bytes(0, body_len(bytes.len()) - TAG_LEN - bytes.len());
        let tag = self.seal_part(Part::Body, at, &mut to[start..]);
        to.put_slice(&tag);
    }

    /// What a record says, if it was sealed under this salt for this segment, wherever it stands now.
    fn open_header(&self, bytes: &[u8]) -> Option<RecordHeader> {
        let at = u64::from_le_bytes(array(bytes, SALT_LEN)?);
        let mut sealed: [u8; RECORD_HEADER_LEN - SALT_LEN - 8] = array(bytes, SALT_LEN + 8)?;
        RecordHeader::decode(at, self.open_part(Part::Header, at, &mut sealed)?)
    }

    /// The bytes of a record, decrypted in place; `None` if they fail verification.
    pub(super) fn open_body<'a>(&self, header: RecordHeader, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        self.open_part(Part::Body, header.at, sealed)?.get(..header.len as usize)
    }
}

/// Opens the records of a segment, whatever their salts.
pub(super) struct Opener<'a> {
    key: &'a SecretKey,
    segment: SegmentId,
    sealer: Option<Sealer>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(key: &'a SecretKey, segment: SegmentId) -> Self {
        Self { key, segment, sealer: None }
    }

    /// The sealer of the record that begins with `bytes`: mostly that of the one before it.
    pub(super) fn sealer(&mut self, bytes: &[u8]) -> Option<&Sealer> {
        let salt = Salt(array(bytes, 0)?);
        if self.sealer.as_ref().is_none_or(|sealer| sealer.salt() != salt) {
            self.sealer = Some(Sealer::new(self.key, self.segment, salt));
        }
        self.sealer.as_ref()
    }

    /// What the record that begins with `bytes` says, if it was sealed for this segment, wherever it stands now.
    pub(super) fn find_header(&mut self, bytes: &[u8]) -> Option<RecordHeader> {
        self.sealer(bytes)?.open_header(bytes)
    }

    /// What the record at `at` says, if it was sealed to stand there.
    pub(super) fn open_header(&mut self, at: u64, bytes: &[u8]) -> Option<RecordHeader> {
        self.find_header(bytes).filter(|header| header.at == at)
    }
}
