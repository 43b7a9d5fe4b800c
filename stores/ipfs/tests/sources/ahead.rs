//! What is about to be read from a gateway comes as a CAR: what a path leads through, and what a file is read of. Wherever that
//! does not work it comes block by block: the bytes are the same, and no gateway holds a reader up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use muxfs::{
    BlockKey, BlockStore, BoxError, Cid, Codec, ErrorKind, Mount, MuxFs, Name, Prefix,
    block::Mem,
    car,
    cas_view::{CasView, CasViewOptions},
    cid_of,
    dag::{Dag, DagOptions, EntityBytes, Entry, ExportOptions, Link, Params, Profile, Scope, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
    testing::{self, fault::Dice, model::ModelFs},
    vfs::{
        ext,
        posix::{Caller, posix},
    },
    working::WorkingVfs,
};
use muxfs_ipfs::{Gateway, Sources, SourcesOptions};
use tokio::time::sleep;

use crate::server::{PATIENCE, Server};

/// What a gateway does that is asked for a CAR.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Gives {
    What,
    Status(u16),
    Page,
    /// A CAR of the whole file, wherever it is to begin.
    All,
    /// One that ends after so many bytes, as if it were whole, or says nothing more.
    Cut(usize),
    /// One that ends after so many blocks.
    First(usize),
    Silent(usize),
    /// One of which after so many bytes each takes a while.
    Drip(usize),
    /// One of which after so many bytes a block comes in a second.
    Slow(usize),
    /// One of which a byte is another.
    Bent(usize),
    /// One with a block in it that is not of the file.
    Stranger,
}

/// How often a gateway was asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    blocks: AtomicUsize,
    cars: AtomicUsize,
    /// How long the CARs were together, in bytes.
    car_len: AtomicUsize,
}

impl Asked {
    /// How many blocks and CARs it was asked for.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.blocks.load(Ordering::SeqCst), self.cars.load(Ordering::SeqCst))
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// A part of a path, as it is in a URL.
fn unescaped(part: &str) -> Name {
    let mut bytes = part.bytes();
    let mut all = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = |digit: Option<u8>| char::from(digit.expect("a digit")).to_digit(16).expect("a digit");
        let mut escaped = || u8::try_from(hex(bytes.next()) * 16 + hex(bytes.next())).expect("a byte");
        all.push(if byte == b'%' { escaped() } else { byte });
    }
    Name::new(&all).expect("a name")
}

type Body = UnsyncBoxBody<Bytes, BoxError>;

fn whole(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).header("content-type", kind).body(body).expect("an answer")
}

