//! The directories of this machine on which a process shows its namespace: what is mounted where, and the end of it.
//!
//! Options are words between commas, as `mount -o` takes them, so that a line of `/etc/fstab`, a flag, the configuration
//! and the control protocol say the same. Spec: spec/fuse.md #options.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muxfs::{
    Error, ErrorKind, Name, Prefix, Result,
    vfs::{Fsid, watch::Watch},
};
use muxfs_fuse::{Mounted, Options};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::namespace::Place;

/// How long programs that use a mount may hold up the end of the process that serves it.
const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is mounted where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountPoint {
    /// The directory of this machine.
    pub(crate) dir: PathBuf,
    /// A mount as `/ipfs`, or what is below one; the whole namespace where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    /// Words between commas, as `ro,allow_other`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) options: String,
}

impl MountPoint {
    /// Whether it shows something inside of a mount, and not all of it.
    pub(crate) fn is_inside(&self, mount: Prefix) -> bool {
        let shown = self.prefix.as_deref().unwrap_or_default().trim_matches('/');
        let inside = shown.strip_prefix(mount.as_str()).and_then(|rest| rest.strip_prefix('/'));
        inside.is_some_and(|rest| !rest.is_empty())
    }
}

/// Words that `mount` and `fstab` use for themselves, or that say what is so anyway.
const IGNORED: [&str; 20] = [
    "",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "async",
    "relatime",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "default_permissions",
    "nonempty",
    "lazytime",
];

impl MountPoint {
    /// What the options say: of a word and its opposite the last, as `mount` has it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the word.
    pub(crate) fn fuse_options(&self) -> Result<Options> {
        let mut options = Options { below: below(self.prefix.as_deref().unwrap_or_default())?, ..Options::default() };
        for word in self.options.split(',') {
            match word {
                "ro" | "rw" => options.read_only = word == "ro",
                "allow_other" => options.allow_other = true,
                "dev" | "nodev" => options.dev = word == "dev",
                "suid" | "nosuid" => options.suid = word == "suid",
                "exec" | "noexec" => options.no_exec = word == "noexec",
                "writeback_cache" => options.write_back = true,
                "no_passthrough" => options.passthrough = false,
                word => match word.split_once('=') {
                    Some(("uid", id)) => options.uid = Some(number(word, id)?),
                    Some(("gid", id)) => options.gid = Some(number(word, id)?),
                    Some(("fsname", name)) => options.source = name.into(),
                    Some(("prefix", prefix)) => options.below = below(prefix)?,
                    Some(("user" | "comment", _)) => {}
                    _ if word.starts_with("x-") || IGNORED.contains(&word) => {}
                    _ => return Err(unknown(word, "is none of the options: muxfs mount --help lists them")),
                },
            }
        }
        Ok(options)
    }
}

fn unknown(word: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "mount.options").because(format!("{word:?} {why}"))
}

fn number(word: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|_| unknown(word, "does not end in a number"))
}

/// What is to be mounted, as names from the root on. The words that stand for it in `fstab` mean the root.
fn below(prefix: &str) -> Result<Vec<Name>> {
    if matches!(prefix, "" | "none" | "muxfs") {
        return Ok(Vec::new());
    }
    let text = if prefix.starts_with('/') { prefix.into() } else { format!("/{prefix}") };
    match Place::parse(text.as_bytes())? {
        Place::Root => Ok(Vec::new()),
        Place::Path(path) => Ok([&[Name::new(path.prefix.as_str().as_bytes())?], &path.parts[..]].concat()),
    }
}

/// What this process has mounted.
#[derive(Debug)]
pub(crate) struct Mounts {
    watch: Watch,
    /// File systems that others change too.
    outside: Vec<Fsid>,
    mounted: Mutex<Vec<Arc<Mounted>>>,
    count: watch::Sender<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// How many there are, with those that are being made.
    mounts: usize,
    /// The process ends: there will be no more.
    closed: bool,
}

impl Mounts {
    pub(crate) fn new(watch: Watch, outside: Vec<Fsid>) -> Self {
        Self { watch, outside, mounted: Mutex::default(), count: watch::Sender::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mounted>>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mounts; ready when it returns.
    ///
    /// # Errors
    /// `Unavailable` where this process ends: another one is to do it; `InvalidArgument` for the options; those of
    /// [`muxfs_fuse::mount`].
    pub(crate) async fn mount(self: &Arc<Self>, point: &MountPoint) -> Result<()> {
        let options = Options { outside: self.outside.clone(), ..point.fuse_options()? };
        let counted = self.counted()?;
        let mounted = Arc::new(muxfs_fuse::mount(&self.watch, &point.dir, options).await?);
        self.lock().push(mounted.clone());
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = mounted.wait().await {
                tracing::error!(dir = %mounted.dir().display(), "a mount did not end well: {error:#}");
            }
            this.lock().retain(|other| !Arc::ptr_eq(other, &mounted));
            drop(counted);
        });
        Ok(())
    }

