//! Asking how a store does where it is: at the server, or at its nodes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Prefix, Result};

use super::{Plan, Status, chosen, chosen_one, status::Beside};
use crate::{
    config::{Config, ZstorMount},
    control::Client,
    data_dir::{DataDir, Peek, content_dir},
    instance::{Instance, env},
    namespace::Namespace as _,
    zstor,
};

/// A command that owns the directory is waited for so long.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(30);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// Who is asked how a store does.
pub(crate) enum Looker {
    Server(Client),
    /// This process, for as long as nobody else owns the directory.
    Own {
        config: Box<Config>,
        _lease: fs::File,
    },
}

/// Finds out whom to ask; opens no store.
///
/// # Errors
/// `NotFound` where there is no data directory yet; `Unavailable` where a command has it for too long.
pub(crate) async fn look(config: Config) -> Result<Looker> {
    let begun = Instant::now();
    loop {
        let why = match DataDir::peek(&config.data)? {
            Peek::Absent => {
                let why = "there is no store yet: the first command or server makes it";
                return Err(Error::new(ErrorKind::NotFound, "zstor.look").at(config.data.display()).because(why));
            }
            Peek::Free(lease) => return Ok(Looker::Own { config: Box::new(config), _lease: lease }),
            Peek::Server(holder) => match holder.socket {
                Some(socket) => match Client::connect(socket).await {
                    Ok(client) => return Ok(Looker::Server(client)),
                    // It ends, or its successor begins.
                    Err(error) if error.kind() == ErrorKind::Unavailable => format!("{error:#}"),
                    Err(error) => return Err(error),
                },
                None => "a server ends".into(),
            },
            Peek::Busy(_) => "a command uses the directory".into(),
        };
        if begun.elapsed() > BUSY_WAIT_MAX {
            return Err(Error::new(ErrorKind::Unavailable, "zstor.look").at(config.data.display()).because(why));
        }
        tokio::time::sleep(BUSY_POLL).await;
    }
}

impl Looker {
    /// How the stores do.
    pub(crate) async fn status(&self, mount: Option<Prefix>) -> Result<Vec<Status>> {
        let config = match self {
            Self::Server(client) => return client.zstor_status(mount).await,
            Self::Own { config, .. } => config,
        };
        let mut all = Vec::new();
        for (prefix, mount) in chosen(mounts(config), mount)? {
            let store = open(config, mount).await?;
            let uncommitted_bytes = len_below(&content_dir(&config.data, mount.prefix.0).join("journal"));
            all.push(Status::of(prefix, &store, Beside { served: false, uncommitted_bytes }).await);
        }
        Ok(all)
    }

    /// What would be without some nodes.
    pub(crate) async fn plan(&self, mount: Option<Prefix>, lose: &[String]) -> Result<Plan> {
        let config = match self {
            Self::Server(client) => return client.zstor_plan(mount, lose).await,
            Self::Own { config, .. } => config,
        };
        let (prefix, mount) = chosen_one(mounts(config), mount)?;
        Ok(Plan::of(prefix, open(config, mount).await?.plan(lose).await?))
    }
}

/// How the stores do that this process has open.
pub(crate) async fn status_of(instance: &Instance, mount: Option<Prefix>) -> Result<Vec<Status>> {
    let mut all = Vec::new();
    for (prefix, store) in chosen(instance.zstors_there(mount)?, mount)? {
        let uncommitted_bytes = instance.tree(prefix)?.uncommitted_len();
        all.push(Status::of(prefix, store, Beside { served: instance.serves(), uncommitted_bytes }).await);
    }
    Ok(all)
}

/// What would be without some nodes of a store that this process has open.
pub(crate) async fn plan_of(instance: &Instance, mount: Option<Prefix>, lose: &[String]) -> Result<Plan> {
    let (prefix, store) = chosen_one(instance.zstors_there(mount)?, mount)?;
    Ok(Plan::of(prefix, store.plan(lose).await?))
}

fn mounts(config: &Config) -> Vec<(Prefix, &ZstorMount)> {
    config.zstors().map(|mount| (mount.prefix.0, mount)).collect()
}

async fn open(config: &Config, mount: &ZstorMount) -> Result<muxfs_zstor::Zstor> {
    if !zstor::is_made(&config.data, mount).await {
        let why = "there is no store yet: the first command or server makes it";
        return Err(Error::new(ErrorKind::NotFound, "zstor.look").at(format!("/{}", mount.prefix.0)).because(why));
    }
    zstor::look_at_nodes(&config.data, mount, &env()).await
}

/// How long the files of a directory are together; what cannot be read of it is not counted.
fn len_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}
