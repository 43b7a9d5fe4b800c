//! `key`, and the keys in files that `put`, `get` and `cat` take.

use std::{os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{Error, ErrorKind, Prefix, Result, SecretKey};
use muxfs_zstor::{KeyRing, RootKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    commands::zstor::chosen_one,
    instance::{Instance, env},
    namespace::Namespace,
    output::{Output, bytes, count},
    zstor::key_file,
};

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Draws a key and writes it to a new file.
pub(crate) fn new(file: &Path, output: Output) -> Result<()> {
    RootKey::make(file, &env())?;
    output.result(file.as_os_str().as_bytes(), &json!({ "key": file.to_string_lossy() }))
}

/// The keys in the file that is named, for sealed files: the first is the one to seal with. None where none is named.
pub(crate) fn of_files(file: Option<&Path>) -> Result<Vec<SecretKey>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    match KeyRing::load(file)? {
        Some(keys) => Ok(keys.for_files()),
        None => Err(Error::new(ErrorKind::NotFound, "key").at(file.display()).because("make one with muxfs key new")),
    }
}

/// Which key is replaced, and whether somebody waits for the end of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rotate {
    pub(crate) mount: Option<String>,
    pub(crate) wait: bool,
}

/// One thing that there is to say of the replacing of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "rotate", rename_all = "snake_case")]
pub(crate) enum Rotating {
    /// A key was drawn and is in this file; or one was before, and that goes on.
    Begun { mount: String, file: String, drawn: bool },
    /// So far, and why it does not go on now.
    Progress { mount: String, coverage: f64, moved: u64, bytes: u64, remaining: Option<u64>, left: Option<String> },
    /// Everything is under the newest key, and the others are gone from the file.
    Done { mount: String, file: String, moved: u64, bytes: u64 },
}

/// Puts a new key in the place of that of a mount, and tells how it goes.
pub(crate) async fn rotate(namespace: &dyn Namespace, options: &Rotate, output: Output) -> Result<()> {
    let mut said = namespace.key_rotate(options);
    let (mut progress, mut waits_for) = (None, None);
    while let Some(news) = said.try_next().await? {
        match &news {
            Rotating::Begun { mount, file, drawn: true } => {
                let text = format!(
                    "/{mount}: a new key is in {file}. Copy that file anew, all of it and now, to where you keep a copy: the \
                     one that is there opens the store no more, and what is written from now on nobody reads without it"
                );
                output.result(text.as_bytes(), &news)?;
            }
            Rotating::Begun { mount, file, drawn: false } => {
                let text = format!("/{mount}: going on with the key that was drawn before, which is in {file}");
                output.result(text.as_bytes(), &news)?;
            }
            Rotating::Progress { mount, coverage, moved, bytes, remaining, left } => {
                if left.is_some() && waits_for != *left {
                    let why = left.as_deref().unwrap_or_default();
                    output.notice(&format!("/{mount}: it waits, and is tried again: {why}"));
                }
                waits_for.clone_from(left);
                let total = moved + remaining.unwrap_or_default();
                let all = bytes.checked_div(*moved).map_or(*bytes, |each| each * total);
                let bar = progress.get_or_insert_with(|| output.progress_from(*bytes, all));
                bar.set_bytes(*bytes);
                bar.say(format!("/{mount}: {:.0} %, {} blocks under the newest key", coverage * 100.0, count(*moved)));
            }
            Rotating::Done { mount, file, moved, bytes: len } => {
                progress = None;
                let moved = format!("{} blocks, {}", count(*moved), bytes(*len));
                let text = format!("/{mount}: everything is under the newest key ({moved}), and no other is in {file}");
                output.result(text.as_bytes(), &news)?;
            }
        }
    }
    Ok(())
}

type Out = mpsc::Sender<Result<Rotating>>;

/// The work itself, by the process that has the store, which goes on with it until it ends.
pub(crate) fn run<'a>(instance: &'a Instance, options: &Rotate) -> BoxStream<'a, Result<Rotating>> {
    let (out, said) = mpsc::channel(16);
    let options = options.clone();
    let work = stream::once(async move {
        if let Err(error) = begin_and_tell(instance, &options, &out).await {
            out.send(Err(error)).await.ok();
        }
    });
    let said = stream::unfold(said, |mut said| async { said.recv().await.map(|item| (item, said)) });
    stream::select(work.filter_map(|()| std::future::ready(None)), said).boxed()
}

async fn begin_and_tell(instance: &Instance, options: &Rotate, out: &Out) -> Result<()> {
    let gone = |error| Error::new(ErrorKind::Internal, "key.rotate").because(error);
    let named = options.mount.as_deref().map(Prefix::new).transpose()?;
    let (prefix, store) = chosen_one(instance.zstors_there(named)?, named)?;
    let drawn = store.rotate().await.map_err(|error| error.at(format!("/{prefix}")))?;
    let file = instance.config.zstor(prefix).map(|mount| key_file(&instance.config.data, mount));
    let file = file.unwrap_or_default().display().to_string();
    let mount = prefix.to_string();
    out.send(Ok(Rotating::Begun { mount: mount.clone(), file: file.clone(), drawn })).await.map_err(gone)?;
    if !options.wait {
        return Ok(());
    }
    store.go_on_rotating();
    let mut rotation = store.rotation();
    loop {
        let now = rotation.borrow_and_update().clone();
        let coverage = now.coverage();
        let muxfs_zstor::Rotation { is_under_way, moved, bytes, remaining, left } = now;
        if !is_under_way {
            return out.send(Ok(Rotating::Done { mount, file, moved, bytes })).await.map_err(gone);
        }
        let progress = Rotating::Progress { mount: mount.clone(), coverage, moved, bytes, remaining, left };
        out.send(Ok(progress)).await.map_err(gone)?;
        tokio::time::sleep(TELL_EVERY).await;
        rotation.changed().await.map_err(|error| Error::new(ErrorKind::Internal, "key.rotate").because(error))?;
    }
}
