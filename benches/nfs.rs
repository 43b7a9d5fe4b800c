//! A load on an NFSv3 server, ours or a peer's: sequential transfer, small files, attributes, listing.
//!
//! Speaks RPC over one TCP connection with a window of calls in flight, so that the figures are the server's and not a
//! client cache's. Run it against two servers in turn on the same disk and compare: `benches/run nfs` does.
//!
//! Usage: `nfs LABEL HOST:PORT MOUNTPORT EXPORT [getattr SECONDS]`

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;
const WRITE: u32 = 7;
const CREATE: u32 = 8;
const MKDIR: u32 = 9;
const REMOVE: u32 = 12;
const RMDIR: u32 = 13;
const READDIRPLUS: u32 = 17;
const COMMIT: u32 = 21;
const UNSTABLE: u32 = 0;
const FILE_SYNC: u32 = 2;

const MIB: usize = 1 << 20;
/// How many MiB the big file has, unless `MUXFS_BENCH_MIB` says.
const BIG_MIB: usize = 256;
const SMALL_COUNT: usize = 2000;
const STAT_COUNT: usize = 20_000;
const LIST_COUNT: usize = 10_000;
const WINDOW: usize = 8;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// XDR, as far as it is needed here.
#[derive(Default, Clone)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn opaque(self, bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).expect("short");
        let mut this = self.u32(len);
        this.0.extend_from_slice(bytes);
        this.0.resize(this.0.len().next_multiple_of(4), 0);
        this
    }
}

/// A reply's results, read in order.
struct Reply(VecDeque<u8>);

impl Reply {
    fn u32(&mut self) -> Result<u32> {
        let bytes: Vec<u8> = self.0.drain(..4.min(self.0.len())).collect();
        Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| "a short reply")?))
    }
    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }
    fn opaque(&mut self) -> Result<Vec<u8>> {
        let len = self.u32()? as usize;
        let bytes = self.0.drain(..len.next_multiple_of(4).min(self.0.len())).take(len).collect();
        Ok(bytes)
    }
    /// Whether the data of a READ begins with these bytes; after `count`.
    fn read_begins(&mut self, bytes: &[u8]) -> Result<bool> {
        let (_eof, _len) = (self.u32()?, self.u32()?);
        Ok(self.0.iter().take(bytes.len()).eq(bytes))
    }
    fn skip(&mut self, len: usize) {
        self.0.drain(..len.min(self.0.len()));
    }
    fn post_op_attr(&mut self) -> Result<()> {
        if self.u32()? == 1 {
            self.skip(84);
        }
        Ok(())
    }
    fn ok(mut self) -> Result<Self> {
        match self.u32()? {
            0 => Ok(self),
            status => Err(format!("NFS status {status}").into()),
        }
    }
}

struct Connection {
    stream: TcpStream,
    xid: u32,
    held: Vec<u8>,
}

impl Connection {
    fn open(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        Ok(Self { stream, xid: 1, held: Vec::new() })
    }

    fn send(&mut self, program: u32, procedure: u32, args: &Xdr) -> io::Result<u32> {
        self.xid += 1;
        let credential = Xdr::default().u32(0).opaque(b"bench").u32(0).u32(0).u32(0);
        let head = Xdr::default().u32(self.xid).u32(0).u32(2).u32(program).u32(3).u32(procedure);
        let head = head.u32(1).opaque(&credential.0).u32(0).u32(0);
        let len = u32::try_from(head.0.len() + args.0.len()).expect("short") | 1 << 31;
        let mut record = len.to_be_bytes().to_vec();
        record.extend_from_slice(&head.0);
        record.extend_from_slice(&args.0);
        self.stream.write_all(&record)?;
        Ok(self.xid)
    }

