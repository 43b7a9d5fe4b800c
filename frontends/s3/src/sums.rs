//! Checksums: what a request says that its bytes have, what they have, and those of objects in parts.
//!
//! They are verified while the bytes come, kept, and given back. Where nothing is asked for a CRC-64 is kept, as AWS does.
//! The checksum of an object in parts is one of the checksums of its parts, or one of all bytes, which for a CRC follows
//! from those of the parts and their lengths.

use bytes::Bytes;
use multibase::Base;
use muxfs::Result;
use s3s::{
    S3ErrorCode, TrailingHeaders,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256},
};

use crate::{
    failure::{S3Result, refuse},
    hashers::Hashers,
    md5::Md5,
    record::Sums,
};

/// A kind of checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

use Algorithm::{Crc32 as A32, Crc32c as A32c, Crc64Nvme as A64, Sha1 as ASha1, Sha256 as ASha256};

pub(crate) const ALL: [Algorithm; 5] = [A32, A32c, A64, ASha1, ASha256];

impl Algorithm {
    /// As S3 calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            A32 => "CRC32",
            A32c => "CRC32C",
            A64 => "CRC64NVME",
            ASha1 => "SHA1",
            ASha256 => "SHA256",
        }
    }

    /// By its name, in capitals or not.
    pub(crate) fn parse(name: &str) -> S3Result<Self> {
        match ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name)) {
            Some(algorithm) => Ok(algorithm),
            None => refuse(S3ErrorCode::InvalidRequest, "There is no checksum of this name."),
        }
    }

    /// The header that carries it.
    fn header(self) -> String {
        format!("x-amz-checksum-{}", self.name().to_ascii_lowercase())
    }

    pub(crate) fn of(self, sums: &Sums) -> Option<&String> {
        match self {
            A32 => sums.crc32.as_ref(),
            A32c => sums.crc32c.as_ref(),
            A64 => sums.crc64nvme.as_ref(),
            ASha1 => sums.sha1.as_ref(),
            ASha256 => sums.sha256.as_ref(),
        }
    }

    fn set(self, sums: &mut Sums, value: String) {
        let value = Some(value);
        match self {
            A32 => sums.crc32 = value,
            A32c => sums.crc32c = value,
            A64 => sums.crc64nvme = value,
            ASha1 => sums.sha1 = value,
            ASha256 => sums.sha256 = value,
        }
    }

    /// The reversed polynomial and the width in bits of a CRC.
    fn polynomial(self) -> Option<(u64, u32)> {
        match self {
            A32 => Some((0xedb8_8320, 32)),
            A32c => Some((0x82f6_3b78, 32)),
            A64 => Some((0x9a6c_9329_ac4b_c9b5, 64)),
            ASha1 | ASha256 => None,
        }
    }

    /// Whether the checksum of an object in parts is one of the checksums of the parts, where nobody says.
    pub(crate) fn is_composite_by_itself(self) -> bool {
        self != A64
    }
}

/// What a request says of its bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claimed {
    /// Their MD5 in Base64.
    pub(crate) md5: Option<String>,
    pub(crate) sums: Sums,
    /// What comes behind the bytes.
    pub(crate) trailers: Option<TrailingHeaders>,
    /// What is to be computed although nothing is said of it.
    pub(crate) algorithm: Option<Algorithm>,
}

/// Hashes what comes.
pub(crate) struct Hashing {
    md5: Md5,
    sums: ChecksumHasher,
}

/// The hashes of all bytes.
#[derive(Debug, Clone)]
pub(crate) struct Hashed {
    pub(crate) md5: [u8; 16],
    pub(crate) sums: Sums,
}

impl Hashing {
    /// Computes an MD5 and these checksums.
    pub(crate) fn new(algorithms: &[Algorithm]) -> Self {
        let mut sums = ChecksumHasher::default();
        for algorithm in algorithms {
            match algorithm {
                A32 => sums.crc32 = Some(Crc32::new()),
                A32c => sums.crc32c = Some(Crc32c::new()),
                A64 => sums.crc64nvme = Some(Crc64Nvme::new()),
                ASha1 => sums.sha1 = Some(Sha1::new()),
                ASha256 => sums.sha256 = Some(Sha256::new()),
            }
        }
        Self { md5: Md5::new(), sums }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
    }

