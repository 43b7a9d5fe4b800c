//! What a server is told: plain data, with defaults that are safe on any machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{Env, Error, ErrorKind, Result, ipns::Records};

use crate::{access::Writing, hub::Hub, ours::Reporter};

/// How a server behaves. [`Options::default`] listens on loopback.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 picks a free one. On loopback anybody may read; at any other address whoever reads has to
    /// show the token, too, so that one needs `writing`.
    pub addr: SocketAddr,
    /// The names that the server answers to, without ports, beside `localhost` and every address: those under which a
    /// proxy passes requests on. Any other is refused, so that no web page can have its own name lead here.
    pub hosts: Vec<String>,
    /// How the namespace is written, and listed over WebDAV; `None`: neither.
    pub writing: Option<Writing>,
    /// A file of users, each of whom may read and write in a home of their own, shown by name and password; needs `writing`.
    /// Read when the server starts. `None`: nobody but who has the token.
    pub users: Option<PathBuf>,
    /// What the status page tells beside what the namespace knows of itself.
    pub reporter: Option<Arc<dyn Reporter>>,
    /// Whether who reads has to show the token on loopback, too: behind a proxy that lets anybody in. Needs `writing`.
    pub private: bool,
    /// Where the records of IPNS names are that are known here, for `/ipns`; `None`: there is no such path.
    pub names: Option<Arc<dyn Records>>,
    /// The same with those that others know, for whoever may have somebody else asked; `names` where `None`.
    pub names_elsewhere: Option<Arc<dyn Records>>,
    /// Flists of several users, listed and taken; `None`: there is no hub.
    pub hub: Option<Hub>,
    /// How many connections may be open at once; one more is told 503.
    pub connections_max: usize,
    /// How many answers that read may be under way at once; one more waits for its turn, and is told 503 where none of
    /// them ends for `answer_timeout`.
    pub answers_max: usize,
    /// How long a client may take to send the head of a request, and to send another on a connection that is open.
    pub head_timeout: Duration,
    /// How long a client may take nothing of what is sent to it, and send nothing of what it announced.
    pub stall_timeout: Duration,
    /// How long it may take until an answer begins that reads; then 504 is told. A change takes the time it takes.
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
            writing: None,
            users: None,
            reporter: None,
            private: false,
            names: None,
            names_elsewhere: None,
            hub: None,
            // Helia asks for all 1024 parts of a file's node at once, each on a connection of its own.
            connections_max: 2048,
            answers_max: 512,
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
    /// Whether anybody may read.
    pub(crate) fn is_open(&self) -> bool {
        self.addr.ip().is_loopback() && !self.private
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "http.options").because(why));
        if !self.is_open() && self.writing.is_none() {
            return refuse("private, or elsewhere than on loopback, HTTP asks whoever reads for a token, and has none");
        }
        if self.users.is_some() && self.writing.is_none() {
            return refuse("users are those who write, and nothing is written here");
        }
        if self.connections_max == 0 {
            return refuse("no connection could ever open: the limit is 0");
        }
        if self.answers_max == 0 {
            return refuse("nothing could ever be answered: the limit is 0");
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
            (Options { private: true, ..Options::default() }, "private"),
            (Options { users: Some("users.toml".into()), ..Options::default() }, "users"),
            (Options { connections_max: 0, ..Options::default() }, "limit is 0"),
            (Options { answers_max: 0, ..Options::default() }, "limit is 0"),
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
