//! The format of a pack: an object of the vault's one length, of which no byte tells anything to who has not the key.
//!
//! From the front: items, each with its tag; a filler of zeros with its tag; the directory with its tag; and at the end the
//! trailer, which says where those are. Every byte is in one of them, so none can be changed unseen. What seals is made of the
//! pack's name, which is random, and the place of an item is its nonce. Spec: spec/vault.md #packs.

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Result,
    cipher::{TAG_LEN, Tag},
};

use crate::{
    cipher::ObjectKey,
    wire::{Reader, corrupt},
};

/// The shortest packs that a vault may have, in bytes.
pub const PACK_LEN_MIN: u32 = 64 << 10;
/// The longest packs that a vault may have, in bytes; and what they have where nobody says.
pub const PACK_LEN_MAX: u32 = 4 << 20;

const VERSION: u8 = 1;
/// What of the trailer is sealed, and how long it is with its tag, in bytes.
const TRAILER_PLAIN_LEN: usize = 32;
pub(crate) const TRAILER_LEN: u32 = 48;
/// How long a tag is, in bytes.
pub(crate) const TAG: u32 = 16;
const _: () = assert!(TAG as usize == TAG_LEN && TRAILER_LEN as usize == TRAILER_PLAIN_LEN + TAG_LEN);

/// What a pack takes besides items and directory: its trailer, and the tags of its directory and its filler.
pub(crate) const OVERHEAD_LEN: u32 = TRAILER_LEN + 2 * TAG;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pieces, and what is made of them.
    Data,
    /// A part of the index.
    Index,
    /// Nothing: it makes up the number of packs.
    Cover,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Data, Self::Index, Self::Cover];

    fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Index => 2,
            Self::Cover => 3,
        }
    }
}

/// What the end of a pack says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) kind: Kind,
    /// Its number; 0 where it is not one of data.
    pub(crate) number: u64,
    /// It counts under superblocks of this epoch, or of later ones.
    pub(crate) epoch: u64,
    /// Where its items end, in bytes.
    pub(crate) items_end: u32,
    /// How long its directory is, in bytes, without the tag.
    pub(crate) directory_len: u32,
}

impl Trailer {
    /// Where the directory begins.
    pub(crate) fn directory_at(&self, pack_len: u32) -> u32 {
        pack_len - TRAILER_LEN - TAG - self.directory_len
    }

    fn encode(&self) -> [u8; TRAILER_PLAIN_LEN] {
        let mut plain = [0; TRAILER_PLAIN_LEN];
        let (front, numbers) = plain.split_at_mut(16);
        front[0] = VERSION;
        front[1] = self.kind.number();
        front[4..8].copy_from_slice(&self.items_end.to_le_bytes());
        front[8..12].copy_from_slice(&self.directory_len.to_le_bytes());
        numbers[..8].copy_from_slice(&self.number.to_le_bytes());
        numbers[8..].copy_from_slice(&self.epoch.to_le_bytes());
        plain
    }

    /// Reads what a pack ends with.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` of a newer version.
    pub(crate) fn open(key: &ObjectKey, end: &[u8], pack_len: u32) -> Result<Self> {
        let sealed = end.last_chunk::<{ TRAILER_LEN as usize }>().ok_or_else(|| corrupt("a pack is cut off"))?;
        let plain = open_item(key, pack_len - TRAILER_LEN, &mut sealed.clone())?.to_vec();
        let mut reader = Reader(&plain);
        let [version, kind, zeros @ ..] = reader.array::<4>()?;
        if version > VERSION {
            let error = Error::new(ErrorKind::Unsupported, "vault.read");
            return Err(error.because("a newer MuxFS wrote this pack: use that"));
        }
        let kind = Kind::ALL.into_iter().find(|known| known.number() == kind);
        let kind = kind.filter(|_| version == VERSION && zeros == [0; 2]);
        let kind = kind.ok_or_else(|| corrupt("a pack says what none does"))?;
        let items_end = u32::from_le_bytes(reader.array()?);
        let directory_len = u32::from_le_bytes(reader.array()?);
        if reader.array()? != [0_u8; 4] {
            return Err(corrupt("a pack says what none does"));
        }
        let (number, epoch) = (u64::from_le_bytes(reader.array()?), u64::from_le_bytes(reader.array()?));
        let len = u64::from(items_end) + u64::from(directory_len) + u64::from(OVERHEAD_LEN);
        if len > pack_len.into() {
            return Err(corrupt("a pack says that it is longer than it is"));
        }
        Ok(Self { kind, number, epoch, items_end, directory_len })
    }
}

