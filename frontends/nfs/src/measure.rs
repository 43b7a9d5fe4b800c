//! Metrics: what the server counts, through the facade `metrics`. Without a recorder they cost next to nothing.
//!
//! `muxfs_nfs_requests_total{procedure,status}`, `muxfs_nfs_request_seconds{procedure}`, `muxfs_nfs_read_bytes_total`,
//! `muxfs_nfs_written_bytes_total`, `muxfs_nfs_connections`, `muxfs_nfs_connections_refused_total`.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The procedures by program and number.
const NFS: [&str; 22] = [
    "null",
    "getattr",
    "setattr",
    "lookup",
    "access",
    "readlink",
    "read",
    "write",
    "create",
    "mkdir",
    "symlink",
    "mknod",
    "remove",
    "rmdir",
    "rename",
    "link",
    "readdir",
    "readdirplus",
    "fsstat",
    "fsinfo",
    "pathconf",
    "commit",
];
/// Everything that is not NFS.
const OTHER: &str = "other";

/// How a call ended, as a label.
const STATUSES: [(u32, &str); 30] = [
    (0, "ok"),
    (1, "perm"),
    (2, "noent"),
    (5, "io"),
    (6, "nxio"),
    (13, "acces"),
    (17, "exist"),
    (18, "xdev"),
    (19, "nodev"),
    (20, "notdir"),
    (21, "isdir"),
    (22, "inval"),
    (27, "fbig"),
    (28, "nospc"),
    (30, "rofs"),
    (31, "mlink"),
    (63, "nametoolong"),
    (66, "notempty"),
    (69, "dquot"),
    (70, "stale"),
    (71, "remote"),
    (10001, "badhandle"),
    (10002, "not_sync"),
    (10003, "bad_cookie"),
    (10004, "notsupp"),
    (10005, "toosmall"),
    (10006, "serverfault"),
    (10007, "badtype"),
    (10008, "jukebox"),
    (u32::MAX, "rpc_error"),
];
/// The call never got to a procedure.
pub(crate) const RPC_ERROR: u32 = u32::MAX;

/// The metrics of one server, looked up once each.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: [[OnceLock<Counter>; STATUSES.len()]; NFS.len() + 1],
    seconds: [OnceLock<Histogram>; NFS.len() + 1],
    bytes: OnceLock<(Counter, Counter)>,
    connections: OnceLock<Gauge>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// Counts a call; `None` for what is not NFS.
    pub(crate) fn request(&self, procedure: Option<u32>, status: u32, took: Duration) {
        let row = procedure.and_then(|number| usize::try_from(number).ok()).unwrap_or(NFS.len()).min(NFS.len());
        let name = NFS.get(row).copied().unwrap_or(OTHER);
        let column = STATUSES.binary_search_by_key(&status, |(number, _)| *number).unwrap_or(STATUSES.len() - 1);
        let (Some(label), Some(cell), Some(seconds)) = (
            STATUSES.get(column).map(|(_, label)| *label),
            self.requests.get(row).and_then(|row| row.get(column)),
            self.seconds.get(row),
        ) else {
            return;
        };
        cell.get_or_init(|| counter!("muxfs_nfs_requests_total", "procedure" => name, "status" => label)).increment(1);
        seconds.get_or_init(|| histogram!("muxfs_nfs_request_seconds", "procedure" => name)).record(took);
    }

    fn bytes(&self) -> &(Counter, Counter) {
        self.bytes.get_or_init(|| (counter!("muxfs_nfs_read_bytes_total"), counter!("muxfs_nfs_written_bytes_total")))
    }

    pub(crate) fn read(&self, len: u64) {
        self.bytes().0.increment(len);
    }

    pub(crate) fn written(&self, len: u64) {
        self.bytes().1.increment(len);
    }

    pub(crate) fn connections(&self) -> &Gauge {
        self.connections.get_or_init(|| gauge!("muxfs_nfs_connections"))
    }

    /// Counts a connection that was not served, by reason.
    pub(crate) fn refused(reason: &'static str) {
        counter!("muxfs_nfs_connections_refused_total", "reason" => reason).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_in_order_so_that_they_are_found() {
        assert!(STATUSES.is_sorted_by(|(one, _), (two, _)| one < two));
        let metrics = Metrics::default();
        for (procedure, status) in [(None, 0), (Some(21), 10008), (Some(22), 3), (Some(u32::MAX), RPC_ERROR)] {
            metrics.request(procedure, status, Duration::ZERO);
        }
    }
}
