//! All namespaces of a node, and the list of them.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

use muxfs::{Env, Error, ErrorKind, Result};
use tokio::{sync::Mutex as AsyncMutex, task::AbortHandle};

use crate::{
    NAME_LEN_MAX,
    home::{Home, Part},
    namespace::{Namespace, Slot},
    registry::{Change, Named, Registry},
    settings::{Mode, Setting, Settings},
    store::{Store, StoreMedia, StoreOptions},
};

/// The name of the namespace that every node has.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Which modes namespaces may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeRule {
    /// All have this one.
    Only(Mode),
    /// Each has its own, user mode unless it is told otherwise before anything is set in it.
    Mixed,
}

/// When what was written is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncRule {
    /// Before [`Namespace::durable`] returns.
    Group,
    /// At most so long after it was written: [`Namespace::durable`] returns at once, as 0-db does.
    Every(Duration),
}

/// How an engine is run.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Which modes namespaces may have.
    pub mode: ModeRule,
    /// When what was written is durable.
    pub sync: SyncRule,
    /// A data file is closed before it would grow longer, in bytes; at most 2 GiB.
    pub file_len_max: u32,
    /// So many bytes are left free on the disk, for deletions and compaction: a set that finds less is `NoSpace`.
    pub reserve_len: u64,
    /// Where a namespace keeps no history, overwritten and deleted values keep their room until they take so much, in
    /// bytes, and a quarter of the data files.
    pub compact_len_min: u64,
    /// Lends the clock that tells when a value was set, and randomness.
    pub env: Env,
}

impl EngineOptions {
    /// Mixed modes, a group sync before the reply, files of 256 MiB, 64 MiB left free, and as much overwritten before it is
    /// compacted.
    pub fn new(env: &Env) -> Self {
        Self {
            mode: ModeRule::Mixed,
            sync: SyncRule::Group,
            file_len_max: 256 << 20,
            reserve_len: 64 << 20,
            compact_len_min: 64 << 20,
            env: env.clone(),
        }
    }
}

/// What the making of a namespace came to.
#[derive(Debug, Clone)]
pub enum Create {
    /// It is there, durably.
    Created(Arc<Namespace>),
    /// There is one of that name.
    Taken,
    /// No namespace can have that name: it is empty, too long, not UTF-8, or has a `/`, a control character or a leading dot.
    BadName,
}

/// What the removal of a namespace came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remove {
    /// It is gone, durably.
    Removed,
    /// There is none of that name.
    Absent,
    /// The default namespace stays.
    IsDefault,
}

/// What the setting of something came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// It is set, durably.
    Done,
    /// The mode of a namespace in which something was set stays.
    InUse,
    /// All namespaces of this engine have the same mode.
    FixedMode,
}

