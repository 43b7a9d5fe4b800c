//! What is current in a vault: the one thing that is ever replaced, sealed in its [`head`](crate::head).
//!
//! It names every pack that counts, itself or by the index that it names, and has a digest of all those names; so a pack that
//! is missing, is another's, or was deleted once and is there again, is found out, also where the index is lost. Spec: spec/vault.md #superblock.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Name, Result};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    head::SUPERBLOCK_LEN,
    keys::{KEYS_ID_LEN, PACK_NAME_LEN, PackName},
    pack::{PACK_LEN_MAX, PACK_LEN_MIN},
    secret::Secret,
    shrink::Compression,
    wire::{Reader, corrupt, put_number, put_set},
};

const VERSION: u8 = 1;
/// So many master keys of before are known by their names.
pub(crate) const PAST_COUNT_MAX: usize = 64;

/// A master key that is being replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Older {
    pub(crate) master: Secret,
    /// Packs of data up to this number are under it, all others under the newest.
    pub(crate) through: u64,
    /// Whether index and covers are, too.
    pub(crate) with_index: bool,
}

/// What is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Random, tells vaults apart.
    pub(crate) id: [u8; 16],
    /// A power of two, [`PACK_LEN_MIN`] to [`PACK_LEN_MAX`].
    pub(crate) pack_len: u32,
    pub(crate) compression: Compression,
    /// What names of pieces and cuts are made of.
    pub(crate) seed: Secret,
    /// What keys are made of for what is beside the vault,
    pub(crate) beside: Secret,
    /// and were before.
    pub(crate) older_beside: Option<Secret>,
    /// The names of master keys of before, the newest last.
    pub(crate) past: Vec<[u8; KEYS_ID_LEN]>,
    pub(crate) older: Option<Older>,
    /// Ascends with each superblock of the vault.
    pub(crate) epoch: u64,
    /// The highest number of a pack of data that counts.
    pub(crate) through: u64,
    /// What [`digest`] gives of all packs of data that count.
    pub(crate) digest: [u8; 32],
    /// The last pack of each run of the index.
    pub(crate) runs: Vec<PackName>,
    /// Packs of data that count and are in no run; that of `through` in any case.
    pub(crate) packs: BTreeMap<u64, PackName>,
    /// Packs of data that are in runs and count no more.
    pub(crate) retired: BTreeSet<u64>,
    /// Packs that hold nothing.
    pub(crate) covers: Vec<PackName>,
    /// What is named by whoever keeps trees in the vault, each with the epoch that set it.
    pub(crate) heads: BTreeMap<Name, (u64, Bytes)>,
}

/// What is different for any two sets of packs: so nobody exchanges one for another, whatever becomes of the index.
pub(crate) fn digest(names: &BTreeMap<u64, PackName>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for (number, name) in names {
        hasher.update(number.to_le_bytes());
        hasher.update(name.0);
    }
    hasher.finalize().into()
}

