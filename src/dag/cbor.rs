//! dag-cbor, strictly: every value has exactly one form, and what decodes encodes to the same bytes.
//!
//! Sits between [`Ipld`] and the blocks of a [`Dag`](super::Dag). Own code, because `serde_ipld_dagcbor` accepts long
//! forms of numbers, NaN, unsorted keys and bytes after a CID. Spec: spec/linked-data.md #dag-cbor,
//! <https://ipld.io/specs/codecs/dag-cbor/spec/>.
//!
//! ```text
//! item  = head [content]
//! head  = 1 byte: kind << 5 | info ; info < 24 is the number itself, 24 25 26 27: 1 2 4 8 bytes follow, big-endian
//! kinds = 0 number n | 1 number -1-n | 2 bytes | 3 text | 4 list | 5 map | 6 tag (42 only) | 7 false true null float
//! link  = d8 2a, then bytes: 00 and the binary CID
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    DAG_BLOCK_LEN_MAX,
    ipld::{Budget, IPLD_DEPTH_MAX, Ipld},
};
use crate::{Cid, Error, ErrorKind, Result};

const LINK_TAG: u64 = 42;

/// Encodes a value: the only form it has in dag-cbor.
///
/// ```
/// use muxfs::dag::{Ipld, cbor};
/// assert_eq!(cbor::encode(&Ipld::List(vec![Ipld::Integer(-1), Ipld::from("a")]))?, b"\x82\x20\x61a");
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` for a number beyond -2^64 to 2^64-1, NaN and infinities, and what is nested deeper than
/// [`IPLD_DEPTH_MAX`].
pub fn encode(value: &Ipld) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write(value, 0, &mut out).map_err(|why| Error::new(ErrorKind::InvalidArgument, "cbor.encode").because(why))?;
    Ok(out)
}

/// Decodes a block of one value in its only form.
///
/// Never takes more memory than [`IPLD_LEN_MAX`](super::ipld::IPLD_LEN_MAX) says, whatever lengths the bytes claim.
///
/// ```
/// use muxfs::dag::{Ipld, cbor};
/// assert_eq!(cbor::decode(b"\x18\x64")?, Ipld::Integer(100));
/// assert!(cbor::decode(b"\x18\x04").is_err(), "4 has a shorter form");
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `Corrupt`, with the place and the reason; `TooLarge` past [`DAG_BLOCK_LEN_MAX`].
pub fn decode(block: &[u8]) -> Result<Ipld> {
    if block.len() > DAG_BLOCK_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "cbor.decode").because("a block has at most 2 MiB"));
    }
    let mut decoder = Decoder { reader: Reader::new(block), budget: Budget::new() };
    let value = decoder.value(0).and_then(|value| decoder.reader.end().map(|()| value));
    value.map_err(|why| {
        let at = block.len() - decoder.reader.rest.len();
        Error::new(ErrorKind::Corrupt, "cbor.decode").because(format!("{why}, before byte {at}"))
    })
}

/// Calls `found` with every CID that a block links to, in the order in which they stand there.
///
/// Asks less of the block than [`decode`]: whatever is well-formed CBOR of definite lengths. What a block leads to matters
/// also where its text is no UTF-8 or a number is longer than it needs to be, as others have written them. Takes no memory.
///
/// # Errors
/// `Corrupt`, with the place and the reason; the links before it were found.
pub(crate) fn for_each_link(block: &[u8], found: &mut impl FnMut(&Cid)) -> Result<()> {
    let mut reader = Reader::new(block);
    let links = reader.links(found).and_then(|()| reader.end());
    links.map_err(|why| {
        let at = block.len() - reader.rest.len();
        Error::new(ErrorKind::Corrupt, "cbor.links").because(format!("{why}, before byte {at}"))
    })
}

