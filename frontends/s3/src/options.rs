//! What a server is told: plain data, with defaults that are safe on any machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::{
    Env, Error, ErrorKind, Name, Result,
    vfs::{Fsid, posix::Caller},
};

use crate::keys::Keys;

/// How a server behaves. [`Options::default`] listens on loopback, and knows no key: nobody may do anything.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 picks a free one.
    pub addr: SocketAddr,
    /// The directory whose directories are the buckets, from the root of what is served.
    pub root: Vec<Name>,
    /// Who may ask, and for what.
    pub keys: Keys,
    /// As whom requests are carried out: what is made belongs to them, and their permissions hold.
    pub caller: Caller,
    /// The region that clients are told.
    pub region: String,
    /// File systems whose names are not made durable before the answer, by their fsid: a crash may lose the latest of
    /// them. What was put is durable all the same.
    pub sync_names_except: Vec<Fsid>,
    /// File systems of which a crash keeps all changes up to some moment, by their fsid: a working tree. One sync at the
    /// end of what is put is enough there.
    pub ordered: Vec<Fsid>,
    /// How many connections may be open at once; one more is told 503.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request, and to send another on a connection that is open.
    pub head_timeout: Duration,
    /// How long a client may take nothing of what is sent to it, and send nothing of what it announced.
    pub stall_timeout: Duration,
    /// How long a shutdown waits for requests under way.
    pub shutdown_grace: Duration,
    /// How many bytes each part of an upload has at least, but the last.
    pub part_len_min: u64,
    /// The clock and the randomness. Signatures are held against the clock of the system.
    pub env: Env,
}

impl Default for Options {
    /// ```
    /// assert!(muxfs_s3_serve::Options::default().addr.ip().is_loopback());
    /// ```
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)),
            root: Vec::new(),
            keys: Keys::default(),
            caller: Caller { uid: 0, gid: 0, groups: Vec::new() },
            region: "us-east-1".to_owned(),
            sync_names_except: Vec::new(),
            ordered: Vec::new(),
            connections_max: 1024,
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(1),
            shutdown_grace: Duration::from_secs(10),
            part_len_min: 5 << 20,
            env: Env { now: Arc::new(SystemTime::now), fill: Arc::new(fill) },
        }
    }
}

fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the system has randomness: without it no name of an upload is safe");
}

impl Options {
    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "s3.options").because(why));
        if self.connections_max == 0 {
            return refuse("no connection could ever open: the limit is 0");
        }
        if self.region.is_empty() || !self.region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return refuse("a region is letters, digits and hyphens, as us-east-1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (options, word) in [
            (Options { connections_max: 0, ..Options::default() }, "limit is 0"),
            (Options { region: String::new(), ..Options::default() }, "region"),
            (Options { region: "a b".into(), ..Options::default() }, "region"),
        ] {
            let error = options.check().expect_err(word);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        Options::default().check().expect("the defaults are fine");
    }
}
