//! A zstor v2: files found by the keys of their metadata, read from the shards that come first, and written.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use muxfs::{Env, Error, ErrorKind, Result};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::timeout,
};

use super::{
    backend::{Backend, Mode, ZdbInfo},
    checksum::{Checksum, Checksummer},
    config::{Config, MetaKey},
    directory::Directory,
    key::NONCE_LEN,
    metadata::{CHUNK_LEN, Metadata, ShardInfo},
    object::{Object, Packed},
    shards::Code,
};

/// A shard of which no value came for so long is late: another is asked for too.
const LATE_AFTER: Duration = Duration::from_secs(1);
/// How often shards are placed anew when one could not be written.
const PLACING_COUNT_MAX: usize = 3;
/// The most memory that files take that are read or written, in bytes, where nobody says otherwise.
pub const MEMORY_MAX_DEFAULT: u64 = 2 << 30;

/// A zstor v2 whose files are read and written.
pub struct Cluster {
    config: Config,
    directory: Directory,
    /// Those that have shards, as far as they were met.
    backends: Mutex<Vec<Arc<Backend>>>,
    env: Env,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A shard that was not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `Corrupt` or `NotFound` of the shard; else why its server could not be asked.
    pub kind: ErrorKind,
    /// Which, where, and why.
    pub why: String,
}

/// What zstor v2 has metadata of.
#[derive(Debug)]
pub struct Listing {
    /// The keys, without the paths, which it does not keep.
    pub keys: BTreeSet<MetaKey>,
    /// The metadata backends that could not be listed, and why; what is on the others is all that can be read.
    pub failed: Vec<Error>,
}