fn write(value: &Ipld, depth: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match value {
        Ipld::Null => out.push(0xf6),
        Ipld::Bool(false) => out.push(0xf4),
        Ipld::Bool(true) => out.push(0xf5),
        Ipld::Integer(number) => write_int(*number, out)?,
        Ipld::Float(float) if float.is_finite() => {
            out.push(0xfb);
            out.extend(float.to_bits().to_be_bytes());
        }
        Ipld::Float(_) => return Err("a float is neither NaN nor infinite"),
        Ipld::String(text) => write_content(3, text.as_bytes(), out),
        Ipld::Bytes(bytes) => write_content(2, bytes, out),
        Ipld::List(values) => {
            let depth = deeper(depth)?;
            write_head(4, values.len() as u64, out);
            values.iter().try_for_each(|value| write(value, depth, out))?;
        }
        Ipld::Map(values) => {
            let depth = deeper(depth)?;
            write_head(5, values.len() as u64, out);
            let mut entries: Vec<_> = values.iter().collect();
            entries.sort_by_key(|(key, _)| (key.len(), key.as_bytes()));
            for (key, value) in entries {
                write_content(3, key.as_bytes(), out);
                write(value, depth, out)?;
            }
        }
        Ipld::Link(cid) => {
            write_link(&cid.to_bytes(), out);
        }
    }
    Ok(())
}

/// Writes a whole number.
pub(crate) fn write_int(number: i128, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let (kind, number) = if number < 0 { (1, -1 - number) } else { (0, number) };
    write_head(kind, u64::try_from(number).map_err(|_| "a number is from -2^64 to 2^64-1")?, out);
    Ok(())
}

/// Writes a link: the binary form of its CID.
pub(crate) fn write_link(cid: &[u8], out: &mut Vec<u8>) {
    write_head(6, LINK_TAG, out);
    write_head(2, cid.len() as u64 + 1, out);
    out.push(0);
    out.extend_from_slice(cid);
}

/// Writes bytes (kind 2) or text (kind 3).
pub(crate) fn write_content(kind: u8, content: &[u8], out: &mut Vec<u8>) {
    write_head(kind, content.len() as u64, out);
    out.extend_from_slice(content);
}

/// The shortest form of a kind and its number.
#[expect(clippy::cast_possible_truncation, reason = "each arm holds the numbers that fit")]
pub(crate) fn write_head(kind: u8, number: u64, out: &mut Vec<u8>) {
    let kind = kind << 5;
    match number {
        0..=23 => out.push(kind | number as u8),
        24..=0xff => out.extend([kind | 0x18, number as u8]),
        0x100..=0xffff => {
            out.push(kind | 0x19);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(kind | 0x1a);
            out.extend((number as u32).to_be_bytes());
        }
        _ => {
            out.push(kind | 0x1b);
            out.extend(number.to_be_bytes());
        }
    }
}

fn deeper(depth: usize) -> Result<usize, &'static str> {
    if depth < IPLD_DEPTH_MAX { Ok(depth + 1) } else { Err("nested too deep: 256 lists and maps at most") }
}

struct Decoder<'a> {
    reader: Reader<'a>,
    budget: Budget,
}

