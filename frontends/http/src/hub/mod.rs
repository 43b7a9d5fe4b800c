//! A hub: flists of several users, listed, searched, looked into, downloaded and given, at the addresses that clients of
//! 0-hub use.
//!
//! ```text
//!   answer --> hub --> api, pages             what is read: JSON, and HTML     --> shelf   the directory
//!               '----> users, change, receive what a user changes, and uploads --> shelf, Flists
//! ```
//!
//! A repository is a directory, and belongs to the user of its name; an flist is a file in it, or a symlink to one. Who
//! changes something shows the token of a user, as `Authorization: Bearer` alone, which no browser sends by itself. The
//! hub is below `/hub`, and for clients that know no such word where no mount is. What an flist is it asks [`Flists`].
//! Spec: spec/hub.md.

mod api;
mod change;
mod form;
mod names;
mod pages;
mod receive;
mod shelf;
mod users;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use axum::{
    body::{Body, BodyDataStream},
    http::{
        HeaderValue, Method, Response, StatusCode,
        header::{ACCEPT, WWW_AUTHENTICATE},
        request::Parts,
    },
};
use muxfs::{Error, ErrorKind, FileKind, Name, Prefix, Result as MuxResult};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::sleep,
};

pub use self::users::{HubUser, hub_users, with_hub_user, without_hub_user};
use self::{
    names::{Form, address, is_reserved, name},
    pages::Pages,
    shelf::{Result, Shelf, Spot, absent, failed},
    users::Users,
};
use crate::{
    access::{self, REFUSAL_TIME},
    answer::identify,
    body,
    failure::Failure,
    guard, ours, page,
    server::Shared,
    target::{Query, Target},
};

/// What all addresses of the hub begin with, unless a mount is called so.
const HUB: &str = "hub";
/// So many uploads are under way at a time, and of each repository, with what is made of them; one more is told 503.
const UPLOAD_COUNT_MAX: usize = 8;
const OWN_UPLOAD_COUNT_MAX: usize = 4;
/// So many answers that wait for the disk are made at a time; others wait.
const READ_COUNT_MAX: usize = 8;
/// So many flists are told whole at a time, each to a client that may be slow; others wait.
const CONTENT_COUNT_MAX: usize = 4;
/// So many flists are made at a time: the tree of each may take a gigabyte of memory.
const MAKE_COUNT_MAX: usize = 1;
/// So many wait for that, or are made; one more is told 503.
const WAITING_COUNT_MAX: usize = 16;
/// The longest list of flists to merge, in bytes, and how many they may be.
const MERGE_LEN_MAX: usize = 64 << 10;
const MERGE_COUNT_MAX: usize = 64;
const REALM: &str = "Bearer realm=\"MuxFS hub\"";
const UNREAD: &str = "This needs the token of a user of the hub, or that of this server, or a user of it.";

/// A node of an flist.
#[derive(Debug, Clone)]
pub struct HubNode {
    /// Its name; in the root's place any.
    pub name: Name,
    /// What it is.
    pub kind: FileKind,
    /// In bytes, as the flist says.
    pub size: u64,
    /// The twelve permission bits.
    pub mode: u32,
    /// When its content changed.
    pub mtime: SystemTime,
    /// Of a symlink: where it leads. Of others empty.
    pub target: bytes::Bytes,
}

/// What an flist says of itself.
#[derive(Debug, Clone, Default)]
pub struct HubFlist {
    /// What its format is called.
    pub format: String,
    /// Pairs of text, in its order.
    pub metadata: Vec<(String, String)>,
    /// Where it says that its chunks are.
    pub routes: Vec<String>,
}

/// Whoever reads flists, and makes them: the hub knows no format. Calls that are not `async` wait for the disk. Errors name
/// no file of the machine.
#[async_trait]
pub trait Flists: std::fmt::Debug + Send + Sync {
    /// What the flist in a file says of itself.
    ///
    /// # Errors
    /// `Corrupt`, `TooLarge` where it is none; `Io`.
    fn look(&self, file: &Path) -> MuxResult<HubFlist>;

    /// What is in a directory of an flist, by name.
    ///
    /// # Errors
    /// Those of [`Flists::look`]; `NotFound`, `NotDir`.
    fn list(&self, file: &Path, dir: &[Name]) -> MuxResult<Vec<HubNode>>;

