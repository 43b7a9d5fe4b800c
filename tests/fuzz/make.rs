//! Valid inputs, and the damage that is done to them.

use bytes::Bytes;
use muxfs::{
    Cid, Codec, cid_of,
    dag::{
        Ipld,
        pb::{PbLink, PbNode},
        unixfs::{UnixfsData, UnixfsTime, UnixfsType},
    },
    testing::fault::Dice,
};

/// Numbers at which something changes: lengths of heads, signs, limits.
const EDGES: [u64; 20] = [
    0,
    1,
    23,
    24,
    127,
    128,
    255,
    256,
    16_383,
    16_384,
    65_535,
    65_536,
    1 << 21,
    u32::MAX as u64,
    1 << 32,
    1 << 53,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

pub(crate) fn number(dice: &mut Dice) -> u64 {
    match dice.roll(3) {
        0 => EDGES[dice.roll(EDGES.len())],
        1 => dice.bits() >> dice.roll(64),
        _ => dice.roll(300) as u64,
    }
}

/// One of the numbers, as so many formats have them.
pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(u8::try_from(number & 127).expect("seven bits") | 128);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
    bytes
}

/// Names and texts, few enough that some are equal.
pub(crate) fn text(dice: &mut Dice) -> String {
    const TEXTS: [&str; 16] = [
        "",
        "/",
        "a",
        "b",
        "aa",
        "bytes",
        "Links",
        "Data",
        "\0",
        "\u{7f}\u{80}",
        "\"\\\n",
        "\u{1f980}",
        "..",
        "index.html",
        "0A",
        "FFname",
    ];
    match dice.roll(4) {
        0 => "x".repeat(dice.roll(300)),
        1 => dice.roll(100).to_string(),
        _ => TEXTS[dice.roll(TEXTS.len())].to_owned(),
    }
}

fn multihash(dice: &mut Dice) -> Vec<u8> {
    let code = match dice.roll(6) {
        0 => [0x13, 0x14, 0x1b, 0x1e, 0xb220, 0xb260, 0x11, 0x22][dice.roll(8)],
        1 => 0,
        2 => number(dice),
        _ => 0x12,
    };
    let len = match code {
        0 => dice.roll(132),
        0x13 | 0x14 => 64,
        0x11 => 20,
        _ => [32, 32, 32, 20, 19, 64][dice.roll(6)],
    };
    let digest = dice.bytes(len);
    [varint(code), varint(len as u64), digest].concat()
}

/// The bytes of what is mostly a CID.
pub(crate) fn cid_bytes(dice: &mut Dice) -> Vec<u8> {
    if dice.roll(5) == 0 {
        return [&[0x12, 0x20][..], &dice.bytes(32)].concat();
    }
    let codec = match dice.roll(4) {
        0 => number(dice),
        _ => [0x55, 0x70, 0x71, 0x0129, 0x72][dice.roll(5)],
    };
    [vec![1], varint(codec), multihash(dice)].concat()
}

pub(crate) fn cid(dice: &mut Dice) -> Cid {
    loop {
        if let Ok(cid) = Cid::from_bytes(&cid_bytes(dice)) {
            return cid;
        }
    }
}

/// A value that both codecs can write.
pub(crate) fn ipld(dice: &mut Dice, depth: usize) -> Ipld {
    let kinds = if depth == 0 { 7 } else { 9 };
    match dice.roll(kinds) {
        0 => Ipld::Null,
        1 => Ipld::Bool(dice.roll(2) == 0),
        2 => {
            let number = i128::from(number(dice));
            Ipld::Integer(if dice.roll(2) == 0 { number } else { -1 - number })
        }
        3 => {
            let float = f64::from_bits(dice.bits());
            Ipld::Float(if float.is_finite() { float } else { 0.5 })
        }
        4 => Ipld::String(text(dice)),
        5 => {
            let len = dice.roll(80);
            Ipld::Bytes(dice.bytes(len).into())
        }
        6 => Ipld::from(cid(dice)),
        7 => Ipld::List((0..dice.roll(5)).map(|_| ipld(dice, depth - 1)).collect()),
        _ => Ipld::Map((0..dice.roll(5)).map(|_| (text(dice), ipld(dice, depth - 1))).collect()),
    }
}

