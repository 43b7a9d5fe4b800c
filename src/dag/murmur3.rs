//! murmur3-x64-64: the first half of `MurmurHash3_x64_128` with seed 0, the order of every directory.
//!
//! A HAMT takes the bits of the hash from the top, so its own order is that of these numbers; basic directories and
//! journals are listed in the same order, and a directory cookie is made of it. Not a cryptographic hash: names that
//! collide can be made on purpose, and those who sort by it must have an answer to that.

/// The hash of a name. As eight bytes it is written big-endian.
///
/// ```
/// use muxfs::dag::murmur3_x64_64;
/// assert_eq!(murmur3_x64_64(b"470.txt"), 0x006e_88df_5847_e67c);
/// ```
pub fn murmur3_x64_64(bytes: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
    let (k1, k2) = halves(&last);
    let len = bytes.len() as u64;
    h1 ^= mix1(k1) ^ len;
    h2 ^= mix2(k2) ^ len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    avalanche(h1).wrapping_add(avalanche(h2))
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

fn halves(block: &[u8; 16]) -> (u64, u64) {
    let half = |at| block.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (half(0), half(8))
}

fn mix1(k1: u64) -> u64 {
    k1.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix2(k2: u64) -> u64 {
    k2.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn avalanche(mut h: u64) -> u64 {
    h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of an independent implementation: every length of tail, and more than one block.
    #[test]
    fn vectors() {
        let long = [b'n'; 255];
        let cases: [(&[u8], u64); 11] = [
            (b"", 0),
            (b"a", 0x8555_5565_f659_7889),
            (b"470.txt", 0x006e_88df_5847_e67c),
            (b"742.txt", 0x00ff_87d1_29ae_5428),
            (b"file-00000.txt", 0x1969_8b1c_0fa7_3e79),
            (&[b'x'; 15], 0x1cfd_62ba_c822_c29a),
            (&[b'x'; 16], 0x68cc_bbac_d925_43dd),
            (&[b'x'; 17], 0xe298_65ce_a229_de93),
            ("日本語.txt".as_bytes(), 0x310c_1116_e660_91ab),
            ("🦀".as_bytes(), 0x5f39_94fb_8507_3a80),
            (&long, 0x6059_f3fd_f137_3b01),
        ];
        for (name, hash) in cases {
            assert_eq!(murmur3_x64_64(name), hash, "{}", name.escape_ascii());
        }
    }
}
