//! XDR of what comes from outside: every length is bounded before a byte of it is believed.
//!
//! The wire types are those of `nfs3_types`, but its decoder reserves whatever length a packet claims, so opaques are
//! decoded here, as slices of the record and without a copy; only arguments of a fixed size go through its `Unpack`.
//! Spec: RFC 4506.

use std::io;

use bytes::{Buf, Bytes};
use nfs3_types::xdr_codec::Unpack;

/// The bytes are no arguments of this procedure: RPC answers `GARBAGE_ARGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What is left to decode of one record.
#[derive(Debug, Clone)]
pub(crate) struct Decoder(Bytes);

impl Decoder {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The bytes not decoded yet.
    pub(crate) fn rest(&self) -> &Bytes {
        &self.0
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }

    /// Eight bytes that mean nothing to us: a verifier.
    pub(crate) fn verifier(&mut self) -> Result<[u8; 8], Malformed> {
        self.u64().map(u64::to_be_bytes)
    }

    /// A counted run of at most `len_max` bytes with its padding, as a slice of the record.
    pub(crate) fn opaque(&mut self, len_max: usize) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let padding = padding(len);
        if len > len_max || self.0.len() < len || self.0.len() - len < padding {
            return Err(Malformed);
        }
        let bytes = self.0.split_to(len);
        self.0.advance(padding);
        Ok(bytes)
    }

    /// A value without any length inside: `sattr3`, a guard, an enum.
    pub(crate) fn fixed<T: Unpack>(&mut self) -> Result<T, Malformed> {
        T::unpack(self).map(|(value, _)| value).map_err(|_| Malformed)
    }
}

impl io::Read for Decoder {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = to.len().min(self.0.len());
        let (to, _) = to.split_at_mut(len);
        self.0.copy_to_slice(to);
        Ok(len)
    }
}

/// How many zeros follow `len` bytes: XDR counts in fours.
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// What `len` bytes take with their padding.
pub(crate) const fn padded(len: usize) -> usize {
    len + padding(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfs3_types::nfs3::sattr3;

    #[test]
    #[allow(clippy::type_complexity, reason = "a table of bytes, limit and result")]
    fn opaques_are_bounded_before_they_are_believed() {
        let table: [(&'static [u8], usize, Option<&[u8]>); 7] = [
            (b"\0\0\0\x03abc\0rest", 3, Some(b"abc")),
            (b"\0\0\0\x04abcdrest", 4, Some(b"abcd")),
            (b"\0\0\0\0", 0, Some(b"")),
            (b"\0\0\0\x03abc", 3, None),                 // the padding is missing
            (b"\0\0\0\x04abcd", 3, None),                // longer than allowed
            (b"\xff\xff\xff\xffabcd", usize::MAX, None), // 4 GiB claimed, 4 bytes there
            (b"\0\0", 9, None),
        ];
        for (bytes, len_max, want) in table {
            let got = Decoder::new(Bytes::from_static(bytes)).opaque(len_max);
            assert_eq!(got.as_deref().ok(), want, "{bytes:?}");
        }
    }

    #[test]
    fn an_opaque_is_a_slice_of_the_record() {
        let record = Bytes::from_static(b"\0\0\0\x04abcd");
        let opaque = Decoder::new(record.clone()).opaque(4).expect("is whole");
        assert_eq!(opaque.as_ptr(), record[4..].as_ptr());
    }

    #[test]
    fn fixed_values_end_with_the_record_and_know_their_enums() {
        let mut zeros = Decoder::new(Bytes::from_static(&[0; 24]));
        assert!(zeros.fixed::<sattr3>().is_ok() && zeros.rest().is_empty());
        assert_eq!(Decoder::new(Bytes::from_static(&[0; 23])).fixed::<sattr3>().err(), Some(Malformed));
        assert_eq!(Decoder::new(Bytes::from_static(&[9; 64])).fixed::<sattr3>().err(), Some(Malformed));
    }

    #[test]
    fn padding_completes_fours() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
        assert_eq!([0, 1, 4, 5].map(padded), [0, 4, 4, 8]);
    }
}
