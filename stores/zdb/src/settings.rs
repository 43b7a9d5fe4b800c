//! What is set about a namespace.

use bytes::Bytes;

/// Who gives the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Whoever sets a value.
    User,
    /// The namespace: a new value gets the next number, 8 bytes little-endian.
    Sequential,
}

/// What is set about a namespace.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch that a client turns by its name")]
pub struct Settings {
    /// What a client has to know to write, in clear: a challenge is answered with a hash of it.
    pub password: Option<Bytes>,
    /// Whether who does not know the password may read.
    pub public: bool,
    /// How many bytes the current values may have together; 0 is no limit.
    pub maxsize: u64,
    /// Whether a key that is there can neither be set nor deleted.
    pub worm: bool,
    /// Who gives the keys.
    pub mode: Mode,
    /// Whether it can only be read, for now.
    pub locked: bool,
    /// Whether it can neither be read nor written, for now.
    pub frozen: bool,
    /// Whether overwritten and deleted values are kept. Where they are not, their room comes back.
    pub history: bool,
}

impl Settings {
    /// Of a new namespace: public, without password, limit or switches, keeping history.
    pub fn new(mode: Mode) -> Self {
        Self {
            password: None,
            public: true,
            maxsize: 0,
            worm: false,
            mode,
            locked: false,
            frozen: false,
            history: true,
        }
    }
}

// Passwords stay out of logs.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("password", &self.password.is_some())
            .field("public", &self.public)
            .field("maxsize", &self.maxsize)
            .field("worm", &self.worm)
            .field("mode", &self.mode)
            .field("locked", &self.locked)
            .field("frozen", &self.frozen)
            .field("history", &self.history)
            .finish()
    }
}

/// One thing that is set about a namespace.
#[derive(Clone, PartialEq, Eq)]
pub enum Setting {
    /// The password; `None` takes it away.
    Password(Option<Bytes>),
    /// Whether who does not know the password may read.
    Public(bool),
    /// How many bytes the current values may have together; 0 is no limit. May be less than there are.
    MaxSize(u64),
    /// Whether a key that is there can neither be set nor deleted.
    Worm(bool),
    /// Who gives the keys: only of a namespace in which nothing was ever set.
    Mode(Mode),
    /// Whether it can only be read.
    Lock(bool),
    /// Whether it can neither be read nor written.
    Freeze(bool),
    /// Whether overwritten and deleted values are kept. Turned off, those that there are go with the next compaction.
    History(bool),
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password(password) => write!(f, "Password({})", if password.is_some() { "set" } else { "none" }),
            Self::Public(on) => write!(f, "Public({on})"),
            Self::MaxSize(len) => write!(f, "MaxSize({len})"),
            Self::Worm(on) => write!(f, "Worm({on})"),
            Self::Mode(mode) => write!(f, "Mode({mode:?})"),
            Self::Lock(on) => write!(f, "Lock({on})"),
            Self::Freeze(on) => write!(f, "Freeze({on})"),
            Self::History(on) => write!(f, "History({on})"),
        }
    }
}

impl Settings {
    /// Sets one thing.
    pub(crate) fn set(&mut self, setting: Setting) {
        match setting {
            Setting::Password(password) => self.password = password,
            Setting::Public(on) => self.public = on,
            Setting::MaxSize(len) => self.maxsize = len,
            Setting::Worm(on) => self.worm = on,
            Setting::Mode(mode) => self.mode = mode,
            Setting::Lock(on) => self.locked = on,
            Setting::Freeze(on) => self.frozen = on,
            Setting::History(on) => self.history = on,
        }
    }
}
