//! Programs on two mounts, NFS and FTP clients and commands work on the same few names at once, and each is told what it
//! would be told if there were one file system and one call at a time. Spec: spec/coherence.md.
//!
//! In each round some clients do some things to one directory, all at the same time; then they meet, and look at
//! all that is there. Each call is logged with when it began and returned, and the history must have an order that
//! explains it (`muxfs::testing::linear`): of NFS, FTP and commands as atomic, of mounts, which answer from the kernel's
//! caches, as reads that may be behind for as long as a change is under way. What is not one step is logged as several:
//! an open file is found by its name first and read or written after that, and a `read` of a mount takes a length and
//! bytes one after the other, those between the ends of changes each for themselves.
//!
//! The seed says what the clients do; when, is up to the machine. `MUXFS_COHERENCE_ROUNDS` and `MUXFS_COHERENCE_SEED` set
//! others.
#![cfg(target_os = "linux")]

mod command;
mod ftp;
mod model;
mod mount;
mod nfs;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use muxfs::testing::{
    fault::Dice,
    linear::{Call, Role, check},
};

use self::{
    command::CommandClient,
    ftp::FtpClient,
    model::{Dir, Found, NAMES, Name, OneAtATime, Op},
    mount::MountClient,
    nfs::NfsClient,
};
use crate::{
    Mount,
    mounting::{mountable, text},
    number_of,
};

const ROUNDS: usize = 150;
/// What each client does in a round, at the most.
const STEPS_MAX: usize = 6;
/// How many clients work in a round.
const CLIENTS_MAX: usize = 4;

/// Where the clients meet.
struct Directory {
    path: String,
    /// Whether files get more names here; else they get others.
    has_links: bool,
}

/// Somebody who uses the file system.
trait Client: Send {
    fn who(&self) -> &str;

    /// Whether it can see a directory.
    fn reaches(&self, dir: &Directory) -> bool;

    /// Does what the dice say.
    fn work(&mut self, dir: &Directory, log: &mut Log);

    /// Looks at everything that is there.
    fn look(&mut self, dir: &Directory, log: &mut Log);
}

/// From the beginning to the return of a call.
#[derive(Clone, Copy)]
struct Span(u64, u64);

/// What one client does in a round, and was told.
struct Log {
    who: String,
    dice: Dice,
    /// How much it is to do.
    count: usize,
    clock: Arc<AtomicU64>,
    calls: Vec<Call<Op>>,
}

impl Log {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn begin(&self) -> u64 {
        self.now()
    }

    fn end(&self, begun: u64) -> Span {
        Span(begun, self.now())
    }

    fn told(&mut self, Span(begun, returned): Span, role: Role, op: Op) {
        self.calls.push(Call { who: self.who.clone(), role, op, begun, returned: Some(returned) });
    }

    /// A listing is told name by name: it is no picture of one moment.
    fn listed(&mut self, span: Span, role: Role, is_listed: impl Fn(&str) -> bool) {
        for (name, text) in NAMES.into_iter().enumerate() {
            self.told(span, role, if is_listed(text) { Op::Present(name) } else { Op::Absent(name) });
        }
    }

    /// There is a file of this name, which is called so from here on.
    fn found(&mut self, span: Span, role: Role, name: Name) -> Found {
        let found = self.number();
        self.told(span, role, Op::Find(name, found, 0));
        found
    }

    /// One that nobody else has.
    fn number(&self) -> u64 {
        self.now()
    }

    fn name(&mut self) -> Name {
        self.dice.roll(NAMES.len())
    }

    fn other_than(&mut self, name: Name) -> Name {
        (name + 1 + self.dice.roll(NAMES.len() - 1)) % NAMES.len()
    }

    fn mode(&mut self) -> u32 {
        [0o600, 0o640, 0o644, 0o660, 0o700, 0o755][self.dice.roll(6)]
    }

    /// What nobody else writes.
    fn body(&mut self) -> Vec<u8> {
        format!("{:08x}", self.dice.bits() >> 32).into_bytes()
    }

    /// Where to write, and what.
    fn patch(&mut self) -> (usize, Vec<u8>) {
        (8 * self.dice.roll(2), self.body())
    }
}

/// Tells for how many calls each file is kept that a client found.
fn count_uses(calls: &mut Vec<Call<Op>>) {
    let mut counts: HashMap<Found, usize> = HashMap::new();
    for found in calls.iter().filter_map(|call| call.op.found()) {
        *counts.entry(found).or_default() += 1;
    }
    for call in calls {
        if let Op::Find(name, found, count) = &mut call.op {
            *count = counts.get(found).copied().unwrap_or_default();
            if *count == 0 {
                call.op = Op::Present(*name);
            }
        }
    }
}

/// Divides what was read through a mount where a change ends or begins: of a read during which the file changes some bytes
/// may be older than others, as what a program writes is in the kernel's page while the word of a truncation before it is
/// still on its way there.
fn divide_reads(calls: Vec<Call<Op>>) -> Vec<Call<Op>> {
    let ends: BTreeSet<usize> = calls
        .iter()
        .flat_map(|call| match call.op {
            Op::Write(_, offset, ref bytes) => vec![offset, offset + bytes.len()],
            Op::Cut(_, len) => vec![len],
            _ => Vec::new(),
        })
        .collect();
    let mut divided = Vec::new();
    for call in calls {
        let Op::BytesFrom(found, from, bytes) = call.op else {
            divided.push(call);
            continue;
        };
        let within = ends.range(from + 1..).copied().take_while(|end| *end < from + bytes.len());
        let (mut at, len) = (from, from + bytes.len());
        for end in within.chain([len]) {
            let op = Op::BytesFrom(found, at, bytes[at - from..end - from].to_vec());
            divided.push(Call {
                who: call.who.clone(),
                role: call.role,
                op,
                begun: call.begun,
                returned: call.returned,
            });
            at = end;
        }
    }
    divided
}

