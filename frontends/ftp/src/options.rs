//! What a server is told: plain data, with defaults that are safe on any machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{Env, Error, ErrorKind, Result, vfs::Fsid};

/// Where the certificate of explicit TLS comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// PEM files: the chain, the server's own certificate first, and its private key.
    Files {
        /// The certificate chain.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// A certificate of our own in this directory: made at the first start, the same ever after. Its SHA-256
    /// fingerprint is logged, which is what a client has to compare.
    SelfSigned {
        /// Where `ftp-cert.pem` and `ftp-key.pem` (mode 0600) are kept.
        dir: PathBuf,
    },
}

/// How a server behaves. [`Options::default`] listens on loopback, takes any user and asks for no TLS.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 picks a free one. An address that is not loopback needs `users`.
    pub addr: SocketAddr,
    /// The file of those who may log in (spec/ftp.md #users), read once at the start. `None`: any name with any
    /// password, reading and writing as the server's own uid.
    pub users: Option<PathBuf>,
    /// Offers explicit TLS (AUTH TLS) with this certificate; `None` offers none.
    pub tls: Option<Tls>,
    /// Refuses logins and transfers in clear. Needs `tls`.
    pub tls_required: bool,
    /// The ports that passive data connections use: one of them each, picked at random.
    pub passive_ports: RangeInclusive<u16>,
    /// The address that PASV tells, for a server behind an address translation; `None` tells the one the client
    /// reached.
    pub passive_host: Option<Ipv4Addr>,
    /// Leaves names that begin with a dot out of listings, except of LIST -a. They stay reachable by name.
    pub hide_dot_files: bool,
    /// Permission bits that new files and directories do not get.
    pub umask: u32,
    /// File systems whose names are not made durable before the reply, by their fsid: a crash may lose the latest of
    /// them. What was uploaded is durable all the same. Default: none.
    pub sync_names_except: Vec<Fsid>,
    /// How long a session may say nothing, and a transfer may stand still.
    pub idle_timeout: Duration,
    /// How long a refused login waits for its answer.
    pub login_delay: Duration,
    /// How many sessions may be open at once; one more is told 421.
    pub sessions_max: usize,
    /// How long a shutdown waits for transfers under way.
    pub shutdown_grace: Duration,
    /// How long an upload that broke off can be resumed.
    pub partial_lifetime: Duration,
    /// The clock and the randomness.
    pub env: Env,
}

impl Default for Options {
    /// ```
    /// assert!(muxfs_ftp::Options::default().addr.ip().is_loopback());
    /// ```
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 2121)),
            users: None,
            tls: None,
            tls_required: false,
            passive_ports: 49152..=65535,
            passive_host: None,
            hide_dot_files: false,
            umask: 0o022,
            sync_names_except: Vec::new(),
            idle_timeout: Duration::from_mins(5),
            login_delay: Duration::from_secs(1),
            sessions_max: 128,
            shutdown_grace: Duration::from_secs(10),
            partial_lifetime: Duration::from_hours(24),
            env: Env { now: Arc::new(SystemTime::now), fill: Arc::new(fill) },
        }
    }
}

fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the system has randomness: without it no salt and no key is safe");
}

impl Options {
    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "ftp.options").because(why));
        if !self.addr.ip().is_loopback() && self.users.is_none() {
            return refuse(
                "listening beyond loopback needs a users file: without one FTP lets everybody read and write",
            );
        }
        if self.tls_required && self.tls.is_none() {
            return refuse("TLS cannot be required without a certificate: give one, or ask for a self-signed one");
        }
        if self.passive_ports.is_empty() || *self.passive_ports.start() == 0 {
            return refuse("the range of passive ports is empty or begins at 0");
        }
        if self.sessions_max == 0 {
            return refuse("no session could ever open: the limit is 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is refused")]
        let cases = [
            (Options { addr: anywhere, ..Options::default() }, "users file"),
            (Options { tls_required: true, ..Options::default() }, "certificate"),
            (Options { passive_ports: 9..=8, ..Options::default() }, "passive ports"),
            (Options { sessions_max: 0, ..Options::default() }, "limit is 0"),
        ];
        for (options, word) in cases {
            let error = options.check().expect_err(word);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        Options::default().check().expect("the defaults are fine");
    }
}
