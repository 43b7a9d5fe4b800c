//! A namespace of a 0-db server as a node.
//!
//! In user mode: a shard under its key, and the mark of the node under another, by which an empty namespace is told from
//! one that was lost. Requests go one at a time over each of a few connections ([`connection`]). `FLUSH` is never sent: it
//! erases the namespace. Spec: spec/zstor.md #0-db.

pub(crate) mod connection;
mod values;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Error, ErrorKind, Result,
    block::{BLOCK_LEN_MAX, PROBE_KEY},
};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, mpsc::UnboundedSender},
    time::{Instant, timeout},
};

use self::connection::{Connection, Info, Page, nonsense, refused, unavailable};
pub use self::{
    connection::{Password, ZdbAddress},
    values::ZdbValues,
};
use crate::{
    calls::CALL_TIME_MAX,
    files::lost,
    mark::{Found, Mark, StoreId},
    node::{Look, MARK_KEY, NodeStore, check_key},
    resp::Reply,
    space::DiskRoom,
    store::Access,
};

/// So many requests are under way at a time, each on a connection of its own.
const CONNECTION_COUNT_MAX: usize = 4;
/// A server that could not be reached is tried again after so long, then after twice as long each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// But at least so often, where somebody asks.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A namespace of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZdbPlace {
    /// Where the server is.
    pub address: ZdbAddress,
    /// Which of its namespaces, in user mode.
    pub namespace: String,
    /// What it takes to write there.
    pub password: Option<Password>,
    /// Whether it is made for a new store, private where there is a password; else it has to be there.
    pub is_made: bool,
}

impl fmt::Display for ZdbPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.namespace, self.address)
    }
}

impl Connection {
    async fn mark(&mut self) -> Result<Found> {
        match self.ask_well(&[b"GET", MARK_KEY]).await? {
            Reply::Bulk(text) => Ok(Mark::parse(&text)),
            Reply::Nil => Ok(Found::Nothing),
            _ => Err(nonsense("GET")),
        }
    }
}

impl Info {
    /// What there is room for, as that of a disk of its own where it has a limit.
    fn room(&self, place: &ZdbPlace) -> DiskRoom {
        let of = |text: String| 1 << 63 | u64::from(crc32c::crc32c(text.as_bytes()));
        if self.limit > 0 {
            let free = self.limit.saturating_sub(self.data_len).min(self.disk_free);
            return DiskRoom { disk: of(place.to_string()), total: self.limit, free };
        }
        let total = self.disk_free.saturating_add(self.data_len);
        DiskRoom { disk: of(place.address.to_string()), total, free: self.disk_free }
    }
}

/// A node that is a namespace of a 0-db server.
pub(crate) struct Zdb {
    name: String,
    place: ZdbPlace,
    described: String,
    store: StoreId,
    access: Access,
    opened: UnboundedSender<String>,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
    state: Mutex<State>,
    /// What it takes to write there; it may change.
    password: Mutex<Option<Password>>,
    /// Whoever holds it opens it.
    opening: AsyncMutex<()>,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Why it is not the node, or not known to be.
    lost: Option<String>,
    /// Why it could not be reached the last time, when it is tried again, and after how long the next time.
    failed: Option<(String, Instant, Duration)>,
    info: Info,
}

impl fmt::Debug for Zdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zdb({})", self.place)
    }
}

