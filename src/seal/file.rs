//! A sealed file that is read anywhere.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::format::{FileCipher, HEADER_LEN, SEALED_SEGMENT_LEN, SEGMENT_LEN, corrupt, last_of, place, plain_len};
use crate::{Error, ErrorKind, File, FileInfo, FileKind, Result, SecretKey, dag::Ipld};

/// How many segments are read at a time: 1 MiB.
const SEGMENT_COUNT: u64 = 16;

/// Opens a sealed file to be read anywhere; its length is authentic. A read opens each segment that it touches.
///
/// It says of itself what `file` does, but for its length; the CID is that of the sealed bytes.
///
/// # Errors
/// `BadKey`; `Corrupt` for what is no sealed file, is cut, or was added to, and from a read for what was changed,
/// moved, or put in from another; `Unsupported` where a newer version sealed it; `IsDir`: directories are never sealed;
/// `InvalidArgument` for what else is no regular file; those of `file`.
pub async fn open(key: &SecretKey, file: Box<dyn File>) -> Result<Box<dyn File>> {
    let refuse = |kind, why: &str| Err(Error::new(kind, "seal.open").because(why));
    match file.info().kind {
        FileKind::File => {}
        FileKind::Dir => return refuse(ErrorKind::IsDir, "only files are sealed"),
        _ => return refuse(ErrorKind::InvalidArgument, "only regular files are sealed"),
    }
    let cipher = FileCipher::of_header(key, &file.read_at(0, HEADER_LEN).await?)?;
    let Some(size) = plain_len(file.info().size) else {
        return Err(corrupt("no sealed file has its length: it was cut or added to"));
    };
    let info = FileInfo { size, ..file.info().clone() };
    let sealed = SealedFile { file, cipher, info };
    // Where it ends is what its last segment says.
    let last = last_of(size);
    sealed.segments(last, last).await?;
    Ok(Box::new(sealed))
}

#[derive(Debug)]
struct SealedFile {
    file: Box<dyn File>,
    cipher: FileCipher,
    info: FileInfo,
}

impl SealedFile {
    /// The plain bytes of some segments, at most [`SEGMENT_COUNT`], the last included.
    async fn segments(&self, first: u64, last: u64) -> Result<Vec<Bytes>> {
        let end = place(last + 1).min(self.file.info().size);
        let len = end - place(first);
        let read = self.file.read_at(place(first), u32::try_from(len).unwrap_or(u32::MAX)).await?;
        if read.len() as u64 != len {
            return Err(corrupt(format!("it ends at byte {}: it was cut", place(first) + read.len() as u64)));
        }
        let is_last = |index| index == last_of(self.info.size);
        let sealed = (first..=last).zip(read.chunks(SEALED_SEGMENT_LEN));
        sealed.map(|(index, sealed)| self.cipher.open(index, is_last(index), BytesMut::from(sealed))).collect()
    }
}

#[async_trait]
impl File for SealedFile {
    fn info(&self) -> &FileInfo {
        &self.info
    }

    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        let end = offset.saturating_add(len.into()).min(self.info.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (mut read, step) = (BytesMut::new(), SEGMENT_LEN as u64);
        let (mut next, last) = (offset / step, (end - 1) / step);
        while next <= last {
            let through = last.min(next + SEGMENT_COUNT - 1);
            for (index, plain) in (next..).zip(self.segments(next, through).await?) {
                let begin = index * step;
                let within =
                    |at: u64| usize::try_from(at.saturating_sub(begin)).map_or(plain.len(), |at| at.min(plain.len()));
                read.extend_from_slice(&plain[within(offset)..within(end)]);
            }
            next = through + 1;
        }
        Ok(read.freeze())
    }

    /// `None`: what is sealed are bytes.
    async fn linked_data(&self) -> Result<Option<Ipld>> {
        Ok(None)
    }
}
