//! Servers on loopback that answer as a test says.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use muxfs_ipfs::{Gateway, HttpOptions, Url};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// How long what has a limit of seconds may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A server; to drop it ends it.
pub(crate) struct Server {
    port: u16,
    /// How many connections it accepted, and how many requests came.
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    /// Gives each connection to `attend`, which counts requests itself.
    pub(crate) async fn of_connections<F, A>(attend: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicUsize>) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepted, asked) = (connections.clone(), requests.clone());
        let accepting = tokio::spawn(async move {
            let tasks = TaskTracker::new();
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                open.push(AbortOnDropHandle::new(tasks.spawn(attend(stream, asked.clone()))));
            }
        });
        Self { port, connections, requests, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Gives each connection to `answer` when the head of its one request is there.
    pub(crate) async fn raw<F, A>(answer: F) -> Self
    where
        F: Fn(String, TcpStream) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::of_connections(move |mut stream, requests| {
            let answer = answer.clone();
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                requests.fetch_add(1, Ordering::SeqCst);
                answer(String::from_utf8_lossy(&head).into_owned(), stream).await;
            }
        })
        .await
    }

    /// Answers as HTTP servers do.
    pub(crate) async fn http<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Self::of_connections(move |stream, requests| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            }
        })
        .await
    }

    pub(crate) fn text(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> Url {
        self.text().parse().expect("an address")
    }

    pub(crate) fn gateway(&self) -> Gateway {
        Gateway::new(self.url(), HttpOptions::default())
    }

    /// A gateway that is waited for as a test has time.
    pub(crate) fn hasty_gateway(&self) -> Gateway {
        Gateway::new(self.url(), hasty())
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Short limits, for servers that reach them.
pub(crate) fn hasty() -> HttpOptions {
    HttpOptions {
        connect_max: Duration::from_secs(2),
        silence_max: Duration::from_millis(300),
        request_max: Duration::from_secs(1),
        ..HttpOptions::default()
    }
}

/// An answer with a body.
pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).expect("an answer")
}
