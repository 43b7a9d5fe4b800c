//! The QFS calls of a content-addressed mount: a [`Dag`], and the pins that say what to keep.
//!
//! Sits between [`MuxFs`](crate::MuxFs) and the `Dag`; its sibling for inodes is [`CasView`](crate::cas_view::CasView).
//! It knows `/prefix` (the mount: what is pinned) and `/prefix/<cid>[/path]`, and nothing else: what a path means then
//! never depends on what was put before. Spec: spec/qfs.md, "By content".

use std::{collections::BTreeMap, io::Cursor, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    Addressing, Cid, Codec, Error, ErrorKind, File, FileInfo, FileKind, Name, Prefix, QfsPath, Result, SecretKey,
    Source, Store,
    cid::SHA2_256,
    cid_of,
    dag::{
        DAG_BLOCK_LEN_MAX, Dag, DagLease, Ipld, Profile, Resolved, UnixfsMeta, linked,
        unixfs::{UnixfsType, unixfs_of},
    },
    file::{LINK_COUNT_MAX, link_key},
    pins::Pins,
    seal,
    walk::{Step, Walk, escapes},
};

/// A content-addressed [`Store`]: files, directories and linked data of a [`Dag`], kept by [`Pins`].
#[derive(Debug)]
pub struct Cas {
    kind: Prefix,
    dag: Dag,
    /// What paths are looked up and read with.
    reading: Dag,
    pins: Arc<Pins>,
}