    /// Tells of all nodes but the root with their paths, which begin with a slash, in bounded memory: a directory before what
    /// is in it. Ends when `tell` says `false`.
    ///
    /// # Errors
    /// Those of [`Flists::look`].
    fn walk(&self, file: &Path, tell: &mut (dyn FnMut(&[u8], &HubNode) -> bool + Send)) -> MuxResult<()>;

    /// Sees to it that a file is an flist whose chunks are all stored where the hub looks for them.
    ///
    /// # Errors
    /// Those of [`Flists::look`]; `NotFound` naming a file of the flist and a chunk that is not stored; `Unavailable` where that
    /// cannot be known now, or takes too long; `Unsupported` where the hub looks nowhere.
    async fn check(&self, file: &Path) -> MuxResult<()>;

    /// Makes an flist of an archive at `target`, durably, and stores its chunks: an `.fl` where `is_fl`.
    ///
    /// # Errors
    /// `Corrupt`, `InvalidArgument`, `TooLarge` for what is no archive of files or an image; `Unsupported` where the hub has no
    /// store for chunks; those of the stores.
    async fn make(&self, archive: &Path, target: &Path, is_fl: bool, metadata: Vec<(String, String)>) -> MuxResult<()>;

    /// Makes an flist of several at `target`, durably; what two have is that of the first.
    ///
    /// # Errors
    /// `InvalidArgument` for flists of two formats; those of [`Flists::look`].
    async fn merge(&self, files: &[PathBuf], target: &Path) -> MuxResult<()>;
}

/// How a hub behaves.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The directory of the repositories, which is there.
    pub dir: PathBuf,
    /// The file of the users, which is read again when it changes; where there is none, there are no users.
    pub users: PathBuf,
    /// Repositories that are shown first.
    pub official: Vec<String>,
    /// Whether anybody may read, also where who reads has to show a token else.
    pub is_public: bool,
    /// The longest flist that is taken, in bytes.
    pub flist_len_max: u64,
    /// The longest archive that is taken, in bytes.
    pub archive_len_max: u64,
    /// What the name of an flist ends in that is made of an archive: `.flist` or `.fl`.
    pub ending: &'static str,
    /// Where chunks are, as it is told to who asks.
    pub storage: Option<String>,
}

#[derive(Debug)]
struct Inner {
    options: HubOptions,
    shelf: Shelf,
    users: Users,
    flists: Arc<dyn Flists>,
    uploads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    contents: Arc<Semaphore>,
    makes: Semaphore,
    /// Whoever waits for `makes`, or has it.
    waiting: Semaphore,
    /// How many uploads of a repository are under way.
    uploading: Mutex<HashMap<String, usize>>,
}

/// An upload of a repository, until this is dropped.
struct Uploading {
    hub: Hub,
    repository: String,
}

impl Uploading {
    fn begin(hub: &Hub, repository: &str) -> Result<Self> {
        let mut all = hub.uploading();
        let count = all.entry(repository.to_owned()).or_default();
        if *count >= OWN_UPLOAD_COUNT_MAX {
            let why = format!("{OWN_UPLOAD_COUNT_MAX} uploads to this repository are under way.");
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why, "Try again when one of them is done."));
        }
        *count += 1;
        Ok(Self { hub: hub.clone(), repository: repository.to_owned() })
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let mut all = self.hub.uploading();
        if let Some(count) = all.get_mut(&self.repository) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.repository);
            }
        }
    }
}

fn busy(_: TryAcquireError) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "The hub takes others just now.", "Try again in a while.")
}

/// Flists that are given away, and taken.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

