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
            if !self.is_idle() && alarm.deadline() > Alarm::from_std(self.deadline()) {
                alarm.as_mut().reset(Alarm::from_std(self.deadline()));
            }
            let wants_read = !stopping && self.wants_read();
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
                self.held = Some(Held { call, identity, units });
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
        if self.output.len() > 0 && self.last_write.elapsed() >= options.stall_timeout {
            return Err("the peer takes no replies".into());
        }
        if self.input.is_partial() && self.wants_read() && self.last_read.elapsed() >= options.stall_timeout {
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
