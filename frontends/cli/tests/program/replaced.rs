//! Machines are lost while they work, and their data directories with them: key, configuration and nodes stay, and a new
//! machine goes on from the latest commit.
//!
//! Several clients put files over FTP, each in a directory of its own and one after the other; a command commits all the
//! while, until the server is ended as by `kill -9` and what it had is removed. What the next one finds must be a picture of
//! one moment: of each client the first files, whole, no fewer than were there when the last commit that was acknowledged
//! began. The seed is printed; which call the server dies in is up to the machine.
//!
//! `MUXFS_WIPE_ROUNDS` sets how many rounds there are.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use muxfs::testing::fault::Dice;

use crate::{PATIENCE, Server, World, number_of};

const ROUNDS: usize = 5;
const WRITERS: usize = 3;

/// What one client puts.
#[derive(Default)]
struct Writer {
    begun: AtomicUsize,
    done: AtomicUsize,
    /// How many were there when the last commit began that was acknowledged.
    committed: AtomicUsize,
}

fn dir(round: usize, writer: usize) -> String {
    format!("/zstor/{round}-{writer}")
}

fn body(dir: &str, file: usize) -> String {
    format!("{dir}/{file}\n").repeat(1 + file * 7919 % 3000)
}

/// Puts files until the server is gone.
fn put(server: &Server, dir: &str, writer: &Writer) {
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    ftp.mkdir(dir).expect("made");
    loop {
        let file = writer.begun.fetch_add(1, Ordering::SeqCst);
        if ftp.put_file(format!("{dir}/{file}"), &mut body(dir, file).as_bytes()).is_err() {
            return;
        }
        writer.done.fetch_add(1, Ordering::SeqCst);
    }
}

/// How many files there are of a client: the first ones, and whole.
fn found(world: &World, config: &str, dir: &str) -> usize {
    let listed = world.run(&["--config", config, "ls", dir]);
    if listed.status.code() == Some(3) {
        return 0;
    }
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    // What an upload under way is called.
    let names = listed.lines().filter(|name| !name.starts_with(".muxfs-part."));
    let mut files: Vec<usize> = names.map(|name| name.parse().expect("a number")).collect();
    files.sort_unstable();
    assert_eq!(files, (0..files.len()).collect::<Vec<_>>(), "{dir}: the first ones");
    let paths: Vec<_> = files.iter().map(|file| format!("{dir}/{file}")).collect();
    let args = ["--config", config, "cat"].into_iter().chain(paths.iter().map(String::as_str));
    if !files.is_empty() {
        let read = world.ok(&args.collect::<Vec<_>>());
        let expected: String = files.iter().map(|file| body(dir, *file)).collect();
        assert!(read == expected.trim_end_matches('\n'), "{dir}: what {} files have", files.len());
    }
    files.len()
}

#[test]
fn the_latest_commit_is_there_on_a_new_machine() {
    let (rounds, seed) = (number_of("MUXFS_WIPE_ROUNDS", ROUNDS), number_of("MUXFS_WIPE_SEED", 0x5eed));
    eprintln!("MUXFS_WIPE_ROUNDS={rounds} MUXFS_WIPE_SEED={seed}");
    let world = World::by_default();
    let nodes: Vec<_> = (1..=6).map(|n| (n, world.path(&format!("nodes/{n}")))).collect();
    for (_, node) in &nodes {
        fs::create_dir_all(node).expect("made");
    }
    let nodes: Vec<_> = nodes.iter().map(|(n, node)| format!("{{ dir = {node:?}, name = \"{n}\" }}")).collect();
    let text = format!(
        "[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\ndata = 4\nparity = 2\nkey = {:?}\nnodes = [{}]\n",
        world.path("key"),
        nodes.join(", ")
    );
    let config = world.path("config.toml");
    fs::write(&config, text).expect("written");
    let config = config.to_str().expect("UTF-8");

    let mut dice = Dice::new(seed as u64);
    let mut kept: Vec<(String, usize)> = Vec::new();
    for round in 0..rounds {
        let server = world.serve(&["--config", config]);
        let writers: [Writer; WRITERS] = Default::default();
        let (commits, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (commit_count, more_count) = (1 + dice.roll(3), dice.roll(30));
        let done = || writers.iter().map(|writer| writer.done.load(Ordering::SeqCst)).sum::<usize>();
        let until = |is_so: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !is_so() {
                assert!(begun.elapsed() < PATIENCE, "round {round}: nothing goes on");
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            for (number, writer) in writers.iter().enumerate() {
                let server = &server;
                scope.spawn(move || put(server, &dir(round, number), writer));
            }
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let before: Vec<_> = writers.iter().map(|writer| writer.done.load(Ordering::SeqCst)).collect();
                    if world.run(&["--config", config, "commit", "/zstor"]).status.success() {
                        for (writer, before) in writers.iter().zip(before) {
                            writer.committed.store(before, Ordering::SeqCst);
                        }
                        commits.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            until(&|| commits.load(Ordering::SeqCst) >= commit_count);
            let enough = done() + more_count;
            until(&|| done() >= enough);
            is_over.store(true, Ordering::SeqCst);
            server.kill_now();
        });
        drop(server);
        fs::remove_dir_all(world.path("data")).expect("removed");
        let next = world.serve(&["--config", config]);
        for (number, writer) in writers.iter().enumerate() {
            let dir = dir(round, number);
            let (committed, begun) = (&writer.committed, &writer.begun);
            let (least, most) = (committed.load(Ordering::SeqCst), begun.load(Ordering::SeqCst));
            let count = found(&world, config, &dir);
            assert!((least..=most).contains(&count), "round {round} of {seed}, {dir}: {count} of {least} to {most}");
            kept.push((dir, count));
        }
        assert_eq!(next.terminate(), Some(0));
    }
    let _server = world.serve(&["--config", config]);
    for (dir, count) in kept {
        assert_eq!(found(&world, config, &dir), count, "{dir}");
    }
}
