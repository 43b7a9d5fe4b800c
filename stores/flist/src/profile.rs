//! Prefetch profiles: which chunks a start touches, in their order, in a file beside the flist.
//!
//! ```text
//! muxfs-flist-profile-1 FLIST         the first 16 bytes of the BLAKE3 of the flist, in hex
//! row INO FIRST LAST                  chunks FIRST to LAST of a file of an .fl
//! entry DIR INDEX FIRST LAST          the same of an .flist: the key of its directory in hex, and its place there
//! end CHECKSUM                        BLAKE2b-128 of all lines before, in hex
//! ```
//!
//! It names no chunk but by its file, so whoever writes one has nothing fetched but what is in the flist. One that is damaged,
//! or of another flist, is of no use and does no harm. Spec: spec/flist.md #profiles.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use muxfs::{Error, ErrorKind, Result};

use crate::{
    FlistId, NodeId,
    chunk::{blake2b_128, hex},
};

/// The most chunks of a profile: 2 GiB of those that flists have.
pub(crate) const TOUCHED_COUNT_MAX: usize = 4096;
/// The longest file that is read, in bytes: that of so many chunks, each on a line.
const PROFILE_LEN_MAX: u64 = 1 << 20;
const HEAD: &str = "muxfs-flist-profile-1";
const OP: &str = "flist.profile";

/// A chunk of a file: its node, and which one it is, from 0.
pub(crate) type Touched = (NodeId, u64);

/// Chunks in the order in which they were first touched.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    order: Vec<Touched>,
    seen: HashSet<Touched>,
}

/// Where the profile of an flist is: its own path and `.profile`.
pub(crate) fn profile_path(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".profile");
    path.into()
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, OP).because(why.into())
}

impl Profile {
    /// Remembers that a chunk was touched, unless it was before, or there are as many as there may be.
    pub(crate) fn touch(&mut self, node: NodeId, index: u64) {
        if self.order.len() < TOUCHED_COUNT_MAX && self.seen.insert((node, index)) {
            self.order.push((node, index));
        }
    }

    pub(crate) fn touched(&self) -> &[Touched] {
        &self.order
    }

    /// Reads the profile of an flist, if it has one.
    ///
    /// # Errors
    /// `Corrupt` where it is damaged or of another flist; `Io`. They name the file.
    pub(crate) fn read(path: &Path, flist: FlistId) -> Result<Option<Self>> {
        let failed = |error: io::Error| Error::new(ErrorKind::Io, OP).at(path.display()).because(error);
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut text = String::new();
        match file.take(PROFILE_LEN_MAX).read_to_string(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refuse("it is no text")),
            read => read.map_err(failed).and_then(|_| Self::parse(&text, flist)),
        }
        .map(Some)
        .map_err(|error| error.at(path.display()))
    }

    /// Puts it in the place of the file at `path`, whole or not at all.
    ///
    /// # Errors
    /// `Io`, naming the file.
    pub(crate) fn write(&self, path: &Path, flist: FlistId) -> Result<()> {
        let write = || {
            let dir = path.parent().unwrap_or(Path::new("/"));
            // The directory of flists shows nothing that begins with a dot.
            let mut file = tempfile::Builder::new().prefix(".profile-").tempfile_in(dir)?;
            file.write_all(self.text(flist).as_bytes())?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|error| Error::new(ErrorKind::Io, OP).at(path.display()).because(error))
    }

    fn text(&self, flist: FlistId) -> String {
        let mut text = format!("{HEAD} {}\n", hex(&flist.0));
        let mut rest = self.order.iter().copied().peekable();
        while let Some((node, first)) = rest.next() {
            let mut last = first;
            while let Some((_, next)) = rest.next_if(|next| Some(next.1) == last.checked_add(1) && next.0 == node) {
                last = next;
            }
            _ = match node {
                NodeId::Row(ino) => writeln!(text, "row {ino} {first} {last}"),
                NodeId::Entry { dir, index } => writeln!(text, "entry {} {index} {first} {last}", hex(&dir)),
                // It is no file.
                NodeId::Root => Ok(()),
            };
        }
        let checksum = hex(&blake2b_128(text.as_bytes()));
        text + "end " + &checksum + "\n"
    }

    fn parse(text: &str, flist: FlistId) -> Result<Self> {
        let damaged = || refuse("it is damaged");
        let (lines, end) = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n')).ok_or_else(damaged)?;
        let signed = text.get(..=lines.len()).ok_or_else(damaged)?;
        if end.strip_prefix("end ") != Some(&hex(&blake2b_128(signed.as_bytes()))) {
            return Err(damaged());
        }
        let mut lines = lines.split('\n');
        match lines.next().and_then(|head| head.split_once(' ')) {
            Some((HEAD, id)) if id == hex(&flist.0) => {}
            Some((HEAD, id)) => return Err(refuse(format!("it is of the flist {id}, and this one is another"))),
            _ => return Err(refuse("it is no profile that is read here")),
        }
        let mut profile = Self::default();
        for line in lines {
            let (node, first, last) = parse_line(line).ok_or_else(|| refuse(format!("a line is {line:?}")))?;
            for index in first..=last {
                if profile.order.len() == TOUCHED_COUNT_MAX {
                    return Err(refuse(format!("it has more than {TOUCHED_COUNT_MAX} chunks")));
                }
                profile.touch(node, index);
            }
        }
        Ok(profile)
    }
}

