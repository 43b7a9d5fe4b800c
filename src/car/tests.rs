//! Goal: what is written is read again, and what was damaged is told and named, whatever the damage.
//!
//! Method: CARs of random blocks are cut off at every byte and have every bit flipped; what was read before the damage must
//! be the blocks that were written. Lengths that lie are made by hand.

use std::pin::Pin;

use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};

use super::*;
use crate::{Codec, Error, ErrorKind, cid_of};

/// A CAR, and where each of its sections begins, with its block.
async fn car(roots: &[Cid], blocks: &[(Codec, Vec<u8>)]) -> (Vec<u8>, Vec<Section>) {
    let mut writer = Writer::new(Vec::new(), roots).await.expect("memory");
    let mut sections = Vec::new();
    let mut offset = writer_len(&writer);
    for (codec, block) in blocks {
        let cid = cid_of(*codec, block);
        writer.write(&cid, block).await.expect("memory");
        sections.push(Section { offset, cid, block: Bytes::copy_from_slice(block) });
        offset = writer_len(&writer);
    }
    (writer.finish().await.expect("memory"), sections)
}

fn writer_len(writer: &Writer<Vec<u8>>) -> u64 {
    writer.sink.len() as u64
}

/// The same as a `CARv2`, with padding and an index that is nonsense.
fn v2(car: &[u8], padding: usize) -> Vec<u8> {
    let (start, len) = (51 + padding as u64, car.len() as u64);
    let header = [[0; 16].as_slice(), &start.to_le_bytes(), &len.to_le_bytes(), &(start + len).to_le_bytes()].concat();
    [b"\x0a\xa1gversion\x02".as_slice(), &header, &vec![7; padding], car, b"an index"].concat()
}

/// All sections up to the end or an error.
async fn read(source: impl AsyncRead + Unpin) -> (Vec<Section>, Option<Error>) {
    let mut sections = Vec::new();
    let mut reader = match Reader::open(source).await {
        Ok(reader) => reader,
        Err(error) => return (sections, Some(error)),
    };
    loop {
        match reader.next().await {
            Ok(Some(section)) => sections.push(section),
            Ok(None) => return (sections, None),
            Err(error) => {
                assert_eq!(reader.next().await.expect("over"), None, "it went on after an error");
                return (sections, Some(error));
            }
        }
    }
}

fn some_blocks() -> Vec<(Codec, Vec<u8>)> {
    vec![
        (Codec::Raw, b"one".to_vec()),
        (Codec::DagCbor, vec![0xf6]),
        (Codec::Raw, Vec::new()),
        (Codec::Raw, vec![3; 300]),
    ]
}

#[tokio::test]
async fn both_versions_are_read_and_offsets_are_of_the_file() {
    let blocks = some_blocks();
    let root = cid_of(Codec::DagCbor, &[0xf6]);
    let (bytes, sections) = car(&[root], &blocks).await;
    assert_eq!(read(bytes.as_slice()).await.0, sections);
    for padding in [0, 1, 100_000] {
        let bytes = v2(&bytes, padding);
        let mut reader = Reader::open(bytes.as_slice()).await.expect("a CARv2");
        assert_eq!((reader.version(), reader.roots()), (2, &[root][..]));
        for section in &sections {
            let got = reader.next().await.expect("whole").expect("a section");
            assert_eq!((got.offset, got.cid), (section.offset + 51 + padding as u64, section.cid));
        }
        assert_eq!(reader.next().await.expect("the index is not read"), None);
    }
}

