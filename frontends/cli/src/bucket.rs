//! What a configuration says of a bucket of S3, as `/s3` takes it: where it is, who we are there, what is kept here.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use muxfs::{
    BlockStore, Env, Error, ErrorKind, Name, Prefix, Result,
    block::{Cache, Fallback, Mem, Segments},
    dag::{Dag, DagOptions},
    heads::Heads as _,
    media::MemMedia,
    tree::{Tree, TreeOptions, uncommitted_count},
};
use muxfs_s3::{Bucket, S3Access, S3Credentials, S3Limits, S3Options, S3Place, S3Store};
use muxfs_zstor::BucketPlace;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    commands::{doctor::Finding, put::host},
    config::{ByteCount, PrefixText},
    data_dir::{content_dir, private_dir},
    host_file::read_password_file,
    instance::{HEAD, media},
    output::count,
    sealing::Sealing,
    sources::near,
    take_over,
    writer::{self, hostname},
};

const OP: &str = "s3.mount";
/// How often somebody who follows looks for a commit.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// How often somebody who writes looks whether another machine has taken over.
const GUARD_EVERY: Duration = Duration::from_secs(5);

/// Blocks, and the head of their tree, in a bucket. Spec: spec/s3-store.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BucketMount {
    pub(crate) prefix: PrefixText,
    /// The bucket, which has to be there.
    pub(crate) bucket: String,
    /// What is in front of the names of all objects; nothing where absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) below: String,
    /// `https://HOST[:PORT]`; that of AWS where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    /// Whether the bucket is in the path; where absent it is if there is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path_style: Option<bool>,
    /// The file that says who we are, as that of the AWS tools; the environment where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<PathBuf>,
    /// The key that all is encrypted with, made by `muxfs key new`; where absent nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// Whether it is only read, as another machine writes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) follow: bool,
    /// The most bytes of blocks that are kept on disk; 0 keeps none.
    #[serde(default = "BucketMount::cache_default")]
    pub(crate) cache: ByteCount,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
}

/// A bucket that is a node of `/zstor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BucketAt {
    /// As of a mount.
    bucket: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    below: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_style: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<PathBuf>,
}

impl BucketAt {
    fn place(&self) -> S3Place {
        S3Place {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            prefix: self.below.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
        }
    }

    /// Why it cannot be.
    pub(crate) fn fault(&self) -> Option<String> {
        fault(&self.place())
    }

    /// As a node takes it, without who we are.
    pub(crate) fn node(&self) -> BucketPlace {
        let writer = "nobody".to_owned();
        BucketPlace { place: self.place(), me: None, writer, host: hostname(), kept: None, takes_over: false }
    }

    /// The same, with who we are, and what `mounts/PREFIX` of the data directory says.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn asked_by(&self, data: &Path, prefix: Prefix) -> Result<BucketPlace> {
        let local = content_dir(data, prefix);
        let writer = writer::known(&local)?.unwrap_or_else(|| "nobody".into());
        let (me, kept) = (Some(credentials(self.credentials.as_deref())?), data.join("cache/s3").join(prefix.as_str()));
        let takes_over = take_over::file(&local).exists();
        Ok(BucketPlace { me, writer, kept: Some(kept.join("packs")), takes_over, ..self.node() })
    }
}

/// Why there can be no bucket.
fn fault(place: &S3Place) -> Option<String> {
    let nobody = S3Credentials { access_key: String::new(), secret_key: String::new(), token: None };
    place.open(&nobody, S3Limits::default(), &crate::instance::env()).err().map(|error| format!("{error:#}"))
}

impl BucketMount {
    fn cache_default() -> ByteCount {
        ByteCount(10 << 30)
    }

    /// Where a mount keeps what it has besides its blocks.
    pub(crate) fn local_dir(&self, data: &Path) -> PathBuf {
        content_dir(data, self.prefix.0)
    }

    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.credentials.iter_mut().chain(&mut self.key)
    }

    fn place(&self) -> S3Place {
        S3Place {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            prefix: self.below.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
        }
    }

    /// Why it cannot be.
    pub(crate) fn fault(&self) -> Option<String> {
        fault(&self.place()).map(|why| format!("/{}: {why}", self.prefix.0))
    }

    /// What it is, for people.
    pub(crate) fn described(&self) -> String {
        let below = if self.below.is_empty() { String::new() } else { format!("/{}", self.below) };
        let what = if self.follow { "what another machine writes, read only" } else { "read and written" };
        let encrypted = self.key.as_ref().map_or(String::new(), |key| format!(", encrypted with {}", key.display()));
        format!("{what}{encrypted}, in {}{below}", self.place())
    }
}

/// An open bucket, and what a mount over it is made of.
pub(crate) struct Opened {
    pub(crate) store: S3Store,
    pub(crate) blocks: Arc<dyn BlockStore>,
    pub(crate) near: Option<Arc<Segments>>,
    /// Where the journal is.
    pub(crate) journal: PathBuf,
    pub(crate) sealing: Sealing,
}

