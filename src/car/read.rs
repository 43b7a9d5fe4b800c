//! Reading a CAR as it comes: one section after the other, each block verified before it is handed out.
//!
//! Nothing is believed: a length is held against its limit before anything is read for it. Every error names the byte of the file where the header or section begins that it is about. After an error
//! nothing more is given, since a length that cannot be trusted says nothing of where the next section begins.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::{
    header::{HEADER_LEN_MAX, Header},
    section::{self, SECTION_LEN_MAX},
};
use crate::{Cid, Error, ErrorKind, Result, dag::hashing::Hashing};

/// How much is read at once, in bytes; longer blocks are read without this buffer.
const BUFFER_LEN: usize = 64 << 10;
/// The most bytes between the header of a `CARv2` and its data: whoever writes on aligns to pages, and nobody to more.
pub const PADDING_LEN_MAX: u64 = 16 << 20;
/// The header of a `CARv2`, behind the pragma.
const V2_HEADER_LEN: usize = 40;

/// A section: a block, which is that of the CID, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Where the section begins, in bytes from the beginning of the file: at its length.
    pub offset: u64,
    /// Its CID, as it is written there.
    pub cid: Cid,
    /// Its block.
    pub block: Bytes,
}

/// Reads a CAR, of version 1 or the one inside of version 2.
pub struct Reader<R> {
    source: BufReader<R>,
    version: u8,
    roots: Vec<Cid>,
    /// How much was read of the file, in bytes.
    offset: u64,
    /// Where the sections end, where that is known: in a `CARv2`.
    end: Option<u64>,
    /// Whether the end was reached, or an error.
    is_over: bool,
    hashing: Arc<Hashing>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads the header.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let mut reader = muxfs::car::Reader::open(&b"\x11\xa2eroots\x80gversion\x01"[..]).await?;
    /// assert_eq!((reader.version(), reader.roots().len()), (1, 0));
    /// assert_eq!(reader.next().await?, None);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt` for what is no CAR; `Unsupported` for one of another version; `TooLarge` past
    /// [`HEADER_LEN_MAX`] or [`ROOT_COUNT_MAX`](super::ROOT_COUNT_MAX); the source's.
    pub async fn open(source: R) -> Result<Self> {
        let mut reader = Self {
            source: BufReader::with_capacity(BUFFER_LEN, source),
            version: 1,
            roots: Vec::new(),
            offset: 0,
            end: None,
            is_over: false,
            hashing: Arc::new(Hashing::new()),
        };
        let roots = match reader.header().await? {
            Header::V1(roots) => roots,
            Header::V2 => {
                reader.version = 2;
                let (start, end) = reader.v2_header().await?;
                reader.skip_to(start).await?;
                reader.end = Some(end);
                match reader.header().await? {
                    Header::V1(roots) => roots,
                    Header::V2 => return Err(corrupt("within a CARv2 is a CARv1")).map_err(at(start)),
                }
            }
        };
        reader.roots = roots;
        Ok(reader)
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// What the header says the roots are; that their blocks are there is not said by it.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// How much of the file was read, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What hashes blocks of this reader, several at once.
    pub(super) fn hashing(&self) -> Arc<Hashing> {
        Arc::clone(&self.hashing)
    }

    /// The next section, its block verified; `None` at the end, and after an error. Sections of identity CIDs, which hold
    /// their block themselves, are verified and passed over. Dropped half way it is not to be called again.
    ///
    /// # Errors
    /// `Corrupt` for a block that does not hash to its CID, and for a file that is cut off or has no section where one
    /// should be; `TooLarge` past [`SECTION_LEN_MAX`]; the source's. Each names the byte where the section begins.
    pub async fn next(&mut self) -> Result<Option<Section>> {
        while let Some(section) = self.next_unverified().await? {
            if let Err(error) = self.hashing.verify(&section.cid, &section.block).await {
                self.is_over = true;
                return Err(error).map_err(|error| at(section.offset)(error.at(section.cid)));
            }
            if section.cid.identity().is_none() {
                return Ok(Some(section));
            }
        }
        Ok(None)
    }

    /// The next section as it is written, also one of an identity CID: [`Reader::next`] but for the hash. For who has several
    /// [checked](crate::block::Checks) at once.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub async fn next_unverified(&mut self) -> Result<Option<Section>> {
        if self.is_over {
            return Ok(None);
        }
        let offset = self.offset;
        let section = self.section(offset).await.map_err(at(offset));
        self.is_over = !matches!(section, Ok(Some(_)));
        section
    }