impl Cas {
    /// Puts the QFS calls over a `Dag`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Prefix, QfsPath, Source, Store, block, cas::Cas, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?;
    /// let store = Cas::new(Prefix::new("mem")?, dag, Arc::new(pins));
    /// let path = store.put(&"/mem".parse()?, Source::from(&b"hello"[..])).await?;
    /// assert_eq!(path.to_string(), "/mem/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(kind: Prefix, dag: Dag, pins: Arc<Pins>) -> Self {
        Self { kind, reading: dag.clone(), dag, pins }
    }

    /// Reads with `reading`, which is the same `Dag` [with an elsewhere](Dag::with_elsewhere), so that [`Store::open`]
    /// and [`Store::has`] find what only others have. What is put, pinned and kept stays a matter of the `Dag` below.
    #[must_use]
    pub fn reading_with(self, reading: Dag) -> Self {
        Self { reading, ..self }
    }

    /// The `Dag` below: for who puts whole trees, and pins their root with [`Cas::pin`]. It knows what is here.
    pub fn dag(&self) -> &Dag {
        &self.dag
    }

    /// The `Dag` that paths are looked up and read with: the one below, or that with an elsewhere.
    pub fn reading_dag(&self) -> &Dag {
        &self.reading
    }

    /// What is pinned.
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Pins a root that is in the `Dag`: makes every block that was put durable, then the pin. Idempotent; whether it
    /// was new. Only the root's own block is looked for: of a root that nothing kept so far a garbage collection may have
    /// removed parts. Who has just put it holds a [`WriteSession`](crate::dag::WriteSession) until this returns.
    ///
    /// # Errors
    /// `NotFound` if the root is absent, `Corrupt` if it fails verification; nothing is pinned then.
    pub async fn pin(&self, cid: &Cid) -> Result<bool> {
        let lease = self.dag.lease(cid);
        lease.settled().await;
        self.dag.read_afresh(cid).await?;
        self.dag.flush().await?;
        self.pins.add(cid).await
    }

    /// The CID that a path begins with, and what is asked below it; `None` for the mount itself.
    fn split(path: &QfsPath) -> Result<Option<(Cid, &[Name])>> {
        let Some((_, below)) = path.parts.split_first() else { return Ok(None) };
        let cid = path.cid().ok_or_else(|| {
            refuse("this store is addressed by content: a path is /prefix/<cid>[/path], and this names no CID")
        })?;
        Ok(Some((cid, below)))
    }

    /// Where `below` leads from `root`, symlinks followed.
    async fn resolve(&self, root: Cid, below: &[Name]) -> Result<Resolved> {
        let start = Resolved { cid: root, within: Vec::new() };
        if below.is_empty() {
            return Ok(start);
        }
        // Without symlinks, which is nearly always, one call does. It cannot pass one, so any other answer is final.
        match self.reading.resolve(&root, below).await {
            Ok(end) if self.symlink(&end).await?.is_none() => return Ok(end),
            Err(error) if !is_absence(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let mut stack = vec![start];
        let mut walk = Walk::new(below);
        while let Some(step) = walk.next() {
            let here = stack.last().ok_or_else(escapes)?;
            let Step::Down(name) = step else {
                stack.pop();
                if stack.is_empty() {
                    return Err(escapes());
                }
                continue;
            };
            let next = self.reading.resolve(&here.cid, &[here.within.as_slice(), &[name]].concat()).await?;
            let Some(target) = self.symlink(&next).await? else {
                stack.push(next);
                continue;
            };
            if walk.follow(&target)? {
                // From the root of the mount, where only CIDs are.
                let Some(Step::Down(name)) = walk.next() else { return Err(escapes()) };
                let cid = name.as_str().and_then(|name| Cid::parse_in_path(name).ok()).ok_or_else(escapes)?;
                stack = vec![Resolved { cid, within: Vec::new() }];
            }
        }
        stack.pop().ok_or_else(escapes)
    }

    /// The target of a symlink; `None` for any other node.
    async fn symlink(&self, node: &Resolved) -> Result<Option<Bytes>> {
        if node.cid.codec() != Some(Codec::DagPb) || !node.within.is_empty() {
            return Ok(None);
        }
        match unixfs_of(&self.reading.get_block(&node.cid).await?) {
            Ok(message) if message.kind == UnixfsType::Symlink => self.reading.read_symlink(&node.cid).await.map(Some),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    async fn open_at(&self, path: &QfsPath) -> Result<ContentFile> {
        let Some((root, below)) = Self::split(path)? else { return self.open_mount(path) };
        let name = path.parts.last().cloned().ok_or_else(|| refuse("a path without parts"))?;
        let end = self.resolve(root, below).await?;
        // What is open stays readable, whoever unpins it meanwhile.
        let lease = Some(self.reading.lease(&end.cid));
        let (kind, size, mode, mtime, content) = match end.cid.codec() {
            Some(Codec::Raw | Codec::DagPb) if !self.is_other_pb(&end.cid).await? => {
                let node = self.reading.stat(&end.cid).await?;
                let content = match node.kind {
                    FileKind::Dir => Content::Dir(end.cid),
                    FileKind::Symlink => Content::Bytes(self.reading.read_symlink(&end.cid).await?),
                    _ => Content::File(end.cid),
                };
                (node.kind, node.size, node.mode, node.mtime, content)
            }
            Some(codec) => {
                let (bytes, value) = self.linked(codec, &end).await?;
                (FileKind::File, bytes.len() as u64, None, None, Content::Linked { bytes, value })
            }
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "cas.open")
                    .because(format!("the codec {:#x} is none that MuxFS reads", end.cid.codec_code())));
            }
        };
        let size = if kind == FileKind::Dir { 0 } else { size };
        let mode = mode.map_or(default_mode(kind), |mode| mode & 0o7777);
        let cid = end.within.is_empty().then_some(end.cid);
        let info = FileInfo { name, kind, size, mode, mtime, cid };
        Ok(ContentFile { dag: self.reading.clone(), info, content, _lease: lease })
    }

    /// The mount itself: a directory of what is pinned.
    fn open_mount(&self, path: &QfsPath) -> Result<ContentFile> {
        let (name, kind) = (Name::new(path.prefix.as_str().as_bytes())?, FileKind::Dir);
        let info = FileInfo { name, kind, size: 0, mode: default_mode(kind), mtime: None, cid: None };
        let content = Content::Mount(self.pins.clone());
        Ok(ContentFile { dag: self.reading.clone(), info, content, _lease: None })
    }

    /// Whether a node is dag-pb but no `UnixFS`: linked data like any other.
    async fn is_other_pb(&self, cid: &Cid) -> Result<bool> {
        Ok(cid.codec() == Some(Codec::DagPb) && unixfs_of(&self.reading.get_block(cid).await?).is_err())
    }

    /// A linked-data node, or a value within one, as bytes and as a value.
    async fn linked(&self, codec: Codec, at: &Resolved) -> Result<(Bytes, Ipld)> {
        let absent = || Error::new(ErrorKind::NotFound, "cas.open");
        let value = self.reading.get_value(at).await?.ok_or_else(absent)?;
        let bytes = match at.within.as_slice() {
            [] => self.reading.get_block(&at.cid).await?,
            _ => linked::encode(codec, &value)?,
        };
        Ok((bytes, value))
    }

    /// Puts a source, not durably yet, and returns what is to be pinned.
    async fn put_at(&self, path: &QfsPath, source: Source) -> Result<Cid> {
        match Self::split(path)? {
            Some((_, [_, ..])) => Err(refuse("content is put as a whole: to /prefix, or to /prefix/<cid>")),
            Some((wanted, [])) => self.put_wanted(wanted, source).await,
            None => match source {
                Source::Bytes(bytes) => self.import(&self.dag, Cursor::new(bytes)).await,
                Source::Reader(reader) => self.import(&self.dag, reader).await,
                Source::LinkedData(value) => self.dag.put_linked(&value).await,
            },
        }
    }

    async fn import(&self, dag: &Dag, source: impl AsyncRead + Send + Unpin) -> Result<Cid> {
        Ok(dag.import(source, UnixfsMeta::default()).await?.cid)
    }

    /// Puts a source that must be what `wanted` names. Spec: spec/qfs.md, "A CID asked for".
    async fn put_wanted(&self, wanted: Cid, source: Source) -> Result<Cid> {
        if wanted.hash_code() != SHA2_256 {
            return Err(Error::new(ErrorKind::Unsupported, "cas.put")
                .because("MuxFS writes sha2-256 only; a CID of another hash can be read"));
        }
        let codec = wanted.codec().ok_or_else(|| {
            let why = format!("the codec {:#x} is none that MuxFS writes", wanted.codec_code());
            Error::new(ErrorKind::Unsupported, "cas.put").because(why)
        })?;
        match (source, codec) {
            (Source::LinkedData(value), Codec::DagJson) => {
                self.put_block_wanted(wanted, Codec::DagJson, linked::encode(Codec::DagJson, &value)?).await?;
            }
            (Source::LinkedData(value), _) => {
                self.put_block_wanted(wanted, Codec::DagCbor, linked::encode(Codec::DagCbor, &value)?).await?;
            }
            (Source::Bytes(bytes), Codec::DagPb) => self.import_wanted(wanted, Cursor::new(bytes)).await?,
            (Source::Reader(reader), Codec::DagPb) => self.import_wanted(wanted, reader).await?,
            (Source::Bytes(bytes), _) => self.put_block_wanted(wanted, codec, bytes).await?,
            (Source::Reader(reader), _) => {
                let mut block = Vec::new();
                let longest = DAG_BLOCK_LEN_MAX as u64 + 1;
                reader.take(longest).read_to_end(&mut block).await.map_err(|error| {
                    Error::new(ErrorKind::Io, "cas.put").because(format!("the source failed: {error}"))
                })?;
                self.put_block_wanted(wanted, codec, block.into()).await?;
            }
        }
        Ok(wanted)
    }

    /// Imports a file whose root must be `wanted`.
    async fn import_wanted(&self, wanted: Cid, source: impl AsyncRead + Send + Unpin) -> Result<()> {
        let params = match (wanted.version(), self.dag.params().cid_version) {
            (0, 1) => Profile::UnixfsV0_2015.params(),
            (1, 0) => Profile::default().params(),
            _ => *self.dag.params(),
        };
        let got = self.import(&self.dag.with_params(params), source).await?;
        check_wanted(&wanted, &got)
    }

    /// Puts a block that must be `wanted`; nothing is put if it is not.
    async fn put_block_wanted(&self, wanted: Cid, codec: Codec, block: Bytes) -> Result<()> {
        if block.len() > DAG_BLOCK_LEN_MAX {
            return Err(refuse("this CID names a single block, and no block is longer than 2 MiB"));
        }
        check_wanted(&wanted, &cid_of(codec, &block))?;
        linked::decode(codec, &block)
            .map_err(|error| refuse("these bytes are no block of this codec").because(error))?;
        self.dag.put_block(codec, block).await?;
        Ok(())
    }
}

fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "cas.path").because(why)
}

/// Whether an error says that there is nothing at a path.
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir)
}

/// Whether two CIDs name the same node: the same bytes, read in the same way.
fn check_wanted(wanted: &Cid, got: &Cid) -> Result<()> {
    if (wanted.codec_code(), wanted.multihash_bytes()) == (got.codec_code(), got.multihash_bytes()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, "cas.put")
        .because(format!("the content does not hash to the CID asked for: it is {got}")))
}

/// The permission bits of a node that has none of its own.
pub(crate) fn default_mode(kind: FileKind) -> u32 {
    match kind {
        FileKind::Dir => 0o755,
        FileKind::Symlink => 0o777,
        _ => 0o644,
    }
}

#[async_trait]
impl Store for Cas {
    fn kind(&self) -> Prefix {
        self.kind
    }

    fn addressing(&self) -> Addressing {
        Addressing::Content
    }

    async fn has(&self, path: &QfsPath) -> Result<bool> {
        match self.open_at(path).await {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error.at(path)),
        }
    }

    async fn open(&self, path: &QfsPath) -> Result<Box<dyn File>> {
        let file = self.open_at(path).await.map_err(|error| error.at(path))?;
        Ok(Box::new(file))
    }

    async fn put(&self, path: &QfsPath, source: Source) -> Result<QfsPath> {
        let done = async {
            let _session = self.dag.begin_write();
            let cid = self.put_at(path, source).await?;
            // Blocks first: a pin that is durable must never name content that is not.
            self.dag.flush().await?;
            self.pins.add(&cid).await?;
            Ok(QfsPath::content(path.prefix, &cid))
        };
        done.await.map_err(|error: Error| error.at(path))
    }

    async fn put_encrypted(&self, key: &SecretKey, path: &QfsPath, source: Source) -> Result<QfsPath> {
        if !path.parts.is_empty() {
            let why = "what it hashes to when it is sealed is not known before: put it to the mount";
            return Err(Error::new(ErrorKind::InvalidArgument, "cas.put_encrypted").at(path).because(why));
        }
        let sealed = seal::source(key, source, self.pins.env()).map_err(|error| error.at(path))?;
        self.put(path, sealed).await
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        let done = async {
            match Self::split(path)? {
                Some((cid, [])) => self.pins.remove(&cid).await,
                Some(_) => Err(refuse("content does not change: only a CID as a whole is unpinned")),
                None => Err(refuse("the path is the mount itself: name a CID")),
            }
        };
        done.await.map_err(|error| error.at(path))
    }
}

