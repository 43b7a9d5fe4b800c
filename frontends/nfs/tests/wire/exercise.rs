//! One file of a served working tree, exercised by READ, WRITE, SETATTR, GETATTR and COMMIT. `MUXFS_EXERCISE_STEPS` says
//! how much is done.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use muxfs::testing::{
    exerciser::{Bed, Commits, Plan, Verb, Way, exercise},
    wire::Answer,
};
use muxfs_nfs::{Server, serve};
use nfs3_client::{
    MountClient, Nfs3Client,
    nfs3_types::{
        mount::dirpath,
        nfs3::{
            COMMIT3args, CREATE3args, GETATTR3args, Nfs3Option, READ3args, SETATTR3args, WRITE3args, createhow3,
            nfs_fh3, sattr3, stable_how,
        },
        rpc::opaque_auth,
        xdr_codec::Opaque,
    },
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    laws::{Socket, answer, at, dial, option, root_user},
    raw::options,
};

/// How many steps each test takes: with and without commits they are 200,000.
const STEP_COUNT: u64 = 100_000;

struct Remote<'a> {
    runtime: &'a Runtime,
    bed: Bed,
    _server: Arc<Server>,
    client: Nfs3Client<Socket>,
    file: nfs_fh3,
    write_count: usize,
}

fn done<T>(answer: Answer<T>) -> io::Result<T> {
    answer.map_err(|refusal| io::Error::other(format!("{refusal:?}")))
}

impl<'a> Remote<'a> {
    async fn new(runtime: &'a Runtime, commits: Commits) -> Self {
        let bed = Bed::new(commits).await;
        let server = Arc::new(serve(Arc::new(bed.tree.clone()), options()).unwrap());
        let addr = server.local_addr();
        let root = MountClient::new_with_auth(dial(addr).await, root_user(), opaque_auth::default())
            .mnt(dirpath(Opaque::borrowed(b"/")))
            .await
            .unwrap();
        let root = nfs_fh3 { data: root.fhandle.0 };
        let mut client = Nfs3Client::new_with_auth(dial(addr).await, root_user(), opaque_auth::default());
        let args = CREATE3args { where_: at(&root, b"f"), how: createhow3::GUARDED(sattr3::default()) };
        let file = option(answer(client.create(&args).await.unwrap()).unwrap().obj);
        Self { runtime, bed, _server: server, client, file, write_count: 0 }
    }
}

impl Way for Remote<'_> {
    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Read, Verb::Write, Verb::Len, Verb::SetLen, Verb::Settle]
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let offset = range.start + data.len() as u64;
            let count = u32::try_from(range.end - offset).unwrap();
            let args = READ3args { file: self.file.clone(), offset, count };
            let read = done(answer(self.runtime.block_on(self.client.read(&args)).map_err(io::Error::other)?))?;
            data.extend_from_slice(&read.data);
            if read.eof || range.start + data.len() as u64 == range.end {
                return Ok(data);
            }
        }
    }

    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.write_count += 1;
        let stable = if self.write_count.is_multiple_of(8) { stable_how::FILE_SYNC } else { stable_how::UNSTABLE };
        let count = u32::try_from(data.len()).unwrap();
        let args = WRITE3args { file: self.file.clone(), offset, count, stable, data: Opaque::borrowed(&data) };
        let written = done(answer(self.runtime.block_on(self.client.write(&args)).map_err(io::Error::other)?))?;
        assert_eq!(written.count, count);
        Ok(())
    }

    fn len(&mut self) -> io::Result<u64> {
        let args = GETATTR3args { object: self.file.clone() };
        let told = self.runtime.block_on(self.client.getattr(&args)).map_err(io::Error::other)?;
        Ok(done(answer(told))?.obj_attributes.size)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let new_attributes = sattr3 { size: Nfs3Option::Some(len), ..sattr3::default() };
        let args = SETATTR3args { object: self.file.clone(), new_attributes, guard: Nfs3Option::None };
        let told = self.runtime.block_on(self.client.setattr(&args)).map_err(io::Error::other)?;
        done(answer(told)).map(drop)
    }

    fn settle(&mut self) -> io::Result<()> {
        let args = COMMIT3args { file: self.file.clone(), offset: 0, count: 0 };
        done(answer(self.runtime.block_on(self.client.commit(&args)).map_err(io::Error::other)?))?;
        self.bed.settle(self.runtime).map_err(io::Error::other)
    }
}

fn exercised(name: &str, commits: Commits) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    exercise(name, Plan::from_env(STEP_COUNT), |_seed| runtime.block_on(Remote::new(&runtime, commits)));
}

#[test]
fn a_served_file_holds_what_was_written_before_any_commit() {
    exercised("NFS without commits", Commits::Never);
}

#[test]
fn a_served_file_holds_what_was_written_whenever_commits_come() {
    exercised("NFS with commits", Commits::Beside);
}
