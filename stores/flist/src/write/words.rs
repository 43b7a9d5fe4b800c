//! A writer of Cap'n Proto messages in one segment: as much of the encoding as the directories of an flist use.
//!
//! Objects stand one behind another in the order in which they are asked for, so equal calls make equal bytes. Spec:
//! spec/flist.md #capnp.

/// A message that is being made.
#[derive(Debug, Default)]
pub(crate) struct Words(pub(crate) Vec<u64>);

impl Words {
    fn grow(&mut self, count: usize) -> usize {
        let at = self.0.len();
        self.0.resize(at + count, 0);
        at
    }

    /// Sets a word that there is.
    pub(crate) fn set(&mut self, at: usize, word: u64) {
        if let Some(place) = self.0.get_mut(at) {
            *place = word;
        }
    }

    /// The half of a pointer that leads from a word to another behind it.
    fn offset(from: usize, to: usize) -> u64 {
        ((to - from - 1) as u64) << 2
    }

    /// The struct that the message is, of so many words of data and pointers; its first word. The pointers are behind the
    /// data.
    pub(crate) fn root(&mut self, data: usize, pointers: usize) -> usize {
        self.grow(1);
        self.object(0, data, pointers)
    }

    /// A struct at a pointer; its first word.
    pub(crate) fn object(&mut self, pointer: usize, data: usize, pointers: usize) -> usize {
        let at = self.grow(data + pointers);
        self.set(pointer, Self::offset(pointer, at) | (data as u64) << 32 | (pointers as u64) << 48);
        at
    }

    /// A list of structs at a pointer; the first word of the first of them.
    pub(crate) fn structs(&mut self, pointer: usize, count: usize, data: usize, pointers: usize) -> usize {
        let tag = self.grow(1);
        let words = count * (data + pointers);
        self.set(pointer, Self::offset(pointer, tag) | 1 | 7 << 32 | (words as u64) << 35);
        self.set(tag, (count as u64) << 2 | (data as u64) << 32 | (pointers as u64) << 48);
        self.grow(words)
    }

    /// Bytes at a pointer.
    pub(crate) fn data(&mut self, pointer: usize, data: &[u8]) {
        let at = self.grow(data.len().div_ceil(8));
        self.set(pointer, Self::offset(pointer, at) | 1 | 2 << 32 | (data.len() as u64) << 35);
        for (number, part) in data.chunks(8).enumerate() {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(place, byte)| *place = *byte);
            self.set(at + number, u64::from_le_bytes(word));
        }
    }

    /// Text at a pointer: its NUL is added.
    pub(crate) fn text(&mut self, pointer: usize, text: &[u8]) {
        self.data(pointer, &[text, b"\0"].concat());
    }

    /// How many bytes the message has by now.
    pub(crate) fn len(&self) -> usize {
        8 + self.0.len() * 8
    }

    /// The message with its table of segments.
    pub(crate) fn message(&self) -> Vec<u8> {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(self.0.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }
}
