//! What goes wrong between a store and a server of S3, on the wire: a way in between answers for the server, answers late or not at
//! all, and breaks off. Nothing acknowledged is lost, every call ends in its time, and the store goes on by itself.

mod faulty;
mod peer;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{CONTENT_LENGTH, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use muxfs::{BlockStore, ErrorKind, heads::Heads, testing::fault::Dice};
use muxfs_s3::{S3Limits, S3Options, S3Store};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use faulty::{block, key, options};
use peer::Peer;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Happens,
    /// 503, with a time to wait in seconds, and it does not happen.
    Throttled(u64),
    /// 500, and it does not happen.
    Fails,
    /// 403 with this code.
    Refuses(&'static str),
    /// It happens, and the connection breaks off before the answer, or in the middle of it.
    LosesAnswer,
    CutOff,
    /// It happens, and its answer comes byte by byte, never whole in its time.
    Trickles,
    /// Nobody answers.
    Silent,
    /// The answer is longer than anybody asked for.
    Endless,
}

type Script = Arc<Mutex<Box<dyn FnMut() -> Fate + Send>>>;

/// A way to a server on which things go wrong.
struct Way {
    addr: std::net::SocketAddr,
    script: Script,
    counts: Arc<Mutex<Vec<(Instant, Fate)>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(peer: &Peer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (addr, server) = (listener.local_addr().expect("an address"), peer.addr);
        let script: Script = Arc::new(Mutex::new(Box::new(|| Fate::Happens)));
        let counts: Arc<Mutex<Vec<(Instant, Fate)>>> = Arc::default();
        let (told, counted) = (Arc::clone(&script), Arc::clone(&counts));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, counts) = (Arc::clone(&told), Arc::clone(&counted));
                let service = service_fn(move |request| {
                    let fate = (script.lock().expect("no panic"))();
                    counts.lock().expect("no panic").push((Instant::now(), fate));
                    answer(server, request, fate)
                });
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { serving.await.ok() });
            }
        });
        Self { addr, script, counts, _accepting: AbortOnDropHandle::new(accepting) }
    }

    fn set(&self, script: impl FnMut() -> Fate + Send + 'static) {
        *self.script.lock().expect("no panic") = Box::new(script);
        self.counts.lock().expect("no panic").clear();
    }

    fn counts(&self) -> Vec<(Instant, Fate)> {
        self.counts.lock().expect("no panic").clone()
    }
}

async fn answer(
    server: std::net::SocketAddr,
    request: Request<Incoming>,
    fate: Fate,
) -> Result<Response<Odd>, Box<dyn std::error::Error + Send + Sync>> {
    let refusal = |status: StatusCode, code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>not now</Message></Error>");
        Response::builder().status(status).body(Odd::whole(body.into()))
    };
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    match fate {
        Fate::Throttled(secs) => {
            let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")?;
            answer.headers_mut().insert(RETRY_AFTER, secs.into());
            return Ok(answer);
        }
        Fate::Fails => return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")?),
        Fate::Refuses(code) => return Ok(refusal(StatusCode::FORBIDDEN, code)?),
        Fate::Silent => return std::future::pending().await,
        _ => {}
    }
    let stream = TcpStream::connect(server).await?;
    let (mut send, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { driver.await.ok() }));
    let (mut head, body) = send.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    match fate {
        Fate::LosesAnswer => Err("it breaks off".into()),
        Fate::CutOff if body.len() > 1 => {
            let half = body.slice(..body.len() / 2);
            Ok(Response::from_parts(head, Odd { first: Some(half), then: Then::BreaksOff }))
        }
        Fate::Trickles => Ok(Response::from_parts(head, Odd { first: Some(body), then: Then::Stands })),
        Fate::Endless => {
            head.headers.remove(CONTENT_LENGTH);
            Ok(Response::from_parts(head, Odd { first: Some(body), then: Then::Endless }))
        }
        _ => Ok(Response::from_parts(head, Odd::whole(body))),
    }
}

/// A body that may not be what its head says.
struct Odd {
    first: Option<Bytes>,
    then: Then,
}

enum Then {
    Ends,
    BreaksOff,
    Stands,
    Endless,
}

impl Odd {
    fn whole(body: Bytes) -> Self {
        Self { first: Some(body), then: Then::Ends }
    }
}

