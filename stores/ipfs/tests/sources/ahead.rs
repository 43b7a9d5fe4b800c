//! Files that are read in order from a gateway come as one CAR, and wherever that does not work, block by block: the bytes
//! are the same, and no gateway holds a reader up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use muxfs::{
    BlockKey, BlockStore, BoxError, Cid, Codec,
    block::Mem,
    car, cid_of,
    dag::{Dag, DagOptions, EntityBytes, ExportOptions, Params, Profile, Scope, UnixfsMeta},
    testing::fault::Dice,
};
use muxfs_ipfs::{Sources, SourcesOptions};

use crate::server::Server;

/// What a gateway does that is asked for a CAR.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gives {
    What,
    Status(u16),
    Page,
    /// A CAR of the whole file, wherever it is to begin.
    All,
    /// One that ends after so many bytes, as if it were whole, or says nothing more.
    Cut(usize),
    Silent(usize),
    /// One of which a byte is another.
    Bent(usize),
    /// One with a block in it that is not of the file.
    Stranger,
}

/// How often a gateway was asked.
#[derive(Debug, Default)]
struct Asked {
    blocks: AtomicUsize,
    cars: AtomicUsize,
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
    let cid: Cid = request.uri().path().strip_prefix("/ipfs/").expect("a path").parse().expect("a CID");
    let query = request.uri().query().expect("a query");
    if query == "format=raw" {
        asked.blocks.fetch_add(1, Ordering::SeqCst);
        let block = blocks.get(&BlockKey::from(&cid)).await.expect("memory").expect("it is there");
        return whole(200, "application/vnd.ipld.raw", block);
    }
    asked.cars.fetch_add(1, Ordering::SeqCst);
    let from = query.split('&').find_map(|pair| pair.strip_prefix("entity-bytes=")).expect("a range");
    let from = from.strip_suffix(":*").expect("to the end").parse().expect("a number");
    let kind = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
    match gives {
        Gives::Status(status) => return whole(status, "text/plain", "no"),
        Gives::Page => return whole(200, "text/html", "<html>"),
        _ => {}
    }
    let from = if gives == Gives::All { 0 } else { from };
    let bytes = Some(EntityBytes { from, to: None });
    let options = ExportOptions { scope: Scope::Entity, bytes, ..ExportOptions::default() };
    let car = car::export(dag, &cid, &[], &options).await.expect("begun");
    let car: Vec<Bytes> = car.try_collect().await.expect("memory");
    let mut car = car.concat();
    match gives {
        Gives::Cut(len) => car.truncate(len),
        Gives::Bent(at) => car[at] ^= 1,
        Gives::Stranger => {
            let block = b"a stranger";
            let section = [&cid_of(Codec::Raw, block).to_bytes()[..], block].concat();
            let len = u8::try_from(section.len()).expect("short");
            let at = section_before(&car, car.len() / 3);
            car.splice(at..at, [&[len], &section[..]].concat());
        }
        Gives::Silent(len) => {
            let begun = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from(car[..len].to_vec())))]);
            let body = StreamBody::new(begun.chain(futures_util::stream::pending())).boxed_unsync();
            return Response::builder().header("content-type", kind).body(body).expect("an answer");
        }
        _ => {}
    }
    whole(200, kind, car)
}

/// Where the last section begins that begins before a byte.
fn section_before(car: &[u8], before: usize) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < before {
        last = at;
        let (mut len, mut shift) = (0, 0);
        loop {
            let byte = car[at];
            at += 1;
            len |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
        at += len;
    }
    last
}

/// A gateway of a file.
async fn gateway(dag: Dag, blocks: Arc<Mem>, gives: Gives) -> (Server, Arc<Asked>) {
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

fn reading(server: &Server) -> Dag {
    let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(Arc::new(server.gateway()));
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
        let (cars, single) = (asked.cars.load(Ordering::SeqCst), asked.blocks.load(Ordering::SeqCst));
        assert_eq!(cars, 1, "{single} blocks by themselves");
        assert!(single < 24, "{single} blocks of 121 by themselves");
    }
}

/// Who jumps about has what is asked for, and no CAR is begun for it; two who read one file do not disturb each other.
#[tokio::test]
async fn who_jumps_about_asks_for_blocks() {
    let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 120).await;
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    let dag = reading(&server);
    for leaf in [100, 3, 60, 7, 90, 30] {
        let offset = leaf * LEAF_LEN + 5;
        let part = dag.read_at(&cid, offset as u64, 1000).await.expect("read");
        assert!(part == bytes[offset..offset + 1000]);
    }
    assert_eq!(asked.cars.load(Ordering::SeqCst), 0);
    let dag = reading(&server);
    let (one, other) = futures_util::join!(read(&dag, &cid), async {
        let pieces: Vec<Bytes> = dag.reader(&cid, 70 * LEAF_LEN as u64).try_collect().await.expect("read");
        pieces.concat()
    });
    assert!(one == bytes && other == bytes[70 * LEAF_LEN..]);
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
        Gives::Silent(0),
        Gives::Silent(500_000),
        Gives::Bent(20),
        Gives::Bent(500_000),
        Gives::Stranger,
    ] {
        let (dag, blocks, cid, bytes) = file(Profile::KuboCidV1Legacy, 60).await;
        let (server, asked) = gateway(dag, blocks, gives).await;
        let begun = Instant::now();
        assert!(read(&reading(&server), &cid).await == bytes, "{gives:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{gives:?}: {:?}", begun.elapsed());
        let cars = asked.cars.load(Ordering::SeqCst);
        assert!((1..=3).contains(&cars), "{gives:?}: {cars} CARs");
    }
}
