//! What fits into a store: the room of its nodes, less what shards take more than blocks.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use muxfs::{Error, ErrorKind, Result, vfs::FsStat};

/// What is on one disk.
#[derive(Debug, Clone, Copy)]
struct Disk {
    total: u64,
    free: u64,
    nodes: u64,
}

/// Blocks of how many bytes fit: told by the nodes that are there. Nodes of one disk share it.
///
/// # Errors
/// `Unavailable` if none tells.
pub(crate) fn space(dirs: &[PathBuf], (data_count, parity_count): (u8, u8)) -> Result<FsStat> {
    let mut disks: BTreeMap<u64, Disk> = BTreeMap::new();
    for dir in dirs {
        let (Ok(metadata), Ok(stat)) = (fs::metadata(dir), rustix::fs::statvfs(dir)) else { continue };
        let len = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let disk = disks.entry(metadata.dev()).or_insert(Disk {
            total: len(stat.f_blocks),
            free: len(stat.f_bavail),
            nodes: 0,
        });
        disk.nodes += 1;
    }
    if disks.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, "zstor.space").because("no node is there to tell its space"));
    }
    let shards = u64::from(data_count) + u64::from(parity_count);
    // Every node gets the same share of all shards: the smallest is full first.
    let of_all = |of_disk: fn(&Disk) -> u64| {
        let nodes: u64 = disks.values().map(|disk| disk.nodes).sum();
        let of_node = disks.values().map(|disk| of_disk(disk) / disk.nodes).min().unwrap_or_default();
        let bytes = u128::from(of_node) * u128::from(nodes) * u128::from(data_count) / u128::from(shards);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    Ok(FsStat {
        bytes_total: of_all(|disk| disk.total),
        bytes_free: of_all(|disk| disk.free),
        inodes_total: 0,
        inodes_free: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_disk_share_it_and_parity_takes_its_part() {
        let dir = tempfile::tempdir().expect("a directory");
        let stat = rustix::fs::statvfs(dir.path()).expect("told");
        let disk = u128::from(stat.f_blocks) * u128::from(stat.f_frsize);
        let dirs = vec![dir.path().to_owned(); 6];
        let total = u128::from(space(&dirs, (4, 2)).expect("told").bytes_total);
        assert!((total * 6).abs_diff(disk * 4) < 100, "{total} of {disk}");
        let gone = [&dirs[..4], &vec![dir.path().join("gone"); 2]].concat();
        assert!(u128::from(space(&gone, (4, 2)).expect("told").bytes_total).abs_diff(total) < 100);
        assert_eq!(space(&gone[4..], (4, 2)).expect_err("none").kind(), ErrorKind::Unavailable);
    }
}
