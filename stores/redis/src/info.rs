//! What a server says of itself: what its acknowledgements are worth, and whether it keeps what it has.

use std::fmt;

/// What it is worth that a server acknowledged a `flush` or a `swap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisDurability {
    /// It is synced to the server's disk: its log is synced before each reply (`appendfsync always`).
    Synced,
    /// It is synced to the server's disk: that is waited for (`WAITAOF`, from Redis 7.2 on).
    Waited,
    /// It is in the log, which is synced every second: a crash of the process loses nothing, one of the machine some two seconds.
    Seconds,
    /// It is in the log, and when that is synced is up to the system (`appendfsync no`): a crash of the machine loses more.
    System,
    /// It is in memory: a crash loses all since the last snapshot, if there is any.
    Memory,
    /// The server does not say.
    Unknown,
}

impl fmt::Display for RedisDurability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synced => "synced before each reply",
            Self::Waited => "synced when it is waited for",
            Self::Seconds => "synced every second: a crash of the machine loses what was acknowledged in the last two",
            Self::System => "synced when the system likes: a crash of the machine loses what was acknowledged",
            Self::Memory => "in memory: a crash of the server loses what was acknowledged since its last snapshot",
            Self::Unknown => "unknown: the server does not say what is durable",
        })
    }
}

/// What was told, as far as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Which start of the server this is.
    pub(crate) run: Option<String>,
    version: Option<(u32, u32)>,
    has_log: Option<bool>,
    /// Whether the last write of the log went well.
    pub(crate) log_is_well: bool,
    pub(crate) is_replica: bool,
    pub(crate) is_cluster: bool,
    pub(crate) policy: Option<String>,
    pub(crate) used_len: u64,
    /// 0 where there is none.
    pub(crate) len_max: u64,
    /// `appendfsync`, which `CONFIG GET` tells alone.
    pub(crate) syncs: Option<String>,
}

impl Info {
    /// Reads what `INFO` replies.
    pub(crate) fn parse(text: &str) -> Self {
        let mut info = Self { log_is_well: true, ..Self::default() };
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name {
                "run_id" => info.run = Some(value.into()),
                "redis_version" => {
                    let mut parts = value.split('.').map_while(|part| part.parse().ok());
                    info.version = parts.next().and_then(|major| Some((major, parts.next()?)));
                }
                "aof_enabled" => info.has_log = Some(value == "1"),
                "aof_last_write_status" => info.log_is_well = value == "ok",
                "role" => info.is_replica = value == "slave",
                "cluster_enabled" => info.is_cluster = value == "1",
                "maxmemory_policy" => info.policy = Some(value.into()),
                "used_memory" => info.used_len = value.parse().unwrap_or(0),
                "maxmemory" => info.len_max = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        info
    }

    pub(crate) fn durability(&self) -> RedisDurability {
        match (self.has_log, self.syncs.as_deref()) {
            (Some(false), _) => RedisDurability::Memory,
            (Some(true), Some("always")) => RedisDurability::Synced,
            (Some(true), Some("no")) => RedisDurability::System,
            (Some(true), _) if self.version >= Some((7, 2)) => RedisDurability::Waited,
            (Some(true), Some("everysec")) => RedisDurability::Seconds,
            (Some(true) | None, _) => RedisDurability::Unknown,
        }
    }

    /// Why it may throw keys away that have no end of their own, as ours have none; `None` where it does not.
    pub(crate) fn eviction(&self) -> Option<String> {
        match self.policy.as_deref() {
            None => Some("it does not say what it throws away when its memory is full".into()),
            Some(policy) if policy.starts_with("allkeys") => Some(format!(
                "it throws blocks away when its memory is full (maxmemory-policy {policy}): set that to noeviction"
            )),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_acknowledgement_is_worth() {
        for (text, syncs, expected) in [
            ("redis_version:7.0.15\r\naof_enabled:1\r\n", Some("always"), RedisDurability::Synced),
            ("redis_version:7.0.15\r\naof_enabled:1\r\n", Some("everysec"), RedisDurability::Seconds),
            ("redis_version:7.2.0\r\naof_enabled:1\r\n", Some("everysec"), RedisDurability::Waited),
            ("redis_version:8.0.1\r\naof_enabled:1\r\n", None, RedisDurability::Waited),
            ("redis_version:7.0.15\r\naof_enabled:1\r\n", None, RedisDurability::Unknown),
            ("redis_version:8.0.1\r\naof_enabled:1\r\n", Some("no"), RedisDurability::System),
            ("redis_version:8.0.1\r\naof_enabled:0\r\n", Some("always"), RedisDurability::Memory),
            ("redis_version:x\r\naof_enabled:1\r\n", None, RedisDurability::Unknown),
            ("", None, RedisDurability::Unknown),
        ] {
            let info = Info { syncs: syncs.map(Into::into), ..Info::parse(text) };
            assert_eq!(info.durability(), expected, "{text:?} {syncs:?}");
        }
    }

    #[test]
    fn who_may_throw_away_what_we_put() {
        for (policy, is_bad) in [("noeviction", false), ("volatile-lru", false), ("allkeys-lru", true)] {
            let info = Info::parse(&format!("# Memory\r\nmaxmemory_policy:{policy}\r\nmaxmemory:0\r\n"));
            assert_eq!(info.eviction().is_some(), is_bad, "{policy}");
        }
        assert!(Info::parse("").eviction().is_some());
    }
}
