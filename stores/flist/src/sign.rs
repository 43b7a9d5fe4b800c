//! Signatures of flists: who made one, told by a file beside it, and held against the keys that a mount takes.
//!
//! What is signed is the file as it lies there, so that nothing of it is looked at before it is known to be the right one,
//! and nothing in it can be changed: the tree, the metadata, the routes, or the way they are written down. A line of the file
//! `FLIST.sig` is
//!
//! ```text
//! muxfs-flist-1 k51… 128 hex digits
//! Ed25519 of "muxfs flist signature 1\n" and the 32 bytes of the BLAKE2b-256 of the flist
//! ```
//!
//! Spec: spec/flist.md #signatures.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use muxfs::{
    Error, ErrorKind, Result,
    ipns::{IpnsName, NameKey},
};
use tempfile::NamedTempFile;

use crate::{
    chunk::{blake2b, hex},
    flist::scratch_failed,
};

/// What a line begins with.
const LINE: &str = "muxfs-flist-1";
/// What is signed begins with it.
const SIGNED: &[u8] = b"muxfs flist signature 1\n";
/// The longest file of signatures that is read, in bytes: some fifty of them.
const SIGNATURES_LEN_MAX: u64 = 16 << 10;
const SIGNATURE_LEN: usize = 64;
const OP: &str = "flist.signature";

/// The keys of which one has to have signed an flist.
#[derive(Debug, Clone)]
pub struct Signers(Vec<IpnsName>);

impl Signers {
    /// Takes what any of these keys signed.
    ///
    /// ```
    /// use muxfs_flist::Signers;
    /// let name = "k51qzi5uqu5dhnwe629wdlncpql6frppdpwnz4wtlcw816aysd5wwlk63g4wmh".parse()?;
    /// Signers::new(vec![name])?;
    /// Signers::new(vec![]).expect_err("nobody could have signed");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where there is none, or a name that holds no Ed25519 key.
    pub fn new(names: Vec<IpnsName>) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        if names.is_empty() {
            return refuse("an flist is signed by a key, and none is named");
        }
        if let Some(name) = names.iter().find(|name| !name.is_ed25519()) {
            return refuse(&format!("{name} holds no Ed25519 key, and only those sign flists"));
        }
        Ok(Self(names))
    }

    /// Checks that one of the keys signed the flist at `path`, and says whose it is.
    ///
    /// # Errors
    /// `Corrupt` where there is no signature of any of them, or a wrong one; `NotFound`, `Io`. They name `path`.
    pub fn verify(&self, path: &Path) -> Result<IpnsName> {
        let digest = digest(path)?;
        self.check(path, &signature_path(path), &digest).cloned()
    }

    /// The same where the signatures are in another file.
    pub(crate) fn verify_beside(&self, path: &Path, signatures: &Path) -> Result<()> {
        let digest = digest(path)?;
        self.check(path, signatures, &digest).map(drop)
    }

    /// Copies a file of at most `len_max` bytes, which is called `path`, into one of `scratch` and checks what was copied: what is
    /// read of the copy is what was signed, whatever becomes of the file.
    pub(crate) fn copy(&self, from: &File, path: &Path, scratch: &Path, len_max: u64) -> Result<NamedTempFile> {
        let failed = |error: io::Error| scratch_failed(scratch, &error).at(path.display());
        let mut copy = tempfile::Builder::new().prefix("flist-").tempfile_in(scratch).map_err(failed)?;
        let digest = digest_of(from.take(len_max), |piece| copy.write_all(piece)).map_err(failed)?;
        copy.flush().map_err(failed)?;
        self.check(path, &signature_path(path), &digest)?;
        Ok(copy)
    }

    fn check(&self, path: &Path, beside: &Path, digest: &[u8; 32]) -> Result<&IpnsName> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Corrupt, OP).at(path.display()).because(why));
        let Some(lines) = read(beside)? else {
            return refuse(format!("it is not signed: there is no {}", beside.display()));
        };
        let message = [SIGNED, digest].concat();
        let mut is_there = false;
        for (name, signature) in lines.iter().filter_map(|line| parse(line)) {
            let Some(signer) = self.0.iter().find(|signer| **signer == name) else { continue };
            if signer.verify(&message, &signature).is_ok() {
                return Ok(signer);
            }
            is_there = true;
        }
        refuse(if is_there {
            "it is not what was signed: the flist or its signature was changed".into()
        } else {
            format!("none of the {} keys that are taken here signed it", self.0.len())
        })
    }
}

