//! The 22 procedures of NFS version 3, a file per family.
//!
//! Each decodes its arguments, resolves the handles to leased nodes, makes one call on the caller's view and answers
//! with the result type of `nfs3_types`. A failure carries the attributes that its error body has room for, read after
//! the failure: clients keep their caches by them. Spec: RFC 1813 section 3.3.

mod attr;
mod create;
mod data;
mod fs;
mod list;
mod name;
mod remove;

use std::sync::Arc;

use bytes::Bytes;
use muxfs::{
    ErrorKind, Name,
    vfs::{Attr, Ino, Lease},
};
use nfs3_types::{
    nfs3::{NFS3_FHSIZE, Nfs3Result, nfs_fh3, nfsstat3},
    xdr_codec::Pack,
};

use crate::{
    handle,
    identity::Identity,
    rpc::Reply,
    server::Shared,
    status::status,
    syncs::Extent,
    xdr::{Decoder, Malformed},
};

/// How many procedures there are: 0 to 21.
const PROCEDURE_COUNT: u32 = 22;
/// The longest target of a symlink: `PATH_MAX` of Linux.
const TARGET_LEN_MAX: usize = 4096;

/// One call: the server, and who asks.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: Arc<Shared>,
    pub(crate) identity: Arc<Identity>,
}

/// A node that a handle named, leased for as long as this lives.
#[derive(Debug)]
struct Node {
    /// As it was when the handle was resolved.
    attr: Attr,
    _lease: Lease,
}

impl Node {
    fn ino(&self) -> Ino {
        self.attr.ino
    }
}

/// Why a procedure has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoResult {
    NoSuchProcedure,
    Malformed,
}

impl From<Malformed> for NoResult {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// Whether doing a call twice differs from doing it once: such replies are kept.
pub(crate) fn is_idempotent(procedure: u32) -> bool {
    // SETATTR 2, WRITE 7, CREATE 8 to LINK 15
    !matches!(procedure, 2 | 7..=15)
}

/// Whether a call is a WRITE.
pub(crate) fn is_write(procedure: u32) -> bool {
    procedure == 7
}

/// How many bytes of payload the reply may carry: for the server's budget, before the call is made.
pub(crate) fn reply_len_hint(procedure: u32, mut args: Decoder) -> u32 {
    let hint = |args: &mut Decoder| -> Result<u32, Malformed> {
        match procedure {
            6 => args.opaque(NFS3_FHSIZE).and_then(|_| args.u64()).and_then(|_| args.u32()),
            16 | 17 => Ok(list::REPLY_LEN_MAX),
            _ => Ok(0),
        }
    };
    hint(&mut args).unwrap_or(0).min(crate::record::TRANSFER_LEN_MAX)
}

/// Runs one procedure and appends its result to the reply.
pub(crate) async fn run(cx: &Context, procedure: u32, args: Decoder, reply: &mut Reply) -> Result<nfsstat3, NoResult> {
    Ok(match procedure {
        0 => nfsstat3::NFS3_OK,
        1 => result(reply, &attr::getattr(cx, args).await?),
        2 => result(reply, &attr::setattr(cx, args).await?),
        3 => result(reply, &name::lookup(cx, args).await?),
        4 => result(reply, &attr::access(cx, args).await?),
        5 => result(reply, &name::readlink(cx, args).await?),
        6 => data::read(cx, args, reply).await?,
        7 => result(reply, &data::write(cx, args).await?),
        8 => result(reply, &create::create(cx, args).await?),
        9 => result(reply, &create::mkdir(cx, args).await?),
        10 => result(reply, &create::symlink(cx, args).await?),
        11 => result(reply, &create::mknod(cx, args).await?),
        12 => result(reply, &remove::remove(cx, args).await?),
        13 => result(reply, &remove::rmdir(cx, args).await?),
        14 => result(reply, &remove::rename(cx, args).await?),
        15 => result(reply, &remove::link(cx, args).await?),
        16 => list::readdir(cx, args, reply).await?,
        17 => list::readdirplus(cx, args, reply).await?,
        18 => result(reply, &fs::fsstat(cx, args).await?),
        19 => result(reply, &fs::fsinfo(cx, args).await?),
        20 => result(reply, &fs::pathconf(cx, args).await?),
        21 => result(reply, &data::commit(cx, args).await?),
        PROCEDURE_COUNT.. => return Err(NoResult::NoSuchProcedure),
    })
}

fn result<T: Pack, E: Pack>(reply: &mut Reply, result: &Nfs3Result<T, E>) -> nfsstat3 {
    reply.put(result);
    match result {
        Nfs3Result::Ok(_) => nfsstat3::NFS3_OK,
        Nfs3Result::Err((status, _)) => *status,
    }
}

fn fail<T, E>(status: nfsstat3, body: E) -> Nfs3Result<T, E> {
    Nfs3Result::Err((status, body))
}

impl Decoder {
    fn handle(&mut self) -> Result<Bytes, Malformed> {
        self.opaque(NFS3_FHSIZE)
    }

