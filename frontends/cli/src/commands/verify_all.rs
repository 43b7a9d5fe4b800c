//! `verify --all`: re-hashes every block of every content-addressed mount, and asks whether all that a root needs is there.
//!
//! The owner of the blocks runs it, in bounded memory, and writes down every second how far it is: whatever ends it, the
//! next `verify --all` goes on from there. Blocks first, in the order in which they lie on the disk, then roots in the
//! order of their CIDs. Spec: spec/verify.md.

mod pace;
mod progress_file;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, Cid, Error, ErrorKind, Prefix, Result,
    block::Segments,
    cas::Cas,
    dag::WalkMemory,
    log::LogPos,
    media::SegmentId,
    tree::{Commit, Tree},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::{
    pace::Pace,
    progress_file::{Bad, Place, ProgressFile, Run},
};
use crate::{
    instance::Instance,
    namespace::Namespace,
    output::{self, Output, bytes, count},
};

/// How the verification of everything goes about it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct VerifyAll {
    /// One mount only.
    pub(crate) mount: Option<String>,
    /// From the beginning, whatever was done.
    #[serde(default)]
    pub(crate) restart: bool,
    /// How much is read in a second at most, in bytes.
    pub(crate) rate_max: Option<u64>,
}

/// One thing that `verify --all` has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub(crate) enum AllFinding {
    /// A mount is begun, or gone on with; `began` in seconds since 1970.
    Begun { mount: String, began: u64, resumed: bool },
    /// So far; of about so many bytes on the disk.
    Progress { mount: String, blocks: u64, bytes: u64, bytes_total: u64, roots: u64 },
    /// Something that is missing or wrong; `needed_by` says which root cannot do without.
    Bad { mount: String, path: String, error: String, needed_by: Option<String> },
    /// A mount is done; always the last of it.
    Done { mount: String, began: u64, blocks: u64, bytes: u64, roots: u64, bad: u64 },
}

/// Prints what is wrong as it is found, and a summary of each mount.
///
/// # Errors
/// `Corrupt` if anything was missing or wrong.
pub(crate) async fn verify_all(namespace: &dyn Namespace, options: &VerifyAll, output: Output) -> Result<()> {
    let mut findings = namespace.verify_all(options);
    let (mut progress, mut bad_count) = (None, 0);
    while let Some(finding) = findings.try_next().await? {
        match &finding {
            AllFinding::Begun { mount, began, resumed } => {
                progress = None;
                if *resumed {
                    let since = output::ago(*began);
                    output.notice(&format!("/{mount}: going on with what began {since}; --restart begins again"));
                }
            }
            AllFinding::Progress { mount, blocks, bytes, bytes_total, roots } => {
                let bar = progress.get_or_insert_with(|| output.progress_from(*bytes, (*bytes_total).max(*bytes)));
                bar.set_bytes(*bytes);
                let roots = if *roots > 0 { format!(", {} roots", count(*roots)) } else { String::new() };
                bar.say(format!("/{mount}: {} blocks{roots}", count(*blocks)));
            }
            AllFinding::Bad { mount, path, error, needed_by } => {
                let needed = needed_by.as_ref().map_or_else(String::new, |root| format!(", which {root} needs"));
                output.result(format!("bad /{mount} {path}{needed}: {error}").as_bytes(), &finding)?;
            }
            AllFinding::Done { mount, blocks, bytes: len, roots, bad, .. } => {
                progress = None;
                bad_count += bad;
                let (blocks, len, roots) = (count(*blocks), bytes(*len), count(*roots));
                let verdict = if *bad == 0 { "all there and whole".into() } else { format!("{} are bad", count(*bad)) };
                let text = format!("/{mount}: {blocks} blocks, {len}, {roots} roots: {verdict}");
                output.result(text.as_bytes(), &finding)?;
            }
        }
    }
    if bad_count > 0 {
        let why = format!("{} blocks or roots are missing or wrong", count(bad_count));
        return Err(Error::new(ErrorKind::Corrupt, "verify").because(why));
    }
    Ok(())
}

