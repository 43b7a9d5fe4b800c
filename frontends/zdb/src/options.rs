//! What a server is told: where to listen, who its administrator is, and every limit.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{Env, Error, ErrorKind, Result};

use crate::secret::Password;

/// Where 0-db listens, and this server, if nothing else is said.
pub const PORT: u16 = 9900;

/// How a server behaves. Plain data; the default is safe: loopback only.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen over TCP; port 0 takes a free one. Elsewhere than on loopback it takes `admin`.
    /// Default: 127.0.0.1, port 9900.
    pub addr: Option<SocketAddr>,
    /// The path of a Unix socket to listen on, too. One that an earlier server left there is replaced. Default: none.
    pub socket: Option<PathBuf>,
    /// The mode of the Unix socket: who may write to it may connect. Default: `0o660`, its owner and group.
    pub socket_mode: u32,
    /// The administrator's password. Without one everybody is administrator, as with 0-db. Default: none.
    pub admin: Option<Password>,
    /// Lets an administrator end the server with `STOP`. Default: no.
    pub stop_allowed: bool,
    /// The most connections at a time; further ones are told so and closed. Default: 4,096.
    pub connections_max: usize,
    /// A client that for so long takes none of its replies, or sends nothing of a request it began, is cut off. One that
    /// is idle between requests never is. Default: 60 s.
    pub stall_timeout: Duration,
    /// How long a shutdown waits for requests under way. Default: 10 s.
    pub shutdown_grace: Duration,
    /// The clock, for `TIME`, and the randomness, for challenges.
    pub env: Env,
}

/// Listens on loopback.
///
/// ```
/// let options = muxfs_zdb_serve::Options::default();
/// assert!(options.addr.is_some_and(|addr| addr.ip().is_loopback()));
/// ```
impl Default for Options {
    fn default() -> Self {
        Self {
            addr: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)),
            socket: None,
            socket_mode: 0o660,
            admin: None,
            stop_allowed: false,
            connections_max: 4096,
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
    /// Refuses what would give everybody on a network everything, and what nobody could use.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "zdb.serve").because(why));
        if self.addr.is_none() && self.socket.is_none() {
            return refuse("it would listen nowhere: give it an address or a socket");
        }
        if self.admin.is_none() && self.addr.is_some_and(|addr| !addr.ip().to_canonical().is_loopback()) {
            return refuse(
                "to listen elsewhere than on loopback it takes an administrator's password, without which everybody who connects is administrator",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_than_on_loopback_takes_a_password() {
        let at = |addr: &str| Options { addr: Some(addr.parse().expect("an address")), ..Options::default() };
        for (addr, is_allowed) in [
            ("127.0.0.1:0", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("192.0.2.1:0", false),
        ] {
            assert_eq!(at(addr).check().is_ok(), is_allowed, "{addr}");
            let admin = Some(Password::new("secret").expect("a password"));
            Options { admin, ..at(addr) }.check().expect("a password allows it");
        }
        let error = Options { addr: None, ..Options::default() }.check().expect_err("nowhere");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
