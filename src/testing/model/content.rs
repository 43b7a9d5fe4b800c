//! The bytes of a file of the model: pages that are there, reserved, or a hole.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use crate::vfs::Seek;

/// How finely holes are told from data.
pub(super) const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;

/// A page that is reserved but was never written has no bytes yet: it reads as zeros.
type Page = Option<Box<[u8; PAGE_LEN]>>;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// How many pages data in all of `range` would add.
    pub(super) fn pages_missing(&self, range: &Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (first, last) = (range.start / PAGE, (range.end - 1) / PAGE);
        last - first + 1 - self.pages.range(first..=last).count() as u64
    }

    pub(super) fn read(&self, offset: u64, len: u32) -> Bytes {
        let end = offset.saturating_add(u64::from(len)).min(self.len);
        if offset >= end {
            return Bytes::new();
        }
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(usize::MAX)];
        for (index, page) in self.pages.range(offset / PAGE..=(end - 1) / PAGE) {
            let Some(page) = page else { continue };
            let from = offset.max(index * PAGE);
            let to = end.min((index + 1) * PAGE);
            bytes[place(from - offset)..place(to - offset)]
                .copy_from_slice(&page[place(from - index * PAGE)..place(to - index * PAGE)]);
        }
        bytes.into()
    }

    /// Where the next page that is there, or is not, begins.
    pub(super) fn seek(&self, offset: u64, what: Seek) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let mut index = offset / PAGE;
        match what {
            Seek::Data => index = *self.pages.range(index..).next()?.0,
            Seek::Hole => {
                while self.pages.contains_key(&index) {
                    index += 1;
                }
            }
        }
        let found = offset.max(index * PAGE);
        match what {
            Seek::Data => (found < self.len).then_some(found),
            Seek::Hole => Some(found.min(self.len)),
        }
    }

    /// Writes `data` at `offset`; the end must not pass `u64::MAX`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = place(at % PAGE);
            let (now, later) = rest.split_at(rest.len().min(PAGE_LEN - within));
            let page = self.pages.entry(at / PAGE).or_default().get_or_insert_with(|| Box::new([0; PAGE_LEN]));
            page[within..within + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
        if !data.is_empty() {
            self.len = self.len.max(at);
        }
    }

    /// Cuts or grows; what is cut off is gone: growing again shows zeros.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            // Reserved pages past the end go too, as they do on other file systems.
            self.zero(len..u64::MAX);
        }
        self.len = len;
    }

    /// Makes a hole; the length stays.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        self.zero(range);
    }

    /// Reserves every page of `range`; the length stays.
    pub(super) fn reserve(&mut self, range: &Range<u64>) {
        if !range.is_empty() {
            for index in range.start / PAGE..=(range.end - 1) / PAGE {
                self.pages.entry(index).or_default();
            }
        }
    }

    /// The pieces of `range` that hold data, a page at most each.
    pub(super) fn pieces(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        if range.is_empty() {
            return Vec::new();
        }
        self.pages
            .range(range.start / PAGE..=(range.end - 1) / PAGE)
            .filter_map(|(index, page)| {
                let page = page.as_ref()?;
                let from = range.start.max(index * PAGE);
                let to = range.end.min((index + 1) * PAGE);
                let bytes = &page[place(from - index * PAGE)..place(to - index * PAGE)];
                Some((from, Bytes::copy_from_slice(bytes)))
            })
            .collect()
    }

    fn zero(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let whole = range.start.div_ceil(PAGE)..range.end / PAGE;
        if whole.start < whole.end {
            let gone: Vec<u64> = self.pages.range(whole.clone()).map(|(index, _)| *index).collect();
            for index in gone {
                self.pages.remove(&index);
            }
        }
        for index in [range.start / PAGE, range.end / PAGE] {
            let start = range.start.max(index * PAGE);
            let end = range.end.min(index.saturating_add(1).saturating_mul(PAGE));
            if start < end
                && let Some(Some(page)) = self.pages.get_mut(&index)
            {
                page[place(start - index * PAGE)..place(end - index * PAGE)].fill(0);
            }
        }
    }
}

/// A distance within one page or one buffer as an index.
fn place(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Punch(Range<u64>),
        Reserve(Range<u64>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = 0..3 * PAGE + 10;
        let range = (at.clone(), 0..2 * PAGE).prop_map(|(start, len)| start..start + len);
        let step = prop_oneof![
            (at.clone(), proptest::collection::vec(1..=255u8, 0..5000)).prop_map(|(at, data)| Step::Write(at, data)),
            at.prop_map(Step::SetLen),
            range.clone().prop_map(Step::Punch),
            range.prop_map(Step::Reserve),
        ];
        proptest::collection::vec(step, 0..20)
    }

    proptest! {
        /// Pages and holes read as a plain vector of bytes would.
        #[test]
        fn equals_a_vector(steps in steps(), offset in 0..4 * PAGE, len in 0..20_000u32) {
            let mut content = Content::default();
            let mut plain: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        if !data.is_empty() && plain.len() < place(at) + data.len() {
                            plain.resize(place(at) + data.len(), 0);
                        }
                        plain.iter_mut().skip(place(at)).zip(&data).for_each(|(to, from)| *to = *from);
                        content.write(at, &data);
                    }
                    Step::SetLen(len) => { plain.resize(place(len), 0); content.set_len(len); }
                    Step::Punch(range) => {
                        let end = place(range.end).min(plain.len());
                        if place(range.start) < end { plain[place(range.start)..end].fill(0); }
                        content.punch(range);
                    }
                    Step::Reserve(range) => content.reserve(&range),
                }
                prop_assert_eq!(content.len(), plain.len() as u64);
            }
            let end = (place(offset) + len as usize).min(plain.len());
            prop_assert_eq!(&content.read(offset, len)[..], plain.get(place(offset)..end).unwrap_or_default());
            let mut copy = Content::default();
            copy.set_len(content.len());
            content.pieces(0..content.len()).iter().for_each(|(at, bytes)| copy.write(*at, bytes));
            prop_assert_eq!(&copy.read(0, u32::MAX)[..], &plain[..]);
        }
    }

    #[test]
    fn holes_take_no_pages() {
        let mut content = Content::default();
        content.write(1 << 40, b"x");
        assert_eq!((content.len(), content.page_count()), ((1 << 40) + 1, 1));
        assert_eq!(content.pages_missing(&(0..PAGE * 3)), 3);
        content.punch(0..u64::MAX);
        assert_eq!((content.len(), content.page_count()), ((1 << 40) + 1, 0));
    }
}
