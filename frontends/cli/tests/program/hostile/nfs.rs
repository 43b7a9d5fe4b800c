//! NFS: a name at a time, of any bytes.

use std::net::SocketAddr;

use muxfs::{
    Cid,
    testing::hostile::{HostilePath, Sort},
};
use nfs3_client::nfs3_types::{
    nfs3::{
        GETATTR3args, LOOKUP3args, MKDIR3args, Nfs3Result, RMDIR3args, diropargs3, filename3, ftype3, nfs_fh3,
        nfsstat3, sattr3,
    },
    xdr_codec::Opaque,
};
use tokio::runtime::Runtime;

use super::{Exception, Verdict, Wire, walked};
use crate::trees;

pub(super) struct Nfs {
    runtime: Runtime,
    client: trees::Nfs,
    dir: Cid,
}

impl Nfs {
    pub(super) fn new(addr: SocketAddr, dir: Cid) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(trees::mount(addr));
        Self { runtime, client, dir }
    }
}

fn at<'a>(dir: &nfs_fh3, name: &'a [u8]) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: filename3(Opaque::borrowed(name)) }
}

fn verdict(status: nfsstat3) -> Verdict {
    match status {
        nfsstat3::NFS3ERR_NOENT | nfsstat3::NFS3ERR_NOTDIR => Verdict::NotFound,
        nfsstat3::NFS3ERR_INVAL | nfsstat3::NFS3ERR_ACCES => Verdict::Invalid,
        nfsstat3::NFS3ERR_NAMETOOLONG => Verdict::TooLong,
        other => panic!("{other:?} is no verdict"),
    }
}

async fn walk(nfs: &mut trees::Nfs, parts: &[Vec<u8>]) -> Result<nfs_fh3, nfsstat3> {
    let mut handle = nfs.root_nfs_fh3();
    for part in parts {
        match nfs.lookup(&LOOKUP3args { what: at(&handle, part) }).await.expect("answered") {
            Nfs3Result::Ok(found) => handle = found.object,
            Nfs3Result::Err((status, _)) => return Err(status),
        }
    }
    Ok(handle)
}

impl Wire for Nfs {
    fn name(&self) -> &'static str {
        "NFS"
    }

    fn exception(&self, path: &HostilePath) -> Option<Exception> {
        match path.sort {
            Sort::Dots => {
                let (found, _) = walked(path, &self.dir, true);
                Some(Exception::Says(found, "'..' is looked up as a name is, and stops at the root"))
            }
            Sort::Empty => {
                // The first empty name is met in a directory, or below what is none.
                let before = path.parts.iter().position(Vec::is_empty).expect("an empty part");
                let above = HostilePath { parts: path.parts[..before].to_vec(), ..path.clone() };
                let is_dir = walked(&above, &self.dir, true).0 == Verdict::Dir;
                let says = if is_dir { Verdict::Invalid } else { Verdict::NotFound };
                Some(Exception::Says(says, "an empty name is looked up as any other, and is none"))
            }
            Sort::Long if path.parts.len() > 3 => {
                Some(Exception::Says(Verdict::NotFound, "who is asked for one name at a time sees no length of a path"))
            }
            _ => None,
        }
    }

    fn look(&mut self, path: &HostilePath) -> Verdict {
        let Self { runtime, client: nfs, .. } = self;
        runtime.block_on(async {
            let node = match walk(nfs, &path.parts).await {
                Ok(node) => node,
                Err(status) => return verdict(status),
            };
            let attr = nfs.getattr(&GETATTR3args { object: node }).await.expect("answered").unwrap().obj_attributes;
            if attr.type_ == ftype3::NF3DIR { Verdict::Dir } else { Verdict::File(attr.size) }
        })
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict {
        let Self { runtime, client: nfs, .. } = self;
        let (name, above) = path.parts.split_last().expect("a name");
        runtime.block_on(async {
            let dir = walk(nfs, above).await.expect("a mount");
            match nfs.mkdir(&MKDIR3args { where_: at(&dir, name), attributes: sattr3::default() }).await {
                Ok(Nfs3Result::Ok(_)) => Verdict::Made,
                Ok(Nfs3Result::Err((status, _))) => verdict(status),
                Err(error) => panic!("{}: {error}", path.shown()),
            }
        })
    }

    fn remove_dir(&mut self, path: &HostilePath) {
        let Self { runtime, client: nfs, .. } = self;
        let (name, above) = path.parts.split_last().expect("a name");
        runtime.block_on(async {
            let dir = walk(nfs, above).await.expect("a mount");
            nfs.rmdir(&RMDIR3args { object: at(&dir, name) }).await.expect("answered").unwrap();
        });
    }
}
