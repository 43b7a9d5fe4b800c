//! The `UnixFS` message inside a dag-pb node: what kind of node it is, its size, its metadata.
//!
//! ```text
//! 1 Type  0 Raw, 1 Directory, 2 File, 3 Metadata, 4 Symlink, 5 HAMTShard      required
//! 2 Data  3 filesize  4 blocksizes (repeated, not packed)  5 hashType  6 fanout
//! 7 mode  8 mtime { 1 seconds (int64)  2 nanoseconds (fixed32) }
//! ```
//!
//! We write the fields in this order and only those that are set; we read what others write: any order, packed
//! `blocksizes`, fields we do not know. Spec: spec/dag.md #unixfs, <https://specs.ipfs.tech/unixfs/>.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{
    Dag, Node, UnixfsMeta,
    pb::PbScan,
    wire::{Value, Why, put_bytes, put_len, put_number, take_field, take_varint, varint_len},
};
use crate::{Cid, Codec, Error, ErrorKind, FileKind, Result};

/// What a `UnixFS` node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixfsType {
    /// A leaf of a file, in trickle layouts and old data.
    Raw,
    /// A directory whose links are its entries.
    Directory,
    /// A file, or a part of one.
    File,
    /// A remnant that nothing writes.
    Metadata,
    /// A symbolic link; its target is the data.
    Symlink,
    /// A shard of a directory.
    HamtShard,
}

impl UnixfsType {
    const ALL: [Self; 6] = [Self::Raw, Self::Directory, Self::File, Self::Metadata, Self::Symlink, Self::HamtShard];
}

/// A modification time as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixfsTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999; 0 is written as an absent field.
    pub nanos: u32,
}

impl UnixfsTime {
    /// The time as the system counts it; `None` if it cannot.
    pub fn to_system(self) -> Option<SystemTime> {
        let seconds = Duration::from_secs(self.seconds.unsigned_abs());
        let whole = if self.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
        whole?.checked_add(Duration::from_nanos(self.nanos.into()))
    }

    /// The time as `UnixFS` counts it; `None` if it is too far away.
    pub fn from_system(time: SystemTime) -> Option<Self> {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Some(Self { seconds: after.as_secs().try_into().ok()?, nanos: after.subsec_nanos() }),
            Err(error) => {
                let before = error.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                let seconds = i64::try_from(before.as_secs()).ok()?.checked_add(borrow)?.checked_neg()?;
                Some(Self { seconds, nanos: (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000 })
            }
        }
    }
}

/// The `UnixFS` message of a dag-pb node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixfsData {
    /// What the node is.
    pub kind: UnixfsType,
    /// Content of a leaf, target of a symlink, bitmap of a shard; absent and empty mean the same.
    pub data: Bytes,
    /// The length of the file; absent in what is no file.
    pub filesize: Option<u64>,
    /// The length of the file below each link.
    pub blocksizes: Vec<u64>,
    /// The hash of a sharded directory.
    pub hash_type: Option<u64>,
    /// The fanout of a sharded directory.
    pub fanout: Option<u64>,
    /// The permission bits; the upper 20 bits are kept as they are.
    pub mode: Option<u32>,
    /// The modification time.
    pub mtime: Option<UnixfsTime>,
}

impl UnixfsData {
    /// A message of this type with nothing else set.
    ///
    /// ```
    /// use muxfs::dag::unixfs::{UnixfsData, UnixfsType};
    /// assert_eq!(UnixfsData::new(UnixfsType::Directory).encode(), b"\x08\x01");
    /// ```
    pub fn new(kind: UnixfsType) -> Self {
        let (data, blocksizes) = (Bytes::new(), Vec::new());
        Self { kind, data, filesize: None, blocksizes, hash_type: None, fanout: None, mode: None, mtime: None }
    }