impl Zdb {
    pub(crate) fn new(
        name: &str,
        place: &ZdbPlace,
        (store, access): (StoreId, Access),
        opened: UnboundedSender<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            password: Mutex::new(place.password.clone()),
            place: place.clone(),
            described: place.to_string(),
            store,
            access,
            opened,
            permits: Semaphore::new(CONNECTION_COUNT_MAX),
            idle: Mutex::default(),
            state: Mutex::new(State { lost: Some("it was not looked for yet".into()), ..State::default() }),
            opening: AsyncMutex::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn password(&self) -> Option<Password> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expected(&self) -> Mark {
        Mark::new(self.store, &self.name)
    }

    /// A new connection to the namespace, unless it could not be reached a moment ago.
    async fn connect(&self) -> Result<Connection> {
        if let Some((why, again_at, _)) = &self.state().failed
            && Instant::now() < *again_at
        {
            return Err(unavailable(why.clone()));
        }
        let connected = async {
            let mut connection = Connection::to(&self.place.address).await?;
            connection.select(&self.place.namespace, self.password().as_ref()).await?;
            Ok(connection)
        };
        let connected = timeout(CALL_TIME_MAX, connected).await.unwrap_or_else(|_elapsed| Err(no_answer()));
        let mut state = self.state();
        match connected {
            Ok(connection) => {
                state.failed = None;
                Ok(connection)
            }
            Err(error) => {
                let wait = state.failed.as_ref().map_or(BACKOFF_MIN, |(_, _, wait)| (*wait * 2).min(BACKOFF_MAX));
                state.failed = Some((format!("{error:#}"), Instant::now() + wait, wait));
                Err(error)
            }
        }
    }

    /// A new connection to what is the node: a namespace that was emptied meanwhile is not.
    async fn connect_to_node(&self) -> Result<Connection> {
        let mut connection = self.connect().await?;
        let look = self.judge(connection.mark().await?);
        if look == Look::Marked {
            return Ok(connection);
        }
        let why = self.refusal(&look).unwrap_or_else(|| "it was emptied".into());
        self.lose(&why);
        Err(lost(&why))
    }

    fn judge(&self, found: Found) -> Look {
        Look::of(found, &self.expected())
    }

    /// Carries out a request to the node within the limit of a call.
    async fn ask(&self, parts: &[&[u8]]) -> Result<Reply> {
        if let Some(why) = &self.state().lost {
            return Err(lost(why));
        }
        let ask = async {
            let permit = self.permits.acquire().await;
            let _permit = permit.map_err(|closed| Error::new(ErrorKind::Internal, "zstor.zdb").because(closed))?;
            let idle = self.idle().pop();
            if let Some(mut connection) = idle {
                match connection.ask(parts).await {
                    Ok(reply) => return Ok(self.answered(connection, reply)),
                    // The server may have ended the connection long ago. Each request can be made twice.
                    Err(error) if error.kind() == ErrorKind::Unavailable => self.idle().clear(),
                    Err(error) => return Err(error),
                }
            }
            let mut connection = self.connect_to_node().await?;
            let reply = connection.ask(parts).await?;
            Ok(self.answered(connection, reply))
        };
        match timeout(CALL_TIME_MAX, ask).await {
            Ok(Ok(Reply::Error(text))) => Err(refused(&text)),
            Ok(replied) => replied,
            Err(_elapsed) => Err(no_answer()),
        }
    }

    fn answered(&self, connection: Connection, reply: Reply) -> Reply {
        self.state().failed = None;
        // One whose namespace is gone is ended by the server.
        if !matches!(&reply, Reply::Error(text) if text.contains("not available anymore")) {
            self.idle().push(connection);
        }
        reply
    }

    async fn number(&self, parts: &[&[u8]]) -> Result<Option<i64>> {
        match self.ask(parts).await? {
            Reply::Number(number) => Ok(Some(number)),
            Reply::Nil => Ok(None),
            _ => Err(nonsense("a question for a number")),
        }
    }

    async fn probe(&self) -> Result<()> {
        self.state().failed = None;
        if self.state().lost.is_none() || self.is_closed.load(Ordering::Relaxed) {
            return self.number(&[b"EXISTS", MARK_KEY]).await.map(drop);
        }
        self.come_back().await
    }

    fn check_access(&self) -> Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Look => Err(Error::new(ErrorKind::ReadOnly, "zstor.zdb").because("it was opened to be looked at")),
        }
    }

    async fn refresh(&self) -> Result<()> {
        let namespace = self.place.namespace.as_bytes();
        let Reply::Bulk(text) = self.ask(&[b"NSINFO", namespace]).await? else { return Err(nonsense("NSINFO")) };
        self.state().info = Info::parse(&String::from_utf8_lossy(&text));
        Ok(())
    }
}

fn no_answer() -> Error {
    unavailable(format!("no answer within {CALL_TIME_MAX:?}"))
}

#[async_trait]
impl NodeStore for Zdb {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &str {
        &self.described
    }