impl Cluster {
    /// Makes one of its configuration; nothing is asked yet.
    pub fn new(config: Config, env: Env) -> Self {
        Self { directory: Directory::new(&config), config, backends: Mutex::default(), env }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns what there is metadata of.
    ///
    /// # Errors
    /// `Unavailable`, or what else keeps more than two of the four metadata backends from being asked.
    pub async fn list(&self) -> Result<Listing> {
        let (keys, failed) = self.directory.keys(&self.config).await?;
        Ok(Listing { keys, failed })
    }

    /// Returns what zstor v2 knows of a file; `None` where it knows none.
    ///
    /// # Errors
    /// `Unavailable`, or what else keeps more than two of the four metadata backends from being asked; `BadKey` where no key
    /// of the configuration opens it; `Corrupt`; `Unsupported`.
    pub async fn find(&self, key: MetaKey) -> Result<Option<Metadata>> {
        match self.directory.read(&self.config.key_text(key)).await? {
            Some(bytes) => Metadata::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a file, of which all is in memory then, compressed; see [`Metadata::memory_len`]. Data shards are asked for
    /// first, and one of the others for each that fails or is late: servers that are away cost a second at most.
    ///
    /// # Errors
    /// `Corrupt` where k sound shards cannot be had, whoever comes back; `Unavailable` where they may be.
    pub async fn read(&self, metadata: &Metadata) -> Result<Object> {
        let (shards, faults) = self.collect(metadata).await?;
        let metadata = metadata.clone();
        let unpacked = tokio::task::spawn_blocking(move || Object::unpack(&metadata, shards, faults)).await;
        unpacked.map_err(|stopped| Error::new(ErrorKind::Internal, "zstor.v2.read").because(stopped))?
    }

    /// Reads k shards, each whole.
    async fn collect(&self, metadata: &Metadata) -> Result<(Vec<Option<Vec<u8>>>, Vec<Fault>)> {
        let wanted = metadata.data_shards;
        let mut waiting: Vec<&ShardInfo> = metadata.shards.iter().collect();
        waiting.sort_by_key(|shard| (self.backend(&shard.place).has_failed(), shard.index));
        let mut waiting = VecDeque::from(waiting);
        let mut shards = vec![None; wanted + metadata.parity_shards];
        let (mut whole_count, mut faults) = (0, Vec::new());
        let (late, mut told_late) = unbounded_channel();
        let begin = |shard| {
            let late = late.clone();
            async move { (shard, self.read_shard(shard, &late).await) }
        };
        let mut asked: FuturesUnordered<_> = (0..wanted).filter_map(|_| waiting.pop_front()).map(begin).collect();
        while whole_count < wanted {
            tokio::select! {
                Some((shard, read)) = asked.next() => match read {
                    Ok(bytes) => {
                        shards[shard.index] = Some(bytes);
                        whole_count += 1;
                    }
                    Err(error) => {
                        let why = format!("shard {}: {error:#}", shard.index);
                        faults.push(Fault { kind: error.kind(), why });
                        asked.extend(waiting.pop_front().map(begin));
                    }
                },
                Some(()) = told_late.recv(), if !asked.is_empty() => asked.extend(waiting.pop_front().map(begin)),
                else => break,
            }
            if asked.is_empty() {
                break;
            }
        }
        if whole_count >= wanted {
            return Ok((shards, faults));
        }
        let is_gone = |fault: &&Fault| matches!(fault.kind, ErrorKind::Corrupt | ErrorKind::NotFound);
        let gone_count = faults.iter().filter(is_gone).count() + shards.len() - metadata.shards.len();
        let kind = if gone_count > metadata.parity_shards { ErrorKind::Corrupt } else { ErrorKind::Unavailable };
        let each: Vec<&str> = faults.iter().map(|fault| fault.why.as_str()).collect();
        let why = format!("{whole_count} of the {wanted} shards that it takes can be read: {}", each.join("; "));
        Err(Error::new(kind, "zstor.v2.read").because(why))
    }

    async fn read_shard(&self, shard: &ShardInfo, late: &UnboundedSender<()>) -> Result<Vec<u8>> {
        let corrupt =
            |why: &str| Error::new(ErrorKind::Corrupt, "zstor.v2.shard").at(&shard.place).because(why.to_owned());
        let backend = self.backend(&shard.place);
        let (mut bytes, mut checksummer) = (Vec::new(), Checksummer::default());
        for key in &shard.keys {
            let key = key.to_bytes();
            let Some(value) = or_late(backend.get(&key), late).await? else {
                let absent = Error::new(ErrorKind::NotFound, "zstor.v2.shard").at(&shard.place);
                return Err(absent.because("a value of it is not there"));
            };
            if value.len() > CHUNK_LEN {
                return Err(corrupt("a value of it is longer than zstor v2 makes them"));
            }
            checksummer.add(&value);
            if bytes.is_empty() {
                // All but the last are as long as the first.
                bytes.reserve_exact(value.len() * shard.keys.len());
            }
            bytes.extend_from_slice(&value);
        }
        if checksummer.finish() == shard.checksum { Ok(bytes) } else { Err(corrupt("its checksum is wrong")) }
    }

    /// Refuses unless a file could be written now: all four metadata backends can be asked.
    ///
    /// # Errors
    /// `Unavailable`, or what else keeps one from it.
    pub async fn check_writable(&self) -> Result<()> {
        self.directory.check_all().await
    }

    /// Writes a file, so that zstor v2 retrieves it: its shards first, then what is known of it. What zstor v2 knew of an
    /// older one by this key, given in `before`, is replaced; the shards of that stay, as they do with zstor v2.
    ///
    /// # Errors
    /// `Unavailable` where too few backends can be written, or not all four that have metadata.
    pub async fn write(&self, key: MetaKey, packed: Packed, before: Option<&Metadata>) -> Result<()> {
        let rules = self.config.rules;
        let parity_shards = rules.shards.saturating_sub(rules.data_shards);
        let checksum = packed.checksum;
        let (data_key, nonce) = (self.config.key.clone(), self.nonce());
        let cut = tokio::task::spawn_blocking(move || {
            let shards = packed.into_shards(&Code::new(rules.data_shards, parity_shards)?, &data_key, nonce)?;
            Ok::<_, Error>(shards.into_iter().map(|shard| (Checksum::of(&shard), shard)).collect::<Vec<_>>())
        });
        let cut = cut.await.map_err(|stopped| Error::new(ErrorKind::Internal, "zstor.v2.write").because(stopped))??;
        let shards = self.put_shards(&cut).await?;
        let metadata =
            Metadata { data_shards: rules.data_shards, parity_shards, checksum, key: self.config.key.clone(), shards };
        let key = self.config.key_text(key);
        self.directory.write(&key, &metadata.encode(), self.nonce(), before.is_none()).await
    }

    /// Puts shards where the rules allow it, and goes around backends that cannot be written.
    async fn put_shards(&self, shards: &[(Checksum, Bytes)]) -> Result<Vec<ShardInfo>> {
        let shard_len = shards.first().map_or(0, |(_, shard)| shard.len());
        let mut failed: Vec<String> = Vec::new();
        for _ in 0..PLACING_COUNT_MAX {
            let chosen = self.choose(shard_len as u64, &mut failed).await?;
            let put = chosen.iter().zip(shards).map(|(backend, (_, shard))| backend.append(shard));
            let mut infos = Vec::with_capacity(shards.len());
            for (index, (put, backend)) in join_all(put).await.into_iter().zip(&chosen).enumerate() {
                match put {
                    Ok(keys) => {
                        let checksum = shards.get(index).map_or(Checksum::of(b""), |(checksum, _)| *checksum);
                        infos.push(ShardInfo { index, checksum, keys, place: backend.info.clone() });
                    }
                    Err(error) => {
                        backend.give_up(&error);
                        failed.push(format!("{error:#}"));
                    }
                }
            }
            if infos.len() == shards.len() {
                return Ok(infos);
            }
        }
        let why = format!("its shards could not be written: {}", failed.join("; "));
        Err(Error::new(ErrorKind::Unavailable, "zstor.v2.write").because(why))
    }

    /// A backend for each shard.
    async fn choose(&self, shard_len: u64, failed: &mut Vec<String>) -> Result<Vec<Arc<Backend>>> {
        let ask = |info: &ZdbInfo| {
            let backend = self.backend(info);
            async move {
                let told = backend.info().await?;
                let used = told.data_len.saturating_add(shard_len);
                let is_full = told.limit > 0 && used > told.limit;
                // 0 is what a server has that does not tell.
                if is_full || (1..shard_len).contains(&told.disk_free) {
                    return Err(Error::new(ErrorKind::NoSpace, "zstor.v2.write").at(&backend.info));
                }
                Ok(backend)
            }
        };
        let mut groups = Vec::new();
        for group in &self.config.groups {
            groups.push(join_all(group.iter().map(ask)));
        }
        let mut groups: Vec<Vec<Arc<Backend>>> = join_all(groups)
            .await
            .into_iter()
            .map(|group| {
                let each =
                    group.into_iter().filter_map(|asked| asked.map_err(|error| failed.push(format!("{error:#}"))).ok());
                each.collect()
            })
            .collect();
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        let Some(counts) = self.config.rules.place(&sizes, |below| self.roll(below)) else {
            let rules = self.config.rules;
            failed.dedup();
            let why = format!(
                "no choice of {} backends in groups of {sizes:?} that can be written lets {} groups and {} backends of each other be lost and keeps {}: {}",
                rules.shards,
                rules.redundant_groups,
                rules.redundant_nodes,
                rules.data_shards,
                failed.join("; ")
            );
            return Err(Error::new(ErrorKind::Unavailable, "zstor.v2.write").because(why));
        };
        let mut chosen = Vec::with_capacity(self.config.rules.shards);
        for (group, count) in groups.iter_mut().zip(counts) {
            for _ in 0..count {
                let at = self.roll(group.len());
                chosen.push(group.swap_remove(at));
            }
        }
        Ok(chosen)
    }

    /// The backend of a namespace, which everybody shares.
    fn backend(&self, info: &ZdbInfo) -> Arc<Backend> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = backends.iter().find(|backend| backend.info == *info) {
            return Arc::clone(backend);
        }
        let backend = Arc::new(Backend::new(info.clone(), Mode::Sequential));
        backends.push(Arc::clone(&backend));
        backend
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        (self.env.fill)(&mut nonce);
        nonce
    }

    /// A number below another, or 0.
    fn roll(&self, below: usize) -> usize {
        let mut bytes = [0; 8];
        (self.env.fill)(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % below.max(1) as u64).unwrap_or(0)
    }
}

/// Waits, and tells if that takes long.
async fn or_late<T>(work: impl Future<Output = T>, late: &UnboundedSender<()>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(LATE_AFTER, work.as_mut()).await {
        return done;
    }
    // Whoever has enough listens no more.
    late.send(()).ok();
    work.await
}
