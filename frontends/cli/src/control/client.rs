//! The command's side: [`Namespace`] by asking the server.

use std::{
    fmt::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use muxfs::{
    Cid, Error, ErrorKind, Prefix, QfsPath, Result,
    dag::{Entry, Link},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{FRAME_END, FRAME_FAILURE, FRAME_LEN_MAX, Failure, Hello, PROTOCOL, PROTOCOL_HEADER};
use crate::commands::{
    car, cp,
    doctor::Finding as Diagnosis,
    key,
    verify_all::{AllFinding, VerifyAll},
    zstor,
};
use crate::mounts::MountPoint;
use crate::namespace::{
    Collecting, Difference, Durable, EntryText, Finding, Hold, Input, Kept, Kind, LinkText, Logged, Namespace, Place,
    Stat, from_text, to_text,
};
use crate::reload::Reloaded;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The longest answer that is not a stream.
const ANSWER_LEN_MAX: usize = 256 << 20;

/// Connections to the server, one for each request under way.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    idle: Mutex<Vec<SendRequest<Body>>>,
    /// The process that answered first.
    server: OnceLock<i32>,
}

impl Client {
    /// Connects, and checks that both speak the same protocol.
    ///
    /// # Errors
    /// `Unavailable` if nobody answers; `Unsupported` for another protocol; `Denied`.
    pub(crate) async fn connect(socket: PathBuf) -> Result<Self> {
        let client = Self { socket, idle: Mutex::default(), server: OnceLock::new() };
        let hello: Hello = client.ask(Method::GET, "hello", &[], empty()).await?;
        if hello.protocol != PROTOCOL {
            return Err(Error::new(ErrorKind::Unsupported, "control.hello")
                .because(format!("the server is muxfs {} and speaks protocol {}", hello.version, hello.protocol)));
        }
        Ok(client)
    }

    async fn connection(&self) -> Result<SendRequest<Body>> {
        {
            // One whose last answer is still being read is not ready, and not waited for.
            let mut idle = self.idle.lock().expect("no panic holds it");
            idle.retain(|send| !send.is_closed());
            if let Some(ready) = idle.iter().position(SendRequest::is_ready) {
                return Ok(idle.swap_remove(ready));
            }
        }
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.broken(error))?;
        // What one was given and had not made durable, the next does not have.
        if let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid())
            && *self.server.get_or_init(|| pid) != pid
        {
            return Err(self.broken(
                "the server ended, and another one answers: what was not durable yet may be lost, so begin again",
            ));
        }
        let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        Ok(send)
    }

    async fn request(
        &self,
        method: Method,
        call: &str,
        args: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Incoming>> {
        let mut send = self.connection().await?;
        let request = Request::builder()
            .method(method)
            .uri(uri(call, args))
            .header("host", "muxfs")
            .header(PROTOCOL_HEADER, PROTOCOL)
            .body(body)
            .map_err(|error| Error::new(ErrorKind::Internal, "control.request").because(error))?;
        let response = send.send_request(request).await.map_err(|error| self.broken(error))?;
        self.idle.lock().expect("no panic holds it").push(send);
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(failure.into()),
            Err(_) => Err(Error::new(ErrorKind::Internal, "control.request")
                .because(format!("the server says {status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        call: &str,
        args: &[(&str, &str)],
        body: Body,
    ) -> Result<T> {
        let response = self.request(method, call, args, body).await?;
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_LEN_MAX);
        let body = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| Error::new(ErrorKind::Internal, "control.answer").because(error))
    }

    /// The file that the server read its configuration from.
    pub(crate) async fn config_file(&self) -> Result<Option<PathBuf>> {
        self.ask(Method::GET, "config-file", &[], empty()).await
    }

    /// Has the server read its configuration again.
    pub(crate) async fn reload(&self) -> Result<Reloaded> {
        self.ask(Method::POST, "reload", &[], empty()).await
    }

    /// Has the server mount.
    pub(crate) async fn mount(&self, point: &MountPoint) -> Result<()> {
        self.ask(Method::POST, "mount", &[], whole(encode(point)?)).await
    }

    /// Has the server unmount, where it mounted.
    pub(crate) async fn umount(&self, dir: &Path, lazy: bool) -> Result<bool> {
        let dir = path_text(dir.as_os_str().as_bytes());
        let lazy = if lazy { "true" } else { "false" };
        self.ask(Method::DELETE, "mount", &[("dir", &dir), ("lazy", lazy)], empty()).await
    }

    /// Asks for what makes a commit, or names one.
    async fn ask_cid(&self, call: &str, mount: Prefix, text: &str) -> Result<Cid> {
        let cid: String = self.ask(Method::POST, call, &[("mount", mount.as_str()), ("text", text)], empty()).await?;
        cid.parse()
    }

    fn frames<'a>(
        &'a self,
        method: Method,
        call: &'a str,
        args: Vec<(&'a str, String)>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + 'a {
        let begun = async move {
            let args: Vec<(&str, &str)> = args.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Ok::<_, Error>(self.frames_of(self.request(method, call, &args, empty()).await?))
        };
        stream::once(begun).try_flatten()
    }

    /// The frames of an answer.
    fn frames_of(&self, response: Response<Incoming>) -> impl Stream<Item = Result<Bytes>> + Send + '_ {
        let body = response.into_body().into_data_stream();
        stream::try_unfold((body, BytesMut::new()), move |(mut body, mut held)| async move {
            let len = take(self, &mut body, &mut held, 4).await?.get_u32();
            match len {
                FRAME_END => Ok(None),
                FRAME_FAILURE => {
                    let len = take(self, &mut body, &mut held, 4).await?.get_u32().min(FRAME_LEN_MAX);
                    let failure = take(self, &mut body, &mut held, len as usize).await?;
                    Err(serde_json::from_slice::<Failure>(&failure).map_or_else(
                        |error| Error::new(ErrorKind::Internal, "control.frame").because(error),
                        Error::from,
                    ))
                }
                len if len > FRAME_LEN_MAX => {
                    Err(Error::new(ErrorKind::Internal, "control.frame").because("the server sent a frame too long"))
                }
                len => {
                    let payload = take(self, &mut body, &mut held, len as usize).await?;
                    Ok(Some((payload, (body, held))))
                }
            }
        })
    }

    fn broken(&self, error: impl Into<muxfs::BoxError>) -> Error {
        Error::new(ErrorKind::Unavailable, "control").at(self.socket.display()).because(error)
    }
}

/// The next `len` bytes of a body.
async fn take(
    client: &Client,
    body: &mut (impl Stream<Item = hyper::Result<Bytes>> + Unpin),
    held: &mut BytesMut,
    len: usize,
) -> Result<Bytes> {
    while held.len() < len {
        let more = body.next().await.ok_or_else(|| client.broken("the server broke off"))?;
        held.extend_from_slice(&more.map_err(|error| client.broken(error))?);
    }
    Ok(held.split_to(len).freeze())
}

fn uri(call: &str, args: &[(&str, &str)]) -> String {
    let mut uri = format!("/v1/{call}");
    for (index, (name, value)) in args.iter().enumerate() {
        uri.push(if index == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => uri.push(char::from(byte)),
                _ => _ = write!(uri, "%{byte:02X}"),
            }
        }
    }
    uri
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(input: Input) -> Body {
    let bytes = match input {
        Input::File(file) => file.stream(),
        Input::Stream(stream) => stream,
    };
    StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()
}

fn json<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| Error::new(ErrorKind::Internal, "control.line").because(error))
}

