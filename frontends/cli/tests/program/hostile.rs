//! Paths that no honest client asks for: none leads out of the namespace or into the data directory, and every frontend
//! says the same of each.
//!
//! One list (`muxfs::testing::hostile`) is asked for over HTTP in several spellings, over WebDAV, FTP and NFS, and through a
//! mount; then what can be a name is made over each, seen by all others, and removed. What a path is to be called follows
//! from its bytes alone. Where a protocol cannot carry a path, or has another word for it, [`Wire::exception`] says why.
//! `MUXFS_HOSTILE_SEED` sets another seed. Spec: spec/paths.md #hostile-paths.
#![cfg(target_os = "linux")]

mod ftp;
mod http;
mod mount;
mod nfs;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use muxfs::{
    Cid, Name,
    path::{NAME_LEN_MAX, PATH_LEN_MAX, PATH_PART_COUNT_MAX},
    testing::hostile::{HostilePath, Sort, paths},
};

use self::{ftp::Ftp, http::Http, http::WebDav, mount::Mounted, nfs::Nfs};
use crate::{Mount, World, mounting::mountable, number_of};

/// What the files hold that may be found; what may not be found is longer.
const CONTENT: &[u8] = b"found\r\n";
/// How much of the list each frontend has to carry at least, in percent.
const CARRIED_MIN: usize = 85;

/// What a frontend says of a path, in words that all have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// A file of so many bytes.
    File(u64),
    Dir,
    /// Also below a file.
    NotFound,
    /// Not a path, or not a name.
    Invalid,
    TooLong,
    /// A directory was made.
    Made,
}

