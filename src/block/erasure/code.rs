//! The arithmetic: a block to k + m shards, and any k of them back to the block.
//!
//! Pure, and as fast as the library below it: shards are cut and coded in the buffer that they are sent from, a few
//! kilobytes of each at a time, so that what is added up stays in the processor's nearest cache. A block that was put
//! together is the block, or nothing: its hash is in every shard. Spec: spec/erasure.md, "The code".

use std::fmt;

use bytes::Bytes;
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::{
    collected::{Collected, Found},
    read::What,
    shard::{Header, SHARD_HEADER_LEN, Shard, Stripe},
};
use crate::{Error, ErrorKind, Result, block::BLOCK_LEN_MAX};

/// So much of each shard is coded at a time, in bytes: of some ten shards it fits the first cache of a processor.
const COLUMN_LEN: usize = 4096;

/// Cuts blocks into k data and m parity shards and puts any k of them together again.
pub struct StripeCode {
    data_count: u8,
    parity_count: u8,
    /// `None` where there is no parity.
    parity: Option<ReedSolomon>,
}

impl fmt::Debug for StripeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StripeCode({}+{})", self.data_count, self.parity_count)
    }
}

impl StripeCode {
    /// Makes the code of `data_count` (k) and `parity_count` (m) shards.
    ///
    /// ```
    /// use muxfs::block::StripeCode;
    /// let code = StripeCode::new(4, 2)?;
    /// let mut shards = code.encode(b"any four of six")?;
    /// shards.remove(5);
    /// shards.remove(0);
    /// assert_eq!(code.decode(&shards)?, "any four of six");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` unless k is at least 1 and k + m at most 255; `Unsupported` on a processor for which the
    /// Reed-Solomon library is not built.
    pub fn new(data_count: u8, parity_count: u8) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, "erasure.code").because(why));
        if data_count == 0 || data_count.checked_add(parity_count).is_none() {
            return refuse(ErrorKind::InvalidArgument, "a block is cut into at least 1 and at most 255 shards");
        }
        if parity_count == 0 {
            return Ok(Self { data_count, parity_count, parity: None });
        }
        if !can_run() {
            return refuse(ErrorKind::Unsupported, "Reed-Solomon parity needs a processor with AVX2");
        }
        let parity = ReedSolomon::new(data_count.into(), parity_count.into()).map_err(internal)?;
        Ok(Self { data_count, parity_count, parity: Some(parity) })
    }

    /// k and m.
    pub fn counts(&self) -> (u8, u8) {
        (self.data_count, self.parity_count)
    }

    /// The longest block whose shards are no longer than a store takes, in bytes.
    pub fn block_len_max(&self) -> usize {
        BLOCK_LEN_MAX.min(usize::from(self.data_count) * (BLOCK_LEN_MAX - SHARD_HEADER_LEN))
    }

    /// Cuts a block into its k + m shards, in the order of their index. The same block gives the same shards.
    ///
    /// # Errors
    /// `TooLarge` past [`block_len_max`](Self::block_len_max).
    pub fn encode(&self, block: &[u8]) -> Result<Vec<Bytes>> {
        Ok(self.cut(block)?.1)
    }

    /// Cuts a block: what its shards have in common, and they.
    pub(super) fn cut(&self, block: &[u8]) -> Result<(Stripe, Vec<Bytes>)> {
        let stripe = Stripe::of(block, self.data_count, self.parity_count);
        Ok((stripe, self.cut_again(&stripe, block)?))
    }

    /// Cuts a block into the shards of its stripe, which is of this code or another.
    pub(super) fn cut_again(&self, stripe: &Stripe, block: &[u8]) -> Result<Vec<Bytes>> {
        if self.counts() != (stripe.data_count, stripe.parity_count) {
            return Self::new(stripe.data_count, stripe.parity_count)?.cut_again(stripe, block);
        }
        if block.len() > self.block_len_max() {
            return Err(Error::new(ErrorKind::TooLarge, "erasure.encode"));
        }
        let (data_shards, shards, shard_len) = (stripe.data_shards(), stripe.shards(), stripe.shard_len());
        let frame_len = SHARD_HEADER_LEN + shard_len;
        let mut buffer = Vec::with_capacity(shards * frame_len);
        for index in 0..data_shards {
            buffer.extend_from_slice(&[0; SHARD_HEADER_LEN]);
            let start = (index * shard_len).min(block.len());
            buffer.extend_from_slice(&block[start..(start + shard_len).min(block.len())]);
            buffer.resize((index + 1) * frame_len, 0);
        }
        buffer.resize(shards * frame_len, 0);
        if let Some(code) = &self.parity {
            let (data, parity) = buffer.split_at_mut(data_shards * frame_len);
            for start in (SHARD_HEADER_LEN..frame_len).step_by(COLUMN_LEN) {
                let column = start..frame_len.min(start + COLUMN_LEN);
                let inputs: Vec<&[u8]> = data.chunks(frame_len).map(|frame| &frame[column.clone()]).collect();
                let mut outputs: Vec<&mut [u8]> =
                    parity.chunks_mut(frame_len).map(|frame| &mut frame[column.clone()]).collect();
                code.encode_sep(&inputs, &mut outputs).map_err(internal)?;
            }
        }
        for (frame, index) in buffer.chunks_mut(frame_len).zip(0..) {
            let (header, data) = frame.split_at_mut(SHARD_HEADER_LEN);
            header.copy_from_slice(&Header { stripe: *stripe, index, data_crc: crc32c::crc32c(data) }.encode());
        }
        let mut rest = Bytes::from(buffer);
        Ok((0..shards).map(|_| rest.split_to(frame_len)).collect())
    }

    /// Whether these are all the shards of a block of this code, in the order of their index, byte for byte as it is cut;
    /// finds out without putting the block together.
    pub(super) fn is_cut(&self, stripe: &Stripe, shards: &[&Shard]) -> Result<bool> {
        if self.counts() != (stripe.data_count, stripe.parity_count) || shards.len() != stripe.shards() {
            return Ok(false);
        }
        let is_at = |(shard, index): (&&Shard, u8)| shard.header.stripe == *stripe && shard.header.index == index;
        // Those of another stripe may be of another length.
        if !shards.iter().zip(0..).all(is_at) {
            return Ok(false);
        }
        let (shard_len, mut left) = (stripe.shard_len(), stripe.block_len as usize);
        let (data, parity) = shards.split_at(stripe.data_shards());
        let mut parts = Vec::with_capacity(data.len());
        let mut is_padded = true;
        for shard in data {
            let (part, padding) = shard.data().split_at(left.min(shard_len));
            is_padded &= padding.iter().all(|byte| *byte == 0);
            left -= part.len();
            parts.push(part);
        }
        if !is_padded || !shards.iter().all(|shard| shard.is_exact()) || !stripe.is_of_parts(parts) {
            return Ok(false);
        }
        let Some(code) = &self.parity else { return Ok(true) };
        let mut buffer = vec![0; parity.len() * COLUMN_LEN.min(shard_len)];
        for start in (0..shard_len).step_by(COLUMN_LEN) {
            let column = start..shard_len.min(start + COLUMN_LEN);
            let inputs: Vec<&[u8]> = data.iter().map(|shard| &shard.data()[column.clone()]).collect();
            let mut outputs: Vec<&mut [u8]> = buffer.chunks_mut(column.len()).take(parity.len()).collect();
            code.encode_sep(&inputs, &mut outputs).map_err(internal)?;
            if !parity.iter().zip(&outputs).all(|(shard, output)| shard.data()[column.clone()] == **output) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a block together from any k of its shards, given in any order. What is no shard, damaged, of another
    /// stripe, or of another code is passed over.
    ///
    /// # Errors
    /// `Corrupt` where that leaves fewer than k.
    pub fn decode(&self, shards: &[Bytes]) -> Result<Bytes> {
        let mut collected = Collected::new(What::Block, self.data_count);
        for (origin, bytes) in shards.iter().enumerate() {
            let Ok(shard) = Shard::parse(bytes.clone()) else { continue };
            let is_ours = self.counts() == (shard.header.stripe.data_count, shard.header.stripe.parity_count);
            if !is_ours {
                continue;
            }
            let mut found = collected.add(origin, shard, self)?;
            while found.is_none() && collected.is_searching() {
                found = collected.search(self)?;
            }
            if let Some(Found { block, .. }) = found {
                return Ok(block);
            }
        }
        let why = format!("fewer than {} sound shards of one stripe", self.data_count);
        Err(Error::new(ErrorKind::Corrupt, "erasure.decode").because(why))
    }

    /// Puts the block of a stripe, of this code or another, together from k of its shards, each of another index; `None`
    /// where that is not the block, because one of them is not what it says.
    pub(super) fn join(&self, stripe: &Stripe, shards: &[&Shard]) -> Result<Option<Bytes>> {
        Ok(self.join_unchecked(stripe, shards)?.filter(|block| stripe.is_of(block)))
    }

    /// The same, whether it is the block or not.
    pub(super) fn join_unchecked(&self, stripe: &Stripe, shards: &[&Shard]) -> Result<Option<Bytes>> {
        if self.counts() != (stripe.data_count, stripe.parity_count) {
            return Self::new(stripe.data_count, stripe.parity_count)?.join_unchecked(stripe, shards);
        }
        let (data_shards, shard_len) = (stripe.data_shards(), stripe.shard_len());
        let block_len = stripe.block_len as usize;
        if let ([shard], 1) = (shards, data_shards) {
            // Each is a copy: the block is a part of it.
            let start = SHARD_HEADER_LEN;
            return Ok(Some(shard.bytes().slice(start..start + block_len)));
        }
        let mut by_index: Vec<Option<&Shard>> = vec![None; stripe.shards()];
        for shard in shards {
            by_index[usize::from(shard.header.index)] = Some(shard);
        }
        let (data, parity) = by_index.split_at(data_shards);
        let mut buffer = Vec::with_capacity(data_shards * shard_len);
        for (shard, index) in data.iter().zip(1..) {
            buffer.extend_from_slice(shard.map_or(&[], Shard::data));
            buffer.resize(index * shard_len, 0);
        }
        if shard_len > 0 && data.iter().any(Option::is_none) {
            let Some(code) = &self.parity else { return Ok(None) };
            let mut parity: Vec<Option<Vec<u8>>> =
                parity.iter().map(|shard| shard.map(|s| s.data().to_vec())).collect();
            for start in (0..shard_len).step_by(COLUMN_LEN) {
                let column = start..shard_len.min(start + COLUMN_LEN);
                let frames = buffer.chunks_mut(shard_len).zip(data);
                let inputs = frames.map(|(frame, shard)| (&mut frame[column.clone()], shard.is_some()));
                let spare = parity.iter_mut().map(|shard| match shard {
                    Some(shard) => (&mut shard[column.clone()], true),
                    None => (&mut [][..], false),
                });
                let mut columns: Vec<(&mut [u8], bool)> = inputs.chain(spare).collect();
                code.reconstruct_data(&mut columns).map_err(internal)?;
            }
        }
        buffer.truncate(block_len);
        Ok(Some(buffer.into()))
    }
}

/// Whether this processor can run what the library is built for: on x86-64 it does not ask.
fn can_run() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// It was given what it asks for.
fn internal(error: reed_solomon_erasure::Error) -> Error {
    Error::new(ErrorKind::Internal, "erasure.code").because(format!("Reed-Solomon: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A shard with a byte changed by whoever makes its checksums.
    fn forged(shard: &Shard, at: usize, with: u8) -> Bytes {
        let mut bytes = shard.bytes().to_vec();
        bytes[SHARD_HEADER_LEN + at] ^= with;
        let data_crc = crc32c::crc32c(&bytes[SHARD_HEADER_LEN..]);
        bytes[..SHARD_HEADER_LEN].copy_from_slice(&Header { data_crc, ..shard.header }.encode());
        bytes.into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn shards_are_cut_if_every_byte_is(
            len in 0..40_000_usize,
            k in 1..=12u8,
            m in 0..=5u8,
            of: prop::sample::Index,
            at: prop::sample::Index,
            with in 1..=255u8,
        ) {
            let code = StripeCode::new(k, m)?;
            let block: Vec<u8> = (0..len).map(|at| u8::try_from(at * at % 251).expect("below 251")).collect();
            let (stripe, bytes) = code.cut(&block)?;
            let shards: Vec<_> = bytes.into_iter().map(|bytes| Shard::parse(bytes).expect("a shard")).collect();
            let all: Vec<_> = shards.iter().collect();
            prop_assert!(code.is_cut(&stripe, &all)?);
            prop_assert!(!code.is_cut(&stripe, &all[1..])?);

            let of = of.index(shards.len());
            let is_cut_with = |bytes: Bytes| -> Result<bool> {
                let Ok(other) = Shard::parse(bytes) else { return Ok(false) };
                let mut all = all.clone();
                all[of] = &other;
                code.is_cut(&stripe, &all)
            };
            let mut flipped = shards[of].bytes().to_vec();
            let place = at.index(flipped.len());
            flipped[place] ^= with;
            prop_assert!(!is_cut_with(flipped.into())?, "byte {place} of shard {of}");
            if stripe.shard_len() > 0 {
                let place = at.index(stripe.shard_len());
                prop_assert!(!is_cut_with(forged(&shards[of], place, with))?, "{place} in shard {of}, checksums right");
            }
            // One of another stripe in the place of any: of other parameters, or of a shorter block.
            let others = [(&block[..], k + 1), (&block[..len / 2], k), (&block[..], if k > 1 { k - 1 } else { 3 })];
            for (block, k) in others {
                let shards = StripeCode::new(k, m)?.encode(block)?;
                prop_assert!(len == 0 || !is_cut_with(shards[of % shards.len()].clone())?, "of {k} + {m}");
            }
            if shards.len() > 1 && stripe.shard_len() > 0 {
                let mut swapped = all.clone();
                swapped.swap(of, (of + 1) % shards.len());
                prop_assert!(!code.is_cut(&stripe, &swapped)?);
            }
        }
    }
}
