//! A reader of Cap'n Proto messages: as much of the encoding as the directories of an flist use, and no more.
//!
//! A message is a table of segments, and words of 8 bytes in them that point at each other. What it says of itself is
//! never believed: every offset and count is held against the segment it is in, pointers are followed one at a time by
//! who asks for a field, and all that is read is counted, so that a message whose pointers overlap costs no more than
//! [`TRAVERSAL_FACTOR`] times its own length. Nothing is copied. Spec: spec/flist.md #capnp.

use std::cell::Cell;

/// The bytes of a word.
const WORD: usize = 8;
/// More segments than the writers make of the largest directory that is read.
const SEGMENT_COUNT_MAX: usize = 1 << 16;
/// How many times over a message may be read. An honest reader meets each word once, a directory of ours twice.
const TRAVERSAL_FACTOR: usize = 4;
/// Read beside that of any message, in bytes: so that the shortest can be.
const TRAVERSAL_LEN_MIN: usize = 4096;

/// Why bytes are no message that can be read.
pub(crate) type Fault = String;
type Result<T> = std::result::Result<T, Fault>;

/// A message whose segment table was read.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    segments: Vec<&'a [u8]>,
    /// So many bytes may still be read.
    budget: Cell<usize>,
}

/// Eight bytes: a pointer, or the tag of a list.
#[derive(Debug, Clone, Copy)]
struct Word {
    low: u32,
    high: u32,
}

impl Word {
    /// Where a far pointer leads.
    fn far(self) -> At {
        At { segment: index(self.high), offset: index(self.low >> 3).saturating_mul(WORD) }
    }
}

/// A place in a message: a segment, and an offset in bytes.
#[derive(Debug, Clone, Copy)]
struct At {
    segment: usize,
    offset: usize,
}

/// What a pointer points at.
#[derive(Debug, Clone, Copy)]
enum Target {
    Null,
    Struct { at: At, data_len: usize, pointer_count: usize },
    List { at: At, element: u32, count: usize },
}

/// A struct in a message. A field that it lacks has its default, as the encoding wants it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struct<'a> {
    message: &'a Message<'a>,
    at: At,
    data_len: usize,
    pointer_count: usize,
}

