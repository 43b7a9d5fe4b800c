//! The format of a pack: blocks, and an index behind them that says what they are. Spec: spec/s3-store.md #packs.
//!
//! A pack describes itself: its end alone tells what it holds, what it takes back of packs before it, and the state of the
//! whole store after it. So there is no other place that could be lost, and a pack is one put.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use muxfs::{BlockKey, Error, ErrorKind, Name, Result, block::BLOCK_LEN_MAX, heads::HEAD_LEN_MAX};
use object_store::PutPayload;

use crate::ranges::Ranges;

const MAGIC: &[u8; 8] = b"MUXPACK\0";
const VERSION: u32 = 1;
/// Before the blocks: the magic.
pub(crate) const FRONT_LEN: u32 = 8;
/// At the very end: how long the index before it is, and whose it is.
pub(crate) const TRAILER_LEN: usize = 56;
/// No index is longer, and no block ends further from the beginning of its pack, in bytes: two of the longest packs that were
/// put together are shorter.
pub(crate) const PART_LEN_MAX: u32 = 256 << 20;
/// No pack, and no epoch, has a higher number: what counts on from there never overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// So many packs count at most: of 8 MiB, 128 TiB.
const LIVE_COUNT_MAX: u64 = 1 << 24;

/// Who wrote a pack, and which of them it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackId {
    /// Packs are numbered in their order, from 1 on.
    pub(crate) number: u64,
    /// Of the writer that wrote it.
    pub(crate) epoch: u64,
    /// Tells two apart that were written as the same.
    pub(crate) nonce: [u8; 16],
}

/// A block in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) key: BlockKey,
    /// From the beginning of the pack, in bytes.
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// CRC-32C of the block.
    pub(crate) crc: u32,
}

/// A head, and the number of the pack that set it.
pub(crate) type HeadTable = BTreeMap<Name, (Bytes, u64)>;

/// The state of a store after a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The packs that count, this one among them.
    pub(crate) live: Ranges,
    /// Those of them that begin an epoch whose writer took over: a writer that was passed over finds the number taken, whenever
    /// it comes, so they stay.
    pub(crate) posts: Ranges,
    pub(crate) heads: HeadTable,
}

/// What the end of a pack says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackIndex {
    pub(crate) id: PackId,
    pub(crate) blocks: Vec<Placed>,
    /// Blocks that were deleted, each with the pack that has it.
    pub(crate) deleted: Vec<(BlockKey, u64)>,
    pub(crate) state: State,
}

/// The end of a pack, as far as its trailer tells.
pub(crate) struct Trailer {
    pub(crate) id: PackId,
    pub(crate) index_len: u32,
    index_crc: u32,
}

/// The name of a pack's object.
pub(crate) fn object_name(number: u64) -> String {
    format!("packs/{number:016x}")
}

/// The number in the last part of such a name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (name.len() == 16 && name.bytes().all(is_hex)).then(|| u64::from_str_radix(name, 16).ok())?
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "s3.pack").because(why)
}

