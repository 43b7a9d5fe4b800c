//! What a server is told: where to listen, who may call and as whom, what is durable when, and every limit.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{Env, Error, ErrorKind, Result, vfs::Fsid};

/// Whom the server takes a caller for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// Everybody is who they say.
    None,
    /// User and group 0 are anonymous; the others are who they say.
    Root,
    /// Everybody is anonymous.
    All,
}

/// How an NFS server behaves. Plain data; the default is safe: loopback only.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own, named where it is set")]
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. All three programs answer here. Default: 127.0.0.1, port 2049.
    pub addr: SocketAddr,
    /// The networks whose hosts may connect; others are closed at once. Default: the loopback networks.
    pub allow: Vec<Network>,
    /// Whom to take a caller for. Default: `None`, which is [`Squash::None`] for callers on a loopback address and
    /// [`Squash::Root`] for all others.
    pub squash: Option<Squash>,
    /// The user that anonymous callers are. Default: 65534.
    pub anon_uid: u32,
    /// The group that anonymous callers are in. Default: 65534.
    pub anon_gid: u32,
    /// Answers only callers from a port below 1024, which on their host takes root. Default: no.
    pub privileged_port: bool,
    /// Refuses every change with ROFS. Default: no.
    pub read_only: bool,
    /// Lets the owner of a file read and write it whatever its mode says: the client checked when the file was opened,
    /// and the server does not know what is open. Default: yes.
    pub owner_override: bool,
    /// Makes names and attributes durable before the reply, as RFC 1813 wants. Where this is off a crash may lose the
    /// latest of them, as with the option `async` of other servers. Default: yes.
    pub sync_names: bool,
    /// File systems that `sync_names` is not for, by their fsid: their names are as durable as they make them
    /// themselves. Default: none.
    pub sync_names_except: Vec<Fsid>,
    /// How long a call that meets `Unavailable` is told to try again (JUKEBOX), from its first failure on; after that
    /// it fails (IO). Default: 30 s.
    pub unavailable_after: Duration,
    /// The most connections at a time; further ones are closed at once. Default: 16,384.
    pub connections_max: usize,
    /// A connection without a call for so long is closed; clients connect again by themselves. Default: 30 min.
    pub idle_timeout: Duration,
    /// A peer that for so long takes none of its replies, or sends nothing of a record it began, is cut off.
    /// Default: 60 s.
    pub stall_timeout: Duration,
    /// How long a shutdown waits for calls in flight. Default: 10 s.
    pub shutdown_grace: Duration,
    /// The clock, for `unavailable_after`, and the randomness, for the write verifier.
    pub env: Env,
}

/// Listens on loopback, for callers there.
///
/// ```
/// let options = muxfs_nfs::Options::default();
/// assert!(options.addr.ip().is_loopback());
/// assert!(options.allow.iter().all(|network| !network.contains([192, 0, 2, 1].into())));
/// ```
impl Default for Options {
    fn default() -> Self {
        Self {
            addr: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2049),
            allow: vec![
                Network { addr: Ipv4Addr::new(127, 0, 0, 0).into(), len: 8 },
                Network { addr: Ipv6Addr::LOCALHOST.into(), len: 128 },
            ],
            squash: None,
            anon_uid: 65534,
            anon_gid: 65534,
            privileged_port: false,
            read_only: false,
            owner_override: true,
            sync_names: true,
            sync_names_except: Vec::new(),
            unavailable_after: Duration::from_secs(30),
            connections_max: 16_384,
            idle_timeout: Duration::from_mins(30),
            stall_timeout: Duration::from_mins(1),
            shutdown_grace: Duration::from_secs(10),
            env: Env { now: Arc::new(SystemTime::now), fill: Arc::new(fill) },
        }
    }
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system gives random bytes once it has booted");
}

impl Options {
    /// Whether a host may connect.
    pub(crate) fn allows(&self, addr: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(addr))
    }

    pub(crate) fn squash_for(&self, addr: IpAddr) -> Squash {
        self.squash.unwrap_or(if addr.to_canonical().is_loopback() { Squash::None } else { Squash::Root })
    }
}

/// A network: an address and how many of its bits count. IPv4 inside of IPv6 counts as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    len: u8,
}

impl Network {
    /// Checks a network.
    ///
    /// ```
    /// use muxfs_nfs::Network;
    /// let network = Network::new([10, 1, 0, 0].into(), 16)?;
    /// assert!(network.contains([10, 1, 2, 3].into()) && !network.contains([10, 2, 0, 0].into()));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for more bits than the address has.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self> {
        let addr = addr.to_canonical();
        if len > if addr.is_ipv4() { 32 } else { 128 } {
            return Err(Error::new(ErrorKind::InvalidArgument, "nfs.network")
                .at(format!("{addr}/{len}"))
                .because("an IPv4 network has at most 32 bits, an IPv6 network at most 128"));
        }
        Ok(Self { addr, len })
    }

    /// Whether an address is in it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        (ours ^ theirs).checked_shr(width - u32::from(self.len)).unwrap_or(0) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Parses `10.0.0.0/8`, `fd00::/8`, or one address.
impl FromStr for Network {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::new(ErrorKind::InvalidArgument, "nfs.network")
                .at(text.escape_debug())
                .because("a network is an address, or an address, a slash and a number of bits: 10.0.0.0/8")
        };
        let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().map_err(|_| refuse())?;
        let whole = if addr.to_canonical().is_ipv4() { 32 } else { 128 };
        Self::new(addr, len.map_or(Ok(whole), str::parse).map_err(|_| refuse())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::1", "::1", true),
        ];
        for (network, addr, want) in table {
            let network: Network = network.parse().expect("is a network");
            assert_eq!(network.contains(addr.parse().expect("is an address")), want, "{network} {addr}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "host", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8"] {
            assert_eq!(
                text.parse::<Network>().map_err(|error| error.kind()),
                Err(ErrorKind::InvalidArgument),
                "{text}"
            );
        }
    }
}
