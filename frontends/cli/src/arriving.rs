//! Mounts whose stores were away when a server started: looked for until they are there, while the others are served.
//! Spec: spec/config.md #mounts-that-are-away.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::serve::commit_in_time,
    instance::{Awaited, Instance},
    scrubber::look_after_one,
};

/// How long after a failure it is looked again, at first and at most; twice as long each time.
const LOOK_AFTER_MIN: Duration = Duration::from_secs(1);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(30);

/// Looks for every mount that is away, and after each that has come, until `stop`.
pub(crate) async fn look_for(instance: Arc<Instance>, stop: CancellationToken) {
    join_all(instance.awaited().map(|awaited| look_for_one(&instance, awaited, &stop))).await;
}

async fn look_for_one(instance: &Instance, awaited: &Awaited, stop: &CancellationToken) {
    let (prefix, mut pause, mut told) = (awaited.prefix(), LOOK_AFTER_MIN, String::new());
    loop {
        let look = async {
            tokio::time::sleep(pause).await;
            instance.open_awaited(awaited).await
        };
        let Some(looked) = stop.run_until_cancelled(look).await else { return };
        let Err(error) = looked else { break };
        let why = format!("{error:#}");
        if why != told {
            tracing::warn!("/{prefix} is still away, and looked for: {why}");
            told = why;
        }
        pause = (2 * pause).min(LOOK_AFTER_MAX);
    }
    tracing::info!("/{prefix} is there now");
    // Mounts on this machine keep what its root was.
    instance.watch.everything_changed().await;
    for point in instance.config.fuse.mounts.iter().filter(|point| point.is_inside(prefix)) {
        if let Err(error) = instance.mounts.mount(point).await {
            tracing::error!(dir = %point.dir.display(), "it cannot be mounted: {error:#}");
        }
    }
    let committing = async {
        if let Ok(tree) = instance.tree(prefix) {
            commit_in_time(prefix, tree.clone(), stop.clone()).await;
        }
    };
    let looking_after = async {
        if let Some((_, store)) = instance.zstors().find(|(other, _)| *other == prefix) {
            stop.run_until_cancelled(look_after_one(prefix, store, instance)).await;
        }
    };
    join(committing, looking_after).await;
}
