//! An HTTP/1.1 client for one server: connections that are used again, TLS, redirects, and a limit on everything.
//!
//! Sits below [`Gateway`](crate::Gateway). What a server may cost is bounded here: connections, the head of an
//! answer, its body, how long it may be silent. How long a whole request may take is bounded by who sends it, since to
//! drop one ends it. Spec: spec/sources.md #limits.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Body as _, Incoming},
    client::conn::http1,
    header::{ACCEPT_ENCODING, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT, VIA},
};
use hyper_util::rt::TokioIo;
use muxfs::{BoxError, Error, ErrorKind, Result};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Undecided,
    url::{Origin, Url, redirected},
};

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// So many redirects are followed.
const REDIRECT_COUNT_MAX: usize = 3;
/// The longest head of an answer, in bytes and in headers.
const HEAD_LEN_MAX: usize = 64 << 10;
const HEADER_COUNT_MAX: usize = 100;
/// Of a name with more addresses, so many are tried.
const ADDR_COUNT_MAX: usize = 4;
/// A connection that nobody used for so long is not used again: the server is about to close it.
const IDLE_AGE_MAX: Duration = Duration::from_secs(20);
/// An answer nobody wants to read is read all the same if it is no longer, so that the connection can be used again.
const UNWANTED_LEN_MAX: usize = 16 << 10;
/// The trailer that tells of an error after the beginning of an answer.
const STREAM_ERROR: &str = "x-stream-error";
/// So much is shown of what a server says, in bytes.
const SHOWN_LEN_MAX: usize = 300;
/// Tells another MuxFS on whose behalf it is asked: it answers from what it has, so that nobody is asked in a circle.
const VIA_MUXFS: HeaderValue = HeaderValue::from_static("1.1 muxfs");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("muxfs/", env!("CARGO_PKG_VERSION")));

/// What a server may cost.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// How long it may take to connect to one of its addresses.
    pub connect_max: Duration,
    /// How long a server may send nothing while it is waited for.
    pub silence_max: Duration,
    /// How long a request for a block may take, to its last byte.
    pub request_max: Duration,
    /// How many connections to a server there may be at once.
    pub connection_count_max: usize,
    /// Who is trusted to say whose a certificate is; whom this machine trusts where `None`.
    pub roots: Option<Arc<RootCertStore>>,
}

impl Default for HttpOptions {
    /// 5 s, 10 s and 25 s; 16 connections.
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(5),
            silence_max: Duration::from_secs(10),
            request_max: Duration::from_secs(25),
            connection_count_max: 16,
            roots: None,
        }
    }
}

/// A server, and the connections to it.
pub(crate) struct Http {
    url: Url,
    options: HttpOptions,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    /// Half of them: so many at most are for what is no block.
    spare_places: Semaphore,
    tls: OnceCell<TlsConnector>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.url)
    }
}

struct Connection {
    send: http1::SendRequest<Body>,
    used: Instant,
    /// Whether its other end has an address of the Internet.
    is_public: bool,
    /// To drop it closes the connection, whatever the server is sending.
    _driver: AbortOnDropHandle<()>,
}

/// An answer whose head is there.
pub(crate) struct Answer<'a> {
    http: &'a Http,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    connection: Connection,
    /// Whether the connection leads to the server itself, not to where it redirected to.
    is_own: bool,
    place: OwnedSemaphorePermit,
}

