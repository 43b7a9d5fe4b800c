//! What a server does of its own: what it removes, what it reads again, and which commits stay.

use std::time::Duration;

use muxfs::tree::Retention;
use serde::{Deserialize, Serialize};

use super::{ByteCount, Span};

/// When a server removes what nothing keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gc {
    pub(crate) enabled: bool,
    /// A mount is collected at most so often, and only after something was let go or put; sooner where its disk is
    /// nearly full.
    pub(crate) every: Span,
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, every: Span(Duration::from_mins(15)) }
    }
}

/// When a server reads all shards of `/zstor` and heals them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrub {
    pub(crate) enabled: bool,
    /// A pass is begun so long after the last one was; sooner where blocks may lack what nobody noted.
    pub(crate) every: Span,
    /// The most bytes of shards that are read in a second.
    pub(crate) max_rate: ByteCount,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { enabled: true, every: Span(Duration::from_hours(14 * 24)), max_rate: ByteCount(32 << 20) }
    }
}

/// Which commits of working trees stay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct History {
    /// Every commit of so long ago,
    pub(crate) all: Span,
    /// the last of every hour so long,
    pub(crate) hourly: Span,
    /// and the last of every day so long.
    pub(crate) daily: Span,
}

impl Default for History {
    fn default() -> Self {
        let Retention { all, hourly, daily } = Retention::default();
        Self { all: Span(all), hourly: Span(hourly), daily: Span(daily) }
    }
}

impl History {
    pub(crate) fn retention(&self) -> Retention {
        Retention { all: self.all.0, hourly: self.hourly.0, daily: self.daily.0 }
    }
}
