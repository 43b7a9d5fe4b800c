//! What a sealed file gives back, and what it finds out.

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use proptest::prelude::*;
use serde_json::Value;

use super::{format::*, *};
use crate::{
    File, FileInfo, FileKind, Name,
    dag::Ipld,
    testing::{Clock, fault::Dice},
};

/// How long a header is.
const FRONT: usize = HEADER_LEN as usize;

fn key() -> SecretKey {
    SecretKey::new([42; 32])
}

/// A file in memory.
#[derive(Debug)]
struct Held {
    info: FileInfo,
    bytes: Bytes,
}

#[async_trait::async_trait]
impl File for Held {
    fn info(&self) -> &FileInfo {
        &self.info
    }

    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        Ok(crate::cas::slice(&self.bytes, offset, len))
    }

    async fn linked_data(&self) -> Result<Option<Ipld>> {
        Ok(None)
    }
}

fn held(kind: FileKind, bytes: &[u8]) -> Box<dyn File> {
    let name = Name::new(b"held").expect("a name");
    let info = FileInfo { name, kind, size: bytes.len() as u64, mode: 0o644, mtime: None, cid: None };
    Box::new(Held { info, bytes: Bytes::copy_from_slice(bytes) })
}

async fn sealed(plain: &[u8], seed: u64) -> Vec<u8> {
    let source = stream::iter([Ok::<_, Error>(Bytes::copy_from_slice(plain))]);
    let pieces: Vec<Bytes> = seal(&key(), &Clock::default().env(seed), source).try_collect().await.expect("sealed");
    pieces.concat()
}

/// What it is when it is read anywhere.
async fn read(sealed: &[u8]) -> Result<Vec<u8>> {
    let file = open(&key(), held(FileKind::File, sealed)).await?;
    let read = file.read_at(0, u32::MAX).await?;
    assert_eq!(read.len() as u64, file.info().size, "all that it says there is");
    Ok(read.to_vec())
}

/// What it is when it is read from its beginning to its end, in pieces of so many bytes.
async fn streamed(sealed: &[u8], piece_len: usize) -> Result<Vec<u8>> {
    let pieces = sealed.chunks(piece_len).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
    let plain: Vec<Bytes> = unseal(&key(), stream::iter(pieces)).try_collect().await?;
    Ok(plain.concat())
}

/// That both ways of reading refuse it as `Corrupt`.
async fn assert_corrupt(sealed: &[u8], what: &str) {
    assert_eq!(read(sealed).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}, read anywhere");
    assert_eq!(streamed(sealed, 9_999).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}, read as it comes");
}

/// Made by a program of another language after the spec.
#[tokio::test]
async fn vectors() {
    let vectors: Value = serde_json::from_str(include_str!("../../spec/vectors/sealed-files.json")).expect("JSON");
    let bytes = |value: &Value| -> Vec<u8> {
        let text = value.as_str().expect("hex").as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit");
        text.chunks(2).map(|pair| u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).expect("a byte")).collect()
    };
    for vector in vectors["files"].as_array().expect("a list") {
        let len = vector["length"].as_u64().expect("a length");
        let plain: Vec<u8> = (0..len).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect();
        let key = SecretKey::new(bytes(&vector["key"]).try_into().expect("32 bytes"));
        let salt = bytes(&vector["salt"]).try_into().expect("16 bytes");
        let (cipher, header) = FileCipher::salted(&key, salt);
        let mut whole = header.to_vec();
        let segments: Vec<&[u8]> = if plain.is_empty() { vec![&[]] } else { plain.chunks(SEGMENT_LEN).collect() };
        for (index, segment) in segments.iter().enumerate() {
            whole.extend(cipher.seal(index as u64, index + 1 == segments.len(), (*segment).into()));
        }
        assert_eq!(blake3::hash(&whole).as_bytes().to_vec(), bytes(&vector["blake3"]), "{len} bytes");
        assert_eq!(whole[..whole.len().min(160)], bytes(&vector["begins"]), "{len} bytes");
        let file = open(&key, held(FileKind::File, &whole)).await.expect("opens");
        assert_eq!(file.read_at(0, u32::MAX).await.expect("read"), plain);
    }
}

