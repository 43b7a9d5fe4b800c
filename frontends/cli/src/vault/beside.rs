//! What is beside a vault in the directory of its mount, journals and pins, and the keys that it is under.
//!
//! A rekey renews what these keys are made of. Then all that is here is sealed anew, segment by segment, and only when that is done
//! does the vault forget the keys of before; stopped at any moment, the next opening goes on. Spec: spec/vault.md #rekeying.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    Env, ErrorKind, Result,
    media::{Media, SealedMedia},
    tree::uncommitted_count,
};
use muxfs_local::FileMedia;
use muxfs_vault::Vault;

use super::{Way, claim::Claim};
use crate::{commands::put::host, data_dir::private_dir, instance::media, writer};

/// What the directory of a journal begins with.
const JOURNAL: &str = "journal-";
const PINS: &str = "pins";

/// What the renewing of the keys came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// Everything is under the newest keys, and those of before are forgotten.
    Settled,
    /// The data directory there has the journal and the pins: they are sealed anew when it opens the vault.
    Elsewhere(String),
    /// It has not come to those of the renewing before, so nothing was renewed.
    Waits(String),
}

/// Has the vault give other keys for what is beside it, and seals that anew; `local` is what a mount has of it.
///
/// # Errors
/// `Corrupt` for what is damaged; those of the vault and the disk. What was begun goes on at the next opening.
pub(crate) async fn renew(vault: &Vault, local: &Path, env: &Env) -> Result<Renewed> {
    // What was given back counts no more.
    let held = Claim::load(vault).await?.filter(Claim::is_held);
    let me = writer::known_or_drawn(local, env)?;
    match held {
        // Where it was taken and not opened yet, the opening finds out by the journal that nobody knows the pins.
        Some(claim) if !claim.is_of(&me) || !journal_dir(local, claim.generation).exists() => {
            let place = claim.place().to_owned();
            Ok(if vault.renew_key().await? { Renewed::Elsewhere(place) } else { Renewed::Waits(place) })
        }
        held => {
            let current = held.map(|claim| journal_dir(local, claim.generation));
            let counting = match &current {
                Some(dir) => Kept::counting(vault, local, dir, env)?.into(),
                None => Vec::new(),
            };
            let set_aside = Kept::set_aside(vault, local, current.as_deref(), env)?;
            // What a renewing before left.
            settle(vault, &counting, &set_aside).await?;
            vault.renew_key().await?;
            settle(vault, &counting, &set_aside).await?;
            Ok(Renewed::Settled)
        }
    }
}

/// Seals anew what is under keys of before, and has the vault forget these. Does nothing where there are none.
///
/// # Errors
/// As [`renew`]; everything is as readable as it was.
pub(super) async fn settle(vault: &Vault, counting: &[Kept], set_aside: &[Kept]) -> Result<()> {
    let take_keys = || counting.iter().chain(set_aside).for_each(|kept| kept.take_keys(vault));
    take_keys();
    if is_settled(vault) {
        return Ok(());
    }
    for kept in counting {
        kept.reseal().await?;
    }
    for kept in set_aside {
        match kept.reseal().await {
            // It is under keys that were forgotten long ago, so it needs none of these.
            Err(error) if error.kind() == ErrorKind::BadKey => {}
            resealed => resealed?,
        }
    }
    // What was removed is not to be back when nobody can read it.
    for Kept { dir, .. } in counting.iter().chain(set_aside) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| host(dir, error))?;
    }
    vault.forget_older_key().await?;
    take_keys();
    Ok(())
}

/// Whether nothing beside a vault is under keys of before.
pub(crate) fn is_settled(vault: &Vault) -> bool {
    vault.older_key(PINS).is_none()
}

/// Removes pins, and a journal, that are under keys which the vault has forgotten since somebody else had it: nobody reads them any
/// more, and what was in them was given back, or up.
///
/// # Errors
/// Those of the disk.
pub(super) async fn clear(vault: &Vault, local: &Path, journal: &Path, env: &Env) -> Result<()> {
    for (purpose, dir) in [("journal", journal), ("pins", &local.join(PINS))] {
        if !dir.exists() {
            continue;
        }
        let kept = Kept::open(vault, purpose, dir, env)?;
        match kept.sealed.segments().await {
            Err(error) if error.kind() == ErrorKind::BadKey => {
                tracing::info!(dir = %dir.display(), "it is under keys that were forgotten since this vault was given back, or taken over");
                fs::remove_dir_all(dir).map_err(|error| host(dir, error))?;
            }
            listed => drop(listed?),
        }
    }
    Ok(())
}

