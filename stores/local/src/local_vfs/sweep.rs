//! The sweep: lets go of what a cached descriptor keeps from the host.
//!
//! A descriptor keeps the space of a file that others removed, and one open for writing keeps the host from running
//! the program in it. So every few seconds files not used meanwhile are closed, and those without a name forgotten.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use muxfs::vfs::Ino;

use super::{Local, host::stat_fd, nodes::Data};

/// How long a removed file's space, or a program just uploaded, may be held.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

impl Local {
    pub(super) fn sweep(&self) {
        // Bound first: a guard made in the head of the loop would be held throughout.
        let anchors = self.nodes().anchors();
        for (ino, anchor) in anchors {
            let is_gone = stat_fd(&anchor.fd).is_ok_and(|stat| stat.stx_nlink == 0);
            let closes = anchor.close_idle(|data| {
                if !is_gone {
                    self.settle(ino, data);
                }
            });
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

    /// Sees to it that a failure to write back is not forgotten with the descriptor.
    fn settle(&self, ino: Ino, data: &Data) {
        let Err(errno) = data.sync_written() else { return };
        let number = self.nodes().id(ino).map_or(0, |id| id.number);
        tracing::error!(number, %errno, "local.sweep: written bytes did not reach the disk; the next sync tells it");
        self.lost.note(number);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use muxfs::{
        ErrorKind, Name,
        vfs::{NewNode, SetAttr, Vfs},
    };

    use super::super::{LocalOptions, LocalVfs, nodes::Data};

    /// How many descriptors of this process lead to `path`, removed or not.
    fn descriptors_of(path: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
        let text = path.display().to_string();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .filter(|to| to.display().to_string().starts_with(&text))
            .count()
    }

    #[tokio::test]
    async fn a_program_just_uploaded_can_be_run_and_a_removed_file_takes_no_space() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("the root");
        let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default()).expect("it opens");
        let make = async |text: &str| {
            let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
            let name = Name::new(text.as_bytes()).expect("a name");
            let ino = vfs.create(vfs.root(), &name, NewNode::File, set).await.expect("made").node.ino;
            vfs.write(ino, 0, "#!/bin/true\n".into(), false).await.expect("a write");
            ino
        };
        let (program, removed, leased) = (make("program").await, make("removed").await, make("leased").await);
        vfs.release(program, 1);
        vfs.release(removed, 1);
        std::fs::remove_file(root.join("removed")).expect("removed by others");
        std::fs::remove_file(root.join("leased")).expect("removed by others");
        assert!(descriptors_of(&root.join("program")) > 0 && descriptors_of(&root.join("removed")) > 0);

        // The first look finds them used, the second does not.
        vfs.local.sweep();
        vfs.local.sweep();
        assert_eq!(descriptors_of(&root.join("removed")), 0);
        let ran = std::process::Command::new(root.join("program")).status();
        assert!(ran.expect("not held open for writing").success());
        assert_eq!(vfs.read(leased, 0, 100).await.expect("leased"), "#!/bin/true\n");
        vfs.lookup(vfs.root(), &Name::new(b"program").expect("a name")).await.expect("opened again");
    }

    /// The sweep closed a written file, its write-back failed, and the sync that came after opened the file again and
    /// knew of nothing.
    #[tokio::test]
    async fn a_write_that_was_lost_behind_the_sweep_is_told_by_the_next_sync() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("the root");
        let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default()).expect("it opens");
        for (text, syncs_all) in [(b"a", false), (b"b", true)] {
            let name = Name::new(text).expect("a name");
            let ino = vfs.create(vfs.root(), &name, NewNode::File, SetAttr::default()).await.expect("made").node.ino;
            let (anchor, _) = vfs.local.nodes().anchor(ino).expect("open");
            // A descriptor that cannot be synced stands for a disk that fails.
            let broken = std::fs::File::open("/dev/null").expect("it is there");
            let broken = Data::new(std::sync::Arc::new(broken.into()), true);
            broken.writes();
            anchor.set_data(broken);
            vfs.local.sweep();
            vfs.local.sweep();
            let what = if syncs_all { vfs.root() } else { ino };
            assert_eq!(vfs.sync(what).await.expect_err("lost").kind(), ErrorKind::Io);
            vfs.sync(what).await.expect("told once");
        }
    }
}