/// Opens an item, its tag behind it, which stands at a place of a pack.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn open_item<'a>(key: &ObjectKey, place: u32, sealed: &'a mut [u8]) -> Result<&'a [u8]> {
    let Some((bytes, tag)) = sealed.split_last_chunk_mut::<TAG_LEN>() else {
        return Err(corrupt("a pack is cut off"));
    };
    let tag: Tag = *tag;
    if key.open(place, &[], bytes, &tag) { Ok(bytes) } else { Err(corrupt("a pack is damaged, or another's")) }
}

/// The bytes of a pack of these items, one behind the other from its beginning: the same for the same key and content.
///
/// Whoever makes it sees to it that all fits: [`OVERHEAD_LEN`] besides items, their tags and the directory.
///
/// # Errors
/// `Internal` where it does not.
pub(crate) fn seal<'a>(
    key: &ObjectKey,
    pack_len: u32,
    (kind, number, epoch): (Kind, u64, u64),
    items: impl Iterator<Item = &'a [u8]>,
    directory: &[u8],
) -> Result<Bytes> {
    let too_long = || Error::new(ErrorKind::Internal, "vault.seal").because("what was to be in a pack does not fit");
    let mut pack = vec![0; pack_len as usize];
    let mut put = |at: u32, plain: Option<&[u8]>, len: usize| {
        let begin = at as usize;
        let place = pack.get_mut(begin..begin + len + TAG_LEN).ok_or_else(too_long)?;
        let (bytes, tag) = place.split_at_mut(len);
        if let Some(plain) = plain {
            bytes.copy_from_slice(plain);
        }
        tag.copy_from_slice(&key.seal(at, &[], bytes));
        Ok::<_, Error>(at + u32::try_from(len).unwrap_or(u32::MAX) + TAG)
    };
    let mut items_end = 0;
    for item in items {
        items_end = put(items_end, Some(item), item.len())?;
    }
    let directory_len = u32::try_from(directory.len()).unwrap_or(u32::MAX);
    let needed = u64::from(items_end) + u64::from(directory_len) + u64::from(OVERHEAD_LEN);
    if needed > pack_len.into() {
        return Err(too_long());
    }
    let trailer = Trailer { kind, number, epoch, items_end, directory_len };
    let directory_at = trailer.directory_at(pack_len);
    put(items_end, None, (directory_at - items_end - TAG) as usize)?;
    put(directory_at, Some(directory), directory.len())?;
    put(pack_len - TRAILER_LEN, Some(&trailer.encode()), TRAILER_PLAIN_LEN)?;
    Ok(pack.into())
}

/// A pack whose trailer and directory are verified, and its filler.
pub(crate) struct Opened {
    pub(crate) trailer: Trailer,
    pub(crate) directory: Vec<u8>,
}

impl Opened {
    /// Opens a whole pack; its items are left to whoever knows where they begin.
    ///
    /// # Errors
    /// As [`Trailer::open`].
    pub(crate) fn whole(key: &ObjectKey, pack: &[u8], pack_len: u32) -> Result<Self> {
        if pack.len() != pack_len as usize {
            return Err(corrupt("a pack is not as long as those of this vault"));
        }
        let trailer = Trailer::open(key, pack, pack_len)?;
        let at = trailer.directory_at(pack_len);
        let filler = pack.get(trailer.items_end as usize..at as usize).unwrap_or_default();
        let filler = open_item(key, trailer.items_end, &mut filler.to_vec())?.to_vec();
        Reader(&filler).zeros()?;
        let directory = Self::directory(key, &trailer, pack, pack_len)?;
        Ok(Self { trailer, directory })
    }

