//! Sections: a CID and its block, their length before them.

use bytes::Bytes;

use crate::{
    Cid, Error, ErrorKind, Result,
    cid::CID_LEN_MAX,
    dag::{
        DAG_BLOCK_LEN_MAX,
        wire::{Why, put_varint, take_bytes, take_varint},
    },
};

/// The longest section, in bytes: the longest block, and room for its CID.
pub const SECTION_LEN_MAX: usize = DAG_BLOCK_LEN_MAX + 256;
const _: () = assert!(SECTION_LEN_MAX - DAG_BLOCK_LEN_MAX >= CID_LEN_MAX);

/// What stands before a block: the length of the section, and the CID.
pub(super) fn head(cid: &Cid, block_len: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut head = Vec::with_capacity(4 + cid.len());
    put_varint(&mut head, (cid.len() + block_len) as u64);
    head.extend_from_slice(&cid);
    head
}

/// Takes the CID off the front of a section; what is left is its block, not verified.
pub(super) fn split(section: &Bytes) -> Result<(Cid, Bytes)> {
    let corrupt = |why: Why| Error::new(ErrorKind::Corrupt, "car.section").because(why);
    let len = cid_len(section).map_err(corrupt)?;
    let cid = section.get(..len).ok_or_else(|| corrupt("a section ends within its CID"))?;
    let cid = Cid::from_bytes(cid).map_err(|error| corrupt("a section does not begin with a CID").because(error))?;
    let block = section.slice(len..);
    if block.len() > DAG_BLOCK_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "car.section").because("a block has at most 2 MiB"));
    }
    Ok((cid, block))
}

/// How long the CID at the front is, in bytes: where its parts end, not whether they are good.
fn cid_len(section: &[u8]) -> Result<usize, Why> {
    const V0: [u8; 2] = [0x12, 0x20];
    if section.starts_with(&V0) {
        return Ok(V0.len() + 32);
    }
    let mut rest = section;
    if take_varint(&mut rest, true)? != 1 {
        return Err("a section does not begin with a CID of version 0 or 1");
    }
    let (_codec, _hash) = (take_varint(&mut rest, true)?, take_varint(&mut rest, true)?);
    take_bytes(&mut rest, true).map_err(|_| "a section ends within its CID")?;
    Ok(section.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cid::tests::any_cid;

    #[test]
    fn sections_that_are_refused() {
        for section in
            [&b""[..], b"\x12\x20short", b"\x00", b"\x02\x55\x00\x00", b"\x01\x55\x00\x05four", b"\x81\x00\x55\x00\x00"]
        {
            let error = split(&Bytes::from_static(section)).expect_err("no CID");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", section.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn sections_round_trip(cid in any_cid(), block in proptest::collection::vec(any::<u8>(), 0..50)) {
            let section = [head(&cid, block.len()), block.clone()].concat();
            let mut rest = section.as_slice();
            let body = take_bytes(&mut rest, true).expect("a length");
            prop_assert!(rest.is_empty());
            prop_assert_eq!(split(&Bytes::copy_from_slice(body)).expect("a section"), (cid, Bytes::from(block)));
        }
    }
}