impl Body for Odd {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(mut first) = self.first.take().filter(|first| !first.is_empty()) else {
            return match self.then {
                Then::Ends => Poll::Ready(None),
                Then::BreaksOff => Poll::Ready(Some(Err("it breaks off"))),
                // Whoever waits for it gives up.
                Then::Stands => Poll::Pending,
                Then::Endless => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16000]))))),
            };
        };
        if matches!(self.then, Then::Stands) {
            first.truncate(1);
        }
        Poll::Ready(Some(Ok(Frame::data(first))))
    }
}

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Limits that a test can wait for.
fn limits() -> S3Limits {
    S3Limits {
        attempt_max: Duration::from_millis(400),
        call_max: Duration::from_secs(3),
        attempt_count_max: u32::MAX,
        pause: Duration::from_millis(5),
        call_count_max: 32,
    }
}

/// A store over a way to a server, and the same server without it.
async fn stores(pack_len: usize) -> (Peer, Way, S3Store) {
    stores_within(pack_len, limits()).await
}

async fn stores_within(pack_len: usize, limits: S3Limits) -> (Peer, Way, S3Store) {
    let peer = Peer::ours().await;
    let way = Way::to(&peer).await;
    let bucket = peer::bucket_at(way.addr, limits);
    let store = S3Store::open(bucket, S3Options { compacts: false, ..options("me", pack_len) }).await.expect("open");
    (peer, way, store)
}

async fn check(peer: &Peer, count: u64) {
    let store = S3Store::open(peer.bucket(limits()), options("me", 8000)).await.expect("open");
    for n in 0..count {
        let found = store.get(&key(n)).await.expect("get");
        assert!(
            found == Some(block(n, 700)),
            "block {n} was synced and is {}",
            if found.is_some() { "another" } else { "lost" }
        );
    }
}

/// Of all that may happen to a request it happens to half of them: what is acknowledged is there, and what is read is right.
#[tokio::test]
async fn a_storm_of_everything_is_waited_out() {
    let (peer, way, store) = stores(8000).await;
    let mut dice = Dice::new(1);
    way.set(move || match dice.roll(20) {
        0 | 1 => Fate::Fails,
        2 | 3 => Fate::Throttled(0),
        4 | 5 => Fate::LosesAnswer,
        6 | 7 => Fate::CutOff,
        8 => Fate::Trickles,
        9 => Fate::Endless,
        _ => Fate::Happens,
    });
    let mut synced = 0;
    for n in 0..200 {
        // What fails is tried again by who wants it.
        while let Err(error) = store.put(&key(n), block(n, 700)).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        }
        if n % 37 == 0 && store.flush().await.is_ok() {
            synced = n + 1;
        }
    }
    while let Err(error) = store.flush().await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    }
    assert!(synced > 0, "no sync in the storm");
    for n in 0..200 {
        match store.get(&key(n)).await {
            Ok(found) => assert!(found == Some(block(n, 700)), "block {n}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}"),
        }
    }
    let fates = way.counts();
    for fate in [Fate::Fails, Fate::LosesAnswer, Fate::CutOff, Fate::Trickles, Fate::Endless] {
        assert!(fates.iter().any(|(_, other)| *other == fate), "{fate:?} never happened");
    }
    check(&peer, 200).await;
    peer.end().await;
}

/// An acknowledgement that is lost each time is no second pack, and no other writer.
#[tokio::test]
async fn answers_that_are_always_lost_cost_a_look() {
    let (peer, way, store) = stores(4000).await;
    let mut is_lost = false;
    way.set(move || {
        is_lost = !is_lost;
        if is_lost { Fate::LosesAnswer } else { Fate::Happens }
    });
    for n in 0..60 {
        store.put(&key(n), block(n, 700)).await.expect("put");
    }
    store.flush().await.expect("flush");
    assert!(way.counts().iter().filter(|(_, fate)| *fate == Fate::LosesAnswer).count() >= 10);
    check(&peer, 60).await;
    peer.end().await;
}

