//! READDIR, READDIRPLUS: RFC 1813 3.3.16, 3.3.17.
//!
//! Cookies are those of the `Vfs`: they name a place in the directory and not a position in a list, so a listing goes on
//! after entries came or went, none skipped and none repeated. That is why the cookie verifier is always 0. "." and ".."
//! are added here, with the cookies 1 and 2 that the `Vfs` leaves free.

use muxfs::{
    ErrorKind,
    vfs::{Attr, Cookie, DirEntry, Ino, Lease, Listing},
};
use nfs3_types::{
    nfs3::{Nfs3Option, nfs_fh3, nfsstat3, post_op_attr},
    xdr_codec::Pack,
};

use super::{Context, Node};
use crate::{
    attr::{fileid, post_op},
    rpc::Reply,
    status::status,
    xdr::{Decoder, Malformed, padded, padding},
};

/// The longest listing in one reply, whatever the client would take.
pub(crate) const REPLY_LEN_MAX: u32 = 128 * 1024;
/// What surrounds the entries: the verifier, the end of the list, and eof.
const FRAME_LEN: usize = 8 + 4 + 4;
/// An entry without its name: "one follows", fileid, the name's length, cookie.
const ENTRY_LEN: usize = 4 + 8 + 4 + 8;
/// What READDIRPLUS adds at least: no attributes, no handle.
const NOTHING_LEN: usize = 4 + 4;
/// What is taken for the length of an entry to ask for about as many as fit.
const ENTRY_LEN_GUESS: usize = ENTRY_LEN + 16;
const PLUS_LEN_GUESS: usize = 88 + 4 + 4 + 32;
/// How many entries are asked for at once.
const ENTRY_COUNT_MAX: usize = 1024;
/// Cookies of the `Vfs` stay below this.
const COOKIE_END: u64 = 1 << 63;

/// What a caller wants, and how much of it fits.
struct Wanted {
    after: u64,
    listing: Listing,
    /// The longest result, without its status.
    len_max: usize,
    /// The longest sum of entries without attributes and handles: a wish, not a limit for the first entry.
    dir_len_max: usize,
}

pub(super) async fn readdir(cx: &Context, mut args: Decoder, reply: &mut Reply) -> Result<nfsstat3, Malformed> {
    let (dir, after, _verifier) = (args.handle()?, args.u64()?, args.verifier()?);
    let len_max = args.u32()?.min(REPLY_LEN_MAX) as usize;
    let wanted = Wanted { after, listing: Listing::Names, len_max, dir_len_max: usize::MAX };
    Ok(list(cx, cx.resolve(&dir).await, &wanted, reply).await)
}

pub(super) async fn readdirplus(cx: &Context, mut args: Decoder, reply: &mut Reply) -> Result<nfsstat3, Malformed> {
    let (dir, after, _verifier) = (args.handle()?, args.u64()?, args.verifier()?);
    let dir_len_max = args.u32()? as usize;
    let len_max = args.u32()?.min(REPLY_LEN_MAX) as usize;
    let wanted = Wanted { after, listing: Listing::Attrs, len_max, dir_len_max };
    Ok(list(cx, cx.resolve(&dir).await, &wanted, reply).await)
}

async fn list(cx: &Context, dir: Result<Node, nfsstat3>, wanted: &Wanted, reply: &mut Reply) -> nfsstat3 {
    let dir = match dir {
        Ok(dir) => dir,
        Err(status) => {
            reply.put(&status).put(&post_op_attr::None);
            return status;
        }
    };
    let dir_attributes = post_op(&dir.attr);
    let mut page = Page::new(wanted, dir_attributes.packed_size());
    let eof = match fill(cx, &dir, wanted, &mut page).await {
        Ok(eof) => eof,
        // What was read before the failure stands: the next call meets the failure again.
        Err(_) if page.count > 0 => false,
        Err(status) => {
            reply.put(&status).put(&dir_attributes);
            return status;
        }
    };
    if page.count == 0 && !eof {
        reply.put(&nfsstat3::NFS3ERR_TOOSMALL).put(&dir_attributes);
        return nfsstat3::NFS3ERR_TOOSMALL;
    }
    reply.put(&nfsstat3::NFS3_OK).put(&dir_attributes).put(&0u64);
    reply.put_encoded(&page.bytes).put(&false).put(&eof);
    nfsstat3::NFS3_OK
}