    /// Sets mode and mtime, exactly as they are given.
    ///
    /// # Errors
    /// `InvalidArgument` if the time cannot be written.
    pub fn with_meta(mut self, meta: UnixfsMeta) -> Result<Self> {
        self.mode = meta.mode;
        self.mtime = match meta.mtime {
            Some(time) => Some(UnixfsTime::from_system(time).ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "unixfs.meta").because("the time is past 64 bits of seconds")
            })?),
            None => None,
        };
        Ok(self)
    }

    /// Mode and mtime.
    pub fn meta(&self) -> UnixfsMeta {
        UnixfsMeta { mode: self.mode, mtime: self.mtime.and_then(UnixfsTime::to_system) }
    }

    /// Decodes a message; `data` shares the memory of `bytes`.
    ///
    /// ```
    /// use muxfs::dag::unixfs::UnixfsData;
    /// assert_eq!(UnixfsData::decode(&b"\x08\x02\x12\x01x\x18\x01"[..].into())?.data, "x");
    /// assert!(UnixfsData::decode(&b"\x08\x09"[..].into()).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        Self::read(bytes).map_err(corrupt)
    }

    fn read(bytes: &Bytes) -> Result<Self, Why> {
        let mut message = Self::new(UnixfsType::Raw);
        let mut kind = None;
        let mut rest = &bytes[..];
        while let Some(field) = take_field(&mut rest)? {
            match field {
                (1, Value::Varint(number)) => {
                    let index = usize::try_from(number).map_err(|_| "a type that does not exist")?;
                    kind = Some(*UnixfsType::ALL.get(index).ok_or("a type that does not exist")?);
                }
                (2, Value::Bytes(data)) => message.data = bytes.slice_ref(data),
                (3, Value::Varint(size)) => message.filesize = Some(size),
                (4, Value::Varint(size)) => message.blocksizes.push(size),
                (4, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        message.blocksizes.push(take_varint(&mut packed, false)?);
                    }
                }
                (5, Value::Varint(hash)) => message.hash_type = Some(hash),
                (6, Value::Varint(fanout)) => message.fanout = Some(fanout),
                // A uint32 keeps the low bits of what was written, as in every protobuf library.
                (7, Value::Varint(mode)) => message.mode = Some((mode & 0xffff_ffff) as u32),
                (8, Value::Bytes(time)) => message.mtime = Some(Self::read_time(time)?),
                (1..=8, _) => return Err("a field has the wrong wire type"),
                _ => {}
            }
        }
        message.kind = kind.ok_or("the type is missing")?;
        Ok(message)
    }

    fn read_time(mut rest: &[u8]) -> Result<UnixfsTime, Why> {
        let (mut seconds, mut nanos) = (None, 0);
        while let Some(field) = take_field(&mut rest)? {
            match field {
                (1, Value::Varint(bits)) => seconds = Some(bits.cast_signed()),
                (2, Value::Fixed32(bits)) => nanos = bits,
                (1..=2, _) => return Err("a field of mtime has the wrong wire type"),
                _ => {}
            }
        }
        // A 0 that is written out breaks the specification, but a popular writer does so.
        if nanos > 999_999_999 {
            return Err("mtime has a second or more of nanoseconds");
        }
        Ok(UnixfsTime { seconds: seconds.ok_or("mtime has no seconds")?, nanos })
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(40 + self.data.len() + 6 * self.blocksizes.len());
        put_number(&mut to, 1, self.kind as u64);
        if !self.data.is_empty() {
            put_bytes(&mut to, 2, &self.data);
        }
        self.encode_after_data(&mut to);
        to
    }

    /// Appends the fields that stand behind `data`.
    pub(crate) fn encode_after_data(&self, to: &mut Vec<u8>) {
        if let Some(size) = self.filesize {
            put_number(to, 3, size);
        }
        for size in &self.blocksizes {
            put_number(to, 4, *size);
        }
        for (field, value) in [(5, self.hash_type), (6, self.fanout), (7, self.mode.map(u64::from))] {
            if let Some(value) = value {
                put_number(to, field, value);
            }
        }
        if let Some(time) = self.mtime {
            let seconds = time.seconds.cast_unsigned();
            let nanos_len = if time.nanos == 0 { 0 } else { 5 };
            put_len(to, 8, 1 + varint_len(seconds) + nanos_len);
            put_number(to, 1, seconds);
            if time.nanos != 0 {
                to.push(2 << 3 | 5);
                to.extend_from_slice(&time.nanos.to_le_bytes());
            }
        }
    }
}

fn corrupt(why: Why) -> Error {
    Error::new(ErrorKind::Corrupt, "unixfs.decode").because(why)
}

impl Dag {
    /// Reads what the block of a node says of it. Of a file that is its size, unproved until its content is read; of a
    /// symlink the length of its target; of a directory 0. Linked data (dag-cbor, dag-json) is a file of its bytes.
    ///
    /// # Errors
    /// `NotFound` if the block is absent; `Corrupt` if it fails verification or is no `UnixFS` node; `Unsupported` for
    /// a codec or a type of node that has no meaning here.
    pub async fn stat(&self, cid: &Cid) -> Result<Node> {
        let block = self.get_block(cid).await?;
        Node::of_block(cid, &block).map_err(|error| error.at(cid))
    }
}

impl Node {
    pub(crate) fn of_block(cid: &Cid, block: &Bytes) -> Result<Self> {
        match cid.codec() {
            Some(Codec::Raw | Codec::DagCbor | Codec::DagJson) => {
                Ok(Self { kind: FileKind::File, size: block.len() as u64, mode: None, mtime: None })
            }
            Some(Codec::DagPb) => Self::of_unixfs(&unixfs_of(block)?),
            None => {
                Err(Error::new(ErrorKind::Unsupported, "dag.stat").because("the codec is not one that is read here"))
            }
        }
    }

    fn of_unixfs(message: &UnixfsData) -> Result<Self> {
        let (kind, size) = match message.kind {
            UnixfsType::File | UnixfsType::Raw => (FileKind::File, file_size(message)?),
            UnixfsType::Directory | UnixfsType::HamtShard => (FileKind::Dir, 0),
            UnixfsType::Symlink => (FileKind::Symlink, message.data.len() as u64),
            UnixfsType::Metadata => {
                return Err(Error::new(ErrorKind::Unsupported, "dag.stat").because("a UnixFS Metadata node"));
            }
        };
        let meta = message.meta();
        Ok(Self { kind, size, mode: meta.mode, mtime: meta.mtime })
    }
}

