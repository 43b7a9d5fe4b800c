//! The laws of every wire, through `std::fs` in a mounted directory.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use muxfs::{
    ErrorKind, FileKind,
    testing::wire::{Ability, Answer, Client, Direct, Refusal, Stat},
    vfs::{Fsid, Vfs, watch::Watch},
};
use muxfs_fuse::{Mounted, Options, errno_of, mount};
use tempfile::TempDir;

use super::{blocking, can_mount};

muxfs::wire_laws!(fuse, connect);

/// A mount that lives as long as its clients.
#[derive(Debug)]
struct Wire {
    mounted: Mounted,
    _dir: TempDir,
}

#[derive(Debug)]
struct Programs(Arc<Wire>);

/// The scenarios also change the file system past the watch: nothing is cached.
async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
    if !can_mount() {
        return Direct::new(vfs);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        outside: vec![Fsid(0)],
        outside_timeout: Duration::ZERO,
        unavailable_after: Duration::ZERO,
        ..Options::default()
    };
    let mounted = mount(&Watch::new(vfs), dir.path(), options).await.expect("mounted");
    Arc::new(Programs(Arc::new(Wire { mounted, _dir: dir })))
}

fn answer<T>(result: io::Result<T>) -> Answer<T> {
    result.map_err(|error| {
        let code = error.raw_os_error().expect("the kernel's");
        let kind = ErrorKind::ALL.into_iter().find(|kind| errno_of(*kind).code() == code);
        kind.map_or_else(|| Refusal::Unnamed(error.to_string()), Refusal::Kind)
    })
}

impl Programs {
    async fn at<T: Send + 'static>(
        &self,
        path: &[u8],
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let path = self.path(path);
        answer(blocking(move || work(path)).await)
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        let within = path.strip_prefix(b"/").expect("an absolute path");
        self.0.mounted.dir().join(OsStr::from_bytes(within))
    }
}

/// Makes the names of a directory durable.
fn sync_above(path: &Path) -> io::Result<()> {
    File::open(path.parent().expect("it is in a directory"))?.sync_all()
}

#[async_trait]
impl Client for Programs {
    fn cannot(&self, _ability: Ability) -> Option<&'static str> {
        None
    }

    async fn another(&self) -> Arc<dyn Client> {
        Arc::new(Self(self.0.clone()))
    }

    async fn mkdir(&self, path: &[u8]) -> Answer<()> {
        self.at(path, |path| fs::create_dir(&path).and_then(|()| sync_above(&path))).await
    }

    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()> {
        let data = data.to_vec();
        let work = move |path: PathBuf| {
            let file = File::options().write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&data, 0)?;
            file.sync_all()?;
            sync_above(&path)
        };
        self.at(path, work).await
    }

    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        let data = data.to_vec();
        let work = move |path: PathBuf| {
            let file = File::options().write(true).open(path)?;
            file.write_all_at(&data, offset)?;
            file.sync_all()
        };
        self.at(path, work).await
    }

    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>> {
        self.at(path, fs::read).await
    }

    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        let work = move |path| {
            let file = File::open(path)?;
            let (mut bytes, mut done) = (vec![0; len], 0);
            while done < len {
                match file.read_at(&mut bytes[done..], offset + done as u64)? {
                    0 => break,
                    count => done += count,
                }
            }
            bytes.truncate(done);
            Ok(bytes)
        };
        self.at(path, work).await
    }

    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>> {
        let work = |path| fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().as_bytes().to_vec())).collect();
        self.at(path, work).await
    }

    async fn stat(&self, path: &[u8]) -> Answer<Stat> {
        let work = |path| {
            let attr = fs::symlink_metadata(path)?;
            let kind = match attr.file_type() {
                kind if kind.is_dir() => FileKind::Dir,
                kind if kind.is_symlink() => FileKind::Symlink,
                _ => FileKind::File,
            };
            let size = if kind == FileKind::Dir { 0 } else { attr.len() };
            Ok(Stat { kind, size, mtime: attr.modified()? })
        };
        self.at(path, work).await
    }

    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()> {
        let to = self.path(to);
        let work = move |from: PathBuf| {
            fs::rename(&from, &to)?;
            sync_above(&from)?;
            sync_above(&to)
        };
        self.at(from, work).await
    }

    async fn remove(&self, path: &[u8]) -> Answer<()> {
        self.at(path, |path| fs::remove_file(&path).and_then(|()| sync_above(&path))).await
    }

    async fn rmdir(&self, path: &[u8]) -> Answer<()> {
        self.at(path, |path| fs::remove_dir(&path).and_then(|()| sync_above(&path))).await
    }
}
