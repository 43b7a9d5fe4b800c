//! What a node keeps of heads: all of them at a moment, by whom, and in which epoch. Spec: spec/heads.md on nodes.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use muxfs::{Error, ErrorKind, Name, Result};

/// A node has room for two editions of each of eight epochs: so many machines may contend for a store at once.
pub(super) const SLOT_COUNT: usize = 16;
const VERSION: u8 = 1;
/// In the place of an edition, under a key that was replaced: there are no heads.
pub(super) const REPLACED: [u8; 1] = [2];

/// Who wrote an edition: drawn for each data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Writer(pub(super) [u8; 16]);

/// All heads at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edition {
    pub(super) epoch: u64,
    /// Ascends with each edition.
    pub(super) number: u64,
    pub(super) writer: Writer,
    /// The name of the writer's machine, and the seconds since 1970 when it was written: for messages.
    pub(super) host: String,
    pub(super) time: u64,
    /// Whether its writer has ended and writes no other.
    pub(super) is_last: bool,
    pub(super) heads: BTreeMap<Name, Bytes>,
}

impl Edition {
    pub(super) fn rank(&self) -> (u64, u64) {
        (self.epoch, self.number)
    }

    /// Which slot of a node it is in: no edition takes the place of the one before it, nor of one of the seven epochs before.
    pub(super) fn slot(&self) -> usize {
        let epochs = SLOT_COUNT as u64 / 2;
        // Less than the count of slots.
        usize::try_from(2 * (self.epoch % epochs) + self.number % 2).unwrap_or_default()
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(VERSION);
        bytes.put_u8(self.is_last.into());
        bytes.put_u64_le(self.epoch);
        bytes.put_u64_le(self.number);
        bytes.put_slice(&self.writer.0);
        bytes.put_u64_le(self.time);
        bytes.put_u8(u8::try_from(self.host.len()).unwrap_or(u8::MAX));
        bytes.put_slice(self.host.as_bytes());
        for (name, head) in &self.heads {
            bytes.put_u8(u8::try_from(name.as_bytes().len()).unwrap_or(u8::MAX));
            bytes.put_slice(name.as_bytes());
            bytes.put_u32_le(u32::try_from(head.len()).unwrap_or(u32::MAX));
            bytes.put_slice(head);
        }
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self> {
        if bytes == REPLACED {
            let why = "the key of this store was replaced (muxfs key rotate): bring its newest key file";
            return Err(Error::new(ErrorKind::BadKey, "zstor.heads").because(why));
        }
        if let Some(version) = bytes.first().filter(|version| **version > VERSION) {
            let why = format!("the heads are of version {version}: use the newer program");
            return Err(Error::new(ErrorKind::Unsupported, "zstor.heads").because(why));
        }
        Self::parse(&mut bytes)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "zstor.heads").because("what is there are no heads"))
    }

    fn parse(bytes: &mut &[u8]) -> Option<Self> {
        fn some<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
            let (some, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Some(some)
        }
        let _version = bytes.try_get_u8().ok()?;
        let is_last = bytes.try_get_u8().ok()? != 0;
        let epoch = bytes.try_get_u64_le().ok()?;
        let number = bytes.try_get_u64_le().ok()?;
        let writer = Writer(some(bytes, 16)?.try_into().ok()?);
        let time = bytes.try_get_u64_le().ok()?;
        let host_len = bytes.try_get_u8().ok()?;
        let host = std::str::from_utf8(some(bytes, host_len.into())?).ok()?.to_owned();
        let mut heads = BTreeMap::new();
        while !bytes.is_empty() {
            let name_len = bytes.try_get_u8().ok()?;
            let name = Name::new(some(bytes, name_len.into())?).ok()?;
            let head_len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
            heads.insert(name, Bytes::copy_from_slice(some(bytes, head_len)?));
        }
        Some(Self { epoch, number, writer, host, time, is_last, heads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_edition_is_refused() {
        let name = |name: &[u8]| Name::new(name).expect("a name");
        let heads = [(name(b"main"), Bytes::from_static(&[7; 8])), (name(b"other"), Bytes::new())];
        let edition = Edition { epoch: 3, number: 8, host: "höst".into(), heads: heads.into(), ..Edition::default() };
        let bytes = edition.encode();
        assert_eq!(Edition::decode(&bytes).expect("good"), edition);
        let whole = Edition { heads: BTreeMap::new(), ..edition.clone() }.encode().len();
        let first = whole + 1 + 4 + 4 + 8;
        for len in (0..bytes.len()).filter(|len| ![whole, first].contains(len)) {
            assert_eq!(Edition::decode(&bytes[..len]).expect_err("cut").kind(), ErrorKind::Corrupt, "{len}");
        }
        let newer = [&[2][..], &bytes[1..]].concat();
        assert_eq!(Edition::decode(&newer).expect_err("newer").kind(), ErrorKind::Unsupported);
        assert_eq!(Edition::decode(&REPLACED).expect_err("replaced").kind(), ErrorKind::BadKey);
    }
}
