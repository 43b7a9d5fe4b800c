//! The HTTP/1.1 below `object_store`: connections that are used again, over TLS with the roots that this machine trusts.
//!
//! Ours, so that no other client, and no other TLS, comes with that crate. How long anything may take is bounded above, in
//! [`Bucket`](crate::Bucket): to drop a call ends it here.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{
    Request, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::bucket::Rest;

/// So long a connection may take to be there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A connection that nobody used for so long is not used again: the server is about to close it.
const IDLE_AGE_MAX: Duration = Duration::from_secs(4);
/// So many connections to a server wait to be used again.
const IDLE_COUNT_MAX: usize = 32;
/// The longest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 64 << 10;
/// The longest answer that says why something was refused, and the longest page of a listing, in bytes.
const REASON_LEN_MAX: u64 = 64 << 10;
const PAGE_LEN_MAX: u64 = 16 << 20;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("muxfs/", env!("CARGO_PKG_VERSION")));

/// Makes clients.
#[derive(Debug)]
pub(crate) struct Connector {
    /// Is told when a server asks to be left alone.
    pub(crate) rest: Arc<Rest>,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client { pool: Arc::default(), tls: OnceCell::new(), rest: Arc::clone(&self.rest) }))
    }
}

/// Connections that nobody uses, by server.
#[derive(Default)]
struct Pool(Mutex<HashMap<String, Vec<Connection>>>);

impl Pool {
    fn take(&self, server: &str) -> Option<Connection> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.get_mut(server)?;
        idle.retain(|connection| connection.used.elapsed() < IDLE_AGE_MAX && !connection.send.is_closed());
        idle.pop()
    }

    fn give(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.entry(connection.server.clone()).or_default();
        if idle.len() < IDLE_COUNT_MAX {
            idle.push(connection);
        }
    }
}

struct Connection {
    server: String,
    send: http1::SendRequest<HttpRequestBody>,
    used: Instant,
    /// To drop it closes the connection.
    _driver: AbortOnDropHandle<()>,
}

struct Client {
    pool: Arc<Pool>,
    tls: OnceCell<TlsConnector>,
    rest: Arc<Rest>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

fn connecting(why: impl std::error::Error + Send + Sync + 'static) -> HttpError {
    HttpError::new(HttpErrorKind::Connect, why)
}

fn refused(why: impl Into<String>) -> HttpError {
    connecting(std::io::Error::other(why.into()))
}

impl Client {
    async fn connect(&self, uri: &Uri, server: String) -> Result<Connection, HttpError> {
        let host = uri.host().ok_or_else(|| refused("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let dial = async {
            let stream = TcpStream::connect((host, port)).await.map_err(connecting)?;
            stream.set_nodelay(true).map_err(connecting)?;
            if !is_tls {
                return Ok::<_, HttpError>(Box::new(stream) as Box<dyn Stream>);
            }
            let name = ServerName::try_from(host.to_owned()).map_err(connecting)?;
            let tls = self.tls.get_or_try_init(trust).await?;
            Ok(Box::new(tls.connect(name, stream).await.map_err(connecting)?) as Box<dyn Stream>)
        };
        let stream = timeout(CONNECT_MAX, dial).await.map_err(|_| refused(format!("{server} does not answer")))??;
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_LEN_MAX * 8).max_headers(100);
        let (send, driver) = http.handshake(TokioIo::new(stream)).await.map_err(connecting)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to a bucket broke off");
            }
        });
        Ok(Connection { server, send, used: Instant::now(), _driver: AbortOnDropHandle::new(driver) })
    }
}

/// Whom this machine trusts.
async fn trust() -> Result<TlsConnector, HttpError> {
    let roots = tokio::task::spawn_blocking(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    });
    let roots = roots.await.map_err(connecting)?;
    if roots.is_empty() {
        return Err(refused("this machine trusts no certificate: install ca-certificates"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(connecting)?.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config).into())
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri);
        let authority = uri.authority().ok_or_else(|| refused("no host"))?.as_str().to_owned();
        let server = format!("{}://{authority}", uri.scheme_str().unwrap_or("http"));
        if !head.headers.contains_key(HOST) {
            let host = HeaderValue::from_str(&authority).map_err(connecting)?;
            head.headers.insert(HOST, host);
        }
        head.headers.insert(USER_AGENT, AGENT);
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let is_listing = path.query().is_some_and(|query| query.contains("list-type="));
        head.uri = Uri::from(path);
        let mut used = self.pool.take(&server);
        loop {
            let is_used = used.is_some();
            let mut connection = match used.take() {
                Some(connection) => connection,
                None => self.connect(&uri, server.clone()).await?,
            };
            let request = Request::from_parts(head.clone(), body.clone());
            let sent = async {
                connection.send.ready().await?;
                connection.send.send_request(request).await
            };
            match sent.await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let len_max = match is_listing {
                        _ if !head.status.is_success() => REASON_LEN_MAX,
                        true => PAGE_LEN_MAX,
                        // Whoever reads an object counts.
                        false => u64::MAX,
                    };
                    if let Some(pause) = pause_asked_for(head.status, &head.headers) {
                        self.rest.ask(pause);
                    }
                    let pool = Arc::downgrade(&self.pool);
                    let body = Answer { body, len_max, connection: Some(connection), pool };
                    return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)));
                }
                // It was closed while it was idle. Whoever puts on a condition finds out whether that happened twice.
                Err(_) if is_used => {}
                Err(error) => return Err(HttpError::new(HttpErrorKind::Interrupted, error)),
            }
        }
    }
}

/// How long a server asks to be left alone; a time of day is not told apart from nothing.
fn pause_asked_for(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The body of an answer; at its end the connection may be used again.
struct Answer {
    body: Incoming,
    /// So much more of it may come, in bytes.
    len_max: u64,
    connection: Option<Connection>,
    pool: Weak<Pool>,
}

impl Answer {
    fn end(&mut self) {
        if let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.upgrade()) {
            pool.give(connection);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.end();
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let len = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.len_max.checked_sub(len) else {
                let why = std::io::Error::other("the answer has no end");
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, why))));
            };
            self.len_max = left;
        }
        frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody reads a body that is empty.
        if self.body.is_end_stream() {
            self.end();
        }
    }
}

/// What HTTP is spoken over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