async fn answer(
    dag: &Dag,
    blocks: &Mem,
    gives: Gives,
    asked: &Asked,
    request: &Request<hyper::body::Incoming>,
) -> Response<Body> {
    let mut path = request.uri().path().strip_prefix("/ipfs/").expect("a path").split('/');
    let cid: Cid = path.next().expect("a CID").parse().expect("a CID");
    let path: Vec<Name> = path.map(unescaped).collect();
    let query = request.uri().query().expect("a query");
    if query == "format=raw" {
        asked.blocks.fetch_add(1, Ordering::SeqCst);
        return match blocks.get(&BlockKey::from(&cid)).await.expect("memory") {
            Some(block) => whole(200, "application/vnd.ipld.raw", block),
            None => whole(404, "text/plain", "no"),
        };
    }
    asked.cars.fetch_add(1, Ordering::SeqCst);
    let kind = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
    match gives {
        Gives::Status(status) => return whole(status, "text/plain", "no"),
        Gives::Page => return whole(200, "text/html", "<html>"),
        _ => {}
    }
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key));
    let bytes: Option<EntityBytes> = value("entity-bytes=").map(|bytes| bytes.parse().expect("a range"));
    let bytes = bytes.map(|bytes| if gives == Gives::All { EntityBytes { from: 0, to: None } } else { bytes });
    let scope = match value("dag-scope=") {
        Some("block") => Scope::Block,
        Some("entity") => Scope::Entity,
        _ => Scope::All,
    };
    let options = ExportOptions { scope, bytes, ..ExportOptions::default() };
    let car = match car::export(dag, &cid, &path, &options).await {
        Ok(car) => car,
        Err(error) if error.kind() == ErrorKind::NotFound => return whole(404, "text/plain", "no"),
        Err(_) => return whole(400, "text/plain", "no"),
    };
    let car: Vec<Bytes> = car.try_collect().await.expect("memory");
    let mut car = car.concat();
    asked.car_len.fetch_add(car.len(), Ordering::SeqCst);
    match gives {
        Gives::Cut(len) => car.truncate(len),
        Gives::First(count) => car.truncate(section_after(&car, count)),
        Gives::Bent(at) if at < car.len() => car[at] ^= 1,
        Gives::Stranger if scope != Scope::Block => {
            let block = b"a stranger";
            let section = [&cid_of(Codec::Raw, block).to_bytes()[..], block].concat();
            let len = u8::try_from(section.len()).expect("short");
            let at = section_before(&car, car.len() / 3);
            car.splice(at..at, [&[len], &section[..]].concat());
        }
        Gives::Silent(len) | Gives::Drip(len) | Gives::Slow(len) if len < car.len() => {
            let rest = car.split_off(len);
            let begun = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from(car)))]);
            let body = if matches!(gives, Gives::Silent(_)) {
                StreamBody::new(begun.chain(stream::pending())).boxed_unsync()
            } else {
                let (len, millis) = if matches!(gives, Gives::Slow(_)) { (LEAF_LEN, 5000) } else { (1, 20) };
                let drips: Vec<_> = rest.chunks(len).map(Bytes::copy_from_slice).collect();
                let drips = stream::iter(drips).then(move |drip| async move {
                    sleep(Duration::from_millis(millis)).await;
                    Ok(Frame::data(drip))
                });
                StreamBody::new(begun.chain(drips)).boxed_unsync()
            };
            return Response::builder().header("content-type", kind).body(body).expect("an answer");
        }
        _ => {}
    }
    whole(200, kind, car)
}

/// Where the section ends that begins at a byte; the header is one too.
fn section_end(car: &[u8], mut at: usize) -> usize {
    let (mut len, mut shift) = (0, 0);
    loop {
        let byte = car[at];
        at += 1;
        len |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            return at + len;
        }
    }
}

/// Where the last section begins that begins before a byte.
fn section_before(car: &[u8], before: usize) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < before {
        last = at;
        at = section_end(car, at);
    }
    last
}

/// Where the one begins that comes after so many blocks.
fn section_after(car: &[u8], block_count: usize) -> usize {
    (0..=block_count).fold(0, |at, _| if at < car.len() { section_end(car, at) } else { at })
}

