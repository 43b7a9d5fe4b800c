//! Metrics: what the server counts, through the facade `metrics`, and what `INFO` tells. Without a recorder the former cost
//! next to nothing.
//!
//! `muxfs_zdb_requests_total{command,status}`, `muxfs_zdb_request_seconds{command}`, `muxfs_zdb_received_bytes_total`,
//! `muxfs_zdb_sent_bytes_total`, `muxfs_zdb_connections`, `muxfs_zdb_connections_refused_total{reason}`; and of each
//! namespace, looked up every [`TELL_EVERY`], `muxfs_zdb_entries{namespace}`, `muxfs_zdb_data_bytes{namespace}`,
//! `muxfs_zdb_index_bytes{namespace}`, `muxfs_zdb_file_bytes{namespace}`, `muxfs_zdb_dead_bytes{namespace}`,
//! `muxfs_zdb_io_errors{namespace}` and `muxfs_zdb_faults{namespace}`, which are `NaN` when it is removed.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use muxfs_zdb::{Engine, Figures};

use crate::command::Command;

/// How often the gauges of namespaces are set.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(5);
/// Everything that is no command.
const OTHER: &str = "other";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    /// It was refused, or failed.
    Error,
    /// It takes administrator's rights.
    Denied,
}

impl Status {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Denied];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Denied => "denied",
        }
    }
}

/// The metrics of one server, looked up once each.
pub(crate) struct Metrics {
    /// By command, and of everything that is none.
    rows: [Row; Command::ALL.len() + 1],
    bytes: OnceLock<(Counter, Counter)>,
    connections: OnceLock<Gauge>,
    /// Of the life of the server, for `INFO`.
    pub(crate) totals: Totals,
}

/// Those of one command.
#[derive(Default)]
struct Row {
    requests: [OnceLock<Counter>; Status::ALL.len()],
    seconds: OnceLock<Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            rows: std::array::from_fn(|_| Row::default()),
            bytes: OnceLock::new(),
            connections: OnceLock::new(),
            totals: Totals::default(),
        }
    }
}

/// What `INFO` counts.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) clients: AtomicU64,
    pub(crate) commands: AtomicU64,
    /// Of no command that there is.
    pub(crate) unknown: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// Counts a request; `None` for what is no command.
    pub(crate) fn request(&self, command: Option<Command>, status: Status, took: Duration) {
        let total = if command.is_some() { &self.totals.commands } else { &self.totals.unknown };
        total.fetch_add(1, Ordering::Relaxed);
        if status == Status::Denied {
            self.totals.denied.fetch_add(1, Ordering::Relaxed);
        }
        let row = command.map_or(Command::ALL.len(), Command::index);
        let name = command.map_or(OTHER, Command::name);
        let Some(row) = self.rows.get(row) else { return };
        if let Some(cell) = row.requests.get(status as usize) {
            let label = status.label();
            cell.get_or_init(|| counter!("muxfs_zdb_requests_total", "command" => name, "status" => label))
                .increment(1);
        }
        row.seconds.get_or_init(|| histogram!("muxfs_zdb_request_seconds", "command" => name)).record(took);
    }

    fn bytes(&self) -> &(Counter, Counter) {
        self.bytes.get_or_init(|| (counter!("muxfs_zdb_received_bytes_total"), counter!("muxfs_zdb_sent_bytes_total")))
    }

    pub(crate) fn received(&self, len: usize) {
        self.totals.received.fetch_add(len as u64, Ordering::Relaxed);
        self.bytes().0.increment(len as u64);
    }

    pub(crate) fn sent(&self, len: usize) {
        self.totals.sent.fetch_add(len as u64, Ordering::Relaxed);
        self.bytes().1.increment(len as u64);
    }

    pub(crate) fn connections(&self) -> &Gauge {
        self.connections.get_or_init(|| gauge!("muxfs_zdb_connections"))
    }

    /// Counts a connection that was not served, by reason.
    pub(crate) fn refused(reason: &'static str) {
        counter!("muxfs_zdb_connections_refused_total", "reason" => reason).increment(1);
    }
}

/// A gauge of a namespace, and what of its figures it shows.
type Shown = (&'static str, fn(&Figures) -> u64);

const OF_NAMESPACES: [Shown; 7] = [
    ("muxfs_zdb_entries", |figures| figures.entries),
    ("muxfs_zdb_data_bytes", |figures| figures.data_len),
    ("muxfs_zdb_index_bytes", |figures| figures.index_len),
    ("muxfs_zdb_file_bytes", |figures| figures.file_len),
    ("muxfs_zdb_dead_bytes", |figures| figures.dead_len),
    ("muxfs_zdb_io_errors", |figures| figures.data_io_errors + figures.index_io_errors),
    ("muxfs_zdb_faults", |figures| figures.data_faults + figures.index_faults),
];

/// Sets the gauges of all namespaces; `told` are the names of those that have any.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
pub(crate) fn tell_namespaces(engine: &Engine, told: &mut BTreeSet<String>) {
    let namespaces = engine.namespaces();
    let names: BTreeSet<String> = namespaces.iter().map(|namespace| namespace.name().to_owned()).collect();
    for (gauge, _) in OF_NAMESPACES {
        for gone in told.difference(&names) {
            gauge!(gauge, "namespace" => gone.clone()).set(f64::NAN);
        }
    }
    for namespace in namespaces {
        let figures = namespace.figures();
        for (gauge, of) in OF_NAMESPACES {
            gauge!(gauge, "namespace" => namespace.name().to_owned()).set(of(&figures) as f64);
        }
    }
    *told = names;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        for (command, status) in
            [(Some(Command::Flush), Status::Denied), (Some(Command::Any), Status::Ok), (None, Status::Error)]
        {
            metrics.request(command, status, Duration::ZERO);
        }
        let totals = &metrics.totals;
        let counts = [&totals.commands, &totals.unknown, &totals.denied].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [2, 1, 1]);
    }
}