impl Decoder<'_> {
    fn value(&mut self, depth: usize) -> Result<Ipld, &'static str> {
        self.budget.value()?;
        let byte = self.reader.byte()?;
        let info = byte & 0x1f;
        Ok(match byte >> 5 {
            0 => Ipld::Integer(self.reader.number(info)?.into()),
            1 => Ipld::Integer(-1 - i128::from(self.reader.number(info)?)),
            2 => {
                let content = self.reader.content(info)?;
                self.budget.content(content.len())?;
                Ipld::Bytes(Bytes::copy_from_slice(content))
            }
            3 => {
                let text = self.reader.text(info)?;
                self.budget.content(text.len())?;
                Ipld::String(text.to_owned())
            }
            4 => {
                let (depth, count) = (deeper(depth)?, self.reader.number(info)?);
                if count > 0 {
                    self.budget.list()?;
                }
                let mut values = Vec::new(); // Never with a capacity: the count is a claim.
                for _ in 0..count {
                    values.push(self.value(depth)?);
                }
                Ipld::List(values)
            }
            5 => Ipld::Map(self.map(info, deeper(depth)?)?),
            6 => Ipld::from(self.link(info)?),
            _ => match info {
                20 => Ipld::Bool(false),
                21 => Ipld::Bool(true),
                22 => Ipld::Null,
                27 => {
                    let float = f64::from_bits(u64::from_be_bytes(self.reader.array()?));
                    if !float.is_finite() {
                        return Err("a float is neither NaN nor infinite");
                    }
                    Ipld::Float(float)
                }
                25 | 26 => return Err("a float has 64 bits"),
                31 => return Err("lengths are definite"),
                _ => return Err("of the simple values there are false, true and null"),
            },
        })
    }

    fn map(&mut self, info: u8, depth: usize) -> Result<BTreeMap<String, Ipld>, &'static str> {
        let count = self.reader.number(info)?;
        let mut values = BTreeMap::new();
        let mut last: Option<&str> = None;
        for _ in 0..count {
            let byte = self.reader.byte()?;
            if byte >> 5 != 3 {
                return Err("a key is text");
            }
            let key = self.reader.text(byte & 0x1f)?;
            match last.map(|last| (last.len(), last.as_bytes()).cmp(&(key.len(), key.as_bytes()))) {
                Some(std::cmp::Ordering::Equal) => return Err("a key stands twice"),
                Some(std::cmp::Ordering::Greater) => return Err("keys are sorted by length, then by their bytes"),
                Some(std::cmp::Ordering::Less) | None => {}
            }
            last = Some(key);
            self.budget.entry(values.len(), key.len())?;
            values.insert(key.to_owned(), self.value(depth)?);
        }
        Ok(values)
    }

    fn link(&mut self, info: u8) -> Result<Cid, &'static str> {
        let cid = self.reader.link_after(info)?;
        self.budget.content(size_of::<Cid>())?;
        Cid::from_bytes(cid).map_err(|_| LINK_RULE)
    }
}

const CUT_OFF: &str = "a length is past the end";
const LINK_RULE: &str = "a link is not a CID that is allowed";

