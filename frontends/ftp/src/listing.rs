//! How entries are told: LIST as `ls -l`, NLST as names, MLSD and MLST as facts (RFC 3659 7).
//!
//! Names are sent as they are, byte for byte. One with CR or LF in it has no form on the wire and is left out; so are
//! partial uploads.

use std::time::SystemTime;

use muxfs::{
    FileKind, Name,
    vfs::{Attr, posix::Access},
};

use crate::{
    path::{PARTIAL_PREFIX, is_plain},
    time,
    tree::Tree,
};

/// What a listing looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `ls -l`; `all` shows names with a leading dot where the server hides them.
    Long {
        all: bool,
    },
    Names,
    Facts,
}

/// One entry, and what a line about it needs.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) attr: &'a Attr,
    /// Of a symlink.
    pub(crate) target: Option<&'a [u8]>,
}

/// Whether a name is in the listings of a directory.
pub(crate) fn is_listed(name: &Name, form: Form, hide_dot_files: bool) -> bool {
    let bytes = name.as_bytes();
    let hidden = hide_dot_files && bytes.first() == Some(&b'.') && form != Form::Long { all: true };
    is_plain(name) && !bytes.starts_with(PARTIAL_PREFIX) && !hidden
}

/// Writes the line of an entry, with its end.
pub(crate) fn line(into: &mut Vec<u8>, form: Form, entry: &Entry<'_>, tree: &Tree, dir: &Attr, now: SystemTime) {
    match form {
        Form::Names => into.extend_from_slice(entry.name),
        Form::Long { .. } => long(into, entry, now),
        Form::Facts => {
            into.extend_from_slice(&facts(entry, tree, Some(dir)));
            into.push(b' ');
            into.extend_from_slice(entry.name);
        }
    }
    into.extend_from_slice(b"\r\n");
}

fn long(into: &mut Vec<u8>, entry: &Entry<'_>, now: SystemTime) {
    let attr = entry.attr;
    let head = format!(
        "{}{} {:>3} {:<8} {:<8} {:>12} {} ",
        kind_letter(attr.kind),
        mode_letters(attr.mode),
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.size,
        time::listed(attr.mtime, now),
    );
    into.extend_from_slice(head.as_bytes());
    into.extend_from_slice(entry.name);
    if let Some(target) = entry.target {
        into.extend_from_slice(b" -> ");
        into.extend(target.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b'?' } else { *byte }));
    }
}

fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}

fn mode_letters(mode: u32) -> String {
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    let mut letters = String::with_capacity(9);
    for (shift, (bit, letter)) in [6, 3, 0].into_iter().zip(special) {
        let class = mode >> shift;
        letters.push(if class & 4 == 0 { '-' } else { 'r' });
        letters.push(if class & 2 == 0 { '-' } else { 'w' });
        letters.push(match (mode & bit != 0, class & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    letters
}

/// The facts of an entry, each ended by a semicolon. `dir` is the directory it is in, where that is known.
pub(crate) fn facts(entry: &Entry<'_>, tree: &Tree, dir: Option<&Attr>) -> Vec<u8> {
    let attr = entry.attr;
    let mut facts = b"type=".to_vec();
    match attr.kind {
        FileKind::File => facts.extend_from_slice(b"file"),
        FileKind::Dir => facts.extend_from_slice(b"dir"),
        FileKind::Symlink => match entry.target {
            Some(target) if !target.iter().any(|byte| matches!(byte, b';' | b'\r' | b'\n')) => {
                facts.extend_from_slice(b"OS.unix=slink:");
                facts.extend_from_slice(target);
            }
            _ => facts.extend_from_slice(b"OS.unix=symlink"),
        },
        FileKind::Fifo => facts.extend_from_slice(b"OS.unix=fifo"),
        FileKind::Socket => facts.extend_from_slice(b"OS.unix=socket"),
        FileKind::CharDevice => facts.extend_from_slice(b"OS.unix=chr"),
        FileKind::BlockDevice => facts.extend_from_slice(b"OS.unix=blk"),
    }
    if attr.kind == FileKind::File {
        facts.extend_from_slice(format!(";size={}", attr.size).as_bytes());
    }
    let rest = format!(
        ";modify={};perm={};unique={:x}g{:x};unix.mode=0{:03o};unix.uid={};unix.gid={};",
        time::stamp(attr.mtime),
        permissions(attr, tree, dir),
        attr.fsid.0,
        attr.ino.0,
        attr.mode,
        attr.uid,
        attr.gid,
    );
    facts.extend_from_slice(rest.as_bytes());
    facts
}

/// What this user may do with it: RFC 3659 7.5.5.
fn permissions(attr: &Attr, tree: &Tree, dir: Option<&Attr>) -> String {
    let mut letters = String::new();
    let mut add = |letter: char, allowed: bool| {
        if allowed {
            letters.push(letter);
        }
    };
    let (reads, writes) = (tree.may(attr, Access::READ), tree.may(attr, Access::WRITE));
    let movable = dir.is_some_and(|dir| tree.may(dir, Access::CHANGE_NAMES));
    if attr.kind == FileKind::Dir {
        let enters = tree.may(attr, Access::SEARCH);
        add('c', writes && enters);
        add('d', movable);
        add('e', enters);
        add('f', movable);
        add('l', reads);
        add('m', writes && enters);
        add('p', writes && enters);
    } else {
        let plain = attr.kind == FileKind::File;
        add('a', plain && writes);
        add('d', movable);
        add('f', movable);
        add('r', plain && reads);
        add('w', plain && writes);
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_ls_shows_them() {
        let table = [
            (0o644, "rw-r--r--"),
            (0o755, "rwxr-xr-x"),
            (0o4755, "rwsr-xr-x"),
            (0o4644, "rwSr--r--"),
            (0o2771, "rwxrws--x"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
            (0, "---------"),
        ];
        for (mode, letters) in table {
            assert_eq!(mode_letters(mode), letters, "{mode:o}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_listed() {
        let listed = |bytes: &[u8], form, hide| is_listed(&Name::new(bytes).expect("a name"), form, hide);
        assert!(listed(b"a b", Form::Names, false) && listed(b"\xff", Form::Facts, true));
        assert!(listed(b".dot", Form::Facts, false) && !listed(b".dot", Form::Facts, true));
        assert!(listed(b".dot", Form::Long { all: true }, true) && !listed(b".dot", Form::Long { all: false }, true));
        for form in [Form::Names, Form::Facts, Form::Long { all: true }] {
            assert!(!listed(b"a\nb", form, false) && !listed(b"\r", form, false));
            assert!(!listed(b".muxfs-part.0", form, false));
        }
    }
}