    /// The same with what hashes several in step.
    pub(crate) async fn give(&mut self, hashers: &Hashers, bytes: Bytes) -> Result<()> {
        self.sums.update(&bytes);
        self.md5 = hashers.update(self.md5.clone(), bytes).await?;
        Ok(())
    }

    pub(crate) fn finish(self) -> Hashed {
        Hashed { md5: self.md5.finish(), sums: self.sums.finalize().into() }
    }
}

impl Claimed {
    /// What is to be computed: what is said or asked for; where that is nothing, a CRC-64.
    pub(crate) fn algorithms(&self, headers: &hyper::HeaderMap) -> Vec<Algorithm> {
        let trailers = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
        let trailers: Vec<_> = trailers.flat_map(|value| value.split(',')).map(str::trim).collect();
        let is_wanted = |algorithm: &Algorithm| {
            algorithm.of(&self.sums).is_some()
                || self.algorithm == Some(*algorithm)
                || trailers.iter().any(|trailer| trailer.eq_ignore_ascii_case(&algorithm.header()))
        };
        let wanted: Vec<_> = ALL.into_iter().filter(is_wanted).collect();
        if wanted.is_empty() { vec![A64] } else { wanted }
    }

    /// Holds what came against what was said of it.
    ///
    /// # Errors
    /// `BadDigest`; `InvalidDigest` for what is no MD5.
    pub(crate) fn check(&self, hashed: &Hashed) -> S3Result<()> {
        if let Some(md5) = &self.md5 {
            let claimed = Base::Base64Pad.decode(md5).ok().filter(|bytes| bytes.len() == hashed.md5.len());
            let Some(claimed) = claimed else {
                return refuse(S3ErrorCode::InvalidDigest, "Content-MD5 is 16 bytes in Base64.");
            };
            if claimed != hashed.md5 {
                return refuse(S3ErrorCode::BadDigest, "The bytes that came do not have this Content-MD5.");
            }
        }
        let trailing = self.trailers.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
        for algorithm in ALL {
            let trailing = trailing.get(algorithm.header()).and_then(|value| value.to_str().ok());
            let claimed = algorithm.of(&self.sums).map(String::as_str).into_iter().chain(trailing);
            for claimed in claimed {
                let Some(found) = algorithm.of(&hashed.sums) else { continue };
                if claimed != found {
                    let why = format!("The {} you specified did not match the calculated checksum.", algorithm.name());
                    return refuse(S3ErrorCode::BadDigest, why);
                }
            }
        }
        Ok(())
    }
}

/// The checksum of an object from those of its parts and their lengths; `None` where one is missing, or where that of all
/// bytes does not follow from them.
pub(crate) fn of_parts(algorithm: Algorithm, is_composite: bool, parts: &[(&Sums, u64)]) -> Option<Sums> {
    let decoded: Option<Vec<_>> =
        parts.iter().map(|(sums, len)| Some((Base::Base64Pad.decode(algorithm.of(sums)?).ok()?, *len))).collect();
    let decoded = decoded?;
    let mut sums = Sums { is_composite, ..Sums::default() };
    if is_composite {
        let mut hashing = Hashing::new(&[algorithm]);
        for (bytes, _) in &decoded {
            hashing.update(bytes);
        }
        let value = format!("{}-{}", algorithm.of(&hashing.finish().sums)?, parts.len());
        algorithm.set(&mut sums, value);
        return Some(sums);
    }
    let (polynomial, width) = algorithm.polynomial()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let joined = decoded.iter().fold(0, |crc, (next, len)| join(crc, number(next), *len, polynomial, width));
    let bytes = joined.to_be_bytes();
    algorithm.set(&mut sums, Base::Base64Pad.encode(&bytes[bytes.len() - width as usize / 8..]));
    Some(sums)
}

