//! The reply cache: what a client is told when it sends a call again.
//!
//! A client repeats a call whose reply it did not see, often on a new connection. Done twice, REMOVE would say NOENT
//! and CREATE would say EXIST of its own work, and a late WRITE would undo a newer one. So the replies of calls that are
//! not idempotent are kept, by client address, xid, procedure and a checksum of the call. A repetition of a call still
//! in progress is dropped when it comes on the same connection, which will carry the reply; one that comes on another
//! connection waits and is answered there. Bounded by [`REPLY_COUNT_MAX`] and by age. WRITEs have a
//! cache of their own: a client that writes would push the replies of all names out within a second.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::rpc::Call;

/// How many replies are kept, of WRITEs and of all else: at some 300 bytes each, a few megabytes.
pub const REPLY_COUNT_MAX: usize = 8192;
/// A reply older than this answers nothing: by then the client may use the xid again.
const AGE_MAX: Duration = Duration::from_mins(2);
/// How much of the arguments goes into the checksum: all of it, but for the data of a WRITE.
const CHECKSUM_LEN: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    peer: IpAddr,
    xid: u32,
    procedure: u32,
    len: usize,
    checksum: u64,
}

#[derive(Debug)]
enum State {
    Running { connection: u64, waiter: Option<oneshot::Sender<Bytes>> },
    Done { reply: Bytes, at: Instant },
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, (u64, State)>,
    /// Oldest first; an entry whose number is not that of `by_key` any more is gone.
    order: VecDeque<(Key, u64)>,
    next: u64,
}

/// The replies of one server.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    entries: Mutex<Entries>,
    hasher: RandomState,
}

/// What to do with a call.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Do it, and say what the reply was.
    First(Ticket),
    /// It was done: this was the reply.
    Again(Bytes),
    /// It is being done for another connection, which may be gone: the reply comes here as well.
    Elsewhere(oneshot::Receiver<Bytes>),
    /// It is being done for this connection.
    Underway,
}

/// The duty to say what the reply was. Dropped instead, the call counts as never made.
#[derive(Debug)]
pub(crate) struct Ticket {
    replies: Arc<Replies>,
    key: Key,
    number: u64,
}

impl Replies {
    /// Looks a call up and, if it is new, notes that it is being done.
    pub(crate) fn begin(self: &Arc<Self>, peer: IpAddr, connection: u64, call: &Call) -> Begun {
        let key = self.key(peer, call);
        let mut entries = self.lock();
        match entries.by_key.get_mut(&key) {
            Some((_, State::Running { connection: running, waiter })) => {
                if *running == connection {
                    return Begun::Underway;
                }
                let (sender, receiver) = oneshot::channel();
                *waiter = Some(sender);
                return Begun::Elsewhere(receiver);
            }
            Some((_, State::Done { reply, at })) if at.elapsed() < AGE_MAX => return Begun::Again(reply.clone()),
            _ => {}
        }
        let number = entries.insert(key, State::Running { connection, waiter: None });
        Begun::First(Ticket { replies: self.clone(), key, number })
    }

    fn key(&self, peer: IpAddr, call: &Call) -> Key {
        let args = call.args.rest();
        let mut hasher = self.hasher.build_hasher();
        hasher.write(&call.credentials);
        hasher.write(args.get(..CHECKSUM_LEN).unwrap_or(args));
        Key { peer, xid: call.xid, procedure: call.procedure, len: args.len(), checksum: hasher.finish() }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn insert(&mut self, key: Key, state: State) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_key.insert(key, (number, state));
        self.order.push_back((key, number));
        self.shrink();
        number
    }

    /// Forgets the oldest replies past the limit. Calls in progress stay: their number is bounded elsewhere.
    fn shrink(&mut self) {
        for _ in REPLY_COUNT_MAX..self.order.len() {
            let Some((key, number)) = self.order.pop_front() else { return };
            match self.by_key.get(&key) {
                Some((current, State::Running { .. })) if *current == number => self.order.push_back((key, number)),
                Some((current, State::Done { .. })) if *current == number => drop(self.by_key.remove(&key)),
                _ => {}
            }
        }
    }
}

impl Ticket {
    /// Keeps the reply, and gives it to whoever waits on another connection.
    pub(crate) fn done(self, reply: Bytes) {
        let mut entries = self.replies.lock();
        let Some((number, state)) = entries.by_key.get_mut(&self.key) else { return };
        if *number != self.number {
            return;
        }
        let done = State::Done { reply: reply.clone(), at: Instant::now() };
        if let State::Running { waiter: Some(waiter), .. } = std::mem::replace(state, done) {
            waiter.send(reply).ok();
        }
    }
}

