//! `flist rm`, `chmod`, `merge`, `diff`, and what changes the metadata: no chunk is read or written.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use muxfs::{Error, ErrorKind, Name, Result};
use muxfs_flist::{
    Flist, Format, Route, SourceUrl,
    write::{self, Changing, Difference, Facts, Tree, differences},
};
use serde_json::json;

use super::{OP, open, shown};
use crate::{namespace::to_text, output::Output};

/// A path in an flist.
pub(super) fn names(path: &OsStr) -> Result<Vec<Name>> {
    path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(Name::new).collect()
}

/// Changes the tree of an flist, which is replaced.
fn change(path: &Path, change: impl FnOnce(&mut Tree) -> Result<()>) -> Result<()> {
    let _changing = Changing::begin(path)?;
    let flist = open(path)?;
    let mut tree = Tree::of(&flist)?;
    change(&mut tree)?;
    write::save(&tree, &Facts::of(&flist)?, path, flist.format()).map(drop)
}

fn absent(path: &OsStr) -> Error {
    Error::new(ErrorKind::NotFound, OP).at(path.display())
}

pub(super) fn rm(flist: &Path, paths: &[OsString]) -> Result<()> {
    change(flist, |tree| {
        for path in paths {
            let names = names(path)?;
            if names.is_empty() {
                let why = "the root stays";
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(path.display()).because(why));
            }
            if !tree.remove(&names)? {
                return Err(absent(path));
            }
        }
        Ok(())
    })
}

pub(super) fn chmod(flist: &Path, mode: u32, paths: &[OsString]) -> Result<()> {
    change(flist, |tree| {
        for path in paths {
            tree.set_about(&names(path)?, |about| about.mode = mode).map_err(|_| absent(path))?;
        }
        Ok(())
    })
}

pub(super) fn metadata(path: &Path, set: &[(String, String)], remove: &[String], routes: &[SourceUrl]) -> Result<()> {
    let _changing = Changing::begin(path)?;
    let flist = open(path)?;
    let mut facts = Facts::of(&flist)?;
    for key in remove {
        if !facts.remove(key) {
            return Err(absent(OsStr::new(key)));
        }
    }
    if !routes.is_empty() {
        facts.routes = routes.iter().map(SourceUrl::route).collect();
        write::check_routes(flist.format(), &facts.routes)?;
        if flist.format() == Format::Flist {
            facts.remove("backend");
        }
    }
    // It is what an .flist has of routes.
    if flist.format() == Format::Flist && remove.iter().any(|key| key == "backend") {
        facts.routes.clear();
    }
    for (key, value) in set {
        if flist.format() == Format::Flist && key == "backend" {
            Route::of_backend(value)?;
        }
        facts.set(key, value);
    }
    write::save(&Tree::of(&flist)?, &facts, path, flist.format()).map(drop)
}

/// Makes one of several, of which the first wins.
pub(crate) fn merge(flists: &[PathBuf], target: &Path) -> Result<()> {
    let flists: Vec<Flist> = flists.iter().map(|path| open(path)).collect::<Result<_>>()?;
    let Some(first) = flists.first() else { return Err(Error::new(ErrorKind::InvalidArgument, OP)) };
    let format = first.format();
    if flists.iter().any(|flist| flist.format() != format) {
        let why = "they are of two formats, whose chunks are not alike";
        return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
    }
    let (mut tree, mut facts) = (Tree::default(), Facts::default());
    for flist in flists.iter().rev() {
        tree.add(flist)?;
    }
    for flist in &flists {
        let more = Facts::of(flist)?;
        let backend =
            |facts: &Facts| facts.metadata.iter().find(|(key, _)| key == "backend").map(|(_, text)| text.clone());
        if let (Format::Flist, Some(named), Some(other)) = (format, backend(&facts), backend(&more))
            && named != other
            && (facts.routes.is_empty() || facts.routes != more.routes)
        {
            let why = "their backends are two servers, and an .flist names one: have all chunks on one of them, and set it as the backend of all";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        }
        for (key, value) in more.metadata {
            if !facts.metadata.iter().any(|(there, _)| *there == key) {
                facts.metadata.push((key, value));
            }
        }
        facts.routes.extend(more.routes.into_iter().filter(|route| !facts.routes.contains(route)).collect::<Vec<_>>());
    }
    write::save(&tree, &facts, target, write::format_of(target, Some(format))?).map(drop)
}

pub(super) fn diff(before: &Path, after: &Path, output: Output) -> Result<()> {
    let (before, after) = (Tree::of(&open(before)?)?, Tree::of(&open(after)?)?);
    differences(&before, &after, |difference, path| {
        let (sign, word) = match difference {
            Difference::Added => ("+", "added"),
            Difference::Removed => ("-", "removed"),
            Difference::Changed => ("M", "changed"),
        };
        let line = [sign.as_bytes(), b" ", &shown(path)].concat();
        output.result(&line, &json!({ "change": word, "path": to_text(path) }))
    })
}
