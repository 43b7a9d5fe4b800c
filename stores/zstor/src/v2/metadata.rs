//! What zstor v2 knows of a file: how it was cut, its checksum and key, and where each shard is.
//!
//! The bytes are those of bincode 1 as zstor v2 uses it: little endian, lengths and `usize` as u64, variants as u32,
//! `Option` as a byte. They are written down here field by field, since that is shorter than it is to trust a general
//! decoder with lengths that somebody made up: nothing takes memory here that was not sent.
//!
//! ```text
//! u64 k | u64 m | [u8; 16] checksum of the file
//! u32 0 (AES) | u64 64, 64 hex digits: the key | u32 0 (snappy)
//! u64 count, and each shard:
//!   u64 index | [u8; 16] checksum
//!   u64 count, and each key: u32 0, u32 (of a 0-db before version 2) or u32 1, u64
//!   u32 0, [u8; 4], u16 port or u32 1, [u8; 16], u16 port
//!   namespace and password, each: 0, or 1, u64 length, text
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use muxfs::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::{
    backend::ZdbInfo,
    checksum::{CHECKSUM_LEN, Checksum},
    key::DataKey,
    shards::SHARD_COUNT_MAX,
};
use crate::Password;

/// Each value of a shard but the last is so long, in bytes.
pub(crate) const CHUNK_LEN: usize = 2 << 20;

/// What zstor v2 knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// k: so many shards give the file back.
    pub data_shards: usize,
    /// m: so many may be lost.
    pub parity_shards: usize,
    /// Of the file as it was given.
    pub checksum: Checksum,
    /// What the shards are encrypted with.
    pub key: DataKey,
    /// Where the shards are, each of another index below k + m; those that zstor v2 wrote are all there.
    pub shards: Vec<ShardInfo>,
}

/// A shard, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// Which of the k + m it is.
    pub index: usize,
    /// Of the whole shard.
    pub checksum: Checksum,
    /// Of its values, in order.
    pub keys: Vec<ShardKey>,
    /// The namespace in which they are.
    pub place: ZdbInfo,
}

/// The key of a value in sequential mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardKey {
    /// As 0-db had them before version 2.
    V1(u32),
    /// As it has them now.
    V2(u64),
}

impl ShardKey {
    /// Reads what a server replied; `None` if it is no such key.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(bytes) = bytes.try_into() {
            return Some(Self::V1(u32::from_le_bytes(bytes)));
        }
        bytes.try_into().ok().map(|bytes| Self::V2(u64::from_le_bytes(bytes)))
    }

    /// As a server takes it.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::V1(key) => key.to_le_bytes().into(),
            Self::V2(key) => key.to_le_bytes().into(),
        }
    }
}

impl Metadata {
    /// Returns how much memory it takes at most to read the file, in bytes: all shards, and one more to put them together.
    pub fn memory_len(&self) -> u64 {
        let chunk_count = self.shards.iter().map(|shard| shard.keys.len()).max().unwrap_or(0);
        let shard_count = self.data_shards + self.parity_shards + 1;
        (chunk_count as u64).saturating_mul(CHUNK_LEN as u64).saturating_mul(shard_count as u64)
    }

