//! One connection: records in, calls out to the dispatcher, replies back, all in one task.
//!
//! A call is polled once where it was read. Most answer at once, and their replies leave together in one vectored write
//! without a task or a channel in between; one that has to wait moves to a task of its own and reports back. Reading
//! stops while too many calls are in flight, while the peer does not take its replies, or while the server's budget of
//! bytes in flight is used up: that is the whole of the backpressure. Reading and writing never wait for each other.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use nfs3_types::rpc::{accept_stat, auth_stat};
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{
        AcquireError, OwnedSemaphorePermit, TryAcquireError,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    time::{Instant as Alarm, sleep_until},
};

use crate::{
    dispatch::{Origin, answer},
    identity::Identity,
    procs,
    record::{Input, Output},
    room::Room,
    rpc::{Call, Refused, Reply, claimed},
    server::Shared,
};

/// How many calls of one connection may be in flight: more than any client keeps.
pub const CALLS_IN_FLIGHT_MAX: usize = 256;
/// How many bytes of replies may wait for a peer before its next calls are read.
const OUTPUT_LEN_MAX: usize = 4 << 20;
/// The unit of the server's budget, in bytes.
const BUDGET_UNIT: usize = 4096;
/// The bytes of calls and replies that may be in flight on all connections together.
pub const IN_FLIGHT_LEN_MAX: usize = 512 << 20;
/// The same in units.
pub(crate) const BUDGET: usize = IN_FLIGHT_LEN_MAX / BUDGET_UNIT;

/// How often one who waits for room says so.
const PRESS_EVERY: Duration = Duration::from_secs(1);

/// The first port that needs no privilege to be bound.
const PRIVILEGED_PORT_END: u16 = 1024;
/// How far ahead a deadline is set: timeouts may be as long as they like, the arithmetic may not overflow.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// Why a connection ends before its peer ends it; for the log.
type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub(crate) struct Connection {
    server: Arc<Shared>,
    stream: TcpStream,
    origin: Origin,
    input: Input,
    /// For what of the input is not whole.
    room: Room,
    /// The units of room that are missing for the next read; nothing is read meanwhile.
    missing: u32,
    /// Since when a part of a record waits for the rest.
    partial_since: Option<Instant>,
    output: Output,
    done: UnboundedSender<Option<Reply>>,
    replies: UnboundedReceiver<Option<Reply>>,
    in_flight: usize,
    /// A call that waits for the budget; nothing is read behind it.
    held: Option<Held>,
    /// The credentials of the last call and who they are: most connections carry one caller.
    last: Option<(u32, Bytes, Arc<Identity>)>,
    /// The peer sends no more.
    ended: bool,
    /// The socket did not take all replies.
    backlog: bool,
    last_read: Instant,
    /// When the backlog began, or last became shorter.
    last_write: Instant,
}

#[derive(Debug)]
struct Held {
    call: Call,
    /// Of its record, in bytes.
    len: usize,
    identity: Arc<Identity>,
    units: u32,
}

