//! `zstor scrub` and `zstor repair`: every shard is read, and what is bad or missing healed, by whoever has the store.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{Error, ErrorKind, Prefix, Result};
use muxfs_zstor::Zstor;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    chosen,
    status::{Named, Totals, found},
};
use crate::{
    instance::Instance,
    namespace::Namespace,
    output::{Output, ago, count},
    scrubber::counted,
};

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How a scrub goes about it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Scrub {
    /// One mount only.
    pub(crate) mount: Option<String>,
    /// From the beginning, whatever was done.
    #[serde(default)]
    pub(crate) restart: bool,
    /// How much is read in a second at most, in bytes.
    pub(crate) rate_max: Option<u64>,
}

/// One thing that a scrub has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "scrub", rename_all = "snake_case")]
pub(crate) enum Scrubbing {
    /// A mount is begun, or gone on with; `began` in seconds since 1970.
    Begun { mount: String, began: u64, resumed: bool },
    /// So far, of about so many bytes.
    Progress { mount: String, coverage: f64, blocks: u64, bytes: u64, bytes_total: u64, bad: u64, healed: u64 },
    /// A block that is left weak, or is not healed.
    Left {
        mount: String,
        #[serde(flatten)]
        named: Named,
    },
    /// A mount is done; always the last of it. `lost` are the names of the nodes that are.
    Done {
        mount: String,
        #[serde(flatten)]
        totals: Totals,
        lost: Vec<String>,
    },
}

/// What a scrub came to.
#[derive(Debug, Default)]
struct Came {
    weak: u64,
    unhealed: u64,
    lost: Vec<String>,
}

/// Scrubs, prints what is left weak or unhealed as it is found, and a summary of each mount.
///
/// # Errors
/// `Corrupt` if something could not be healed.
pub(crate) async fn scrub(namespace: &dyn Namespace, options: &Scrub, output: Output) -> Result<()> {
    print(namespace, options, output).await?.healed()
}

/// Scrubs everything from the beginning, as fast as it goes.
///
/// # Errors
/// As [`scrub`]; `Unavailable` if blocks are left with fewer shards than they should have.
pub(crate) async fn repair(namespace: &dyn Namespace, mount: Option<Prefix>, output: Output) -> Result<()> {
    let options = Scrub { mount: mount.map(|mount| mount.to_string()), restart: true, rate_max: None };
    let came = print(namespace, &options, output).await?;
    came.healed()?;
    if came.weak == 0 {
        return Ok(());
    }
    let lost = if came.lost.is_empty() { String::new() } else { format!("; lost are {}", came.lost.join(", ")) };
    let why = format!("{} blocks are not at full strength, since nodes took no shards{lost}", count(came.weak));
    Err(Error::new(ErrorKind::Unavailable, "zstor.repair").because(why))
}

impl Came {
    fn healed(&self) -> Result<()> {
        if self.unhealed == 0 {
            return Ok(());
        }
        let why = format!("{} blocks could not be healed", count(self.unhealed));
        Err(Error::new(ErrorKind::Corrupt, "zstor.scrub").because(why))
    }
}

async fn print(namespace: &dyn Namespace, options: &Scrub, output: Output) -> Result<Came> {
    let mut said = namespace.zstor_scrub(options);
    let (mut progress, mut came) = (None, Came::default());
    while let Some(news) = said.try_next().await? {
        match &news {
            Scrubbing::Begun { mount, began, resumed } => {
                progress = None;
                if *resumed {
                    let since = ago(*began);
                    output.notice(&format!("/{mount}: going on with what began {since}; --restart begins again"));
                }
            }
            Scrubbing::Progress { mount, coverage, blocks, bytes, bytes_total, bad, healed } => {
                let bar = progress.get_or_insert_with(|| output.progress_from(*bytes, (*bytes_total).max(*bytes)));
                bar.set_bytes(*bytes);
                let (blocks, bad, healed) = (count(*blocks), count(*bad), count(*healed));
                let part = coverage * 100.0;
                bar.say(format!("/{mount}: {part:.0} %, {blocks} blocks, {bad} bad shards, {healed} written"));
            }
            Scrubbing::Left { mount, named } => {
                let how = if named.readable { "weak" } else { "not healed" };
                output.result(format!("{how} /{mount} {}: {}", named.block, named.why).as_bytes(), &news)?;
            }
            Scrubbing::Done { mount, totals, lost } => {
                progress = None;
                came.weak += totals.weak;
                came.unhealed += totals.unhealed;
                came.lost.extend(lost.iter().cloned());
                output.result(format!("/{mount}: {}", found(totals)).as_bytes(), &news)?;
            }
        }
    }
    Ok(came)
}

type Out = mpsc::Sender<Result<Scrubbing>>;

/// The work itself, by the process that has the stores; dropped, it stops, and goes on next time.
pub(crate) fn run<'a>(instance: &'a Instance, options: &Scrub) -> BoxStream<'a, Result<Scrubbing>> {
    let (out, said) = mpsc::channel(64);
    let options = options.clone();
    let work = stream::once(async move {
        if let Err(error) = all_mounts(instance, &options, &out).await {
            out.send(Err(error)).await.ok();
        }
    });
    let said = stream::unfold(said, |mut said| async { said.recv().await.map(|item| (item, said)) });
    stream::select(work.filter_map(|()| std::future::ready(None)), said).boxed()
}

async fn all_mounts(instance: &Instance, options: &Scrub, out: &Out) -> Result<()> {
    let named = options.mount.as_deref().map(Prefix::new).transpose()?;
    for (prefix, store) in chosen(instance.zstors_there(named)?, named)? {
        let bytes_total = instance.disk(prefix).map_or(0, |disk| disk.stats().live_len);
        one_mount((prefix, store), bytes_total, options, out).await?;
    }
    Ok(())
}

async fn one_mount((prefix, store): (Prefix, &Zstor), bytes_total: u64, options: &Scrub, out: &Out) -> Result<()> {
    let send = async |news| {
        let gone = |error| Error::new(ErrorKind::Internal, "zstor.scrub").because(error);
        out.send(Ok(news)).await.map_err(gone)
    };
    let mut pass = store.scrubber().scrub(options.restart, options.rate_max.and_then(NonZeroU64::new)).await?;
    let (mount, mut before) = (prefix.to_string(), pass.totals());
    send(Scrubbing::Begun { mount: mount.clone(), began: before.began, resumed: pass.is_resumed() }).await?;
    let (mut told, mut named_count) = (None::<Instant>, 0);
    let totals = loop {
        let is_going_on = pass.step().await?;
        let now = pass.totals();
        counted(prefix, &before, &now);
        // Those that it had named when it was interrupted are told again.
        for named in now.named.iter().skip(named_count) {
            send(Scrubbing::Left { mount: mount.clone(), named: named.into() }).await?;
        }
        named_count = now.named.len();
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let (coverage, blocks, bytes, bad, healed) = (now.coverage, now.blocks, now.bytes, now.bad, now.healed);
            let progress =
                Scrubbing::Progress { mount: mount.clone(), coverage, blocks, bytes, bytes_total, bad, healed };
            send(progress).await?;
        }
        if !is_going_on {
            break store.scrubber().state().last.as_ref().map_or_else(|| Totals::from(&now), Totals::from);
        }
        before = now;
    };
    send(Scrubbing::Done { mount, totals, lost: store.scrubber().lost() }).await
}
