//! One shard: a header that says what it is a part of, and its data.
//!
//! A shard is all that a node holds of a block, and all that is known of it: there is no other record of how a block was
//! cut. What has rotted is told from what is another's by two checksums, one of the header and one of the data, so that
//! a header can be trusted without the data. Spec: spec/erasure.md, "Shards".

use std::ops::Range;

use bytes::Bytes;

use crate::block::BLOCK_LEN_MAX;

const MAGIC: [u8; 8] = *b"muxshard";
const VERSION: u8 = 1;
/// The length of a shard's header, in bytes.
pub const SHARD_HEADER_LEN: usize = 48;
/// What the header's own checksum covers, in every version to come.
const CHECKED: Range<usize> = 0..44;

/// The length of a stripe id, in bytes.
pub(super) const STRIPE_ID_LEN: usize = 16;

/// What the shards have in common that make up one block; only such are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stripe {
    pub(super) id: [u8; STRIPE_ID_LEN],
    /// k, at least 1.
    pub(super) data_count: u8,
    /// m; at most 255 together with k.
    pub(super) parity_count: u8,
    /// In bytes.
    pub(super) block_len: u32,
}

impl Stripe {
    /// The stripe of a block that is cut into so many shards.
    pub(super) fn of(block: &[u8], data_count: u8, parity_count: u8) -> Self {
        // No block is nearly as long: see `BLOCK_LEN_MAX`.
        let block_len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        Self { id: stripe_id([block], data_count, parity_count), data_count, parity_count, block_len }
    }

    /// Whether this is the block: what makes a stripe more than a sum of what nodes say.
    pub(super) fn is_of(&self, block: &[u8]) -> bool {
        self.is_of_parts([block])
    }

    /// Whether this is the block, given in parts, in their order.
    pub(super) fn is_of_parts<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> bool {
        stripe_id(parts, self.data_count, self.parity_count) == self.id
    }

    /// k, to count with.
    pub(super) fn data_shards(&self) -> usize {
        self.data_count.into()
    }

    /// k + m.
    pub(super) fn shards(&self) -> usize {
        usize::from(self.data_count) + usize::from(self.parity_count)
    }

    /// How much data there is in each shard, in bytes.
    pub(super) fn shard_len(&self) -> usize {
        (self.block_len as usize).div_ceil(self.data_shards())
    }

    /// How many shards a block of this stripe takes to count as stored.
    pub(super) fn stored_count_min(&self) -> usize {
        stored_count_min(self.data_count, self.parity_count)
    }
}

/// One more than it takes to read the block, so that it does not hang by one node; not where that would leave none to
/// spare.
pub(super) fn stored_count_min(data_count: u8, parity_count: u8) -> usize {
    usize::from(data_count) + usize::from(parity_count > 1)
}

fn stripe_id<'a>(block: impl IntoIterator<Item = &'a [u8]>, data_count: u8, parity_count: u8) -> [u8; STRIPE_ID_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in block {
        hasher.update(part);
    }
    hasher.update(&[data_count, parity_count]);
    let mut id = [0; STRIPE_ID_LEN];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..STRIPE_ID_LEN]);
    id
}

/// What stands before the data of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stripe: Stripe,
    /// Below k: a part of the block. From k on: parity.
    pub(super) index: u8,
    pub(super) data_crc: u32,
}

/// Why bytes are no shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// They are damaged, or never were one.
    Damaged,
    /// A later program wrote them: not to be touched.
    Newer,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; SHARD_HEADER_LEN] {
        let Self { stripe, index, data_crc } = self;
        let shard_len = u32::try_from(stripe.shard_len()).unwrap_or(u32::MAX);
        let mut bytes = [0; SHARD_HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&[VERSION, stripe.data_count, stripe.parity_count, *index]);
        bytes[16..32].copy_from_slice(&stripe.id);
        bytes[32..36].copy_from_slice(&stripe.block_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&shard_len.to_le_bytes());
        bytes[40..44].copy_from_slice(&data_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[CHECKED]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header that `bytes` begin with.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let header: &[u8; SHARD_HEADER_LEN] = bytes.first_chunk().ok_or(Flaw::Damaged)?;
        if header[0..8] != MAGIC || crc32c::crc32c(&header[CHECKED]) != number(header, 44) {
            return Err(Flaw::Damaged);
        }
        if header[8] != VERSION {
            return Err(Flaw::Newer);
        }
        let [data_count, parity_count, index] = [header[9], header[10], header[11]];
        let mut id = [0; STRIPE_ID_LEN];
        id.copy_from_slice(&header[16..32]);
        let stripe = Stripe { id, data_count, parity_count, block_len: number(header, 32) };
        // Whoever wrote a header that contradicts itself made a right checksum of it.
        let is_consistent = data_count > 0
            // No store takes such a block.
            && stripe.block_len as usize <= BLOCK_LEN_MAX
            && stripe.shards() <= 255
            && usize::from(index) < stripe.shards()
            && number(header, 36) as usize == stripe.shard_len();
        let header = Self { stripe, index, data_crc: number(header, 40) };
        if is_consistent { Ok(header) } else { Err(Flaw::Damaged) }
    }
}

