//! The sweep: lets go of what a cached descriptor keeps from the host.
//!
//! A descriptor keeps the space of a file that others removed, and one open for writing keeps the host from running
//! the program in it. So every few seconds files not used meanwhile are closed, and those without a name forgotten.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Local, host::stat_fd};

/// How long a removed file's space, or a program just uploaded, may be held.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

impl Local {
    pub(super) fn sweep(&self) {
        for (ino, anchor) in self.nodes().anchors() {
            let is_gone = stat_fd(&anchor.fd).is_ok_and(|stat| stat.stx_nlink == 0);
            let closes = anchor.close_idle();
            if !is_gone && !closes {
                continue;
            }
            self.with_nodes(|nodes, closing| {
                closing.push(anchor);
                if is_gone {
                    nodes.gone(ino, None, closing);
                } else if !nodes.is_leased(ino) {
                    nodes.lose_anchor(ino, closing);
                }
            });
        }
    }
}

/// Sweeps for as long as the file system is in use.
pub(super) async fn sweep_while_used(local: Weak<Local>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(local) = local.upgrade() else { return };
        sweep_once(local).await;
    }
}

async fn sweep_once(local: Arc<Local>) {
    // A panic inside is a bug that the next call will meet with better words.
    let _swept = tokio::task::spawn_blocking(move || local.sweep()).await;
}
