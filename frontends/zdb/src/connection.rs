//! One connection, in one task: requests in, one after the other to the dispatcher, replies out.
//!
//! Nothing is read while requests run, while the client does not take its replies, or while there is no room for more: that
//! is the whole of the backpressure.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::time::{sleep, timeout};

use crate::{
    client::{Cause, Client, identity},
    commands::wait::Wait,
    dispatch::{self, Flow},
    request::{READ_LEN, Requests},
    room::Room,
};

/// How often one who waits for room says so.
const PRESS_EVERY: Duration = Duration::from_secs(1);
/// How much is taken in while replies wait for a sync that all of it shares.
const GATHERED_LEN_MAX: usize = 1 << 20;
/// How long, and how many bytes, a client that is cut off is listened to, so that it reads why: a socket that is closed
/// with bytes unread takes back what it sent last.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
const LINGER_LEN_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    requests: Requests,
    /// For what of them is here.
    room: Room,
    /// Since when a part of a request waits for the rest.
    partial_since: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, requests: Requests::default(), room: Room::default(), partial_since: None }
    }

    /// Serves until the client is done, breaks the protocol, stalls, or the server stops.
    pub(crate) async fn run(mut self) -> Result<(), Cause> {
        let stop = self.client.server.stop.clone();
        loop {
            match self.answer().await? {
                Flow::Go => {
                    let received = tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        received = self.receive() => received?,
                    };
                    if received == 0 {
                        return Ok(());
                    }
                }
                Flow::Wait(wait) => {
                    let goes_on = stop.run_until_cancelled(self.wait(wait)).await;
                    if !goes_on.unwrap_or(Ok(false))? {
                        return Ok(());
                    }
                }
                Flow::End => return self.linger().await,
            }
        }
    }

    /// Runs all that has come, and sends the replies.
    async fn answer(&mut self) -> Result<Flow, Cause> {
        let mut gathered = 0;
        loop {
            let flow = match self.requests.next() {
                Ok(Some(request)) => {
                    self.partial_since = None;
                    dispatch::run(&mut self.client, &request).await?
                }
                Ok(None) => {
                    // What came meanwhile shares the sync.
                    if self.client.output.is_promised() && gathered < GATHERED_LEN_MAX {
                        let more = self.receive_more()?;
                        gathered += more;
                        if more > 0 {
                            continue;
                        }
                    }
                    self.client.flush().await?;
                    return Ok(Flow::Go);
                }
                Err(malformed) => {
                    self.client.output.error(malformed.text());
                    if malformed.ends_stream() { Flow::End } else { Flow::Go }
                }
            };
            match flow {
                Flow::Go => self.client.flush_if_long().await?,
                flow => {
                    self.client.flush().await?;
                    return Ok(flow);
                }
            }
        }
    }

    /// Takes in what is there already, without waiting; how much.
    fn receive_more(&mut self) -> Result<usize, Cause> {
        if self.room.fit(&self.client.server.rooms, self.requests.len_next()) > 0 {
            return Ok(0);
        }
        match self.requests.read_from(&self.client.socket) {
            // The end of the stream is found again.
            Ok(len) => {
                self.client.server.metrics.received(len);
                Ok(len)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for more to come, and takes it in; 0 at the end of the stream.
    async fn receive(&mut self) -> Result<usize, Cause> {
        let server = self.client.server.clone();
        loop {
            let is_partial = self.requests.is_partial();
            self.partial_since = is_partial.then(|| self.partial_since.unwrap_or_else(Instant::now));
            let missing = self.room.fit(&server.rooms, self.requests.len_next());
            if missing > 0 {
                self.wait_for_room(missing).await?;
            }
            tokio::select! {
                // In this order, so that no client is taken for stalled whose bytes were only not read yet.
                biased;
                ready = self.client.socket.readable() => {
                    ready?;
                    match self.requests.read_from(&self.client.socket) {
                        Ok(len) => {
                            server.metrics.received(len);
                            return Ok(len);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                () = server.rooms.pressed.notified(), if is_partial => self.check_patience()?,
                () = sleep(server.options.stall_timeout), if is_partial => {
                    return Err("the client does not finish its request".into());
                }
            }
        }
    }

    async fn wait_for_room(&mut self, missing: u32) -> Result<(), Cause> {
        let server = self.client.server.clone();
        let permit = server.rooms.wait(missing);
        tokio::pin!(permit);
        loop {
            server.rooms.pressed.notify_waiters();
            tokio::select! {
                permit = &mut permit => {
                    self.room.add(permit?);
                    return Ok(());
                }
                // One after the other, for each makes room.
                () = sleep(PRESS_EVERY) => self.check_patience()?,
            }
        }
    }

    /// Ends a request that takes its time while others wait for the room it takes.
    fn check_patience(&self) -> Result<(), Cause> {
        match self.partial_since {
            Some(since) if since.elapsed() >= self.client.server.rooms.patience && self.room.is_used() => {
                Err("the request took too long while others waited for room".into())
            }
            _ => Ok(()),
        }
    }

    /// Waits for a command of another client; whether the connection goes on.
    async fn wait(&mut self, wait: Wait) -> Result<bool, Cause> {
        let server = self.client.server.clone();
        let mut place = server.watch.wait(self.client.number, identity(&self.client.namespace), wait.command);
        let alarm = sleep(wait.timeout);
        tokio::pin!(alarm);
        loop {
            // What is asked meanwhile is answered afterwards; what is seen of it tells a client that went.
            let is_silent = !self.requests.is_partial();
            tokio::select! {
                biased;
                Ok(command) = &mut place.told => {
                    self.client.output.simple(command.name());
                    return Ok(true);
                }
                () = &mut alarm => {
                    self.client.output.error("Timeout");
                    return Ok(true);
                }
                received = self.receive(), if is_silent => {
                    if received? == 0 {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Has a client that is cut off read why.
    async fn linger(mut self) -> Result<(), Cause> {
        self.requests = Requests::default();
        self.client.socket.end();
        let (socket, stop) = (&self.client.socket, &self.client.server.stop);
        let drain = async {
            let (mut heard, mut bytes) = (0, BytesMut::with_capacity(READ_LEN));
            while heard < LINGER_LEN_MAX && socket.readable().await.is_ok() {
                bytes.clear();
                match socket.try_read(&mut bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => break,
                    Ok(len) => heard += len,
                }
            }
        };
        // However that ends, it has ended.
        timeout(LINGER_TIME_MAX, stop.run_until_cancelled(drain)).await.ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muxfs_zdb::{Engine, EngineOptions, MemHome};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        options::Options,
        room::{FREE_LEN, REPLIES_LEN_MAX, Rooms},
        server::serve_in,
    };

    /// Only a server that never answers takes as long.
    const PATIENCE: Duration = Duration::from_mins(1);

    /// Requests of 8 MiB but for a byte, on as many connections as there may be, must not keep out who finishes his.
    #[tokio::test]
    async fn who_does_not_finish_its_request_makes_room_for_who_does() {
        let engine = Engine::open(Arc::new(MemHome::default()), EngineOptions::new(&muxfs::testing::env()));
        let engine = engine.await.expect("opened");
        let rooms = Rooms::new(FREE_LEN * 16, REPLIES_LEN_MAX, Duration::ZERO);
        let options = Options { addr: Some(([127, 0, 0, 1], 0).into()), ..Options::default() };
        let server = serve_in(engine, options, rooms).expect("it listens");
        let addr = server.local_addr().expect("TCP");
        let value = vec![7; FREE_LEN * 12];
        let request = [format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).as_bytes(), &value].concat();
        let mut unfinished = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(addr).await.expect("connected");
            let request = request.clone();
            let rest = tokio::spawn(async move {
                // As far as it goes.
                client.write_all(&request).await.ok();
                let mut byte = [0];
                assert!(!matches!(client.read(&mut byte).await, Ok(1)), "nothing is answered");
            });
            unfinished.push(rest);
        }
        let mut honest = TcpStream::connect(addr).await.expect("connected");
        // With no patience at all even an honest request may be cut off: it is sent again, as clients do.
        loop {
            let answered = async {
                honest.write_all(&request).await?;
                honest.write_all(b"\r\n").await?;
                let mut reply = [0; 7];
                honest.read_exact(&mut reply).await.map(|_| reply)
            };
            match tokio::time::timeout(PATIENCE, answered).await.expect("an end") {
                Ok(reply) => break assert_eq!(&reply, b"$1\r\nk\r\n"),
                Err(_) => honest = TcpStream::connect(addr).await.expect("connected"),
            }
        }
        server.shutdown().await;
        for rest in unfinished {
            rest.await.expect("it ended");
        }
    }
}