impl Ticket {
    /// Gives a reply that is not to be kept to whoever waits on another connection; the call counts as never made.
    pub(crate) fn pass_on(self, reply: Bytes) {
        let mut entries = self.replies.lock();
        if let Some((number, State::Running { waiter, .. })) = entries.by_key.get_mut(&self.key)
            && *number == self.number
            && let Some(waiter) = waiter.take()
        {
            waiter.send(reply).ok();
        }
        // The lock is given back before the ticket is dropped, which takes it.
        drop(entries);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut entries = self.replies.lock();
        if let Some((number, State::Running { .. })) = entries.by_key.get(&self.key)
            && *number == self.number
        {
            entries.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::Decoder;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn call(xid: u32, args: &'static [u8]) -> Call {
        Call {
            xid,
            program: 100_003,
            version: 3,
            procedure: 12,
            flavor: 0,
            credentials: Bytes::new(),
            args: Decoder::new(Bytes::from_static(args)),
        }
    }

    fn ticket(begun: Begun) -> Ticket {
        match begun {
            Begun::First(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_done_call_is_answered_from_memory_on_any_connection() {
        let replies = Arc::new(Replies::default());
        ticket(replies.begin(PEER, 1, &call(7, b"a"))).done(Bytes::from_static(b"reply"));
        for connection in [1, 2] {
            assert!(matches!(replies.begin(PEER, connection, &call(7, b"a")), Begun::Again(reply) if reply == "reply"));
        }
        // Another client, xid, procedure or argument is another call.
        ticket(replies.begin([192, 0, 2, 1].into(), 1, &call(7, b"a")));
        ticket(replies.begin(PEER, 1, &call(8, b"a")));
        ticket(replies.begin(PEER, 1, &call(7, b"b")));
        ticket(replies.begin(PEER, 1, &Call { procedure: 13, ..call(7, b"a") }));
    }

    #[test]
    fn a_call_in_progress_is_not_begun_again() {
        let replies = Arc::new(Replies::default());
        let first = ticket(replies.begin(PEER, 1, &call(7, b"a")));
        assert!(matches!(replies.begin(PEER, 1, &call(7, b"a")), Begun::Underway));
        let Begun::Elsewhere(mut waiting) = replies.begin(PEER, 2, &call(7, b"a")) else { panic!("was begun") };
        first.done(Bytes::from_static(b"reply"));
        assert_eq!(waiting.try_recv().as_deref(), Ok(&b"reply"[..]));
    }

    #[test]
    fn a_call_that_came_to_nothing_may_be_made_again() {
        let replies = Arc::new(Replies::default());
        drop(ticket(replies.begin(PEER, 1, &call(7, b"a"))));
        ticket(replies.begin(PEER, 1, &call(7, b"a")));
    }

    /// "Try again" was told to the connection that asked first, which was gone; the one that waited heard nothing.
    #[test]
    fn a_reply_that_is_not_kept_reaches_whoever_waits() {
        let replies = Arc::new(Replies::default());
        let first = ticket(replies.begin(PEER, 1, &call(7, b"a")));
        let Begun::Elsewhere(mut waiting) = replies.begin(PEER, 2, &call(7, b"a")) else { panic!("was begun") };
        first.pass_on(Bytes::from_static(b"again"));
        assert_eq!(waiting.try_recv().as_deref(), Ok(&b"again"[..]));
        ticket(replies.begin(PEER, 2, &call(7, b"a")));
    }

    #[test]
    fn the_oldest_replies_are_forgotten() {
        let replies = Arc::new(Replies::default());
        let running = ticket(replies.begin(PEER, 1, &call(u32::MAX, b"a")));
        for xid in 0..2 * u32::try_from(REPLY_COUNT_MAX).expect("fits") {
            ticket(replies.begin(PEER, 1, &call(xid, b"a"))).done(Bytes::new());
        }
        let entries = replies.lock();
        assert!(entries.by_key.len() <= REPLY_COUNT_MAX + 1 && entries.order.len() <= REPLY_COUNT_MAX + 1);
        drop(entries);
        assert!(matches!(replies.begin(PEER, 1, &call(u32::MAX, b"a")), Begun::Underway));
        ticket(replies.begin(PEER, 1, &call(0, b"a")));
        drop(running);
    }
}