/// A gateway of a file.
pub(crate) async fn gateway(dag: Dag, blocks: Arc<Mem>, gives: Gives) -> (Server, Arc<Asked>) {
    let asked = Arc::<Asked>::default();
    let asked_of = asked.clone();
    let server = Server::of_connections(move |stream, _| {
        let (dag, blocks, asked) = (dag.clone(), blocks.clone(), asked_of.clone());
        async move {
            let service = service_fn(move |request| {
                let (dag, blocks, asked) = (dag.clone(), blocks.clone(), asked.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(&dag, &blocks, gives, &asked, &request).await) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        }
    })
    .await;
    (server, asked)
}

/// How long leaves are: short ones, since there are many.
const LEAF_LEN: usize = 16 << 10;
const CHUNK_LEN: u32 = 16 << 10;

/// A file of so many leaves.
async fn file(profile: Profile, leaf_count: usize) -> (Dag, Arc<Mem>, Cid, Vec<u8>) {
    let blocks = Arc::new(Mem::default());
    let dag = Dag::new(
        blocks.clone(),
        DagOptions { params: Params { chunk_len: CHUNK_LEN, ..profile.params() }, ..DagOptions::default() },
    );
    let bytes = Dice::new(3).bytes(leaf_count * LEAF_LEN - 7);
    let cid = dag.import(&bytes[..], UnixfsMeta::default()).await.expect("a file").cid;
    (dag, blocks, cid, bytes)
}

/// Who asks a server that gives this; where a CAR comes late or never, one that soon gives up.
pub(crate) fn gateway_of(server: &Server, gives: Gives) -> Gateway {
    match gives {
        Gives::Silent(_) | Gives::Drip(_) | Gives::Slow(_) => server.hasty_gateway(),
        _ => server.gateway(),
    }
}

fn reading(server: &Server) -> Dag {
    reading_by(server.gateway())
}

fn reading_by(gateway: Gateway) -> Dag {
    let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(Arc::new(gateway));
    Dag::new(Arc::new(Mem::default()), DagOptions::default()).with_elsewhere(Arc::new(sources))
}

async fn read(dag: &Dag, file: &Cid) -> Vec<u8> {
    let pieces: Vec<Bytes> = dag.reader(file, 0).try_collect().await.expect("read");
    pieces.concat()
}

#[tokio::test]
async fn a_file_that_is_read_in_order_comes_as_one_car() {
    for profile in [Profile::KuboCidV1Legacy, Profile::UnixfsV0_2015] {
        let (dag, blocks, cid, bytes) = file(profile, 120).await;
        let (server, asked) = gateway(dag, blocks, Gives::What).await;
        assert!(read(&reading(&server), &cid).await == bytes);
        assert_eq!(asked.counts(), (0, 1), "{profile:?}");
    }
}

/// Also of the next nodes: those of small leaves are no longer than a block, and each holds too few to ask for it alone.
#[tokio::test]
async fn a_deep_file_comes_as_one_car() {
    let blocks = Arc::new(Mem::default());
    let params = Params { chunk_len: 512, width: 5, ..Profile::KuboCidV1Legacy.params() };
    let dag = Dag::new(blocks.clone(), DagOptions { params, ..DagOptions::default() });
    let bytes = Dice::new(4).bytes(512 * 400);
    let cid = dag.import(&bytes[..], UnixfsMeta::default()).await.expect("a file").cid;
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    assert!(read(&reading(&server), &cid).await == bytes);
    assert_eq!(asked.counts(), (0, 1));
    let from = reading(&server);
    let pieces: Vec<Bytes> = from.reader(&cid, 100_000).try_collect().await.expect("read");
    assert!(pieces.concat() == bytes[100_000..]);
    assert_eq!(asked.counts(), (0, 2));

    // The root is there, and what is read is near the end of a node: what is before it does not come.
    let from = reading(&server);
    from.get_block(&cid).await.expect("the root");
    let before = asked.car_len.load(Ordering::SeqCst);
    let pieces: Vec<Bytes> = from.reader(&cid, 190_000).try_collect().await.expect("read");
    assert!(pieces.concat() == bytes[190_000..]);
    assert_eq!(asked.counts(), (1, 3));
    let came = asked.car_len.load(Ordering::SeqCst) - before;
    assert!(came < 25_000, "{came} bytes for {}", bytes.len() - 190_000);
}

/// One that ends early, as if that were all, is none: it once counted as one that had come to its end, so that there was no end
/// of asking for the next one.
#[tokio::test]
async fn who_gives_cars_of_nothing_is_asked_for_few() {
    for count in [0, 1, 5] {
        let (dag, blocks, _, bytes) = file(Profile::KuboCidV1Legacy, 130).await;
        let mut files = Vec::new();
        for n in 0..6 {
            let part = &bytes[n * 20 * LEAF_LEN + 1..(n + 1) * 20 * LEAF_LEN];
            files.push((dag.import(part, UnixfsMeta::default()).await.expect("a file").cid, part));
        }
        let (server, asked) = gateway(dag, blocks, Gives::First(count)).await;
        let dag = reading(&server);
        for (cid, part) in files {
            assert!(read(&dag, &cid).await == part, "{count}");
        }
        let (_, cars) = asked.counts();
        assert!((3..=6).contains(&cars), "{count}: {cars} CARs");
    }
}

/// A leaf that is there many times comes once, and is there for all of them.
#[tokio::test]
async fn a_file_of_equal_leaves_comes_as_one_car() {
    let blocks = Arc::new(Mem::default());
    let params = Params { chunk_len: CHUNK_LEN, width: 10, ..Profile::KuboCidV1Legacy.params() };
    let dag = Dag::new(blocks.clone(), DagOptions { params, ..DagOptions::default() });
    let some = Dice::new(5).bytes(LEAF_LEN);
    let bytes = [vec![0; 50 * LEAF_LEN], some.clone(), vec![0; 30 * LEAF_LEN], some].concat();
    let cid = dag.import(&bytes[..], UnixfsMeta::default()).await.expect("a file").cid;
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    assert!(read(&reading(&server), &cid).await == bytes);
    assert_eq!(asked.counts(), (0, 1));
}

/// Of a file that is not known a part takes one request, which is for that part; of one whose root is there, the block that
/// it is in. Two who read one file do not disturb each other.
#[tokio::test]
async fn who_jumps_about_has_what_was_asked_for_and_little_more() {
    let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 120).await;
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    let dag = reading(&server);
    for leaf in [100, 3, 60, 7, 90, 30] {
        let offset = leaf * LEAF_LEN + 5;
        let part = dag.read_at(&cid, offset as u64, 1000).await.expect("read");
        assert!(part == bytes[offset..offset + 1000]);
    }
    assert_eq!(asked.counts(), (5, 1));
    assert!(asked.car_len.load(Ordering::SeqCst) < 2 * LEAF_LEN, "the root and a leaf");
    // One after the other: as much as was read is asked for, so the whole takes few requests.
    for at in 0..120 {
        let offset = at * LEAF_LEN;
        let part = dag.read_at(&cid, offset as u64, CHUNK_LEN).await.expect("read");
        assert!(part == bytes[offset..bytes.len().min(offset + LEAF_LEN)]);
    }
    let (single, cars) = asked.counts();
    assert!(single <= 8 && cars <= 12, "{single} blocks, {cars} CARs");
    assert!(asked.car_len.load(Ordering::SeqCst) < bytes.len() * 3 / 2);

    let dag = reading(&server);
    let (one, other) = futures_util::join!(read(&dag, &cid), async {
        let pieces: Vec<Bytes> = dag.reader(&cid, 70 * LEAF_LEN as u64).try_collect().await.expect("read");
        pieces.concat()
    });
    assert!(one == bytes && other == bytes[70 * LEAF_LEN..]);
}

/// A file below directories, sharded ones too; the root, and the names that lead to it.
async fn tree(dag: &Dag, file: Cid) -> (Cid, Vec<Name>) {
    let (mut cid, mut names) = (file, Vec::new());
    for below in ["the file", "d%", "c?", "b", "a"] {
        let entry = |name: String, cid| Ok(Entry { name: self::name(&name), link: Link { cid, tsize: 1 } });
        let others = (0..300).map(|n| entry(format!("other {n}"), cid_of(Codec::Raw, below.as_bytes())));
        let entries = others.chain([entry(below.to_owned(), cid)]);
        let params = Params { hamt_threshold: 4 << 10, hamt_fanout: 16, ..*dag.params() };
        cid = dag.with_params(params).put_dir(stream::iter(entries).boxed()).await.expect("put").cid;
        names.insert(0, name(below));
    }
    (cid, names)
}

/// As many round trips as there is to find out: what the path leads through is one, however deep it is, and the file another.
#[tokio::test]
async fn a_path_comes_as_one_car() {
    let (dag, blocks, file, bytes) = file(Profile::KuboCidV1Legacy, 30).await;
    let (root, names) = tree(&dag, file).await;
    let (server, asked) = gateway(dag.clone(), blocks.clone(), Gives::What).await;
    let dag_there = reading(&server);
    assert_eq!(dag_there.resolve(&root, &names).await.expect("it leads there").cid, file);
    dag_there.get_block(&file).await.expect("it came along");
    assert_eq!(asked.counts(), (0, 1));
    assert!(read(&dag_there, &file).await == bytes);
    assert_eq!(asked.counts(), (0, 2));
    let error = dag_there.resolve(&root, &[name("a"), name("nothing")]).await.expect_err("no such name");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    // Wherever there is no such CAR, or another.
    for gives in [
        Gives::Status(400),
        Gives::Status(404),
        Gives::Status(501),
        Gives::Status(503),
        Gives::Page,
        Gives::Cut(40),
        Gives::Cut(3_000),
        Gives::First(0),
        Gives::First(1),
        Gives::Silent(0),
        Gives::Silent(3_000),
        Gives::Bent(20),
        Gives::Bent(3_000),
    ] {
        let (server, asked) = gateway(dag.clone(), blocks.clone(), gives).await;
        let dag = reading_by(gateway_of(&server, gives));
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(dag.resolve(&root, &names).await.expect("it leads there").cid, file, "{gives:?}");
            dag.get_block(&file).await.expect("block by block");
        }
        assert!(begun.elapsed() < PATIENCE, "{gives:?}: {:?}", begun.elapsed());
        let (_, cars) = asked.counts();
        assert!((1..=5).contains(&cars), "{gives:?}: {cars} CARs");
    }
}

