//! Puts a tar into a tree: an archive of files, or a layer of an image over those below it.

use std::{io::Read, sync::atomic::Ordering};

use muxfs::{Error, ErrorKind, Name, Result};

use super::{
    What,
    filler::Filler,
    tar::{Member, Tar, corrupt, damaged, names},
};

/// What a layer takes away is a file of this name in front.
const WHITEOUT: &[u8] = b".wh.";
/// It takes away all of the directory that layers below it have there.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of others that begin so nobody is told anything.
const RESERVED: &[u8] = b".wh..wh.";

/// Puts all of an archive into the tree, below a path.
///
/// # Errors
/// Those of reading, with the name; `Corrupt` for a name that leads out of the tree, and for a link to what is not there; `NotDir`
/// for what would be put through a symlink or a file.
pub(super) fn put_tar(filler: &mut Filler, bytes: impl Read, at: &[Name]) -> Result<()> {
    match put_all(filler, bytes, at, false)? {
        (0, _) => Err(Error::new(ErrorKind::InvalidArgument, "flist.write").because("it is no tar, or one of nothing")),
        (_, true) => Ok(()),
        (count, false) => Err(corrupt(format!(
            "it has no end behind {count} files, as an archive that was cut: nothing tells what is missing"
        ))),
    }
}

/// Puts a layer over what is there. Who has its digest knows that it is whole: not all writers end one as they should.
///
/// # Errors
/// Those of [`put_tar`].
pub(super) fn put_layer(filler: &mut Filler, bytes: impl Read) -> Result<()> {
    filler.tree.begin_layer();
    put_all(filler, bytes, &[], true).map(drop)
}

/// How many there were, and whether there was an end behind them.
fn put_all(filler: &mut Filler, bytes: impl Read, at: &[Name], is_layer: bool) -> Result<(u64, bool)> {
    let (mut tar, mut count) = (Tar::new(bytes), 0);
    while let Some(member) = tar.next()? {
        count += 1;
        filler.progress.nodes.fetch_add(1, Ordering::Relaxed);
        let named = |error: Error| error.at(member.path.escape_ascii());
        put(filler, &mut tar, &member, at, is_layer).map_err(named)?;
    }
    // What it is packed in ends with a sum of all.
    Ok((count, tar.end()?))
}

fn put<R: Read>(filler: &mut Filler, tar: &mut Tar<R>, member: &Member, at: &[Name], is_layer: bool) -> Result<()> {
    let below = |path: Vec<Name>| [at, &path].concat();
    let path = below(member.names()?);
    if let (true, Some((name, above))) = (is_layer, path.split_last()) {
        if name.as_bytes() == OPAQUE {
            return filler.tree.clear_below(above).map(drop);
        }
        if name.as_bytes().starts_with(RESERVED) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = Name::new(hidden).map_err(|_| corrupt("it takes away what can have no name"))?;
            return filler.tree.remove_below(&[above, &[hidden]].concat());
        }
    }
    let mut about = member.about;
    let what = match member.kind {
        b'1' => {
            let target = below(names(member.target.strip_prefix(b"/").unwrap_or(&member.target))?);
            let found = filler.tree.get(&target).map(|(about, what)| (*about, what.clone()));
            let absent = || corrupt(format!("it is a link to {}, which is not there", member.target.escape_ascii()));
            let (there, what) = found.filter(|(_, what)| *what != What::Dir).ok_or_else(absent)?;
            if target == path {
                return Ok(());
            }
            about = there;
            what
        }
        b'2' => {
            about.mode = 0o777;
            if member.target.is_empty() || member.target.len() > muxfs::vfs::SYMLINK_LEN_MAX {
                return Err(corrupt("it is a symlink to nowhere, or to a name that is too long"));
            }
            What::Symlink(member.target.clone().into())
        }
        b'3' => What::CharDevice(member.rdev),
        b'4' => What::BlockDevice(member.rdev),
        b'5' => What::Dir,
        b'6' => What::Fifo,
        _ => {
            let (content, len) = filler.read(&mut *tar, member.len, |error| damaged(&error))?;
            What::File { len, content }
        }
    };
    filler.tree.put(&path, about, what)
}
