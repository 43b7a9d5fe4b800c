//! The commands by name.

/// A command that a client can name.
///
/// 0-db takes the beginning of a name for the name; here a name is exact, in any case. Spec: spec/zdb.md #commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Stands for every command in `WAIT`, and is none itself.
    Any,
    Wait,
    Mirror,
    Master,
    Ping,
    Time,
    Auth,
    Hooks,
    Index,
    Data,
    Set,
    Setx,
    Get,
    Mget,
    Del,
    Exists,
    Check,
    Scan,
    Scanx,
    Rscan,
    Kscan,
    History,
    Keycur,
    Length,
    Keytime,
    Info,
    Stop,
    Dbsize,
    Nsnew,
    Nsdel,
    Nslist,
    Nsset,
    Nsinfo,
    Nsjump,
    Select,
    Reload,
    Flush,
}

impl Command {
    /// Every command.
    pub(crate) const ALL: [Self; 37] = [
        Self::Any,
        Self::Wait,
        Self::Mirror,
        Self::Master,
        Self::Ping,
        Self::Time,
        Self::Auth,
        Self::Hooks,
        Self::Index,
        Self::Data,
        Self::Set,
        Self::Setx,
        Self::Get,
        Self::Mget,
        Self::Del,
        Self::Exists,
        Self::Check,
        Self::Scan,
        Self::Scanx,
        Self::Rscan,
        Self::Kscan,
        Self::History,
        Self::Keycur,
        Self::Length,
        Self::Keytime,
        Self::Info,
        Self::Stop,
        Self::Dbsize,
        Self::Nsnew,
        Self::Nsdel,
        Self::Nslist,
        Self::Nsset,
        Self::Nsinfo,
        Self::Nsjump,
        Self::Select,
        Self::Reload,
        Self::Flush,
    ];

    /// The command of a name, if there is one.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        // The two that nearly all requests are come first.
        [Self::Set, Self::Get]
            .into_iter()
            .chain(Self::ALL)
            .find(|command| command.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its name, as 0-db writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "*",
            Self::Wait => "WAIT",
            Self::Mirror => "MIRROR",
            Self::Master => "MASTER",
            Self::Ping => "PING",
            Self::Time => "TIME",
            Self::Auth => "AUTH",
            Self::Hooks => "HOOKS",
            Self::Index => "INDEX",
            Self::Data => "DATA",
            Self::Set => "SET",
            Self::Setx => "SETX",
            Self::Get => "GET",
            Self::Mget => "MGET",
            Self::Del => "DEL",
            Self::Exists => "EXISTS",
            Self::Check => "CHECK",
            Self::Scan => "SCAN",
            Self::Scanx => "SCANX",
            Self::Rscan => "RSCAN",
            Self::Kscan => "KSCAN",
            Self::History => "HISTORY",
            Self::Keycur => "KEYCUR",
            Self::Length => "LENGTH",
            Self::Keytime => "KEYTIME",
            Self::Info => "INFO",
            Self::Stop => "STOP",
            Self::Dbsize => "DBSIZE",
            Self::Nsnew => "NSNEW",
            Self::Nsdel => "NSDEL",
            Self::Nslist => "NSLIST",
            Self::Nsset => "NSSET",
            Self::Nsinfo => "NSINFO",
            Self::Nsjump => "NSJUMP",
            Self::Select => "SELECT",
            Self::Reload => "RELOAD",
            Self::Flush => "FLUSH",
        }
    }

    /// Where it is in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_exact_and_in_any_case() {
        for (index, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command.index(), index);
            assert_eq!(Command::of(command.name().as_bytes()), Some(command));
            assert_eq!(Command::of(command.name().to_lowercase().as_bytes()), Some(command));
        }
        // 0-db takes PIN for PING, and nothing for `*`.
        for name in ["", "P", "PIN", "PINGG", "SE", "FOO"] {
            assert_eq!(Command::of(name.as_bytes()), None, "{name}");
        }
    }
}
