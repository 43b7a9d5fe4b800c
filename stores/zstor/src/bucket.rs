//! A bucket of S3 as a node: shards in packs there, the mark of the node beside them.
//!
//! Whose fence the bucket has is the one machine that writes there; who only looks follows. Where another machine has taken over the
//! node is lost for this one. Spec: spec/zstor.md #buckets.

use std::{
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use muxfs::{BlockKey, BlockStore, Env, Error, ErrorKind, Name, Result, block::PROBE_KEY, heads::Heads as _};
use muxfs_s3::{Bucket, S3Access, S3Credentials, S3Limits, S3Options, S3Place, S3Store};
use tokio::sync::{Mutex as AsyncMutex, mpsc::UnboundedSender};

use crate::{
    dir::How,
    files::lost,
    mark::{Found, Mark, StoreId},
    node::{Look, MARK_KEY, NodeStore, check_key},
    space::DiskRoom,
    store::Access,
};

/// A call of a bucket is over in so long, that others go on without it.
const CALL_TIME_MAX: Duration = Duration::from_secs(8);
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(4);
/// A bucket tells no end of its room, in bytes.
const ROOM: u64 = 1 << 50;

/// A bucket, or what is below a prefix of one, and who asks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    /// Where it is.
    pub place: S3Place,
    /// Who we are there; nobody is asked without.
    pub me: Option<S3Credentials>,
    /// As [`S3Options::writer`].
    pub writer: String,
    /// As [`S3Options::host`].
    pub host: String,
    /// As [`S3Options::kept`].
    pub kept: Option<PathBuf>,
    /// Whether somebody said that whoever wrote there before is gone: it is thrown out, once.
    pub takes_over: bool,
}

impl fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if self.place.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.place.prefix) }
    }
}

/// A node that is a bucket.
pub(crate) struct BucketNode {
    name: String,
    place: BucketPlace,
    described: String,
    store: StoreId,
    access: Access,
    env: Env,
    opened: UnboundedSender<String>,
    state: Mutex<State>,
    /// Whoever holds it opens it.
    opening: AsyncMutex<()>,
    /// Whether the next opening throws out who writes there. What somebody said of the writer of then is said of no later one.
    takes_over: AtomicBool,
    is_closed: AtomicBool,
}

enum State {
    Open(S3Store),
    Lost(String),
}

impl fmt::Debug for BucketNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketNode({})", self.place)
    }
}

impl BucketNode {
    pub(crate) fn new(name: &str, place: &BucketPlace, how: &How) -> Arc<Self> {
        Self::of(name, place, (how.store, how.access), &how.env, how.opened.clone())
    }

    pub(crate) fn of(
        name: &str,
        place: &BucketPlace,
        (store, access): (StoreId, Access),
        env: &Env,
        opened: UnboundedSender<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            described: place.to_string(),
            place: place.clone(),
            store,
            access,
            env: env.clone(),
            opened,
            state: Mutex::new(State::Lost("it was not looked for yet".into())),
            opening: AsyncMutex::default(),
            takes_over: AtomicBool::new(place.takes_over),
            is_closed: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expected(&self) -> Mark {
        Mark::new(self.store, &self.name)
    }

    fn bucket(&self) -> Result<Arc<Bucket>> {
        let nobody = || Error::new(ErrorKind::InvalidArgument, "zstor.bucket").because("nobody says who we are there");
        let me = self.place.me.as_ref().ok_or_else(nobody)?;
        let limits = S3Limits { attempt_max: ATTEMPT_TIME_MAX, call_max: CALL_TIME_MAX, ..S3Limits::default() };
        self.place.place.open(me, limits, &self.env).map(Arc::new)
    }

    async fn open_store(&self, access: S3Access) -> Result<S3Store> {
        let BucketPlace { writer, host, kept, .. } = self.place.clone();
        let options = S3Options { access, host, kept, ..S3Options::new(writer) };
        let store = S3Store::open(self.bucket()?, options).await?;
        if access == S3Access::TakeOver {
            self.takes_over.store(false, Ordering::Relaxed);
        }
        Ok(store)
    }

    /// To write there, or to look.
    fn access(&self) -> S3Access {
        match self.access {
            Access::Look => S3Access::Follow,
            Access::Write if self.takes_over.load(Ordering::Relaxed) => S3Access::TakeOver,
            Access::Write => S3Access::Write,
        }
    }

    /// What is open.
    fn open_now(&self) -> Result<S3Store> {
        match &*self.state() {
            State::Open(store) => Ok(store.clone()),
            State::Lost(why) => Err(lost(why)),
        }
    }

    fn judge(&self, found: Found) -> Look {
        Look::of(found, &self.expected())
    }

    /// Gives on what a call said; one that was passed over is lost.
    fn told<T>(&self, told: Result<T>) -> Result<T> {
        if let Err(error) = &told
            && error.kind() == ErrorKind::Denied
            && error.op() == "s3.write"
        {
            self.lose(&format!("{error:#}"));
        }
        told
    }

    /// Whether it answers, and this is still who writes there.
    async fn probe(&self) -> Result<()> {
        let open = self.open_now();
        if let Ok(store) = open {
            let asked = async {
                store.flush().await?;
                store.load(&Name::new(b"probe")?).await.map(drop)
            };
            return self.told(asked.await);
        }
        if self.is_closed.load(Ordering::Relaxed) {
            return open.map(drop);
        }
        self.come_back().await
    }

    fn check_access(&self) -> Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Look => {
                Err(Error::new(ErrorKind::ReadOnly, "zstor.bucket").because("it was opened to be looked at"))
            }
        }
    }

    /// Its store, for who writes a shard.
    fn to_write(&self, key: &BlockKey) -> Result<S3Store> {
        check_key(key)?;
        self.check_access()?;
        self.open_now()
    }
}