/// Who the environment says that we are, by the names that the AWS tools have for it.
pub(crate) fn credentials_of_environment() -> Option<S3Credentials> {
    let variable = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    Some(S3Credentials {
        access_key: variable("AWS_ACCESS_KEY_ID")?,
        secret_key: variable("AWS_SECRET_ACCESS_KEY")?,
        token: variable("AWS_SESSION_TOKEN"),
    })
}

/// Who we are, by a file or the environment.
fn credentials(file: Option<&Path>) -> Result<S3Credentials> {
    let Some(file) = file else {
        return credentials_of_environment().ok_or_else(|| {
            let why = "nobody says who we are: name a file, credentials = \"FILE\", with aws_access_key_id and aws_secret_access_key, or \
                       set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            Error::new(ErrorKind::InvalidArgument, OP).because(why)
        });
    };
    let failed = |error: io::Error| host(file, error);
    let bytes = read_password_file(file, OP, failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find_map(|(left, right)| (left.trim() == name).then(|| right.trim().trim_matches('"').to_owned()))
    };
    if let (Some(access_key), Some(secret_key)) = (value("aws_access_key_id"), value("aws_secret_access_key")) {
        return Ok(S3Credentials { access_key, secret_key, token: value("aws_session_token") });
    }
    let why = "it has no lines aws_access_key_id = … and aws_secret_access_key = …";
    Err(Error::new(ErrorKind::InvalidArgument, OP).at(file.display()).because(why))
}

/// Finds out whether what is there can be read with this key, or with none, while the machine that wrote it may still go on.
async fn check_key(bucket: &Arc<Bucket>, mount: &BucketMount, sealing: &Sealing, kept: &Path) -> Result<()> {
    let options = S3Options { access: S3Access::Follow, kept: Some(kept.into()), ..S3Options::new("nobody") };
    let store = match S3Store::open(Arc::clone(bucket), options).await {
        Err(error) if error.kind() == ErrorKind::NotFound && error.op() == "s3.open" => return Ok(()),
        store => store?,
    };
    let head = Name::new(HEAD.as_bytes())?;
    let blocks = sealing.blocks(Arc::new(store.clone())).await.map_err(|error| error.at(mount.place()))?;
    if store.load(&head).await?.is_none() {
        return Ok(());
    }
    let (dag, journal) = (Dag::new(blocks, DagOptions::default()), Arc::new(MemMedia::default()));
    let options = TreeOptions { auto_commit: None, ..TreeOptions::new(head, crate::instance::env()) };
    Tree::open(dag, journal, Arc::new(store), options).await.map(drop).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::BadKey => {
            let why = format!(
                "what was committed there cannot be read with this key, or is not encrypted as the configuration says: {error:#}"
            );
            Error::new(ErrorKind::BadKey, OP).at(mount.place()).because(why)
        }
        _ => error,
    })
}

/// The journal that goes with what the fence of a store says.
fn journal_name(store: &S3Store) -> String {
    format!("journal-{}-{}", store.id(), store.since())
}

/// Opens the store of a mount, to write or to follow.
///
/// # Errors
/// Those of the key and of who we are; those of [`S3Store::open`].
pub(crate) async fn open(data: &Path, mount: &BucketMount, env: &Env) -> Result<Opened> {
    let (local, cache) = (mount.local_dir(data), data.join("cache/s3").join(mount.prefix.0.as_str()));
    private_dir(&local)?;
    private_dir(&cache)?;
    let (sealing, me) = (Sealing::load(mount.key.as_deref())?, credentials(mount.credentials.as_deref())?);
    let bucket = Arc::new(mount.place().open(&me, S3Limits::default(), env)?);
    let take_over = take_over::file(&local);
    let access = match (mount.follow, take_over.exists()) {
        (true, _) => S3Access::Follow,
        (false, true) => S3Access::TakeOver,
        (false, false) => S3Access::Write,
    };
    let (me, packs) = (writer::known_or_drawn(&local, env)?, cache.join("packs"));
    // Who cannot read what is there throws nobody out.
    if !mount.follow && S3Store::last_writer(&bucket).await?.is_some_and(|last| last != me) {
        check_key(&bucket, mount, &sealing, &packs).await?;
    }
    let options = S3Options { access, host: hostname(), kept: Some(packs), ..S3Options::new(me) };
    let store = S3Store::open(bucket, options).await.map_err(|error| match (error.kind(), error.op()) {
        (ErrorKind::Denied, "s3.open") => {
            let why = format!(
                "{error:#}. To follow, follow = true in the configuration; to take over, an empty file {}",
                take_over.display()
            );
            Error::new(ErrorKind::Denied, OP).at(mount.place()).because(why)
        }
        _ => error,
    })?;
    let journal = local.join(journal_name(&store));
    if !mount.follow {
        if store.since() > 1 && !journal.exists() {
            take_over::lose_pins(&local)?;
        }
        for (dir, count) in set_aside(&local, &journal, &sealing, env).await {
            tracing::warn!(dir = %dir.display(), count, "{LEFT_BEHIND}");
        }
        take_over::is_over(&local)?;
    }
    let near = match mount.cache.0 {
        0 => None,
        len_max => match near(&cache, len_max, env).await {
            Ok(kept) => Some(kept),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "what is read of a bucket is not kept on this disk");
                None
            }
        },
    };
    let mut blocks: Arc<dyn BlockStore> = Arc::new(store.clone());
    if let Some(kept) = &near {
        match Cache::open(blocks.clone(), kept.clone(), mount.cache.0).await {
            Ok(cache) => blocks = Arc::new(cache),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "what is kept of a bucket on this disk cannot be read");
            }
        }
    }
    blocks = sealing.blocks(blocks).await.map_err(|error| error.at(mount.place()))?;
    if mount.follow {
        // What a view makes of its own, as an empty directory, has to be somewhere.
        blocks = Arc::new(Fallback::new(Arc::new(Mem::default()), vec![blocks]));
    } else {
        blocks = take_over::keeping(blocks, &local);
    }
    Ok(Opened { store, blocks, near, journal, sealing })
}