/// A message of `UnixFS`, its fields as they should be or as they fall.
pub(crate) fn unixfs(dice: &mut Dice, link_count: usize) -> UnixfsData {
    const KINDS: [UnixfsType; 6] = [
        UnixfsType::Raw,
        UnixfsType::Directory,
        UnixfsType::File,
        UnixfsType::Metadata,
        UnixfsType::Symlink,
        UnixfsType::HamtShard,
    ];
    let kind = KINDS[dice.roll(KINDS.len())];
    let mut data = UnixfsData::new(kind);
    let len = match kind {
        UnixfsType::HamtShard => dice.roll(34),
        _ => dice.roll(100),
    };
    data.data = dice.bytes(len).into();
    if matches!(kind, UnixfsType::File | UnixfsType::Raw) || dice.roll(8) == 0 {
        data.blocksizes = (0..link_count + dice.roll(2)).map(|_| number(dice) % 1000).collect();
        let sum: u64 = data.blocksizes.iter().sum();
        data.filesize = Some(if dice.roll(4) == 0 { number(dice) } else { sum + data.data.len() as u64 });
    }
    if kind == UnixfsType::HamtShard || dice.roll(8) == 0 {
        data.hash_type = Some(if dice.roll(8) == 0 { number(dice) } else { 0x22 });
        data.fanout = Some([256, 256, 8, 16, 1024, number(dice)][dice.roll(6)]);
    }
    if dice.roll(4) == 0 {
        data.mode = Some(u32::try_from(number(dice) & 0xffff_ffff).expect("32 bits"));
        let nanos = u32::try_from(dice.roll(1_000_000_000)).expect("30 bits");
        data.mtime = Some(UnixfsTime { seconds: number(dice).cast_signed(), nanos });
    }
    data
}

/// A node with links to `below`, or to what is nowhere.
pub(crate) fn node(dice: &mut Dice, below: &[Cid]) -> PbNode {
    let link = |dice: &mut Dice| PbLink {
        cid: if below.is_empty() || dice.roll(8) == 0 { cid(dice) } else { below[dice.roll(below.len())] },
        name: (dice.roll(6) > 0).then(|| {
            let text = text(dice);
            // Children of shards begin with two digits, which may as well be right.
            let head = if dice.roll(3) == 0 { format!("{:02X}", dice.roll(256)) } else { String::new() };
            Bytes::from(head + &text)
        }),
        tsize: (dice.roll(6) > 0).then(|| number(dice)),
    };
    let links: Vec<PbLink> = (0..dice.roll(6)).map(|_| link(dice)).collect();
    let data = match dice.roll(8) {
        0 => None,
        1 => {
            let len = dice.roll(20);
            Some(dice.bytes(len).into())
        }
        _ => Some(unixfs(dice, links.len()).encode().into()),
    };
    let mut node = PbNode { links, data };
    if dice.roll(4) > 0 {
        node.sort_links();
    }
    node
}

/// A block of any codec, with its CID.
pub(crate) fn block(dice: &mut Dice, below: &[Cid]) -> (Cid, Bytes) {
    let codec = [Codec::DagPb, Codec::DagPb, Codec::DagPb, Codec::Raw, Codec::DagCbor, Codec::DagJson][dice.roll(6)];
    let mut bytes = match codec {
        Codec::Raw => {
            let len = dice.roll(1000);
            dice.bytes(len)
        }
        Codec::DagPb => node(dice, below).encode().to_vec(),
        _ => {
            let value = ipld(dice, 3);
            let linked = Ipld::Map(
                [
                    ("a".to_owned(), value),
                    ("b".to_owned(), Ipld::List(below.iter().map(|cid| Ipld::from(*cid)).collect())),
                ]
                .into(),
            );
            muxfs::dag::linked::encode(codec, &linked).map(|block| block.to_vec()).unwrap_or_default()
        }
    };
    if dice.roll(6) == 0 {
        damage(dice, &mut bytes);
    }
    (cid_of(codec, &bytes), bytes.into())
}

/// Does one or a few of the things that break parsers.
pub(crate) fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(bytes.len() + 1);
        let end = at + dice.roll(bytes.len() - at + 1).min(64);
        match dice.roll(11) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x9f, 0x5b, b'"', b'{'][dice.roll(9)],
            // One more or one less is the likeliest length to be believed.
            2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            3 if at < bytes.len() => bytes[at] = bytes[at].wrapping_sub(1),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            7 => {
                let noise = dice.roll(9);
                let noise = dice.bytes(noise);
                bytes.splice(at..at, noise);
            }
            // A number in place of one, in the two ways that they are written.
            8 => drop(bytes.splice(at..end.min(at + 2), varint(number(dice)))),
            9 => {
                let number = number(dice).to_be_bytes();
                drop(bytes.splice(
                    at..end.min(at + 9),
                    [&[0x1b | [0, 0x40, 0x60, 0x80, 0xa0][dice.roll(5)]], &number[..]].concat(),
                ));
            }
            // The same number in more bytes than it takes.
            10 if at < bytes.len() && bytes[at] < 128 => {
                let byte = bytes[at] | 128;
                drop(bytes.splice(at..=at, [byte, 0]));
            }
            _ => bytes.extend_from_within(at..end),
        }
    }
}