/// A list of structs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Structs<'a> {
    first: Struct<'a>,
    count: usize,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<'a> Message<'a> {
    /// Reads the table of segments, which all have to be there.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self> {
        let truncated = || "the message ends within its table of segments".to_owned();
        let count = index(u32_at(bytes, 0).ok_or_else(truncated)?).saturating_add(1);
        if count > SEGMENT_COUNT_MAX {
            return Err(format!("the message has {count} segments, and {SEGMENT_COUNT_MAX} at most are read"));
        }
        // The table is padded to whole words.
        let table_len = (4 + 4 * count).next_multiple_of(WORD);
        let mut rest = bytes.get(table_len..).ok_or_else(truncated)?;
        let mut segments = Vec::with_capacity(count);
        for number in 0..count {
            let words = u32_at(bytes, 4 + 4 * number).ok_or_else(truncated)?;
            let split = index(words).checked_mul(WORD).and_then(|len| rest.split_at_checked(len));
            let (segment, after) = split.ok_or_else(|| {
                format!("segment {number} of the message has {words} words, and {} bytes are left of it", rest.len())
            })?;
            segments.push(segment);
            rest = after;
        }
        let budget = bytes.len().saturating_mul(TRAVERSAL_FACTOR).saturating_add(TRAVERSAL_LEN_MIN);
        Ok(Self { segments, budget: Cell::new(budget) })
    }

    /// The struct that the message is.
    pub(crate) fn root(&'a self) -> Result<Struct<'a>> {
        let target = self.follow(At { segment: 0, offset: 0 })?;
        self.as_struct(target)?.ok_or_else(|| "the message has no root".into())
    }

    fn spend(&self, len: usize) -> Result<()> {
        let left = self.budget.get().checked_sub(len);
        self.budget.set(left.ok_or("its pointers lead over the same bytes again and again")?);
        Ok(())
    }

    /// Bytes that are read.
    fn bytes(&self, at: At, len: usize) -> Result<&'a [u8]> {
        let end = at.offset.checked_add(len);
        let segment = self.segments.get(at.segment).ok_or_else(|| format!("there is no segment {}", at.segment))?;
        let bytes = end.and_then(|end| segment.get(at.offset..end)).ok_or_else(|| {
            let (segment, offset) = (at.segment, at.offset);
            format!("a pointer leads to {len} bytes at {offset} of segment {segment}, which end behind it")
        })?;
        self.spend(len)?;
        Ok(bytes)
    }

    fn word(&self, at: At) -> Result<Word> {
        let word = self.bytes(at, WORD)?;
        Ok(Word { low: u32_at(word, 0).unwrap_or(0), high: u32_at(word, 4).unwrap_or(0) })
    }

    /// What the pointer at a place points at, over at most one landing pad.
    fn follow(&self, at: At) -> Result<Target> {
        let pointer = self.word(at)?;
        if pointer.low & 3 != 2 {
            return Self::near(pointer, at, None);
        }
        let pad = pointer.far();
        let landing = self.word(pad)?;
        if pointer.low & 4 == 0 {
            if landing.low & 3 == 2 {
                return Err("a far pointer leads to another one".into());
            }
            return Self::near(landing, pad, None);
        }
        // A pad of two words: where the object is, and what.
        if landing.low & 7 != 2 {
            return Err("the landing pad of a double far pointer does not begin with a far one".into());
        }
        let tag = self.word(At { offset: pad.offset.saturating_add(WORD), ..pad })?;
        Self::near(tag, pad, Some(landing.far()))
    }

    /// What a pointer points at: relative to the word behind it, or at `object`.
    fn near(pointer: Word, at: At, object: Option<At>) -> Result<Target> {
        let Word { low, high } = pointer;
        if (low, high) == (0, 0) {
            return Ok(Target::Null);
        }
        let at = if let Some(object) = object {
            object
        } else {
            // Thirty bits with a sign, in words.
            let words = i64::from(low.cast_signed() >> 2);
            let behind = i64::try_from(at.offset).ok().and_then(|offset| offset.checked_add(8));
            let offset = behind.and_then(|offset| offset.checked_add(words * 8));
            let offset = offset.and_then(|offset| usize::try_from(offset).ok());
            At { offset: offset.ok_or("a pointer leads to before its segment")?, ..at }
        };
        match low & 3 {
            0 => Ok(Target::Struct { at, data_len: index(high & 0xffff) * WORD, pointer_count: index(high >> 16) }),
            1 => Ok(Target::List { at, element: high & 7, count: index(high >> 3) }),
            kind => Err(format!("a pointer is of kind {kind}, which no flist has")),
        }
    }

    fn as_struct(&'a self, target: Target) -> Result<Option<Struct<'a>>> {
        match target {
            Target::Null => Ok(None),
            Target::Struct { at, data_len, pointer_count } => {
                self.bytes(at, data_len + pointer_count * WORD)?;
                Ok(Some(Struct { message: self, at, data_len, pointer_count }))
            }
            Target::List { .. } => Err("a list is where a struct should be".into()),
        }
    }
}

impl<'a> Struct<'a> {
    /// The bytes of a field of numbers, or zeros where there is no such field.
    fn number<const LEN: usize>(&self, offset: usize) -> [u8; LEN] {
        let segment = self.message.segments.get(self.at.segment);
        let data = segment.and_then(|segment| segment.get(self.at.offset..self.at.offset + self.data_len));
        data.and_then(|data| data.get(offset..)?.first_chunk()).copied().unwrap_or([0; LEN])
    }