    async fn look(&self) -> (Look, Option<(u64, u64)>) {
        let look = async {
            let mut connection = match self.connect().await {
                Err(error) if format!("{error:#}").contains("Namespace not found") => return Ok(Look::Unmarked),
                connected => connected?,
            };
            if connection.info(&self.place.namespace).await?.is_sequential {
                return Ok(Look::Lost("its namespace is in sequential mode: a node is in user mode".into()));
            }
            Ok::<_, Error>(self.judge(connection.mark().await?))
        };
        match timeout(CALL_TIME_MAX, look).await {
            Ok(Ok(look)) => (look, None),
            Ok(Err(error)) => (Look::Lost(format!("{error:#}")), None),
            Err(_elapsed) => (Look::Lost(format!("{:#}", no_answer())), None),
        }
    }

    fn refusal(&self, look: &Look) -> Option<String> {
        let unmarked = || {
            let namespace = &self.place.namespace;
            format!(
                "the namespace {namespace} has no mark: bring its data back; or, to begin it anew and empty, make it and say in it: SET muxfs-node \"\""
            )
        };
        look.refusal(self.access, unmarked)
    }

    fn set_password(&self, password: Option<Password>) {
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = password;
        // It may have been refused for the other.
        self.state().failed = None;
    }

    async fn take(&self) -> Result<()> {
        let take = async {
            self.state().failed = None;
            let (mut connection, password) = (Connection::to(&self.place.address).await?, self.password());
            match connection.select(&self.place.namespace, password.as_ref()).await {
                Err(error) if self.place.is_made && format!("{error:#}").contains("Namespace not found") => {
                    let namespace = self.place.namespace.as_bytes();
                    connection.ask_well(&[b"NSNEW", namespace]).await?;
                    if let Some(Password(password)) = &password {
                        connection.ask_well(&[b"NSSET", namespace, b"password", password.as_bytes()]).await?;
                        connection.ask_well(&[b"NSSET", namespace, b"public", b"0"]).await?;
                    }
                    connection.select(&self.place.namespace, password.as_ref()).await?;
                }
                selected => selected?,
            }
            let found = connection.mark().await?;
            match found {
                Found::Nothing | Found::Empty => {}
                Found::Mark(found) if found == self.expected() => return Ok(()),
                Found::Mark(_) | Found::Other(_) => {
                    let why = "another node has this namespace: each has one of its own";
                    return Err(Error::new(ErrorKind::Exists, "zstor.take_node").because(why));
                }
            }
            connection.ask_well(&[b"SET", MARK_KEY, self.expected().to_text().as_bytes()]).await.map(drop)
        };
        let taken = timeout(CALL_TIME_MAX, take).await.unwrap_or_else(|_elapsed| Err(no_answer()));
        taken.map_err(|error| error.at(&self.place))
    }