fn mark_key() -> Result<BlockKey> {
    BlockKey::new(MARK_KEY)
}

async fn mark_in(store: &S3Store) -> Result<Found> {
    Ok(store.get(&mark_key()?).await?.map_or(Found::Nothing, |text| Mark::parse(&text)))
}

#[async_trait]
impl NodeStore for BucketNode {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &str {
        &self.described
    }

    async fn look(&self) -> (Look, Option<(u64, u64)>) {
        let look = async {
            let store = match self.open_now() {
                Ok(store) => store,
                Err(_) => self.open_store(S3Access::Follow).await?,
            };
            Ok::<_, Error>(self.judge(mark_in(&store).await?))
        };
        match look.await {
            Ok(look) => (look, None),
            // The bucket is there, and nothing was ever put there.
            Err(error) if error.kind() == ErrorKind::NotFound && error.op() == "s3.open" => (Look::Unmarked, None),
            Err(error) => (Look::Lost(format!("{error:#}")), None),
        }
    }

    fn refusal(&self, look: &Look) -> Option<String> {
        let unmarked = || "it was emptied: bring its objects back; or name it anew, under another name".into();
        look.refusal(self.access, unmarked)
    }

    async fn take(&self) -> Result<()> {
        let taken = async {
            let store = self.open_store(self.access()).await?;
            let taken = match mark_in(&store).await? {
                Found::Nothing | Found::Empty => {
                    let text = Bytes::from(self.expected().to_text());
                    store.put(&mark_key()?, text).await
                }
                Found::Mark(found) if found == self.expected() => Ok(()),
                Found::Mark(_) | Found::Other(_) => {
                    let why = "another node is there: each has a bucket, or a prefix in one, of its own";
                    Err(Error::new(ErrorKind::Exists, "zstor.take_node").because(why))
                }
            };
            // It is opened next.
            taken.and(store.close().await)
        };
        taken.await.map_err(|error| error.at(&self.place))
    }

    async fn open(&self) -> Result<()> {
        let Ok(_turn) = self.opening.try_lock() else { return Err(lost("it is being opened")) };
        let opened = async {
            let store = self.open_store(self.access()).await?;
            match self.judge(mark_in(&store).await?) {
                Look::Marked => Ok(store),
                look => Err(lost(&self.refusal(&look).unwrap_or_else(|| "it was emptied".into()))),
            }
        };
        match opened.await {
            Ok(store) => {
                *self.state() = State::Open(store);
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
        let before = std::mem::replace(&mut *self.state(), State::Lost(why.to_owned()));
        if matches!(before, State::Open(_)) {
            tracing::error!(node = self.name, place = %self.place, "a node is lost until it is back: {why}");
        }
    }

    fn lost(&self) -> Option<String> {
        match &*self.state() {
            State::Open(_) => None,
            State::Lost(why) => Some(why.clone()),
        }
    }

    fn is_empty(&self) -> bool {
        // The mark is one.
        self.open_now().is_ok_and(|store| store.usage().block_count <= 1)
    }

    async fn len(&self) -> Result<u64> {
        Ok(self.open_now().map_or(0, |store| store.usage().live_len + store.usage().dead_len))
    }

    fn ask_room(self: Arc<Self>) {}

    fn room(&self, _deadline: Instant) -> Option<DiskRoom> {
        let usage = self.open_now().ok()?.usage();
        let free = ROOM.saturating_sub(usage.live_len + usage.dead_len);
        let disk = 1 << 63 | u64::from(crc32c::crc32c(self.described.as_bytes()));
        Some(DiskRoom { disk, total: ROOM, free })
    }

    fn packs(&self) -> Option<S3Store> {
        self.open_now().ok()
    }

    async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        let Ok(store) = self.open_now() else { return Ok(()) };
        match store.close().await {
            // It was said when it was found, and others have what it lacks.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied) => {
                tracing::warn!(node = self.name, cause = format!("{error:#}"), "a bucket was not told of the end");
                Ok(())
            }
            closed => closed,
        }
    }
}