/// Leaves out how long a file was for a read through a mount while somebody else changed one: where word of that comes while the
/// kernel asks for the length, be it of a mode alone, it goes by the one that it knew, which may be from before what had
/// returned.
fn without_old_lengths(mut calls: Vec<Call<Op>>) -> Vec<Call<Op>> {
    let changes: Vec<_> = calls
        .iter()
        .filter(|call| call.role == Role::Change)
        .map(|call| (call.who.clone(), call.begun, call.returned.unwrap_or(u64::MAX)))
        .collect();
    let may_be_old = |call: &Call<Op>| {
        let returned = call.returned.unwrap_or(u64::MAX);
        let mut others = changes.iter().filter(|(who, ..)| *who != call.who);
        matches!(call.op, Op::ReadLen(..)) && others.any(|(_, from, to)| *from < returned && call.begun < *to)
    };
    calls.retain(|call| !may_be_old(call));
    calls
}

/// Lets every client do something at the same time.
fn at_once(
    clients: &mut [&mut Box<dyn Client + '_>],
    mut log: impl FnMut(&dyn Client) -> Log,
    work: impl Fn(&mut dyn Client, &mut Log) + Sync,
) -> Vec<Log> {
    thread::scope(|scope| {
        let working = clients.iter_mut().map(|client| {
            let (mut log, work) = (log(&***client), &work);
            scope.spawn(move || {
                work(&mut ***client, &mut log);
                log
            })
        });
        let working: Vec<_> = working.collect();
        working.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    })
}

#[test]
fn each_call_that_returned_is_seen_by_the_next() {
    let Some((world, dir)) = mountable() else { return };
    let (rounds, seed) = (number_of("MUXFS_COHERENCE_ROUNDS", ROUNDS), number_of("MUXFS_COHERENCE_SEED", 0x5eed));
    eprintln!("MUXFS_COHERENCE_ROUNDS={rounds} MUXFS_COHERENCE_SEED={seed}");
    let server = world.serve(&["--mount", text(&dir)]);
    let part = world.path("part");
    fs::create_dir(&part).expect("made");
    let _mounts = (Mount(&world, &dir), Mount(&world, &part));
    // The kernel of the one also looks at times, since host directories are changed past us; that of the other goes by
    // word alone.
    world.ok(&["mount", "/ipfs", text(&part)]);
    let mut clients: Vec<Box<dyn Client + '_>> = vec![
        Box::new(MountClient::new("mount1", &dir, "")),
        Box::new(MountClient::new("mount2", &dir, "")),
        Box::new(MountClient::new("part", &part, "/ipfs")),
        Box::new(NfsClient::new("nfs1", server.addr("nfs"))),
        Box::new(NfsClient::new("nfs2", server.addr("nfs"))),
        Box::new(FtpClient::new("ftp", server.addr("ftp"))),
        Box::new(CommandClient::new(&world)),
    ];
    let mut dirs = Vec::new();
    for (mount, has_links) in [("/ipfs", false), ("/ipfs", true), ("/mem", false), ("/mem", true)] {
        let path = format!("{mount}/{}", if has_links { "links" } else { "names" });
        fs::create_dir(dir.join(&path[1..])).expect("made");
        dirs.push((Directory { path, has_links }, vec![Dir::default()]));
    }

    let mut dice = Dice::new(seed as u64);
    let clock = Arc::new(AtomicU64::new(1));
    for round in 0..rounds {
        let at = [0, 0, 0, 1, 1, 1, 2, 3][dice.roll(8)];
        let (dir, states) = &mut dirs[at];
        // What some do to each other others would hide, and the search for an order takes the longer the more there are.
        // Two mounts that change one directory at the same moment hear of each other a little later.
        let other_mount = if dice.roll(2) == 0 { "part" } else { "mount" };
        let mut those: Vec<_> = clients.iter_mut().filter(|client| client.reaches(dir)).collect();
        those.retain(|client| !client.who().starts_with(other_mount));
        while those.len() > CLIENTS_MAX {
            those.swap_remove(dice.roll(those.len()));
        }
        let count = 1 + dice.roll(STEPS_MAX);
        let mut calls = Vec::new();
        for looks in [false, true] {
            let logs = at_once(
                &mut those,
                |client| {
                    let (who, dice, clock) = (client.who().to_owned(), Dice::new(dice.bits()), clock.clone());
                    Log { who, dice, count, clock, calls: Vec::new() }
                },
                |client, log| if looks { client.look(dir, log) } else { client.work(dir, log) },
            );
            calls.extend(logs.into_iter().flat_map(|log| log.calls));
        }
        let mut calls = without_old_lengths(divide_reads(calls));
        count_uses(&mut calls);
        let before = std::mem::take(states);
        *states = check(&OneAtATime, before, calls)
            .unwrap_or_else(|refuted| panic!("round {round} of seed {seed}, in {}: {refuted}", dir.path));
    }
    assert_eq!(server.terminate(), Some(0));
}