    /// Counts one more mount, until what this gives is dropped.
    fn counted(self: &Arc<Self>) -> Result<Counted> {
        let is_open = self.count.send_if_modified(|count| {
            count.mounts += usize::from(!count.closed);
            !count.closed
        });
        if is_open {
            return Ok(Counted(self.clone()));
        }
        Err(Error::new(ErrorKind::Unavailable, "mount").because("this server is about to end"))
    }

    /// Unmounts what this process has mounted at a full path, when everything written is durable; `None` where it has
    /// nothing there.
    pub(crate) async fn unmount(&self, dir: &Path, lazy: bool) -> Option<Result<()>> {
        let mounted = self.lock().iter().rfind(|mounted| mounted.dir() == dir).cloned()?;
        Some(if lazy { mounted.detach().await } else { mounted.unmount().await })
    }

    /// Waits until nothing is mounted, nor is being mounted; from then on nothing will be.
    pub(crate) async fn all_ended(&self) {
        let mut counts = self.count.subscribe();
        loop {
            // The sender is in `self`.
            counts.wait_for(|count| count.mounts == 0).await.ok();
            let closed = self.count.send_if_modified(|count| {
                count.closed |= count.mounts == 0;
                count.closed
            });
            if closed {
                return;
            }
        }
    }

    /// Waits until no program has asked anything of any mount for so long.
    pub(crate) async fn idle_for(&self, idle: Duration) {
        loop {
            let since = self.lock().iter().map(|mounted| mounted.idle()).min().unwrap_or_default();
            match idle.checked_sub(since) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }

    /// Takes all mounts away. Programs that use one keep it for a moment, and lose it then.
    pub(crate) async fn close(&self) {
        self.count.send_modify(|count| count.closed = true);
        let all: Vec<_> = self.lock().clone();
        for mounted in all {
            let taken = match mounted.unmount().await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(dir = %mounted.dir().display(), "programs use a mount whose server ends");
                    mounted.detach().await
                }
                taken => taken,
            };
            if let Err(error) = taken {
                tracing::error!("{error:#}");
            }
        }
        tokio::time::timeout(END_WAIT_MAX, self.all_ended()).await.ok();
        // The stores close now, and then the runtime.
        self.lock().iter().for_each(|mounted| mounted.abandon());
    }
}

/// One of the mounts that are counted.
#[derive(Debug)]
struct Counted(Arc<Mounts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| count.mounts -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(options: &str) -> MountPoint {
        MountPoint { dir: "/mnt/x".into(), prefix: None, options: options.into() }
    }

    #[test]
    fn options_are_those_of_fstab() {
        let options = point("rw,noauto,user,x-systemd.automount,allow_other,uid=7,gid=8,dev,suid,noexec");
        let options = options.fuse_options().expect("all are known");
        assert_eq!((options.uid, options.gid), (Some(7), Some(8)));
        assert!(options.allow_other && options.dev && options.suid && options.no_exec && !options.read_only);
        assert!(point("ro,writeback_cache").fuse_options().expect("known").read_only);
        // The last one counts: whoever adds a word to those of another takes rights away with it.
        let last = point("dev,suid,exec,ro,nodev,nosuid,noexec,rw").fuse_options().expect("known");
        assert!(!last.dev && !last.suid && last.no_exec && !last.read_only);
        for (bad, named) in [("rw,allow_othre", "allow_othre"), ("uid=me", "uid=me"), ("prefix=/a b", "/a b")] {
            let error = point(bad).fuse_options().expect_err("unknown");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(format!("{error:#}").contains(named), "{error:#}");
        }
    }

    #[test]
    fn a_prefix_is_a_path_or_a_word_for_all() {
        let names = |prefix: &str| {
            let names = below(prefix).expect("good");
            names.iter().map(|name| name.as_str().expect("UTF-8").to_owned()).collect::<Vec<_>>()
        };
        for all in ["", "/", "none", "muxfs"] {
            assert!(names(all).is_empty());
        }
        assert_eq!(names("ipfs"), ["ipfs"]);
        assert_eq!(names("/ipfs/photos"), ["ipfs", "photos"]);
        let point = MountPoint { prefix: Some("/mem".into()), ..point("prefix=/ipfs") };
        assert_eq!(point.fuse_options().expect("good").below.len(), 1);
    }
}
