//! What a store has room for, and what of it blocks leave free.

use std::{path::PathBuf, sync::Arc};

use muxfs::{Result, block::SegmentsOptions, media::MemLimit, vfs::FsStat};

use crate::commands::put::host;

/// How much `/mem` may hold where the RAM's size cannot be told.
const MEM_LIMIT_UNKNOWN: u64 = 1 << 30;

/// To give room back, a segment of blocks is copied before it goes: it is one part in so many of its disk, within these bounds.
const SEGMENT_PART: u64 = 256;
const SEGMENT_LEN_MIN: u64 = 4 << 20;
const SEGMENT_LEN_MAX: u64 = 256 << 20;
/// Beside the length of a segment, blocks leave so much of a disk, in bytes, or one part in so many of a small one: some are
/// on their way when it is found to be full, and deletions are to be noted.
const DISK_RESERVE_LEN: u64 = 32 << 20;
const DISK_RESERVE_PART: u64 = 4;

/// The space of a store that does not tell.
pub(super) const UNKNOWN: FsStat = FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 };

/// Asks a store for its space.
pub(crate) type SpaceFn = Arc<dyn Fn() -> Result<FsStat> + Send + Sync>;

/// What blocks leave of a disk is not for a tree either: so it can always commit.
pub(super) fn room(space: &SpaceFn) -> SpaceFn {
    let (reserve_len, space) = (reserve_len(space().map_or(0, |space| space.bytes_total)), space.clone());
    Arc::new(move || space().map(|space| FsStat { bytes_free: space.bytes_free.saturating_sub(reserve_len), ..space }))
}

/// What there is room for where blocks are and where the journal is.
pub(super) fn room_of_both(blocks: &SpaceFn, journal: &SpaceFn) -> SpaceFn {
    let (blocks, journal) = (room(blocks), room(journal));
    Arc::new(move || {
        let (blocks, journal) = (blocks()?, journal()?);
        Ok(FsStat { bytes_free: blocks.bytes_free.min(journal.bytes_free), ..blocks })
    })
}

/// Segments in a directory leave a little of the disk, so that what is removed can be noted, and what is left be moved;
/// stores that share a disk leave it together.
pub(crate) fn segments_options(space: &SpaceFn, store_count: u64) -> SegmentsOptions {
    let bytes_total = space().map_or(0, |space| space.bytes_total);
    let (space, reserve_len) = (space.clone(), reserve_len(bytes_total));
    let is_full = move || space().is_ok_and(|space| space.bytes_free < reserve_len);
    let segment_len_max = u32::try_from(segment_len(bytes_total / store_count.max(1))).unwrap_or(u32::MAX);
    SegmentsOptions { segment_len_max, is_full: Some(Arc::new(is_full)), ..SegmentsOptions::default() }
}

/// How long segments of blocks are on a disk of so many bytes.
fn segment_len(bytes_total: u64) -> u64 {
    (bytes_total / SEGMENT_PART).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX)
}

/// How much blocks leave of a disk of so many bytes.
fn reserve_len(bytes_total: u64) -> u64 {
    segment_len(bytes_total) + (bytes_total / DISK_RESERVE_PART).min(DISK_RESERVE_LEN)
}

/// What the disk has that `dir` is on.
pub(crate) fn space_of_disk(dir: PathBuf) -> SpaceFn {
    Arc::new(move || {
        let stat = rustix::fs::statvfs(&dir).map_err(|error| host(&dir, error.into()))?;
        Ok(FsStat {
            bytes_total: stat.f_blocks.saturating_mul(stat.f_frsize),
            bytes_free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes_total: 0,
            inodes_free: 0,
        })
    })
}

/// What the limit leaves.
pub(super) fn space_of_ram(limit: Arc<MemLimit>) -> SpaceFn {
    Arc::new(move || {
        let bytes_total = limit.len_max() as u64;
        let bytes_free = bytes_total.saturating_sub(limit.used_len() as u64);
        Ok(FsStat { bytes_total, bytes_free, inodes_total: 0, inodes_free: 0 })
    })
}

pub(super) fn quarter_of_ram() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit.max(1));
        match info.totalram.saturating_mul(unit) / 4 {
            0 => MEM_LIMIT_UNKNOWN,
            quarter => quarter,
        }
    }
    #[cfg(not(target_os = "linux"))]
    MEM_LIMIT_UNKNOWN
}