impl Hub {
    /// The hub of a directory. Several, also of several servers, may have the same.
    ///
    /// # Errors
    /// `InvalidArgument` for a file of users that is none; those of the disk.
    pub fn open(options: HubOptions, flists: Arc<dyn Flists>) -> MuxResult<Self> {
        let opened = Shelf::open(&options.dir);
        let shelf = opened.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::NotADirectory => ErrorKind::NotDir,
                _ => ErrorKind::Io,
            };
            Error::new(kind, "http.hub").at(options.dir.display()).because(error)
        })?;
        let users = Users::new(options.users.clone());
        users.now()?;
        let [uploads, reads, contents] =
            [UPLOAD_COUNT_MAX, READ_COUNT_MAX, CONTENT_COUNT_MAX].map(|count| Arc::new(Semaphore::new(count)));
        let (makes, waiting) = (Semaphore::new(MAKE_COUNT_MAX), Semaphore::new(WAITING_COUNT_MAX));
        let uploading = Mutex::default();
        Ok(Self(Arc::new(Inner { options, shelf, users, flists, uploads, reads, contents, makes, waiting, uploading })))
    }

    fn uploading(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.uploading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what waits for the disk, in its turn.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let (hub, turn) = (self.clone(), turn(&self.0.reads).await?);
        blocking(move || {
            let _turn = turn;
            work(&hub)
        })
        .await
    }

    /// Who shows the token of a user; `None` who shows none.
    async fn user(&self, request: &Parts) -> Result<Option<Option<HubUser>>> {
        let Some(token) = users::shown(&request.headers).map(str::to_owned) else { return Ok(None) };
        let hub = self.clone();
        let found = move || {
            let users = hub.0.users.now()?;
            Ok(users::user_of(&users, &token).cloned())
        };
        blocking(found).await.map(Some)
    }
}

async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let turn = turns.clone().acquire_owned().await;
    turn.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "The hub ends.", ""))
}

/// Carries out what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(failed(std::io::Error::other(error))))
}

/// What is asked of the hub.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    hub: Hub,
    /// The parts of its address, without what leads to the hub.
    names: Vec<Name>,
    /// The same as text, as far as it is.
    parts: Vec<String>,
    query: Query,
    /// What addresses of the hub begin with on pages.
    base: &'static str,
}

/// The hub, where it is what a request is for.
pub(crate) fn asked(shared: &Shared, request: &Parts) -> Option<Asked> {
    let hub = shared.options.hub.as_ref()?;
    let target = Target::parse(&request.uri).ok()?;
    let is_mount = |text: &str| Prefix::new(text).is_ok_and(|prefix| shared.mux.mount_at(prefix).is_ok());
    let base = if is_mount(HUB) { "" } else { "/hub" };
    let mut names = target.parts;
    let first = names.first()?.as_str()?.to_owned();
    if is_mount(&first) {
        return None;
    }
    let is_below = first == HUB;
    if is_below {
        names.remove(0);
    }
    let parts: Vec<String> = names.iter().map(|name| name.as_str().unwrap_or("\u{fffd}").to_owned()).collect();
    let asked = Asked { hub: hub.clone(), names, parts, query: target.query, base };
    (is_below || asked.is_plain(&request.method)).then_some(asked)
}

impl Asked {
    fn parts(&self) -> Vec<&str> {
        self.parts.iter().map(String::as_str).collect()
    }

    /// Whether an address is one of 0-hub's.
    fn is_plain(&self, method: &Method) -> bool {
        let is_read = [Method::GET, Method::HEAD].contains(method);
        let is_repository = |text: &str| name(text).is_ok() && !is_reserved(text);
        match &self.parts()[..] {
            ["api", "flist" | "repositories" | "fileslist" | "search", ..] => true,
            [repository] | [repository, "tags", _] => is_read && is_repository(repository),
            [repository, file] | [repository, "tags", _, file] | [repository, file, "tree", ..] => {
                is_read && is_repository(repository) && address(file).is_some()
            }
            _ => false,
        }
    }

    /// Whether a program asks, that takes JSON.
    fn is_of_api(&self) -> bool {
        self.parts.first().is_some_and(|first| first == "api")
    }

    /// Whether it is of a user's own: what may change something.
    pub(crate) fn is_of_user(&self) -> bool {
        matches!(&self.parts()[..], ["api", "flist", "me", ..])
    }

