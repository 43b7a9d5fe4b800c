//! Opening: whose the database is, what the server is worth, and who writes.

use bytes::Bytes;
use muxfs::{Env, Error, ErrorKind, Result};
use muxfs_zstor::resp::Reply;

use crate::{
    address::{RedisAccess, RedisOptions},
    connection::nonsense,
    info::{Info, RedisDurability},
    link::Link,
    script,
};

/// What the mark begins with; behind it the version, and who it is.
const MARK: &str = "muxfs-redis";
const FORMAT: &str = "1";
const OP: &str = "redis.open";

/// What an opening found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) durability: RedisDurability,
    /// Of who writes; 0 of who does not.
    pub(crate) epoch: i64,
}

/// The keys of a store that are neither blocks nor heads.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Which format it is of, and which store.
    pub(crate) mark: Bytes,
    /// Who writes.
    pub(crate) writer: Bytes,
    /// Is written to have something to wait for.
    pub(crate) synced: Bytes,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let key = |name: &str| Bytes::from(format!("{prefix}{name}"));
        Self { mark: key("mark"), writer: key("writer"), synced: key("synced") }
    }
}

/// Opens the store.
///
/// # Errors
/// `Unsupported` where the server, or the format, is none that is known; `InvalidArgument` where something else is there;
/// `Denied` where another writes there; those of the server.
pub(crate) async fn open(link: &Link, keys: &Keys, options: &RedisOptions, env: &Env) -> Result<Opened> {
    let at = |error: Error| error.at(options.place());
    let info = ask_info(link).await?;
    if info.is_cluster {
        let why = "it is a cluster, and what this store does in one step has keys in several slots";
        return Err(at(Error::new(ErrorKind::Unsupported, OP).because(why)));
    }
    let writes = options.access != RedisAccess::Look;
    if writes && info.is_replica {
        return Err(at(Error::new(ErrorKind::ReadOnly, OP).because("the server is a replica: name the one it copies")));
    }
    if let Some(why) = info.eviction() {
        if writes && !options.allow_eviction {
            return Err(at(Error::new(ErrorKind::Unsupported, OP).because(why)));
        }
        tracing::warn!(place = options.place(), "blocks may get lost: {why}");
    }
    mark(link, keys, options, env).await.map_err(at)?;
    let durability = info.durability();
    if !writes {
        return Ok(Opened { durability, epoch: 0 });
    }
    if !matches!(durability, RedisDurability::Synced | RedisDurability::Waited) {
        tracing::warn!(place = options.place(), "what this server acknowledges is {durability}");
    }
    let takes_over = options.access == RedisAccess::TakeOver;
    let begin = script::open(&keys.writer, &options.writer, &options.host, takes_over);
    match link.ask(vec![begin]).await?.next("EVAL").map_err(at)? {
        Reply::Number(epoch) => Ok(Opened { durability, epoch }),
        Reply::Array(other) => {
            let text = |reply: Option<&Reply>| match reply {
                Some(Reply::Bulk(text)) => {
                    String::from_utf8_lossy(text).chars().filter(|char| !char.is_control()).take(100).collect()
                }
                _ => String::new(),
            };
            let (id, host) = (text(other.first()), text(other.get(1)));
            let why =
                format!("{host} writes there (writer {id}) and has not ended: end it, or take over if it is gone");
            Err(at(Error::new(ErrorKind::Denied, OP).because(why)))
        }
        _ => Err(at(nonsense("EVAL"))),
    }
}

/// What the server says of itself, as far as it may be asked.
pub(crate) async fn ask_info(link: &Link) -> Result<Info> {
    let config = |name: &str| vec!["CONFIG".into(), "GET".into(), Bytes::copy_from_slice(name.as_bytes())];
    let commands = vec![vec!["INFO".into()], config("appendfsync"), config("maxmemory-policy")];
    let mut replied = link.ask(commands).await?;
    let mut info = match replied.next("INFO") {
        Ok(Reply::Bulk(text)) => Info::parse(&String::from_utf8_lossy(&text)),
        Ok(_) => return Err(nonsense("INFO")),
        Err(error) if error.kind() == ErrorKind::Denied => Info::parse(""),
        Err(error) => return Err(error),
    };
    // Where it is not told it is not known.
    let mut value = || match replied.next("CONFIG GET") {
        Ok(Reply::Array(pair)) => match pair.get(1) {
            Some(Reply::Bulk(value)) => Some(String::from_utf8_lossy(value).into_owned()),
            _ => None,
        },
        _ => None,
    };
    info.syncs = value();
    info.policy = value().or(info.policy);
    Ok(info)
}

/// Finds the mark, or sets it where there is nothing and something is to be written.
async fn mark(link: &Link, keys: &Keys, options: &RedisOptions, env: &Env) -> Result<()> {
    let mut id = [0; 16];
    (env.fill)(&mut id);
    let new = format!("{MARK} {FORMAT} {}", id.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")));
    let get = || vec!["GET".into(), keys.mark.clone()];
    let commands = match options.access {
        RedisAccess::Look => vec![get()],
        _ => vec![vec!["SET".into(), keys.mark.clone(), new.into(), "NX".into()], get()],
    };
    let count = commands.len();
    let mut replied = link.ask(commands).await?;
    if count > 1 {
        replied.next("SET")?;
    }
    let found = match replied.next("GET")? {
        Reply::Bulk(found) => found,
        Reply::Nil => return Err(Error::new(ErrorKind::NotFound, OP).because("there is no store below this prefix")),
        _ => return Err(nonsense("GET")),
    };
    let text = String::from_utf8_lossy(&found).into_owned();
    let mut words = text.split(' ');
    if words.next() != Some(MARK) {
        let why = "what is below this prefix is no store of MuxFS";
        return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
    }
    let format = words.next().unwrap_or_default();
    if format != FORMAT {
        let why = format!("it is of version {format:?}, and this program knows version {FORMAT}");
        return Err(Error::new(ErrorKind::Unsupported, OP).because(why));
    }
    link.expect(found);
    Ok(())
}