/// The CRC of two runs of bytes from that of each and the length of the second: the first moved on by so many zeros.
///
/// Each bit of a register leads to a register after one zero bit; squaring that map doubles the zeros.
fn join(first: u64, second: u64, len: u64, polynomial: u64, width: u32) -> u64 {
    let apply = |map: &[u64], mut register: u64| {
        let mut result = 0;
        for column in map {
            if register & 1 == 1 {
                result ^= column;
            }
            register >>= 1;
        }
        result
    };
    // After one zero bit.
    let mut map: Vec<u64> = (0..width).map(|bit| if bit == 0 { polynomial } else { 1 << (bit - 1) }).collect();
    let (mut register, mut bits) = (first, u128::from(len) * 8);
    while bits > 0 {
        if bits & 1 == 1 {
            register = apply(&map, register);
        }
        bits >>= 1;
        map = map.iter().map(|column| apply(&map, *column)).collect();
    }
    register ^ second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(bytes: &[u8]) -> Hashed {
        let mut hashing = Hashing::new(&ALL);
        hashing.update(bytes);
        hashing.finish()
    }

    #[test]
    fn checksums_are_those_of_their_standards() {
        let hashed = sums_of(b"123456789");
        // The check values of the catalogue of CRCs, in Base64.
        assert_eq!(hashed.sums.crc32.as_deref(), Some("y/Q5Jg=="));
        assert_eq!(hashed.sums.crc32c.as_deref(), Some("4waSgw=="));
        assert_eq!(hashed.sums.crc64nvme.as_deref(), Some("rosUhgp5mIg="));
        assert_eq!(hashed.sums.sha1.as_deref(), Some("98O8HYCOBHMq32eZZczDTKeuNEE="));
        assert_eq!(Base::Base64Pad.encode(hashed.md5), "JfnnlDI7RTiF9RgfG2JNCw==");
    }

    #[test]
    fn the_crc_of_the_whole_follows_from_those_of_the_parts() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| u8::try_from(number * 7 % 251).expect("small")).collect();
        let whole = sums_of(&bytes).sums;
        for cut in [0, 1, 5000, 9999, 10_000] {
            let (one, two) = bytes.split_at(cut);
            let (one, two) = (sums_of(one).sums, sums_of(two).sums);
            let parts = [(&one, cut as u64), (&two, (bytes.len() - cut) as u64)];
            for algorithm in [A32, A32c, A64] {
                let joined = of_parts(algorithm, false, &parts).expect("a CRC");
                assert_eq!(algorithm.of(&joined), algorithm.of(&whole), "{algorithm:?} at {cut}");
            }
            assert_eq!(of_parts(ASha256, false, &parts), None);
            let composite = of_parts(ASha256, true, &parts).expect("of two");
            assert!(composite.is_composite && composite.sha256.is_some_and(|sum| sum.ends_with("-2")));
        }
    }

    #[test]
    fn what_is_said_is_held_against_what_came() {
        let hashed = sums_of(b"123456789");
        let claim = |md5: Option<&str>, crc32: Option<&str>| {
            let sums = Sums { crc32: crc32.map(Into::into), ..Sums::default() };
            Claimed { md5: md5.map(Into::into), sums, ..Claimed::default() }.check(&hashed)
        };
        claim(Some("JfnnlDI7RTiF9RgfG2JNCw=="), Some("y/Q5Jg==")).expect("right");
        for (md5, crc32, code) in [
            (Some("JfnnlDI7RTiF9RgfG2JNDA=="), None, S3ErrorCode::BadDigest),
            (Some("JfntHWvb"), None, S3ErrorCode::InvalidDigest),
            (Some("!"), None, S3ErrorCode::InvalidDigest),
            (None, Some("y/Q5Jw=="), S3ErrorCode::BadDigest),
            (None, Some("bad"), S3ErrorCode::BadDigest),
        ] {
            assert_eq!(*claim(md5, crc32).expect_err("wrong").code(), code, "{md5:?} {crc32:?}");
        }
    }
}
