//! The server: the socket that it listens on, its connections, and the end of it.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use muxfs::{
    Error, ErrorKind, Result,
    vfs::{Vfs, posix::posix},
};
use s3s::{
    Body, HttpError,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Options,
    forms::{self, FORM_TIME_MAX, Forms},
    keys::Guard,
    objects::Buckets,
    patience::Patient,
    service::Frontend,
    stall::Stall,
    told,
};

/// How long accepting pauses when the process has no file descriptor left: others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is one too many is kept to be told so.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest head of a request, in bytes: a longer one is told 431.
const HEAD_LEN_MAX: usize = 96 << 10;

/// What an answer is called, so that people can speak of it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// What all connections of a server share.
struct Shared {
    service: S3Service,
    forms: Forms,
    options: Options,
    tasks: TaskTracker,
    /// Begin nothing new.
    closing: CancellationToken,
    /// Stop at once.
    killed: CancellationToken,
}

impl Shared {
    fn request_id(&self) -> HeaderValue {
        let mut random = [0; 8];
        (self.options.env.fill)(&mut random);
        let text = format!("{:016X}", u64::from_le_bytes(random));
        text.parse().expect("16 digits")
    }
}

/// A running server. Dropped, it ends at once; [`Server::shutdown`] lets requests under way end.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Serves the directories in the root of the options as buckets, within a Tokio runtime. Connections are accepted when
/// this returns, and what an earlier server left half done is gone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> muxfs::Result<()> {
/// use muxfs::testing::{self, model::ModelFs};
/// let options = muxfs_s3_serve::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
/// let server = muxfs_s3_serve::serve(ModelFs::new(testing::env()), options).await?;
/// assert_ne!(server.local_addr().port(), 0);
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` for options that cannot be meant; `NotFound`, `NotDir` for a root that is no directory; `Io` where
/// the address cannot be had.
pub async fn serve(vfs: Arc<dyn Vfs>, options: Options) -> Result<Server> {
    options.check()?;
    let failed = |error: io::Error| Error::new(ErrorKind::Io, "s3.listen").at(options.addr).because(error);
    let listener = StdTcpListener::bind(options.addr).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let buckets = Buckets::open(posix(vfs, options.caller.clone()), &options).await?;
    let mut builder = S3ServiceBuilder::new(Frontend::new(buckets, &options));
    builder.set_auth(Guard(options.keys.clone()));
    builder.set_access(Guard(options.keys.clone()));
    builder.set_config(forms::limits());
    let (closing, killed, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let shared =
        Arc::new(Shared { service: builder.build(), forms: Forms::default(), options, tasks, closing, killed });
    shared.tasks.spawn(accept(listener, shared.clone()));
    tracing::info!(%addr, "S3 listens");
    Ok(Server { addr, shared })
}

impl Server {
    /// The address that it listens on, with the port that was picked where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts no more connections, closes idle ones, waits for requests under way for the grace of the options, and cuts
    /// off what is left.
    pub async fn shutdown(self) {
        self.shared.closing.cancel();
        let tasks = &self.shared.tasks;
        tasks.close();
        if timeout(self.shared.options.shutdown_grace, tasks.wait()).await.is_err() {
            tracing::warn!(count = tasks.len(), "S3 connections are cut off");
            self.shared.killed.cancel();
            tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.killed.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let tasks = &shared.tasks;
    let places = Arc::new(Semaphore::new(shared.options.connections_max.min(Semaphore::MAX_PERMITS)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match places.clone().try_acquire_owned() {
                Ok(place) => drop(tasks.spawn(attend(shared.clone(), stream, place))),
                Err(_) => drop(tasks.spawn(turn_away(stream))),
            },
            Err(error) if is_of_the_peer(&error) => tracing::debug!(%error, "S3: a connection was gone at once"),
            Err(error) => {
                tracing::warn!(%error, "S3 cannot accept a connection");
                shared.closing.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Whether a connection failed before it was accepted, and the next one is no worse for it.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn attend(shared: Arc<Shared>, stream: TcpStream, place: OwnedSemaphorePermit) {
    metrics::gauge!("muxfs_s3_connections").increment(1.0);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "S3: small answers may wait");
    }
    let stream = TokioIo::new(Stall::new(stream, shared.options.stall_timeout));
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move {
            let is_attributes = told::is_attributes(request.uri().query());
            let expects_in_vain = told::expects_in_vain(&request);
            let patience = shared.options.stall_timeout;
            let request = hyper::Request::map(request, |body| Body::http_body(Patient::new(body, patience)));
            let mut answer = if forms::is_form(&request) {
                let _place = shared.forms.place().await;
                timeout(FORM_TIME_MAX, shared.service.call(request)).await.map_err(late)??
            } else {
                shared.service.call(request).await?
            };
            let id = shared.request_id();
            told::correct(&mut answer, &id, is_attributes);
            answer.headers_mut().insert(REQUEST_ID, id);
            if expects_in_vain {
                told::end_connection(&mut answer);
            }
            Ok::<_, HttpError>(answer)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(shared.options.head_timeout)
            .max_header_size(HEAD_LEN_MAX)
            .serve_connection(stream, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = shared.killed.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "S3: a connection broke off");
    }
    metrics::gauge!("muxfs_s3_connections").decrement(1.0);
    drop(place);
}

/// A form that did not come ends its connection.
fn late(elapsed: Elapsed) -> HttpError {
    HttpError::new(Box::new(elapsed))
}

/// A word that fits into the buffer of any socket, so that nobody is waited for.
async fn turn_away(mut stream: TcpStream) {
    metrics::counter!("muxfs_s3_connections_refused_total").increment(1);
    let answer =
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 22\r\n\r\n\
                   Too many connections.\n";
    if timeout(REFUSAL_TIME_MAX, stream.write_all(answer)).await.is_err() {
        tracing::debug!("S3: a client was turned away without a word");
    }
}