/// Where the signatures of an flist are: its own path and `.sig`.
pub fn signature_path(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// What the file of the signatures of the flist at `path` has to be for a signature of `key` to be in it: those of other keys
/// that were there stay, as long as they are right.
///
/// # Errors
/// `NotFound`, `Io`; `Corrupt` where what is there is too long. They name the file.
pub fn sign(path: &Path, key: &NameKey) -> Result<String> {
    let signed = [SIGNED, &digest(path)?[..]].concat();
    let mut lines = format!("{LINE} {} {}\n", key.name(), hex(&key.sign(&signed)));
    for line in read(&signature_path(path))?.unwrap_or_default() {
        if let Some((name, signature)) = parse(&line)
            && name != *key.name()
            && name.verify(&signed, &signature).is_ok()
        {
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    Ok(lines)
}

/// The lines of a file of signatures, if there is one.
fn read(path: &Path) -> Result<Option<Vec<String>>> {
    let failed = |error: io::Error| Error::new(ErrorKind::Io, OP).at(path.display()).because(error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(SIGNATURES_LEN_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > SIGNATURES_LEN_MAX {
        let why = format!("it has more than {SIGNATURES_LEN_MAX} bytes, and is no file of signatures");
        return Err(Error::new(ErrorKind::Corrupt, OP).at(path.display()).because(why));
    }
    Ok(Some(text.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect()))
}

/// Whose signature a line is; `None` where it is none of ours.
fn parse(line: &str) -> Option<(IpnsName, [u8; SIGNATURE_LEN])> {
    let [LINE, name, digits] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let (name, digits) = (name.parse().ok()?, digits.as_bytes());
    let mut signature = [0; SIGNATURE_LEN];
    if digits.len() != 2 * SIGNATURE_LEN {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, [high, low]) in signature.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some((name, signature))
}

fn digest(path: &Path) -> Result<[u8; 32]> {
    let failed = |error: io::Error| {
        let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, OP).at(path.display()).because(error)
    };
    digest_of(File::open(path).map_err(failed)?, |_| Ok(())).map_err(failed)
}

/// The hash of all that is read, each piece of which is given away.
fn digest_of(mut from: impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<[u8; 32]> {
    let (mut hasher, mut piece) = (blake2b(32).to_state(), vec![0; 64 << 10]);
    loop {
        let len = from.read(&mut piece)?;
        let Some(read) = piece.get(..len).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        each(read)?;
    }
    Ok(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 32]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use muxfs::SecretKey;

    use super::*;
    use crate::{
        Flist,
        tests::made::{What, World},
    };

    fn key(seed: u8) -> NameKey {
        NameKey::of_seed(SecretKey::new([seed; 32]))
    }

    fn signers(key: &NameKey) -> Signers {
        Signers::new(vec![key.name().clone()]).expect("it signs")
    }

    fn signed(world: &World, name: &str, key: &NameKey) -> PathBuf {
        let path = world.path("flists").join(name);
        fs::write(signature_path(&path), sign(&path, key).expect("signed")).expect("written");
        path
    }

    /// What OpenSSL signs of what b2sum tells, of the key whose seed is 32 times 7.
    #[test]
    fn signatures_are_those_of_the_vectors() {
        let vectors = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist");
        for name in ["small.flist", "small.fl"] {
            let path = vectors.join(name);
            let expected = fs::read_to_string(signature_path(&path)).expect("a vector");
            assert_eq!(sign(&path, &key(7)).expect("signed"), expected);
            assert_eq!(signers(&key(7)).verify(&path).expect("good"), *key(7).name());
        }
    }

    #[test]
    fn every_byte_of_an_flist_and_of_its_signature_counts() {
        let world = World::new();
        let nodes = [("file".to_owned(), What::File(b"x".to_vec()))];
        world.flist("a.flist", &nodes, |_| {});
        let path = signed(&world, "a.flist", &key(1));
        let (signers, scratch) = (signers(&key(1)), world.path("scratch"));
        let open = || Flist::open_signed(&path, &scratch, &signers);
        open().expect("signed");
        for file in [path.clone(), signature_path(&path)] {
            let good = fs::read(&file).expect("read");
            for at in 0..good.len() - usize::from(file != path) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(&file, &bad).expect("written");
                assert_eq!(open().expect_err("changed").kind(), ErrorKind::Corrupt, "byte {at} of {}", file.display());
            }
            for bad in [&good[..good.len() - 2], &[&good[..], b"x"].concat()[..]] {
                fs::write(&file, bad).expect("written");
                let is_longer_signature = bad.len() > good.len() && file != path;
                assert_eq!(open().is_ok(), is_longer_signature, "a line more is none of ours");
            }
            fs::write(&file, good).expect("written");
        }
        open().expect("as it was");
        assert_eq!(fs::read_dir(scratch).expect("listed").count(), 0, "no copy is left");
    }

    #[test]
    fn one_of_the_keys_has_to_have_signed() {
        let world = World::new();
        world.fl("a.fl", &[], |_| {});
        let path = world.path("flists").join("a.fl");
        let why = |key: &NameKey| format!("{:#}", signers(key).verify(&path).expect_err("refused"));
        assert!(why(&key(1)).contains("not signed"));
        signed(&world, "a.fl", &key(1));
        assert!(why(&key(2)).contains("none of the 1 keys"));
        signed(&world, "a.fl", &key(2));
        for of in [key(1), key(2)] {
            assert_eq!(signers(&of).verify(&path).expect("both signed"), *of.name());
        }
        fs::write(&path, [fs::read(&path).expect("read"), vec![0]].concat()).expect("written");
        assert!(why(&key(1)).contains("was changed"));
        signed(&world, "a.fl", &key(1));
        assert!(why(&key(2)).contains("none of the 1 keys"), "a signature of what was there before does not stay");
        fs::write(signature_path(&path), vec![b'x'; 20_000]).expect("written");
        assert!(why(&key(1)).contains("no file of signatures"));
    }
}