fn parse_line(line: &str) -> Option<(NodeId, u64, u64)> {
    let (node, first, last) = match line.split(' ').collect::<Vec<_>>()[..] {
        ["row", ino, first, last] => (NodeId::Row(ino.parse().ok()?), first, last),
        ["entry", dir, index, first, last] => {
            let dir = u128::from_str_radix(dir, 16).ok().filter(|_| dir.len() == 32)?.to_be_bytes();
            (NodeId::Entry { dir, index: index.parse().ok()? }, first, last)
        }
        _ => return None,
    };
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    // So many of one file that nothing which follows could be among those that are read.
    let count = last.checked_sub(first)?;
    (count < TOUCHED_COUNT_MAX as u64).then_some((node, first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIST: FlistId = FlistId([7; 16]);

    fn profile() -> Profile {
        let mut profile = Profile::default();
        let entry = NodeId::Entry { dir: [0xab; 16], index: 3 };
        for (node, index) in [
            (NodeId::Row(5), 0),
            (NodeId::Row(5), 1),
            (NodeId::Row(5), 2),
            (NodeId::Row(5), 1),
            (entry, 9),
            (NodeId::Row(5), 3),
            (entry, 8),
        ] {
            profile.touch(node, index);
        }
        profile
    }

    /// The bytes are a promise to who has one.
    #[test]
    fn the_text_is_this_and_reads_back_in_order() {
        let text = profile().text(FLIST);
        let dir = "ab".repeat(16);
        let head =
            format!("{HEAD} {}\nrow 5 0 2\nentry {dir} 3 9 9\nrow 5 3 3\nentry {dir} 3 8 8\nend ", "07".repeat(16));
        assert_eq!(text.strip_prefix(&head).map(str::len), Some(33), "{text}");
        assert_eq!(Profile::parse(&text, FLIST).expect("good"), profile());
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let text = profile().text(FLIST);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).expect("ASCII");
            Profile::parse(&changed, FLIST).expect_err("changed");
            Profile::parse(&text[..at], FLIST).expect_err("cut");
        }
        let error = Profile::parse(&text, FlistId([8; 16])).expect_err("of another");
        assert!(format!("{error:#}").contains("this one is another"), "{error:#}");
        let line = |line: &str| {
            let text = format!("{HEAD} {}\n{line}\n", hex(&FLIST.0));
            let checksum = hex(&blake2b_128(text.as_bytes()));
            Profile::parse(&format!("{text}end {checksum}\n"), FLIST)
        };
        line("row 1 0 4095").expect("as many as may be");
        for bad in [
            "",
            "row 1 0",
            "row -1 0 0",
            "row 1 2 1",
            "row 1 0 4096",
            "row 1 0 18446744073709551615",
            "entry ab 1 0 0",
            "x",
        ] {
            line(bad).expect_err(bad);
        }
        line("row 1 0 4095\nrow 2 0 0").expect_err("one more than may be");
    }

    #[test]
    fn so_many_are_remembered() {
        let mut profile = Profile::default();
        (0..10_000).for_each(|index| profile.touch(NodeId::Row(index), index));
        assert_eq!(profile.touched().len(), TOUCHED_COUNT_MAX);
        let longest = profile.text(FLIST).len();
        assert!((longest as u64) < PROFILE_LEN_MAX, "{longest}");
    }
}