/// How often the progress is told, and written down.
const TELL_EVERY: Duration = Duration::from_millis(200);
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// So many keys are listed at a time: a listing holds up compaction.
const KEY_COUNT: usize = 256;
/// So often the blocks are counted before it is given up because others put and delete.
const COUNT_TRY_COUNT: usize = 3;
/// So many blocks are read and hashed at a time: enough to keep a disk and all cores busy.
const READ_COUNT: usize = 16;

/// The work itself, by the owner of the blocks; dropped, it stops, and goes on next time.
pub(crate) fn run<'a>(instance: &'a Instance, options: &VerifyAll) -> BoxStream<'a, Result<AllFinding>> {
    let (out, found) = mpsc::channel(64);
    let options = options.clone();
    let work = stream::once(async move {
        if let Err(error) = all_mounts(instance, &options, &out).await {
            out.send(Err(error)).await.ok();
        }
    });
    let found = stream::unfold(found, |mut found| async { found.recv().await.map(|item| (item, found)) });
    stream::select(work.filter_map(|()| std::future::ready(None)), found).boxed()
}

type Out = mpsc::Sender<Result<AllFinding>>;

async fn all_mounts(instance: &Instance, options: &VerifyAll, out: &Out) -> Result<()> {
    let _alone = instance.verifying.try_lock().map_err(|_| {
        Error::new(ErrorKind::Unavailable, "verify.all")
            .because("everything is being verified already: wait for its end")
    })?;
    let named = options.mount.as_deref().map(Prefix::new).transpose()?;
    let mut pace = Pace::new(options.rate_max);
    for (mount, cas) in instance.named_or_all(named)? {
        let (segments, tree) = (instance.segments_of(mount), instance.tree(mount).ok());
        // What is in RAM goes with the process, and how far it was verified too; of what is encrypted nothing is to be
        // in clear here, and the file has CIDs.
        let file = segments.map(|_| ProgressFile::new(progress_path(&instance.config.data, mount)));
        let run = match &file {
            Some(file) if !options.restart => file.load().await?.filter(|run| run.place != Place::Done),
            _ => None,
        };
        let resumed = run.is_some();
        let run = run.unwrap_or_else(|| Run::new(seconds_now()));
        let mut job = Job { mount, cas, segments, tree, file, run, out, told: Instant::now(), saved: Instant::now() };
        job.send(AllFinding::Begun { mount: mount.to_string(), began: job.run.began, resumed }).await?;
        for Bad { path, error, needed_by } in job.run.bad.clone() {
            job.send(AllFinding::Bad { mount: mount.to_string(), path, error, needed_by }).await?;
        }
        job.run(&mut pace).await?;
    }
    Ok(())
}

/// Where it is written how far a mount was verified.
pub(crate) fn progress_path(data: &std::path::Path, mount: Prefix) -> PathBuf {
    data.join("verify").join(mount.as_str())
}

/// When the last verification of all of a mount ended, in seconds since 1970, and how much it found to be bad.
pub(crate) async fn last_done(data: &std::path::Path, mount: Prefix) -> Result<Option<(u64, u64)>> {
    let run = ProgressFile::new(progress_path(data, mount)).load().await?;
    Ok(run.filter(|run| run.place == Place::Done).map(|run| (run.ended, run.bad_count)))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One mount that is being verified.
struct Job<'a> {
    mount: Prefix,
    cas: &'a Cas,
    segments: Option<&'a Segments>,
    tree: Option<&'a Tree>,
    file: Option<ProgressFile>,
    run: Run,
    out: &'a Out,
    told: Instant,
    saved: Instant,
}

