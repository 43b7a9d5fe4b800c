//! The library, as the commands call it.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use muxfs::testing::linear::Role::{Change, Read};

use super::{
    Client, Directory, Log, Span,
    model::{NAMES, Op},
};
use crate::World;

/// What `muxfs` says of a path that leads nowhere.
const NOT_FOUND: i32 = 3;

pub(super) struct CommandClient<'a> {
    world: &'a World,
}

impl<'a> CommandClient<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        Self { world }
    }

    /// Runs a command; its output, `None` where there is no such path.
    fn run(&self, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut command = self.world.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
        match status.code() {
            Some(0) => Some(stdout),
            Some(NOT_FOUND) => None,
            _ => panic!("{args:?}: {}", String::from_utf8_lossy(&stderr)),
        }
    }
}

/// What `ls` printed.
fn listed(log: &mut Log, span: Span, names: &[u8]) {
    log.listed(span, Read, |name| names.split(|byte| *byte == b'\n').any(|line| line == name.as_bytes()));
}

impl Client for CommandClient<'_> {
    fn who(&self) -> &'static str {
        "command"
    }

    fn reaches(&self, _: &Directory) -> bool {
        true
    }

    fn work(&mut self, dir: &Directory, log: &mut Log) {
        // A process each: the others do several things meanwhile.
        for _ in 0..log.count.div_ceil(8) {
            let name = log.name();
            let path = format!("{}/{}", dir.path, NAMES[name]);
            let kind = log.dice.roll(6);
            let (node, bytes) = (log.number(), log.body());
            let span = log.begin();
            let told = match kind {
                0 => self.run(&["rm", &path], b""),
                1 | 2 => self.run(&["cat", &path], b""),
                3 => self.run(&["ls", &dir.path], b""),
                4 => self.run(&["commit", "/ipfs"], b"").or(Some(Vec::new())),
                _ => self.run(&["put", "-", &path], &bytes),
            };
            let span = log.end(span);
            let Some(told) = told else {
                log.told(span, Read, Op::Absent(name));
                continue;
            };
            match kind {
                0 => log.told(span, Change, Op::Remove(name)),
                1 | 2 => {
                    log.told(span, Read, Op::Find(name, node, 0));
                    log.told(span, Read, Op::Bytes(node, told));
                }
                3 => listed(log, span, &told),
                // It changes nothing that anybody is told.
                4 => {}
                _ => log.told(span, Change, Op::Put(name, node, bytes)),
            }
        }
    }

    fn look(&mut self, dir: &Directory, log: &mut Log) {
        let begun = log.begin();
        let names = self.run(&["ls", &dir.path], b"").expect("it is there");
        let span = log.end(begun);
        listed(log, span, &names);
    }
}