/// A server that asks to be left alone is left alone for as long, by all calls.
#[tokio::test]
async fn who_asks_to_be_left_alone_is() {
    // An attempt that takes too long would be followed by another; and no call is as long as a server is left alone at most.
    let limits = S3Limits { attempt_max: Duration::from_secs(4), call_max: Duration::from_secs(4), ..limits() };
    let (peer, way, store) = stores_within(1 << 20, limits).await;
    for n in 0..20 {
        store.put(&key(n), block(n, 700)).await.expect("put");
    }
    store.flush().await.expect("flush");
    let mut count = 0;
    way.set(move || {
        count += 1;
        if count == 1 { Fate::Throttled(1) } else { Fate::Happens }
    });
    store.get(&key(0)).await.expect("it is tried again");
    let calls = way.counts();
    assert!(calls.len() == 2 && calls[1].0.duration_since(calls[0].0) > Duration::from_millis(950), "{calls:?}");

    // Longer than any call may take it is an error at once, and nobody asks any more.
    way.set(|| Fate::Throttled(3600));
    for n in [5, 10, 15] {
        let error = store.get(&key(n)).await.expect_err("not now");
        assert!(error.kind() == ErrorKind::Unavailable && format!("{error:#}").contains("s3://bucket"), "{error:#}");
    }
    assert_eq!(way.counts().len(), 1, "{:?}", way.counts());
    peer.end().await;
}

/// Nobody answers for a while, or each answer stands still: calls end in their time, writing fails, and goes on by itself when somebody answers.
#[tokio::test]
async fn silence_costs_its_time_and_nothing_else() {
    for fate in [Fate::Silent, Fate::Trickles] {
        let (peer, way, store) = stores(1 << 20).await;
        store.put(&key(0), block(0, 700)).await.expect("put");
        store.flush().await.expect("flush");
        way.set(move || fate);
        store.put(&key(1), block(1, 700)).await.expect("it is in memory");
        let begun = Instant::now();
        for round in 0..3 {
            let before = store.stats().gets;
            let error = store.get(&key(0)).await.expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
            // A call after one without an answer is one attempt.
            let asked = store.stats().gets - before;
            assert!(asked >= 1 && (round == 0 || asked == 1), "{asked} attempts in round {round}");
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        if fate == Fate::Silent {
            assert_eq!(store.flush().await.expect_err("nobody answers").kind(), ErrorKind::Unavailable);
        }
        way.set(|| Fate::Happens);
        let begun = Instant::now();
        while let Err(error) = store.flush().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
            assert!(begun.elapsed() < PATIENCE, "somebody answers: {error:#}");
        }
        check(&peer, 2).await;
        peer.end().await;
    }
}

/// An answer without an end is an error, and not kept.
#[tokio::test]
async fn an_answer_without_an_end_is_no_block() {
    let (peer, way, store) = stores(1 << 20).await;
    store.put(&key(0), block(0, 700)).await.expect("put");
    store.flush().await.expect("flush");
    way.set(|| Fate::Endless);
    let error = store.get(&key(0)).await.expect_err("it has no end");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt), "{error:#}");
    way.set(|| Fate::Happens);
    assert_eq!(store.get(&key(0)).await.expect("get"), Some(block(0, 700)));
    peer.end().await;
}

/// What an object, or a bucket, is called says nothing of what went wrong.
#[tokio::test]
async fn an_error_is_what_the_server_says_and_not_what_things_are_called() {
    let peer = Peer::ours().await;
    let way = Way::to(&peer).await;
    let patient = || S3Limits { attempt_max: Duration::from_secs(5), call_max: Duration::from_secs(30), ..limits() };
    let few = || S3Limits { attempt_count_max: 3, ..patient() };
    for below in ["redirects", "NoSuchBucket", "<Code>QuotaExceeded</Code>", "status code: 404"] {
        let bucket = |limits: S3Limits| {
            let bucket = peer::place_at(way.addr, below).open(&peer::me(), limits, &muxfs::testing::env());
            Arc::new(bucket.expect("a place"))
        };
        let mut asked = 0;
        way.set(move || {
            asked += 1;
            if asked % 3 == 0 { Fate::Happens } else { Fate::Fails }
        });
        let store = S3Store::open(bucket(patient()), options("me", 1 << 20)).await.expect("it is tried again");
        store.put(&key(1), block(1, 700)).await.expect("put");
        store.flush().await.expect("it is tried again");
        drop(store);
        way.set(|| Fate::Happens);
        let store = S3Store::open(bucket(few()), options("me", 1 << 20)).await.expect("open");
        way.set(|| Fate::Fails);
        let error = store.load(&muxfs::Name::new(b"main").expect("a name")).await.expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{below}: {error:#}");
    }
    way.set(|| Fate::Refuses("QuotaExceeded"));
    let bucket = peer::bucket_at(way.addr, patient());
    let error = S3Store::open(bucket, options("me", 1 << 20)).await.expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
    assert_eq!(way.counts().len(), 1, "what is refused is not tried again");
    peer.end().await;
}
