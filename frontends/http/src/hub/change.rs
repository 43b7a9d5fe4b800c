//! Changes of names in a repository. Each is one step that a crash leaves done or not done, and durable when it returns; who
//! changes names in the same directory, from another server too, waits.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use axum::http::StatusCode;

use super::{
    names::{TAG, is_flist, name},
    shelf::{LIST_COUNT_MAX, PART, Result, Shelf, Spot, absent, failed},
};
use crate::failure::Failure;

/// A file that has no name yet; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// Locked: so it is told from what an ended server left.
    pub(super) file: File,
}

impl Part {
    /// A new file beside the repositories, so on their disk; `random` tells it from all others, and `ending` ends its name.
    pub(super) fn new(shelf: &Shelf, random: &str, ending: &str) -> Result<Self> {
        let path = shelf.dir().join(format!("{PART}{random}{ending}"));
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        let part = Self { path, file };
        part.file.lock().map_err(failed)?;
        Ok(part)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Where it was given its name there is none.
        fs::remove_file(&self.path).ok();
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// The directory that a path of the shelf is in.
fn above(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| absent("source"))
}

fn taken(why: &str) -> Failure {
    Failure::new(StatusCode::CONFLICT, why, "")
}

/// Where the signatures of an flist are.
fn signatures(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sig");
    beside.into()
}

/// Removes signatures, which are of other bytes than a name has from now on.
fn forget_signatures(path: &Path) -> Result<()> {
    match fs::remove_file(signatures(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Refuses a name more in a directory that has as many as are listed.
fn check_count(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let count = fs::read_dir(above(path)?).map_err(failed)?.count();
    if count >= LIST_COUNT_MAX {
        let why = format!("There may be {LIST_COUNT_MAX} names here, and there are.");
        return Err(Failure::new(StatusCode::INSUFFICIENT_STORAGE, why, "Delete some."));
    }
    Ok(())
}

impl Shelf {
    /// Makes the directory that a path is in, durably, where it is not there; that of a tag in that of its repository.
    fn make_above(&self, path: &Path) -> Result<()> {
        let dir = above(path)?;
        if fs::symlink_metadata(dir).is_ok_and(|about| about.is_dir()) {
            return Ok(());
        }
        if dir != self.dir() {
            self.make_above(dir)?;
        }
        check_count(dir)?;
        fs::create_dir(dir).map_err(failed)?;
        sync_dir(above(dir)?)
    }

    /// Gives what arrived the name of an flist, in the place of what has it; and signatures of it theirs.
    pub(super) fn install(&self, part: &Part, signed: Option<&Part>, spot: &Spot) -> Result<()> {
        for arrived in [Some(part), signed].into_iter().flatten() {
            arrived.file.sync_all().map_err(failed)?;
        }
        let path = self.path(spot);
        let _turn = self.turn()?;
        self.make_above(&path)?;
        check_count(&path)?;
        // A stop leaves an flist that nobody signed, and never signatures of other bytes.
        forget_signatures(&path)?;
        fs::rename(&part.path, &path).map_err(failed)?;
        sync_dir(above(&path)?)?;
        if let Some(signed) = signed {
            fs::rename(&signed.path, signatures(&path)).map_err(failed)?;
            sync_dir(above(&path)?)?;
        }
        Ok(())
    }

    /// Puts a symlink in the place of one; nothing else is replaced by it.
    fn put_link(&self, path: &Path, target: &str, random: &str) -> Result<()> {
        self.make_above(path)?;
        check_count(path)?;
        match fs::symlink_metadata(path) {
            Ok(about) if !about.is_symlink() => return Err(taken("link destination is already a file")),
            _ => {}
        }
        // At one stroke: whoever looks finds the one or the other.
        let part = self.dir().join(format!("{PART}{random}"));
        symlink(target, &part).map_err(failed)?;
        if let Err(error) = fs::rename(&part, path) {
            fs::remove_file(&part).ok();
            return Err(failed(error));
        }
        sync_dir(above(path)?)
    }

    /// Has a name lead to an flist that is there, of the same repository or another.
    pub(super) fn link(&self, link: &Spot, source: &Spot, random: &str) -> Result<()> {
        let _turn = self.turn()?;
        self.file(source)?;
        if link.tag.is_none() && link.repository == source.repository && link.flist == source.flist {
            return Err(taken("a link would lead to itself"));
        }
        let up = match link.tag {
            Some(_) => "../../",
            None => "../",
        };
        let target = if link.tag.is_none() && link.repository == source.repository {
            source.flist.clone()
        } else {
            format!("{up}{}/{}", source.repository, source.flist)
        };
        self.put_link(&self.path(link), &target, random)
    }

    /// Has a name of a repository lead to a tag that is there.
    pub(super) fn link_tag(
        &self,
        (mine, link): (&str, &str),
        (repository, tag): (&str, &str),
        random: &str,
    ) -> Result<()> {
        let _turn = self.turn()?;
        self.tagged(repository, tag)?;
        if is_flist(name(link)?) {
            return Err(taken("tag symlink cannot ends with .flist"));
        }
        let path = self.repository(mine)?.join(link);
        if fs::symlink_metadata(self.path(&Spot::new(mine, link)?)).is_ok() {
            return Err(taken("there is a .flist file with the same name existing already"));
        }
        self.put_link(&path, &format!("../{repository}/{TAG}{tag}"), random)
    }

    /// Takes the name of an flist, or of a symlink, away; a link to a tag where no flist has the name.
    pub(super) fn remove(&self, mine: &str, flist: &str) -> Result<()> {
        let _turn = self.turn()?;
        let spot = Spot::new(mine, flist)?;
        let dir = self.existing(mine)?;
        let path = if self.about(&spot).is_err() && self.tag_link(mine, flist).is_ok() {
            dir.join(flist)
        } else {
            self.path(&spot)
        };
        fs::remove_file(&path).map_err(failed)?;
        forget_signatures(&path)?;
        sync_dir(&dir)
    }

    /// Takes an flist from a tag, and the tag where that was the last.
    pub(super) fn untag(&self, link: &Spot) -> Result<()> {
        let _turn = self.turn()?;
        self.tagged(&link.repository, link.tag.as_deref().unwrap_or_default())?;
        let path = self.path(link);
        if !fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink()) {
            return Err(absent("target on this tag"));
        }
        fs::remove_file(&path).map_err(failed)?;
        let dir = above(&path)?;
        match fs::remove_dir(dir) {
            Ok(()) => sync_dir(above(dir)?),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => sync_dir(dir),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives an flist another name in its repository; what had that name is gone.
    pub(super) fn rename(&self, from: &Spot, to: &Spot) -> Result<()> {
        let _turn = self.turn()?;
        self.about(from)?;
        let (from, to) = (self.path(from), self.path(to));
        if from == to {
            return Ok(());
        }
        forget_signatures(&to)?;
        fs::rename(&from, &to).map_err(failed)?;
        match fs::rename(signatures(&from), signatures(&to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        sync_dir(above(&to)?)
    }

    /// The same bytes in a file that has no name yet.
    fn copied(&self, mut source: File, random: &str, ending: &str) -> Result<Part> {
        let mut part = Part::new(self, random, ending)?;
        io::copy(&mut source, &mut part.file).map_err(failed)?;
        Ok(part)
    }

    /// An flist and its signatures, as they were together at one time.
    fn opened(&self, spot: &Spot) -> Result<(File, Option<File>)> {
        let _turn = self.turn()?;
        let path = self.file(spot)?;
        let flist = File::open(&path).map_err(failed)?;
        match File::open(signatures(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((flist, None)),
            signed => Ok((flist, Some(signed.map_err(failed)?))),
        }
    }

    /// Copies an flist, of any repository, in the place of what has the name; its signatures too.
    pub(super) fn promote(&self, from: &Spot, to: &Spot, random: &str) -> Result<()> {
        let (flist, signed) = self.opened(from)?;
        let part = self.copied(flist, random, "")?;
        let signed = signed.map(|signed| self.copied(signed, random, "-sig")).transpose()?;
        self.install(&part, signed.as_ref(), to)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::Barrier, thread};

    use super::*;

    /// Of two that give one name at once one is the last, with the bytes and the signatures that are its own. Signatures
    /// say here what they are of.
    #[test]
    fn bytes_and_signatures_of_a_name_are_of_one_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::open(dir.path()).expect("opens");
        let spot = |repository: &str| Spot::new(repository, "app").expect("a spot");
        let upload = |repository: &str, text: &str, random: &str, signed: bool| {
            let part = |text: &str, ending: &str| {
                let mut part = Part::new(&shelf, random, ending).expect("made");
                part.file.write_all(text.as_bytes()).expect("written");
                part
            };
            let signed = signed.then(|| part(text, "-sig"));
            shelf.install(&part(text, ""), signed.as_ref(), &spot(repository)).expect("installed");
        };
        let read = |path: PathBuf| fs::read_to_string(path).ok();
        for round in 0..50 {
            // What is promoted is uploaded again as well, signed each time.
            upload("alice", "old", "before", true);
            let begin = Barrier::new(3);
            thread::scope(|scope| {
                scope.spawn(|| {
                    begin.wait();
                    shelf.promote(&spot("alice"), &spot("bob"), "promoted").expect("promoted");
                });
                scope.spawn(|| {
                    begin.wait();
                    upload("bob", "uploaded", "uploaded", false);
                });
                begin.wait();
                upload("alice", "new", "again", true);
            });
            let path = shelf.path(&spot("bob"));
            let (bytes, signed) = (read(path.clone()).expect("there"), read(signatures(&path)));
            let expected = (bytes != "uploaded").then(|| bytes.clone());
            assert_eq!(signed, expected, "round {round}: {bytes}");
        }
    }
}