    /// Says that it went wrong, in the form in which it was asked.
    pub(crate) fn fail(&self, shared: &Shared, failure: &Failure, request: &Parts) -> Response<Body> {
        let mut accepts = request.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        let mut response = if self.is_of_api() {
            let mut response = ours::told(&json!({ "status": "error", "message": failure.why }));
            *response.status_mut() = failure.status;
            response
        } else {
            page::failed(failure, accepts.any(|value| value.contains("text/html")))
        };
        if failure.status == StatusCode::UNAUTHORIZED {
            // Who reads may show what all of HTTP takes; who changes something shows what no browser sends by itself.
            if shared.options.writing.is_some() && !self.is_of_user() {
                access::ask(&request.headers, response.headers_mut());
            } else {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(REALM));
            }
        }
        response
    }

    /// Sees to it that who asks may read.
    pub(crate) async fn admit_reader(&self, shared: &Shared, request: &Parts) -> Result<()> {
        guard::check_host(request, &shared.options.hosts)?;
        if self.hub.0.options.is_public {
            return Ok(());
        }
        guard::check_origin(request, &shared.options.hosts)?;
        let shown = self.hub.user(request).await?;
        if matches!(shown, Some(Some(_))) {
            return Ok(());
        }
        if shown.is_some() && shared.options.writing.is_none() {
            // Where the server has no token of its own a wrong one is as wrong.
            sleep(REFUSAL_TIME).await;
            return Err(unauthorized());
        }
        let who = identify(shared, request).await.map_err(|failure| match failure.status {
            StatusCode::UNAUTHORIZED => Failure { why: UNREAD.into(), ..failure },
            _ => failure,
        })?;
        // It is in no mount, and so in no home but that of all.
        if who.may_reach(&[]) { Ok(()) } else { Err(access::out_of_home()) }
    }

    /// The repository in which who asks may change something.
    async fn admit_user(&self, shared: &Shared, request: &Parts) -> Result<String> {
        guard::check_host(request, &shared.options.hosts)?;
        guard::check_writer(request, &shared.options.hosts)?;
        let user = match self.hub.user(request).await? {
            Some(Some(user)) => user,
            Some(None) => {
                sleep(REFUSAL_TIME).await;
                return Err(unauthorized());
            }
            None => return Err(unauthorized()),
        };
        match users::acts_for(&request.headers) {
            Some(other) if other != user.name => {
                if user.acts_for.iter().any(|may| may == other) {
                    return Ok(other.to_owned());
                }
                let why = "This user does not act for that repository.";
                Err(Failure::new(StatusCode::FORBIDDEN, why, ""))
            }
            _ => Ok(user.name),
        }
    }

    /// Answers who reads, and may.
    pub(crate) async fn read(&self, shared: &Shared, request: &Parts) -> Result<Response<Body>> {
        let is_info = request.method.as_str() == "INFO";
        if ![Method::GET, Method::HEAD].contains(&request.method) && !is_info {
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", ""));
        }
        let mut response = match &self.parts()[..] {
            ["api", "flist", repository, flist] if is_info => self.light(repository, flist).await?,
            _ if is_info => {
                return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", ""));
            }
            ["api", below @ ..] => self.read_api(below).await?,
            _ => self.read_page(shared, request).await?,
        };
        if self.hub.0.options.is_public {
            guard::allow_every_origin(response.headers_mut());
        }
        Ok(response)
    }

    /// Tells a value that waits for the disk.
    async fn tell(&self, value: impl FnOnce(&Hub) -> Result<Value> + Send + 'static) -> Result<Response<Body>> {
        self.hub.read(value).await.map(|value| ours::told(&value))
    }

    async fn light(&self, repository: &str, flist: &str) -> Result<Response<Body>> {
        let spot = Spot::new(repository, flist)?;
        self.tell(move |hub| hub.light(&spot)).await
    }

    async fn read_api(&self, below: &[&str]) -> Result<Response<Body>> {
        let owned = |text: &str| text.to_owned();
        match below {
            ["repositories"] => self.tell(Hub::repositories).await,
            ["fileslist"] => self.tell(Hub::lists).await,
            ["flist"] => self.tell(|hub| hub.all("")).await,
            ["search"] => {
                let text = self.query.get("q").unwrap_or_default().to_owned();
                self.tell(move |hub| hub.all(&text)).await
            }
            ["flist", repository] => {
                let repository = owned(repository);
                self.tell(move |hub| hub.list(&repository)).await
            }
            ["flist", repository, "tags", tag] => {
                let (repository, tag) = (owned(repository), owned(tag));
                self.tell(move |hub| hub.tagged(&repository, &tag)).await
            }
            ["flist", repository, flist] => self.hub.content(Spot::new(repository, flist)?).await,
            ["flist", repository, flist, "light"] => self.light(repository, flist).await,
            ["flist", repository, link, "taglink"] => {
                let (repository, link) = (owned(repository), owned(link));
                self.tell(move |hub| hub.tag_link(&repository, &link)).await
            }
            ["flist", repository, flist, "metadata"] => {
                let spot = Spot::new(repository, flist)?;
                self.tell(move |hub| hub.metadata(&spot)).await
            }
            _ => Err(Failure::new(StatusCode::NOT_FOUND, "There is no such address of the hub.", "")),
        }
    }

    /// Shows a page, which waits for the disk.
    async fn show(
        &self,
        show: impl FnOnce(Pages<'_>) -> Result<Response<Body>> + Send + 'static,
    ) -> Result<Response<Body>> {
        let base = self.base;
        self.hub.read(move |hub| show(Pages { hub, base })).await
    }

    async fn read_page(&self, shared: &Shared, request: &Parts) -> Result<Response<Body>> {
        let parts = self.parts();
        let (repository, tag, file) = match &parts[..] {
            [] => {
                let query = self.query.get("q").map(str::to_owned);
                return self.show(move |pages| pages.repositories(query.as_deref())).await;
            }
            [repository] => {
                let repository = (*repository).to_owned();
                return self.show(move |pages| pages.repository(&repository)).await;
            }
            [repository, "tags", tag] => {
                let (repository, tag) = ((*repository).to_owned(), (*tag).to_owned());
                return self.show(move |pages| pages.tag(&repository, &tag)).await;
            }
            [repository, file, "tree", ..] => {
                let (spot, _) = api::addressed(repository, None, file)?;
                let dir = self.names.get(3..).unwrap_or_default().to_vec();
                let from = self.query.get("from").map_or(Ok(0), str::parse);
                let from =
                    from.map_err(|_| Failure::bad("The part of a directory begins nowhere.", "Begin without ?from=."))?;
                return self.show(move |pages| pages.tree(&spot, &dir, from)).await;
            }
            [repository, file] => (*repository, None, *file),
            [repository, "tags", tag, file] => (*repository, Some(*tag), *file),
            _ => return Err(absent("page")),
        };
        match api::addressed(repository, tag, file)? {
            (spot, Form::Page) => self.show(move |pages| pages.flist(&spot)).await,
            (spot, form) => self.hub.by_address(spot, form, request, &shared.options.env.random_id()).await,
        }
    }

    /// Who may carry out what is asked, before anything of it is read.
    pub(crate) async fn admitted(self, shared: &Arc<Shared>, request: &Parts) -> Result<Change> {
        let mine = self.admit_user(shared, request).await?;
        Ok(Change { shared: shared.clone(), asked: self, mine, request: request.clone() })
    }
}

