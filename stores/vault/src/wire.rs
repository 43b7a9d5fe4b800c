//! Numbers and lengths in what a vault keeps, read as if a stranger had written them.
//!
//! A number is an unsigned LEB128 of at most 64 bits in its shortest form; everything else has a length that is known.

use std::collections::BTreeSet;

use muxfs::{BlockKey, Error, ErrorKind, Result};

/// A set of more numbers is not read: so many packs are 64 TiB.
const SET_COUNT_MAX: u64 = 1 << 24;

pub(crate) fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "vault.read").because(why)
}

pub(crate) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(unsigned_varint::encode::u64(number, &mut unsigned_varint::encode::u64_buffer()));
}

/// How long a number is, in bytes.
pub(crate) fn number_len(number: u64) -> usize {
    unsigned_varint::encode::u64(number, &mut unsigned_varint::encode::u64_buffer()).len()
}

/// A key, its length before it.
pub(crate) fn put_key(out: &mut Vec<u8>, key: &BlockKey) {
    out.push(u8::try_from(key.as_bytes().len()).unwrap_or(u8::MAX));
    out.extend_from_slice(key.as_bytes());
}

/// Numbers as ranges: how far each begins behind the end of the one before, and how many more are in it.
pub(crate) fn put_set(out: &mut Vec<u8>, numbers: &(impl Iterator<Item = u64> + Clone)) {
    let ranges = || {
        let mut numbers = numbers.clone().peekable();
        std::iter::from_fn(move || {
            let first = numbers.next()?;
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            Some((first, last))
        })
    };
    put_number(out, ranges().count() as u64);
    let mut end = 0;
    for (first, last) in ranges() {
        put_number(out, first - end);
        put_number(out, last - first);
        end = last;
    }
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| corrupt("it is cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64> {
        let (number, rest) = unsigned_varint::decode::u64(self.0).map_err(|_| corrupt("a number is none"))?;
        self.0 = rest;
        Ok(number)
    }

    /// A number up to `max`.
    pub(crate) fn number_to(&mut self, max: u64) -> Result<u64> {
        let number = self.number()?;
        if number > max { Err(corrupt("a number is too high")) } else { Ok(number) }
    }

    /// A length, or a place, up to `max`.
    pub(crate) fn len_to(&mut self, max: u32) -> Result<u32> {
        self.number_to(max.into()).and_then(|len| u32::try_from(len).map_err(|_| corrupt("a number is too high")))
    }

    /// How many things follow, each of which takes a byte at least.
    pub(crate) fn count(&mut self) -> Result<usize> {
        let count = self.number_to(self.0.len() as u64)?;
        usize::try_from(count).map_err(|_| corrupt("a number is too high"))
    }

    pub(crate) fn key(&mut self) -> Result<BlockKey> {
        let len = self.byte()?.into();
        BlockKey::new(self.take(len)?).map_err(|_| corrupt("a key is none"))
    }

    /// What [`put_set`] put, of numbers up to `max`.
    pub(crate) fn set_to(&mut self, max: u64) -> Result<BTreeSet<u64>> {
        let (mut set, mut end, mut count) = (BTreeSet::new(), 0_u64, 0_u64);
        for n in 0..self.count()? {
            let bad = || corrupt("ranges of numbers are none");
            let (step, more) = (self.number()?, self.number_to(SET_COUNT_MAX)?);
            let first = end.checked_add(step).ok_or_else(bad)?;
            let last = first.checked_add(more).filter(|last| *last <= max).ok_or_else(bad)?;
            count += more + 1;
            if n > 0 && step < 2 || count > SET_COUNT_MAX {
                return Err(bad());
            }
            set.extend(first..=last);
            end = last;
        }
        Ok(set)
    }

    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt("there is more of it than there may be")) }
    }

    /// Checks that nothing but zeros is left.
    pub(crate) fn zeros(self) -> Result<()> {
        if self.0.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(corrupt("there is something behind its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_what_they_were() {
        for set in [vec![], vec![0], vec![1, 2, 3], vec![0, 2, 3, 9, 10, 11, 500], vec![7, u64::from(u32::MAX)]] {
            let mut out = Vec::new();
            put_set(&mut out, &set.iter().copied());
            let mut reader = Reader(&out);
            assert_eq!(reader.set_to(u64::from(u32::MAX)).expect("good"), set.iter().copied().collect());
            reader.end().expect("all of it");
        }
        let mut out = Vec::new();
        put_set(&mut out, &(0..9));
        assert!(Reader(&out).set_to(7).is_err(), "a number is too high");
        // Two ranges that touch, one of more numbers than any set has, all numbers, and what is behind the last of them.
        let all = [[1, 0].as_slice(), &[0xff; 9], &[1]].concat();
        let behind = [[2].as_slice(), &[0xff; 9], &[1, 0, 2, 0]].concat();
        for bad in [&[2, 1, 0, 1, 0][..], &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], &all, &behind] {
            assert!(Reader(bad).set_to(u64::MAX).is_err(), "{bad:?}");
        }
        let last = [[1].as_slice(), &[0xff; 9], &[1, 0]].concat();
        assert_eq!(Reader(&last).set_to(u64::MAX).expect("good"), [u64::MAX].into());
    }
}
