//! The protobuf wire format, as far as dag-pb and `UnixFS` use it: varints, lengths and the fields they frame.
//!
//! Sits under [`pb`](super::pb), which is strict (a block has one encoding), and [`unixfs`](super::unixfs), which skips
//! fields it does not know, as every reader in the field does. Nothing is allocated for a length that is only claimed.

/// Why bytes are not what they should be: a sentence for the error's cause.
pub(crate) type Why = &'static str;

/// Takes a varint of at most 64 bits off the front. A `strict` one has no more bytes than it needs.
pub(crate) fn take_varint(rest: &mut &[u8], strict: bool) -> Result<u64, Why> {
    let mut value = 0;
    for index in 0..10u32 {
        let (byte, tail) = rest.split_first().ok_or("a varint is cut off")?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return Err("a varint has more than 64 bits");
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return if strict && *byte == 0 && index > 0 {
                Err("a varint is longer than it needs to be")
            } else {
                Ok(value)
            };
        }
    }
    Err("a varint has more than 10 bytes")
}

/// Takes bytes, their length before them, off the front.
pub(crate) fn take_bytes<'a>(rest: &mut &'a [u8], strict: bool) -> Result<&'a [u8], Why> {
    let len = usize::try_from(take_varint(rest, strict)?).map_err(|_| "a length is past the end")?;
    let (bytes, tail) = rest.split_at_checked(len).ok_or("a length is past the end")?;
    *rest = tail;
    Ok(bytes)
}

/// The value of a field, by its wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1; nothing here uses its bits.
    Fixed64,
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// Takes the next field off the front, whatever it is: its number and value. `None` at the end.
pub(crate) fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, Why> {
    if rest.is_empty() {
        return Ok(None);
    }
    let key = take_varint(rest, false)?;
    let value = match key & 7 {
        0 => Value::Varint(take_varint(rest, false)?),
        1 => {
            let (_, tail) = rest.split_at_checked(8).ok_or("a fixed field is cut off")?;
            *rest = tail;
            Value::Fixed64
        }
        2 => Value::Bytes(take_bytes(rest, false)?),
        5 => {
            let (bits, tail) = rest.split_first_chunk::<4>().ok_or("a fixed field is cut off")?;
            *rest = tail;
            Value::Fixed32(u32::from_le_bytes(*bits))
        }
        _ => return Err("a field has a wire type that is not used"),
    };
    if key >> 3 == 0 {
        return Err("a field has the number 0");
    }
    Ok(Some((key >> 3, value)))
}

/// How many bytes a varint takes: 1 to 10.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Appends a varint.
pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push((value & 0x7f) as u8);
}

/// Appends a field of wire type 0.
pub(crate) fn put_number(to: &mut Vec<u8>, field: u8, value: u64) {
    to.push(field << 3);
    put_varint(to, value);
}

/// Appends the key and length of a field of wire type 2; its bytes are the caller's.
pub(crate) fn put_len(to: &mut Vec<u8>, field: u8, len: usize) {
    to.push(field << 3 | 2);
    put_varint(to, len as u64);
}

/// Appends a field of wire type 2.
pub(crate) fn put_bytes(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_len(to, field, bytes.len());
    to.extend_from_slice(bytes);
}

/// How many bytes a field of wire type 2 takes, its number being below 16.
pub(crate) fn bytes_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn varints_that_are_refused() {
        let eleven = [0xff; 11];
        let cases: [&[u8]; 5] = [b"", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", b"\x80\x00", &eleven];
        for bytes in cases {
            assert!(take_varint(&mut &*bytes, true).is_err(), "{}", bytes.escape_ascii());
        }
        assert_eq!(take_varint(&mut b"\x80\x00".as_slice(), false), Ok(0), "one who is not strict takes a long zero");
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, shift in 0..64u32) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take_varint(&mut rest, true), Ok(value));
            prop_assert!(rest.is_empty());
        }

        /// A claimed length is never more than what is there.
        #[test]
        fn fields_end(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(_)) = take_field(&mut rest) {}
        }
    }
}