    async fn section(&mut self, offset: u64) -> Result<Option<Section>> {
        let Some(len) = self.len().await? else { return Ok(None) };
        if len == 0 {
            return Err(corrupt("a section has no length"));
        }
        let len = within(len, SECTION_LEN_MAX, "a section is longer than 2 MiB and 256 bytes")?;
        let (cid, block) = section::split(&self.take(len).await?)?;
        Ok(Some(Section { offset, cid, block }))
    }

    async fn header(&mut self) -> Result<Header> {
        let offset = self.offset;
        let header = async {
            let len = self.len().await?.ok_or_else(|| corrupt("there is no header"))?;
            let len = within(len, HEADER_LEN_MAX, "a header is longer than 1 MiB")?;
            Header::decode(&self.take(len).await?)
        };
        header.await.map_err(at(offset))
    }

    /// Where the data of a `CARv2` begins and ends.
    async fn v2_header(&mut self) -> Result<(u64, u64)> {
        let offset = self.offset;
        let bytes = self.take(V2_HEADER_LEN).await.map_err(at(offset))?;
        let number = |from: usize| {
            let number = bytes.get(from..).and_then(|bytes| bytes.first_chunk::<8>());
            number.map_or(0, |number| u64::from_le_bytes(*number))
        };
        let (start, len) = (number(16), number(24));
        let check = || {
            let padding = start.checked_sub(self.offset).ok_or("the data begins within the header")?;
            if padding > PADDING_LEN_MAX {
                return Err("the data begins more than 16 MiB behind the header");
            }
            if len == 0 {
                return Err("the data has no length: the file was not finished");
            }
            start.checked_add(len).ok_or("the data ends past 2^64 bytes")
        };
        check().map(|end| (start, end)).map_err(|why| at(offset)(corrupt(why)))
    }

    async fn skip_to(&mut self, start: u64) -> Result<()> {
        let from = self.offset;
        while self.offset < start {
            let step = usize::try_from(start - self.offset).unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
            self.take(step).await.map_err(at(from))?;
        }
        Ok(())
    }

    /// The varint before a header or a section; `None` where the file ends instead.
    async fn len(&mut self) -> Result<Option<u64>> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        let mut bytes = [0; 10];
        let mut count = 0;
        loop {
            let Some(byte) = self.byte().await? else {
                return if count == 0 && self.end.is_none() { Ok(None) } else { Err(cut_off()) };
            };
            let Some(place) = bytes.get_mut(count) else { return Err(corrupt("a length has more than 10 bytes")) };
            *place = byte;
            count += 1;
            if byte & 0x80 == 0 {
                let mut rest = bytes.get(..count).unwrap_or_default();
                return crate::dag::wire::take_varint(&mut rest, true).map(Some).map_err(corrupt);
            }
        }
    }

    /// The next byte; `None` at the end of the file, or of the data of a `CARv2`.
    async fn byte(&mut self) -> Result<Option<u8>> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        let mut byte = [0];
        let count = self.source.read(&mut byte).await.map_err(failed)?;
        self.offset += count as u64;
        Ok(byte.first().copied().filter(|_| count == 1))
    }

    /// So many bytes: no more than a limit, so that what is claimed costs one section at most.
    async fn take(&mut self, len: usize) -> Result<Bytes> {
        if self.end.is_some_and(|end| self.offset.saturating_add(len as u64) > end) {
            return Err(corrupt("it ends behind the data of the CARv2"));
        }
        let mut bytes = BytesMut::with_capacity(len);
        let mut source = (&mut self.source).take(len as u64);
        while bytes.len() < len {
            let count = source.read_buf(&mut bytes).await.map_err(failed)?;
            self.offset += count as u64;
            if count == 0 {
                return Err(cut_off());
            }
        }
        Ok(bytes.freeze())
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader(version {}, {} roots, at byte {})", self.version, self.roots.len(), self.offset)
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "car.read").because(why)
}

fn cut_off() -> Error {
    corrupt("the file ends within it: it is cut off")
}

fn failed(error: std::io::Error) -> Error {
    crate::dag::from_io("car.read", error)
}

fn within(len: u64, len_max: usize, why: &'static str) -> Result<usize> {
    let len = usize::try_from(len).ok().filter(|len| *len <= len_max);
    len.ok_or_else(|| Error::new(ErrorKind::TooLarge, "car.read").because(why))
}

/// Says where in the file the header or section begins that an error is about, in the words of the error's causes.
pub(super) fn at(offset: u64) -> impl Fn(Error) -> Error {
    move |error| {
        let named = Error::new(error.kind(), "car.read");
        let named = match error.path() {
            Some(path) => named.at(path),
            None => named,
        };
        let mut why = format!("at byte {offset}");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            why = format!("{why}: {error}");
            cause = error.source();
        }
        named.because(why)
    }
}