impl Connection {
    pub(crate) fn new(server: Arc<Shared>, stream: TcpStream, peer: SocketAddr, number: u64) -> Self {
        let (done, replies) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            server,
            stream,
            origin: Origin { peer, connection: number },
            input: Input::default(),
            room: Room::default(),
            missing: 0,
            partial_since: None,
            output: Output::default(),
            done,
            replies,
            in_flight: 0,
            held: None,
            last: None,
            ended: false,
            backlog: false,
            last_read: now,
            last_write: now,
        }
    }

    /// Serves until the peer is done, breaks the protocol, stalls, or the server stops.
    pub(crate) async fn run(mut self) -> Result<(), Cause> {
        let stop = self.server.stop.clone();
        let alarm = sleep_until(Alarm::from_std(self.deadline()));
        let stopped = stop.cancelled();
        tokio::pin!(alarm, stopped);
        let mut stopping = false;
        loop {
            if !stopping {
                self.take_calls()?;
            }
            self.send()?;
            self.make_room(stopping);
            if !self.is_idle() && alarm.deadline() > Alarm::from_std(self.deadline()) {
                alarm.as_mut().reset(Alarm::from_std(self.deadline()));
            }
            let wants_read = !stopping && self.wants_read() && self.missing == 0;
            let quiet = self.in_flight == 0 && self.held.is_none() && self.output.len() == 0;
            if (stopping || self.ended) && quiet {
                return Ok(());
            }
            let interest = match (wants_read, self.output.len() > 0) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            tokio::select! {
                // In this order, so that no peer is taken for stalled whose bytes were only not read yet.
                biased;
                () = &mut stopped, if !stopping => stopping = true,
                Some(reply) = self.replies.recv(), if self.in_flight > 0 => {
                    self.finish(reply);
                    while let Ok(reply) = self.replies.try_recv() {
                        self.finish(reply);
                    }
                }
                permit = acquire(&self.server, self.held.as_ref()), if self.held.is_some() => {
                    if let (Some(held), Ok(permit)) = (self.held.take(), permit) {
                        self.start(held.call, held.identity, permit);
                    }
                }
                ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => {
                    if ready?.is_readable() && wants_read {
                        self.receive()?;
                    }
                }
                permit = self.server.rooms.wait(self.missing), if self.missing > 0 => {
                    if let Ok(permit) = permit {
                        self.room.add(permit);
                    }
                }
                // Those who wait themselves look when their alarm rings: one after the other, for each makes room.
                () = self.server.rooms.pressed.notified(), if self.partial_since.is_some() && self.missing == 0 => {
                    self.check_patience()?;
                }
                () = &mut alarm => {
                    self.check_stalls()?;
                    alarm.as_mut().reset(Alarm::from_std(self.deadline()));
                }
            }
        }
    }

    fn wants_read(&self) -> bool {
        !self.ended && self.held.is_none() && self.in_flight < CALLS_IN_FLIGHT_MAX && self.output.len() < OUTPUT_LEN_MAX
    }

    /// Takes the room that the next read may need, gives back what is left over, and tells the others if there is none.
    fn make_room(&mut self, stopping: bool) {
        self.partial_since = self.input.is_partial().then(|| self.partial_since.unwrap_or_else(Instant::now));
        let was_missing = self.missing > 0;
        let wants_read = !stopping && self.wants_read();
        let held_len = self.held.as_ref().map_or(0, |held| held.len);
        let len = held_len + if wants_read { self.input.len_next() } else { self.input.len() };
        let missing = self.room.fit(&self.server.rooms, len);
        // What is here already is here: only the next read waits.
        self.missing = if wants_read { missing } else { 0 };
        if self.missing > 0 && !was_missing {
            self.server.rooms.pressed.notify_waiters();
        }
    }

    /// Ends a record that takes its time while others wait for the room it takes.
    fn check_patience(&self) -> Result<(), Cause> {
        match self.partial_since {
            Some(since) if since.elapsed() >= self.server.rooms.patience && self.room.is_used() => {
                Err("the record took too long while others waited for room".into())
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<(), Cause> {
        match self.input.read_from(&self.stream) {
            Ok(0) if self.input.is_partial() => Err("the peer closed in the middle of a record".into()),
            Ok(0) => {
                self.ended = true;
                Ok(())
            }
            Ok(_) => {
                self.last_read = Instant::now();
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the calls that have come in whole, as many as may be in flight.
    fn take_calls(&mut self) -> Result<(), Cause> {
        while self.wants_calls() {
            let Some(record) = self.input.next().map_err(|_| "a record is longer than any call")? else { break };
            let len = record.len();
            match Call::parse(record) {
                Ok(call) => self.admit(call, len),
                Err(Refused::Answered(reply)) => self.output.push(reply),
                Err(Refused::NotACall) => return Err("a record is not an RPC call".into()),
            }
        }
        Ok(())
    }

    fn wants_calls(&self) -> bool {
        self.held.is_none() && self.in_flight < CALLS_IN_FLIGHT_MAX && self.output.len() < OUTPUT_LEN_MAX
    }

    /// Finds out who calls, and takes the call's share of the budget.
    fn admit(&mut self, call: Call, len: usize) {
        let identity = match self.identity(&call) {
            Ok(identity) => identity,
            Err(stat) => return self.output.push(Reply::auth_error(call.xid, stat)),
        };
        let reply_len = match call.program {
            nfs3_types::nfs3::PROGRAM => procs::reply_len_hint(call.procedure, call.args.clone()) as usize,
            _ => 0,
        };
        let units = u32::try_from((len + reply_len) / BUDGET_UNIT + 1).unwrap_or(u32::MAX);
        match self.server.budget.clone().try_acquire_many_owned(units) {
            Ok(permit) => self.start(call, identity, permit),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                self.held = Some(Held { call, len, identity, units });
            }
        }
    }

    fn identity(&mut self, call: &Call) -> Result<Arc<Identity>, auth_stat> {
        let options = &self.server.options;
        // NULL is answered for everybody: it is how a client finds out that the server is there.
        if options.privileged_port && self.origin.peer.port() >= PRIVILEGED_PORT_END && call.procedure != 0 {
            return Err(auth_stat::AUTH_TOOWEAK);
        }
        if let Some((flavor, credentials, identity)) = &self.last
            && (*flavor, credentials) == (call.flavor, &call.credentials)
        {
            return Ok(identity.clone());
        }
        let claimed = claimed(call.flavor, call.credentials.clone())?;
        let identity = Arc::new(Identity::new(&self.server.vfs, options, self.origin.peer.ip(), claimed));
        // Copied, so that the buffer it came in is not kept.
        self.last = Some((call.flavor, Bytes::copy_from_slice(&call.credentials), identity.clone()));
        Ok(identity)
    }

    /// Polls a call once; one that has to wait gets a task.
    fn start(&mut self, call: Call, identity: Arc<Identity>, permit: OwnedSemaphorePermit) {
        let xid = call.xid;
        let answer = answer(self.server.clone(), self.origin, identity, call);
        let mut answer: BoxFuture<'static, Option<Reply>> = AssertUnwindSafe(answer)
            .catch_unwind()
            .map(move |answered| {
                answered.unwrap_or_else(|_| {
                    tracing::error!("nfs.dispatch: a call panicked; the caller is told SYSTEM_ERR");
                    Some(Reply::refused(xid, accept_stat::SYSTEM_ERR))
                })
            })
            .map(|reply| {
                reply.map(|mut reply| {
                    reply.hold(permit);
                    reply
                })
            })
            .boxed();
        if let Some(reply) = (&mut answer).now_or_never() {
            self.output.extend(reply);
            return;
        }
        self.in_flight += 1;
        let (done, kill) = (self.done.clone(), self.server.kill.clone());
        self.server.tasks.spawn(async move {
            // Whoever waits for the reply may be gone; the call is made to its end all the same.
            if let Some(reply) = kill.run_until_cancelled(answer).await {
                done.send(reply).ok();
            }
        });
    }

    fn finish(&mut self, reply: Option<Reply>) {
        self.in_flight -= 1;
        self.output.extend(reply);
    }

    fn send(&mut self) -> Result<(), Cause> {
        if self.output.len() > 0 {
            let written = self.output.write_to(&self.stream)?;
            if written > 0 || !self.backlog {
                self.last_write = Instant::now();
            }
            self.backlog = self.output.len() > 0;
        }
        Ok(())
    }

    /// When a peer that does nothing has to be looked at next.
    fn deadline(&self) -> Instant {
        let options = &self.server.options;
        if self.missing > 0 {
            return Instant::now() + PRESS_EVERY;
        }
        if self.is_idle() {
            return self.last_read + options.idle_timeout.min(DEADLINE_MAX);
        }
        Instant::now() + (options.stall_timeout / 4).min(DEADLINE_MAX)
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.held.is_none() && self.output.len() == 0 && !self.input.is_partial()
    }

    fn check_stalls(&self) -> Result<(), Cause> {
        let options = &self.server.options;
        if self.missing > 0 {
            self.server.rooms.pressed.notify_waiters();
            self.check_patience()?;
        }
        if self.output.len() > 0 && self.last_write.elapsed() >= options.stall_timeout {
            return Err("the peer takes no replies".into());
        }
        if self.input.is_partial()
            && self.wants_read()
            && self.missing == 0
            && self.last_read.elapsed() >= options.stall_timeout
        {
            return Err("the peer does not finish its record".into());
        }
        if self.is_idle() && self.last_read.elapsed() >= options.idle_timeout {
            return Err("idle".into());
        }
        Ok(())
    }
}

async fn acquire(server: &Shared, held: Option<&Held>) -> Result<OwnedSemaphorePermit, AcquireError> {
    let units = held.map_or(1, |held| held.units);
    server.budget.clone().acquire_many_owned(units).await
}

#[cfg(test)]
mod tests {
    use muxfs::testing::{self, model::ModelFs};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        options::Options,
        room::{FREE_LEN, Rooms},
        server::serve_in,
    };

    /// NULL of NFS: xid 7, CALL, RPC 2, the program, version 3, no credentials.
    const NULL: [u32; 10] = [7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];
    /// Only a server that never answers takes as long.
    const PATIENCE: Duration = Duration::from_mins(1);

    /// Records of a MiB but for a byte were held outside of every budget, on as many connections as there may be.
    #[tokio::test]
    async fn who_does_not_finish_its_record_makes_room_for_who_does() {
        let rooms = Rooms::new(FREE_LEN * 8, Duration::ZERO);
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() };
        let server = serve_in(ModelFs::new(testing::env()), options, rooms).expect("it listens");
        let len = FREE_LEN * 6;
        let mark = u32::try_from(len).expect("short") | 1 << 31;
        let mut unfinished = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(server.local_addr()).await.expect("connected");
            client.write_u32(mark).await.expect("sent");
            // All but a byte, or as much as is read of it.
            let rest = tokio::spawn(async move {
                let _as_far_as_it_goes = client.write_all(&vec![0; len - 1]).await;
                let mut byte = [0];
                let ended = client.read(&mut byte).await;
                assert!(!matches!(ended, Ok(1)), "nothing is answered");
            });
            unfinished.push(rest);
        }
        let mut honest = TcpStream::connect(server.local_addr()).await.expect("connected");
        let begin = NULL.iter().flat_map(|word| word.to_be_bytes());
        let record: Vec<u8> =
            mark.to_be_bytes().into_iter().chain(begin).chain(std::iter::repeat(0)).take(len + 4).collect();
        // With no patience at all even an honest record may be cut off: it is sent again, as clients do.
        loop {
            let answered = async {
                honest.write_all(&record).await?;
                honest.read_u32().await
            };
            match tokio::time::timeout(PATIENCE, answered).await.expect("an end") {
                Ok(mark) => break assert_eq!(mark, 0x8000_0018),
                Err(_) => honest = TcpStream::connect(server.local_addr()).await.expect("connected"),
            }
        }
        server.shutdown().await;
        for rest in unfinished {
            rest.await.expect("it ended");
        }
    }
}
