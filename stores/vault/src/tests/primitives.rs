//! Known answers: what is sealed and derived is what the standards say, so that other programs can read it.

use super::*;
use crate::{
    cipher::ObjectKey,
    cut::{Cutter, PieceLens},
    keys::{Keys, PackName, derive},
    secret::Secret,
};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).expect("text"), 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    let two = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).expect("below 16"));
    bytes.iter().flat_map(two).collect()
}

/// From the tests of the reference implementation, version 0x13.
#[test]
fn argon2id() {
    let derived =
        |memory_kib, passes, lanes| hex(&*Cost { memory_kib, passes, lanes }.derive(b"password", b"somesalt"));
    assert_eq!(derived(65536, 2, 1), "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    assert_eq!(derived(256, 2, 1), "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
}

/// RFC 5869, test case 1.
#[test]
fn hkdf_sha_256() {
    let hkdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&unhex("000102030405060708090a0b0c")), &[0x0b; 22]);
    let mut okm = [0; 42];
    hkdf.expand(&unhex("f0f1f2f3f4f5f6f7f8f9"), &mut okm).expect("not too long");
    let known = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(hex(&okm), known);
}

/// Test case 14 of the GCM specification.
#[test]
fn aes_256_gcm() {
    let mut bytes = [0; 16];
    let tag = ObjectKey::new(Cipher::Aes256Gcm, &[0; 32]).seal(0, &[], &mut bytes);
    assert_eq!(hex(&bytes), "cea7403d4d606b6e074ec5d3baf39d18");
    assert_eq!(hex(&tag), "d0d1c8a799996bf0265b98b5d48ab919");
}

/// draft-irtf-cfrg-xchacha-03, A.3.1.
#[test]
fn xchacha20_poly1305() {
    use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305};
    let key: [u8; 32] = std::array::from_fn(|n| 0x80 + u8::try_from(n).expect("short"));
    let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + u8::try_from(n).expect("short"));
    let mut bytes = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                      sunscreen would be it."
        .to_vec();
    let bound_to = unhex("50515253c0c1c2c3c4c5c6c7");
    let cipher = XChaCha20Poly1305::new(&key.into());
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &bound_to, bytes.as_mut_slice().into()).expect("short");
    assert_eq!(
        hex(&bytes),
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216c\
         b96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e"
    );
    assert_eq!(hex(&tag), "c0875924c1c7987947deafd8780acf49");
}

/// The official vectors of BLAKE3, keyed, of no input.
#[test]
fn keyed_blake3() {
    let mut hash = [0; 32];
    muxfs::SecretKey::new(*b"whats the Elvish word for friend").derive(&[], &mut hash);
    assert_eq!(hex(&hash), "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26");
}

/// What is made of a master key, computed by other means (HMAC-SHA-256 of Python): for ever, since vaults depend on it.
#[test]
fn keys_are_those_of_the_format() {
    let mut key = [0; 32];
    derive(&[7; 32], b"packs", &mut key);
    assert_eq!(hex(&key), "4360266a13a68c61d612f8257f9cc5692cbe8235ad0aa8536ad9082b26dbb50f");
    let mut pack = [0; 32];
    derive(&key, &[9; 24], &mut pack);
    let keys = Keys::new(Cipher::Aes256Gcm, Secret::new(&[7; 32]));
    let (mut one, mut other) = (*b"some bytes", *b"some bytes");
    let tags = [
        keys.pack(&PackName([9; 24])).seal(5, &[], &mut one),
        ObjectKey::new(Cipher::Aes256Gcm, &pack).seal(5, &[], &mut other),
    ];
    assert_eq!((one, tags[0]), (other, tags[1]));
    assert_eq!(hex(&pack), "78167e8696a605e6099c7dee375dc93f0a1891b4b74e8480d85c222fbeee68f5");
    let gear = Secret::new(&[7; 32]).gear();
    assert_eq!(format!("{:016x} {:016x}", gear[0], gear[255]), "441e1d42f010dc41 bd25417d1cd96af1");
    derive(&[7; 32], b"names of pieces", &mut key);
    assert_eq!(hex(&key), "6125c2c5eca36c5df349f019c9b2493e11980823a6ec54e24819ee6efe3a0415");
}

/// Cuts are a part of the format only in so far as pieces come again; these say when they no more do.
#[test]
fn cuts_stay_where_they_are() {
    let cutter = Cutter::new(Secret::new(&[7; 32]).gear(), PieceLens::of_packs(PACK_LEN_MIN));
    let mut state = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(60_000)
    .collect();
    let cuts: Vec<usize> = cutter.cut(&bytes).map(|piece| piece.end).collect();
    assert_eq!(
        cuts,
        [4275, 11_185, 15_294, 19_851, 24_450, 28_823, 33_360, 39_876, 41_573, 46_921, 50_970, 56_016, 60_000]
    );
}
