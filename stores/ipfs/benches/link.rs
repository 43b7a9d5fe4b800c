//! Reading from a gateway over a long link: how many round trips the first byte of a file deep in a tree takes, and how fast
//! the whole file is read in order, beside what a plain download of its CAR takes over the same link, and one that is hashed.
//!
//! `cargo bench -p muxfs-ipfs --bench link -- [MIB] [ROUNDS]`: of 256 MiB, three times. The link is a proxy on loopback that
//! holds all bytes back for half of 50 ms in each direction, and a connection for a round trip before its first byte; it does
//! not limit how much is under way. Server, proxy and reader share the processors: so how long they were busy for each MiB is told too,
//! which other work on the machine does not change as much.

use std::{
    env, fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{
    BlockStore, Cid, Mount, MuxFs, Name, Prefix, Result,
    block::Mem,
    dag::{Dag, DagOptions, Entry, Link, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
    testing::{self, fault::Dice},
};
use muxfs_ipfs::{Gateway, HttpOptions, Sources, SourcesOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep_until,
};

/// How long a round trip takes.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// The directories above the file, the root among them.
const DEPTH: usize = 4;
/// So many pieces are under way in each direction, at most.
const PIECE_COUNT: usize = 4096;
const PIECE_LEN: usize = 64 << 10;

/// Hands on what is read, later.
async fn delayed(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut delay: Duration,
) {
    let (into, mut out) = mpsc::channel::<(Instant, Vec<u8>)>(PIECE_COUNT);
    let write = async move {
        while let Some((due, piece)) = out.recv().await {
            sleep_until(due.into()).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_LEN];
            let Ok(len @ 1..) = from.read(&mut piece).await else { return };
            piece.truncate(len);
            if into.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
            delay = ROUND_TRIP / 2;
        }
    };
    futures_util::join!(write, read);
}

/// A long link to a server.
async fn link(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            near.set_nodelay(true).ok();
            far.set_nodelay(true).ok();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            // A connection takes a round trip before it can be used.
            tokio::spawn(delayed(near_read, far_write, ROUND_TRIP + ROUND_TRIP / 2));
            tokio::spawn(delayed(far_read, near_write, ROUND_TRIP / 2));
        }
    });
    addr
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// A file in a directory in a directory; the root, the names that lead to it, and the file.
async fn tree(dag: &Dag, len: usize) -> Result<(Cid, Vec<Name>, Cid)> {
    let file = dag.import(&Dice::new(1).bytes(len)[..], UnixfsMeta::default()).await?;
    let (mut link, mut names): (Link, Vec<Name>) = (file, vec![name("file")]);
    for _ in 0..DEPTH {
        let entry = Entry { name: names[0].clone(), link };
        link = dag.put_dir(stream::iter([Ok(entry)]).boxed()).await?;
        names.insert(0, name("dir"));
    }
    names.remove(0);
    Ok((link.cid, names, file.cid))
}

/// What reading took: time, and time of processors, which is 0 where the system does not tell.
#[derive(Clone, Copy)]
struct Took {
    len: usize,
    time: Duration,
    busy: Duration,
}

impl fmt::Display for Took {
    #[expect(clippy::cast_precision_loss, reason = "lengths here are far below 2^52")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.len as f64 / f64::from(1 << 20);
        write!(f, "{:.0} MiB/s, {:.2} ms busy/MiB", mib / self.time.as_secs_f64(), self.busy.as_secs_f64() * 1e3 / mib)
    }
}

/// How long processors were busy with this process: Linux counts in hundredths of a second.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

async fn measured(read: impl Future<Output = Result<usize>>) -> Result<Took> {
    let (begun, busy_before) = (Instant::now(), busy());
    let len = read.await?;
    Ok(Took { len, time: begun.elapsed(), busy: busy().saturating_sub(busy_before) })
}

/// A plain client that takes the CAR of a file, of which it looks at nothing, or hashes all of it.
async fn download(addr: SocketAddr, file: &Cid, is_hashed: bool) -> Result<usize> {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let request = format!("GET /ipfs/{file}?format=car&dag-scope=entity HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut buffer, mut len) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).await.expect("read") {
            0 => return Ok(len),
            read => {
                if is_hashed {
                    std::hint::black_box(muxfs::cid_of(muxfs::Codec::Raw, &buffer[..read]));
                }
                len += read;
            }
        }
    }
}

fn reading(addr: SocketAddr, is_streaming: bool) -> Dag {
    let gateway = Gateway::new(format!("http://{addr}").parse().expect("an address"), HttpOptions::default());
    let sources = Sources::new(Vec::new(), SourcesOptions::default());
    let sources = if is_streaming { sources.and_gateway(Arc::new(gateway)) } else { sources.and(Arc::new(gateway)) };
    let sources: Arc<dyn BlockStore> = Arc::new(sources);
    Dag::new(Arc::new(Mem::default()), DagOptions::default()).with_elsewhere(sources)
}

async fn in_order(dag: Dag, file: &Cid) -> Result<usize> {
    let mut pieces = dag.reader(file, 0);
    let mut len = 0;
    while let Some(piece) = pieces.try_next().await? {
        len += piece.len();
    }
    Ok(len)
}

async fn bench(len: usize, rounds: usize) -> Result<()> {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let (root, names, file) = tree(&dag, len).await?;
    let pins = Pins::open(Arc::new(MemMedia::default()), &testing::env()).await?;
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("ipfs")?, dag, Arc::new(pins)))?;
    let options = muxfs_http::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
    let server = muxfs_http::serve(mux, options)?;
    let addr = link(server.local_addr()).await;
    for round in 1..=rounds {
        let dag = reading(addr, true);
        let begun = Instant::now();
        let found = dag.resolve(&root, &names).await?;
        let first = dag.reader(&found.cid, 0).try_next().await?;
        let took = begun.elapsed();
        assert!(first.is_some_and(|piece| !piece.is_empty()));
        println!(
            "{round}: first byte below {DEPTH} directories {:.0} ms, {:.1} round trips, that of the connection among them",
            took.as_secs_f64() * 1e3,
            took.as_secs_f64() / ROUND_TRIP.as_secs_f64()
        );
        let plain = measured(download(addr, &file, false)).await?;
        let hashed = measured(download(addr, &file, true)).await?;
        let streamed = measured(in_order(reading(addr, true), &file)).await?;
        let single = measured(in_order(reading(addr, false), &file)).await?;
        assert!(streamed.len == len && single.len == len && plain.len > len && hashed.len > len);
        println!("{round}: CAR by a plain client  {plain}");
        println!("{round}: the same, hashed       {hashed}");
        let ratio = |beside: Took| beside.time.as_secs_f64() / streamed.time.as_secs_f64();
        println!("{round}: read in order          {streamed}: {:.2} and {:.2} as fast", ratio(plain), ratio(hashed));
        println!("{round}: block by block         {single}");
    }
    server.shutdown().await;
    Ok(())
}

fn main() -> Result<()> {
    let numbers: Vec<usize> = env::args().filter_map(|text| text.parse().ok()).collect();
    let (mib, rounds) = (numbers.first().copied().unwrap_or(256), numbers.get(1).copied().unwrap_or(3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(mib << 20, rounds))
}
