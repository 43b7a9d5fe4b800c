//! An NFS client that keeps nothing but handles.

use std::net::SocketAddr;

use muxfs::testing::linear::Role::{Change, Read};
use nfs3_client::{
    Nfs3ConnectionBuilder,
    nfs3_types::{
        nfs3::{
            CREATE3args, GETATTR3args, LINK3args, LOOKUP3args, Nfs3Option, Nfs3Result, READ3args, READDIR3args,
            REMOVE3args, RENAME3args, SETATTR3args, WRITE3args, cookieverf3, createhow3, nfs_fh3, nfsstat3, sattr3,
            sattrguard3, set_size3, stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
    tokio::TokioConnector,
};
use tokio::runtime::Runtime;

use super::{
    Client, Directory, Log,
    model::{Found, NAMES, Name, Op},
};
use crate::trees::{Nfs, at, find};

pub(super) struct NfsClient {
    who: String,
    runtime: Runtime,
    nfs: Nfs,
}

impl NfsClient {
    pub(super) fn new(who: &str, addr: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let builder = Nfs3ConnectionBuilder::new(TokioConnector, addr.ip().to_string(), "/")
            .connect_from_privileged_port(false)
            .credential(opaque_auth::auth_unix(&auth_unix { uid, gid, ..auth_unix::default() }))
            .nfs3_port(addr.port())
            .mount_port(addr.port());
        let nfs = runtime.block_on(builder.mount()).expect("mounted");
        Self { who: who.into(), runtime, nfs }
    }
}

impl Client for NfsClient {
    fn who(&self) -> &str {
        &self.who
    }

    fn reaches(&self, _: &Directory) -> bool {
        true
    }

    fn work(&mut self, dir: &Directory, log: &mut Log) {
        let Self { runtime, nfs, .. } = self;
        runtime.block_on(async {
            let mut work = Work { dir: find(nfs, &dir.path).await, nfs, log };
            for _ in 0..work.log.count {
                work.step(dir.has_links).await;
            }
        });
    }

    fn look(&mut self, dir: &Directory, log: &mut Log) {
        let Self { runtime, nfs, .. } = self;
        runtime.block_on(async {
            let mut work = Work { dir: find(nfs, &dir.path).await, nfs, log };
            for name in 0..NAMES.len() {
                work.file(name, false).await;
            }
            work.list().await;
        });
    }
}

struct Work<'a> {
    nfs: &'a mut Nfs,
    dir: nfs_fh3,
    log: &'a mut Log,
}

/// What a call said, or one of the two answers of a server that works.
fn told<T, E, L: std::fmt::Debug>(result: Result<Nfs3Result<T, E>, L>, expected: &[nfsstat3]) -> Result<T, nfsstat3> {
    match result.expect("answered") {
        Nfs3Result::Ok(value) => Ok(value),
        Nfs3Result::Err((status, _)) if expected.contains(&status) => Err(status),
        Nfs3Result::Err((status, _)) => panic!("{status:?}"),
    }
}

const NOENT: nfsstat3 = nfsstat3::NFS3ERR_NOENT;
const EXIST: nfsstat3 = nfsstat3::NFS3ERR_EXIST;
const STALE: nfsstat3 = nfsstat3::NFS3ERR_STALE;

impl Work<'_> {
    async fn step(&mut self, has_links: bool) {
        let name = self.log.name();
        match self.log.dice.roll(16) {
            0..=3 => self.file(name, false).await,
            4..=8 => self.file(name, true).await,
            9 => self.list().await,
            10 | 11 => self.create(name).await,
            12 => self.remove(name).await,
            _ if has_links => self.link(name).await,
            _ => self.rename(name).await,
        }
    }

    /// Looks a name up and asks for what it leads to, after changing that or not.
    async fn file(&mut self, name: Name, write: bool) {
        let Some((handle, found)) = self.find(name).await else { return };
        let mut is_there = true;
        for _ in 0..if write { 1 + self.log.dice.roll(2) } else { 0 } {
            is_there = is_there && self.change(&handle, found).await;
        }
        if is_there {
            self.read(&handle, found).await;
        }
    }

    async fn find(&mut self, name: Name) -> Option<(nfs_fh3, Found)> {
        let span = self.log.begin();
        let looked = told(self.nfs.lookup(&LOOKUP3args { what: at(&self.dir, NAMES[name]) }).await, &[NOENT]);
        let span = self.log.end(span);
        if let Ok(looked) = looked {
            let found = self.log.found(span, Read, name);
            Some((looked.object, found))
        } else {
            self.log.told(span, Read, Op::Absent(name));
            None
        }
    }

    /// A handle of a file without names leads nowhere, unless somebody has it open.
    fn gone(&mut self, span: super::Span, found: Found) {
        self.log.told(span, Read, Op::Links(found, 0));
    }

    async fn read(&mut self, handle: &nfs_fh3, found: Found) {
        if self.log.dice.roll(3) == 0 {
            let span = self.log.begin();
            let attr = told(self.nfs.getattr(&GETATTR3args { object: handle.clone() }).await, &[STALE]);
            let span = self.log.end(span);
            let Ok(attr) = attr else { return self.gone(span, found) };
            let attr = attr.obj_attributes;
            self.log.told(span, Read, Op::Len(found, usize::try_from(attr.size).expect("short")));
            self.log.told(span, Read, Op::Mode(found, attr.mode & 0o7777));
            self.log.told(span, Read, Op::Links(found, attr.nlink as usize));
            return;
        }
        let span = self.log.begin();
        let args = READ3args { file: handle.clone(), offset: 0, count: 64 };
        let data = told(self.nfs.read(&args).await, &[STALE]);
        let span = self.log.end(span);
        let Ok(data) = data else { return self.gone(span, found) };
        self.log.told(span, Read, Op::Bytes(found, data.data.to_vec()));
    }

    /// Whether the file is still there.
    async fn change(&mut self, handle: &nfs_fh3, found: Found) -> bool {
        let kind = self.log.dice.roll(8);
        let (len, mode) = (self.log.dice.roll(12), self.log.mode());
        let (offset, bytes) = self.log.patch();
        let span = self.log.begin();
        let (changed, op) = if kind <= 2 {
            let (set, op) = match kind {
                0 => (sattr3 { size: set_size3::Some(len as u64), ..sattr3::default() }, Op::Cut(found, len)),
                _ => (sattr3 { mode: Nfs3Option::Some(mode), ..sattr3::default() }, Op::SetMode(found, mode)),
            };
            let args = SETATTR3args { object: handle.clone(), new_attributes: set, guard: sattrguard3::None };
            (told(self.nfs.setattr(&args).await, &[STALE]).map(drop), op)
        } else {
            let count = u32::try_from(bytes.len()).expect("short");
            let stable = if kind == 3 { stable_how::FILE_SYNC } else { stable_how::UNSTABLE };
            let data = Opaque::borrowed(&bytes);
            let args = WRITE3args { file: handle.clone(), offset: offset as u64, count, stable, data };
            let written = told(self.nfs.write(&args).await, &[STALE]);
            (written.map(|written| assert_eq!(written.count, count)), Op::Write(found, offset, bytes))
        };
        let span = self.log.end(span);
        match changed {
            Ok(()) => self.log.told(span, Change, op),
            Err(_) => self.gone(span, found),
        }
        changed.is_ok()
    }

    async fn list(&mut self) {
        let span = self.log.begin();
        let args = READDIR3args { dir: self.dir.clone(), cookie: 0, cookieverf: cookieverf3::default(), count: 8192 };
        let page = told(self.nfs.readdir(&args).await, &[]).expect("listed");
        let span = self.log.end(span);
        assert!(page.reply.eof, "a page holds them all");
        let names: Vec<_> = page.reply.entries.0.iter().map(|entry| entry.name.0.to_vec()).collect();
        self.log.listed(span, Read, |name| names.iter().any(|listed| listed == name.as_bytes()));
    }

    async fn create(&mut self, name: Name) {
        let (node, mode) = (self.log.number(), 0o640);
        let how = createhow3::GUARDED(sattr3 { mode: Nfs3Option::Some(mode), ..sattr3::default() });
        let span = self.log.begin();
        let created = told(self.nfs.create(&CREATE3args { where_: at(&self.dir, NAMES[name]), how }).await, &[EXIST]);
        let span = self.log.end(span);
        match created {
            Ok(_) => self.log.told(span, Change, Op::Create(name, node, mode)),
            Err(_) => self.log.told(span, Read, Op::Present(name)),
        }
    }

    async fn remove(&mut self, name: Name) {
        let span = self.log.begin();
        let removed = told(self.nfs.remove(&REMOVE3args { object: at(&self.dir, NAMES[name]) }).await, &[NOENT]);
        let span = self.log.end(span);
        match removed {
            Ok(_) => self.log.told(span, Change, Op::Remove(name)),
            Err(_) => self.log.told(span, Read, Op::Absent(name)),
        }
    }

    async fn rename(&mut self, from: Name) {
        let to = self.log.other_than(from);
        let args = RENAME3args { from: at(&self.dir, NAMES[from]), to: at(&self.dir, NAMES[to]) };
        let span = self.log.begin();
        let renamed = told(self.nfs.rename(&args).await, &[NOENT]);
        let span = self.log.end(span);
        match renamed {
            Ok(_) => self.log.told(span, Change, Op::Rename(from, to)),
            Err(_) => self.log.told(span, Read, Op::Absent(from)),
        }
    }

    async fn link(&mut self, from: Name) {
        let to = self.log.other_than(from);
        let Some((handle, found)) = self.find(from).await else { return };
        let span = self.log.begin();
        let args = LINK3args { file: handle, link: at(&self.dir, NAMES[to]) };
        let linked = told(self.nfs.link(&args).await, &[EXIST, NOENT, STALE]);
        let span = self.log.end(span);
        match linked {
            Ok(_) => self.log.told(span, Change, Op::Link(found, to)),
            Err(EXIST) => self.log.told(span, Read, Op::Present(to)),
            Err(_) => self.gone(span, found),
        }
    }
}
