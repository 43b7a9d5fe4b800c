//! CIDs against the published strings, hashes against independent implementations, and both against any bytes.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The strings that must be read and those that must not; made by an independent builder.
fn vectors() -> Value {
    serde_json::from_str(include_str!("../../spec/vectors/cids.json")).expect("the vectors are JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn unhex(text: &str) -> Vec<u8> {
    Base::Base16Lower.decode(text).expect("base16")
}

#[test]
fn every_string_to_accept_is_read_as_it_was_meant() {
    let vectors = vectors();
    let accept = list(&vectors["accept"]);
    assert_eq!(accept.len(), 14);
    for case in accept {
        let cid: Cid = text(&case["string"]).parse().unwrap_or_else(|error| panic!("{case}: {error:#}"));
        assert_eq!(cid.to_string(), text(&case["canonical"]), "{case}");
        assert_eq!(cid.codec_code(), case["codec"].as_u64().expect("a number"), "{case}");
        assert_eq!(cid.hash_code(), case["mh"].as_u64().expect("a number"), "{case}");
        assert_eq!(cid.digest().len() as u64, case["digest_len"].as_u64().expect("a number"), "{case}");
        assert_eq!(Cid::from_bytes(&cid.to_bytes()).expect("its own bytes"), cid, "{case}");
    }
}

#[test]
fn every_string_to_reject_is_refused() {
    let vectors = vectors();
    let reject = list(&vectors["reject"]);
    assert_eq!(reject.len(), 38);
    for case in reject {
        let error = text(&case["string"]).parse::<Cid>().expect_err(text(&case["name"]));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{case}");
        assert!(Cid::parse_in_path(text(&case["string"])).is_err(), "{case}");
    }
}

#[test]
fn one_cid_in_every_base_is_one_cid() {
    let in_paths =
        ["base32", "base32upper", "base36", "base36upper", "base58btc", "base16", "base16upper", "base64url"];
    for (name, forms) in vectors()["forms"].as_object().expect("a map") {
        let cid = Cid::from_bytes(&unhex(text(&forms["bytes"]))).expect(name);
        assert_eq!(cid.to_string(), text(&forms["base32"]));
        for (base, form) in forms.as_object().expect("a map").iter().filter(|(base, _)| *base != "bytes") {
            assert_eq!(text(form).parse::<Cid>().expect(base), cid, "{name} {base}");
            assert_eq!(Cid::parse_in_path(text(form)).is_ok(), in_paths.contains(&base.as_str()), "{name} {base}");
        }
    }
}

#[test]
fn bytes_that_are_refused() {
    let sha = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let cases = [
        ("nothing", String::new()),
        ("version 0, short", format!("1220{}", &sha[2..])),
        ("version 0, long", format!("1220{sha}00")),
        ("version 0 with another length", format!("1214{}", &sha[..40])),
        ("explicit version 0", format!("00701220{sha}")),
        ("reserved version 2", format!("02551220{sha}")),
        ("reserved version 3", format!("03551220{sha}")),
        ("bytes after it", format!("01551220{sha}00")),
        ("digest cut off", format!("01551220{}", &sha[2..])),
        ("version not minimal", format!("8100551220{sha}")),
        ("codec not minimal", format!("01d5001220{sha}")),
        ("codec of ten bytes", format!("01ffffffffffffffffff011220{sha}")),
        ("digest of 2^63 bytes", format!("015512ffffffffffffffff7f{sha}")),
        ("md5, not allowed", format!("0155d50110{}", &sha[..32])),
        ("murmur3, not allowed", "015522080000000000000000".to_owned()),
        ("blake2b-152, too short", format!("015593e40213{}", &sha[..38])),
        ("sha1 with 21 bytes", format!("01551115{}", &sha[..42])),
    ];
    for (name, hex) in cases {
        let error = Cid::from_bytes(&unhex(&hex)).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
    }
}

/// Digests of one sentence by every allowed function, from Python's hashlib, an own Keccak and the b3sum of BLAKE3.
#[test]
fn every_allowed_hash_is_computed() {
    let block = b"The quick brown fox jumps over the lazy dog";
    let cases: [(&str, &str); 22] = [
        ("11", "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"),
        ("12", "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"),
        (
            "13",
            "07e547d9586f6a73f73fbac0435ed76951218fb7d0c8d788a309d785436bbb642e93a252a954f23912547d1e8a3b5ed6e1bfd7097821\
             233fa0538f3db854fee6",
        ),
        (
            "14",
            "01dedd5de4ef14642445ba5f5b97c15e47b9ad931326e4b0727cd94cefc44fff23f07bf543139939b49128caf436dc1bdee54fcb2402\
             3a08d9403f9b4bf0d450",
        ),
        ("15", "7063465e08a93bce31cd89d2e3ca8f602498696e253592ed26f07bf7e703cf328581e1471a7ba7ab119b1a9ebdf8be41"),
        ("16", "69070dda01975c8c120c3aada1b282394e7f032fa9cf32f4cb2259a0897dfc04"),
        ("17", "d15dadceaa4d5d7bb3b48f446421d542e08ad8887305e28d58335795"),
        (
            "19",
            "2f671343d9b2e1604dc9dcf0753e5fe15c7c64a0d283cbbf722d411a0e36f6ca1d01d1369a23539cd80f7c054b6e5daf9c962cad5b8e\
             d5bd11998b40d5734442",
        ),
        (
            "19",
            "2f671343d9b2e1604dc9dcf0753e5fe15c7c64a0d283cbbf722d411a0e36f6ca1d01d1369a23539cd80f7c054b6e5daf9c962cad5b8e\
             d5bd11998b40d5734442bed798f6e5c915bd8bb07e0188d0a55c1290074f1c287af06352299184492cbdec9acba737ee292e5adaa445\
             547355e72a03a3bac3aac770fe5d6b66600ff15d",
        ),
        ("1a", "310aee6b30c47350576ac2873fa89fd190cdc488442f3ef654cf23fe"),
        ("1b", "4d741b6f1eb29cb2a9b9911c82f56fa8d73b04959d3d9d222895df6c0b28aa15"),
        ("1c", "283990fa9d5fb731d786c5bbee94ea4db4910f18c62c03d173fc0a5e494422e8a0b3da7574dae7fa0baf005e504063b3"),
        (
            "1d",
            "d135bb84d0439dbac432247ee573a23ea7d3c9deb2a968eb31d47c4fb45f1ef4422d6c531b5b9bd6f449ebcc449ea94d0a8f05f62130\
             fda612da53c79659f609",
        ),
        ("1e", "2f1514181aadccd913abd94cfa592701a5686ab23f8df1dff1b74710febc6d4a"),
        ("56", "6d37795021e544d82b41850edf7aabab9a0ebe274e54a519840c4666f35b3937"),
        ("94e402", "3c523ed102ab45a37d54f5610d5a983162fde84f"),
        ("a0e402", "01718cec35cd3d796dd00020e0bfecb473ad23457d063b75eff29c0ffa2e58a9"),
        ("a1e402", "1118cf9a841ee21ba342f7b632068e71b4763e720e56a91dbd75de70429281c384"),
        (
            "c0e402",
            "a8add4bdddfd93e4877d2746e62817b116364a1fa7bc148d95090bc7333b3673f82401cf7aa2e4cb1ecd90296e3f14cb5413f8ed77be\
             73045b13914cdcd6a918",
        ),
        ("d4e402", "5a604fec9713c369e84b0ed68daed7d7504ef240"),
        ("dfe402", "d02c79180f114f1c18755c9baf5fdbae36588c85316f3c9d8be224285570aa"),
        ("e0e402", "606beeec743ccbeff6cbcdf5d5302aa855c256c29b88c8ed331ea1a6bf3c8812"),
    ];
    let cid = |code: &str, digest: &[u8]| {
        let len = u8::try_from(digest.len()).expect("a short digest");
        let mut bytes = unhex(&format!("0155{code}"));
        bytes.extend(if len < 128 { vec![len] } else { vec![len, 1] });
        bytes.extend(digest);
        Cid::from_bytes(&bytes).unwrap_or_else(|error| panic!("{code}: {error:#}"))
    };
    for (code, digest) in cases {
        let digest = unhex(digest);
        cid(code, &digest).verify(block).expect(code);
        cid(code, &digest[..20]).verify(block).expect("its beginning is a digest too");
        let error = cid(code, &digest).verify(b"The quick brown fox jumps over the lazy cog").expect_err(code);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{code}");
        let mut flipped = digest;
        flipped[19] ^= 1;
        assert_eq!(cid(code, &flipped).verify(block).expect_err(code).kind(), ErrorKind::Corrupt, "{code}");
    }
}

/// Whatever may stand in a CID is computed: the allow-list and the table are one.
#[test]
fn the_allow_list_is_what_ipfs_allows() {
    let others = [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x56];
    for code in 0..0x1_0000 {
        let blake2 = (0xb214..=0xb240).contains(&code) || (0xb254..=0xb260).contains(&code);
        assert_eq!(hash::find(code).is_some(), blake2 || others.contains(&code), "{code:#x}");
        if let Some(hash) = hash::find(code) {
            let mut digest = [0; hash::DIGEST_LEN_MAX];
            (hash.fill)(b"", &mut digest);
            let (given, rest) = digest.split_at(hash.digest_len_max);
            assert!(given.iter().any(|byte| *byte != 0) && rest.iter().all(|byte| *byte == 0), "{code:#x}");
        }
    }
}

#[test]
fn an_identity_cid_is_its_block() {
    let longest = Cid::from_bytes(&[&[0x01, 0x55, 0x00, 0x80, 0x01][..], &[7; 128]].concat()).expect("128 bytes");
    assert_eq!(longest.identity(), Some(&[7; 128][..]));
    longest.verify(&[7; 128]).expect("its block");
    assert_eq!(longest.verify(&[7; 127]).expect_err("another").kind(), ErrorKind::Corrupt);
    assert_eq!(cid_of(Codec::Raw, b"x").identity(), None);
}

#[test]
fn a_text_that_is_too_long_is_not_decoded() {
    let text = format!("z{}", "2".repeat(1 << 20));
    let error = text.parse::<Cid>().expect_err("too long");
    assert!(format!("{error:#}").contains("at most 299 characters") && format!("{error:#}").len() < 200);
}

/// Any CID that may be, in any version, codec and hash.
pub(crate) fn any_cid() -> impl Strategy<Value = Cid> {
    let v0 = any::<[u8; 32]>().prop_map(Cid::v0_sha256);
    let sha256 = (any::<[u8; 32]>(), 0..CODE_MAX).prop_map(|(digest, codec)| {
        let hash = Multihash::wrap(SHA2_256, &digest).expect("32 bytes fit");
        Cid(CidGeneric::new_v1(codec, hash))
    });
    let identity = proptest::collection::vec(any::<u8>(), 0..=IDENTITY_LEN_MAX).prop_map(|digest| {
        let hash = Multihash::wrap(IDENTITY, &digest).expect("128 bytes fit");
        Cid(CidGeneric::new_v1(Codec::Raw.code(), hash))
    });
    prop_oneof![v0, sha256, identity]
}

proptest! {
    /// Any bytes are either refused or written back as they were.
    #[test]
    fn reading_bytes_is_exact(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
        if let Ok(cid) = Cid::from_bytes(&bytes) {
            prop_assert_eq!(cid.to_bytes(), bytes);
        }
    }

    /// Nearly good bytes too: one CID with one byte changed, taken away or added.
    #[test]
    fn reading_damaged_bytes_is_exact(cid in any_cid(), at in 0..40usize, to in any::<u8>(), how in 0..3) {
        let mut bytes = cid.to_bytes();
        let at = at.min(bytes.len() - 1);
        match how {
            0 => bytes[at] = to,
            1 => { bytes.remove(at); }
            _ => bytes.insert(at, to),
        }
        if let Ok(cid) = Cid::from_bytes(&bytes) {
            prop_assert_eq!(cid.to_bytes(), bytes);
        }
    }

    /// Any text is either refused or, canonical bases apart, what its CID prints in the same base.
    #[test]
    fn parsing_is_exact(text in "([bBcCfFkKmMtTuUvVzQ7]m?)?[0-9A-Za-z+/=_-]{0,60}|.{0,40}") {
        if let Ok(cid) = text.parse::<Cid>() {
            let printed = match cid.version() {
                0 => cid.to_string(),
                _ => multibase::encode(Base::from_code(text.chars().next().expect("a prefix")).expect("a base"), cid.to_bytes()),
            };
            prop_assert_eq!(printed, text);
        }
    }

    /// What is printed parses, in every base, to the same CID.
    #[test]
    fn printing_parses(cid in any_cid(), prefix in "[fFvVtTbBcCkKzuUmM]") {
        prop_assert_eq!(cid.to_string().parse::<Cid>().expect("canonical"), cid);
        let base = base(prefix.chars().next().expect("one")).expect("a base of CIDs");
        let parsed = multibase::encode(base, cid.to_bytes()).parse::<Cid>();
        prop_assert_eq!(parsed.ok(), (cid.version() == 1).then_some(cid), "version 0 takes no prefix");
        prop_assert_eq!(Cid::from_bytes(&cid.to_bytes()).expect("its bytes"), cid);
    }
}