/// The journal of a generation.
pub(super) fn journal_dir(local: &Path, generation: u64) -> PathBuf {
    local.join(format!("{JOURNAL}{generation}"))
}

/// What is kept beside a vault in a directory.
pub(super) struct Kept {
    purpose: &'static str,
    dir: PathBuf,
    pub(super) sealed: Arc<SealedMedia>,
}

impl Kept {
    fn new(vault: &Vault, purpose: &'static str, dir: &Path, media: Arc<dyn Media>, env: &Env) -> Self {
        let sealed = Arc::new(SealedMedia::new(media, vault.key(purpose), env.clone()));
        let kept = Self { purpose, dir: dir.to_owned(), sealed };
        kept.take_keys(vault);
        kept
    }

    fn open(vault: &Vault, purpose: &'static str, dir: &Path, env: &Env) -> Result<Self> {
        Ok(Self::new(vault, purpose, dir, media(dir)?, env))
    }

    /// The journal and the pins of who has the vault.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn counting(vault: &Vault, local: &Path, journal: &Path, env: &Env) -> Result<[Self; 2]> {
        private_dir(journal)?;
        let media = Arc::new(FileMedia::open_ahead(journal)?);
        let journal = Self::new(vault, "journal", journal, media, env);
        Ok([journal, Self::open(vault, "pins", &local.join(PINS), env)?])
    }

    /// The journals but the `current` one: of before another data directory had the vault.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn set_aside(vault: &Vault, local: &Path, current: Option<&Path>, env: &Env) -> Result<Vec<Self>> {
        let others = journals(local)?.into_iter().filter(|dir| Some(dir.as_path()) != current);
        others.map(|dir| Self::open(vault, "journal", &dir, env)).collect()
    }

    /// Seals with the newest keys from now on, and reads what is under those of before, too.
    fn take_keys(&self, vault: &Vault) {
        self.sealed.set_keys(vault.key(self.purpose), vault.older_key(self.purpose));
    }

    async fn reseal(&self) -> Result<()> {
        self.sealed.reseal().await.map_err(|error| error.at(self.dir.display()))
    }

    /// Tells of what no commit has, in a journal that is set aside; one that has nothing is removed where the vault is lent.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn look(self, (way, env): (Way, &Env)) -> Result<()> {
        let Self { dir, sealed, .. } = self;
        match uncommitted_count(sealed, env).await {
            Ok(0) if way == Way::Lent => fs::remove_dir_all(&dir).map_err(|error| host(&dir, error))?,
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                dir = %dir.display(),
                count,
                "another data directory took the vault over before the changes in this journal were committed: they are nowhere else, and \
                 are not played over what that one did. Keep it for as long as they may be missed, then remove it"
            ),
            Err(error) => tracing::warn!(
                dir = %dir.display(),
                "a journal of before another data directory took the vault over cannot be read: {error:#}"
            ),
        }
        Ok(())
    }
}