fn unauthorized() -> Failure {
    let advice = "`muxfs hub user add` makes one: it is shown as Authorization: Bearer.";
    Failure::new(StatusCode::UNAUTHORIZED, "This needs the token of a user of the hub.", advice)
}

/// What a user asks for in a repository.
pub(crate) struct Change {
    shared: Arc<Shared>,
    asked: Asked,
    /// The repository.
    mine: String,
    request: Parts,
}

impl Change {
    /// Carries it out, durably.
    pub(crate) async fn answer(&self, body: &mut BodyDataStream) -> Result<Response<Body>> {
        let method = &self.request.method;
        let parts = self.asked.parts();
        let below = parts.get(3..).unwrap_or_default();
        if *method == Method::POST {
            return self.post(below, body).await;
        }
        let is_delete = *method == Method::DELETE;
        if !is_delete && *method != Method::GET {
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", ""));
        }
        let (mine, random) = (self.mine.clone(), self.shared.options.env.random_id());
        let owned = |text: &str| text.to_owned();
        match below {
            [] if !is_delete => return Ok(done(Some(json!({ "username": mine })))),
            [flist] if is_delete => {
                let flist = owned(flist);
                self.carry_out(move |shelf| shelf.remove(&mine, &flist)).await
            }
            [flist] => return self.asked.hub.content(Spot::new(&mine, flist)?).await,
            [tag, link, "tag", repository, source] => {
                let (link, source) = (Spot::new(&mine, link)?.tagged(tag)?, Spot::new(repository, source)?);
                if is_delete {
                    self.carry_out(move |shelf| shelf.untag(&link)).await
                } else {
                    self.carry_out(move |shelf| shelf.link(&link, &source, &random)).await
                }
            }
            _ if is_delete => Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", "")),
            [source, "link", link] => {
                let (link, source) = (Spot::new(&mine, link)?, Spot::new(&mine, source)?);
                self.carry_out(move |shelf| shelf.link(&link, &source, &random)).await
            }
            [link, "crosslink", repository, source] => {
                let (link, source) = (Spot::new(&mine, link)?, Spot::new(repository, source)?);
                self.carry_out(move |shelf| shelf.link(&link, &source, &random)).await
            }
            [link, "crosstag", repository, tag] => {
                let (link, repository, tag) = (owned(link), owned(repository), owned(tag));
                self.carry_out(move |shelf| shelf.link_tag((&mine, &link), (&repository, &tag), &random)).await
            }
            [source, "rename", target] => {
                let (from, to) = (Spot::new(&mine, source)?, Spot::new(&mine, target)?);
                self.carry_out(move |shelf| shelf.rename(&from, &to)).await
            }
            ["promote", repository, source, target] => {
                let (from, to) = (Spot::new(repository, source)?, Spot::new(&mine, target)?);
                let told = json!({
                    "source": { "username": from.repository, "filename": from.flist },
                    "destination": { "username": to.repository, "filename": to.flist },
                });
                // As long as an upload, and as many at a time.
                let turn = self.asked.hub.0.uploads.clone().try_acquire_owned().map_err(busy)?;
                self.carry_out(move |shelf| {
                    let _turn = turn;
                    shelf.promote(&from, &to, &random)
                })
                .await?;
                return Ok(done(Some(told)));
            }
            [flist, "light"] => return self.asked.light(&mine, flist).await,
            [flist, "metadata"] => return self.asked.read_api(&["flist", &mine, flist, "metadata"]).await,
            _ => Err(Failure::new(StatusCode::NOT_FOUND, "There is no such address of the hub.", "")),
        }?;
        Ok(done(None))
    }