    /// The number at a byte of the data section.
    pub(crate) fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.number(offset))
    }

    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.number(offset))
    }

    pub(crate) fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.number(offset))
    }

    fn pointer(&self, number: usize) -> Result<Target> {
        if number >= self.pointer_count {
            return Ok(Target::Null);
        }
        let offset = self.at.offset + self.data_len + number * WORD;
        self.message.follow(At { offset, ..self.at })
    }

    /// The struct at a pointer, where there is one.
    pub(crate) fn at(&self, number: usize) -> Result<Option<Self>> {
        self.message.as_struct(self.pointer(number)?)
    }

    /// The bytes at a pointer; none where it is null.
    pub(crate) fn data(&self, number: usize) -> Result<&'a [u8]> {
        match self.pointer(number)? {
            Target::Null => Ok(&[]),
            // A list of bytes.
            Target::List { at, element: 2, count } => self.message.bytes(at, count),
            _ => Err("something is where bytes should be".into()),
        }
    }

    /// The text at a pointer, without the NUL at its end.
    pub(crate) fn text(&self, number: usize) -> Result<&'a [u8]> {
        match self.data(number)?.split_last() {
            None => Ok(&[]),
            Some((0, text)) => Ok(text),
            Some(_) => Err("a text does not end in NUL".into()),
        }
    }

    /// The structs at a pointer; none where it is null.
    pub(crate) fn list(&self, number: usize) -> Result<Structs<'a>> {
        let message = self.message;
        let (at, words) = match self.pointer(number)? {
            Target::Null => {
                return Ok(Structs { first: Struct { data_len: 0, pointer_count: 0, ..*self }, count: 0 });
            }
            // A list with a tag in front that tells what the structs are like.
            Target::List { at, element: 7, count } => (at, count),
            _ => return Err("something is where a list of structs should be".into()),
        };
        let tag = message.word(at)?;
        let count = index(tag.low >> 2);
        let (data_len, pointer_count) = (index(tag.high & 0xffff) * WORD, index(tag.high >> 16));
        let element_len = data_len + pointer_count * WORD;
        let len = count.checked_mul(element_len).filter(|len| *len <= words.saturating_mul(WORD));
        let is_good = tag.low.trailing_zeros() >= 2 && (count == 0 || element_len > 0);
        let len = len.filter(|_| is_good);
        let len = len.ok_or_else(|| format!("a list of {words} words cannot have {count} structs"))?;
        let at = At { offset: at.offset.saturating_add(WORD), ..at };
        message.bytes(at, len)?;
        Ok(Structs { first: Struct { message, at, data_len, pointer_count }, count })
    }
}

