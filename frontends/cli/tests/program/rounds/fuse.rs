//! A program that works on files of a mounted directory: what it does is visible at once, and durable after `fsync`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use muxfs::testing::fault::Dice;

use super::{Expected, Lost, Round, State};

/// The kernel's; where it has longer ones, what it makes of a write is among the states that are expected.
const PAGE_LEN: usize = 4096;

type Called<T> = Result<T, Lost>;

pub(super) struct FuseClient {
    mount: PathBuf,
    dir: String,
    dice: Dice,
    expected: Expected<Arc<Vec<u8>>>,
}

/// A program's calls, while a round lasts.
struct Calls<'a>(&'a Round);

impl Calls<'_> {
    /// What a call said; an error that no working mount gives fails the test.
    fn called<T>(&self, what: &str, result: io::Result<T>) -> Called<T> {
        use rustix::io::Errno;
        result.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOTCONN | Errno::CONNABORTED) => Lost,
            // A server that ends in order has closed its stores while programs still use the mount.
            Some(Errno::IO) if self.0.ends.load(Ordering::SeqCst) => Lost,
            _ => panic!("{what}: {error}"),
        })
    }
}

impl FuseClient {
    pub(super) fn new(mount: &Path, dir: String, seed: u64) -> Self {
        Self { mount: mount.into(), dir, dice: Dice::new(seed), expected: Expected::new() }
    }

    /// Looks at what is there, and works until the server is gone.
    pub(super) fn run(&mut self, round: &Round) {
        let calls = Calls(round);
        let Ok((_dir, at)) = self.enter(&calls) else { return };
        let looked = self.look(&calls, &at);
        if looked.is_ok() {
            while self.step(&calls, &at).is_ok() {
                round.answered();
            }
        }
    }

    /// The directory, and a path that leads to it in this mount alone: when it is taken away, not to what is below it.
    fn enter(&self, calls: &Calls<'_>) -> Called<(File, PathBuf)> {
        let path = self.mount.join(&self.dir);
        match fs::create_dir(&path) {
            // In the first round it is not.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => calls.called("mkdir", made)?,
        }
        calls.called("open", File::open(&self.mount)).and_then(|above| calls.called("fsync", above.sync_all()))?;
        let dir = calls.called("open", File::open(path))?;
        let at = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        Ok((dir, at))
    }

    fn look(&mut self, calls: &Calls<'_>, at: &Path) -> Called<()> {
        let mut found = BTreeMap::new();
        for entry in calls.called("readdir", fs::read_dir(at))? {
            let name = calls.called("readdir", entry)?.file_name().into_string().expect("its own names");
            let bytes = calls.called("read", fs::read(at.join(&name)))?;
            found.insert(name, Arc::new(bytes));
        }
        let lens = |state: &State<Arc<Vec<u8>>>| {
            state.iter().map(|(name, bytes)| format!("{name} {}", bytes.len())).collect::<Vec<_>>().join(", ")
        };
        self.expected.found(
            &self.dir,
            |state| *state == found,
            |states| format!("{}; may be:\n{}", lens(&found), states.iter().map(lens).collect::<Vec<_>>().join("\n")),
        );
        Ok(())
    }

    fn step(&mut self, calls: &Calls<'_>, at: &Path) -> Called<()> {
        let name = format!("f{}", self.dice.roll(8));
        let path = at.join(&name);
        let Some(bytes) = self.expected.now().get(&name).cloned() else {
            self.expected.begin(|state| {
                state.insert(name, Arc::default());
            });
            return calls.called("create", File::create_new(path)).map(drop);
        };
        match self.dice.roll(12) {
            0 => {
                self.expected.begin(|state| {
                    state.remove(&name);
                });
                calls.called("unlink", fs::remove_file(path))
            }
            1 => {
                let to = format!("f{}", self.dice.roll(8));
                self.expected.begin(|state| {
                    let bytes = state.remove(&name).expect("it is there");
                    state.insert(to.clone(), bytes);
                });
                calls.called("rename", fs::rename(path, at.join(to)))
            }
            2 => {
                let len = self.dice.roll(30_000);
                self.change(&name, |bytes| bytes.resize(len, 0));
                let file = calls.called("open", File::options().write(true).open(path))?;
                calls.called("truncate", file.set_len(len as u64))
            }
            3 | 4 => {
                calls.called("open", File::open(path)).and_then(|file| calls.called("fsync", file.sync_all()))?;
                calls.called("open", File::open(at)).and_then(|dir| calls.called("fsync", dir.sync_all()))?;
                self.expected.settle();
                Ok(())
            }
            5 | 6 => {
                assert!(calls.called("read", fs::read(path))? == *bytes, "{}/{name} differs", self.dir);
                Ok(())
            }
            _ => self.write(calls, &name, &path),
        }
    }

    fn write(&mut self, calls: &Calls<'_>, name: &str, path: &Path) -> Called<()> {
        let (offset, len) = match self.dice.roll(10) {
            // Whole chunks, which do not go through the journal.
            0 => (self.dice.roll(2) << 20, 1 << 20),
            _ => (self.dice.roll(30_000), 1 + self.dice.roll(9_000)),
        };
        let data = self.dice.bytes(len);
        // Whole pages are one request; a page that is written in part ends one.
        let is_whole = offset % PAGE_LEN == 0 && len % PAGE_LEN == 0;
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let at = offset + len - rest.len();
            let (piece, after) = rest.split_at(if is_whole { len } else { rest.len().min(PAGE_LEN - at % PAGE_LEN) });
            self.change(name, |bytes| {
                let end = at + piece.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[at..end].copy_from_slice(piece);
            });
            rest = after;
        }
        let file = calls.called("open", File::options().write(true).open(path))?;
        calls.called("write", file.write_all_at(&data, offset as u64))
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.expected.begin(|state| change(Arc::make_mut(state.get_mut(name).expect("it is there"))));
    }
}