/// Fills a page and says whether it holds the end of the directory.
async fn fill(cx: &Context, dir: &Node, wanted: &Wanted, page: &mut Page) -> Result<bool, nfsstat3> {
    if wanted.after >= COOKIE_END {
        return Err(nfsstat3::NFS3ERR_BAD_COOKIE);
    }
    let mut after = Cookie(wanted.after);
    let mut first = Vec::new();
    if after == Cookie::START {
        first.push((&b"."[..], Cookie::DOT));
    }
    if after <= Cookie::DOT {
        first.push((&b".."[..], Cookie::DOT_DOT));
    }
    // The first page of the directory is read before "." and "..", so that a refusal is no page of two names.
    let start = if after <= Cookie::DOT_DOT { Cookie::START } else { after };
    let mut next = ask(cx, dir, start, wanted, page).await?;
    for (name, cookie) in first {
        let node = if cookie == Cookie::DOT {
            cx.server.vfs.retain(dir.ino());
            dir.attr.clone()
        } else {
            match cx.server.vfs.parent(dir.ino()).await {
                // The directory answers, so it is only unknown what is above it, as of content that was found by its
                // handle after a restart. Clients know their ".."; the listing must not fail for its number.
                Err(error) if error.kind() == ErrorKind::Stale => {
                    cx.server.vfs.retain(dir.ino());
                    dir.attr.clone()
                }
                above => above.map_err(|error| status(&error))?,
            }
        };
        let node = cx.adopt(node);
        if !page.push(node.ino(), name, cookie, Some(&node.attr), |ino| cx.handle(ino).ok()) {
            return Ok(false);
        }
    }
    loop {
        for entry in &next.entries {
            let handle = |ino| entry.attr.as_ref().and_then(|_| cx.handle(ino).ok());
            if !page.push(entry.ino, entry.name.as_bytes(), entry.cookie, entry.attr.as_ref(), handle) {
                return Ok(false);
            }
            after = entry.cookie;
        }
        if next.eof {
            return Ok(true);
        }
        if page.room() == 0 || next.entries.is_empty() {
            return Ok(false);
        }
        next = ask(cx, dir, after, wanted, page).await?;
    }
}

/// Some entries, leased where they come with attributes.
struct Batch {
    entries: Vec<DirEntry>,
    eof: bool,
    _leases: Vec<Lease>,
}

async fn ask(cx: &Context, dir: &Node, after: Cookie, wanted: &Wanted, page: &Page) -> Result<Batch, nfsstat3> {
    let count = page.room().clamp(1, ENTRY_COUNT_MAX);
    let got =
        cx.identity.view.readdir(dir.ino(), after, count, wanted.listing).await.map_err(|error| status(&error))?;
    // A caller who may not search the directory gets names without attributes, and no leases.
    let full = got.entries.iter().filter(|entry| entry.attr.is_some());
    let leases = full.map(|entry| Lease::adopt(cx.server.vfs.clone(), entry.ino)).collect();
    Ok(Batch { entries: got.entries, eof: got.eof, _leases: leases })
}

/// Entries as they will be sent, counted to the byte.
struct Page {
    bytes: Vec<u8>,
    count: usize,
    len_max: usize,
    dir_len: usize,
    dir_len_max: usize,
    plus: bool,
    guess: usize,
}

impl Page {
    fn new(wanted: &Wanted, attributes_len: usize) -> Self {
        let plus = wanted.listing == Listing::Attrs;
        Self {
            bytes: Vec::new(),
            count: 0,
            len_max: wanted.len_max.saturating_sub(attributes_len + FRAME_LEN),
            dir_len: 0,
            dir_len_max: wanted.dir_len_max,
            plus,
            guess: ENTRY_LEN_GUESS + if plus { PLUS_LEN_GUESS } else { 0 },
        }
    }

    /// About how many more entries fit.
    fn room(&self) -> usize {
        let dir_room = self.dir_len_max.saturating_sub(self.dir_len) / (ENTRY_LEN + 4);
        ((self.len_max - self.bytes.len()) / self.guess).min(dir_room)
    }

    /// Appends an entry, or says that it does not fit. One that would fit alone without its attributes and handle goes
    /// without: the client asks for them, where TOOSMALL would stop it for ever.
    fn push(
        &mut self,
        ino: Ino,
        name: &[u8],
        cookie: Cookie,
        attr: Option<&Attr>,
        handle: impl FnOnce(Ino) -> Option<nfs_fh3>,
    ) -> bool {
        let dir_len = ENTRY_LEN + padded(name.len());
        let room = self.len_max - self.bytes.len();
        if room < dir_len + if self.plus { NOTHING_LEN } else { 0 } {
            return false;
        }
        if self.count > 0 && self.dir_len + dir_len > self.dir_len_max {
            return false;
        }
        let (mut attributes, mut object) = (Nfs3Option::None, Nfs3Option::None);
        if self.plus {
            attributes = attr.map_or(Nfs3Option::None, post_op);
            object = handle(ino).map_or(Nfs3Option::None, Nfs3Option::Some);
            if room < dir_len + attributes.packed_size() + object.packed_size() {
                if self.count > 0 {
                    return false;
                }
                (attributes, object) = (Nfs3Option::None, Nfs3Option::None);
            }
        }
        self.put(&true).put(&fileid(ino)).put(&u32::try_from(name.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len() + padding(name.len()), 0);
        self.put(&cookie.0);
        if self.plus {
            self.put(&attributes).put(&object);
        }
        self.dir_len += dir_len;
        self.count += 1;
        true
    }

    fn put(&mut self, value: &impl Pack) -> &mut Self {
        value.pack(&mut self.bytes).expect("a Vec takes any bytes");
        self
    }
}