/// Every cut: a prefix of the sections, then the end if the cut is between two, else an error with the place.
#[tokio::test]
async fn every_cut_is_told() {
    let (bytes, sections) = car(&[], &some_blocks()).await;
    let header_len = usize::try_from(sections[0].offset).expect("short");
    for (cut, start) in (0..bytes.len()).flat_map(|cut| [(cut, 0), (cut, 51)]) {
        let whole = if start == 0 { bytes.clone() } else { v2(&bytes, 0) };
        let (got, error) = read(&whole[..start + cut]).await;
        let before = sections.iter().filter(|section| section.offset + section_len(section) <= cut as u64).count();
        assert_eq!(got.len(), before, "cut at {cut}");
        let is_between = cut == header_len || sections.iter().any(|section| section.offset == cut as u64);
        let Some(error) = error else {
            assert!(is_between && start == 0, "the cut at {cut} was not told");
            continue;
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let at = sections.iter().rev().map(|section| section.offset).find(|offset| *offset <= cut as u64).unwrap_or(0);
        assert!(format!("{error:#}").contains(&format!("at byte {}", at + start as u64)), "cut at {cut}: {error:#}");
    }
}

fn section_len(section: &Section) -> u64 {
    (section::head(&section.cid, section.block.len()).len() + section.block.len()) as u64
}

#[tokio::test]
async fn lengths_that_lie_are_refused_at_their_place() {
    let header = b"\x11\xa2eroots\x80gversion\x01".as_slice();
    let long = [header, b"\x81\x82\x80\x01"].concat();
    let cases: [(&str, Vec<u8>, ErrorKind, u64); 10] = [
        ("nothing at all", vec![], ErrorKind::Corrupt, 0),
        ("a header without length", vec![0], ErrorKind::Corrupt, 0),
        ("a header of 2 MiB", b"\x80\x80\x80\x01".to_vec(), ErrorKind::TooLarge, 0),
        ("a header of 2^63", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01".to_vec(), ErrorKind::TooLarge, 0),
        ("a length of 11 bytes", [0xff; 20].to_vec(), ErrorKind::Corrupt, 0),
        ("a length longer than it needs to be", [header, b"\x80\x00"].concat(), ErrorKind::Corrupt, 18),
        ("a section without length", [header, b"\x00\x00\x00"].concat(), ErrorKind::Corrupt, 18),
        ("a section of 2 MiB and 257 bytes", long, ErrorKind::TooLarge, 18),
        ("a section that claims more than there is", [header, b"\xff\x7f\x01"].concat(), ErrorKind::Corrupt, 18),
        ("a section that ends within its CID", [header, b"\x05\x01\x55\x12\x20\x00"].concat(), ErrorKind::Corrupt, 18),
    ];
    for (what, bytes, kind, offset) in cases {
        let error = read(bytes.as_slice()).await.1.expect(what);
        assert_eq!(error.kind(), kind, "{what}: {error:#}");
        assert!(format!("{error:#}").contains(&format!("at byte {offset}: ")), "{what}: {error:#}");
    }
}

#[tokio::test]
async fn headers_of_version_2_that_lie_are_refused() {
    let (bytes, _) = car(&[], &some_blocks()).await;
    let good = v2(&bytes, 0);
    assert!(read(good.as_slice()).await.1.is_none());
    let with = |at: usize, number: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let inner = v2(&v2(&bytes, 0), 0);
    for (what, bytes) in [
        ("data within the header", with(27, 50)),
        ("data far away", with(27, 51 + PADDING_LEN_MAX + 1)),
        ("data at the end of the world", with(27, u64::MAX)),
        ("no data", with(35, 0)),
        ("data past 2^64", with(35, u64::MAX - 50)),
        ("less data than its last section needs", with(35, bytes.len() as u64 - 1)),
        ("less data than its header needs", with(35, 3)),
        ("more data than there is", with(35, good.len() as u64)),
        ("a CARv2 within a CARv2", inner),
    ] {
        assert_eq!(read(bytes.as_slice()).await.1.expect(what).kind(), ErrorKind::Corrupt, "{what}");
    }
}

/// A block that is not its CID's is not handed out, whatever its hash function; one of an identity CID is passed over.
#[tokio::test]
async fn blocks_are_verified_before_they_are_handed_out() {
    let section = |cid: &str, block: &[u8]| {
        let cid: Cid = cid.parse().expect("a CID");
        [section::head(&cid, block.len()), block.to_vec()].concat()
    };
    let header = header::encode(&[]).expect("no roots");
    let good = section("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq", b"hello");
    let identity = section("bafkqabiaaebagba", b"\x00\x01\x02\x03\x04");
    let (sections, error) = read([&header[..], &identity, &good].concat().as_slice()).await;
    assert!(error.is_none() && sections.len() == 1);
    assert_eq!((sections[0].offset, &sections[0].block[..]), (18 + identity.len() as u64, &b"hello"[..]));
    let bad = section("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq", b"hellp");
    let bad_identity = section("bafkqabiaaebagba", b"\x00\x01\x02\x03\x05");
    for bad in [bad, bad_identity] {
        let (sections, error) = read([&header[..], &good, &bad, &good].concat().as_slice()).await;
        let error = error.expect("it does not hash to its CID");
        assert_eq!((sections.len(), error.kind()), (1, ErrorKind::Corrupt));
        assert!(format!("{error:#}").contains(&format!("at byte {}", 18 + good.len())), "{error:#}");
        assert!(error.path().is_some_and(|path| path.starts_with("baf")), "{error:#}");
    }
}

/// Gives one byte at a time, and fails where it would end.
struct Slow<'a>(&'a [u8]);

impl AsyncRead for Slow<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let Some((byte, rest)) = self.0.split_first() else {
            let ours = Error::new(ErrorKind::Unavailable, "test.source");
            return std::task::Poll::Ready(Err(std::io::Error::other(ours)));
        };
        buf.put_slice(&[*byte]);
        self.0 = rest;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_source_that_fails_is_told_with_its_kind_and_the_place() {
    let (bytes, sections) = car(&[], &some_blocks()).await;
    let (got, error) = read(Slow(&bytes)).await;
    assert_eq!(got, sections);
    let error = error.expect("it failed");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:#}").contains(&format!("at byte {}", bytes.len())), "{error:#}");
}

fn any_blocks() -> impl Strategy<Value = Vec<(Codec, Vec<u8>)>> {
    let codec = prop_oneof![Just(Codec::Raw), Just(Codec::DagCbor)];
    proptest::collection::vec((codec, proptest::collection::vec(any::<u8>(), 0..200)), 0..8)
}

proptest! {
    #[test]
    fn what_is_written_is_read(blocks in any_blocks(), padding in proptest::option::of(0..300usize)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (bytes, sections) = car(&[], &blocks).await;
            let bytes = padding.map_or_else(|| bytes.clone(), |padding| v2(&bytes, padding));
            let (got, error) = read(bytes.as_slice()).await;
            prop_assert!(error.is_none());
            let blocks = |sections: Vec<Section>| sections.into_iter().map(|s| (s.cid, s.block)).collect::<Vec<_>>();
            prop_assert_eq!(blocks(got), blocks(sections));
            Ok(())
        })?;
    }

    /// A flipped bit is an error, or it is where no hash looks: in the roots, or in the codec of a CID, which then names
    /// another node with the same bytes.
    #[test]
    fn a_flipped_bit_is_told(blocks in any_blocks(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let root = cid_of(Codec::Raw, b"root");
            let (mut bytes, sections) = car(&[root], &blocks).await;
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let (got, error) = read(bytes.as_slice()).await;
            for (got, written) in got.iter().zip(&sections) {
                prop_assert_eq!((got.offset, got.cid.digest(), &got.block), (written.offset, written.cid.digest(), &written.block));
            }
            prop_assert!(error.is_some() || got.len() == sections.len());
            let changed = got.iter().zip(&sections).filter(|(got, written)| got.cid != written.cid).count();
            let is_in_header = sections.first().is_none_or(|first| (at as u64) < first.offset);
            prop_assert!(error.is_some() || is_in_header || changed == 1, "byte {at} bit {bit}");
            Ok(())
        })?;
    }

    #[test]
    fn noise_is_no_car(bytes in proptest::collection::vec(any::<u8>(), 0..300), v2_len: Option<u64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let header = header::encode(&[]).expect("no roots");
            let mut noise = [&header[..], &bytes].concat();
            if let Some(len) = v2_len {
                noise = v2(&noise, 0);
                noise[35..43].copy_from_slice(&len.to_le_bytes());
            }
            for bytes in [&bytes, &noise] {
                for section in read(bytes.as_slice()).await.0 {
                    prop_assert!(section.cid.verify(&section.block).is_ok());
                }
            }
            Ok(())
        })?;
    }
}
