//! The way to the server: a few connections, each of which takes all that waits and sends it in one go.
//!
//! Whatever is asked may be asked twice: a connection that the server ended is replaced, and what it did not answer is sent
//! again, once. While the server cannot be reached, it is tried again after longer and longer times, and whoever asks
//! meanwhile is told at once. No call takes longer than its time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use muxfs_zstor::resp::Reply;
use tokio::{
    sync::{
        Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::{Instant, timeout},
};

use crate::{
    address::RedisOptions,
    connection::{Command, Connection, nonsense, refused, unavailable},
    info::Info,
};

/// So many connections.
const CONNECTION_COUNT: usize = 4;
/// No connection is sent more requests, or bytes, in one go; but one request goes whatever its length is.
const BATCH_COUNT_MAX: usize = 64;
const BATCH_LEN_MAX: usize = 1 << 20;
/// What waits to be sent takes no more memory, in KiB.
const ROOM_KIB: u32 = 32 << 10;
/// Of a request whose reply may be a block so much is reckoned, in KiB.
const REPLY_KIB: u32 = 1 << 10;
/// A server that could not be reached is tried again after so long, then after twice as long each time, but at least so often.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What somebody asks: requests that are sent one behind the other on one connection.
struct Ask {
    commands: Vec<Command>,
    len: usize,
    reply: oneshot::Sender<Result<Replied>>,
    _room: OwnedSemaphorePermit,
}

/// What the server said to each, refusals included.
#[derive(Debug)]
pub(crate) struct Replied {
    pub(crate) replies: VecDeque<Reply>,
    /// Which start of the server that was.
    pub(crate) generation: u64,
}

impl Replied {
    /// The next one, which is not to be a refusal.
    pub(crate) fn next(&mut self, what: &str) -> Result<Reply> {
        match self.replies.pop_front() {
            Some(Reply::Error(text)) => Err(refused(&text)),
            Some(reply) => Ok(reply),
            None => Err(nonsense(what)),
        }
    }
}

/// The way to a server. When it is dropped its connections end.
#[derive(Debug)]
pub(crate) struct Link {
    asks: UnboundedSender<Ask>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ask({} bytes)", self.len)
    }
}

#[derive(Debug)]
struct Shared {
    options: RedisOptions,
    /// The key of the mark, and what it has to say once that is known.
    mark: Bytes,
    expected: Mutex<Option<Bytes>>,
    state: Mutex<State>,
    /// How often the server was found to have begun anew.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Why it could not be reached the last time, when it is tried again, and after how long the next time.
    failed: Option<(ErrorKind, String, Instant, Duration)>,
    run: Option<String>,
}

impl Link {
    /// To the server of `options`; nothing is sent yet. The database is that of the store where `mark` is what it is expected
    /// to be.
    pub(crate) fn new(options: &RedisOptions, mark: Bytes) -> Self {
        let (asks, asked) = unbounded_channel();
        let asked = Arc::new(AsyncMutex::new(asked));
        let shared = Arc::new(Shared {
            options: options.clone(),
            mark,
            expected: Mutex::default(),
            state: Mutex::default(),
            generation: AtomicU64::new(0),
        });
        for _ in 0..CONNECTION_COUNT {
            // It ends when nobody can ask it any more.
            drop(tokio::spawn(work(Arc::clone(&shared), Arc::clone(&asked))));
        }
        Self { asks, room: Arc::new(Semaphore::new(ROOM_KIB as usize)), shared }
    }

    /// From here on the mark has to be this: a database that lacks it was emptied, or is another.
    pub(crate) fn expect(&self, mark: Bytes) {
        *self.shared.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Asks, and gives what was replied to each request.
    ///
    /// # Errors
    /// `Unavailable` where there was no reply in time; `Denied` where the password is wrong; `Corrupt` where what came is no reply.
    pub(crate) async fn ask(&self, commands: Vec<Command>) -> Result<Replied> {
        self.ask_with(commands, 0).await
    }

    /// The same where the reply may be a block.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn ask_block(&self, commands: Vec<Command>) -> Result<Replied> {
        self.ask_with(commands, REPLY_KIB).await
    }

    async fn ask_with(&self, commands: Vec<Command>, reply_kib: u32) -> Result<Replied> {
        let len = commands.iter().flatten().map(|part| part.len() + 16).sum::<usize>();
        let limit = self.shared.limit(len) * 2;
        let asked = async {
            let kib = u32::try_from(len / 1024 + 1).unwrap_or(u32::MAX).max(reply_kib).min(ROOM_KIB);
            let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
            let room = room.map_err(|closed| Error::new(ErrorKind::Internal, "redis.call").because(closed))?;
            let (reply, replied) = oneshot::channel();
            let ask = Ask { commands, len, reply, _room: room };
            self.asks.send(ask).map_err(|_gone| unavailable("the store is closed"))?;
            replied.await.map_err(|_gone| unavailable("the store is closed"))?
        };
        let replied = match timeout(limit, asked).await {
            Ok(replied) => replied,
            Err(_elapsed) => Err(no_answer(limit)),
        };
        replied.map_err(|error| error.at(self.shared.options.place()))
    }
}

fn no_answer(limit: Duration) -> Error {
    unavailable(format!("no answer within {limit:?}"))
}

