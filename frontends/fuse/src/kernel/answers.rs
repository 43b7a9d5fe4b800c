//! Answers about nodes, and how long the kernel may believe them. Spec: spec/fuse.md #coherence.

use std::{ffi::OsStr, fs::File, io, os::unix::ffi::OsStrExt as _, sync::Arc, time::Duration};

use fuser::{
    BackingId, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry,
};
use muxfs::{
    Cid, FileKind, Name, Result,
    vfs::{Attr, Ino, watch::Change},
};

use crate::{
    attr::{FOR_EVER, bare_attr, file_attr, has_suid, without_suid},
    errno::errno,
    listing::{Entry, What},
    nodes::Trust,
    passthrough::{NO_HANDLE, Opener},
    server::Shared,
};

/// Numbers are never used again, or held by a lease where a host does: one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

impl Shared {
    pub(super) fn attr(&self, attr: &Attr) -> FileAttr {
        file_attr(attr, self.nodes.id(attr.ino), self.options.uid, self.options.gid)
    }

    /// How long the kernel may believe an answer about a node that has this trust.
    ///
    /// One that is setuid or setgid not at all: writing takes that away, and the kernel, which leaves it to the file
    /// system, goes on believing the mode that it has.
    pub(super) fn believed_of(&self, attr: &Attr, trust: Trust, fresh: bool) -> Duration {
        let is_plain = attr.kind == FileKind::Dir || !has_suid(attr.mode);
        self.believed(trust, fresh && is_plain)
    }

    /// How long the kernel may believe an answer about what has this trust.
    pub(super) fn believed(&self, trust: Trust, fresh: bool) -> Duration {
        match trust {
            _ if !fresh => Duration::ZERO,
            Trust::Watched | Trust::Frozen => FOR_EVER,
            Trust::Outside => self.options.outside_timeout,
            Trust::Unwatched => Duration::ZERO,
        }
    }

    /// Answers with a node that was leased for the kernel, and that a name in `dir` leads to.
    pub(super) fn entry(&self, begun: u64, dir: Ino, attr: &Attr, reply: ReplyEntry) {
        let trust = self.trust_of(attr);
        self.nodes.add(attr.ino, trust);
        let trust = self.nodes.trust(dir).of_name_to(trust);
        let shown = self.attr(attr);
        self.changes.settle(begun, |fresh| reply.entry(&self.believed_of(attr, trust, fresh), &shown, GENERATION));
    }

    pub(super) fn attributes(&self, begun: u64, attr: &Attr, reply: ReplyAttr) {
        let (trust, shown) = (self.trust_of(attr), self.attr(attr));
        self.changes.settle(begun, |fresh| reply.attr(&self.believed_of(attr, trust, fresh), &shown));
    }

    /// Whether the kernel may remember that a directory has no such name.
    pub(super) fn absence_is_told(&self, dir: Ino, name: &Name) -> bool {
        // Content comes into a store without any call on the tree that shows it.
        let is_content = || name.as_str().is_some_and(|text| Cid::parse_in_path(text).is_ok());
        match self.nodes.trust(dir) {
            Trust::Watched => !is_content(),
            Trust::Frozen => true,
            Trust::Outside | Trust::Unwatched => false,
        }
    }

    /// The host file that the kernel may read and write by itself from now on, where none of its kind is open yet.
    pub(super) async fn file_behind(&self, ino: Ino) -> Option<File> {
        if !self.passthrough.is_on() || !self.passthrough.wants_file(ino) {
            return None;
        }
        let file = self.vfs.host_file(ino).await;
        file.unwrap_or_else(|error| {
            tracing::debug!("the kernel does not read and write this file by itself: {error:#}");
            None
        })
    }

    /// How a file that was just opened is read and written.
    pub(super) fn opened(
        &self,
        ino: Ino,
        opener: Opener,
        mode: Option<u32>,
        file: Option<&File>,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> (FileHandle, FopenFlags, Option<Arc<BackingId>>) {
        let flags = self.file_flags(ino);
        if !self.passthrough.is_on() || self.nodes.trust(ino) != Trust::Outside {
            return (NO_HANDLE, flags, None);
        }
        // Each write of another to such a file is to come here, where it takes setuid away: this flag wins over the way.
        let takes_suid = opener.writes && !opener.is_root && mode.is_some_and(|mode| without_suid(mode) != mode);
        let (direct, opener) = if takes_suid {
            (FopenFlags::FOPEN_DIRECT_IO, Opener { writes: false, ..opener })
        } else {
            (FopenFlags::empty(), opener)
        };
        let (handle, way) = self.passthrough.count(ino, opener, file, register);
        let flags = match &way {
            // Who writes past us is heard of when they close.
            Some(_) if opener.writes => FopenFlags::empty(),
            Some(_) => FopenFlags::FOPEN_NOFLUSH | direct,
            None => flags | direct,
        };
        (handle, flags, way)
    }

    /// What the kernel may keep of a file from one opening to the next.
    pub(super) fn file_flags(&self, ino: Ino) -> FopenFlags {
        match self.nodes.trust(ino) {
            // Closing has nothing to do: what is written is visible, and durable after fsync.
            Trust::Watched | Trust::Frozen => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            Trust::Outside | Trust::Unwatched => FopenFlags::FOPEN_NOFLUSH,
        }
    }

    pub(super) fn list(&self, begun: u64, dir: Ino, entries: Vec<Entry>, mut reply: ReplyDirectoryPlus) {
        let above = self.nodes.trust(dir);
        let fresh = self.changes.settle(begun, |fresh| {
            for Entry { name, offset, what } in entries {
                let name = OsStr::from_bytes(&name);
                let (id, attr, believed) = match &what {
                    What::Dot(ino) => {
                        let id = self.nodes.id(*ino);
                        (id, bare_attr(id, FileType::Directory), Duration::ZERO)
                    }
                    What::Unknown(ino, kind) => {
                        let id = self.nodes.id(*ino);
                        (id, bare_attr(id, *kind), Duration::ZERO)
                    }
                    What::Node(attr, _) => {
                        let believed = self.believed_of(attr, above.of_name_to(self.trust_of(attr)), fresh);
                        (self.nodes.id(attr.ino), self.attr(attr), believed)
                    }
                };
                // The lease of what does not fit is given back.
                if reply.add(INodeNo(id), offset, name, &believed, &attr, GENERATION) {
                    break;
                }
                if let What::Node(attr, _lease) = &what {
                    self.vfs.retain(attr.ino);
                    self.nodes.add(attr.ino, self.trust_of(attr));
                }
            }
            reply.ok();
            fresh
        });
        if !fresh {
            // The kernel keeps the listing, which may be old.
            self.own.send(Change::Node { ino: dir, content: true }).ok();
        }
    }
}

pub(super) fn done(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}