/// All namespaces of a node. Clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    home: Arc<dyn Home>,
    options: EngineOptions,
    /// Whoever holds it changes the list of namespaces, or what is set about one.
    registry: AsyncMutex<Registry>,
    /// In the order in which they were made.
    namespaces: RwLock<Vec<Arc<Namespace>>>,
    /// The one that syncs every so often.
    syncing: Mutex<Option<AbortHandle>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("home", &self.inner.home)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens what is in `home`, and makes the default namespace where there is none.
    ///
    /// # Errors
    /// `Unavailable` while another process has it; `Corrupt`, naming the namespace, where bytes that were durable are bad
    /// or missing, also in a copy that was made while the engine ran and has to be made again; `Unsupported` for a newer
    /// format.
    pub async fn open(home: Arc<dyn Home>, options: EngineOptions) -> Result<Self> {
        let registry = Registry::open(home.registry().await?, &options.env).await?;
        let inner = Inner {
            home,
            options,
            registry: AsyncMutex::new(registry),
            namespaces: RwLock::default(),
            syncing: Mutex::new(None),
        };
        inner.remove_leftovers().await?;
        let named = inner.registry.lock().await.named().to_vec();
        for named in named {
            let store = inner.open_store(named.number, &named.name, named.settings.mode).await?;
            inner.add(named, store);
        }
        let inner = Arc::new(inner);
        if inner.find(DEFAULT_NAMESPACE).is_none() {
            inner.make(DEFAULT_NAMESPACE).await?;
        }
        if let SyncRule::Every(time) = inner.options.sync {
            let syncing = tokio::spawn(Inner::sync_every(time, Arc::downgrade(&inner))).abort_handle();
            *inner.syncing.lock().unwrap_or_else(PoisonError::into_inner) = Some(syncing);
        }
        Ok(Self { inner })
    }

    /// The namespace of this name.
    pub fn namespace(&self, name: &[u8]) -> Option<Arc<Namespace>> {
        self.inner.find(std::str::from_utf8(name).ok()?)
    }

    /// The namespace that every node has.
    pub fn default_namespace(&self) -> Arc<Namespace> {
        self.inner.find(DEFAULT_NAMESPACE).expect("it is made by `open`, and `remove` refuses it")
    }

    /// All namespaces, in the order in which they were made; the default one first.
    pub fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.inner.all()
    }

    /// Makes a namespace; durable when it returns.
    ///
    /// # Errors
    /// The media's: then there is none.
    pub async fn create(&self, name: &[u8]) -> Result<Create> {
        let Some(name) = valid_name(name) else { return Ok(Create::BadName) };
        let name = name.to_owned();
        self.detached("zdb.create", |inner| async move { inner.create(&name).await }).await
    }

    /// Removes a namespace and all that is in it; durable when it returns. Whoever still has it gets `Stale` from every
    /// call, and [`Namespace::is_removed`].
    ///
    /// # Errors
    /// The media's: then it is still there.
    pub async fn remove(&self, name: &[u8]) -> Result<Remove> {
        if name == DEFAULT_NAMESPACE.as_bytes() {
            return Ok(Remove::IsDefault);
        }
        let name = String::from_utf8_lossy(name).into_owned();
        self.detached("zdb.remove", |inner| async move { inner.remove(&name).await }).await
    }

    /// Sets something about a namespace; durable when it returns.
    ///
    /// # Errors
    /// `Stale` if it was removed; the media's: then it is as it was.
    pub async fn update(&self, namespace: &Namespace, setting: Setting) -> Result<Update> {
        let name = namespace.name().to_owned();
        self.detached("zdb.update", |inner| async move { inner.update(&name, setting).await }).await
    }

    /// Removes all keys and values of a namespace, with their history; its settings stay. All or nothing, and durable when
    /// it returns.
    ///
    /// # Errors
    /// `Stale` if it was removed; the media's: then all is as it was.
    pub async fn flush(&self, namespace: &Namespace) -> Result<()> {
        let name = namespace.name().to_owned();
        self.detached("zdb.flush", |inner| async move { inner.flush(&name).await }).await
    }

    /// Opens a namespace anew from what is on its media: the way back after a failed sync.
    ///
    /// # Errors
    /// As `open`; the namespace then is `Unavailable` until a later reload goes well.
    pub async fn reload(&self, namespace: &Namespace) -> Result<()> {
        let name = namespace.name().to_owned();
        self.detached("zdb.reload", |inner| async move { inner.reload(&name).await }).await
    }

    /// How many bytes may still be written; `None` where nobody knows.
    pub fn free_len(&self) -> Option<u64> {
        self.inner.home.free_len()
    }

    /// Makes everything durable, writes down what the next opening would have to find out, and ends what goes on in the
    /// background. Repeatable. All namespaces are `Unavailable` from here on.
    ///
    /// # Errors
    /// The first that a namespace met; all are closed.
    pub async fn close(&self) -> Result<()> {
        self.detached("zdb.close", |inner| async move { inner.close().await }).await
    }

    /// Makes a store that is no namespace yet.
    pub(crate) async fn begin_import(&self, mode: Mode) -> Result<Importing> {
        self.detached("zdb.import", move |inner| async move {
            let mut registry = inner.registry.lock().await;
            let (number, store) = inner.new_store(&mut registry, mode).await?;
            Ok(Importing { number, store })
        })
        .await
    }

    /// Makes an import the namespace of this name, durably; whether there was none with something in it.
    pub(crate) async fn end_import(&self, importing: Importing, name: &str, settings: Settings) -> Result<bool> {
        let name = name.to_owned();
        self.detached("zdb.import", move |inner| async move { inner.end_import(importing, &name, settings).await })
            .await
    }

    /// Removes what was imported so far.
    pub(crate) async fn give_up_import(&self, importing: Importing) {
        importing.store.discard().await;
        drop(importing.store);
        self.inner.remove_media(importing.number).await;
    }

    pub(crate) fn mode_rule(&self) -> ModeRule {
        self.inner.options.mode
    }

    /// Runs work that must not stop half way when its caller is dropped.
    async fn detached<T: Send + 'static, W: Future<Output = Result<T>> + Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce(Arc<Inner>) -> W,
    ) -> Result<T> {
        let done = tokio::spawn(work(Arc::clone(&self.inner)));
        done.await.map_err(|stopped| Error::new(ErrorKind::Unavailable, op).because(stopped))?
    }
}