/// What a path of content led to.
#[derive(Debug)]
enum Content {
    /// The mount itself.
    Mount(Arc<Pins>),
    Dir(Cid),
    File(Cid),
    /// The target of a symlink.
    Bytes(Bytes),
    Linked {
        bytes: Bytes,
        value: Ipld,
    },
}

/// A file opened by content.
#[derive(Debug)]
struct ContentFile {
    dag: Dag,
    info: FileInfo,
    content: Content,
    _lease: Option<DagLease>,
}

#[async_trait]
impl File for ContentFile {
    fn info(&self) -> &FileInfo {
        &self.info
    }

    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        match &self.content {
            Content::Mount(_) | Content::Dir(_) => Err(Error::new(ErrorKind::IsDir, "cas.read_at").at(&self.info.name)),
            Content::File(cid) => self.dag.read_at(cid, offset, len).await.map_err(|error| error.at(cid)),
            Content::Bytes(bytes) | Content::Linked { bytes, .. } => Ok(slice(bytes, offset, len)),
        }
    }

    async fn linked_data(&self) -> Result<Option<Ipld>> {
        match &self.content {
            Content::Mount(pins) => links(pins.list().map_ok(|cid| (cid.to_string(), Ipld::from(cid)))).await.map(Some),
            Content::Dir(cid) => {
                let entries = self.dag.list(cid, 0);
                links(entries.map_ok(|entry| (link_key(&entry.name), Ipld::from(entry.link.cid)))).await.map(Some)
            }
            Content::Linked { value, .. } => Ok(Some(value.clone())),
            Content::File(_) | Content::Bytes(_) => Ok(None),
        }
    }
}