    async fn carry_out(&self, work: impl FnOnce(&Shelf) -> Result<()> + Send + 'static) -> Result<()> {
        let hub = self.asked.hub.clone();
        blocking(move || work(&hub.0.shelf)).await
    }

    async fn post(&self, below: &[&str], body: &mut BodyDataStream) -> Result<Response<Body>> {
        let (hub, mine, random) = (&self.asked.hub, self.mine.as_str(), self.shared.options.env.random_id());
        let patience = self.shared.options.stall_timeout;
        let _own = Uploading::begin(hub, mine)?;
        let turn = hub.0.uploads.clone().try_acquire_owned().map_err(busy)?;
        let upload = (&self.request, &mut *body, patience);
        match below {
            ["upload-flist"] => receive::flist(hub, mine, &random, upload).await.map(|told| done(Some(told))),
            ["upload"] => receive::archive(hub, mine, &random, upload, turn).await.map(|told| done(Some(told))),
            ["docker"] if is_form_with_files(&self.request) => {
                receive::archive(hub, mine, &random, upload, turn).await.map(|told| done(Some(told)))
            }
            ["docker"] => {
                let why = "This hub pulls no images from registries: send what docker save writes, as the file of a form \
                           (curl -F file=@image.tar).";
                Err(Failure::new(StatusCode::NOT_IMPLEMENTED, why, ""))
            }
            ["merge", target] => {
                let list = body::whole(body, MERGE_LEN_MAX, patience).await?;
                let sources = sources(&list)?;
                receive::merge(hub, mine, target, &random, sources).await?;
                Ok(done(None))
            }
            _ => Err(Failure::new(StatusCode::NOT_FOUND, "There is no such address of the hub.", "")),
        }
    }
}

fn is_form_with_files(request: &Parts) -> bool {
    let content_type = request.headers.get(axum::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/"))
}

/// The flists that are to be merged, as `["REPOSITORY/NAME", …]`.
fn sources(list: &[u8]) -> Result<Vec<Spot>> {
    let list: Vec<String> = serde_json::from_slice(list).map_err(|_| Failure::bad("malformed json request", ""))?;
    if list.is_empty() {
        return Err(Failure::bad("no source found", ""));
    }
    if list.len() > MERGE_COUNT_MAX {
        return Err(Failure::bad(format!("{MERGE_COUNT_MAX} flists are merged at most."), ""));
    }
    let spot = |source: &String| {
        let (repository, flist) = source
            .split_once('/')
            .ok_or_else(|| Failure::bad("malformed source filename: it is REPOSITORY/NAME", ""))?;
        Spot::new(repository, flist)
    };
    list.iter().map(spot).collect()
}

/// That it was done, and what came of it.
fn done(payload: Option<Value>) -> Response<Body> {
    let mut value = json!({ "status": "success" });
    if let Some(payload) = payload {
        value["payload"] = payload;
    }
    ours::told(&value)
}