/// Takes what waits, again and again, over one connection at a time.
async fn work(shared: Arc<Shared>, asked: Arc<AsyncMutex<UnboundedReceiver<Ask>>>) {
    let mut connection = None;
    loop {
        let mut batch = VecDeque::new();
        {
            let mut asked = asked.lock().await;
            let Some(first) = asked.recv().await else { return };
            let mut len = first.len;
            batch.push_back(first);
            while batch.len() < BATCH_COUNT_MAX && len < BATCH_LEN_MAX {
                let Ok(next) = asked.try_recv() else { break };
                len += next.len;
                batch.push_back(next);
            }
        }
        // Nobody may be waiting any more: what nobody waits for is done all the same, as it may have been before.
        shared.carry_out(&mut connection, batch).await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limit(&self, len: usize) -> Duration {
        self.options.call_time_max + Duration::from_secs(len as u64 / (64 << 10))
    }

    /// Answers all of a batch.
    async fn carry_out(&self, connection: &mut Option<(Connection, u64)>, mut batch: VecDeque<Ask>) {
        let was_open = connection.is_some();
        let mut error = match self.attempt(connection, &mut batch).await {
            Ok(()) => return,
            Err(error) => error,
        };
        // The server may have ended the connection long ago.
        if was_open && error.kind() == ErrorKind::Unavailable {
            match self.attempt(connection, &mut batch).await {
                Ok(()) => return,
                Err(again) => error = again,
            }
        }
        for ask in batch {
            let why = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            ask.reply.send(Err(Error::new(error.kind(), "redis.call").because(why))).ok();
        }
    }

    /// Answers what it can; what it could not is left in the batch, and the connection is gone.
    async fn attempt(&self, connection: &mut Option<(Connection, u64)>, batch: &mut VecDeque<Ask>) -> Result<()> {
        let (mut open, generation) = match connection.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let limit = self.limit(batch.iter().map(|ask| ask.len).sum());
        let exchange = async {
            for command in batch.iter().flat_map(|ask| &ask.commands) {
                open.send(command).await?;
            }
            open.sent().await?;
            while let Some(ask) = batch.front() {
                let mut replies = VecDeque::with_capacity(ask.commands.len());
                for _ in &ask.commands {
                    // Each has so much time: a block takes a while.
                    let next = timeout(self.limit(8 << 20), open.reply()).await;
                    replies.push_back(next.map_err(|_elapsed| no_answer(self.options.call_time_max))??);
                }
                if let Some(ask) = batch.pop_front() {
                    ask.reply.send(Ok(Replied { replies, generation })).ok();
                }
            }
            if open.has_more() { Err(nonsense("anything: it was not asked for")) } else { Ok(()) }
        };
        match timeout(limit + self.options.call_time_max, exchange).await {
            Ok(Ok(())) => {
                *connection = Some((open, generation));
                self.state().failed = None;
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(no_answer(limit)),
        }
    }

    /// A new connection to what is the store, unless it could not be reached a moment ago.
    async fn connect(&self) -> Result<(Connection, u64)> {
        if let Some((kind, why, again_at, _)) = &self.state().failed
            && Instant::now() < *again_at
        {
            return Err(Error::new(*kind, "redis.call").because(why.clone()));
        }
        let limit = self.options.call_time_max;
        let connected = timeout(limit, self.connect_once()).await.unwrap_or_else(|_elapsed| Err(no_answer(limit)));
        let mut state = self.state();
        match connected {
            Ok((open, run)) => {
                state.failed = None;
                // One that does not say which start it is may have begun anew each time.
                if run.is_none() || state.run != run {
                    state.run = run;
                    self.generation.fetch_add(1, Ordering::AcqRel);
                }
                Ok((open, self.generation.load(Ordering::Acquire)))
            }
            Err(error) => {
                let wait = state.failed.as_ref().map_or(BACKOFF_MIN, |(.., wait)| (*wait * 2).min(BACKOFF_MAX));
                let why = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
                state.failed = Some((error.kind(), why, Instant::now() + wait, wait));
                Err(error)
            }
        }
    }

    async fn connect_once(&self) -> Result<(Connection, Option<String>)> {
        let mut open = Connection::open(&self.options).await?;
        let info = match open.ask(&vec!["INFO".into(), "server".into()]).await {
            Ok(Reply::Bulk(text)) => Info::parse(&String::from_utf8_lossy(&text)),
            Ok(_) => return Err(nonsense("INFO")),
            // Not everybody may ask.
            Err(error) if error.kind() == ErrorKind::Denied => Info::default(),
            Err(error) => return Err(error),
        };
        // Also where nothing is expected yet: it tells whether one may ask at all.
        let found = open.ask(&vec!["GET".into(), self.mark.clone()]).await?;
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (expected, found) {
            (None, _) => {}
            (Some(expected), Reply::Bulk(mark)) if mark == expected => {}
            (Some(_), Reply::Bulk(_)) => return Err(unavailable("another store is there now: this one is gone")),
            (Some(_), _) => {
                return Err(unavailable(
                    "its mark is gone: the database was emptied, and is to be opened anew if nothing brings it back",
                ));
            }
        }
        Ok((open, info.run))
    }
}