    fn receive(&mut self) -> Result<(u32, Reply)> {
        let mut record = Vec::new();
        loop {
            let mark = u32::from_be_bytes(self.bytes(4)?.try_into().expect("four"));
            record.extend(self.bytes((mark & !(1 << 31)) as usize)?);
            if mark >> 31 == 1 {
                break;
            }
        }
        let mut reply = Reply(record.into());
        let xid = reply.u32()?;
        reply.skip(8);
        reply.u32()?;
        reply.opaque()?;
        match reply.u32()? {
            0 => Ok((xid, reply)),
            refused => Err(format!("RPC accept status {refused}").into()),
        }
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < len {
            let at = self.held.len();
            self.held.resize(at + len.max(256 << 10), 0);
            let got = self.stream.read(&mut self.held[at..])?;
            self.held.truncate(at + got);
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.held.split_off(len);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    fn call(&mut self, program: u32, procedure: u32, args: &Xdr) -> Result<Reply> {
        let xid = self.send(program, procedure, args)?;
        match self.receive()? {
            (got, reply) if got == xid => Ok(reply),
            _ => Err("a reply to another call".into()),
        }
    }

    fn nfs(&mut self, procedure: u32, args: &Xdr) -> Result<Reply> {
        self.call(NFS, procedure, args)?.ok()
    }

    /// Runs chains of calls, `window` at a time: `next` gives the call that follows a reply in a chain, or none.
    fn chains(
        &mut self,
        window: usize,
        count: usize,
        mut next: impl FnMut(usize, usize, Option<Reply>) -> Result<Option<(u32, Xdr)>>,
    ) -> Result<()> {
        let mut under_way: HashMap<u32, (usize, usize)> = HashMap::new();
        let mut begun = 0;
        loop {
            while under_way.len() < window && begun < count {
                if let Some((procedure, args)) = next(begun, 0, None)? {
                    under_way.insert(self.send(NFS, procedure, &args)?, (begun, 1));
                }
                begun += 1;
            }
            if under_way.is_empty() {
                return Ok(());
            }
            let (xid, reply) = self.receive()?;
            let (chain, step) = under_way.remove(&xid).ok_or("a reply to no call")?;
            if let Some((procedure, args)) = next(chain, step, Some(reply.ok()?))? {
                under_way.insert(self.send(NFS, procedure, &args)?, (chain, step + 1));
            }
        }
    }
}

fn place(dir: &[u8], name: &str) -> Xdr {
    Xdr::default().opaque(dir).opaque(name.as_bytes())
}

/// CREATE, unchecked, mode 0644.
fn create(dir: &[u8], name: &str) -> Xdr {
    place(dir, name).u32(0).u32(1).u32(0o644).u32(0).u32(0).u32(0).u32(0).u32(0)
}

fn write(handle: &[u8], offset: u64, data: &[u8], stable: u32) -> Xdr {
    let len = u32::try_from(data.len()).expect("short");
    Xdr::default().opaque(handle).u64(offset).u32(len).u32(stable).opaque(data)
}

fn handle_of(mut reply: Reply) -> Result<Vec<u8>> {
    if reply.u32()? == 1 { reply.opaque() } else { Err("no handle in the reply".into()) }
}

/// So many a second since `begun`.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [label, addr, mount_port, export, rest @ ..] = args.as_slice() else {
        println!("SKIPPED: nfs LABEL HOST:PORT MOUNTPORT EXPORT [getattr SECONDS]; benches/run nfs starts the servers");
        return Ok(());
    };
    let host = addr.rsplit_once(':').ok_or("HOST:PORT")?.0;
    let mut mount = Connection::open((host, mount_port.parse()?))?;
    let mut reply = mount.call(MOUNT, 1, &Xdr::default().opaque(export.as_bytes()))?.ok()?;
    let root = reply.opaque()?;
    let mut nfs = Connection::open(addr)?;
    let told = |what: &str, value: f64, unit: &str| println!("{label:12} {what:24} {value:12.1} {unit}");

    if let [kind, seconds] = rest
        && kind == "getattr"
    {
        let seconds: u64 = seconds.parse()?;
        for second in 0..seconds {
            let (begun, mut count) = (Instant::now(), 0);
            while begun.elapsed() < Duration::from_secs(1) {
                nfs.chains(16, 2000, |_, step, _| Ok((step == 0).then(|| (GETATTR, Xdr::default().opaque(&root)))))?;
                count += 2000;
            }
            if second == 0 || second + 1 == seconds || second % 10 == 9 {
                told(&format!("getattr second {second}"), rate(count, begun), "calls/s");
            }
        }
        return Ok(());
    }

    let name = format!("bench-{}", std::process::id());
    let set = Xdr::default().u32(1).u32(0o755).u32(0).u32(0).u32(0).u32(0).u32(0);
    let mut args = place(&root, &name);
    args.0.extend_from_slice(&set.0);
    let dir = handle_of(nfs.nfs(MKDIR, &args)?)?;

