//! What a configuration says of sources, as `/ipfs` takes it: who is asked for content that was not put here, behind a
//! cache on disk.
//!
//! Only what is looked up by CID comes here; what is put, committed, collected and checked knows the blocks of its mount
//! alone. Spec: spec/sources.md.

use std::{path::Path, sync::Arc};

use muxfs::{
    BlockStore, Env, Error, ErrorKind, Result,
    block::{Cache, Segments, SegmentsOptions},
    ipns::Records,
};
use muxfs_ipfs::{
    Gateway, HttpOptions, Kubo, KuboAuth, KuboOptions, NameSources, NamesOptions, SourceUrl, Sources, SourcesOptions,
    Url,
};

use crate::{
    config::{Ipfs, IpfsSource},
    data_dir::private_dir,
    host_file::read_password_file,
    instance::{media, space_of_disk},
};

const OP: &str = "ipfs.sources";
/// A segment of the cache is one part in so many of it, within these bounds, in bytes: what is let go keeps its room until
/// a segment and a quarter of the rest are dead.
const SEGMENT_PART: u64 = 32;
const SEGMENT_LEN_MIN: u64 = 4 << 20;
const SEGMENT_LEN_MAX: u64 = 256 << 20;
/// The cache takes no more of a disk of which less than one part in so many is free.
const DISK_PART_LEFT: u64 = 20;

/// Who is asked, and what is kept of it.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) blocks: Arc<dyn BlockStore>,
    /// The same, asked for records of names.
    pub(crate) records: Vec<Arc<dyn Records>>,
    kept: Option<Arc<Segments>>,
}

impl Elsewhere {
    /// The sources of a configuration, behind their cache below `data`; `None` where there is no source. Nobody is asked.
    /// Where the cache cannot be opened, that is told, and nothing is kept.
    ///
    /// # Errors
    /// Those of the files that say who we are.
    pub(crate) async fn open(data: &Path, ipfs: &Ipfs, env: &Env) -> Result<Option<Self>> {
        if ipfs.sources.is_empty() {
            return Ok(None);
        }
        let asked = ipfs.sources.iter().map(Asked::open).collect::<Result<Vec<_>>>()?;
        let records: Vec<_> = asked.iter().map(Asked::records).collect();
        let sources = Sources::new(Vec::new(), SourcesOptions::default());
        let sources = Arc::new(asked.iter().fold(sources, |sources, asked| asked.among(sources)));
        if ipfs.cache.0 > 0 {
            match Self::cached(sources.clone(), &data.join("cache/ipfs"), ipfs.cache.0, env).await {
                Ok((blocks, kept)) => return Ok(Some(Self { blocks, records, kept: Some(kept) })),
                // It holds nothing that its sources have not.
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "what comes from sources is not kept: with no server running, the directory can be removed"
                ),
            }
        }
        Ok(Some(Self { blocks: sources, records, kept: None }))
    }

    /// `sources` behind a cache in `dir` of at most `len_max` bytes.
    async fn cached(
        sources: Arc<Sources>,
        dir: &Path,
        len_max: u64,
        env: &Env,
    ) -> Result<(Arc<dyn BlockStore>, Arc<Segments>)> {
        let opened = async {
            let kept = near(dir, len_max, env).await?;
            let cache: Arc<dyn BlockStore> = Arc::new(Cache::open(sources, kept.clone(), len_max).await?);
            Ok((cache, kept))
        };
        opened.await.map_err(|error: Error| error.at(dir.display()))
    }

    pub(crate) async fn close(&self) -> Result<()> {
        match &self.kept {
            Some(kept) => kept.close().await,
            None => Ok(()),
        }
    }
}

/// What a cache of at most `len_max` bytes keeps in `dir`.
pub(crate) async fn near(dir: &Path, len_max: u64, env: &Env) -> Result<Arc<Segments>> {
    private_dir(dir)?;
    let space = space_of_disk(dir.to_owned());
    let segment_len = (len_max / SEGMENT_PART).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX);
    let options = SegmentsOptions {
        segment_len_max: u32::try_from(segment_len).unwrap_or(u32::MAX),
        compact_len_min: segment_len,
        is_full: Some(Arc::new(move || {
            space().is_ok_and(|space| space.bytes_free < space.bytes_total / DISK_PART_LEFT)
        })),
        ..SegmentsOptions::default()
    };
    let kept = Segments::open(media(&dir.join("blocks"))?, media(&dir.join("index"))?, options, env).await;
    kept.map(Arc::new).map_err(|error| error.at(dir.display()))
}

