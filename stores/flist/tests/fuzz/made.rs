//! A good flist of each format with its chunks, and the damage that is done to bytes.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use muxfs::{ErrorKind, FileKind, Result, testing::fault::Dice};
use muxfs_flist::{
    DEPTH_MAX, Flist,
    write::{self, CreateOptions, Source, Stores},
};
use tempfile::TempDir;

/// No input has so many nodes that are not there again and again.
const NODE_COUNT_MAX: usize = 10_000;
/// The unit of a tar, in bytes.
pub(crate) const BLOCK_LEN: usize = 512;

/// A directory with a source, and what was made of it.
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: TempDir::new().expect("a directory") };
        for name in ["source/a/b/c", "source/empty", "chunks", "scratch", "made"] {
            fs::create_dir_all(world.path(name)).expect("made");
        }
        fs::write(world.path("source/a/two-chunks"), Dice::new(1).bytes(600_000)).expect("written");
        fs::write(world.path("source/a/b/short"), b"some bytes of a file").expect("written");
        fs::write(world.path("source/a/b/c/empty"), b"").expect("written");
        std::os::unix::fs::symlink("../a/b", world.path("source/empty/link")).expect("linked");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes an flist of a source, and gives its path.
    pub(crate) fn create(&self, source: &Path, name: &str) -> Result<PathBuf> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let url = format!("dir://{}", self.path("chunks").display()).parse().expect("an address");
            let stores = Arc::new(Stores::open(&[url])?);
            let target = self.path("made").join(name);
            write::create(Source::of(source)?, stores, &target, CreateOptions::default()).await?;
            Ok(target)
        })
    }

    /// What comes of bytes as an flist.
    pub(crate) fn attempt(&self, bytes: &[u8]) -> &'static str {
        let path = self.path("made").join("damaged");
        fs::write(&path, bytes).expect("written");
        let done = Flist::open(&path, &self.path("scratch")).and_then(|flist| walk(&flist));
        assert_eq!(self.path("scratch").read_dir().expect("listed").count(), 0, "something is left");
        match done {
            Ok(()) => "read",
            Err(error) => {
                let known = [ErrorKind::Corrupt, ErrorKind::TooLarge, ErrorKind::Unsupported];
                assert!(known.contains(&error.kind()), "{error:#}");
                assert!(format!("{error:#}").contains("damaged"), "{error:#} does not name it");
                "refused"
            }
        }
    }
}

/// Reads everything there is to read but what is stored of chunks, and holds what is said twice against each other.
pub(crate) fn walk(flist: &Flist) -> Result<()> {
    let (mut dirs, mut count) = (vec![(flist.root()?, 0)], 0);
    flist.metadata()?;
    flist.routes()?;
    while let Some((dir, depth)) = dirs.pop() {
        assert!(depth <= DEPTH_MAX, "it goes down for ever");
        for entry in flist.dir(&dir)?.entries {
            count += 1;
            assert!(count < NODE_COUNT_MAX, "it has no end");
            let name = entry.name.as_bytes();
            assert!(!name.contains(&b'/') && !matches!(name, b"" | b"." | b".."), "{name:?} leads elsewhere");
            let again = flist.inode(entry.inode.id)?.expect("it was listed");
            assert_eq!(format!("{again:?}"), format!("{:?}", entry.inode));
            assert_eq!(flist.parent(entry.inode.id)?, dir.id);
            match entry.inode.kind {
                FileKind::Dir => dirs.push((entry.inode, depth + 1)),
                FileKind::File => {
                    let (len, chunks) = flist.chunks(entry.inode.id, 0, 100)?;
                    assert!(len > 0 && chunks.len() <= 100);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Numbers at which something changes.
const EDGES: [u32; 10] = [0, 1, 4, 0x7f, 0xff, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_fffc, 0xffff_ffff];

/// Changes some of the bytes: a bit, a byte, a word to one at which something changes, a part in the place of another, or the end.
pub(crate) fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.roll(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.roll(bytes.len());
        match dice.roll(12) {
            0..4 => bytes[at] ^= 1 << dice.roll(8),
            4..6 => bytes[at] = u8::try_from(dice.roll(256)).expect("a byte"),
            6..9 => {
                let at = at & !3;
                if let Some(word) = bytes.get_mut(at..at + 4) {
                    word.copy_from_slice(&EDGES[dice.roll(EDGES.len())].to_le_bytes());
                }
            }
            9 => {
                let len = dice.roll(64).min(bytes.len() - at);
                let from = dice.roll(bytes.len() - len + 1);
                bytes.copy_within(from..from + len, at);
            }
            10 => bytes.truncate(at),
            _ => {
                let more = dice.bytes(8);
                bytes.splice(at..at, more);
            }
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut unpacked).expect("good");
    unpacked
}

/// A header of a tar with its checksum, of a file that is said to have `len` bytes.
pub(crate) fn header(name: &[u8], kind: u8, link: &[u8], len: &[u8; 12]) -> [u8; BLOCK_LEN] {
    let mut header = [0; BLOCK_LEN];
    let name = name.get(..100).unwrap_or(name);
    header[..name.len()].copy_from_slice(name);
    header[100..124].copy_from_slice(b"0000755\x000000007\x000000010\0");
    header[124..136].copy_from_slice(len);
    header[136..148].copy_from_slice(b"00000001750\0");
    header[156] = kind;
    let link = link.get(..100).unwrap_or(link);
    header[157..157 + link.len()].copy_from_slice(link);
    header[257..265].copy_from_slice(b"ustar\x0000");
    with_checksum(header)
}

pub(crate) fn with_checksum(mut header: [u8; BLOCK_LEN]) -> [u8; BLOCK_LEN] {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A length as a header has it.
pub(crate) fn octal(len: usize) -> [u8; 12] {
    format!("{len:011o}\0").into_bytes().try_into().expect("12 bytes")
}

/// Lengths that nothing has: a file of exabytes, the longest number, and none at all.
pub(crate) const WRONG_LENS: [&[u8; 12]; 4] =
    [b"77777777777\0", b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", &[0xff; 12], b"not a number"];
