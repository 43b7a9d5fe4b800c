//! What a server is told: plain data, with defaults that are safe on any machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{Env, Error, ErrorKind, Result};

/// How a server behaves. [`Options::default`] listens on loopback.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 picks a free one. Only loopback: nobody has to say who they are.
    pub addr: SocketAddr,
    /// The names that the server answers to, without ports, beside `localhost` and every address: those under which a
    /// proxy passes requests on. Any other is refused, so that no web page can have its own name lead here.
    pub hosts: Vec<String>,
    /// How many connections may be open at once; one more is told 503.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request, and to send another on a connection that is open.
    pub head_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall_timeout: Duration,
    /// How long it may take until an answer begins; then 504 is told.
    pub answer_timeout: Duration,
    /// How long a shutdown waits for answers under way.
    pub shutdown_grace: Duration,
    /// The clock and the randomness.
    pub env: Env,
}

impl Default for Options {
    /// ```
    /// assert!(muxfs_http::Options::default().addr.ip().is_loopback());
    /// ```
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            hosts: Vec::new(),
            connections_max: 512,
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(1),
            answer_timeout: Duration::from_mins(1),
            shutdown_grace: Duration::from_secs(10),
            env: Env { now: Arc::new(SystemTime::now), fill: Arc::new(fill) },
        }
    }
}

fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the system has randomness: without it no boundary is safe");
}

impl Options {
    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "http.options").because(why));
        if !self.addr.ip().is_loopback() {
            return refuse(
                "HTTP listens on loopback only, since it asks nobody who they are: put a proxy before it, and list its \
                 name under hosts",
            );
        }
        if self.connections_max == 0 {
            return refuse("no connection could ever open: the limit is 0");
        }
        if let Some(host) = self.hosts.iter().find(|host| host.is_empty() || host.contains([':', '/', '*', ' '])) {
            return refuse(&format!("{host:?} is no name of a host: names have no port and no pattern"));
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
        for (options, word) in [
            (Options { addr: anywhere, ..Options::default() }, "loopback"),
            (Options { connections_max: 0, ..Options::default() }, "limit is 0"),
            (Options { hosts: vec!["a.example:80".into()], ..Options::default() }, "port"),
            (Options { hosts: vec!["*.example".into()], ..Options::default() }, "pattern"),
        ] {
            let error = options.check().expect_err(word);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        Options { hosts: vec!["files.example.org".into()], ..Options::default() }.check().expect("a name");
    }
}