/// The bytes from `offset`, at most `len`; empty past the end.
pub(crate) fn slice(bytes: &Bytes, offset: u64, len: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
    bytes.slice(start..end)
}

/// Links by name, as one value.
async fn links(entries: impl Stream<Item = Result<(String, Ipld)>> + Send) -> Result<Ipld> {
    let mut links = BTreeMap::new();
    let mut entries = std::pin::pin!(entries);
    while let Some((key, link)) = entries.try_next().await? {
        if links.len() >= LINK_COUNT_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "cas.linked_data")
                .because("too many entries for one value: list the directory page by page"));
        }
        links.insert(key, link);
    }
    Ok(Ipld::Map(links))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::{
        block::Mem,
        dag::{DagOptions, Entry, Link, Params, pb::PbNode},
        media::MemMedia,
    };

    async fn cas_of(profile: Profile) -> Cas {
        let options = DagOptions { params: profile.params(), ..DagOptions::default() };
        let pins = Pins::open(Arc::new(MemMedia::default()), &crate::testing::env()).await.expect("opens");
        Cas::new(Prefix::new("mem").expect("a prefix"), Dag::new(Arc::new(Mem::default()), options), Arc::new(pins))
    }

    async fn cas() -> Cas {
        cas_of(Profile::default()).await
    }

    async fn store() -> Arc<dyn Store> {
        Arc::new(cas().await)
    }

    async fn beside_another() -> Arc<dyn Store> {
        let cas = cas().await;
        let reading = cas.dag().with_elsewhere(Arc::new(Mem::default()));
        Arc::new(cas.reading_with(reading))
    }

    async fn kubo() -> Arc<dyn Store> {
        Arc::new(cas_of(Profile::KuboCidV1Legacy).await)
    }

    crate::store_laws!(laws_over_memory, Content, store());
    crate::store_laws!(laws_of_another_profile, Content, kubo());
    crate::store_laws!(laws_with_an_elsewhere, Content, beside_another());

    fn path(text: &str) -> QfsPath {
        text.parse().expect("a path")
    }

    fn bytes_of_vectors(len: u32) -> Bytes {
        (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect::<Vec<_>>().into()
    }

    async fn dir(cas: &Cas, entries: &[(&str, Link)]) -> Link {
        let entry = |(name, link): &(&str, Link)| Ok(Entry { name: Name::new(name.as_bytes())?, link: *link });
        let entries: Vec<Result<Entry>> = entries.iter().map(entry).collect();
        cas.dag().put_dir(Box::pin(stream::iter(entries))).await.expect("a directory")
    }

    async fn file(cas: &Cas, text: &'static str) -> Link {
        cas.dag().import(text.as_bytes(), UnixfsMeta::default()).await.expect("a file")
    }

    /// A CID asked for says by its version which profile its content is to be imported by: IPFS's own CIDs are met.
    #[tokio::test]
    async fn the_cid_asked_for_says_how_to_import() {
        let cases = [
            (1, "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ"),
            (262_145, "QmUSjGawaz4ptvREcMKSMJneWCa5j8dAz2wSAAvHtW2rnB"),
            (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
            (1_048_577, "bafybeidjogjfwuhbzwopgd4bn3skcf5m6oz72xshywcndzxgqb623nfclu"),
        ];
        for profile in [Profile::UnixfsV1_2025, Profile::UnixfsV0_2015] {
            let cas = cas_of(profile).await;
            for (len, cid) in cases {
                let wanted = path(&format!("/mem/{cid}"));
                let put = cas.put(&wanted, Source::Bytes(bytes_of_vectors(len))).await;
                assert_eq!(put.unwrap_or_else(|error| panic!("{cid}: {error:#}")), wanted);
                assert_eq!(cas.open(&wanted).await.expect("open").info().size, u64::from(len));
                let other = cas.put(&wanted, Source::Bytes(bytes_of_vectors(len + 1))).await.expect_err(cid);
                assert_eq!(other.kind(), ErrorKind::InvalidArgument);
            }
            assert_eq!(cas.pins().count(), cases.len());
        }
    }

    /// A CID of version 0 and its version 1 are the same node under two names: each can be asked for, and is its own pin.
    #[tokio::test]
    async fn versions_of_a_cid_are_two_pins_of_one_node() {
        let cas = cas_of(Profile::UnixfsV0_2015).await;
        let v0 = cas.put(&path("/mem"), Source::from(&b"x"[..])).await.expect("put");
        let digest = v0.cid().expect("a CID").digest().try_into().expect("32 bytes");
        let v1 = QfsPath::content(v0.prefix, &Cid::v1_sha256(Codec::DagPb, digest));
        assert_eq!(cas.open(&v1).await.expect("open").read_at(0, 9).await.expect("read"), "x");
        assert!(!cas.delete(&v1).await.expect("delete"), "not pinned by this name");
        assert!(cas.delete(&v0).await.expect("delete"));
    }

    /// What cannot be hashed to is refused before anything is read or kept.
    #[tokio::test]
    async fn cids_that_are_not_written() {
        let cas = cas().await;
        let blake3 = {
            let digest = *blake3::hash(b"x").as_bytes();
            let bytes = [&[1, 0x55, 0x1e, 32][..], &digest].concat();
            Cid::from_bytes(&bytes).expect("a CID")
        };
        let git = Cid::from_bytes(&[&[1, 0x78, 0x12, 32][..], &[7; 32]].concat()).expect("a CID");
        let identity: Cid = "bafkqaaa".parse().expect("a CID");
        for cid in [blake3, git, identity] {
            let error =
                cas.put(&QfsPath::content(cas.kind(), &cid), Source::from(&b"x"[..])).await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        }
        let bad_cbor = cid_of(Codec::DagCbor, b"\x18\x01");
        let error = cas.put(&QfsPath::content(cas.kind(), &bad_cbor), Source::from(&b"\x18\x01"[..])).await;
        assert_eq!(error.expect_err("1 in two bytes").kind(), ErrorKind::InvalidArgument);
        assert_eq!(cas.pins().count(), 0);
        assert_eq!(
            cas.open(&QfsPath::content(cas.kind(), &git)).await.expect_err("no codec").kind(),
            ErrorKind::Unsupported
        );
        let empty = cas.open(&QfsPath::content(cas.kind(), &identity)).await.expect("its bytes are in the CID");
        assert_eq!(empty.info().size, 0);
    }

    /// A directory is linked data: its links by name, sharded or not.
    #[tokio::test]
    async fn directories_are_links_by_name() {
        for hamt_threshold in [0, 1 << 20] {
            let params = Params { hamt_threshold, ..Profile::default().params() };
            let mut cas = cas().await;
            cas.dag = cas.dag.with_params(params);
            let (a, b) = (file(&cas, "a").await, file(&cas, "b").await);
            let inner = dir(&cas, &[("b", b)]).await;
            let outer = dir(&cas, &[("a", a), ("inner", inner), ("\u{fc}", b)]).await;
            let at = |rest: &str| path(&format!("/mem/{}{rest}", outer.cid));
            let opened = cas.open(&at("")).await.expect("open");
            let info = opened.info();
            assert_eq!((info.kind, info.size, info.mode, info.cid), (FileKind::Dir, 0, 0o755, Some(outer.cid)));
            let expected =
                [("a", a), ("inner", inner), ("\u{fc}", b)].map(|(name, link)| (name.to_owned(), link.cid.into()));
            assert_eq!(opened.linked_data().await.expect("links"), Some(Ipld::Map(expected.into())));
            let read = cas.open(&at("/inner/b")).await.expect("open");
            assert_eq!((read.info().mode, read.read_at(0, 9).await.expect("read")), (0o644, Bytes::from("b")));
            assert!(!cas.has(&at("/inner/c")).await.expect("has"));
            assert!(cas.pin(&outer.cid).await.expect("pin") && !cas.pin(&outer.cid).await.expect("pin"));
            let absent = cid_of(Codec::Raw, b"absent");
            assert_eq!(cas.pin(&absent).await.expect_err("absent").kind(), ErrorKind::NotFound);
        }
    }

    /// What a node says of itself in `UnixFS` is what `info` says.
    #[tokio::test]
    async fn metadata_comes_through() {
        let cas = cas().await;
        let mtime = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
        let meta = UnixfsMeta { mode: Some(0o4755), mtime: Some(mtime) };
        let link = cas.dag().import(&b"x"[..], meta).await.expect("a file");
        let opened = cas.open(&QfsPath::content(cas.kind(), &link.cid)).await.expect("open");
        assert_eq!((opened.info().mode, opened.info().mtime), (0o4755, Some(mtime)));
    }

    /// Symlinks are followed on the way and at the end, and never above the CID they were met below.
    #[tokio::test]
    async fn symlinks_are_followed_within_their_root() {
        let cas = cas().await;
        let text = file(&cas, "text").await;
        let other = dir(&cas, &[("text", text)]).await;
        let link = async |target: &str| {
            cas.dag().put_symlink(target.as_bytes(), UnixfsMeta::default()).await.expect("a symlink")
        };
        let inner = dir(&cas, &[("up", link("../text").await), ("out", link("../../text").await)]).await;
        let mut entries = vec![("text", text), ("inner", inner)];
        let absolute = format!("/{}/text", other.cid);
        for (name, target) in [
            ("to-text", "text"),
            ("to-inner", "./inner/"),
            ("absolute", absolute.as_str()),
            ("host", "/etc/passwd"),
            ("top", "/"),
            ("loop", "loop"),
            ("dangling", "nowhere"),
        ] {
            entries.push((name, link(target).await));
        }
        let root = dir(&cas, &entries).await;
        let linked = cas.dag().put_linked(&Ipld::List(vec![root.cid.into(), 7.into()])).await.expect("linked data");
        let cases = [
            ("to-text", Ok("text")),
            ("to-inner/up", Ok("text")),
            ("inner/up", Ok("text")),
            ("absolute", Ok("text")),
            ("inner/out", Err(ErrorKind::InvalidArgument)),
            ("host", Err(ErrorKind::InvalidArgument)),
            ("top", Err(ErrorKind::InvalidArgument)),
            ("loop", Err(ErrorKind::Loop)),
            ("loop/x", Err(ErrorKind::Loop)),
            ("dangling", Err(ErrorKind::NotFound)),
            ("to-text/x", Err(ErrorKind::NotDir)),
            ("to-inner", Err(ErrorKind::IsDir)),
        ];
        for (below, expected) in cases {
            for at in [format!("/mem/{}/{below}", root.cid), format!("/mem/{linked}/0/{below}")] {
                // Below the list there is one more step to climb.
                let expected = if at.contains("/0/inner/out") { Err(ErrorKind::NotFound) } else { expected };
                let read = match cas.open(&path(&at)).await {
                    Ok(file) => file.read_at(0, 99).await,
                    Err(error) => Err(error),
                };
                assert_eq!(read.map_err(|error| error.kind()), expected.map(Bytes::from), "{at}");
            }
        }
        let itself = cas.open(&QfsPath::content(cas.kind(), &link("text").await.cid)).await.expect("open");
        assert_eq!((itself.info().kind, itself.info().mode), (FileKind::Symlink, 0o777));
        assert_eq!(itself.read_at(0, 99).await.expect("its target"), "text");
    }

    /// dag-pb that is no `UnixFS` is linked data as the data model sees it.
    #[tokio::test]
    async fn other_nodes_of_dag_pb_are_linked_data() {
        let cas = cas().await;
        let block = PbNode { links: Vec::new(), data: Some("no message".into()) }.encode();
        let cid = cas.dag().put_block(Codec::DagPb, block.clone()).await.expect("put");
        let opened = cas.open(&QfsPath::content(cas.kind(), &cid)).await.expect("open");
        assert_eq!(opened.read_at(0, 99).await.expect("read"), block);
        let Some(Ipld::Map(value)) = opened.linked_data().await.expect("linked data") else { panic!("a map") };
        assert_eq!(value.get("Data"), Some(&Ipld::Bytes("no message".into())));
    }
}
