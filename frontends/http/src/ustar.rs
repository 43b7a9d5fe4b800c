//! The records of a TAR: ustar (POSIX.1-2017 pax), with pax records where ustar has no room.

use std::time::SystemTime;

use bytes::Bytes;
use muxfs::{FileKind, calendar::unix_secs};

const RECORD_LEN: usize = 512;
/// What twelve octal digits less the space at their end can say.
const SIZE_MAX: u64 = 0o777_7777_7777;
/// What an archive ends with.
pub(crate) const END: Bytes = Bytes::from_static(&[0; 2 * RECORD_LEN]);

/// What is said of a member, which is a file, a directory or a symlink.
#[derive(Debug)]
pub(crate) struct Header {
    /// The parts of its name with slashes between.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    pub(crate) mode: Option<u32>,
    pub(crate) mtime: Option<SystemTime>,
    /// Of a symlink.
    pub(crate) target: Bytes,
}

impl Header {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut name = self.path;
        let (kind, size, mode) = match self.kind {
            FileKind::Dir => (b'5', 0, 0o755),
            FileKind::Symlink => (b'2', 0, 0o777),
            _ => (b'0', self.size, 0o644),
        };
        if kind == b'5' {
            name.push(b'/');
        }
        // Whose rights these are nobody knows: set-id bits do not travel.
        let mode = self.mode.map_or(mode, |mode| mode & 0o777);
        let records = [
            needs_record(&name).then(|| record("path", &name)),
            needs_record(&self.target).then(|| record("linkpath", &self.target)),
            (size > SIZE_MAX).then(|| record("size", size.to_string().as_bytes())),
        ];
        let records: Vec<u8> = records.into_iter().flatten().flatten().collect();
        let mut header = Vec::new();
        if !records.is_empty() {
            header.extend(ustar(b"pax", b'x', records.len() as u64, 0o644, None, b""));
            header.extend_from_slice(&records);
            header.resize(header.len().next_multiple_of(RECORD_LEN), 0);
        }
        header.extend(ustar(&name, kind, size.min(SIZE_MAX), mode, self.mtime, &self.target));
        header
    }
}

/// The zeros after so many bytes of content, up to a whole record.
pub(crate) fn padding(size: u64) -> Option<Bytes> {
    let rest = usize::try_from(size.next_multiple_of(RECORD_LEN as u64) - size).unwrap_or_default();
    (rest > 0).then(|| Bytes::from(vec![0; rest]))
}

/// Whether text has no place in a header, which has 100 bytes for it and says nothing of its encoding.
fn needs_record(text: &[u8]) -> bool {
    text.len() > 100 || !text.is_ascii()
}

/// A pax record, `LEN KEY=VALUE\n`, whose length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = |len: usize| len.to_string().len();
    let mut len = rest + digits(rest);
    len = rest + digits(len);
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A header of ustar; text that is too long is cut.
fn ustar(name: &[u8], kind: u8, size: u64, mode: u32, mtime: Option<SystemTime>, target: &[u8]) -> [u8; RECORD_LEN] {
    let mtime = mtime.map_or(0, |mtime| u64::try_from(unix_secs(mtime)).unwrap_or(0).min(SIZE_MAX));
    let mut header = [0; RECORD_LEN];
    let mut put = |at: usize, text: &[u8]| {
        if let Some(field) = header.get_mut(at..at + text.len()) {
            field.copy_from_slice(text);
        }
    };
    put(0, name.get(..100).unwrap_or(name));
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, format!("{size:011o}\0{mtime:011o}\0        ").as_bytes());
    put(156, &[kind]);
    put(157, target.get(..100).unwrap_or(target));
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for len in [0, 1, 80, 90, 91, 92, 93, 94, 95, 980, 985, 990, 9000] {
            let record = record("path", &vec![b'x'; len]);
            let told: usize = std::str::from_utf8(&record)
                .expect("text")
                .split(' ')
                .next()
                .and_then(|len| len.parse().ok())
                .expect("a number");
            assert_eq!(told, record.len());
        }
    }
}