/// Who walks names, as frontends do, tells where they lead: then the way comes as one CAR there, too, through all that is above
/// content. Who looks one up after the other, as kernels do, asks for each.
#[tokio::test]
async fn names_that_are_walked_come_as_one_car() {
    let (dag, blocks, file, _) = file(Profile::KuboCidV1Legacy, 30).await;
    let (root, names) = tree(&dag, file).await;
    let path = [vec![name("ipfs"), name(&root.to_string())], names.clone()].concat();
    for is_told in [true, false] {
        let (server, asked) = gateway(dag.clone(), blocks.clone(), Gives::What).await;
        let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(Arc::new(server.gateway()));
        let pins = Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("opens");
        let options = CasViewOptions { elsewhere: Some(Arc::new(sources)), ..CasViewOptions::default() };
        let here = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let working = WorkingVfs::new(ModelFs::new(testing::env()), CasView::new(here, Arc::new(pins), options), None);
        let mut mux = MuxFs::new();
        let prefix = Prefix::new("ipfs").expect("a prefix");
        mux.mount(Mount::location(prefix, Arc::new(working), testing::env())).expect("mounts");
        let vfs = mux.vfs(&testing::env()).await.expect("joins");
        let vfs = posix(vfs, Caller { uid: 1, gid: 1, groups: Vec::new() });
        if is_told {
            let (_, attr) = ext::walk(&vfs, vfs.root(), &path).await.expect("it leads there");
            assert_eq!((attr.cid, asked.counts()), (Some(file), (0, 1)));
            continue;
        }
        let mut at = vfs.root();
        for name in &path {
            at = vfs.lookup(at, name).await.expect("it leads there").ino;
        }
        assert!(asked.counts().0 > names.len(), "{:?}", asked.counts());
    }
}