/// Reads a block item by item, each in its only form: for formats that know what comes, and need no [`Ipld`].
///
/// Every reading takes from the front or fails; none allocates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    /// What is not yet read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether a link comes next.
    pub(crate) fn is_link(&self) -> bool {
        self.rest.first() == Some(&0xd8)
    }

    /// Takes a null, if that comes next.
    pub(crate) fn null(&mut self) -> bool {
        let rest = self.rest.strip_prefix(&[0xf6]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// A number that is not negative.
    pub(crate) fn uint(&mut self) -> Result<u64, &'static str> {
        let info = self.kind(0, "a number that is not negative is wanted")?;
        self.number(info)
    }

    /// A whole number.
    pub(crate) fn int(&mut self) -> Result<i128, &'static str> {
        let byte = self.byte()?;
        let number = self.number(byte & 0x1f)?;
        match byte >> 5 {
            0 => Ok(number.into()),
            1 => Ok(-1 - i128::from(number)),
            _ => Err("a whole number is wanted"),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let info = self.kind(2, "bytes are wanted")?;
        self.content(info)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, &'static str> {
        let info = self.kind(3, "text is wanted")?;
        self.text(info)
    }

    /// The head of a list: how many items it claims to have.
    pub(crate) fn list(&mut self) -> Result<u64, &'static str> {
        let info = self.kind(4, "a list is wanted")?;
        self.number(info)
    }

    pub(crate) fn cid(&mut self) -> Result<Cid, &'static str> {
        Cid::from_bytes(self.link()?).map_err(|_| LINK_RULE)
    }

    /// The bytes of a link's CID, not yet looked at.
    pub(crate) fn link(&mut self) -> Result<&'a [u8], &'static str> {
        let info = self.kind(6, "a link is wanted")?;
        self.link_after(info)
    }

    pub(crate) fn end(&self) -> Result<(), &'static str> {
        if self.rest.is_empty() { Ok(()) } else { Err("there are bytes after the value") }
    }

    /// Reads one item and all within it, whatever form it has.
    fn links(&mut self, found: &mut impl FnMut(&Cid)) -> Result<(), &'static str> {
        // How many items are yet to come, at any depth: where they are in each other makes no difference here.
        let mut count = 1_u64;
        while count > 0 {
            let byte = self.byte()?;
            let (kind, info) = (byte >> 5, byte & 0x1f);
            let number = self.any_number(info)?;
            let below = match kind {
                2 | 3 => {
                    self.skip(number)?;
                    0
                }
                4 => number,
                5 => number.checked_mul(2).ok_or(CUT_OFF)?,
                6 if number == LINK_TAG => {
                    let info = self.kind(2, "a link is a byte string")?;
                    let len = self.any_number(info)?;
                    let cid = self.skip(len)?.strip_prefix(&[0]).ok_or("a link begins with a zero byte")?;
                    found(&Cid::from_bytes(cid).map_err(|_| LINK_RULE)?);
                    0
                }
                6 => 1,
                _ => 0,
            };
            count = (count - 1).checked_add(below).ok_or(CUT_OFF)?;
        }
        Ok(())
    }

    /// The number of a head, in any form.
    fn any_number(&mut self, info: u8) -> Result<u64, &'static str> {
        Ok(match info {
            0..=23 => info.into(),
            24 => self.byte()?.into(),
            25 => u16::from_be_bytes(self.array()?).into(),
            26 => u32::from_be_bytes(self.array()?).into(),
            27 => u64::from_be_bytes(self.array()?),
            _ => return Err("lengths are definite"),
        })
    }

    fn skip(&mut self, len: u64) -> Result<&'a [u8], &'static str> {
        let parts = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (skipped, rest) = parts.ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(skipped)
    }

    fn kind(&mut self, kind: u8, why: &'static str) -> Result<u8, &'static str> {
        let byte = self.byte()?;
        if byte >> 5 == kind { Ok(byte & 0x1f) } else { Err(why) }
    }

    fn link_after(&mut self, info: u8) -> Result<&'a [u8], &'static str> {
        if self.number(info)? != LINK_TAG {
            return Err("the only tag is 42, a link");
        }
        let info = self.kind(2, "a link is a byte string")?;
        self.content(info)?.strip_prefix(&[0]).ok_or("a link begins with a zero byte")
    }

    /// The number of a head, in its shortest form.
    fn number(&mut self, info: u8) -> Result<u64, &'static str> {
        let (number, least): (u64, u64) = match info {
            0..=23 => return Ok(info.into()),
            24 => (self.byte()?.into(), 24),
            25 => (u16::from_be_bytes(self.array()?).into(), 1 << 8),
            26 => (u32::from_be_bytes(self.array()?).into(), 1 << 16),
            27 => (u64::from_be_bytes(self.array()?), 1 << 32),
            31 => return Err("lengths are definite"),
            _ => return Err("a head that means nothing"),
        };
        if number < least {
            return Err("a number or length is not in its shortest form");
        }
        Ok(number)
    }

    fn text(&mut self, info: u8) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.content(info)?).map_err(|_| "text is UTF-8")
    }

    fn content(&mut self, info: u8) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(self.number(info)?).map_err(|_| "a length goes past the end")?;
        let (content, rest) = self.rest.split_at_checked(len).ok_or("a length goes past the end")?;
        self.rest = rest;
        Ok(content)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, rest) = self.rest.split_first_chunk().ok_or("the end comes too early")?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dag::ipld::tests::any_ipld;

    fn why(block: &[u8]) -> String {
        let error = decode(block).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{block:02x?}");
        format!("{error:#}")
    }

    #[test]
    fn each_rule_refuses() {
        let link = b"\xd8\x2a\x58\x25\0\x01\x71\x12\x20";
        let digest = [7; 32];
        let with = |head: &[u8], tail: &[u8]| [head, &digest, tail].concat();
        decode(&with(link, b"")).expect("a good link");
        let cases: [(&str, &[u8], &str); 42] = [
            ("nothing", b"", "too early"),
            ("two values", b"\x01\x01", "after the value"),
            ("number cut off", b"\x19\x01", "too early"),
            ("1 in one more byte", b"\x18\x01", "shortest"),
            ("23 in one more byte", b"\x18\x17", "shortest"),
            ("255 in two", b"\x19\x00\xff", "shortest"),
            ("65535 in four", b"\x1a\x00\x00\xff\xff", "shortest"),
            ("2^32-1 in eight", b"\x1b\0\0\0\0\xff\xff\xff\xff", "shortest"),
            ("-1 in one more byte", b"\x38\x00", "shortest"),
            ("length of text not minimal", b"\x78\x01a", "shortest"),
            ("length of bytes not minimal", b"\x58\x01a", "shortest"),
            ("length of a list not minimal", b"\x98\x01\x01", "shortest"),
            ("length of a map not minimal", b"\xb8\x01\x61a\x01", "shortest"),
            ("info 28", b"\x1c", "means nothing"),
            ("bytes of no end", b"\x5f\x41a\xff", "definite"),
            ("text of no end", b"\x7f\x61a\xff", "definite"),
            ("list of no end", b"\x9f\x01\xff", "definite"),
            ("map of no end", b"\xbf\x61a\x01\xff", "definite"),
            ("break alone", b"\xff", "definite"),
            ("float16", b"\xf9\x3c\x00", "64 bits"),
            ("float32", b"\xfa\x3f\x80\0\0", "64 bits"),
            ("NaN in 16 bits", b"\xf9\x7e\x00", "64 bits"),
            ("NaN in 32 bits", b"\xfa\x7f\xc0\0\0", "64 bits"),
            ("NaN in 64 bits", b"\xfb\x7f\xf8\0\0\0\0\0\0", "NaN"),
            ("infinity", b"\xfb\x7f\xf0\0\0\0\0\0\0", "infinite"),
            ("minus infinity", b"\xfb\xff\xf0\0\0\0\0\0\0", "infinite"),
            ("undefined", b"\xf7", "simple"),
            ("simple value 0", b"\xe0", "simple"),
            ("simple value 32", b"\xf8\x20", "simple"),
            ("false in two bytes", b"\xf8\x14", "simple"),
            ("text not UTF-8", b"\x61\xff", "UTF-8"),
            ("a surrogate", b"\x63\xed\xa0\x80", "UTF-8"),
            ("key twice", b"\xa2\x61a\x01\x61a\x02", "twice"),
            ("keys by bytes, not by length", b"\xa2\x62aa\x01\x61b\x02", "sorted"),
            ("keys unsorted", b"\xa2\x61b\x01\x61a\x02", "sorted"),
            ("key a number", b"\xa1\x01\x01", "a key is text"),
            ("key of bytes", b"\xa1\x41a\x01", "a key is text"),
            ("tag 0", b"\xc0\x61a", "the only tag"),
            ("big number", b"\xc2\x41\x01", "the only tag"),
            ("tag 42 on text", b"\xd8\x2a\x61a", "byte string"),
            ("tag 42 on nothing", b"\xd8\x2a\x40", "zero byte"),
            ("tag 42 in a long form", b"\xd9\x00\x2a\x41\0", "shortest"),
        ];
        for (name, block, reason) in cases {
            let given = why(block);
            assert!(given.contains(reason), "{name}: {given}");
        }
        assert!(why(&with(b"\xd8\x2a\x58\x25\x01\x01\x71\x12\x20", b"")).contains("zero byte"));
        assert!(why(&with(b"\xd8\x2a\x58\x26\0\x01\x71\x12\x20", b"\0")).contains("not a CID"));
        assert!(why(&with(b"\xd8\x2a\x58\x25\0\x02\x71\x12\x20", b"")).contains("not a CID"));
        assert!(why(b"\xd8\x2a\x4d\0\x01\x55\x22\x08\0\0\0\0\0\0\0\0").contains("not a CID"), "murmur3");
    }

    /// A claimed length costs nothing; a depth is not walked. (A Go decoder made 9 GB of 100 such bytes.)
    #[test]
    fn claims_cost_nothing() {
        for head in [0x5b, 0x7b, 0x9b, 0xbb_u8] {
            let mut block = vec![head];
            block.extend(u64::MAX.to_be_bytes());
            assert!(why(&block).contains(if head < 0x80 { "past the end" } else { "too early" }));
        }
        let nested = |count| [vec![0x81; count], vec![0xf6]].concat();
        decode(&nested(IPLD_DEPTH_MAX)).expect("as deep as may be");
        assert!(why(&nested(IPLD_DEPTH_MAX + 1)).contains("too deep"));
        assert!(why(&nested(1 << 20)).contains("too deep"));
        let mut deep = Ipld::Null;
        (0..=IPLD_DEPTH_MAX).for_each(|_| deep = Ipld::List(vec![std::mem::replace(&mut deep, Ipld::Null)]));
        assert_eq!(encode(&deep).expect_err("too deep").kind(), ErrorKind::InvalidArgument);
    }

    /// 700,000 maps of one entry fit into a block, and would take half a gigabyte of memory.
    #[test]
    fn memory_is_bounded() {
        let count: u32 = 600_000;
        let mut block = vec![0x9a];
        block.extend(count.to_be_bytes());
        block.extend(b"\xa1\x60\x00".repeat(count as usize));
        assert!(why(&block).contains("memory"));
        let lists = [&block[..5], &b"\x81\x00".repeat(count as usize)].concat();
        assert!(why(&lists).contains("memory"));
        let numbers = [&block[..5], &b"\x00".repeat(count as usize)].concat();
        decode(&numbers).expect("a long list of numbers is not that much");
        assert_eq!(decode(&vec![0; DAG_BLOCK_LEN_MAX + 1]).expect_err("too long").kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn numbers_at_the_edges() {
        let cases: [(i128, &[u8]); 12] = [
            (0, b"\x00"),
            (23, b"\x17"),
            (24, b"\x18\x18"),
            (255, b"\x18\xff"),
            (256, b"\x19\x01\x00"),
            (65536, b"\x1a\0\x01\0\0"),
            (1 << 32, b"\x1b\0\0\0\x01\0\0\0\0"),
            ((1 << 64) - 1, b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"),
            (-1, b"\x20"),
            (-24, b"\x37"),
            (-25, b"\x38\x18"),
            (-(1 << 64), b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff"),
        ];
        for (number, block) in cases {
            assert_eq!(encode(&Ipld::Integer(number)).expect("in range"), block);
            assert_eq!(decode(block).expect("canonical"), Ipld::Integer(number));
        }
        for number in [1 << 64, -(1 << 64) - 1, i128::MAX, i128::MIN] {
            assert_eq!(encode(&Ipld::Integer(number)).expect_err("out of range").kind(), ErrorKind::InvalidArgument);
        }
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(encode(&Ipld::Float(float)).expect_err("no form").kind(), ErrorKind::InvalidArgument);
        }
        let zero = encode(&Ipld::Float(-0.0)).expect("a float");
        assert_eq!(zero, b"\xfb\x80\0\0\0\0\0\0\0");
        assert_eq!(encode(&decode(&zero).expect("canonical")).expect("a float"), zero, "minus zero stays");
    }

    fn links(block: &[u8]) -> Result<Vec<Cid>> {
        let mut links = Vec::new();
        for_each_link(block, &mut |cid| links.push(*cid)).map(|()| links)
    }

    /// Filecoin has bytes in text, and others long forms: their links are links all the same.
    #[test]
    fn links_of_what_others_wrote_are_found() {
        let link = b"\xd8\x2a\x45\0\x01\x55\0\0".as_slice();
        let cid = Cid::from_bytes(b"\x01\x55\0\0").expect("a CID");
        let cases: [(&str, &[u8], &[u8]); 6] = [
            ("text that is no UTF-8", b"\x82\x61\xff", b""),
            ("long forms", b"\x98\x02\x18\x01", b""),
            ("keys that are no text, and unsorted", b"\xa2\x02\x01\x01", b""),
            ("another tag", b"\x82\xc1\x01", b""),
            ("short floats", b"\x83\xf9\0\0", b"\xf8\xff"),
            ("nested deeper than is decoded", &[0x81; 1000], b""),
        ];
        for (what, before, after) in cases {
            let block = [before, link, after].concat();
            decode(&block).expect_err(what);
            assert_eq!(links(&block).expect(what), [cid], "{what}");
        }
        let refused: [(&str, &[u8]); 8] = [
            ("nothing", b""),
            ("two values", b"\x01\x01"),
            ("a list cut off", b"\x82\x01"),
            ("text cut off", b"\x62a"),
            ("a map of 2^64 - 1", b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("lists of 2^64 - 1", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x9b\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("a list without a length", b"\x9f\x01\xff"),
            ("a link that is no CID", b"\xd8\x2a\x43\0\x09\x09"),
        ];
        for (what, block) in refused {
            assert_eq!(links(block).expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        }
    }

    fn links_in_order(value: &Ipld, found: &mut Vec<Cid>) {
        match value {
            Ipld::Link(cid) => found.push(**cid),
            Ipld::List(values) => values.iter().for_each(|value| links_in_order(value, found)),
            Ipld::Map(values) => {
                let mut entries: Vec<_> = values.iter().collect();
                entries.sort_by_key(|(key, _)| (key.len(), key.as_bytes()));
                for (_, value) in entries {
                    links_in_order(value, found);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn links_are_found_in_their_order(value in any_ipld(), at in any::<proptest::sample::Index>(), to in any::<u8>()) {
            let mut block = encode(&value).expect("any value");
            let mut expected = Vec::new();
            links_in_order(&value, &mut expected);
            prop_assert_eq!(links(&block).expect("any value"), expected);
            let at = at.index(block.len());
            block[at] = to;
            if let Ok(value) = decode(&block) {
                let mut expected = Vec::new();
                links_in_order(&value, &mut expected);
                prop_assert_eq!(links(&block).expect("decoded"), expected);
            } else {
                // Told or not, it ends.
                links(&block).ok();
            }
        }

        #[test]
        fn what_is_encoded_decodes(value in any_ipld()) {
            let block = encode(&value).expect("any value");
            prop_assert_eq!(decode(&block).expect("its block"), value);
        }

        /// Strictness in one sentence: what decodes has one form.
        #[test]
        fn what_decodes_encodes_to_the_same(block in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = decode(&block) {
                prop_assert_eq!(encode(&value).expect("decoded"), block);
            }
        }

        #[test]
        fn damaged_blocks_too(value in any_ipld(), at in any::<proptest::sample::Index>(), to in any::<u8>()) {
            let mut block = encode(&value).expect("any value");
            let at = at.index(block.len());
            block[at] = to;
            if let Ok(value) = decode(&block) {
                prop_assert_eq!(encode(&value).expect("decoded"), block);
            }
        }
    }
}