/// Where a frontend differs.
enum Exception {
    /// The protocol cannot carry the path.
    Cannot(&'static str),
    /// It has another word for it.
    Says(Verdict, &'static str),
}

/// A client of one frontend. What is no verdict, as a connection that ends, is a panic.
trait Wire {
    fn name(&self) -> &'static str;

    /// Where it differs when it is asked for a path.
    fn exception(&self, path: &HostilePath) -> Option<Exception>;

    /// What is there.
    fn look(&mut self, path: &HostilePath) -> Verdict;

    /// Whether it makes directories.
    fn writes(&self) -> bool {
        true
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict;

    fn remove_dir(&mut self, path: &HostilePath);
}

/// What follows from the bytes of a path.
fn expected(path: &HostilePath) -> Verdict {
    let is_long = path.parts.iter().any(|part| part.len() > NAME_LEN_MAX);
    let len: usize = path.parts.iter().map(|part| part.len() + 1).sum();
    match path.sort {
        Sort::Dots | Sort::NoName => Verdict::Invalid,
        _ if is_long || len > PATH_LEN_MAX || path.parts.len() > PATH_PART_COUNT_MAX => Verdict::TooLong,
        _ if !path.is_there => Verdict::NotFound,
        _ => match &path.parts.last().expect("a part")[..] {
            b"f" => Verdict::File(CONTENT.len() as u64),
            b"bafkqaaa" => Verdict::File(0),
            _ => Verdict::Dir,
        },
    }
}

/// What is found by those who go from name to name, `..` being one step up that stops at the root; `None` where such a step
/// leads out.
fn walked(path: &HostilePath, dir: &Cid, goes_by_nodes: bool) -> (Verdict, bool) {
    let there = |at: &[&[u8]]| match at {
        [] | [b"local" | b"mem" | b"ipfs"] => Some(Verdict::Dir),
        [b"local" | b"mem" | b"ipfs", b"f"] => Some(Verdict::File(CONTENT.len() as u64)),
        [b"ipfs", cid] if *cid == dir.to_string().as_bytes() => Some(Verdict::Dir),
        [b"ipfs", cid, b"f"] if *cid == dir.to_string().as_bytes() => Some(Verdict::File(CONTENT.len() as u64)),
        _ => None,
    };
    let (mut at, mut leads_out): (Vec<&[u8]>, bool) = (Vec::new(), false);
    for part in &path.parts {
        if goes_by_nodes && there(&at) != Some(Verdict::Dir) {
            return (Verdict::NotFound, leads_out);
        }
        match &part[..] {
            b"" | b"." => {}
            b".." => leads_out |= at.pop().is_none(),
            name => at.push(name),
        }
    }
    (there(&at).unwrap_or(Verdict::NotFound), leads_out)
}

/// Whether the first name below `/ipfs` is neither a CID nor there: gateways call that a bad request.
fn is_no_cid(path: &HostilePath) -> bool {
    let parts: Vec<_> = path.parts.iter().filter(|part| !part.is_empty()).collect();
    let [mount, first, ..] = parts[..] else { return false };
    let is_cid = std::str::from_utf8(first).is_ok_and(|text| Cid::parse_in_path(text).is_ok());
    mount == b"ipfs" && !is_cid && first != b"f"
}

/// Names below a directory of the host, but for what is in the directories that are served.
fn everything_else(dir: &Path, within: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        within.insert(path.display().to_string());
        if path.is_dir() && !path.ends_with("mnt") && !path.ends_with("data/local") {
            everything_else(&path, within);
        }
    }
}

/// A server of a few files, and the CID of a directory of content with one.
fn furnish(world: &World) -> Cid {
    fs::write(world.path("secret"), "what nobody who is served may read\n").expect("written");
    let tree = world.path("served");
    fs::create_dir(&tree).expect("made");
    fs::write(tree.join("f"), CONTENT).expect("written");
    let tree = tree.to_str().expect("UTF-8");
    for place in ["/local/f", "/mem/f", "/ipfs/f"] {
        world.ok(&["put", &format!("{tree}/f"), place]);
    }
    let path = world.ok(&["put", "-r", tree, "/ipfs"]);
    path.strip_prefix("/ipfs/").expect("a CID").parse().expect("a CID")
}

#[test]
fn every_frontend_says_the_same_and_none_leads_out() {
    let Some((world, mount_dir)) = mountable() else { return };
    let seed = number_of("MUXFS_HOSTILE_SEED", 0x5eed);
    eprintln!("MUXFS_HOSTILE_SEED={seed}");
    let server = world.serve(&["--mount", mount_dir.to_str().expect("UTF-8")]);
    let _mount = Mount(&world, &mount_dir);
    let dir = furnish(&world);
    let list = paths(&dir, seed as u64);
    assert!(list.len() >= 1000, "{}", list.len());
    let token = world.ok(&["http", "token"]);
    let addr = |frontend| server.addr(frontend);
    let mut wires: Vec<Box<dyn Wire>> = vec![
        Box::new(Http::new(addr("http"))),
        Box::new(WebDav::new(addr("http"), &token)),
        Box::new(Ftp::new(addr("ftp"), dir)),
        Box::new(Nfs::new(addr("nfs"), dir)),
        Box::new(Mounted::new(&mount_dir, dir)),
    ];
    let mut before = BTreeSet::new();
    everything_else(world.dir.path(), &mut before);

    let (mut wrong, mut carried, mut exceptions) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for path in &list {
        for wire in &mut wires {
            let exception = wire.exception(path);
            if let Some(Exception::Cannot(reason) | Exception::Says(_, reason)) = exception {
                *exceptions.entry((wire.name(), reason)).or_insert(0) += 1;
            }
            let expected = match exception {
                Some(Exception::Cannot(_)) => continue,
                Some(Exception::Says(verdict, _)) => verdict,
                None => expected(path),
            };
            *carried.entry(wire.name()).or_insert(0) += 1;
            let said = wire.look(path);
            if said != expected {
                wrong.push(format!("{}: {} is {said:?}, not {expected:?}", wire.name(), path.shown()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), list.len(), wrong.join("\n"));
    for ((wire, reason), count) in exceptions {
        eprintln!("{wire}, {count} times: {reason}");
    }
    for (wire, count) in carried {
        eprintln!("{wire}: {count} of {} paths", list.len());
        assert!(count * 100 >= list.len() * CARRIED_MIN, "{wire} carries {count} of {}", list.len());
    }

    let made = make_all(&list, &mut wires);
    assert!(made > 300, "{made} could be made");
    let mut after = BTreeSet::new();
    everything_else(world.dir.path(), &mut after);
    let new: Vec<_> = after.difference(&before).filter(|path| !path.contains("/data/")).collect();
    assert!(new.is_empty(), "made outside of what is served: {new:?}");
    for mount in ["local", "mem"] {
        let listed = world.ok(&["ls", &format!("/{mount}")]);
        assert_eq!(listed, "f", "/{mount}");
    }
    assert_eq!(server.terminate(), Some(0));
}

/// Makes what can be made at the root of a mount over each frontend in turn, and looks at it over all; how many could be.
fn make_all(list: &[HostilePath], wires: &mut [Box<dyn Wire>]) -> usize {
    let (mut wrong, mut made) = (Vec::new(), 0);
    let is_here = |path: &&HostilePath| path.parts.len() == 2 && matches!(&path.parts[0][..], b"local" | b"mem");
    for path in list.iter().filter(is_here).filter(|path| !matches!(path.sort, Sort::Dots | Sort::Empty)) {
        let mut is_looked_at = false;
        for maker in 0..wires.len() {
            if !wires[maker].writes() {
                continue;
            }
            let expected = match (wires[maker].exception(path), Name::new(&path.parts[1])) {
                (Some(Exception::Cannot(_)), _) => continue,
                (Some(Exception::Says(verdict, _)), _) => verdict,
                (None, Ok(_)) => Verdict::Made,
                (None, Err(_)) => expected(path),
            };
            let said = wires[maker].make_dir(path);
            if said != expected {
                wrong.push(format!("{} makes {}: {said:?}, not {expected:?}", wires[maker].name(), path.shown()));
            }
            if said != Verdict::Made {
                continue;
            }
            made += 1;
            // By one of them, another each time.
            let looks = !is_looked_at && maker > made % (wires.len() - 1);
            is_looked_at |= looks;
            for wire in wires.iter_mut().filter(|_| looks) {
                // What is there under such a name is found by all who can say it.
                let can = !matches!(wire.exception(path), Some(Exception::Cannot(_))) && path.sort != Sort::Kept;
                if can && wire.look(path) != Verdict::Dir {
                    wrong.push(format!("{} does not see what {expected:?} {}", wire.name(), path.shown()));
                }
            }
            wires[maker].remove_dir(path);
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    made
}
