//! Reading the configuration again while a server runs: by SIGHUP, and by `muxfs reload`.
//!
//! What can change changes; for what cannot, a restart is asked for by name. A file that cannot be read leaves everything as it
//! is, and nodes that cannot be leave those of their mount. Spec: spec/config.md #reading-it-again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muxfs::{Error, ErrorKind, Prefix, Result};
use muxfs_zstor::Node;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Gc, Mount, Scrub},
    control::Failure,
    instance::Instance,
    zstor,
};

/// What a server does by itself, as far as it can change.
#[derive(Debug, Clone)]
pub(crate) struct Upkeep {
    pub(crate) gc: Gc,
    pub(crate) scrub: Scrub,
}

impl Upkeep {
    pub(crate) fn of(config: &Config) -> Self {
        Self { gc: config.gc.clone(), scrub: config.scrub.clone() }
    }
}

/// What came of reading a configuration again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// What is another now, as keys of the configuration.
    pub(crate) changed: Vec<String>,
    /// What is another in the file, and takes a restart.
    pub(crate) restart: Vec<String>,
    /// The mounts whose nodes cannot be as the file says, and stay as they are.
    pub(crate) refused: Vec<Refused>,
}

/// A mount whose nodes stay as they are, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) mount: String,
    pub(crate) failure: Failure,
}

impl Reloaded {
    /// The error of a mount, if it was refused; else the first other.
    pub(crate) fn take_refused(&mut self, mount: Option<Prefix>) -> Option<Error> {
        let at = match mount {
            Some(prefix) => self.refused.iter().position(|refused| refused.mount == prefix.to_string())?,
            None => 0,
        };
        (at < self.refused.len()).then(|| self.refused.remove(at).failure.into())
    }
}

/// Reads it again with each SIGHUP, until `stop`.
pub(crate) async fn on_hangup(instance: Arc<Instance>, mut hangup: Signal, stop: CancellationToken) {
    let work = async {
        while hangup.recv().await.is_some() {
            match reload(&instance).await {
                // What was refused is told where it was.
                Ok(Reloaded { changed, .. }) if changed.is_empty() => {
                    tracing::info!("the configuration was read again: nothing changes");
                }
                Ok(Reloaded { changed, .. }) => {
                    tracing::info!("the configuration was read again, and changes {}", changed.join(", "));
                }
                Err(error) => tracing::error!("everything stays as it is configured: {error:#}"),
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Reads the configuration again, and changes what can be; the nodes of each mount by themselves.
///
/// # Errors
/// With nothing changed, those of the file; `InvalidArgument` where there is no file.
pub(crate) async fn reload(instance: &Instance) -> Result<Reloaded> {
    let mut loaded = instance.loaded.lock().await;
    if loaded.source.file.is_none() {
        let why = "the server was started without a configuration file: there is nothing to read again";
        return Err(Error::new(ErrorKind::InvalidArgument, "config.reload").because(why));
    }
    let config = Config::effective(loaded.source.clone())?;
    let restart = takes_restart(&loaded, &config)?;
    let mut named = Vec::new();
    for (prefix, store) in instance.zstors() {
        let Some(new) = config.zstor(prefix) else { continue };
        named.push((prefix, store, new, zstor::nodes_with_passwords(&config.data, new)?));
    }
    let (mut changed, mut refused) = (Vec::new(), Vec::new());
    for (prefix, store, new, nodes) in named {
        // As they are in effect: a password in a file may be another now.
        let by_name =
            |nodes: &[Node]| nodes.iter().map(|node| (node.name.clone(), node.clone())).collect::<BTreeMap<_, _>>();
        if by_name(&nodes) == by_name(&store.named_nodes()) {
            continue;
        }
        if let Err(error) = store.set_nodes(&nodes).await.map_err(|error| error.at(format!("/{prefix}"))) {
            tracing::error!("the nodes of /{prefix} stay as they are: {error:#}");
            refused.push(Refused { mount: prefix.to_string(), failure: Failure::from(&error) });
            continue;
        }
        if let Some(Mount::Zstor(now)) = loaded.mount.iter_mut().find(|mount| mount.prefix() == prefix) {
            now.nodes.clone_from(&new.nodes);
        }
        changed.push(format!("the nodes of /{prefix}"));
    }
    for awaited in instance.awaited().filter(|awaited| awaited.absence().is_some()) {
        let prefix = awaited.prefix();
        if let Some(new) = config.zstor(prefix)
            && awaited.set_nodes(new)
        {
            changed.push(format!("the nodes of /{prefix}, which is away and looked for there"));
        }
    }
    let upkeep = Upkeep::of(&config);
    for (key, is_other) in [("gc", upkeep.gc != loaded.gc), ("scrub", upkeep.scrub != loaded.scrub)] {
        changed.extend(is_other.then(|| key.to_owned()));
    }
    (loaded.gc, loaded.scrub) = (config.gc, config.scrub);
    instance.upkeep.send_replace(upkeep);
    if !restart.is_empty() {
        tracing::warn!("these changes of the configuration take a restart: {}", restart.join(", "));
    }
    Ok(Reloaded { changed, restart, refused })
}

fn table<T: Serialize>(part: &T) -> Result<toml::Table> {
    toml::Table::try_from(part).map_err(|error| Error::new(ErrorKind::Internal, "config.print").because(error))
}

/// What differs that only a start looks at.
fn takes_restart(before: &Config, after: &Config) -> Result<Vec<String>> {
    let (one, other) = (looked_at_by_a_start(before)?, looked_at_by_a_start(after)?);
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    Ok(keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).cloned().collect())
}

/// The keys of a configuration, and its mounts, as a start looks at them.
fn looked_at_by_a_start(config: &Config) -> Result<BTreeMap<String, toml::Value>> {
    let mut parts: BTreeMap<_, _> = table(config)?.into_iter().collect();
    for key in ["gc", "scrub", "mount"] {
        parts.remove(key);
    }
    for mount in &config.mount {
        let mut mount = mount.clone();
        if let Mount::Zstor(zstor) = &mut mount {
            zstor.nodes = None;
        }
        parts.insert(format!("mount /{}", mount.prefix()), table(&mount)?.into());
    }
    Ok(parts)
}