    let big = handle_of(nfs.nfs(CREATE, &create(&dir, "big"))?)?;
    // Pieces that no server can shrink, and no two alike: who keeps equal blocks once would write only one of them.
    let mut state = 1u64;
    let noise = (0..MIB / 8).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ state >> 29).to_le_bytes()
    });
    let data: Vec<u8> = noise.collect();
    let mark = |piece: usize| ((piece as u64) << 32 | u64::from(std::process::id())).to_le_bytes();
    let pieces = std::env::var("MUXFS_BENCH_MIB").map_or(Ok(BIG_MIB), |text| text.parse())?;
    let begun = Instant::now();
    let mut marked = data.clone();
    nfs.chains(WINDOW, pieces, |piece, step, _| {
        marked[..8].copy_from_slice(&mark(piece));
        Ok((step == 0).then(|| (WRITE, write(&big, (piece * MIB) as u64, &marked, UNSTABLE))))
    })?;
    nfs.nfs(COMMIT, &Xdr::default().opaque(&big).u64(0).u32(0))?;
    told("sequential write", rate(pieces, begun), "MiB/s");

    let begun = Instant::now();
    let mut wrong = false;
    nfs.chains(WINDOW, pieces, |piece, step, reply| {
        if let Some(mut reply) = reply {
            reply.post_op_attr()?;
            wrong |= reply.u32()? as usize != MIB;
            wrong |= !reply.read_begins(&mark(piece))?;
        }
        let args = Xdr::default().opaque(&big).u64((piece * MIB) as u64).u32(u32::try_from(MIB)?);
        Ok((step == 0).then_some((READ, args)))
    })?;
    told("sequential read", rate(pieces, begun), "MiB/s");
    if wrong {
        return Err("a READ was short or wrong".into());
    }

    for window in [1, WINDOW] {
        let count = if window == 1 { SMALL_COUNT / 4 } else { SMALL_COUNT };
        let file = |chain: usize| format!("small-{window}-{chain}");
        let begun = Instant::now();
        nfs.chains(window, count, |chain, step, reply| {
            Ok(match (step, reply) {
                (0, _) => Some((CREATE, create(&dir, &file(chain)))),
                (1, Some(reply)) => Some((WRITE, write(&handle_of(reply)?, 0, &data[..4096], FILE_SYNC))),
                _ => None,
            })
        })?;
        told(&format!("create+write 4 KiB x{window}"), rate(count, begun), "files/s");
    }

    for window in [1, WINDOW] {
        let begun = Instant::now();
        nfs.chains(window, STAT_COUNT, |chain, step, _| {
            let name = format!("small-{WINDOW}-{}", chain % SMALL_COUNT);
            Ok((step == 0).then(|| (LOOKUP, place(&dir, &name))))
        })?;
        told(&format!("stat (LOOKUP) x{window}"), rate(STAT_COUNT, begun), "calls/s");
    }

    let begun = Instant::now();
    for (window, count) in [(1, SMALL_COUNT / 4), (WINDOW, SMALL_COUNT)] {
        nfs.chains(WINDOW, count, |chain, step, _| {
            Ok((step == 0).then(|| (REMOVE, place(&dir, &format!("small-{window}-{chain}")))))
        })?;
    }
    told("remove x8", rate(SMALL_COUNT + SMALL_COUNT / 4, begun), "files/s");

    nfs.chains(WINDOW, LIST_COUNT, |chain, step, _| {
        Ok((step == 0).then(|| (CREATE, create(&dir, &format!("entry-{chain:05}")))))
    })?;
    let begun = Instant::now();
    let listed = list(&mut nfs, &dir)?;
    told("list (READDIRPLUS)", rate(listed, begun), "entries/s");
    if listed != LIST_COUNT + 1 {
        return Err(format!("{listed} entries listed, {} are there", LIST_COUNT + 1).into());
    }
    nfs.chains(WINDOW, LIST_COUNT, |chain, step, _| {
        Ok((step == 0).then(|| (REMOVE, place(&dir, &format!("entry-{chain:05}")))))
    })?;
    nfs.nfs(REMOVE, &place(&dir, "big"))?;
    nfs.nfs(RMDIR, &place(&root, &name))?;
    Ok(())
}

/// Counts the entries of a directory, without "." and "..".
fn list(nfs: &mut Connection, dir: &[u8]) -> Result<usize> {
    let (mut cookie, mut verifier, mut count) = (0, 0, 0);
    loop {
        let args = Xdr::default().opaque(dir).u64(cookie).u64(verifier).u32(64 << 10).u32(1 << 20);
        let mut reply = nfs.nfs(READDIRPLUS, &args)?;
        reply.post_op_attr()?;
        verifier = reply.u64()?;
        while reply.u32()? == 1 {
            reply.u64()?;
            let name = reply.opaque()?;
            cookie = reply.u64()?;
            reply.post_op_attr()?;
            if reply.u32()? == 1 {
                reply.opaque()?;
            }
            count += usize::from(name != b"." && name != b"..");
        }
        if reply.u32()? == 1 {
            return Ok(count);
        }
    }
}
