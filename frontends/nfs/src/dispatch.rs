//! From a call to its reply: which program, which procedure, whether it was answered before.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use nfs3_types::{
    mount,
    nfs3::{self, nfsstat3},
    portmap,
    rpc::accept_stat,
};

use crate::{
    identity::Identity,
    measure::RPC_ERROR,
    procs::{self, Context, NoResult},
    replies::Begun,
    rpc::{Call, Reply},
    server::Shared,
};

/// Who sent a call, and over which connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) connection: u64,
}

/// Answers a call. `None` where nothing is to be sent: the call is a repetition of one in progress.
pub(crate) async fn answer(server: Arc<Shared>, origin: Origin, identity: Arc<Identity>, call: Call) -> Option<Reply> {
    let begun = Instant::now();
    let (xid, program, version, procedure) = (call.xid, call.program, call.version, call.procedure);
    let only = match program {
        nfs3::PROGRAM => nfs3::VERSION,
        mount::PROGRAM => mount::VERSION,
        portmap::PROGRAM => portmap::VERSION,
        _ => {
            server.metrics.request(None, RPC_ERROR, begun.elapsed());
            return Some(Reply::refused(xid, accept_stat::PROG_UNAVAIL));
        }
    };
    if version != only {
        server.metrics.request(None, RPC_ERROR, begun.elapsed());
        return Some(Reply::program_mismatch(xid, only));
    }
    if program == nfs3::PROGRAM {
        return nfs(&Context { server, identity }, origin, call, begun).await;
    }
    let mut reply = Reply::accepted(xid);
    let ran = match program {
        mount::PROGRAM => mount_run(&server, origin, procedure, &call, &mut reply).await,
        _ => crate::portmap::run(server.port, procedure, call.args, &mut reply),
    };
    let (reply, status) = match ran {
        Ok(true) => (reply, 0),
        Ok(false) => (Reply::refused(xid, accept_stat::PROC_UNAVAIL), RPC_ERROR),
        Err(_) => (Reply::refused(xid, accept_stat::GARBAGE_ARGS), RPC_ERROR),
    };
    server.metrics.request(None, status, begun.elapsed());
    Some(reply)
}

async fn mount_run(
    server: &Shared,
    origin: Origin,
    procedure: u32,
    call: &Call,
    reply: &mut Reply,
) -> Result<bool, crate::xdr::Malformed> {
    crate::mount::run(server, origin.peer.ip(), procedure, call.args.clone(), reply).await
}

/// One call of NFS, past the reply cache.
async fn nfs(cx: &Context, origin: Origin, call: Call, begun: Instant) -> Option<Reply> {
    if procs::is_idempotent(call.procedure) {
        return Some(nfs_once(cx, call, begun).await.0);
    }
    let replies = if procs::is_write(call.procedure) { &cx.server.write_replies } else { &cx.server.replies };
    match replies.begin(origin.peer.ip().to_canonical(), origin.connection, &call) {
        Begun::First(ticket) => {
            let (reply, status) = nfs_once(cx, call, begun).await;
            // "Try again" is no answer to keep: a client may try again with the same xid.
            if status == nfsstat3::NFS3ERR_JUKEBOX as u32 {
                ticket.pass_on(reply.to_bytes());
            } else {
                ticket.done(reply.to_bytes());
            }
            Some(reply)
        }
        Begun::Again(bytes) => Some(Reply::again(&bytes)),
        Begun::Elsewhere(reply) => reply.await.ok().map(|bytes| Reply::again(&bytes)),
        Begun::Underway => None,
    }
}

async fn nfs_once(cx: &Context, call: Call, begun: Instant) -> (Reply, u32) {
    let server = &cx.server;
    let (xid, procedure, args) = (call.xid, call.procedure, call.args.rest().clone());
    let mut reply = Reply::accepted(xid);
    let status = match procs::run(cx, procedure, call.args, &mut reply).await {
        Ok(nfsstat3::NFS3ERR_JUKEBOX)
            if server.outages.met(procedure, &args, (server.options.env.now)(), server.options.unavailable_after) =>
        {
            reply.set_status(nfsstat3::NFS3ERR_IO as u32);
            nfsstat3::NFS3ERR_IO as u32
        }
        Ok(status) => {
            if status != nfsstat3::NFS3ERR_JUKEBOX {
                server.outages.over(procedure, &args);
            }
            status as u32
        }
        Err(NoResult::NoSuchProcedure) => {
            reply = Reply::refused(xid, accept_stat::PROC_UNAVAIL);
            RPC_ERROR
        }
        Err(NoResult::Malformed) => {
            reply = Reply::refused(xid, accept_stat::GARBAGE_ARGS);
            RPC_ERROR
        }
    };
    server.metrics.request(Some(procedure), status, begun.elapsed());
    (reply, status)
}