#[tokio::test]
async fn lengths_about_the_end_of_a_segment() {
    let plain = Dice::new(1).bytes(3 * SEGMENT_LEN + 1);
    let step = SEGMENT_LEN;
    for len in
        [0, 1, 15, 16, 17, step - 1, step, step + 1, 2 * step - 1, 2 * step, 2 * step + 1, 3 * step, 3 * step + 1]
    {
        let sealed = sealed(&plain[..len], 0).await;
        assert_eq!(plain_len(sealed.len() as u64), Some(len as u64));
        assert_eq!(read(&sealed).await.expect("read"), plain[..len], "{len}");
        assert_eq!(streamed(&sealed, 70_000).await.expect("read"), plain[..len], "{len}");
    }
}

/// Each bit of the header and of the tags, and some of the rest: no change goes unnoticed, none is taken for a wrong
/// key.
#[tokio::test]
async fn a_flipped_bit_is_corrupt() {
    let good = sealed(&Dice::new(2).bytes(2 * SEGMENT_LEN + 100), 0).await;
    let tags = [1, 2].map(|end| FRONT + end * SEALED_SEGMENT_LEN - 16).into_iter().chain([good.len() - 16]);
    let some = (0..good.len()).step_by(9_973);
    for at in (0..FRONT).chain(tags.flat_map(|at| at..at + 16)).chain(some) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert_corrupt(&bad, &format!("a bit of byte {at}")).await;
    }
}

#[tokio::test]
async fn a_cut_file_is_corrupt_wherever_it_was_cut() {
    let good = sealed(&Dice::new(3).bytes(2 * SEGMENT_LEN + 100), 0).await;
    let ends = (0..3).map(|segment| usize::try_from(place(segment)).expect("short"));
    let near = ends.flat_map(|end| end.saturating_sub(2)..end + 20);
    for len in near.chain((0..FRONT).step_by(7)).chain(good.len() - 20..good.len()) {
        assert_corrupt(&good[..len], &format!("cut to {len}")).await;
    }
}

/// Segments of this file and of others under the same key, put anywhere but where they were sealed.
#[tokio::test]
async fn segments_have_one_place_in_one_file() {
    let plain = Dice::new(4).bytes(2 * SEGMENT_LEN + 100);
    let (good, other) = (sealed(&plain, 0).await, sealed(&plain, 1).await);
    assert_ne!(good, other, "a salt is drawn for each");
    let segment = |file: &[u8], index| -> Vec<u8> {
        let at = usize::try_from(place(index)).expect("short");
        file[at..file.len().min(at + SEALED_SEGMENT_LEN)].to_vec()
    };
    let whole = |parts: &[Vec<u8>]| [&good[..FRONT], &parts.concat()].concat();
    let own = |index| segment(&good, index);
    assert_eq!(whole(&[own(0), own(1), own(2)]), good);
    let empty = segment(&sealed(&[], 0).await, 0);
    for (what, bad) in [
        ("swapped", whole(&[own(1), own(0), own(2)])),
        ("left out", whole(&[own(0), own(2)])),
        ("twice", whole(&[own(0), own(0), own(1), own(2)])),
        ("another file's", whole(&[own(0), segment(&other, 1), own(2)])),
        ("another file's end", whole(&[own(0), own(1), segment(&other, 2)])),
        ("another header", [&other[..FRONT], &good[FRONT..]].concat()),
        ("bytes behind it", [&good[..], &[0; 40]].concat()),
        ("itself behind it", [&good[..], &good[FRONT..]].concat()),
        ("an empty segment behind it", whole(&[own(0), own(1), empty])),
    ] {
        assert_corrupt(&bad, what).await;
    }
    // An end that whoever has the key sealed, and no sealing makes.
    let (cipher, header) = FileCipher::salted(&key(), [1; 16]);
    let full = cipher.seal(0, false, plain[..SEGMENT_LEN].into());
    let bad = [&header[..], &full, &cipher.seal(1, true, bytes::BytesMut::new())].concat();
    assert_corrupt(&bad, "an empty last segment").await;
}

