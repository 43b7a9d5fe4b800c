//! The marks by which a directory is known to be a node, and a data directory to have a store.
//!
//! A directory that is empty may be a new one, or the place of a disk that is not mounted; nobody can tell but by a file
//! that was left there. Spec: spec/zstor.md #nodes.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// No mark is longer, in bytes.
const LEN_MAX: u64 = 4096;
const WORD: &str = "muxfs-node";
const VERSION: &str = "1";

/// Which store something belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// In hex.
    pub(crate) store: String,
    /// The name of the node.
    pub(crate) name: String,
}

/// What was found where a mark may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A mark that somebody made by hand: the directory is to be taken.
    Empty,
    Mark(Mark),
    /// What cannot be read as one, and why.
    Other(String),
}

impl Mark {
    pub(crate) fn new(store: StoreId, name: &str) -> Self {
        Self { store: store.to_string(), name: name.into() }
    }

    pub(crate) fn find(file: &Path) -> io::Result<Found> {
        let opened = match open_to_read(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if !opened.metadata()?.is_file() {
            return Ok(Found::Other("its mark is no file".into()));
        }
        let mut bytes = Vec::new();
        opened.take(LEN_MAX).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Found {
        if bytes.is_empty() {
            return Found::Empty;
        }
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines();
        match lines.next().and_then(|line| line.split_once(' ')) {
            Some((WORD, VERSION)) => {}
            Some((WORD, version)) => {
                return Found::Other(format!("its mark is of version {version}: use the newer program"));
            }
            _ => return Found::Other("its mark is damaged".into()),
        }
        let mut field = |name| lines.next().and_then(|line| line.strip_prefix(name)).map(str::to_owned);
        match (field("store "), field("name ")) {
            (Some(store), Some(name)) => Found::Mark(Self { store, name }),
            _ => Found::Other("its mark is damaged".into()),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let Self { store, name } = self;
        format!("{WORD} {VERSION}\nstore {store}\nname {name}\n")
    }

    /// Writes it, durably, over what is there; all or nothing.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let part = file.with_extension("new");
        let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        written.write_all(self.to_text().as_bytes())?;
        written.sync_all()?;
        fs::rename(&part, file)?;
        sync_dir(file.parent().unwrap_or(Path::new(".")))
    }
}

/// Opens what may be something else than a file, and is then not waited for, as a named pipe would be for its writer.
pub(crate) fn open_to_read(file: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(nonblocking).open(file)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// What tells one file or directory from another that came to its place: the number of one that was removed may be given
/// to the next, but not with the same time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    changed: (i64, i64),
}

pub(crate) fn identity(file: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(file)?;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Ok(Identity { dev: metadata.dev(), ino: metadata.ino(), changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back_and_what_is_none_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("muxfs-node");
        let mark = Mark::new(StoreId([0xab; 16]), "disk 3 of ünï");
        assert_eq!(Mark::find(&file).expect("absent"), Found::Nothing);
        fs::write(&file, b"").expect("written");
        assert_eq!(Mark::find(&file).expect("read"), Found::Empty);
        mark.write(&file).expect("written");
        assert_eq!(Mark::find(&file).expect("read"), Found::Mark(mark));
        for bad in
            [&b"x"[..], b"muxfs-node 2\nstore a\nname b\n", b"muxfs-node 1\nname b\n", b"\xff\xff", b"muxfs-node"]
        {
            assert!(matches!(Mark::parse(bad), Found::Other(_)), "{bad:?}");
        }
    }

    /// Who opened a named pipe waited for somebody to write to it.
    #[test]
    fn a_named_pipe_is_no_mark_and_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("muxfs-node");
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert!(matches!(Mark::find(&file).expect("told"), Found::Other(_)));
        fs::remove_file(&file).expect("removed");
        fs::create_dir(&file).expect("made");
        assert!(matches!(Mark::find(&file).expect("told"), Found::Other(_)));
    }
}