    async fn open(&self) -> Result<()> {
        let Ok(_turn) = self.opening.try_lock() else { return Err(lost("it is being opened")) };
        let opened = async {
            let mut connection = self.connect_to_node().await?;
            let info = connection.info(&self.place.namespace).await?;
            self.idle().push(connection);
            Ok::<_, Error>(info)
        };
        match timeout(CALL_TIME_MAX, opened).await.unwrap_or_else(|_elapsed| Err(no_answer())) {
            Ok(info) => {
                {
                    let mut state = self.state();
                    state.lost = None;
                    state.info = info;
                }
                // Nobody may listen any more.
                self.opened.send(self.name.clone()).ok();
                Ok(())
            }
            Err(error) => {
                self.lose(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    fn lose(&self, why: &str) {
        let before = self.state().lost.replace(why.to_owned());
        self.idle().clear();
        if before.is_none() {
            tracing::error!(node = self.name, place = %self.place, "a node is lost until it is back: {why}");
        }
    }

    fn lost(&self) -> Option<String> {
        let state = self.state();
        state.lost.clone().or_else(|| state.failed.as_ref().map(|(why, ..)| why.clone()))
    }

    fn is_empty(&self) -> bool {
        // The mark is one.
        self.lost().is_none() && self.state().info.entries <= 1
    }

    async fn len(&self) -> Result<u64> {
        if self.lost().is_some() {
            return Ok(0);
        }
        self.refresh().await?;
        let state = self.state();
        Ok(state.info.data_len + state.info.index_len)
    }

    fn ask_room(self: Arc<Self>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { self.refresh().await.ok() }));
        }
    }

    /// What it told last: a server is not waited for on the thread that asks.
    fn room(&self, _deadline: std::time::Instant) -> Option<DiskRoom> {
        let state = self.state();
        Some(state.info.room(&self.place)).filter(|_| state.lost.is_none())
    }

    async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl BlockStore for Zdb {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        check_key(key)?;
        match self.ask(&[b"GET", key.as_bytes()]).await? {
            Reply::Bulk(block) => Ok(Some(block)),
            Reply::Nil => Ok(None),
            _ => Err(nonsense("GET")),
        }
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        check_key(key)?;
        self.check_access()?;
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "zstor.zdb"));
        }
        match self.ask(&[b"SET", key.as_bytes(), &block]).await? {
            Reply::Bulk(stored) if stored == key.as_bytes() => Ok(()),
            // It has the same already.
            Reply::Nil => Ok(()),
            _ => Err(nonsense("SET")),
        }
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        check_key(key)?;
        self.check_access()?;
        match self.ask(&[b"DEL", key.as_bytes()]).await {
            Ok(Reply::Simple(_)) => Ok(()),
            Ok(_) => Err(nonsense("DEL")),
            Err(error) if format!("{error:#}").contains("Key not found") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        if key.as_bytes() == PROBE_KEY {
            return self.probe().await.map(|()| false);
        }
        check_key(key)?;
        Ok(self.number(&[b"EXISTS", key.as_bytes()]).await? == Some(1))
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        check_key(key)?;
        let len = self.number(&[b"LENGTH", key.as_bytes()]).await?;
        len.map(|len| u64::try_from(len).map_err(|_| nonsense("LENGTH"))).transpose()
    }

    /// A server has what it acknowledged, and makes it durable when it likes: what is asked here is whether it is still the
    /// node.
    async fn flush(&self) -> Result<()> {
        let Reply::Bulk(text) = self.ask(&[b"GET", MARK_KEY]).await? else {
            let why = "its mark is gone: the namespace was emptied";
            self.lose(why);
            return Err(lost(why));
        };
        match self.judge(Mark::parse(&text)) {
            Look::Marked => Ok(()),
            look => {
                let why = self.refusal(&look).unwrap_or_else(|| "it was emptied".into());
                self.lose(&why);
                Err(lost(&why))
            }
        }
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        struct Listing {
            keys: VecDeque<BlockKey>,
            cursor: Option<Bytes>,
            is_last: bool,
            listed_count: i64,
            count_at_first: Option<i64>,
        }
        let listing =
            Listing { keys: VecDeque::new(), cursor: None, is_last: false, listed_count: 0, count_at_first: None };
        stream::try_unfold(listing, move |mut listing| async move {
            if listing.count_at_first.is_none() {
                listing.count_at_first = self.number(&[b"DBSIZE"]).await?;
            }
            loop {
                if let Some(key) = listing.keys.pop_front() {
                    return Ok(Some((key, listing)));
                }
                if listing.is_last {
                    let count = self.number(&[b"DBSIZE"]).await?.min(listing.count_at_first).unwrap_or(0);
                    if listing.listed_count < count {
                        // It looks for keys for 2 ms at a time, and says that there are no more when it found none.
                        let why = format!("it listed {} keys of at least {count}", listing.listed_count);
                        return Err(unavailable(why));
                    }
                    return Ok(None);
                }
                let cursor = listing.cursor.take();
                match Page::of(self.ask(&Page::request(cursor.as_ref())).await)? {
                    Some(page) => {
                        listing.is_last = page.keys.is_empty();
                        listing.cursor = Some(page.cursor);
                        for key in page.keys {
                            listing.listed_count += 1;
                            if key != MARK_KEY {
                                listing.keys.push_back(BlockKey::new(&key)?);
                            }
                        }
                    }
                    None => listing.is_last = true,
                }
            }
        })
        .boxed()
    }
}

#[cfg(test)]
#[path = "../tests/double/mod.rs"]
pub(crate) mod double;

#[cfg(test)]
mod tests {
    use muxfs::{block::BLOCK_KEY_LEN_MAX, testing::block_store::Subject};
    use tokio::sync::mpsc::unbounded_channel;

    use super::{
        double::{Double, Fault},
        *,
    };

    async fn node(server: &Double) -> Arc<Zdb> {
        let address = ZdbAddress::Tcp(server.address);
        let place = ZdbPlace { address, namespace: "n".into(), password: None, is_made: true };
        let zdb = Zdb::new("a", &place, (StoreId([1; 16]), Access::Write), unbounded_channel().0);
        zdb.take().await.expect("taken");
        zdb.open().await.expect("opened");
        zdb
    }

