//! The MOUNT protocol, version 3: from a path to the first handle.
//!
//! There is one export, `/`, and every directory below it can be mounted. The walk goes by names; a symlink on the way
//! is not followed, because its target means nothing here. Who mounted what is remembered for DUMP only, and not for
//! long. Spec: RFC 1813 appendix I.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Lease},
};
use nfs3_types::{
    mount::{
        MNTPATHLEN, dirpath, export_node, fhandle3, mountbody, mountlist, mountres3, mountres3_ok, mountstat3,
        name as wire_name,
    },
    rpc::auth_flavor,
    xdr_codec::{List, Opaque},
};

use crate::{
    handle,
    rpc::Reply,
    server::Shared,
    status::mount_status,
    xdr::{Decoder, Malformed},
};

/// How many mounts are remembered for DUMP.
pub const MOUNT_COUNT_MAX: usize = 1024;
/// How many networks EXPORT names.
const GROUP_COUNT_MAX: usize = 64;

/// Who mounted what, latest last.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Mutex<VecDeque<(IpAddr, Bytes)>>);

impl Mounts {
    fn with<T>(&self, act: impl FnOnce(&mut VecDeque<(IpAddr, Bytes)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, peer: IpAddr, path: Bytes) {
        self.with(|mounts| {
            mounts.retain(|(host, mounted)| (*host, mounted) != (peer, &path));
            if mounts.len() >= MOUNT_COUNT_MAX {
                mounts.pop_front();
            }
            mounts.push_back((peer, path));
        });
    }
}

/// Runs one procedure; `Ok(false)` for one there is not.
pub(crate) async fn run(
    server: &Shared,
    peer: IpAddr,
    procedure: u32,
    mut args: Decoder,
    reply: &mut Reply,
) -> Result<bool, Malformed> {
    match procedure {
        0 => {}
        1 => {
            let path = args.opaque(MNTPATHLEN)?;
            reply.put(&mnt(server, peer, &path).await);
        }
        2 => {
            let mounts = server.mounts.with(|mounts| mounts.iter().cloned().collect::<Vec<_>>());
            let bodies = mounts.into_iter().map(|(host, path)| mountbody {
                ml_hostname: wire_name(Opaque::owned(host.to_canonical().to_string().into_bytes())),
                ml_directory: dirpath(Opaque::owned(path.into())),
            });
            let list: mountlist<'_, '_> = List(bodies.collect());
            reply.put(&list);
        }
        3 => {
            let path = args.opaque(MNTPATHLEN)?;
            server.mounts.with(|mounts| mounts.retain(|(host, mounted)| (*host, mounted) != (peer, &path)));
        }
        4 => server.mounts.with(|mounts| mounts.retain(|(host, _)| *host != peer)),
        5 => {
            let groups = server.options.allow.iter().take(GROUP_COUNT_MAX);
            let groups = groups.map(|network| wire_name(Opaque::owned(network.to_string().into_bytes())));
            reply.put(&List(vec![export_node {
                ex_dir: dirpath(Opaque::borrowed(b"/")),
                ex_groups: List(groups.collect()),
            }]));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

async fn mnt(server: &Shared, peer: IpAddr, path: &Bytes) -> mountres3<'static> {
    let (_lease, attr) = match walk(server, path).await {
        Ok(found) => found,
        Err(error) => return mountres3::Err(mount_status(&error)),
    };
    let handle = server.vfs.handle(attr.ino).map_err(|error| mount_status(&error));
    match handle.and_then(|handle| handle::encode(&handle).map_err(|_| mountstat3::MNT3ERR_SERVERFAULT)) {
        Ok(handle) => {
            server.mounts.add(peer, Bytes::copy_from_slice(path));
            mountres3::Ok(mountres3_ok {
                fhandle: fhandle3(handle.data),
                auth_flavors: vec![auth_flavor::AUTH_UNIX as u32, auth_flavor::AUTH_NULL as u32],
            })
        }
        Err(status) => mountres3::Err(status),
    }
}

/// The directory of a path; further slashes at its end or in a row change nothing.
async fn walk(server: &Shared, path: &[u8]) -> Result<(Lease, Attr)> {
    let refuse = |kind| Error::new(kind, "nfs.mount").at(path.escape_ascii());
    if path.first() != Some(&b'/') {
        return Err(refuse(ErrorKind::InvalidArgument).because("an export begins with a slash"));
    }
    let vfs = &server.vfs;
    let root = vfs.root();
    vfs.retain(root);
    let mut lease = Lease::adopt(vfs.clone(), root);
    let mut attr = vfs.getattr(root).await?;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let name = Name::new(part)?;
        attr = vfs.lookup(lease.ino(), &name).await.map_err(|error| error.at(path.escape_ascii()))?;
        lease = Lease::adopt(vfs.clone(), attr.ino);
        if attr.kind != FileKind::Dir {
            return Err(refuse(ErrorKind::NotDir));
        }
    }
    Ok((lease, attr))
}