impl Job<'_> {
    async fn run(&mut self, pace: &mut Pace) -> Result<()> {
        self.save().await?;
        self.tell().await?;
        if matches!(self.run.place, Place::Blocks { .. }) {
            match self.segments {
                Some(segments) => {
                    self.blocks_on_disk(segments, pace).await?;
                    self.nameless_blocks(segments).await?;
                }
                None => self.blocks_by_key(pace).await?,
            }
            self.run.place = Place::Roots { after: None };
            self.save().await?;
        }
        if let Place::Roots { after } = self.run.place.clone() {
            self.roots(after.as_deref(), pace).await?;
        }
        self.run.place = Place::Done;
        self.run.ended = seconds_now();
        self.save().await?;
        let Run { began, blocks, bytes, roots, bad_count: bad, .. } = self.run;
        self.send(AllFinding::Done { mount: self.mount.to_string(), began, blocks, bytes, roots, bad }).await
    }

    async fn blocks_on_disk(&mut self, segments: &Segments, pace: &mut Pace) -> Result<()> {
        loop {
            let Place::Blocks { from } = self.run.place else { return Ok(()) };
            let from = from.map(|(segment, offset)| LogPos { segment: SegmentId(segment), offset });
            let keys: Vec<(LogPos, BlockKey)> = segments.keys_from(from).take(KEY_COUNT).try_collect().await?;
            let is_last = keys.len() < KEY_COUNT;
            // The one that was last is done.
            let new = keys.into_iter().filter(|(pos, _)| Some(*pos) != from).map(|(pos, key)| (Some(pos), key));
            self.check(new.collect(), pace).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Tells of blocks that the index knows and whose records say no key any more.
    async fn nameless_blocks(&mut self, segments: &Segments) -> Result<()> {
        for _ in 0..COUNT_TRY_COUNT {
            let before = segments.stats();
            let key_count = segments.keys_from(None).try_fold(0, async |count, _| Ok(count + 1)).await?;
            // What came or went meanwhile may have been counted or not.
            if segments.stats() != before {
                continue;
            }
            let nameless = before.block_count.saturating_sub(key_count);
            if nameless > 0 {
                let why = format!("the records of {} blocks are destroyed: nobody can tell which", count(nameless));
                let error = Error::new(ErrorKind::Corrupt, "verify.all").because(why);
                self.bad("blocks".into(), &error, None).await?;
            }
            return Ok(());
        }
        Ok(())
    }

    /// Of blocks in RAM and in shards, which lie in no order that could be gone on with.
    async fn blocks_by_key(&mut self, pace: &mut Pace) -> Result<()> {
        let cas = self.cas;
        let mut keys = cas.dag().keys().chunks(KEY_COUNT);
        while let Some(keys) = keys.next().await {
            let keys = keys.into_iter().map(|key| Ok((None, key?)));
            self.check(keys.collect::<Result<_>>()?, pace).await?;
        }
        Ok(())
    }

    /// Reads and hashes blocks, in their order as far as it is told.
    async fn check(&mut self, keys: Vec<(Option<LogPos>, BlockKey)>, pace: &mut Pace) -> Result<()> {
        let dag = self.cas.dag().clone();
        let checks = stream::iter(keys).map(|(pos, key)| {
            let dag = dag.clone();
            // A task of its own, so that all cores hash.
            let check = tokio::spawn(async move { dag.check_block(&key).await });
            async move {
                let checked = check.await.map_err(|error| Error::new(ErrorKind::Internal, "verify.all").because(error));
                Ok::<_, Error>((pos, checked?))
            }
        });
        let mut checks = checks.buffered(READ_COUNT);
        while let Some((pos, checked)) = checks.try_next().await? {
            match checked {
                Ok(Some(len)) => {
                    self.run.blocks += 1;
                    self.run.bytes += len;
                    pace.took(len).await;
                }
                // Deleted meanwhile.
                Ok(None) => {}
                Err(error) if is_of_the_block(&error) => {
                    self.run.blocks += 1;
                    let path = error.path().unwrap_or_default().to_owned();
                    self.bad(path, &error, None).await?;
                }
                Err(error) => return Err(error),
            }
            if let Some(pos) = pos {
                let Place::Blocks { from } = &mut self.run.place else { return Ok(()) };
                // One that moved to the disk meanwhile may come twice.
                *from = (*from).max(Some((pos.segment.0, pos.offset)));
            }
            self.save_now_and_then().await?;
            self.tell_now_and_then().await?;
        }
        Ok(())
    }

    /// Goes through what every root needs.
    async fn roots(&mut self, after: Option<&str>, pace: &mut Pace) -> Result<()> {
        let roots = self.all_roots().await?;
        let mut memory = WalkMemory::default();
        for (text, root) in roots {
            if after.is_some_and(|after| *text <= *after) {
                continue;
            }
            self.root(&text, root, &mut memory, pace).await?;
            self.run.roots += 1;
            self.run.place = Place::Roots { after: Some(text) };
            self.save_now_and_then().await?;
        }
        Ok(())
    }

    /// The pins, and what the head of the tree keeps, by their CIDs as text.
    async fn all_roots(&self) -> Result<BTreeMap<String, Root>> {
        let mut roots = BTreeMap::new();
        let mut pins = self.cas.pins().list();
        while let Some(pin) = pins.try_next().await? {
            roots.insert(pin.to_string(), Root::Pin(pin));
        }
        if let Some(tree) = self.tree {
            roots.extend(kept(tree).into_iter().map(|cid| (cid.to_string(), Root::Commit(cid))));
        }
        Ok(roots)
    }

    async fn root(&mut self, text: &str, root: Root, memory: &mut WalkMemory, pace: &mut Pace) -> Result<()> {
        let dag = self.cas.dag();
        let (Root::Pin(cid) | Root::Commit(cid)) = root;
        // No collection takes what is looked at; what it took before is no root any more.
        let lease = dag.lease(&cid);
        lease.settled().await;
        let (what, below) = match root {
            Root::Pin(cid) if !self.cas.pins().contains(&cid) => return Ok(()),
            Root::Pin(cid) => (format!("pin {text}"), vec![cid]),
            Root::Commit(cid) => {
                let what = format!("commit {text}");
                match Commit::get(dag, &cid).await {
                    Ok(commit) => (what, commit.attrs.into_iter().chain([commit.root]).collect()),
                    Err(_) if self.tree.is_some_and(|tree| !kept(tree).contains(&cid)) => return Ok(()),
                    Err(error) if is_of_the_block(&error) => {
                        return self.bad(text.to_owned(), &error, Some(what)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let leases: Vec<_> = below.iter().map(|cid| dag.lease(cid)).collect();
        for cid in &below {
            let mut visits = dag.walk_on(cid, memory);
            while let Some(visit) = visits.next().await {
                pace.took(visit.len.unwrap_or(0)).await;
                match visit.error {
                    None => {}
                    Some(error) if is_of_the_block(&error) => {
                        self.bad(visit.cid.to_string(), &error, Some(what.clone())).await?;
                    }
                    Some(error) => return Err(error),
                }
                self.tell_now_and_then().await?;
            }
        }
        drop(leases);
        Ok(())
    }

    async fn bad(&mut self, path: String, error: &Error, needed_by: Option<String>) -> Result<()> {
        let error = format!("{error:#}");
        self.run.add(Bad { path: path.clone(), error: error.clone(), needed_by: needed_by.clone() });
        self.send(AllFinding::Bad { mount: self.mount.to_string(), path, error, needed_by }).await
    }

    async fn send(&self, finding: AllFinding) -> Result<()> {
        self.out.send(Ok(finding)).await.map_err(|error| Error::new(ErrorKind::Internal, "verify.all").because(error))
    }

    async fn tell_now_and_then(&mut self) -> Result<()> {
        if self.told.elapsed() >= TELL_EVERY { self.tell().await } else { Ok(()) }
    }

    async fn tell(&mut self) -> Result<()> {
        self.told = Instant::now();
        let Run { blocks, bytes, roots, .. } = self.run;
        let bytes_total = self.segments.map_or(0, |segments| segments.stats().live_len);
        self.send(AllFinding::Progress { mount: self.mount.to_string(), blocks, bytes, bytes_total, roots }).await
    }

    async fn save_now_and_then(&mut self) -> Result<()> {
        if self.saved.elapsed() >= SAVE_EVERY { self.save().await } else { Ok(()) }
    }

    async fn save(&mut self) -> Result<()> {
        self.saved = Instant::now();
        match &self.file {
            Some(file) => file.save(&self.run).await,
            None => Ok(()),
        }
    }
}

/// Whether an error is one block's, as that of a sector that cannot be read, and no reason to look at no other.
fn is_of_the_block(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Io, NotFound, TooLarge, Unsupported};
    matches!(error.kind(), Corrupt | Io | NotFound | TooLarge | Unsupported)
}

/// What keeps content.
#[derive(Debug, Clone, Copy)]
enum Root {
    Pin(Cid),
    Commit(Cid),
}

/// The commits that the head of a tree keeps, itself included.
fn kept(tree: &Tree) -> Vec<Cid> {
    let (head, commit) = tree.head();
    commit.prev.iter().chain(commit.snapshots.values()).chain([&head]).copied().collect()
}