/// Says when it is durable what is put.
fn later(durable: Durable) -> (&'static str, &'static str) {
    ("later", if durable == Durable::Later { "true" } else { "false" })
}

/// A path, as the protocol carries it.
pub(super) fn path_text(path: &[u8]) -> String {
    to_text(path)
}

/// Reads what [`path_text`] wrote.
pub(super) fn path_bytes(text: &str) -> Result<Vec<u8>> {
    from_text(text).ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "control.path").because("bad hex digits"))
}

fn link(text: LinkText) -> Result<Link> {
    text.try_into()
}

#[async_trait]
impl Namespace for Client {
    async fn stat(&self, place: &Place) -> Result<Stat> {
        self.ask(Method::GET, "stat", &[("path", &path_text(&place.to_bytes()))], empty()).await
    }

    fn list<'a>(&'a self, place: &'a Place) -> BoxStream<'a, Result<Stat>> {
        let lines = self.frames(Method::GET, "list", vec![("path", path_text(&place.to_bytes()))]);
        lines.and_then(|line| async move { json(&line) }).boxed()
    }

    fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>> {
        self.frames(Method::GET, "read", vec![("path", path_text(&path.to_bytes()))]).boxed()
    }

    async fn has(&self, path: &QfsPath) -> Result<bool> {
        self.ask(Method::GET, "has", &[("path", &path_text(&path.to_bytes()))], empty()).await
    }