/// Behind the end of a file that is not known is nothing, and no reason to ask for no CARs.
#[tokio::test]
async fn behind_the_end_is_nothing() {
    let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 30).await;
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    let dag = reading(&server);
    assert!(dag.read_at(&cid, 1 << 40, 1000).await.expect("read").is_empty());
    assert_eq!(asked.counts(), (1, 1), "refused, and the root by itself");
    assert!(read(&dag, &cid).await == bytes);
    assert_eq!(asked.counts(), (1, 2));
}

/// Names that are not there are looked for in the directories; a gateway that has no CARs of paths at all is asked for few.
#[tokio::test]
async fn who_gives_no_cars_of_paths_is_asked_for_none() {
    let (dag, blocks, file, bytes) = file(Profile::KuboCidV1Legacy, 30).await;
    let (server, asked) = gateway(dag.clone(), blocks, Gives::What).await;
    let reading = reading(&server);
    let mut roots = Vec::new();
    for n in 0..10 {
        let entry = Entry { name: name(&n.to_string()), link: Link { cid: file, tsize: 1 } };
        roots.push(dag.put_dir(stream::iter([Ok(entry)]).boxed()).await.expect("put").cid);
    }
    for root in &roots {
        reading.resolve(root, &[name("x")]).await.expect_err("no such name");
    }
    assert_eq!(asked.counts().1, 3);
    assert!(read(&reading, &file).await == bytes);
    assert_eq!(asked.counts().1, 4, "of files it gives them");
}