/// What is in a journal that was set aside.
const LEFT_BEHIND: &str = "another machine took over before the changes in this journal were committed: they are nowhere else, and are not \
                           played over what that one did. Keep it for as long as they may be missed, then remove it";

/// The journals of before another machine took over that hold what was not committed, and how many changes.
async fn set_aside(local: &Path, current: &Path, sealing: &Sealing, env: &Env) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(local).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_journal = |dir: &PathBuf| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"));
    let mut left = Vec::new();
    for dir in entries.filter(is_journal).filter(|dir| dir != current && dir.is_dir()) {
        let counted = async { uncommitted_count(sealing.media("journal", media(&dir)?, env), env).await };
        match counted.await {
            Ok(0) => {}
            Ok(count) => left.push((dir, count)),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), "a journal of before another machine took over cannot be read: {error:#}");
            }
        }
    }
    left
}

/// Lets a tree acknowledge nothing more from when another machine has taken its bucket over.
pub(crate) fn guard(tree: Tree, store: S3Store, journal: PathBuf) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let error = store.passed_over(GUARD_EVERY).await;
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        tracing::error!(
            place = store.place(),
            journal = %journal.display(),
            "nothing is taken any more; what was changed here and not committed is in the journal alone: {why}"
        );
        tree.pass_over(&why);
    }))
}

/// Shows each new commit of another machine.
pub(crate) fn follow(tree: Tree) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut told = None;
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            match tree.follow().await {
                Ok(_) => told = None,
                Err(error) => {
                    let why = format!("{error:#}");
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(
                            "what another machine commits cannot be seen now, and is looked for again: {why}"
                        );
                        told = Some(why);
                    }
                }
            }
        }
    }))
}

/// Looks at the bucket of a mount, and changes nothing there.
pub(crate) async fn look(data: &Path, mount: &BucketMount) -> Vec<Finding> {
    const CHECK: &str = "bucket";
    let (env, place) = (crate::instance::env(), mount.place());
    let look = async {
        let sealing = Sealing::load(mount.key.as_deref())?;
        let bucket =
            Arc::new(mount.place().open(&credentials(mount.credentials.as_deref())?, S3Limits::default(), &env)?);
        let kept = Some(data.join("cache/s3").join(mount.prefix.0.as_str()).join("packs")).filter(|dir| dir.is_dir());
        let store =
            S3Store::open(bucket, S3Options { access: S3Access::Follow, kept, ..S3Options::new("doctor") }).await?;
        Ok::<_, Error>((store, sealing))
    };
    let found = match look.await {
        Ok((store, sealing)) => {
            let local = mount.local_dir(data);
            let current = local.join(journal_name(&store));
            let left = set_aside(&local, &current, &sealing, &env).await;
            let usage = store.usage();
            let found =
                format!("{} blocks in {} packs", count(usage.block_count as u64), count(usage.pack_count as u64));
            let left = left.into_iter().map(|(dir, count)| {
                let found = format!("{count} changes that no commit has");
                Finding::warning("journal", &dir.display(), found, LEFT_BEHIND)
            });
            return std::iter::once(Finding::ok(CHECK, &place, found)).chain(left).collect();
        }
        Err(error) if error.kind() == ErrorKind::NotFound && error.op() == "s3.open" => {
            Finding::ok(CHECK, &place, "it answers, and nothing was put there yet")
        }
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Unavailable => "see whether the endpoint is right, and whether this machine reaches it",
                ErrorKind::Denied => "see to the credentials, and to what they may do",
                ErrorKind::BadKey => "see to the key: nobody reads anything without it",
                _ => "mend what is said; nothing was changed",
            };
            Finding::error(CHECK, &place, format!("{error:#}"), advice)
        }
    };
    vec![found]
}