/// The journals of a mount.
fn journals(local: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(local).map_err(|error| host(local, error))? {
        let path = entry.map_err(|error| host(local, error))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(JOURNAL)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes journals and pins.
///
/// # Errors
/// Those of the disk.
pub(super) fn forget(local: &Path) -> Result<()> {
    for path in journals(local)?.into_iter().chain([local.join(PINS)]) {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(host(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicU64, Ordering},
    };

    use async_trait::async_trait;
    use bytes::Bytes;
    use muxfs::{
        Cid, Codec, Error, Name, SecretKey,
        block::Mem,
        dag::{Dag, DagOptions},
        heads::{Heads, MemHeads, Swap, Version},
        media::SegmentId,
        pins::Pins,
        testing::fault::{Crash, CrashMedia},
        tree::{Tree, TreeOptions},
        vfs::{NewNode, SetAttr, Vfs as _},
    };
    use muxfs_vault::{Cost, Password, VaultOptions, VaultPlace};
    use sha2::{Digest as _, Sha256};
    use tempfile::TempDir;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn env() -> Env {
        crate::instance::env()
    }

    async fn tree(journal: Arc<dyn Media>, dag: &Dag, heads: &Arc<MemHeads>) -> Result<Tree> {
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), env()) };
        Tree::open(dag.clone(), journal, heads.clone(), options).await
    }

    fn dag() -> Dag {
        Dag::new(Arc::new(Mem::default()), DagOptions::default())
    }

    async fn make(tree: &Tree, text: &str) -> Result<()> {
        let made = tree.create(tree.root(), &name(text), NewNode::Dir, SetAttr::default()).await?;
        tree.release(made.node.ino, 1);
        tree.sync(tree.root()).await
    }

    /// It was removed, though another data directory took the vault over before it was committed.
    #[tokio::test]
    async fn a_journal_of_what_no_commit_has_is_kept() {
        let (dir, env, key) = (tempfile::tempdir().expect("a directory"), env(), SecretKey::new([7; 32]));
        for (journal, commits) in [("journal-1", false), ("journal-2", true)] {
            let media = media(&dir.path().join(journal)).expect("made");
            let media = Arc::new(SealedMedia::new(media, key.clone(), env.clone()));
            let tree = tree(media, &dag(), &Arc::default()).await.expect("opened");
            make(&tree, "made").await.expect("synced");
            if commits {
                tree.commit("").await.expect("committed");
                tree.close().await.expect("closed");
            }
        }
        for dir in journals(dir.path()).expect("listed") {
            let media = loop {
                match media(&dir) {
                    // Its calls have not ended.
                    Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
                    opened => break opened.expect("opened"),
                }
            };
            let sealed = Arc::new(SealedMedia::new(media, key.clone(), env.clone()));
            let kept = Kept { purpose: "journal", dir, sealed };
            kept.look((Way::Lent, &env)).await.expect("looked at");
        }
        assert!(dir.path().join("journal-1").exists() && !dir.path().join("journal-2").exists());
    }

    /// Heads of a machine that stops: at one of their swaps, which is done or not, or when its disks do.
    #[derive(Debug)]
    struct StopHeads {
        inner: Arc<MemHeads>,
        swaps: AtomicU64,
        stop: u64,
        is_done: bool,
        disks: Arc<Crash>,
    }

    impl StopHeads {
        fn check(&self, swaps: u64) -> Result<()> {
            if self.disks.happened() || swaps > self.stop {
                return Err(Error::new(ErrorKind::Unavailable, "test.stop").because("the machine stopped"));
            }
            Ok(())
        }
    }

    #[async_trait]
    impl Heads for StopHeads {
        async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
            self.check(self.swaps.load(Ordering::SeqCst))?;
            self.inner.load(name).await
        }

        async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
            let swap = self.swaps.fetch_add(1, Ordering::SeqCst);
            if swap == self.stop && self.is_done {
                drop(self.inner.swap(name, expected, head.clone()).await?);
            }
            self.check(swap + 1)?;
            self.inner.swap(name, expected, head).await
        }
    }

    /// A vault, and the disks of what is beside it.
    struct World {
        dir: Arc<TempDir>,
        blocks: Arc<Mem>,
        heads: Arc<StopHeads>,
        disks: [Arc<CrashMedia>; 2],
    }

    impl World {
        fn new(crash: &Arc<Crash>, stop: u64, is_done: bool) -> Self {
            let (inner, swaps) = (Arc::default(), AtomicU64::new(0));
            let heads = Arc::new(StopHeads { inner, swaps, stop, is_done, disks: crash.clone() });
            let disks = [(); 2].map(|()| Arc::new(CrashMedia::new(crash.clone())));
            let dir = Arc::new(tempfile::tempdir().expect("a directory"));
            Self { dir, blocks: Arc::default(), heads, disks }
        }

        /// The same for the next process; with a seed, after a loss of power.
        fn again(&self, seed: Option<u64>) -> Self {
            let mut world = Self::new(&Crash::never(), u64::MAX, false);
            let heads = StopHeads { inner: self.heads.inner.clone(), ..Arc::into_inner(world.heads).expect("new") };
            world.heads = Arc::new(heads);
            world.blocks = self.blocks.clone();
            world.disks = self.disks.each_ref().map(|disk| {
                let again = seed.map_or_else(|| disk.reopen(Crash::never()), |seed| disk.restart(seed, Crash::never()));
                Arc::new(again)
            });
            world
        }

        fn place(&self) -> VaultPlace {
            VaultPlace::new(self.blocks.clone(), self.heads.clone(), name("vault"), env())
        }

        fn kept(&self, vault: &Vault) -> [Kept; 2] {
            let [journal, pins] = &self.disks;
            let kept =
                |purpose, disk: &Arc<CrashMedia>| Kept::new(vault, purpose, self.dir.path(), disk.clone(), &env());
            [kept("journal", journal), kept("pins", pins)]
        }

        /// What all segments begin with that begin at all: other bytes when they are sealed anew.
        async fn headers(&self) -> BTreeSet<Bytes> {
            let mut headers = BTreeSet::new();
            for disk in &self.disks {
                // Which is no call that can stop.
                let disk = disk.reopen(Crash::never());
                for segment in disk.segments().await.expect("listed").into_iter().filter(|segment| segment.len > 64) {
                    headers.insert(disk.read_at(segment.id, 0, 64).await.expect("read"));
                }
            }
            headers
        }
    }

    fn password() -> Password {
        Password::new("correct horse").expect("a password")
    }

    fn is_key(vault: &Vault, key: &SecretKey) -> bool {
        vault.key("journal").as_bytes() == key.as_bytes()
    }

    fn pin(n: usize) -> Cid {
        Cid::v1_sha256(Codec::Raw, Sha256::digest(n.to_le_bytes()).into())
    }

    /// What was acknowledged before the machine stopped.
    #[derive(Default)]
    struct Story {
        is_made: bool,
        made: Vec<String>,
        pinned: Vec<Cid>,
        /// The key of before, and what was under it.
        before: Option<(SecretKey, BTreeSet<Bytes>)>,
    }

    impl Story {
        async fn live(&mut self, world: &World, (dag, heads): (&Dag, &Arc<MemHeads>)) -> Result<()> {
            let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
            let options = VaultOptions { cost, pack_len: 64 << 10, ..VaultOptions::default() };
            let vault = Vault::create(world.place(), &password(), &options).await?;
            self.is_made = true;
            {
                let [journal, pins] = world.kept(&vault);
                let pins = Pins::open(pins.sealed, &env()).await?;
                let tree = tree(journal.sealed, dag, heads).await?;
                for n in 0..3 {
                    make(&tree, &format!("made {n}")).await?;
                    self.made.push(format!("made {n}"));
                    pins.add(&pin(n)).await?;
                    self.pinned.push(pin(n));
                    if n == 0 {
                        tree.commit("").await?;
                    }
                }
                tree.close().await?;
                pins.close().await?;
            }
            self.before = Some((vault.key("journal"), world.headers().await));
            assert!(vault.renew_key().await?, "nothing was begun before");
            settle(&vault, &world.kept(&vault), &[]).await
        }

        /// Looks whether everything is there, and under the newest keys alone.
        async fn check(&self, world: &World, seed: Option<u64>, (dag, heads): (&Dag, &Arc<MemHeads>)) {
            let world = world.again(None);
            let vault = Vault::open(world.place(), &password()).await.expect("opened");
            // Disks of this kind bring back what was removed at any time; directories that were synced do not.
            let is_forgotten = self.before.as_ref().is_some_and(|(key, _)| !is_key(&vault, key)) && is_settled(&vault);
            let disks = world.again(seed.filter(|_| !is_forgotten)).disks;
            let world = World { disks, ..world };
            let kept = world.kept(&vault);
            settle(&vault, &kept, &[]).await.expect("goes on");
            assert!(is_settled(&vault));
            let [journal, pins] = kept;
            let pins = Pins::open(pins.sealed, &env()).await.expect("opened");
            assert!(self.pinned.iter().all(|cid| pins.contains(cid)), "a pin is lost");
            let tree = tree(journal.sealed, dag, heads).await.expect("opened");
            for made in &self.made {
                tree.lookup(tree.root(), &name(made)).await.expect("it was synced");
            }
            // Now that all of it was opened: what the disk brought back of before is gone.
            if let Some((key, before)) = &self.before
                && !is_key(&vault, key)
            {
                assert!(before.len() >= 2, "journal and pins");
                assert!(world.headers().await.is_disjoint(before), "something is not sealed anew");
            }
        }
    }

    /// The machine stops at any call of its disks, or swap of the head: what was acknowledged is there, and in the end under the newest
    /// keys alone.
    #[tokio::test]
    async fn wherever_a_renewing_is_stopped_it_goes_on() {
        for (is_swap, is_done, loses_power) in
            [(false, false, false), (false, false, true), (true, false, true), (true, true, true)]
        {
            for at in 0.. {
                let (crash, stop) = if is_swap { (Crash::never(), at) } else { (Crash::at(at), u64::MAX) };
                let (world, mut story) = (World::new(&crash, stop, is_done), Story::default());
                let above = (&dag(), &Arc::default());
                let lived = story.live(&world, above).await;
                if story.is_made {
                    story.check(&world, loses_power.then_some(at), above).await;
                }
                if lived.is_ok() {
                    assert!(at > if is_swap { 2 } else { 40 }, "{at} calls");
                    break;
                }
            }
        }
    }

    /// It was taken, and stopped before anything was opened: no journal is made, which would say that the pins are known.
    #[tokio::test]
    async fn what_was_not_opened_yet_is_left_to_the_opening() {
        let (dir, env) = (tempfile::tempdir().expect("a directory"), env());
        let world = World::new(&Crash::never(), u64::MAX, false);
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let options = VaultOptions { cost, pack_len: 64 << 10, ..VaultOptions::default() };
        let vault = Vault::create(world.place(), &password(), &options).await.expect("made");
        let me = writer::known_or_drawn(dir.path(), &env).expect("drawn");
        let offer = Claim::offered(&vault, &me, "here", false).await.expect("nobody has it");
        let claim = offer.take(&vault).await.expect("taken");
        let journal = journal_dir(dir.path(), claim.generation);
        let renewed = renew(&vault, dir.path(), &env).await.expect("renewed");
        assert_eq!(renewed, Renewed::Elsewhere("here".to_owned()));
        assert!(!journal.exists() && !is_settled(&vault));
        assert_eq!(renew(&vault, dir.path(), &env).await.expect("asked"), Renewed::Waits("here".to_owned()));
        drop(Kept::counting(&vault, dir.path(), &journal, &env).expect("opened"));
        let renewed = loop {
            match renew(&vault, dir.path(), &env).await {
                // Its calls have not ended.
                Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
                renewed => break renewed.expect("renewed"),
            }
        };
        assert_eq!(renewed, Renewed::Settled);
        assert!(is_settled(&vault));
    }

    /// Somebody else had the vault, and renewed its keys: what was given back before is in nobody's way.
    #[tokio::test]
    async fn what_nobody_reads_any_more_is_cleared() {
        let dir = tempfile::tempdir().expect("a directory");
        let world = World::new(&Crash::never(), u64::MAX, false);
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let options = VaultOptions { cost, pack_len: 64 << 10, ..VaultOptions::default() };
        let vault = Vault::create(world.place(), &password(), &options).await.expect("made");
        let (local, env) = (dir.path(), env());
        let (journal, pins) = (journal_dir(local, 1), local.join(PINS));
        for kept in Kept::counting(&vault, local, &journal, &env).expect("made") {
            kept.sealed.append(SegmentId(1), "sealed".into()).await.expect("appended");
        }
        let is_there = async |vault: &Vault| {
            loop {
                match clear(vault, local, &journal, &env).await {
                    // Its calls have not ended.
                    Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
                    cleared => break cleared.expect("cleared"),
                }
            }
            [&journal, &pins].map(|dir| dir.exists())
        };
        assert_eq!(is_there(&vault).await, [true; 2]);
        vault.renew_key().await.expect("renewed");
        assert_eq!(is_there(&vault).await, [true; 2], "the keys of before are not forgotten");
        vault.forget_older_key().await.expect("forgotten");
        assert_eq!(is_there(&vault).await, [false; 2]);
        assert_eq!(is_there(&vault).await, [false; 2], "nothing is made");
    }
}
