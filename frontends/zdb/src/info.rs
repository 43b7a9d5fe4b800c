//! The texts of `INFO` and `NSINFO`: a figure a line, with the names, the order and the formats of 0-db.

use std::{fmt::Write as _, sync::atomic::Ordering, time::SystemTime};

use muxfs_zdb::{Figures, Mode, Namespace};

use crate::server::Shared;

/// The version of 0-db whose protocol this is.
const SPOKEN_VERSION: &str = "v2.0.7";
/// The versions of the files that 0-db of that version keeps: clients may read them, and ours are none of them.
const DATA_VERSION: u32 = 3;
const INDEX_VERSION: u32 = 4;

/// Lines of names and figures.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        // A string takes all that is written to it.
        writeln!(self.0, "{name}: {value}").ok();
    }

    /// A number of bytes, and the same in a unit with two digits behind the point.
    fn add_size(&mut self, name: &str, len: u64, unit: (&str, u64)) {
        self.add(&format!("{name}_bytes"), len);
        let hundredths = u128::from(len) * 100;
        let rounded = (hundredths + u128::from(unit.1) / 2) / u128::from(unit.1);
        self.add(&format!("{name}_{}", unit.0), format_args!("{}.{:02}", rounded / 100, rounded % 100));
    }
}

const KIB: (&str, u64) = ("kb", 1 << 10);
const MIB: (&str, u64) = ("mb", 1 << 20);

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// What `NSINFO` tells; an administrator is told of files, too.
pub(crate) fn of_namespace(namespace: &Namespace, disk_free: Option<u64>, is_admin: bool) -> String {
    let (settings, figures) = (namespace.settings(), namespace.figures());
    let mut lines = Lines("# namespace\n".into());
    lines.add("name", namespace.name());
    lines.add("entries", figures.entries);
    lines.add("public", yes(settings.public));
    lines.add("worm", yes(settings.worm));
    lines.add("locked", yes(settings.locked || settings.frozen));
    lines.add("password", yes(settings.password.is_some()));
    lines.add_size("data_size", figures.data_len, MIB);
    lines.add("data_limits_bytes", settings.maxsize);
    lines.add_size("index_size", figures.index_len, KIB);
    // 0-db turns its bytes round.
    lines.add("next_internal_id", format_args!("0x{:08x}", figures.next_id.swap_bytes()));
    lines.add("mode", if settings.mode == Mode::User { "userkey" } else { "sequential" });
    lines.add("stats_index_io_errors", figures.index_io_errors);
    lines.add("stats_index_io_error_last", figures.index_io_error_last);
    lines.add("stats_index_faults", figures.index_faults);
    lines.add("stats_data_io_errors", figures.data_io_errors);
    lines.add("stats_data_io_error_last", figures.data_io_error_last);
    lines.add("stats_data_faults", figures.data_faults);
    if settings.maxsize > 0 {
        lines.add("space_available", settings.maxsize.saturating_sub(figures.data_len));
    }
    if let Some(free) = disk_free {
        lines.add_size("index_disk_freespace", free, MIB);
        lines.add_size("data_disk_freespace", free, MIB);
    }
    if is_admin {
        of_files(&mut lines, &figures);
    }
    lines.0
}

fn of_files(lines: &mut Lines, figures: &Figures) {
    lines.add("data_path", &figures.data_path);
    lines.add("data_active", &figures.data_active);
    lines.add("index_path", &figures.index_path);
    lines.add("index_active", &figures.index_active);
    lines.add("data_current_id", figures.current_file);
    lines.add("data_current_offset", figures.current_offset);
}

/// What `INFO` tells.
pub(crate) fn of_server(server: &Shared) -> String {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (booted, now) = (seconds(server.booted), seconds((server.options.env.now)()));
    let totals = &server.metrics.totals;
    let figures: Vec<Figures> = server.engine.namespaces().iter().map(|namespace| namespace.figures()).collect();
    let sum = |of: fn(&Figures) -> u64| figures.iter().map(of).sum::<u64>();
    let mut lines = Lines("# server\n".into());
    lines.add("server_name", "0-db (zdb)");
    lines.add("server_revision", SPOKEN_VERSION);
    lines.add("engine_revision", concat!("muxfs ", env!("CARGO_PKG_VERSION")));
    lines.add("instance_id", server.instance);
    lines.add("boot_time", booted);
    lines.add("uptime", now.saturating_sub(booted));
    lines.0.push_str("\n# clients\n");
    lines.add("clients_lifetime", totals.clients.load(Ordering::Relaxed));
    lines.0.push_str("\n# internals\n");
    lines.add("sequential_key_size", size_of::<u64>());
    lines.add("data_version", DATA_VERSION);
    lines.add("index_version", INDEX_VERSION);
    lines.0.push_str("\n# stats\n");
    lines.add("commands_executed", totals.commands.load(Ordering::Relaxed));
    lines.add("commands_failed", totals.unknown.load(Ordering::Relaxed));
    lines.add("commands_unauthorized", totals.denied.load(Ordering::Relaxed));
    // The engine counts what fails, not which way it went.
    lines.add("index_disk_read_failed", 0);
    lines.add("index_disk_write_failed", sum(|figures| figures.index_io_errors));
    lines.add("data_disk_read_failed", sum(|figures| figures.data_faults));
    lines.add("data_disk_write_failed", sum(|figures| figures.data_io_errors));
    // What an index is made of is written with the data.
    lines.add_size("index_disk_read", 0, MIB);
    lines.add_size("index_disk_write", 0, MIB);
    lines.add_size("data_disk_read", sum(|figures| figures.read_len), MIB);
    lines.add_size("data_disk_write", sum(|figures| figures.written_len), MIB);
    lines.add_size("network_rx", totals.received.load(Ordering::Relaxed), MIB);
    lines.add_size("network_tx", totals.sent.load(Ordering::Relaxed), MIB);
    lines.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_behind_the_point() {
        let mut lines = Lines(String::new());
        lines.add_size("data_size", 1_000_028, MIB);
        lines.add_size("index_size", 1008, KIB);
        lines.add_size("index_size", 0, KIB);
        assert_eq!(
            lines.0,
            "data_size_bytes: 1000028\ndata_size_mb: 0.95\nindex_size_bytes: 1008\nindex_size_kb: 0.98\nindex_size_bytes: 0\nindex_size_kb: 0.00\n"
        );
    }
}
