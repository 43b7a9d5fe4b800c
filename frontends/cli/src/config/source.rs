//! What a configuration is made of: a file, and the flags that win over it.

use std::path::PathBuf;

use muxfs::{Error, ErrorKind, Result};

use super::{Config, Listen, Mount, ZstorNode};
use crate::mounts::MountPoint;

/// A file, and the flags that win over it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    pub(crate) file: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) local: Option<PathBuf>,
    pub(crate) nfs: Option<Listen>,
    pub(crate) ftp: Option<Listen>,
    pub(crate) http: Option<Listen>,
    pub(crate) s3: Option<Listen>,
    pub(crate) metrics: Option<Listen>,
    pub(crate) mounts: Vec<MountPoint>,
    /// Whether those are all that is served: whatever the file says, nothing listens, and nothing else is mounted.
    pub(crate) is_mount_alone: bool,
    /// The file descriptor that gives the password of vaults of which nothing else says it.
    pub(crate) password_fd: Option<u32>,
}

impl Config {
    /// The configuration of a file, with the flags that win over it.
    ///
    /// # Errors
    /// Those of [`Config::load`] and [`Config::check`]; `InvalidArgument` where a flag is for what is not there.
    pub(crate) fn effective(mut source: Source) -> Result<Self> {
        let mut config = Self::load(source.file.as_deref())?;
        if let Some(data) = &source.data {
            config.data.clone_from(data);
        }
        config.nfs.listen = source.nfs.unwrap_or(config.nfs.listen);
        config.ftp.listen = source.ftp.unwrap_or(config.ftp.listen);
        config.http.listen = source.http.unwrap_or(config.http.listen);
        config.s3.listen = source.s3.unwrap_or(config.s3.listen);
        config.metrics.listen = source.metrics.unwrap_or(config.metrics.listen);
        if source.is_mount_alone {
            config.listen_nowhere();
            config.fuse.mounts.clear();
        }
        config.fuse.mounts.extend(source.mounts.iter().cloned());
        if let Some(local) = &source.local {
            let mut locals = config.mount.iter_mut().filter_map(|mount| match mount {
                Mount::Local { dir, .. } => Some(dir),
                _ => None,
            });
            let dir = locals.next().ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "args.local")
                    .because("the configuration has no mount of kind local")
            })?;
            *dir = Some(local.clone());
        }
        config.check()?;
        // The working directory may be another where the path is used.
        let of_mounts = config.mount.iter_mut().flat_map(|mount| match mount {
            Mount::Local { dir, .. } => dir.iter_mut().collect(),
            Mount::Zstor(zstor) => {
                let files = zstor.nodes.iter_mut().flatten().flat_map(ZstorNode::files_mut);
                files.chain(&mut zstor.key).collect::<Vec<_>>()
            }
            Mount::S3(bucket) => bucket.files_mut().collect(),
            Mount::Sqlite(mount) => mount.files_mut().collect(),
            Mount::Redis(mount) => mount.files_mut().collect(),
            Mount::Vault(mount) => mount.files_mut().collect(),
            Mount::Flist(flist) => flist.dir.iter_mut().collect(),
            Mount::Mem { .. } | Mount::Ipfs { .. } | Mount::Overlay(_) => Vec::new(),
        });
        let ftp = [&mut config.ftp.users, &mut config.ftp.tls_cert, &mut config.ftp.tls_key, &mut config.http.users];
        let hub = config.http.hub.iter_mut().flat_map(|hub| hub.dir.iter_mut().chain(&mut hub.users));
        for path in
            of_mounts.chain(ftp.into_iter().flatten()).chain(hub).chain([&mut config.data]).chain(&mut source.file)
        {
            *path = std::path::absolute(&*path).map_err(|error| {
                Error::new(ErrorKind::InvalidArgument, "args.path").at(path.display()).because(error)
            })?;
        }
        Ok(Self { source, ..config })
    }
}