impl Http {
    pub(crate) fn new(url: Url, options: HttpOptions) -> Self {
        let count = options.connection_count_max.clamp(1, Semaphore::MAX_PERMITS);
        let (places, spare_places) = (Arc::new(Semaphore::new(count)), Semaphore::new(count.div_ceil(2)));
        Self { url, options, idle: Mutex::default(), places, spare_places, tls: OnceCell::new() }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn options(&self) -> &HttpOptions {
        &self.options
    }

    /// The error of a server that did not do what it should.
    pub(crate) fn unavailable(&self, why: impl Into<BoxError>) -> Error {
        Error::new(ErrorKind::Unavailable, "ipfs.http").at(&self.url).because(why)
    }

    /// The error of a server that is there, but did not say in time what it was asked.
    pub(crate) fn undecided(&self, why: impl Into<String>) -> Error {
        self.unavailable(Undecided(why.into()))
    }

    /// What comes of this within the time that a request may take, else [`Http::undecided`].
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let limit = self.options.request_max;
        timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(self.undecided(format!("it takes longer than {} s", limit.as_secs_f32()))))
    }

    /// Asks for what is below the address, without a body, and follows redirects, to other servers too: `headers` are for
    /// whoever answers.
    ///
    /// # Errors
    /// `Unavailable`, naming the address.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        rest: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer<'_>> {
        let mut place = self.place().await?;
        let (mut origin, mut path) = (self.url.origin.clone(), self.url.below(rest));
        let mut must_be_public = false;
        for _ in 0..=REDIRECT_COUNT_MAX {
            let answer = self.send_to((&origin, must_be_public), method, &path, headers, None, place).await?;
            if !matches!(answer.status.as_u16(), 301..=303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or_else(|| self.unavailable("a redirect to nowhere"))?;
            (origin, path) = redirected(&origin, location).map_err(|why| self.unavailable(why))?;
            // A stranger does not have this machine ask others in its own network, be it by a name that leads there by now.
            must_be_public |= answer.connection.is_public || origin.host != self.url.origin.host;
            place = answer.discard().await;
        }
        Err(self.unavailable(format!("more than {REDIRECT_COUNT_MAX} redirects")))
    }

    /// Posts to what is below the address, and to nobody else. An answer is waited for in time where there is no `body`; who sends one sees to
    /// it that it goes on.
    ///
    /// # Errors
    /// `Unavailable`, naming the address.
    pub(crate) async fn post(
        &self,
        rest: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<Body>,
    ) -> Result<Answer<'_>> {
        let place = self.place().await?;
        self.send_to((&self.url.origin, false), &Method::POST, &self.url.below(rest), headers, body, place).await
    }

    /// A place among those that ask for what is no block: however many want that, and however slow the server is with it, there
    /// are connections for blocks.
    pub(crate) async fn spare_place(&self) -> Result<SemaphorePermit<'_>> {
        self.spare_places.acquire().await.map_err(|error| self.unavailable(error))
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.map_err(|error| self.unavailable(error))
    }

    async fn send_to(
        &self,
        (origin, must_be_public): (&Origin, bool),
        method: &Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        mut body: Option<Body>,
        place: OwnedSemaphorePermit,
    ) -> Result<Answer<'_>> {
        let is_own = *origin == self.url.origin;
        // What is sent with a body is sent once: a server may have taken it before it closed the connection.
        let is_upload = body.is_some();
        let mut used = if is_own && !is_upload { self.idle() } else { None };
        used.take_if(|connection| must_be_public && !connection.is_public);
        loop {
            let is_used = used.is_some();
            let mut connection = match used.take() {
                Some(connection) => connection,
                None => self.connect(origin, must_be_public).await?,
            };
            let mut request = Request::builder().method(method).uri(path);
            if let Some(all) = request.headers_mut() {
                all.extend(headers.iter().cloned());
                all.insert(HOST, origin.authority().parse().map_err(|_| self.unavailable("no host by this name"))?);
                all.insert(USER_AGENT, AGENT);
                all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                all.insert(VIA, VIA_MUXFS);
            }
            let body = body.take().unwrap_or_else(|| Empty::new().map_err(|never| match never {}).boxed_unsync());
            let request = request.body(body).map_err(|error| self.unavailable(error))?;
            let sending = async {
                connection.send.ready().await?;
                connection.send.send_request(request).await
            };
            let sent = if is_upload { Ok(sending.await) } else { timeout(self.options.silence_max, sending).await };
            match sent {
                Ok(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    let (status, headers) = (head.status, head.headers);
                    return Ok(Answer { http: self, status, headers, body, connection, is_own, place });
                }
                // It was closed while it was idle.
                Ok(Err(_)) if is_used => {}
                Ok(Err(error)) => return Err(self.unavailable(error)),
                Err(_) => return Err(self.undecided("no answer in time")),
            }
        }
    }

    /// A connection that nobody uses, the one that was used last.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.used.elapsed() < IDLE_AGE_MAX && !connection.send.is_closed());
        idle.pop()
    }

    async fn connect(&self, origin: &Origin, must_be_public: bool) -> Result<Connection> {
        let stream = self.dial(origin, must_be_public).await?;
        let is_public = stream.peer_addr().is_ok_and(|addr| is_public(addr.ip()));
        stream.set_nodelay(true).map_err(|error| self.unavailable(error))?;
        let stream: Box<dyn Stream> = if origin.is_tls {
            let name = ServerName::try_from(origin.host_bare().to_owned()).map_err(|error| self.unavailable(error))?;
            let tls = self.tls.get_or_try_init(|| self.trust()).await?;
            let shake = timeout(self.options.connect_max, tls.connect(name, stream)).await;
            let stream = shake.map_err(|_| self.unavailable("TLS takes too long"))?;
            Box::new(stream.map_err(|error| self.unavailable(format!("TLS: {error}")))?)
        } else {
            Box::new(stream)
        };
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_LEN_MAX).max_headers(HEADER_COUNT_MAX);
        let (send, driver) = http.handshake(TokioIo::new(stream)).await.map_err(|error| self.unavailable(error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to a source broke off");
            }
        });
        Ok(Connection { send, used: Instant::now(), is_public, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Connects to the first address of a host that answers.
    async fn dial(&self, origin: &Origin, must_be_public: bool) -> Result<TcpStream> {
        let limit = self.options.connect_max;
        let found = timeout(limit, lookup_host((origin.host_bare(), origin.port))).await;
        let found = found.map_err(|_| self.unavailable(format!("{} is not found in time", origin.host)))?;
        let addrs = found.map_err(|error| self.unavailable(format!("{}: {error}", origin.host)))?;
        let addrs: Vec<SocketAddr> = addrs.take(ADDR_COUNT_MAX).collect();
        let mut why = format!("{} has no address", origin.host);
        for addr in addrs {
            if must_be_public && !is_public(addr.ip()) {
                why = format!("a redirect to {addr}, which is no public address");
                continue;
            }
            match timeout(limit, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => why = format!("{addr}: {error}"),
                Err(_) => why = format!("{addr} does not answer"),
            }
        }
        Err(self.unavailable(why))
    }

    /// Whom to believe about certificates.
    async fn trust(&self) -> Result<TlsConnector> {
        let roots = if let Some(roots) = &self.options.roots {
            roots.clone()
        } else {
            let roots = tokio::task::spawn_blocking(system_roots).await.map_err(|error| self.unavailable(error))?;
            if roots.is_empty() {
                return Err(self.unavailable("this machine trusts no certificate: install ca-certificates"));
            }
            Arc::new(roots)
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.map_err(|error| self.unavailable(error))?.with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config).into())
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate that this machine may trust cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// Whether an address is one of the Internet, as far as its number tells; one that stands for an IPv4 address is what that is.
fn is_public(ip: IpAddr) -> bool {
    let v4 = |high: u16, low: u16| is_public_v4((u32::from(high) << 16 | u32::from(low)).into());
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.segments() {
            // Compatible, as ::1 and :: look too; mapped; translated; behind a NAT64; in 6to4.
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
            | [0, 0, 0, 0, 0xffff, 0, high, low]
            | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
            | [0x2002, high, low, ..] => v4(high, low),
            // Of protocols, Teredo among them; of examples.
            [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
            // What is given out is here; private, local and multicast ones are not.
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    // Behind the NAT of a provider; of protocols; of benchmarks.
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_reserved = a == 0 || a >= 240 || [a, b, c] == [192, 0, 0] || a == 198 && b & 0xfe == 18;
    let is_special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast();
    !is_special && !is_shared && !is_reserved && !ip.is_documentation()
}

impl Answer<'_> {
    /// The body, to its end.
    ///
    /// # Errors
    /// `Unavailable` where it breaks off, stands still, or is longer than `len_max`.
    pub(crate) async fn read(mut self, len_max: usize) -> Result<Bytes> {
        let body = self.gather(len_max).await?;
        drop(self.end());
        Ok(body)
    }

    /// Lets the connection be used again, of whose answer nothing is left: [`next`](Self::next) said so.
    pub(crate) fn end(mut self) -> OwnedSemaphorePermit {
        if self.is_own {
            self.connection.used = Instant::now();
            self.http.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection);
        }
        self.place
    }

    /// Lets the body go, and gives the place back. The connection is used again if that costs little.
    pub(crate) async fn discard(mut self) -> OwnedSemaphorePermit {
        if self.is_own && self.gather(UNWANTED_LEN_MAX).await.is_ok() {
            return self.end();
        }
        self.place
    }

    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// `Unavailable` where it breaks off, or nothing comes for longer than `silence_max`.
    pub(crate) async fn next(&mut self, silence_max: Duration) -> Result<Option<Bytes>> {
        loop {
            let frame = timeout(silence_max, self.body.frame()).await;
            let frame = frame.map_err(|_| self.http.undecided("an answer stands still"))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.http.unavailable(format!("an answer broke off: {error}")))?;
            let trailers = match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => frame.into_trailers().unwrap_or_default(),
            };
            // What a server says that found out too late for a status.
            if let Some(error) = trailers.get(STREAM_ERROR) {
                return Err(self.http.unavailable(shown(error.as_bytes())));
            }
        }
    }

    /// The next bytes of the body, waited for as long as the options say; `None` at its end.
    pub(crate) async fn next_in_time(&mut self) -> Result<Option<Bytes>> {
        self.next(self.http.options.silence_max).await
    }

    async fn gather(&mut self, len_max: usize) -> Result<Bytes> {
        let too_long = |http: &Http| http.unavailable(format!("an answer longer than {len_max} bytes"));
        let len = self.body.size_hint().lower();
        if len > len_max as u64 {
            return Err(too_long(self.http));
        }
        let mut body = BytesMut::new();
        while let Some(data) = self.next(self.http.options.silence_max).await? {
            if data.len() > len_max - body.len() {
                return Err(too_long(self.http));
            }
            if body.is_empty() {
                // Believed, since it is no more than the most.
                body.reserve(usize::try_from(len).unwrap_or(0).clamp(data.len(), len_max));
            }
            body.extend_from_slice(&data);
        }
        Ok(body.freeze())
    }
}

