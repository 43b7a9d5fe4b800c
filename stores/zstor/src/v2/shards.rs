//! Bytes to k + m shards and back, as zstor v2 does it: padded to a multiple of k, cut into k pieces one after the other,
//! and m of parity by the Reed-Solomon code that our own shards have too.
//!
//! The padding is 1 to k bytes, each of which tells how many they are.

use std::fmt;

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result, block::StripeCode};
use reed_solomon_erasure::galois_8::ReedSolomon;

/// The most shards that the code has.
pub(crate) const SHARD_COUNT_MAX: usize = 256;
/// So much of each shard is coded at a time, in bytes.
const COLUMN_LEN: usize = 16 << 10;

/// The code of k data and m parity shards.
pub(crate) struct Code {
    data: usize,
    parity: usize,
    /// `None` where there is no parity.
    reed_solomon: Option<ReedSolomon>,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}+{})", self.data, self.parity)
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "zstor.v2.shards").because(why)
}

fn internal(error: reed_solomon_erasure::Error) -> Error {
    Error::new(ErrorKind::Internal, "zstor.v2.shards").because(error.to_string())
}

impl Code {
    /// # Errors
    /// `InvalidArgument` unless k is 1 to 255 and k + m at most 256; `Unsupported` on a processor for which the library is
    /// not built.
    pub(crate) fn new(data: usize, parity: usize) -> Result<Self> {
        let is_possible = (1..SHARD_COUNT_MAX).contains(&data) && parity <= SHARD_COUNT_MAX - data;
        if !is_possible {
            let why =
                format!("zstor v2 cuts into 1 to 255 shards and has 256 with parity, not {data} and {parity} more");
            return Err(Error::new(ErrorKind::InvalidArgument, "zstor.v2.shards").because(why));
        }
        if parity == 0 {
            return Ok(Self { data, parity, reed_solomon: None });
        }
        // It knows which processors the library runs on.
        StripeCode::new(1, 1)?;
        let code = ReedSolomon::new(data, parity).map_err(internal)?;
        Ok(Self { data, parity, reed_solomon: Some(code) })
    }

    /// How long each shard of so many bytes is.
    pub(crate) fn shard_len(&self, len: usize) -> usize {
        len / self.data + 1
    }

    /// Cuts, after padding.
    pub(crate) fn split(&self, mut bytes: Vec<u8>) -> Result<Vec<Bytes>> {
        let shard_len = self.shard_len(bytes.len());
        let padded_len = shard_len * self.data;
        let padding = u8::try_from(padded_len - bytes.len()).map_err(|_| corrupt("the padding is too long"))?;
        bytes.reserve_exact(shard_len * (self.data + self.parity) - bytes.len());
        bytes.resize(padded_len, padding);
        bytes.resize(shard_len * (self.data + self.parity), 0);
        if let Some(code) = &self.reed_solomon {
            let (data, parity) = bytes.split_at_mut(padded_len);
            for start in (0..shard_len).step_by(COLUMN_LEN) {
                let column = start..shard_len.min(start + COLUMN_LEN);
                let inputs: Vec<&[u8]> = data.chunks(shard_len).map(|shard| &shard[column.clone()]).collect();
                let mut outputs: Vec<&mut [u8]> =
                    parity.chunks_mut(shard_len).map(|shard| &mut shard[column.clone()]).collect();
                code.encode_sep(&inputs, &mut outputs).map_err(internal)?;
            }
        }
        let mut rest = Bytes::from(bytes);
        Ok((0..self.data + self.parity).map(|_| rest.split_to(shard_len)).collect())
    }