/// The length of a file node: that of its own data and of what its links say is below them.
pub(crate) fn file_size(message: &UnixfsData) -> Result<u64> {
    let size = message.blocksizes.iter().try_fold(message.data.len() as u64, |sum, size| sum.checked_add(*size));
    match (size, message.filesize) {
        (Some(size), Some(claimed)) if size == claimed => Ok(size),
        // An old leaf without the field says nothing that could be wrong.
        (Some(size), None) => Ok(size),
        _ => Err(corrupt("filesize is not the sum of data and blocksizes")),
    }
}

/// The `UnixFS` message of a dag-pb block, without its links.
pub(crate) fn unixfs_of(block: &Bytes) -> Result<UnixfsData> {
    let data = PbScan::new(block)?.data.ok_or_else(|| corrupt("a dag-pb node without Data"))?;
    UnixfsData::decode(&block.slice_ref(data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<UnixfsData> {
        UnixfsData::decode(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn messages_that_are_refused() {
        let cases: [(&str, &[u8]); 12] = [
            ("no type", b"\x12\x01x"),
            ("nothing", b""),
            ("a type that does not exist", b"\x08\x06"),
            ("a type past all types", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            ("a type of the wrong wire type", b"\x0a\x01"),
            ("a group", b"\x08\x02\x0b"),
            ("field 0", b"\x08\x02\x00\x01"),
            ("data past the end", b"\x08\x02\x12\x05x"),
            ("packed sizes that are cut off", b"\x08\x02\x22\x02\x01\x80"),
            ("mtime without seconds", b"\x08\x01\x42\x00"),
            ("a whole second of nanoseconds", b"\x08\x01\x42\x07\x08\x00\x15\x00\xca\x9a\x3b"),
            ("nanoseconds as a varint", b"\x08\x01\x42\x04\x08\x00\x10\x01"),
        ];
        for (what, bytes) in cases {
            assert_eq!(decode(bytes).expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        }
    }

    #[test]
    fn what_others_write_is_read() {
        let packed =
            decode(b"\x18\x05\x08\x02\x22\x03\x01\x84\x00\x7a\x01?").expect("packed, out of order, unknown field");
        assert_eq!((packed.kind, packed.blocksizes, packed.filesize), (UnixfsType::File, vec![1, 4], Some(5)));
        let zero = decode(b"\x08\x01\x42\x07\x08\x00\x15\x00\x00\x00\x00").expect("nanoseconds 0, written out");
        assert_eq!(zero.mtime, Some(UnixfsTime { seconds: 0, nanos: 0 }));
    }

    #[test]
    fn times_as_they_are_written() {
        let day_before = UNIX_EPOCH - Duration::new(1, 250_000_000);
        let cases: [(SystemTime, &[u8]); 4] = [
            (UNIX_EPOCH, b"\x08\x01\x42\x02\x08\x00"),
            (
                UNIX_EPOCH + Duration::new(1_700_000_000, 1),
                b"\x08\x01\x42\x0b\x08\x80\xe2\xcf\xaa\x06\x15\x01\x00\x00\x00",
            ),
            (UNIX_EPOCH - Duration::from_secs(1), b"\x08\x01\x42\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            (day_before, b"\x08\x01\x42\x10\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x15\x80\x17\xb4\x2c"),
        ];
        for (time, bytes) in cases {
            let meta = UnixfsMeta { mode: None, mtime: Some(time) };
            let message = UnixfsData::new(UnixfsType::Directory).with_meta(meta).expect("in range");
            assert_eq!(message.encode(), bytes, "{time:?}");
            assert_eq!(decode(bytes).expect("what we wrote").meta(), meta);
        }
    }

    fn any_message() -> impl Strategy<Value = UnixfsData> {
        let time = proptest::option::of((any::<i64>(), 0..1_000_000_000u32));
        let sizes = proptest::collection::vec(any::<u64>(), 0..6);
        let data = proptest::collection::vec(any::<u8>(), 0..30);
        let numbers = any::<(Option<u64>, Option<u64>, Option<u64>, Option<u32>)>();
        (0..6usize, data, sizes, numbers, time).prop_map(|(kind, data, blocksizes, numbers, time)| UnixfsData {
            kind: UnixfsType::ALL[kind],
            data: data.into(),
            filesize: numbers.0,
            blocksizes,
            hash_type: numbers.1,
            fanout: numbers.2,
            mode: numbers.3,
            mtime: time.map(|(seconds, nanos)| UnixfsTime { seconds, nanos }),
        })
    }

    proptest! {
        #[test]
        fn messages_round_trip(message in any_message()) {
            prop_assert_eq!(decode(&message.encode()).expect("what we encode"), message);
        }

        #[test]
        fn times_round_trip(seconds in -1i64 << 40..1 << 40, nanos in 0..1_000_000_000u32) {
            let time = UnixfsTime { seconds, nanos };
            prop_assert_eq!(time.to_system().and_then(UnixfsTime::from_system), Some(time));
        }

        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes).map(|message| file_size(&message)));
        }
    }
}