/// What a server says, as it can be shown: a line of it, and no control characters.
pub(crate) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..SHOWN_LEN_MAX).unwrap_or(text));
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What HTTP is spoken over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the address that is connected to, whatever the name says: a name that led elsewhere before leads nowhere then.
    #[tokio::test]
    async fn where_a_stranger_redirects_to_has_to_be_public() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let http = Http::new(format!("http://{host}:{port}").parse().expect("an address"), HttpOptions::default());
            let error = http.dial(&http.url.origin, true).await.expect_err("it is this machine");
            assert!(format!("{error:#}").contains("no public address"), "{error:#}");
            let connected = http.connect(&http.url.origin, false).await;
            assert!(connected.is_ok_and(|connection| !connection.is_public), "{host}");
        }
    }

    #[test]
    fn addresses_of_this_machine_and_its_network_are_not_public() {
        for ip in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"] {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in
            ["192.0.0.8", "198.18.0.1", "198.19.255.255", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"]
        {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in
            ["::1", "::", "fe80::1", "fec0::1", "fd00::1", "ff02::1", "100::1", "2001:db8::1", "2001::1", "3fff::1"]
        {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in
            ["1.1.1.1", "192.0.66.1", "100.128.0.1", "198.17.0.1", "198.20.0.1", "2606:4700::1111", "2001:4860::8888"]
        {
            assert!(is_public(ip.parse().expect("an address")), "{ip}");
        }
    }

    /// Whatever a name server says: a router or this system may turn each of these into the IPv4 address in it.
    #[test]
    fn an_address_within_another_is_public_where_it_is_itself() {
        for [before, after] in [["::", ""], ["::ffff:", ""], ["::ffff:0:", ""], ["64:ff9b::", ""], ["2002:", "::1"]] {
            for (inner, expected) in [("7f00:1", false), ("0a01:203", false), ("a9fe:a9fe", false), ("0101:101", true)]
            {
                let ip = format!("{before}{inner}{after}");
                assert_eq!(is_public(ip.parse().expect("an address")), expected, "{ip}");
            }
        }
        for ip in ["64:ff9b:1::101:101", "64:ff9b:0:0:0:1:101:101"] {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
    }
}