    /// A name of any length, as a slice of the record; from 256 bytes on it is NAMETOOLONG.
    fn name(&mut self) -> Result<Bytes, Malformed> {
        self.opaque(usize::MAX)
    }

    fn target(&mut self) -> Result<Bytes, Malformed> {
        self.opaque(TARGET_LEN_MAX)
    }
}

impl Context {
    /// The node of a handle, leased.
    async fn resolve(&self, bytes: &Bytes) -> Result<Node, nfsstat3> {
        let handle = handle::decode(bytes)?;
        let vfs = &self.server.vfs;
        match vfs.resolve(&handle).await {
            Ok(attr) => Ok(Node { _lease: Lease::adopt(vfs.clone(), attr.ino), attr }),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidArgument => nfsstat3::NFS3ERR_BADHANDLE,
                ErrorKind::NotFound => nfsstat3::NFS3ERR_STALE,
                _ => status(&error),
            }),
        }
    }

    /// Takes over the lease of what a leasing call returned.
    fn adopt(&self, attr: Attr) -> Node {
        Node { _lease: Lease::adopt(self.server.vfs.clone(), attr.ino), attr }
    }

    /// The attributes at present, for the body of an error; absent where they cannot be read.
    async fn now(&self, ino: Ino) -> Option<Attr> {
        self.server.vfs.getattr(ino).await.ok()
    }

    /// The handle of a leased node.
    fn handle(&self, ino: Ino) -> Result<nfs_fh3, nfsstat3> {
        handle::encode(&self.server.vfs.handle(ino).map_err(|error| status(&error))?)
    }

    /// Makes a node durable. After a failure nothing is known of what was written before, and it is told only once: the
    /// verifier changes, so that every client sends again what it has not committed, whatever the call was for.
    async fn sync(&self, ino: Ino) -> Result<(), nfsstat3> {
        self.run_sync(ino, Extent::Whole, self.server.vfs.sync(ino)).await
    }

    async fn run_sync(
        &self,
        ino: Ino,
        extent: Extent,
        sync: impl Future<Output = muxfs::Result<()>> + Send,
    ) -> Result<(), nfsstat3> {
        let synced = async {
            sync.await.map_err(|error| {
                self.server.verifier.renew();
                status(&error)
            })
        };
        self.server.syncs.run(ino, extent, synced).await
    }

    /// Makes what a call did to `nodes` durable, if the server promises that before it replies.
    async fn sync_names<const N: usize>(&self, nodes: [&Node; N]) -> Result<(), nfsstat3> {
        let options = &self.server.options;
        if options.sync_names {
            let promised = nodes.into_iter().filter(|node| !options.sync_names_except.contains(&node.attr.fsid));
            // Each to its end: the failure of one must not hide that of another.
            for synced in futures_util::future::join_all(promised.map(|node| {
                let sync = self.server.vfs.sync_inode(node.ino());
                self.run_sync(node.ino(), Extent::Inode, sync)
            }))
            .await
            {
                synced?;
            }
        }
        Ok(())
    }
}

/// A name to make, remove or move. "." and ".." are in the way, or make no sense: each procedure has its own word.
fn plain_name(bytes: &[u8], dots: nfsstat3) -> Result<Name, nfsstat3> {
    match bytes {
        b"" => Err(nfsstat3::NFS3ERR_ACCES),
        b"." | b".." => Err(dots),
        _ => Name::new(bytes).map_err(|error| status(&error)),
    }
}
