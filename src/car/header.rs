//! The header: a value of dag-cbor in its only form, which says the version and, of version 1, the roots.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    Cid, Error, ErrorKind, Result,
    dag::{
        Ipld, cbor,
        wire::{Why, put_varint},
    },
};

/// The longest header that is read, in bytes.
pub const HEADER_LEN_MAX: usize = 1 << 20;
/// The most roots of a CAR.
pub const ROOT_COUNT_MAX: usize = 1000;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Header {
    /// `CARv1`: its roots.
    V1(Vec<Cid>),
    /// The pragma of a `CARv2`.
    V2,
}

impl Header {
    /// Reads a header, without the length before it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: Why| Error::new(kind, "car.header").because(why);
        let Ipld::Map(mut entries) = cbor::decode(bytes)? else {
            return Err(refuse(ErrorKind::Corrupt, "a header is a map"));
        };
        let (version, roots) = (entries.remove("version"), entries.remove("roots"));
        if !entries.is_empty() {
            return Err(refuse(ErrorKind::Corrupt, "a header has roots and version and nothing else"));
        }
        match (version, roots) {
            (Some(Ipld::Integer(1)), Some(Ipld::List(roots))) => {
                if roots.len() > ROOT_COUNT_MAX {
                    return Err(refuse(ErrorKind::TooLarge, "a CAR has at most 1000 roots"));
                }
                let root = |root| match root {
                    Ipld::Link(cid) => Ok(*cid),
                    _ => Err(refuse(ErrorKind::Corrupt, "a root is a link")),
                };
                roots.into_iter().map(root).collect::<Result<_>>().map(Self::V1)
            }
            (Some(Ipld::Integer(1)), _) => Err(refuse(ErrorKind::Corrupt, "the header of a CARv1 has a list of roots")),
            (Some(Ipld::Integer(2)), None) => Ok(Self::V2),
            (Some(Ipld::Integer(2)), Some(_)) => {
                Err(refuse(ErrorKind::Corrupt, "a CARv2 begins with its version alone"))
            }
            (Some(Ipld::Integer(version)), _) => Err(Error::new(ErrorKind::Unsupported, "car.header")
                .because(format!("the version is {version}; MuxFS reads CARs of version 1 and 2"))),
            _ => Err(refuse(ErrorKind::Corrupt, "a header has a version, which is a number")),
        }
    }
}

/// The header of a `CARv1`, its length before it.
///
/// # Errors
/// `TooLarge` past [`ROOT_COUNT_MAX`].
pub(super) fn encode(roots: &[Cid]) -> Result<Bytes> {
    if roots.len() > ROOT_COUNT_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "car.header").because("a CAR has at most 1000 roots"));
    }
    let roots = Ipld::List(roots.iter().copied().map(Ipld::from).collect());
    let entries = [("roots".to_owned(), roots), ("version".to_owned(), Ipld::Integer(1))];
    let header = cbor::encode(&Ipld::Map(BTreeMap::from(entries)))?;
    let mut bytes = Vec::with_capacity(header.len() + 3);
    put_varint(&mut bytes, header.len() as u64);
    bytes.extend_from_slice(&header);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codec, cid_of};

    #[test]
    fn headers_round_trip() {
        let cid = cid_of(Codec::Raw, b"x");
        for count in [0, 1, 2, ROOT_COUNT_MAX] {
            let bytes = encode(&vec![cid; count]).expect("few enough");
            let mut rest = &bytes[..];
            let body = crate::dag::wire::take_bytes(&mut rest, true).expect("a length");
            assert_eq!(Header::decode(body).expect("a header"), Header::V1(vec![cid; count]));
            assert!(rest.is_empty() && body.len() <= HEADER_LEN_MAX);
        }
        assert_eq!(encode(&vec![cid; ROOT_COUNT_MAX + 1]).expect_err("too many").kind(), ErrorKind::TooLarge);
        assert_eq!(encode(&[]).expect("none"), &b"\x11\xa2eroots\x80gversion\x01"[..]);
        assert_eq!(Header::decode(b"\xa1gversion\x02").expect("a pragma"), Header::V2);
    }

    #[test]
    fn headers_that_are_refused() {
        let cases: [(&str, &[u8], ErrorKind); 11] = [
            ("nothing", b"", ErrorKind::Corrupt),
            ("no map", b"\x80", ErrorKind::Corrupt),
            ("no version", b"\xa1eroots\x80", ErrorKind::Corrupt),
            ("a version that is text", b"\xa2eroots\x80gversiona1", ErrorKind::Corrupt),
            ("version 1 without roots", b"\xa1gversion\x01", ErrorKind::Corrupt),
            ("roots that are no list", b"\xa2eroots\x01gversion\x01", ErrorKind::Corrupt),
            ("a root that is no link", b"\xa2eroots\x81\x01gversion\x01", ErrorKind::Corrupt),
            ("another key", b"\xa3amaxeroots\x80gversion\x01", ErrorKind::Corrupt),
            ("version 2 with roots", b"\xa2eroots\x80gversion\x02", ErrorKind::Corrupt),
            ("version 42", b"\xa1gversion\x18\x2a", ErrorKind::Unsupported),
            ("bytes behind it", b"\xa1gversion\x02\x00", ErrorKind::Corrupt),
        ];
        for (what, bytes, kind) in cases {
            assert_eq!(Header::decode(bytes).expect_err(what).kind(), kind, "{what}");
        }
    }
}