/// A store that is to become a namespace.
#[derive(Debug)]
pub(crate) struct Importing {
    number: u64,
    pub(crate) store: Arc<Store>,
}

impl Inner {
    fn find(&self, name: &str) -> Option<Arc<Namespace>> {
        self.all().into_iter().find(|namespace| namespace.name() == name)
    }

    fn all(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, named: Named, store: Arc<Store>) -> Arc<Namespace> {
        let Named { number, name, settings } = named;
        let home = Arc::clone(&self.home);
        let namespace = Namespace::new(name, number, settings, store, home, self.options.clone());
        self.namespaces.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&namespace));
        namespace
    }

    /// The namespace of this name, which somebody holds.
    fn held(&self, name: &str) -> Result<Arc<Namespace>> {
        self.find(name)
            .ok_or_else(|| Error::new(ErrorKind::Stale, "zdb.namespace").at(name).because("the namespace was removed"))
    }

    fn default_mode(&self) -> Mode {
        match self.options.mode {
            ModeRule::Only(mode) => mode,
            ModeRule::Mixed => Mode::User,
        }
    }

    fn store_options(&self, mode: Mode) -> StoreOptions {
        StoreOptions {
            mode,
            file_len_max: self.options.file_len_max,
            compact_len_min: self.options.compact_len_min,
            env: self.options.env.clone(),
        }
    }

    async fn media(&self, number: u64) -> Result<StoreMedia> {
        Ok(StoreMedia {
            data: self.home.media(number, Part::Data).await?,
            index: self.home.media(number, Part::Index).await?,
        })
    }

    async fn open_store(&self, number: u64, name: &str, mode: Mode) -> Result<Arc<Store>> {
        let opened = Store::open(self.media(number).await?, self.store_options(mode)).await;
        opened.map_err(|error| match error.kind() {
            ErrorKind::Corrupt => Error::new(ErrorKind::Corrupt, "zdb.open").at(name).because(format!(
                "{error:#}; if the directory is a copy that was made while the node ran, copy it again"
            )),
            _ => error.at(name),
        })
    }

    /// Makes a store under a number of its own, durably.
    async fn new_store(&self, registry: &mut Registry, mode: Mode) -> Result<(u64, Arc<Store>)> {
        let number = registry.take(&self.home.numbers().await?).await?;
        match self.create_store(number, mode).await {
            Ok(store) => Ok((number, store)),
            Err(error) => {
                self.remove_media(number).await;
                Err(error)
            }
        }
    }

    async fn create_store(&self, number: u64, mode: Mode) -> Result<Arc<Store>> {
        Store::create(self.media(number).await?, self.store_options(mode)).await
    }

    /// Removes what no namespace has; what cannot be removed now is removed by the next opening.
    async fn remove_media(&self, number: u64) {
        if let Err(error) = self.home.remove(number).await {
            tracing::warn!(%error, number, "the files of a namespace that is gone are left over");
        }
    }

    /// Removes what a crash left over: what stands under numbers that were taken and that no namespace has.
    async fn remove_leftovers(&self) -> Result<()> {
        let registry = self.registry.lock().await;
        let numbers = self.home.numbers().await?;
        // A number is taken before anything is made under it.
        if registry.next() == 0 && !numbers.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "zdb.open").because(
                "there are namespaces and no list of them; if the directory is a copy that was made while the node ran, \
                 copy it again",
            ));
        }
        for number in numbers {
            if registry.named().iter().any(|named| named.number == number) {
                continue;
            }
            if number < registry.next() {
                self.remove_media(number).await;
            } else {
                // Of a copy whose list is older than this, perhaps: not ours to remove.
                tracing::warn!(number, "there are files that belong to no namespace");
            }
        }
        Ok(())
    }

    async fn make(&self, name: &str) -> Result<Arc<Namespace>> {
        let mut registry = self.registry.lock().await;
        let settings = Settings::new(self.default_mode());
        let (number, store) = self.new_store(&mut registry, settings.mode).await?;
        let named = Named { number, name: name.into(), settings };
        self.name_store(&mut registry, named, store).await
    }

    /// Gives a store its name, durably.
    async fn name_store(&self, registry: &mut Registry, named: Named, store: Arc<Store>) -> Result<Arc<Namespace>> {
        match registry.write(Change::Make(named.clone())).await {
            Ok(()) => Ok(self.add(named, store)),
            Err(error) => {
                // Its files stay: the list may say after all that they are a namespace's.
                store.discard().await;
                Err(error)
            }
        }
    }

    async fn create(&self, name: &str) -> Result<Create> {
        if self.find(name).is_some() {
            return Ok(Create::Taken);
        }
        let mut registry = self.registry.lock().await;
        // Somebody else may have made it meanwhile.
        if self.find(name).is_some() {
            return Ok(Create::Taken);
        }
        let settings = Settings::new(self.default_mode());
        let (number, store) = self.new_store(&mut registry, settings.mode).await?;
        let named = Named { number, name: name.into(), settings };
        Ok(Create::Created(self.name_store(&mut registry, named, store).await?))
    }

    async fn remove(&self, name: &str) -> Result<Remove> {
        let mut registry = self.registry.lock().await;
        let Some(namespace) = self.find(name) else { return Ok(Remove::Absent) };
        let mut slot = namespace.slot().write().await;
        registry.write(Change::Remove(namespace.number())).await?;
        namespace.note_removed();
        self.namespaces.write().unwrap_or_else(PoisonError::into_inner).retain(|other| other.name() != name);
        self.discard(std::mem::replace(&mut *slot, Slot::Removed), namespace.number()).await;
        Ok(Remove::Removed)
    }

    /// Ends a store that no namespace has any more, and removes its files.
    async fn discard(&self, slot: Slot, number: u64) {
        if let Slot::Open(store) = slot {
            store.discard().await;
        }
        self.remove_media(number).await;
    }

    async fn update(&self, name: &str, setting: Setting) -> Result<Update> {
        let mut registry = self.registry.lock().await;
        let namespace = self.held(name)?;
        let mut settings = (*namespace.settings()).clone();
        settings.set(setting.clone());
        if let Setting::Mode(_) = setting {
            return self.update_mode(&mut registry, &namespace, settings).await;
        }
        registry.write(Change::Set(namespace.number(), settings.clone())).await?;
        if let Slot::Open(store) = &*namespace.slot().read().await {
            store.keep_history(settings.history);
        }
        namespace.put_settings(settings);
        Ok(Update::Done)
    }

    async fn update_mode(&self, registry: &mut Registry, namespace: &Namespace, settings: Settings) -> Result<Update> {
        if self.options.mode != ModeRule::Mixed {
            return Ok(Update::FixedMode);
        }
        let mut slot = namespace.slot().write().await;
        let Slot::Open(store) = &*slot else { return Err(namespace.no_store(&slot)) };
        if store.lock().next_id > 0 {
            return Ok(Update::InUse);
        }
        if settings.mode != store.mode() {
            self.replace(registry, namespace, &mut slot, settings).await?;
        }
        Ok(Update::Done)
    }

    /// Gives a namespace a new, empty store, and new settings.
    async fn replace(
        &self,
        registry: &mut Registry,
        namespace: &Namespace,
        slot: &mut Slot,
        settings: Settings,
    ) -> Result<()> {
        let (number, store) = self.new_store(registry, settings.mode).await?;
        self.put_store(registry, namespace, slot, (number, store), settings).await
    }

    async fn put_store(
        &self,
        registry: &mut Registry,
        namespace: &Namespace,
        slot: &mut Slot,
        (number, store): (u64, Arc<Store>),
        settings: Settings,
    ) -> Result<()> {
        let old = namespace.number();
        if let Err(error) = registry.write(Change::Replace(old, number, settings.clone())).await {
            store.discard().await;
            return Err(error);
        }
        store.keep_history(settings.history);
        namespace.put_settings(settings);
        namespace.put_number(number);
        self.discard(std::mem::replace(slot, Slot::Open(store)), old).await;
        Ok(())
    }

    async fn flush(&self, name: &str) -> Result<()> {
        let mut registry = self.registry.lock().await;
        let namespace = self.held(name)?;
        let mut slot = namespace.slot().write().await;
        if let Slot::Removed | Slot::Closed = &*slot {
            return Err(namespace.no_store(&slot));
        }
        let settings = (*namespace.settings()).clone();
        self.replace(&mut registry, &namespace, &mut slot, settings).await
    }

    async fn reload(&self, name: &str) -> Result<()> {
        let _registry = self.registry.lock().await;
        let namespace = self.held(name)?;
        let mut slot = namespace.slot().write().await;
        match std::mem::replace(&mut *slot, Slot::Failed("it is being opened".into())) {
            Slot::Open(store) => {
                if let Err(error) = store.close().await {
                    tracing::warn!(%error, name, "a namespace that is reloaded could not be closed");
                }
            }
            Slot::Failed(_) => {}
            other @ (Slot::Removed | Slot::Closed) => {
                *slot = other;
                return Err(namespace.no_store(&slot));
            }
        }
        match self.open_store(namespace.number(), name, namespace.settings().mode).await {
            Ok(store) => {
                store.keep_history(namespace.settings().history);
                *slot = Slot::Open(store);
                Ok(())
            }
            Err(error) => {
                *slot = Slot::Failed(format!("{error:#}"));
                Err(error)
            }
        }
    }

    async fn end_import(&self, importing: Importing, name: &str, settings: Settings) -> Result<bool> {
        importing.store.sync().await?;
        let mut registry = self.registry.lock().await;
        let Importing { number, store } = importing;
        let Some(namespace) = self.find(name) else {
            self.name_store(&mut registry, Named { number, name: name.into(), settings }, store).await?;
            return Ok(true);
        };
        let mut slot = namespace.slot().write().await;
        if let Slot::Open(there) = &*slot
            && there.lock().next_id == 0
        {
            self.put_store(&mut registry, &namespace, &mut slot, (number, store), settings).await?;
            return Ok(true);
        }
        self.discard(Slot::Open(store), number).await;
        Ok(false)
    }

    async fn sync_every(time: Duration, inner: Weak<Self>) {
        loop {
            tokio::time::sleep(time).await;
            let Some(inner) = inner.upgrade() else { return };
            for namespace in inner.all() {
                if let Err(error) = namespace.sync().await {
                    tracing::warn!(%error, cause = format!("{error:#}"), name = namespace.name(), "a sync failed");
                }
            }
        }
    }

    async fn close(&self) -> Result<()> {
        let registry = self.registry.lock().await;
        if let Some(syncing) = self.syncing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            syncing.abort();
        }
        let mut closed = Ok(());
        for namespace in self.all() {
            let mut slot = namespace.slot().write().await;
            if let Slot::Open(store) = std::mem::replace(&mut *slot, Slot::Closed) {
                closed = closed.and(store.close().await.map_err(|error| error.at(namespace.name())));
            }
        }
        closed.and(registry.close().await)
    }
}

/// The name, if a namespace can have it.
fn valid_name(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let is_good = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '/' || c.is_control());
    is_good.then_some(name)
}