/// Somebody who is asked, for blocks and for records of names.
enum Asked {
    Gateway(Arc<Gateway>),
    Kubo(Arc<Kubo>),
}

impl Asked {
    fn open(source: &IpfsSource) -> Result<Self> {
        Ok(match &source.url {
            SourceUrl::Gateway(url) => Self::Gateway(Arc::new(Gateway::new(url.clone(), HttpOptions::default()))),
            SourceUrl::Kubo(url) => Self::Kubo(Arc::new(kubo_of(url, source)?)),
        })
    }

    /// Those that are asked for blocks, and this one.
    fn among(&self, sources: Sources) -> Sources {
        match self {
            Self::Gateway(gateway) => sources.and_gateway(gateway.clone()),
            Self::Kubo(kubo) => sources.and(kubo.clone()),
        }
    }

    fn records(&self) -> Arc<dyn Records> {
        match self {
            Self::Gateway(gateway) => gateway.clone(),
            Self::Kubo(kubo) => kubo.clone(),
        }
    }
}

/// The records that `own` has, and those that the sources of a configuration know. Nobody is asked.
///
/// # Errors
/// Those of the files that say who we are.
pub(crate) fn names_of(own: Arc<dyn Records>, ipfs: &Ipfs, env: &Env) -> Result<NameSources> {
    Ok(names_among(own, records_of(ipfs)?, env))
}

/// The sources of a configuration, as far as they know records. Nobody is asked.
///
/// # Errors
/// Those of the files that say who we are.
pub(crate) fn records_of(ipfs: &Ipfs) -> Result<Vec<Arc<dyn Records>>> {
    ipfs.sources.iter().map(|source| Asked::open(source).map(|asked| asked.records())).collect()
}

/// The records that `own` has, and those that `sources` know.
pub(crate) fn names_among(own: Arc<dyn Records>, sources: Vec<Arc<dyn Records>>, env: &Env) -> NameSources {
    NameSources::new(own, sources, NamesOptions::default(), env)
}

/// A Kubo node, who we are there as its file says.
fn kubo_of(url: &Url, source: &IpfsSource) -> Result<Kubo> {
    let auth = source.auth_file.as_deref().map(auth_of).transpose()?;
    Ok(Kubo::new(url.clone(), KuboOptions { auth, network: source.network, ..KuboOptions::default() }))
}

/// The node that is given what is published: the one at `to`, or the first of the configuration.
///
/// # Errors
/// `InvalidArgument` where there is none; those of its file.
pub(crate) fn publish_node(ipfs: &Ipfs, to: Option<&Url>) -> Result<Kubo> {
    let mut nodes = ipfs.sources.iter().filter_map(|source| match &source.url {
        SourceUrl::Kubo(url) => Some((url, source)),
        SourceUrl::Gateway(_) => None,
    });
    match (nodes.find(|(url, _)| to.is_none_or(|to| to == *url)), to) {
        (Some((url, source)), _) => kubo_of(url, source),
        // One that the configuration does not know wants nothing to be known of who calls.
        (None, Some(to)) => Ok(Kubo::new(to.clone(), KuboOptions::default())),
        (None, None) => {
            let why = "there is no Kubo node among the sources: name one with --to, as http://127.0.0.1:5001, or in the \
                       configuration, as [ipfs] sources = [\"kubo+http://127.0.0.1:5001\"]";
            Err(Error::new(ErrorKind::InvalidArgument, "ipfs.publish").because(why))
        }
    }
}

/// Who we are, as the first line of a file says.
fn auth_of(file: &Path) -> Result<KuboAuth> {
    let failed = |error: std::io::Error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, OP).at(file.display()).because(error)
    };
    let bytes = read_password_file(file, OP, failed)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|error| Error::new(ErrorKind::InvalidArgument, OP).because(error));
    text.and_then(|text| text.trim_end_matches('\r').parse()).map_err(|error| error.at(file.display()))
}