    /// Returns the bytes, as zstor v2 has them.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // All at once: what it grows out of would keep the key.
        let of_shard = |shard: &ShardInfo| 128 + shard.keys.len() * 12 + shard.place.text_len();
        let mut out = Writer(Zeroizing::new(Vec::with_capacity(256 + self.shards.iter().map(of_shard).sum::<usize>())));
        out.count(self.data_shards);
        out.count(self.parity_shards);
        out.bytes(&self.checksum.0);
        out.variant(0);
        out.text(&self.key.to_hex());
        out.variant(0);
        out.count(self.shards.len());
        for shard in &self.shards {
            out.count(shard.index);
            out.bytes(&shard.checksum.0);
            out.count(shard.keys.len());
            for key in &shard.keys {
                out.variant(u32::from(matches!(key, ShardKey::V2(_))));
                out.bytes(&key.to_bytes());
            }
            match shard.place.address {
                SocketAddr::V4(address) => {
                    out.variant(0);
                    out.bytes(&address.ip().octets());
                }
                SocketAddr::V6(address) => {
                    out.variant(1);
                    out.bytes(&address.ip().octets());
                }
            }
            out.bytes(&shard.place.address.port().to_le_bytes());
            out.option(shard.place.namespace.as_deref());
            out.option(shard.place.password.as_ref().map(|password| password.0.as_str()));
        }
        out.0
    }

    /// Reads such bytes.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` where they name an algorithm that zstor v2 0.4 does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Reader(bytes);
        let (data_shards, parity_shards) = (input.count()?, input.count()?);
        let is_code = (1..SHARD_COUNT_MAX).contains(&data_shards) && parity_shards <= SHARD_COUNT_MAX - data_shards;
        if !is_code {
            return Err(corrupt("it names a number of shards that cannot be"));
        }
        let checksum = input.checksum()?;
        input.only_variant("encryption")?;
        let key = DataKey::from_hex(input.text()?).ok_or_else(|| corrupt("its key is not of 64 hex digits"))?;
        input.only_variant("compression")?;
        let count = input.count()?;
        if count > data_shards + parity_shards {
            return Err(corrupt("it names more shards than there are"));
        }
        let mut shards: Vec<ShardInfo> = Vec::new();
        for _ in 0..count {
            let shard = input.shard()?;
            let is_new = shards.iter().all(|other| other.index != shard.index);
            if !is_new || shard.index >= data_shards + parity_shards {
                return Err(corrupt("it names a shard twice, or one that cannot be"));
            }
            shards.push(shard);
        }
        if !input.0.is_empty() {
            return Err(corrupt("there is more of it than there should be"));
        }
        Ok(Self { data_shards, parity_shards, checksum, key, shards })
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "zstor.v2.metadata").because(why)
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn count(&mut self, count: usize) {
        self.bytes(&(count as u64).to_le_bytes());
    }

    fn variant(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        self.bytes(&[u8::from(text.is_some())]);
        if let Some(text) = text {
            self.text(text);
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("it is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(|| corrupt("it is cut short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn count(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| corrupt("a number is too large"))
    }

    fn variant(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Of something of which there is one kind.
    fn only_variant(&mut self, what: &str) -> Result<()> {
        match self.variant()? {
            0 => Ok(()),
            other => {
                let why = format!("its {what} is the algorithm {other}, which zstor v2 0.4 does not have");
                Err(Error::new(ErrorKind::Unsupported, "zstor.v2.metadata").because(why))
            }
        }
    }

    fn text(&mut self) -> Result<&'a str> {
        let len = self.count()?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| corrupt("a text in it is not UTF-8"))
    }

    fn option(&mut self) -> Result<Option<&'a str>> {
        match self.array()? {
            [0] => Ok(None),
            [1] => self.text().map(Some),
            _ => Err(corrupt("an option in it is neither there nor not")),
        }
    }

    fn checksum(&mut self) -> Result<Checksum> {
        self.array::<CHECKSUM_LEN>().map(Checksum)
    }

    fn shard(&mut self) -> Result<ShardInfo> {
        let (index, checksum) = (self.count()?, self.checksum()?);
        let count = self.count()?;
        // Each takes eight bytes at least: what is claimed and not sent gets no memory.
        if count > self.0.len() / 8 {
            return Err(corrupt("it is cut short"));
        }
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            keys.push(match self.variant()? {
                0 => ShardKey::V1(u32::from_le_bytes(self.array()?)),
                1 => ShardKey::V2(u64::from_le_bytes(self.array()?)),
                _ => return Err(corrupt("a key of a shard is of no known kind")),
            });
        }
        let ip = match self.variant()? {
            0 => Ipv4Addr::from(self.array::<4>()?).into(),
            1 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err(corrupt("an address is of no known kind")),
        };
        let address = SocketAddr::new(ip, u16::from_le_bytes(self.array()?));
        let namespace = self.option()?.map(Into::into);
        let password = self.option()?.map(Password::new);
        Ok(ShardInfo { index, checksum, keys, place: ZdbInfo { address, namespace, password } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places() -> impl Strategy<Value = ZdbInfo> {
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(Into::into), any::<[u8; 16]>().prop_map(Into::into)];
        let text = || prop::option::of("[a-zé]{0,9}");
        (ip, any::<u16>(), text(), text()).prop_map(|(ip, port, namespace, password)| ZdbInfo {
            address: SocketAddr::new(ip, port),
            namespace,
            password: password.map(Password::new),
        })
    }

    fn all() -> impl Strategy<Value = Metadata> {
        let key = prop_oneof![any::<u32>().prop_map(ShardKey::V1), any::<u64>().prop_map(ShardKey::V2)];
        let shard = (any::<[u8; 16]>(), prop::collection::vec(key, 0..5), places());
        let shards = prop::collection::vec(shard, 1..8);
        (shards, any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(shards, checksum, key)| Metadata {
            data_shards: shards.len().div_ceil(2),
            parity_shards: shards.len() / 2,
            checksum: Checksum(checksum),
            key: DataKey::new(key),
            shards: shards
                .into_iter()
                .enumerate()
                .map(|(index, (checksum, keys, place))| ShardInfo { index, checksum: Checksum(checksum), keys, place })
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(metadata in all()) {
            let bytes = metadata.encode();
            prop_assert_eq!(Metadata::decode(&bytes).expect("good"), metadata);
            for len in 0..bytes.len() {
                prop_assert_eq!(Metadata::decode(&bytes[..len]).expect_err("cut").kind(), ErrorKind::Corrupt);
            }
            prop_assert!(Metadata::decode(&[&bytes[..], b"x"].concat()).is_err());
        }

        /// It neither panics nor takes memory for what was claimed and not sent.
        #[test]
        fn whatever_it_is_it_is_read_or_refused(
            metadata in all(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            noise in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = metadata.encode();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = Metadata::decode(&bytes) {
                prop_assert_eq!(Metadata::decode(&read.encode()).expect("good"), read);
            }
            Metadata::decode(&noise).ok();
        }
    }

    #[test]
    fn lengths_that_are_made_up_get_no_memory() {
        let place = ZdbInfo { address: ([127, 0, 0, 1], 1).into(), namespace: None, password: None };
        let shard = ShardInfo { index: 0, checksum: Checksum([0; 16]), keys: Vec::new(), place };
        let key = DataKey::new([0; 32]);
        let metadata =
            Metadata { data_shards: 1, parity_shards: 1, checksum: Checksum([0; 16]), key, shards: vec![shard] };
        let good = metadata.encode();
        // The numbers of bytes of the key, of shards and of keys of the first.
        for at in [36, 112, 144] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert_eq!(Metadata::decode(&bytes).expect_err("made up").kind(), ErrorKind::Corrupt, "at {at}");
        }
        let mut bytes = good.clone();
        bytes[32] = 1;
        assert_eq!(Metadata::decode(&bytes).expect_err("a new algorithm").kind(), ErrorKind::Unsupported);
    }
}