fn number(header: &[u8; SHARD_HEADER_LEN], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// A shard as a node gave it: its header is sound, its data perhaps not.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) header: Header,
    /// Whole, or the header alone where no more was asked for.
    bytes: Bytes,
}

impl Shard {
    /// Takes what a node gave.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Flaw> {
        let header = Header::decode(&bytes)?;
        if bytes.len() - SHARD_HEADER_LEN != header.stripe.shard_len() {
            return Err(Flaw::Damaged);
        }
        Ok(Self { header, bytes })
    }

    /// Takes the first bytes of what a node has.
    pub(super) fn parse_header(bytes: Bytes) -> Result<Self, Flaw> {
        Ok(Self { header: Header::decode(&bytes)?, bytes })
    }

    /// All of it, header and data.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its data.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[SHARD_HEADER_LEN..]
    }

    /// Whether its header is byte for byte the one of these data.
    pub(super) fn is_exact(&self) -> bool {
        let header = Header { data_crc: crc32c::crc32c(self.data()), ..self.header };
        self.bytes[..SHARD_HEADER_LEN] == header.encode()
    }

    /// Whether its data are those that its header was written with.
    pub(super) fn is_sound(&self) -> bool {
        crc32c::crc32c(self.data()) == self.header.data_crc
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header { stripe: Stripe::of(b"block", 4, 2), index: 5, data_crc: 7 }
    }

    /// A header with a byte changed by whoever made the checksum.
    fn with(at: usize, byte: u8) -> Result<Header, Flaw> {
        let mut bytes = header().encode();
        bytes[at] = byte;
        let crc = crc32c::crc32c(&bytes[CHECKED]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        Header::decode(&bytes)
    }

    #[test]
    fn a_header_that_contradicts_itself_is_damaged() {
        assert_eq!(with(11, 5), Ok(header()));
        let (no_data, too_many, no_such_index, other_len) = (with(9, 0), with(10, 252), with(11, 6), with(36, 9));
        assert_eq!([no_data, too_many, no_such_index, other_len], [Err(Flaw::Damaged); 4]);
    }

    #[test]
    fn a_header_of_a_block_that_no_store_takes_is_damaged() {
        for (len, is_good) in [(BLOCK_LEN_MAX, true), (BLOCK_LEN_MAX + 1, false), (u32::MAX as usize, false)] {
            let stripe = Stripe { block_len: u32::try_from(len).expect("short"), ..header().stripe };
            let decoded = Header::decode(&Header { stripe, ..header() }.encode());
            assert_eq!(decoded.is_ok(), is_good, "{len}");
        }
    }

    #[test]
    fn a_header_of_a_later_version_is_not_called_damaged() {
        let mut flipped = header().encode();
        flipped[8] = VERSION + 1;
        assert_eq!(Header::decode(&flipped), Err(Flaw::Damaged), "a flipped bit, not a later version");
        assert_eq!(with(8, VERSION + 1), Err(Flaw::Newer));
    }

    #[test]
    fn other_parameters_are_another_stripe() {
        let stripe = Stripe::of(b"block", 4, 2);
        assert!(stripe.is_of(b"block") && !stripe.is_of(b"blocks"));
        assert_ne!(stripe.id, Stripe::of(b"block", 2, 4).id);
    }

    proptest! {
        #[test]
        fn headers_come_back(len in 0..8_000_000_u32, k in 1..=255u8, m in 0..=254u8, index in 0..=254u8, data_crc: u32) {
            let m = m.min(255 - k);
            let index = index.min(k + m - 1);
            let stripe = Stripe { block_len: len, ..Stripe::of(b"x", k, m) };
            let header = Header { stripe, index, data_crc };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Shard::parse(bytes.into()).is_err());
        }
    }
}