#[async_trait]
impl BlockStore for BucketNode {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        check_key(key)?;
        self.told(self.open_now()?.get(key).await)
    }

    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        check_key(key)?;
        self.told(self.open_now()?.get_range(key, range).await)
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.told(self.to_write(key)?.put(key, block).await)
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.told(self.to_write(key)?.delete(key).await)
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        if key.as_bytes() == PROBE_KEY {
            return self.probe().await.map(|()| false);
        }
        check_key(key)?;
        self.told(self.open_now()?.has(key).await)
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        check_key(key)?;
        self.told(self.open_now()?.block_len(key).await)
    }

    async fn flush(&self) -> Result<()> {
        self.told(self.open_now()?.flush().await)
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let listed = async {
            let store = self.open_now()?;
            // All of them are in memory.
            let keys: Vec<BlockKey> = store.keys().try_collect().await?;
            Ok::<_, Error>(futures_util::stream::iter(
                keys.into_iter().filter(|key| key.as_bytes() != MARK_KEY).map(Ok),
            ))
        };
        futures_util::stream::once(listed).try_flatten().boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use muxfs::{
        testing::wire::working_tree,
        vfs::{NewNode, SetAttr},
    };
    use muxfs_s3_serve::{Key, Keys, Options, Server, serve};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    const BUCKET: &str = "bucket";

    fn me() -> S3Credentials {
        S3Credentials { access_key: "mine".into(), secret_key: "the-secret-of-mine".into(), token: None }
    }

    /// A server of S3 with an empty bucket.
    async fn server() -> Server {
        let (vfs, ()) = working_tree().await;
        let bucket = Name::new(BUCKET.as_bytes()).expect("a name");
        vfs.create(vfs.root(), &bucket, NewNode::Dir, SetAttr::default()).await.expect("made");
        let S3Credentials { access_key: id, secret_key: secret, .. } = me();
        let keys = Keys::new(vec![Key { id, secret, read_only: false, allow: Vec::new() }]).expect("keys");
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), keys, ..Options::default() };
        serve(vfs, options).await.expect("listens")
    }

    /// The node, as a machine has it.
    fn machine(addr: SocketAddr, writer: &str, takes_over: bool) -> Arc<BucketNode> {
        let place = S3Place {
            endpoint: Some(format!("http://{addr}")),
            bucket: BUCKET.into(),
            prefix: String::new(),
            region: None,
            path_style: None,
        };
        let (writer, host) = (writer.to_owned(), writer.to_owned());
        let place = BucketPlace { place, me: Some(me()), writer, host, kept: None, takes_over };
        let (opened, _) = unbounded_channel();
        BucketNode::of("a", &place, (StoreId([1; 16]), Access::Write), &muxfs::testing::env(), opened)
    }

    fn key(n: u8) -> BlockKey {
        BlockKey::new(&[n; 34]).expect("a key")
    }

    /// Somebody said once that the writer of then was gone. As long as the process ran every later one was thrown out, too, by
    /// the next probe, so that two machines threw out each other for ever.
    #[tokio::test]
    async fn who_was_told_to_take_over_does_it_once() {
        let server = server().await;
        let first = machine(server.local_addr(), "first", false);
        first.take().await.expect("taken");
        first.open().await.expect("opened");
        let second = machine(server.local_addr(), "second", true);
        second.open().await.expect("somebody said so");
        second.probe().await.expect("it writes");
        let third = machine(server.local_addr(), "third", true);
        third.open().await.expect("somebody said so");
        third.put(&key(1), "block".into()).await.expect("put");
        third.flush().await.expect("flushed");
        second.put(&key(2), "block".into()).await.expect("it does not know yet");
        let passed_over = second.flush().await.expect_err("it was passed over");
        assert_eq!(passed_over.kind(), ErrorKind::Denied, "{passed_over:#}");
        for _ in 0..3 {
            second.probe().await.expect_err("another writes there");
            assert!(second.lost().is_some_and(|why| why.contains("third")), "{:?}", second.lost());
            third.probe().await.expect("nobody threw it out");
        }
        third.close().await.expect("closed");
        second.probe().await.expect("the third has ended");
        assert_eq!(second.get(&key(1)).await.expect("read"), Some("block".into()));
        server.shutdown().await;
    }

    /// What is away is taken over when it is there.
    #[tokio::test]
    async fn who_was_told_to_take_over_waits_for_what_is_away() {
        let server = server().await;
        let first = machine(server.local_addr(), "first", false);
        first.take().await.expect("taken");
        first.open().await.expect("opened");
        let away = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("an address");
        let nowhere = machine(away, "second", true);
        nowhere.open().await.expect_err("nobody is there");
        assert!(matches!(nowhere.access(), S3Access::TakeOver));
        server.shutdown().await;
    }
}
