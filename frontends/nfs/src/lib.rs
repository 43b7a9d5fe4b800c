//! The NFS version 3 frontend of MuxFS: any [`Vfs`](muxfs::vfs::Vfs) over TCP, to the NFS clients of Linux, macOS and
//! others.
//!
//! ```text
//! socket -> record -> rpc -> connection -> dispatch -> procs/* -> Vfs
//!                                             |-> mount, portmap
//! ```
//! It is a dispatcher of its own on the wire types of `nfs3_types`, because correctness here needs what no server crate
//! gives: credentials in every call, COMMIT with a verifier, cookies that survive changes, a cache of replies, and a
//! bound on everything a peer can claim. For those who embed the crate `nfsserve`, the feature of that name has an
//! adapter. Spec: spec/nfs.md.

mod attr;
mod connection;
mod dispatch;
mod handle;
mod identity;
mod measure;
mod mount;
#[cfg(feature = "nfsserve")]
pub mod nfsserve_adapter;
mod options;
mod outage;
mod portmap;
mod procs;
mod record;
mod replies;
mod room;
mod rpc;
mod server;
mod status;
mod syncs;
mod xdr;

pub use crate::{
    connection::{CALLS_IN_FLIGHT_MAX, IN_FLIGHT_LEN_MAX},
    handle::VFS_HANDLE_LEN_MAX,
    mount::MOUNT_COUNT_MAX,
    options::{Network, Options, Squash},
    record::{RECORD_LEN_MAX, TRANSFER_LEN_MAX},
    replies::REPLY_COUNT_MAX,
    room::UNFINISHED_LEN_MAX,
    rpc::GROUP_COUNT_MAX,
    server::{Server, serve},
    status::status_of,
};