    /// Opens the directory of a pack, of which `end` is the end.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn directory(key: &ObjectKey, trailer: &Trailer, end: &[u8], pack_len: u32) -> Result<Vec<u8>> {
        let at = trailer.directory_at(pack_len);
        let from = end.len().checked_sub((pack_len - at) as usize);
        let sealed = from.and_then(|from| end.get(from..end.len() - TRAILER_LEN as usize));
        let mut sealed = sealed.ok_or_else(|| corrupt("a pack is cut off"))?.to_vec();
        let len = open_item(key, at, &mut sealed)?.len();
        sealed.truncate(len);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cipher::Cipher,
        keys::{Keys, PackName},
        secret::Secret,
    };

    const LEN: u32 = PACK_LEN_MIN;

    fn key(cipher: Cipher, name: u8) -> ObjectKey {
        Keys::new(cipher, Secret::new(&[1; 32])).pack(&PackName([name; 24]))
    }

    fn sample(key: &ObjectKey) -> Bytes {
        let long = vec![8; 20_000];
        let items = [&b"one"[..], &[7; 1000], &[], &long];
        seal(key, LEN, (Kind::Data, 5, 9), items.into_iter(), b"directory").expect("it fits")
    }

    /// Whether every byte of it is that of [`sample`].
    fn open(key: &ObjectKey, pack: &[u8]) -> Result<()> {
        let opened = Opened::whole(key, pack, LEN)?;
        assert_eq!(opened.directory, b"directory");
        let mut at = 0;
        for len in [3, 1000, 0, 20_000_u32] {
            let end = at + len + TAG;
            open_item(key, at, &mut pack[at as usize..end as usize].to_vec())?;
            at = end;
        }
        assert_eq!(opened.trailer, Trailer { kind: Kind::Data, number: 5, epoch: 9, items_end: at, directory_len: 9 });
        Ok(())
    }

    #[test]
    fn what_is_sealed_is_opened_and_only_under_its_name() {
        for cipher in [Cipher::Aes256Gcm, Cipher::XChaCha20Poly1305] {
            let pack = sample(&key(cipher, 1));
            assert_eq!(pack.len(), LEN as usize);
            open(&key(cipher, 1), &pack).expect("good");
            assert_eq!(open(&key(cipher, 2), &pack).expect_err("another").kind(), ErrorKind::Corrupt);
            assert_eq!(sample(&key(cipher, 1)), pack, "the same name and content are the same bytes");
        }
    }

    /// One bit of each byte, or all of them where somebody has the time: none is outside of what is sealed.
    #[test]
    fn each_bit_that_flips_is_found() {
        let all = std::env::var_os("MUXFS_VAULT_ALL_BITS").is_some();
        let key = key(Cipher::Aes256Gcm, 1);
        let mut pack = sample(&key).to_vec();
        for at in 0..pack.len() {
            for bit in 0..8 {
                if all || bit == at % 8 {
                    pack[at] ^= 1 << bit;
                    assert_eq!(open(&key, &pack).expect_err("damaged").kind(), ErrorKind::Corrupt, "bit {bit} of {at}");
                    pack[at] ^= 1 << bit;
                }
            }
        }
        open(&key, &pack).expect("good again");
        for len in (0..pack.len()).step_by(97).chain(pack.len() - 100..pack.len()) {
            assert!(open(&key, &pack[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let key = key(Cipher::Aes256Gcm, 1);
        let items_len = (LEN - OVERHEAD_LEN - TAG) as usize;
        for (item, directory, fits) in [(items_len, 0, true), (items_len, 1, false), (items_len - 9, 9, true)] {
            let (item, directory) = (vec![1; item], vec![2; directory]);
            assert_eq!(seal(&key, LEN, (Kind::Data, 1, 1), [&item[..]].into_iter(), &directory).is_ok(), fits);
        }
        assert!(seal(&key, LEN, (Kind::Data, 1, 1), [&vec![1; LEN as usize][..]].into_iter(), &[]).is_err());
    }

    /// Nothing in a pack looks like what it holds: a filler of zeros is as random as all else.
    #[test]
    fn an_empty_pack_looks_like_a_full_one() {
        let key = key(Cipher::Aes256Gcm, 1);
        let full = seal(&key, LEN, (Kind::Data, 1, 1), [&vec![0; 60_000][..]].into_iter(), b"");
        let empty = seal(&key, LEN, (Kind::Cover, 0, 1), std::iter::empty(), b"");
        for pack in [full.expect("it fits"), empty.expect("it fits")] {
            let mut counts = [0_u32; 256];
            pack.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
            let mean = LEN / 256;
            assert!(counts.iter().all(|count| (mean / 2..mean * 2).contains(count)), "{counts:?}");
        }
    }
}
