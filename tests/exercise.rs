//! Goal: a file of a working tree holds what was written to it, whatever is done with it and whenever commits come.
//! Method: the exerciser of `muxfs::testing`, by the calls of the library. `MUXFS_EXERCISE_STEPS` says how much is done.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::{io, ops::Range};

use bytes::Bytes;
use muxfs::{
    Name, Result,
    testing::exerciser::{Bed, Commits, Plan, Verb, Way, exercise},
    vfs::{Ino, NewNode, SetAttr, Vfs},
};
use tokio::runtime::{Builder, Runtime};

/// How many steps each test takes: with and without commits they are 200,000.
const STEP_COUNT: u64 = 100_000;

struct Library<'a> {
    runtime: &'a Runtime,
    bed: Bed,
    file: Ino,
}

impl<'a> Library<'a> {
    fn new(runtime: &'a Runtime, commits: Commits) -> Self {
        let bed = runtime.block_on(Bed::new(commits));
        let name = Name::new(b"f").unwrap();
        let made = bed.tree.create(bed.tree.root(), &name, NewNode::File, SetAttr::default());
        let file = runtime.block_on(made).unwrap().node.ino;
        Self { runtime, bed, file }
    }

    fn run<T>(&self, call: impl Future<Output = Result<T>>) -> io::Result<T> {
        self.runtime.block_on(call).map_err(io::Error::other)
    }
}

impl Way for Library<'_> {
    fn verbs(&self) -> &'static [Verb] {
        use Verb::{Allocate, Copy, Len, Punch, Read, SetLen, Settle, Write, Zero};
        &[Read, Write, Len, SetLen, Punch, Zero, Allocate, Copy, Settle]
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let len = u32::try_from(range.end - range.start).unwrap();
        self.run(self.bed.tree.read(self.file, range.start, len)).map(Vec::from)
    }

    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.run(self.bed.tree.write(self.file, offset, data, false)).map(drop)
    }

    fn len(&mut self) -> io::Result<u64> {
        self.run(self.bed.tree.getattr(self.file)).map(|attr| attr.size)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let set = SetAttr { size: Some(len), ..SetAttr::default() };
        self.run(self.bed.tree.setattr(self.file, set)).map(drop)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.run(self.bed.tree.sync_inode(self.file))?;
        self.bed.settle(self.runtime).map_err(io::Error::other)
    }

    fn punch(&mut self, range: Range<u64>) -> io::Result<()> {
        self.run(self.bed.tree.punch_hole(self.file, range)).map(drop)
    }

    fn zero(&mut self, range: Range<u64>) -> io::Result<()> {
        self.punch(range.clone())?;
        self.allocate(range)
    }

    fn allocate(&mut self, range: Range<u64>) -> io::Result<()> {
        self.run(self.bed.tree.allocate(self.file, range, false)).map(drop)
    }

    fn copy(&mut self, from: Range<u64>, to: u64) -> io::Result<()> {
        let len = from.end - from.start;
        let (copied, _) = self.run(self.bed.tree.copy_range((self.file, from.start), (self.file, to), len))?;
        assert_eq!(copied, len, "what is within the file is copied whole");
        Ok(())
    }
}

fn exercised(name: &str, commits: Commits) {
    // Commits run beside the steps, which the thread of the test takes.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    exercise(name, Plan::from_env(STEP_COUNT), |_seed| Library::new(&runtime, commits));
}

#[test]
fn a_file_holds_what_was_written_before_any_commit() {
    exercised("library without commits", Commits::Never);
}

#[test]
fn a_file_holds_what_was_written_whenever_commits_come() {
    exercised("library with commits", Commits::Beside);
}