    /// Puts together what was cut, from k shards or more, each at its index. What they say is not looked at.
    ///
    /// # Errors
    /// `Corrupt` where they are fewer, of different lengths, or end in what is no padding.
    pub(crate) fn join(&self, mut shards: Vec<Option<Vec<u8>>>) -> Result<Vec<u8>> {
        shards.resize(self.data + self.parity, None);
        let mut lens = shards.iter().flatten().map(Vec::len);
        let shard_len = lens.next().unwrap_or(0);
        if lens.any(|len| len != shard_len) {
            return Err(corrupt("its shards are of different lengths"));
        }
        if shards.iter().flatten().count() < self.data || shard_len == 0 {
            return Err(corrupt("its shards are too few"));
        }
        self.reconstruct(&mut shards, shard_len)?;
        shards.truncate(self.data);
        // One after the other, so that no two copies of everything are held.
        let mut bytes = Vec::with_capacity(shard_len * self.data);
        for shard in shards {
            bytes.extend_from_slice(&shard.unwrap_or_default());
        }
        let padding = bytes.last().map_or(0, |last| usize::from(*last));
        let len = bytes.len().checked_sub(padding).filter(|_| (1..=self.data).contains(&padding));
        let is_padding = |len: &usize| bytes[*len..].iter().all(|byte| usize::from(*byte) == padding);
        let len = len.filter(is_padding).ok_or_else(|| corrupt("it does not end in padding"))?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Makes the data shards anew that are missing.
    fn reconstruct(&self, shards: &mut [Option<Vec<u8>>], shard_len: usize) -> Result<()> {
        let (data, parity) = shards.split_at_mut(self.data);
        if data.iter().all(Option::is_some) {
            return Ok(());
        }
        let Some(code) = &self.reed_solomon else { return Err(corrupt("its shards are too few")) };
        let was_there: Vec<bool> = data.iter().map(Option::is_some).collect();
        let mut data: Vec<&mut Vec<u8>> =
            data.iter_mut().map(|shard| shard.get_or_insert_with(|| vec![0; shard_len])).collect();
        for start in (0..shard_len).step_by(COLUMN_LEN) {
            let column = start..shard_len.min(start + COLUMN_LEN);
            let inputs =
                data.iter_mut().zip(&was_there).map(|(shard, is_there)| (&mut shard[column.clone()], *is_there));
            let spare = parity.iter_mut().map(|shard| match shard {
                Some(shard) => (&mut shard[column.clone()], true),
                None => (&mut [][..], false),
            });
            let mut columns: Vec<(&mut [u8], bool)> = inputs.chain(spare).collect();
            code.reconstruct_data(&mut columns).map_err(internal)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without(shards: &[Bytes], lost: impl Fn(usize) -> bool) -> Vec<Option<Vec<u8>>> {
        shards.iter().enumerate().map(|(index, shard)| (!lost(index)).then(|| shard.to_vec())).collect()
    }

    /// The rows of parity that zstor v2's own shards show for 2+2: 3, 2 and 2, 3.
    #[test]
    fn parity_is_that_of_zstor() {
        let shards = Code::new(2, 2).expect("a code").split(vec![1, 0, 0]).expect("cut");
        // Padded by one byte: 1 0 | 0 1.
        assert_eq!(shards, [&[1, 0][..], &[0, 1], &[3, 2], &[2, 3]]);
    }

    #[test]
    fn impossible_codes_and_padding_are_refused() {
        for (data, parity) in [(0, 2), (256, 0), (200, 57), (usize::MAX, usize::MAX)] {
            assert_eq!(Code::new(data, parity).expect_err("none").kind(), ErrorKind::InvalidArgument);
        }
        let code = Code::new(2, 0).expect("a code");
        for (left, right) in
            [(&b"ab"[..], &b"c\0"[..]), (b"ab", b"c\x03"), (b"ab", b"c\x02"), (b"", b""), (b"a", b"b\x01")]
        {
            let joined = code.join(vec![Some(left.to_vec()), Some(right.to_vec())]);
            assert_eq!(joined.expect_err("no padding").kind(), ErrorKind::Corrupt, "{left:?} {right:?}");
        }
        assert_eq!(code.join(vec![Some(b"ab".to_vec()), None]).expect_err("too few").kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn any_k_shards_give_the_bytes_back(
            (data, parity) in (1usize..12, 0usize..6),
            bytes in prop::collection::vec(any::<u8>(), 0..70_000),
            lost in any::<u64>(),
        ) {
            let code = Code::new(data, parity).expect("a code");
            let shards = code.split(bytes.clone()).expect("cut");
            prop_assert_eq!(shards.len(), data + parity);
            // As many as may be lost, wherever they are.
            let mut left = parity;
            let mut lost_ones = vec![false; shards.len()];
            for (index, is_lost) in lost_ones.iter_mut().enumerate() {
                if lost >> index & 1 == 1 && left > 0 {
                    *is_lost = true;
                    left -= 1;
                }
            }
            prop_assert_eq!(code.join(without(&shards, |index| lost_ones[index])).expect("joined"), bytes);
        }
    }
}