/// What drips from one is had from another, and soon from that alone; who lied is asked for nothing while another has it.
#[tokio::test]
async fn a_car_that_drips_or_lies_costs_its_gateway_its_place() {
    for gives in [Gives::Drip(300_000), Gives::Slow(300_000), Gives::Silent(300_000), Gives::Bent(300_000)] {
        let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 60).await;
        let (bad, asked) = gateway(dag.clone(), blocks.clone(), gives).await;
        let (good, asked_good) = gateway(dag, blocks, Gives::Status(406)).await;
        let sources = Sources::new(Vec::new(), SourcesOptions::default());
        let sources = sources.and_gateway(Arc::new(gateway_of(&bad, gives))).and_gateway(Arc::new(good.gateway()));
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default()).with_elsewhere(Arc::new(sources));
        let begun = Instant::now();
        assert!(read(&dag, &cid).await == bytes, "{gives:?}");
        assert!(begun.elapsed() < PATIENCE, "{gives:?}: {:?}", begun.elapsed());
        let ((single, cars), (from_good, _)) = (asked.counts(), asked_good.counts());
        assert!(cars <= 2 && from_good > 20, "{gives:?}: {single} and {cars}, {from_good} from the other");
        if matches!(gives, Gives::Bent(_)) {
            assert_eq!((single, cars), (0, 1));
        }
    }
}

/// Whatever comes in place of the CAR, and wherever it ends.
#[tokio::test]
async fn whatever_a_gateway_gives_the_bytes_are_the_same() {
    for gives in [
        Gives::Status(400),
        Gives::Status(404),
        Gives::Status(406),
        Gives::Status(429),
        Gives::Status(500),
        Gives::Status(503),
        Gives::Page,
        Gives::All,
        Gives::Cut(0),
        Gives::Cut(40),
        Gives::Cut(500_000),
        Gives::First(0),
        Gives::First(7),
        Gives::Silent(0),
        Gives::Silent(500_000),
        Gives::Drip(500_000),
        Gives::Slow(200_000),
        Gives::Bent(20),
        Gives::Bent(500_000),
        Gives::Stranger,
    ] {
        let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 60).await;
        let (server, asked) = gateway(dag, blocks, gives).await;
        let begun = Instant::now();
        assert!(read(&reading_by(gateway_of(&server, gives)), &cid).await == bytes, "{gives:?}");
        assert!(begun.elapsed() < PATIENCE, "{gives:?}: {:?}", begun.elapsed());
        let cars = asked.cars.load(Ordering::SeqCst);
        assert!((1..=3).contains(&cars), "{gives:?}: {cars} CARs");
    }
}