#[tokio::test]
async fn another_key_is_told_from_damage() {
    let good = sealed(b"attack at dawn", 0).await;
    let other = SecretKey::new([43; 32]);
    let error = open(&other, held(FileKind::File, &good)).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::BadKey);
    let piece = stream::iter([Ok(Bytes::from(good))]);
    let error = unseal(&other, piece).try_collect::<Vec<_>>().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::BadKey);
}

#[tokio::test]
async fn what_a_newer_version_sealed_is_unsupported() {
    let mut newer = sealed(b"attack at dawn", 0).await;
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..FRONT - 4]).to_le_bytes();
    newer[FRONT - 4..FRONT].copy_from_slice(&crc);
    assert_eq!(read(&newer).await.expect_err("newer").kind(), ErrorKind::Unsupported);
    for (version, at) in [(0, 8), (1, 9), (1, 48)] {
        newer[8] = version;
        newer[at] = u8::from(at != 8);
        let crc = crc32c::crc32c(&newer[..FRONT - 4]).to_le_bytes();
        newer[FRONT - 4..FRONT].copy_from_slice(&crc);
        assert_corrupt(&newer, "a header that no version makes").await;
        newer[at] = 0;
    }
}

#[tokio::test]
async fn only_files_are_sealed() {
    let good = sealed(b"attack at dawn", 0).await;
    for (kind, refusal) in [
        (FileKind::Dir, ErrorKind::IsDir),
        (FileKind::Symlink, ErrorKind::InvalidArgument),
        (FileKind::Fifo, ErrorKind::InvalidArgument),
    ] {
        assert_eq!(open(&key(), held(kind, &good)).await.expect_err("refused").kind(), refusal);
    }
    let linked = Source::LinkedData(Ipld::Map([].into()));
    assert_eq!(source(&key(), linked, &crate::testing::env()).expect_err("refused").kind(), ErrorKind::InvalidArgument);
}

/// The source's own error comes through, and what came before it is no file.
#[tokio::test]
async fn a_source_that_fails() {
    let pieces = [Ok(Bytes::from_static(b"attack")), Err(Error::new(ErrorKind::Unavailable, "the line went dead"))];
    let sealed = seal(&key(), &crate::testing::env(), stream::iter(pieces));
    assert_eq!(sealed.try_collect::<Vec<_>>().await.expect_err("fails").kind(), ErrorKind::Unavailable);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However it comes, and wherever it is read, it is what was sealed.
    #[test]
    fn any_cut_of_the_source_and_any_read(
        len in 0_usize..4 * SEGMENT_LEN,
        cuts in proptest::collection::vec(0_usize..2 * SEGMENT_LEN, 0..6),
        reads in proptest::collection::vec((0_u64..5 * SEGMENT_LEN as u64, 0_u32..300_000), 1..6),
        piece_len in 1_usize..100_000,
    ) {
        let plain = Dice::new(len as u64).bytes(len);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mut rest, mut pieces) = (Bytes::from(plain.clone()), Vec::new());
            for cut in cuts {
                pieces.push(Ok::<_, Error>(rest.split_to(cut.min(rest.len()))));
            }
            pieces.push(Ok(rest));
            let sealed: Vec<Bytes> =
                seal(&key(), &crate::testing::env(), stream::iter(pieces)).try_collect().await.expect("sealed");
            let sealed = sealed.concat();
            prop_assert_eq!(streamed(&sealed, piece_len).await.expect("read"), &plain[..]);
            let file = open(&key(), held(FileKind::File, &sealed)).await.expect("opens");
            for (offset, len) in reads {
                let expected = crate::cas::slice(&Bytes::from(plain.clone()), offset, len);
                prop_assert_eq!(file.read_at(offset, len).await.expect("read"), expected);
            }
            Ok(())
        })?;
    }
}