impl Superblock {
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(SUPERBLOCK_LEN));
        out.push(VERSION);
        out.extend_from_slice(&self.id);
        out.push(u8::try_from(self.pack_len.trailing_zeros()).unwrap_or(u8::MAX));
        out.push(self.compression.number());
        out.extend_from_slice(self.seed.as_bytes());
        out.extend_from_slice(self.beside.as_bytes());
        out.push(self.older_beside.is_some().into());
        out.extend(self.older_beside.iter().flat_map(Secret::as_bytes));
        put_number(&mut out, self.past.len() as u64);
        out.extend(self.past.as_flattened());
        match &self.older {
            None => out.push(0),
            Some(Older { master, through, with_index }) => {
                out.push(if *with_index { 2 } else { 1 });
                out.extend_from_slice(master.as_bytes());
                put_number(&mut out, *through);
            }
        }
        put_number(&mut out, self.epoch);
        put_number(&mut out, self.through);
        out.extend_from_slice(&self.digest);
        put_number(&mut out, self.runs.len() as u64);
        out.extend(self.runs.iter().flat_map(|name| name.0));
        put_set(&mut out, &self.packs.keys().copied());
        out.extend(self.packs.values().flat_map(|name| name.0));
        put_set(&mut out, &self.retired.iter().copied());
        put_number(&mut out, self.covers.len() as u64);
        out.extend(self.covers.iter().flat_map(|name| name.0));
        put_number(&mut out, self.heads.len() as u64);
        for (name, (epoch, head)) in &self.heads {
            out.push(u8::try_from(name.as_bytes().len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
            put_number(&mut out, *epoch);
            put_number(&mut out, head.len() as u64);
            out.extend_from_slice(head);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) made, and zeros behind it.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` of a newer version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            VERSION => {}
            0 => return Err(corrupt("a superblock says what none does")),
            _ => {
                let error = Error::new(ErrorKind::Unsupported, "vault.open");
                return Err(error.because("a newer MuxFS wrote this vault: use that"));
            }
        }
        let id = reader.array()?;
        let pack_len = 1_u32.checked_shl(reader.byte()?.into()).unwrap_or(0);
        if !(PACK_LEN_MIN..=PACK_LEN_MAX).contains(&pack_len) {
            return Err(corrupt("its packs are longer or shorter than any"));
        }
        let compression = Compression::of_number(reader.byte()?)?;
        let (seed, beside) = (Secret::new(&reader.array()?), Secret::new(&reader.array()?));
        let older_beside = match reader.byte()? {
            0 => None,
            1 => Some(Secret::new(&reader.array()?)),
            _ => return Err(corrupt("a superblock says what none does")),
        };
        let past = (0..reader.count()?).map(|_| reader.array()).collect::<Result<_>>()?;
        let older = match reader.byte()? {
            0 => None,
            kind @ 1..=2 => {
                let master = Secret::new(&reader.array()?);
                Some(Older { master, through: reader.number_to(u64::MAX - 1)?, with_index: kind == 2 })
            }
            _ => return Err(corrupt("a superblock says what none does")),
        };
        let (epoch, through) = (reader.number()?, reader.number_to(u64::MAX - 1)?);
        let digest = reader.array()?;
        let runs = (0..reader.count()?).map(|_| reader.array().map(PackName)).collect::<Result<_>>()?;
        let numbers = reader.set_to(through)?;
        if numbers.len() > reader.0.len() / PACK_NAME_LEN {
            return Err(corrupt("it is cut off"));
        }
        let mut packs = BTreeMap::new();
        for number in numbers {
            packs.insert(number, PackName(reader.array()?));
        }
        let retired = reader.set_to(through)?;
        let covers = (0..reader.count()?).map(|_| reader.array().map(PackName)).collect::<Result<_>>()?;
        let heads = Self::decode_heads(&mut reader, epoch)?;
        reader.zeros()?;
        Ok(Self {
            id,
            pack_len,
            compression,
            seed,
            beside,
            older_beside,
            past,
            older,
            epoch,
            through,
            digest,
            runs,
            packs,
            retired,
            covers,
            heads,
        })
    }

    fn decode_heads(reader: &mut Reader<'_>, epoch: u64) -> Result<BTreeMap<Name, (u64, Bytes)>> {
        let mut heads = BTreeMap::new();
        for _ in 0..reader.count()? {
            let len = reader.byte()?.into();
            let name = Name::new(reader.take(len)?).map_err(|_| corrupt("the name of a head is none"))?;
            let set_in = reader.number_to(epoch)?;
            let len = reader.count()?;
            let head = Bytes::copy_from_slice(reader.take(len)?);
            if heads.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(corrupt("the heads are in no order"));
            }
            heads.insert(name, (set_in, head));
        }
        Ok(heads)
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Superblock {
    let name = |n: u8| PackName([n; PACK_NAME_LEN]);
    Superblock {
        id: [4; 16],
        pack_len: PACK_LEN_MIN,
        compression: Compression::Lz4,
        seed: Secret::new(&[5; 32]),
        beside: Secret::new(&[6; 32]),
        older_beside: Some(Secret::new(&[7; 32])),
        past: vec![[8; 16], [9; 16]],
        older: Some(Older { master: Secret::new(&[10; 32]), through: 900, with_index: true }),
        epoch: 77,
        through: 901,
        digest: [9; 32],
        runs: vec![name(1), name(7)],
        packs: [(900, name(2)), (901, name(3)), (14, name(4))].into(),
        retired: [3, 4, 5].into(),
        covers: vec![name(5), name(6)],
        heads: ["a", "b"].map(|n| (Name::new(n.as_bytes()).expect("a name"), (70, n.into()))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let short = Superblock { runs: Vec::new(), packs: BTreeMap::new(), heads: BTreeMap::new(), ..sample() };
        let settled = Superblock { older: None, older_beside: None, past: Vec::new(), ..sample() };
        for superblock in [sample(), short, settled] {
            let mut bytes = superblock.encode();
            assert!((0..bytes.len()).all(|len| Superblock::decode(&bytes[..len]).is_err()));
            bytes.resize(1000, 0);
            assert_eq!(Superblock::decode(&bytes).expect("good"), superblock);
            bytes[999] = 1;
            assert_eq!(Superblock::decode(&bytes).expect_err("more").kind(), ErrorKind::Corrupt);
            bytes[0] = 2;
            assert_eq!(Superblock::decode(&bytes).expect_err("newer").kind(), ErrorKind::Unsupported);
        }
    }
}
