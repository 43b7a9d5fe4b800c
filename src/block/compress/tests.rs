//! What a frame is, which are refused, and what they may cost.

use proptest::prelude::*;

use super::*;
use crate::{block::Mem, testing::fault::Dice};

fn key() -> BlockKey {
    BlockKey::new(b"key").expect("a key")
}

/// A frame of these bytes whose header is good.
fn frame(version: u8, method: u8, zero: u16, block_len: u32, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_slice(MAGIC);
    frame.put_slice(&[version, method]);
    frame.put_u16_le(zero);
    frame.put_u32_le(block_len);
    frame.put_u32_le(crc32c::crc32c(&frame));
    frame.put_slice(body);
    frame.freeze()
}

fn kind(frame: &Bytes) -> ErrorKind {
    decode(frame).expect_err("refused").kind()
}

#[test]
fn what_shrinks_is_snappy_and_what_does_not_is_stored() {
    let store = Compress::new(Arc::new(Mem::default()));
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(100);
    for (block, shrinks) in
        [(vec![], false), (b"x".to_vec(), false), (Dice::new(1).bytes(100_000), false), (text, true)]
    {
        let frame = store.encode(&block);
        assert_eq!(frame.len() < block.len() + HEADER_LEN, shrinks, "{} bytes", block.len());
        assert_eq!(Header::decode(&frame).expect("a frame").method == Method::Snappy, shrinks);
        assert_eq!(decode(&frame).expect("its block"), block);
    }
}

/// A frame never takes more than the header besides the block, nor does the buffer of a long block stay for ever.
#[test]
fn a_long_block_leaves_no_long_buffer() {
    let store = Compress::new(Arc::new(Mem::default()));
    assert_eq!(store.encode(&Dice::new(1).bytes(Compress::BLOCK_LEN_MAX)).len(), BLOCK_LEN_MAX);
    assert!(store.scratch.lock().expect("no panic").is_empty());
    store.encode(&Dice::new(1).bytes(1 << 20));
    assert_eq!(store.scratch.lock().expect("no panic").len(), 1);
}

#[test]
fn what_is_no_frame_is_refused() {
    let good = frame(1, 1, 0, 8, &[8, 7 << 2, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(decode(&good).expect("a frame"), &[1, 2, 3, 4, 5, 6, 7, 8][..]);
    let cases: &[(&str, Bytes, ErrorKind)] = &[
        ("nothing", Bytes::new(), ErrorKind::Corrupt),
        ("half a header", good.slice(..HEADER_LEN - 1), ErrorKind::Corrupt),
        ("no body", good.slice(..HEADER_LEN), ErrorKind::Corrupt),
        ("a newer version", frame(2, 9, 7, 8, b"whatever"), ErrorKind::Unsupported),
        ("version 0", frame(0, 0, 0, 8, b"whatever"), ErrorKind::Corrupt),
        ("an unknown method", frame(1, 2, 0, 8, b"whatever"), ErrorKind::Corrupt),
        ("zeros that are none", frame(1, 0, 1, 8, b"whatever"), ErrorKind::Corrupt),
        ("stored, too short", frame(1, 0, 0, 9, b"whatever"), ErrorKind::Corrupt),
        ("stored, too long", frame(1, 0, 0, 7, b"whatever"), ErrorKind::Corrupt),
        ("another length than snappy says", frame(1, 1, 0, 7, &good[HEADER_LEN..]), ErrorKind::Corrupt),
        ("snappy cut off", frame(1, 1, 0, 8, &good[HEADER_LEN..HEADER_LEN + 5]), ErrorKind::Corrupt),
        ("a copy of what is before the block", frame(1, 1, 0, 8, &[8, 1, 1]), ErrorKind::Corrupt),
    ];
    for (what, frame, refused) in cases {
        assert_eq!(kind(frame), *refused, "{what}");
    }
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(kind(&bytes.into()), ErrorKind::Corrupt, "bit {bit} of the header");
    }
}

/// Whatever a frame claims, the memory for it is bounded by what came: no more than snappy can make of so much.
#[test]
fn a_frame_that_claims_too_much_gets_no_memory() {
    let longest = u32::try_from(Compress::BLOCK_LEN_MAX).expect("small");
    for block_len in [1000, longest, longest + 1, u32::MAX] {
        let mut body = Vec::new();
        let mut left = block_len;
        while left >= 0x80 {
            body.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        body.push(u8::try_from(left).expect("seven bits"));
        let refused = decode(&frame(1, 1, 0, block_len, &body)).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(!format!("{refused:#}").contains("damaged"), "it was not even tried: {refused:#}");
    }
}

#[test]
fn the_most_that_snappy_makes_of_little_is_taken() {
    let store = Compress::new(Arc::new(Mem::default()));
    for len in [64, 1000, 65_536, 1 << 20, Compress::BLOCK_LEN_MAX] {
        let frame = store.encode(&vec![0; len]);
        assert!(frame.len() < len / 15 + 100, "{len} zeros are {} bytes", frame.len());
        assert!(decode(&frame).expect("its block") == vec![0; len]);
    }
}

/// The header tells the length: what is behind it is not read for that, and need not even be there.
#[tokio::test]
async fn a_length_is_read_from_the_header() {
    let inner = Arc::new(Mem::default());
    let store = Compress::new(inner.clone());
    inner.put(&key(), store.encode(&[7; 5000]).slice(..HEADER_LEN)).await.expect("put");
    assert_eq!(store.block_len(&key()).await.expect("block_len"), Some(5000));
    assert_eq!(store.get(&key()).await.expect_err("the rest is missing").kind(), ErrorKind::Corrupt);
}

/// A store below keeps what it has: once it was found to be no frame, a put replaces it.
#[tokio::test]
async fn a_put_replaces_what_was_found_to_be_bad() {
    let inner = Arc::new(Mem::default());
    let store = Compress::new(inner.clone());
    inner.put(&key(), "no frame".into()).await.expect("put");
    assert_eq!(store.get(&key()).await.expect_err("no frame").kind(), ErrorKind::Corrupt);
    store.put(&key(), "block".into()).await.expect("put");
    assert_eq!(store.get(&key()).await.expect("get"), Some("block".into()));
    store.put(&key(), "other".into()).await.expect("put");
    assert_eq!(store.get(&key()).await.expect("get"), Some("block".into()), "what is good is kept");
}

proptest! {
    /// Any bytes behind a good header, or none, are a block of the length they claim or are refused.
    #[test]
    fn any_bytes_decode_or_are_refused(
        body in proptest::collection::vec(any::<u8>(), 0..200), method in 0..3u8, len in 0..3000u32, good in any::<bool>(),
    ) {
        let bytes = if good { frame(1, method, 0, len, &body) } else { body.into() };
        if let Ok(block) = decode(&bytes) {
            prop_assert!(good && block.len() == len as usize);
        }
    }

    #[test]
    fn every_block_comes_back(part in proptest::collection::vec(any::<u8>(), 0..100), count in 0..2000usize) {
        let store = Compress::new(Arc::new(Mem::default()));
        let block = part.repeat(count);
        let frame = store.encode(&block);
        prop_assert!(frame.len() <= block.len() + HEADER_LEN);
        prop_assert_eq!(decode(&frame).expect("a frame"), block);
    }
}