    async fn put(&self, path: &QfsPath, input: Input, durable: Durable) -> Result<QfsPath> {
        let path = path_text(&path.to_bytes());
        let put: String = self.ask(Method::POST, "file", &[("path", &path), later(durable)], streamed(input)).await?;
        QfsPath::parse(&path_bytes(&put)?)
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        self.ask(Method::DELETE, "file", &[("path", &path_text(&path.to_bytes()))], empty()).await
    }

    fn cp<'a>(&'a self, source: &'a QfsPath, target: &'a QfsPath) -> BoxStream<'a, Result<cp::Copying>> {
        let args = vec![("path", path_text(&source.to_bytes())), ("target", path_text(&target.to_bytes()))];
        self.frames(Method::POST, "cp", args).and_then(|line| async move { json(&line) }).boxed()
    }

    async fn put_dir(&self, path: &QfsPath, durable: Durable) -> Result<()> {
        self.ask(Method::POST, "dir", &[("path", &path_text(&path.to_bytes())), later(durable)], empty()).await
    }

    async fn put_symlink(&self, path: &QfsPath, target: Bytes, durable: Durable) -> Result<()> {
        self.ask(Method::POST, "symlink", &[("path", &path_text(&path.to_bytes())), later(durable)], whole(target))
            .await
    }

    async fn put_link(&self, source: &QfsPath, target: &QfsPath, durable: Durable) -> Result<()> {
        let (path, target) = (path_text(&source.to_bytes()), path_text(&target.to_bytes()));
        self.ask(Method::POST, "link", &[("path", &path), ("target", &target), later(durable)], empty()).await
    }

    async fn put_node(&self, path: &QfsPath, kind: Kind, rdev: (u32, u32), durable: Durable) -> Result<()> {
        let body = whole(encode(&(kind, rdev))?);
        self.ask(Method::POST, "node", &[("path", &path_text(&path.to_bytes())), later(durable)], body).await
    }

    async fn keep(&self, path: &QfsPath, kept: &Kept, durable: Durable) -> Result<()> {
        let body = whole(encode(kept)?);
        self.ask(Method::POST, "keep", &[("path", &path_text(&path.to_bytes())), later(durable)], body).await
    }

    async fn commit(&self, mount: Prefix, note: &str) -> Result<Cid> {
        self.ask_cid("commit", mount, note).await
    }

    async fn log(&self, path: &QfsPath) -> Result<Vec<Logged>> {
        self.ask(Method::GET, "log", &[("path", &path_text(&path.to_bytes()))], empty()).await
    }

    fn diff<'a>(&'a self, path: &'a QfsPath, before: &'a str, after: &'a str) -> BoxStream<'a, Result<Difference>> {
        let args = vec![("path", path_text(&path.to_bytes())), ("before", before.into()), ("after", after.into())];
        let lines = self.frames(Method::GET, "diff", args);
        lines.and_then(|line| async move { json(&line) }).boxed()
    }

    async fn snapshot(&self, mount: Prefix, name: &str) -> Result<Cid> {
        self.ask_cid("snapshot", mount, name).await
    }

    async fn remove_snapshot(&self, mount: Prefix, name: &str) -> Result<()> {
        self.ask(Method::DELETE, "snapshot", &[("mount", mount.as_str()), ("text", name)], empty()).await
    }

    async fn checkout(&self, mount: Prefix, commit: &str) -> Result<Cid> {
        self.ask_cid("checkout", mount, commit).await
    }

    async fn restore(&self, commit: &str, path: &QfsPath, target: &QfsPath) -> Result<u64> {
        let (path, target) = (path_text(&path.to_bytes()), path_text(&target.to_bytes()));
        let args = [("commit", commit), ("path", &path), ("target", &target)];
        self.ask(Method::POST, "restore", &args, empty()).await
    }

    async fn default_write(&self) -> Result<Prefix> {
        let prefix: String = self.ask(Method::GET, "default", &[], empty()).await?;
        Prefix::new(&prefix)
    }

    async fn import(&self, mount: Prefix, input: Input) -> Result<Link> {
        link(self.ask(Method::POST, "import/file", &[("mount", mount.as_str())], streamed(input)).await?)
    }

    async fn import_symlink(&self, mount: Prefix, target: Bytes) -> Result<Link> {
        link(self.ask(Method::POST, "import/symlink", &[("mount", mount.as_str())], whole(target)).await?)
    }

    async fn import_dir(&self, mount: Prefix, entries: Vec<Entry>) -> Result<Link> {
        let entries: Vec<EntryText> = entries.into_iter().map(Into::into).collect();
        let body = encode(&entries)?;
        link(self.ask(Method::POST, "import/dir", &[("mount", mount.as_str())], whole(body)).await?)
    }

    async fn hold(&self, mount: Prefix, cid: Option<&Cid>) -> Result<Hold> {
        let cid = cid.map(ToString::to_string);
        let args = [("mount", mount.as_str())].into_iter().chain(cid.iter().map(|cid| ("cid", cid.as_str())));
        let response = self.request(Method::GET, "hold", &args.collect::<Vec<_>>(), empty()).await?;
        let mut body = response.into_body().into_data_stream();
        // The answer begins when it holds, and has no end: to drop it ends the connection, as the end of this process does.
        take(self, &mut body, &mut BytesMut::new(), 4).await?;
        Ok(Hold::new(Mutex::new(body)))
    }

    fn gc(&self, mount: Option<Prefix>, dry_run: bool) -> BoxStream<'_, Result<Collecting>> {
        let mut args = vec![("dry_run", if dry_run { "true" } else { "false" }.to_owned())];
        args.extend(mount.map(|mount| ("mount", mount.to_string())));
        self.frames(Method::POST, "gc", args).and_then(|line| async move { json(&line) }).boxed()
    }

    async fn pin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        let args = [("mount", mount.as_str()), ("cid", &cid.to_string())];
        self.ask(Method::POST, "pin", &args, empty()).await
    }

    async fn unpin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        let args = [("mount", mount.as_str()), ("cid", &cid.to_string())];
        self.ask(Method::DELETE, "pin", &args, empty()).await
    }

    async fn pins(&self, mount: Option<Prefix>) -> Result<Vec<(Prefix, Cid)>> {
        let named = mount.map(|mount| mount.to_string());
        let args: Vec<(&str, &str)> = named.iter().map(|mount| ("mount", mount.as_str())).collect();
        let pins: Vec<(String, String)> = self.ask(Method::GET, "pins", &args, empty()).await?;
        pins.into_iter().map(|(mount, cid)| Ok((Prefix::new(&mount)?, cid.parse()?))).collect()
    }

    fn verify<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Finding>> {
        let lines = self.frames(Method::GET, "verify", vec![("path", path_text(&path.to_bytes()))]);
        lines.and_then(|line| async move { json(&line) }).boxed()
    }

    fn car_export<'a>(
        &'a self,
        mount: Prefix,
        root: &'a Cid,
        options: &'a car::Export,
    ) -> BoxStream<'a, Result<car::Piece>> {
        let asked = async move {
            let args = [("mount", mount.as_str()), ("cid", &root.to_string())];
            self.request(Method::POST, "car/export", &args, whole(encode(options)?)).await
        };
        let frames = stream::once(asked).map_ok(|response| self.frames_of(response)).try_flatten();
        frames.and_then(|frame| async move { car::Piece::decode(&frame) }).boxed()
    }

    async fn car_import(&self, mount: Prefix, input: Input, options: &car::Import) -> Result<car::Imported> {
        let (all, whole) = (options.all.to_string(), options.whole.to_string());
        let args = [("mount", mount.as_str()), ("all", &all), ("whole", &whole), ("roots", &options.roots.join(","))];
        self.ask(Method::POST, "car/import", &args, streamed(input)).await
    }

    fn doctor(&self) -> BoxStream<'_, Result<Diagnosis>> {
        let asked = self.request(Method::GET, "doctor", &[], empty());
        let lines = stream::once(asked).map_ok(|response| self.frames_of(response)).try_flatten();
        lines.and_then(|line| async move { json(&line) }).boxed()
    }

    fn verify_all<'a>(&'a self, options: &'a VerifyAll) -> BoxStream<'a, Result<AllFinding>> {
        let restart = options.restart.to_string();
        let rate_max = options.rate_max.map(|rate| rate.to_string());
        let asked = async move {
            let mut args = vec![("restart", restart.as_str())];
            args.extend(options.mount.as_deref().map(|mount| ("mount", mount)));
            args.extend(rate_max.as_deref().map(|rate| ("rate_max", rate)));
            self.request(Method::GET, "verify-all", &args, empty()).await
        };
        let lines = stream::once(asked).map_ok(|response| self.frames_of(response)).try_flatten();
        lines.and_then(|line| async move { json(&line) }).boxed()
    }

    async fn zstor_status(&self, mount: Option<Prefix>) -> Result<Vec<zstor::Status>> {
        let named = mount.map(|mount| mount.to_string());
        let args: Vec<(&str, &str)> = named.iter().map(|mount| ("mount", mount.as_str())).collect();
        self.ask(Method::GET, "zstor/status", &args, empty()).await
    }

    async fn zstor_plan(&self, mount: Option<Prefix>, lose: &[String]) -> Result<zstor::Plan> {
        let named = mount.map(|mount| mount.to_string());
        let args: Vec<(&str, &str)> = named.iter().map(|mount| ("mount", mount.as_str())).collect();
        self.ask(Method::POST, "zstor/plan", &args, whole(encode(&lose)?)).await
    }

    fn zstor_scrub<'a>(&'a self, options: &'a zstor::Scrub) -> BoxStream<'a, Result<zstor::Scrubbing>> {
        let mut args = vec![("restart", options.restart.to_string())];
        args.extend(options.mount.clone().map(|mount| ("mount", mount)));
        args.extend(options.rate_max.map(|rate| ("rate_max", rate.to_string())));
        self.frames(Method::POST, "zstor/scrub", args).and_then(|line| async move { json(&line) }).boxed()
    }

    fn key_rotate<'a>(&'a self, options: &'a key::Rotate) -> BoxStream<'a, Result<key::Rotating>> {
        let mut args = vec![("wait", options.wait.to_string())];
        args.extend(options.mount.clone().map(|mount| ("mount", mount)));
        self.frames(Method::POST, "key/rotate", args).and_then(|line| async move { json(&line) }).boxed()
    }

    async fn config(&self) -> Result<String> {
        self.ask(Method::GET, "config", &[], empty()).await
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| Error::new(ErrorKind::Internal, "control.encode").because(error))
}