    async fn subject() -> Subject {
        let server = Arc::new(Double::start().await);
        let subject = Subject::reopening(move || {
            let server = server.clone();
            Box::pin(async move { node(&server).await as Arc<dyn BlockStore> })
        });
        subject.await.with_limits(BLOCK_LEN_MAX, BLOCK_KEY_LEN_MAX)
    }

    muxfs::block_store_laws!(of_a_namespace, subject());

    fn key(n: u8) -> BlockKey {
        BlockKey::new(&[n; 255]).expect("a key")
    }

    #[tokio::test]
    async fn a_server_that_went_and_came_back_is_used_again() {
        let mut server = Double::start().await;
        let zdb = node(&server).await;
        zdb.put(&key(1), "block".into()).await.expect("put");
        server.stop();
        assert_eq!(zdb.get(&key(1)).await.expect_err("away").kind(), ErrorKind::Unavailable);
        assert!(zdb.lost().is_some());
        server.restart().await;
        zdb.has(&BlockKey::new(PROBE_KEY).expect("a key")).await.expect("a probe waits for no time to pass");
        assert_eq!(zdb.get(&key(1)).await.expect("read"), Some("block".into()));
        assert_eq!(zdb.lost(), None);
    }

    #[tokio::test]
    async fn what_a_server_makes_up_is_an_error() {
        let server = Double::start().await;
        let zdb = node(&server).await;
        zdb.put(&key(1), "block".into()).await.expect("put");
        for (fault, kind) in [(Fault::Garbage, ErrorKind::Corrupt), (Fault::Cut, ErrorKind::Unavailable)] {
            server.set_fault(fault);
            assert_eq!(zdb.get(&key(1)).await.expect_err("made up").kind(), kind);
            server.set_fault(Fault::None);
            zdb.probe().await.expect("it is there");
            assert_eq!(zdb.get(&key(1)).await.expect("read"), Some("block".into()));
        }
    }

    /// While it hangs the clock goes on to what is waited for.
    #[tokio::test]
    async fn a_server_that_hangs_is_waited_for_no_longer_than_a_call() {
        let server = Double::start().await;
        let zdb = node(&server).await;
        server.set_fault(Fault::Hang);
        tokio::time::pause();
        let start = Instant::now();
        assert_eq!(zdb.get(&key(1)).await.expect_err("hangs").kind(), ErrorKind::Unavailable);
        assert!(start.elapsed() < CALL_TIME_MAX * 2);
        tokio::time::resume();
        server.set_fault(Fault::None);
        assert_eq!(zdb.get(&key(1)).await.expect("read"), None);
    }

    #[tokio::test]
    async fn the_mark_is_no_block() {
        let server = Double::start().await;
        let zdb = node(&server).await;
        let mark = BlockKey::new(MARK_KEY).expect("a key");
        assert_eq!(zdb.put(&mark, "x".into()).await.expect_err("taken").kind(), ErrorKind::InvalidArgument);
        assert_eq!(zdb.delete(&mark).await.expect_err("taken").kind(), ErrorKind::InvalidArgument);
        assert!(zdb.keys().next().await.is_none());
        assert_eq!(format!("{:?}", Password::new("secret")), "Password(..)");
    }

    #[test]
    fn what_a_server_tells_of_a_namespace() {
        let text = "# namespace\nname: t1\nentries: 3\nmode: sequential\ndata_size_bytes: 10\ndata_limits_bytes: 100\nindex_size_bytes: x\ndata_disk_freespace_bytes: 50\n";
        let info = Info::parse(text);
        assert_eq!((info.entries, info.data_len, info.index_len, info.is_sequential), (3, 10, 0, true));
        let place = ZdbPlace {
            address: "127.0.0.1:9900".parse().expect("an address"),
            namespace: "n".into(),
            password: None,
            is_made: false,
        };
        let room = info.room(&place);
        assert_eq!((room.total, room.free), (100, 50));
        assert_eq!("/run/zdb.sock".parse(), Ok(ZdbAddress::Unix("/run/zdb.sock".into())));
        assert!("localhost:9900".parse::<ZdbAddress>().is_err());
    }
}