impl PackIndex {
    /// The index and the trailer.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_number(&mut out, self.blocks.len() as u64);
        for Placed { key, offset, len, crc } in &self.blocks {
            put_short(&mut out, key.as_bytes());
            out.put_u32_le(*offset);
            out.put_u32_le(*len);
            out.put_u32_le(*crc);
        }
        put_number(&mut out, self.deleted.len() as u64);
        for (key, number) in &self.deleted {
            put_short(&mut out, key.as_bytes());
            put_number(&mut out, *number);
        }
        put_number(&mut out, self.state.heads.len() as u64);
        for (name, (head, version)) in &self.state.heads {
            put_short(&mut out, name.as_bytes());
            put_number(&mut out, *version);
            put_number(&mut out, head.len() as u64);
            out.put_slice(head);
        }
        put_ranges(&mut out, &self.state.live);
        put_ranges(&mut out, &self.state.posts);
        let (index_len, index_crc) = (u32::try_from(out.len()).unwrap_or(u32::MAX), crc32c::crc32c(&out));
        let begin = out.len();
        out.put_u32_le(index_len);
        out.put_u32_le(index_crc);
        out.put_u64_le(self.id.number);
        out.put_u64_le(self.id.epoch);
        out.put_slice(&self.id.nonce);
        out.put_u32_le(VERSION);
        let crc = crc32c::crc32c(out.get(begin..).unwrap_or_default());
        out.put_u32_le(crc);
        out.put_slice(MAGIC);
        out.freeze()
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` of a newer version.
    pub(crate) fn decode(end: &Bytes) -> Result<Self> {
        let trailer = Trailer::decode(end)?;
        let from = (end.len() - TRAILER_LEN).checked_sub(trailer.index_len as usize);
        let mut index =
            from.map(|from| end.slice(from..end.len() - TRAILER_LEN)).ok_or_else(|| corrupt("it is cut off"))?;
        if crc32c::crc32c(&index) != trailer.index_crc {
            return Err(corrupt("its index is damaged"));
        }
        let (id, bad) = (trailer.id, || corrupt("its index means nothing"));
        let mut blocks = Vec::new();
        for _ in 0..get_number(&mut index).ok_or_else(bad)? {
            let key = BlockKey::new(&get_short(&mut index).ok_or_else(bad)?).map_err(|_| bad())?;
            let mut number = || index.try_get_u32_le().map_err(|_| bad());
            let placed = Placed { key, offset: number()?, len: number()?, crc: number()? };
            let end = placed.offset.checked_add(placed.len).ok_or_else(bad)?;
            if placed.len as usize > BLOCK_LEN_MAX || end > PART_LEN_MAX {
                return Err(bad());
            }
            blocks.push(placed);
        }
        let mut deleted = Vec::new();
        for _ in 0..get_number(&mut index).ok_or_else(bad)? {
            let key = BlockKey::new(&get_short(&mut index).ok_or_else(bad)?).map_err(|_| bad())?;
            deleted.push((key, get_number(&mut index).ok_or_else(bad)?));
        }
        let mut heads = HeadTable::new();
        for _ in 0..get_number(&mut index).ok_or_else(bad)? {
            let name = Name::new(&get_short(&mut index).ok_or_else(bad)?).map_err(|_| bad())?;
            let version = get_number(&mut index).ok_or_else(bad)?;
            let len = get_number(&mut index).and_then(|len| usize::try_from(len).ok()).ok_or_else(bad)?;
            if len > index.len() || len > HEAD_LEN_MAX {
                return Err(bad());
            }
            heads.insert(name, (Bytes::copy_from_slice(&index.split_to(len)), version));
        }
        let live = get_ranges(&mut index, id.number).ok_or_else(bad)?;
        let posts = get_ranges(&mut index, id.number).ok_or_else(bad)?;
        if !index.is_empty() {
            return Err(bad());
        }
        Ok(Self { id, blocks, deleted, state: State { live, posts, heads } })
    }
}

impl Trailer {
    /// Reads the trailer at the end of some bytes.
    ///
    /// # Errors
    /// As [`PackIndex::decode`].
    pub(crate) fn decode(end: &[u8]) -> Result<Self> {
        let from = end.len().checked_sub(TRAILER_LEN).ok_or_else(|| corrupt("it is too short"))?;
        let (trailer, bad) = (end.get(from..).unwrap_or_default(), || corrupt("its end is damaged"));
        let (mut fields, crc) = (trailer, crc32c::crc32c(trailer.get(..TRAILER_LEN - 12).unwrap_or_default()));
        if !trailer.ends_with(MAGIC) {
            return Err(corrupt("it is no pack of MuxFS"));
        }
        let index_len = fields.try_get_u32_le().map_err(|_| bad())?;
        let index_crc = fields.try_get_u32_le().map_err(|_| bad())?;
        let number = fields.try_get_u64_le().map_err(|_| bad())?;
        let epoch = fields.try_get_u64_le().map_err(|_| bad())?;
        let mut nonce = [0; 16];
        fields.try_copy_to_slice(&mut nonce).map_err(|_| bad())?;
        let version = fields.try_get_u32_le().map_err(|_| bad())?;
        if fields.try_get_u32_le().map_err(|_| bad())? != crc
            || index_len > PART_LEN_MAX
            || number.max(epoch) > NUMBER_MAX
        {
            return Err(bad());
        }
        if version != VERSION {
            let why = format!("a pack of version {version}, and this program knows {VERSION}: a newer muxfs wrote it");
            return Err(Error::new(ErrorKind::Unsupported, "s3.pack").because(why));
        }
        Ok(Self { id: PackId { number, epoch, nonce }, index_len, index_crc })
    }
}

/// What is put for a pack.
pub(crate) fn payload(bodies: impl Iterator<Item = Bytes>, end: Bytes) -> PutPayload {
    let front = Bytes::from_static(MAGIC);
    std::iter::once(front).chain(bodies.filter(|body| !body.is_empty())).chain([end]).collect()
}

fn put_number(out: &mut BytesMut, number: u64) {
    out.put_slice(unsigned_varint::encode::u64(number, &mut unsigned_varint::encode::u64_buffer()));
}

fn get_number(from: &mut Bytes) -> Option<u64> {
    let (number, rest) = unsigned_varint::decode::u64(from).ok()?;
    let used = from.len() - rest.len();
    from.advance(used);
    Some(number)
}

fn put_ranges(out: &mut BytesMut, ranges: &Ranges) {
    put_number(out, ranges.iter().count() as u64);
    let mut end = 0;
    for (first, last) in ranges.iter() {
        put_number(out, first - end);
        put_number(out, last - first);
        end = last;
    }
}

/// Ranges of numbers up to `number_max`, neither touching nor overlapping, and not too many numbers.
fn get_ranges(from: &mut Bytes, number_max: u64) -> Option<Ranges> {
    let (mut ranges, mut end, mut count) = (Ranges::default(), 0_u64, 0_u64);
    for n in 0..get_number(from)? {
        let first = end.checked_add(get_number(from)?)?;
        let last = first.checked_add(get_number(from)?)?;
        count = count.saturating_add(last - first).saturating_add(1);
        let is_apart = if n == 0 { first > 0 } else { first > end + 1 };
        if last > number_max || !is_apart || count > LIVE_COUNT_MAX {
            return None;
        }
        ranges.insert(first, last);
        end = last;
    }
    Some(ranges)
}

/// Up to 255 bytes and their length.
fn put_short(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.put_slice(bytes);
}

fn get_short(from: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(from.try_get_u8().ok()?);
    (len <= from.len()).then(|| from.split_to(len))
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    fn index() -> PackIndex {
        let key = |n: u8| BlockKey::new(&[n; 34]).expect("a key");
        let mut live = Ranges::default();
        live.insert(3, 9);
        live.insert(700, 701);
        let blocks = (0..20).map(|n| Placed { key: key(n), offset: u32::from(n) * 7, len: 7, crc: 99 }).collect();
        let heads = HeadTable::from([(Name::new(b"main").expect("a name"), (Bytes::from_static(b"head"), 9))]);
        let id = PackId { number: 701, epoch: 4, nonce: [8; 16] };
        let mut posts = Ranges::default();
        posts.insert(4, 4);
        PackIndex { id, blocks, deleted: vec![(key(77), 3)], state: State { live, posts, heads } }
    }

    #[test]
    fn what_is_encoded_is_decoded_also_behind_blocks() {
        let end = index().encode();
        assert_eq!(PackIndex::decode(&end).expect("good"), index());
        let whole: Bytes = [&b"blocks"[..], &end].concat().into();
        assert_eq!(PackIndex::decode(&whole).expect("good"), index());
    }

    /// A bit that flips, or bytes that are missing, are damage, and never another index.
    #[test]
    fn damage_is_found() {
        let end = index().encode();
        for at in 0..end.len() * 8 {
            let mut bytes = end.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let error = PackIndex::decode(&bytes.into()).expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {at}");
        }
        for len in 0..end.len() {
            assert_eq!(PackIndex::decode(&end.slice(end.len() - len..)).expect_err("cut").kind(), ErrorKind::Corrupt);
        }
    }

    /// Whoever can write to the bucket makes the checksums right, too.
    #[test]
    fn an_index_of_anything_is_refused_and_nothing_else() {
        for seed in 0..20_000 {
            let mut dice = Dice::new(seed);
            let mut end = index().encode().to_vec();
            let index_len = end.len() - TRAILER_LEN;
            for _ in 0..=dice.roll(3) {
                end[dice.roll(index_len)] = dice.bytes(1)[0];
            }
            let (index_crc, at) = (crc32c::crc32c(&end[..index_len]), index_len);
            end[at + 4..at + 8].copy_from_slice(&index_crc.to_le_bytes());
            let crc = crc32c::crc32c(&end[at..at + TRAILER_LEN - 12]);
            let crc_at = end.len() - 12;
            end[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            if let Ok(decoded) = PackIndex::decode(&end.into()) {
                assert_eq!(PackIndex::decode(&decoded.encode()).expect("it is one"), decoded);
            }
        }
    }

    /// Whatever is said to be there bounds what is asked for, and held, of it.
    #[test]
    fn numbers_that_no_pack_has_are_refused() {
        let len_max = u32::try_from(BLOCK_LEN_MAX).expect("it fits");
        let bad: [fn(&mut PackIndex, u32); 7] = [
            |pack, len_max| pack.blocks[0].len = len_max + 1,
            |pack, _| pack.blocks[0].offset = u32::MAX,
            |pack, _| pack.blocks[0].offset = PART_LEN_MAX,
            |pack, _| pack.id.number = NUMBER_MAX + 1,
            |pack, _| pack.id.number = u64::MAX,
            |pack, _| pack.id.epoch = u64::MAX,
            |pack, _| pack.state.heads.values_mut().for_each(|head| head.0 = vec![0; HEAD_LEN_MAX + 1].into()),
        ];
        for (n, change) in bad.into_iter().enumerate() {
            let mut pack = index();
            change(&mut pack, len_max);
            assert_eq!(PackIndex::decode(&pack.encode()).expect_err("refused").kind(), ErrorKind::Corrupt, "{n}");
        }
        let mut pack = index();
        (pack.blocks[0].len, pack.id.number, pack.id.epoch) = (len_max, NUMBER_MAX, NUMBER_MAX);
        assert_eq!(PackIndex::decode(&pack.encode()).expect("good"), pack);
    }

    #[test]
    fn names_of_objects_are_numbers() {
        assert_eq!(object_name(255), "packs/00000000000000ff");
        assert_eq!(number_of("00000000000000ff"), Some(255));
        for bad in ["", "ff", "00000000000000FF", "+0000000000000ff", "00000000000000ff0"] {
            assert_eq!(number_of(bad), None, "{bad}");
        }
    }
}