impl<'a> Structs<'a> {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, index: usize) -> Option<Struct<'a>> {
        let element_len = self.first.data_len + self.first.pointer_count * WORD;
        let offset = self.first.at.offset + index * element_len;
        (index < self.count).then_some(Struct { at: At { offset, ..self.first.at }, ..self.first })
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Struct<'a>> {
        (0..self.count).filter_map(move |index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    /// Words of a message, as bytes behind its table.
    fn message(segments: &[&[[u32; 2]]]) -> Vec<u8> {
        let number = |len: usize| u32::try_from(len).expect("short").to_le_bytes();
        let mut bytes = number(segments.len() - 1).to_vec();
        bytes.extend(segments.iter().flat_map(|words| number(words.len())));
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        let words = segments.iter().flat_map(|words| words.iter().flatten());
        bytes.extend(words.flat_map(|half| half.to_le_bytes()));
        bytes
    }

    /// A struct of a number and a text, in one segment, and over a far and a double far pointer.
    fn samples() -> Vec<Vec<u8>> {
        let text = [u32::from_le_bytes(*b"ab\0\0"), 0];
        let near = message(&[&[[0, 0x0001_0001], [7, 0], [1, 2 | 3 << 3], text]]);
        let far = message(&[&[[2, 1]], &[[0, 0x0001_0001], [7, 0], [1, 2 | 3 << 3], text]]);
        let double =
            message(&[&[[6, 1]], &[[2, 2], [0, 0x0001_0001]], &[[7, 0], [2 | 2 << 3, 2], [1, 2 | 3 << 3], text]]);
        vec![near, far, double]
    }

    fn read(bytes: &[u8]) -> Result<(u16, Vec<u8>)> {
        let message = Message::new(bytes)?;
        let root = message.root()?;
        Ok((root.u16(0), root.text(0)?.to_vec()))
    }

    #[test]
    fn structs_are_found_over_every_kind_of_pointer() {
        for bytes in samples() {
            assert_eq!(read(&bytes).expect("good"), (7, b"ab".to_vec()));
        }
    }

    #[test]
    fn what_a_struct_lacks_is_its_default() {
        let bytes = message(&[&[[0, 0x0001_0001], [7, 0], [0, 0]]]);
        let message = Message::new(&bytes).expect("good");
        let root = message.root().expect("good");
        assert_eq!((root.u64(8), root.u16(6), root.text(0).expect("null")), (0, 0, &b""[..]));
        assert!(root.at(3).expect("none").is_none());
        assert_eq!(root.list(9).expect("none").len(), 0);
    }

    #[test]
    fn every_truncation_is_refused() {
        for bytes in samples() {
            for len in 0..bytes.len() {
                read(&bytes[..len]).expect_err("it is not all there");
            }
        }
    }

    /// Counts and offsets that a message makes up are held against what it has.
    #[test]
    fn what_leads_out_of_a_message_is_refused() {
        for (words, what) in [
            (vec![[0xffff_fff8, 0x0001_0001]], "before its segment"),
            (vec![[4 << 2, 1]], "end behind it"),
            (vec![[0, 0xffff_ffff]], "end behind it"),
            (vec![[3, 0]], "kind 3"),
            (vec![[2, 9]], "no segment 9"),
            (vec![[2, 0]], "another one"),
            (vec![[1, 2]], "a list is where a struct"),
        ] {
            let why = read(&message(&[&words])).expect_err(what);
            assert!(why.contains(what), "{why}");
        }
        let huge = [[0, 0x0001_0000], [1, 7 | 1 << 3], [0xffff_fffc, 0]];
        for (tag_high, count) in [(0, u32::MAX), (1, 1 << 20), (0xffff_ffff, 4)] {
            let bytes = message(&[&[huge[0], huge[1], [count & !3, tag_high], [0, 0]]]);
            let message = Message::new(&bytes).expect("a table");
            message.root().expect("a struct").list(0).expect_err("it has no such list");
        }
        let table = [u32::MAX.to_le_bytes(), [0; 4]].concat();
        assert!(Message::new(&table).expect_err("too many").contains("segments"));
    }

    /// A list whose structs all point at the same long text costs no more than a few times the message.
    #[test]
    fn pointers_that_overlap_are_read_a_few_times_and_no_more() {
        const COUNT: u32 = 200;
        let mut words = vec![[0, 0x0001_0000], [1, 7 | COUNT << 3], [COUNT << 2, 0x0001_0000]];
        // Each leads to the first word behind them all.
        words.extend((0..COUNT).map(|at| [(COUNT - at - 1) << 2 | 1, 2 | 8000 << 3]));
        words.extend([[0, 0]; 1000]);
        let bytes = message(&[&words]);
        let message = Message::new(&bytes).expect("good");
        let read: Result<Vec<_>> =
            message.root().expect("good").list(0).expect("good").iter().map(|item| item.data(0)).collect();
        assert!(read.expect_err("too much").contains("again and again"));
    }

    #[test]
    fn damaged_messages_never_panic() {
        let mut dice = Dice::new(11);
        for sample in samples() {
            for _ in 0..20_000 {
                let mut damaged = sample.clone();
                for _ in 0..=dice.roll(4) {
                    let at = dice.roll(damaged.len());
                    damaged[at] = u8::try_from(dice.roll(256)).expect("a byte");
                }
                // Whatever comes of it.
                read(&damaged).ok();
                if let Ok(message) = Message::new(&damaged)
                    && let Ok(root) = message.root()
                {
                    root.list(0).map(|list| list.iter().filter_map(|item| item.data(0).ok()).count()).ok();
                }
            }
        }
    }
}
