//! What a start, a long read and a listing cost from an flist that was mounted a moment ago, beside a plain download.
//!
//! `cargo bench -p muxfs-flist --bench mount -- [ROOT]`; `ROOT` is a root in which `/usr/bin/python3` starts, without which no start is
//! measured. The chunks come over HTTP from this machine: each answer 20 ms late for the start, at 1 Gbit/s for the read. The mount is
//! a process of its own. Medians of three; root and `/dev/fuse` are needed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use muxfs::{
    testing::{fault::Dice, skip},
    vfs::watch::Watch,
};
use muxfs_flist::{
    Chunks, ChunksOptions, FlistVfs, Profiles,
    write::{self, About, CreateOptions, Facts, Making, Source, Stores, Tree, What},
};
use tempfile::TempDir;

const ROUND_COUNT: usize = 3;
const DELAY: Duration = Duration::from_millis(20);
/// What 1 Gbit/s gives in a second, in bytes.
const RATE: u64 = 125_000_000;
const FILE_LEN: usize = 64 << 20;
const DIR_COUNT: usize = 1000;
const IN_DIR_COUNT: usize = 99;
const MIB: f64 = 1_048_576.0;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

/// What gives the files of a directory over HTTP, and remembers which.
struct Web {
    addr: SocketAddr,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Web {
    fn serve(dir: PathBuf, delay: Duration, rate: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        // When the line is free again.
        let line = Arc::new(Mutex::new(Instant::now()));
        let remembered = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (dir, asked, line) = (dir.clone(), remembered.clone(), line.clone());
                std::thread::spawn(move || {
                    let answer = |name: &str, asked_at: Instant| {
                        asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                        // Each is late by that, however many are on their way.
                        std::thread::sleep((asked_at + delay).saturating_duration_since(Instant::now()));
                        let body = fs::read(dir.join(name)).ok();
                        let len = body.as_ref().map_or(0, Vec::len) as u64;
                        if let Some(rate) = rate {
                            let mut free = line.lock().unwrap_or_else(PoisonError::into_inner);
                            *free = (*free).max(Instant::now()) + Duration::from_nanos(len * 1_000_000_000 / rate);
                            let until = *free;
                            drop(free);
                            std::thread::sleep(until.saturating_duration_since(Instant::now()));
                        }
                        body
                    };
                    // Whoever asked may be gone.
                    talk(stream, answer).ok();
                });
            }
        });
        Self { addr, asked }
    }

    fn asked(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The time that these take over one connection: all asked for at once, so that they come in one stream, or each when the
    /// one before it came.
    fn download(&self, names: &BTreeSet<String>, at_once: bool) -> Duration {
        let mut stream = BufReader::new(TcpStream::connect(self.addr).expect("connected"));
        stream.get_ref().set_nodelay(true).expect("set");
        let began = Instant::now();
        let ask = |name: &String| format!("GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if at_once {
            let all: String = names.iter().map(ask).collect();
            stream.get_mut().write_all(all.as_bytes()).expect("sent");
        }
        for name in names {
            if !at_once {
                stream.get_mut().write_all(ask(name).as_bytes()).expect("sent");
            }
            let (mut len, mut line) = (0, String::new());
            loop {
                line.clear();
                stream.read_line(&mut line).expect("read");
                match line.trim_end().split_once(": ") {
                    Some(("Content-Length", digits)) => len = digits.parse().expect("a number"),
                    None if line.trim_end().is_empty() => break,
                    _ => {}
                }
            }
            std::io::copy(&mut (&mut stream).take(len), &mut std::io::sink()).expect("read");
        }
        began.elapsed()
    }
}

/// Reads requests of a connection, as soon as they come.
fn requests(stream: TcpStream, tell: &Sender<(String, Instant)>) -> std::io::Result<()> {
    let (mut stream, mut line) = (BufReader::new(stream), String::new());
    loop {
        let mut path = None;
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            path = path.or_else(|| line.split(' ').nth(1).map(|path| path.trim_start_matches('/').to_owned()));
        }
        if tell.send((path.unwrap_or_default(), Instant::now())).is_err() {
            return Ok(());
        }
    }
}

fn talk(mut stream: TcpStream, answer: impl Fn(&str, Instant) -> Option<Vec<u8>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (tell, told) = channel();
    let reader = stream.try_clone()?;
    std::thread::spawn(move || requests(reader, &tell));
    for (path, asked_at) in told {
        let body = answer(&path, asked_at);
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat())?;
    }
    Ok(())
}

/// A mount in a process of its own, which ends with this.
struct Mount {
    process: Child,
    dir: TempDir,
}

impl Mount {
    fn new(flists: &Path, source: &str, profiles: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut process = Command::new(std::env::current_exe().expect("a program"))
            .args(["--mount", source, profiles])
            .args([flists, dir.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut ready = [0];
        process.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("it mounts");
        Self { process, dir }
    }

    fn memory_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("told");
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib / 1024.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().expect("it ends");
    }
}

/// The process that mounts: until nobody writes to it any more.
fn serve(arguments: &[String]) {
    let [source, profiles, flists, dir] = arguments else { panic!("{arguments:?}") };
    let profiles = match &**profiles {
        "record" => Profiles::Record,
        "replay" => Profiles::Replay,
        _ => Profiles::Off,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = ChunksOptions { sources: vec![source.parse().expect("an address")], ..ChunksOptions::default() };
        let chunks = Arc::new(Chunks::open(options).await.expect("opened"));
        let vfs = FlistVfs::new(flists.into(), std::env::temp_dir(), chunks, (0, 0)).with_profiles(profiles);
        let options = muxfs_fuse::Options { read_only: true, ..muxfs_fuse::Options::default() };
        let mounted = muxfs_fuse::mount(&Watch::new(Arc::new(vfs)), dir, options).await.expect("mounted");
        print!("+");
        std::io::stdout().flush().expect("told");
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
            .await
            .expect("read")
            .expect("read");
        mounted.unmount().await.expect("unmounted");
    });
}

async fn create(source: PathBuf, name: &str, dir: &TempDir) {
    fs::create_dir_all(dir.path().join("flists")).expect("made");
    let url = format!("dir://{}", dir.path().join("chunks").display()).parse().expect("an address");
    let stores = Arc::new(Stores::open(&[url]).expect("made"));
    let target = dir.path().join("flists").join(name);
    write::create(Source::Dir(source), stores, &target, CreateOptions::default()).await.expect("made");
}

/// How long a command takes.
fn time(command: &mut Command) -> Duration {
    let began = Instant::now();
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("it runs");
    let took = began.elapsed();
    assert!(ended.success(), "{command:?} fails");
    took
}

fn python(root: &Path) -> Duration {
    time(Command::new("chroot").arg(root).args(["/usr/bin/python3", "-c", "import json"]))
}

async fn start(root: &Path) {
    let dir = TempDir::new().expect("a directory");
    create(root.into(), "root.fl", &dir).await;
    let flists = dir.path().join("flists");
    let web = Web::serve(dir.path().join("chunks"), DELAY, None);
    let source = format!("http://{}", web.addr);
    let (mut lazy, mut replayed, mut download, mut local, mut count) = (vec![], vec![], vec![], vec![], 0);
    let mut stream = vec![];
    python(root);
    for _ in 0..ROUND_COUNT {
        let mount = Mount::new(&flists, &source, "off");
        web.asked();
        lazy.push(python(&mount.dir.path().join("root")));
        drop(mount);
        let touched = web.asked();
        count = touched.len();
        download.push(web.download(&touched, false));
        stream.push(web.download(&touched, true));
        local.push(python(root));
        if !flists.join("root.fl.profile").exists() {
            let mount = Mount::new(&flists, &source, "record");
            python(&mount.dir.path().join("root"));
            let began = Instant::now();
            while !flists.join("root.fl.profile").exists() {
                assert!(began.elapsed() < Duration::from_secs(30), "no profile is written");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let mount = Mount::new(&flists, &source, "replay");
        replayed.push(python(&mount.dir.path().join("root")));
    }
    let (lazy, replayed, download, local) = (median(lazy), median(replayed), median(download), median(local));
    let stream = median(stream);
    println!(
        "start of Python, {count} chunks, each 20 ms late: {lazy:.2} s; in one stream {stream:.2} s: {:.2}; one by one {download:.2} s: {:.2}",
        lazy / stream,
        lazy / download
    );
    println!(
        "  with a profile {replayed:.2} s; locally {local:.2} s and the stream: {:.2}, and one by one: {:.2}",
        replayed / (local + stream),
        replayed / (local + download)
    );
}

async fn read() {
    let dir = TempDir::new().expect("a directory");
    let source = TempDir::new().expect("a directory");
    fs::write(source.path().join("long"), Dice::new(1).bytes(FILE_LEN)).expect("written");
    create(source.path().into(), "read.fl", &dir).await;
    let web = Web::serve(dir.path().join("chunks"), Duration::ZERO, Some(RATE));
    let (mut read, mut download) = (vec![], vec![]);
    for _ in 0..ROUND_COUNT {
        let mount = Mount::new(&dir.path().join("flists"), &format!("http://{}", web.addr), "off");
        web.asked();
        read.push(time(Command::new("cat").arg(mount.dir.path().join("read/long"))));
        download.push(web.download(&web.asked(), false));
    }
    #[allow(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
    let mib = FILE_LEN as f64 / MIB;
    let (read, download) = (mib / median(read), mib / median(download));
    println!("a file read in order: {read:.0} MiB/s; download at 1 Gbit/s {download:.0} MiB/s: {:.2}", read / download);
}

async fn list(name: &str) {
    let dir = TempDir::new().expect("a directory");
    let flists = dir.path().join("flists");
    fs::create_dir(&flists).expect("made");
    let url = format!("dir://{}", dir.path().join("chunks").display()).parse().expect("an address");
    let (stores, options) = (Arc::new(Stores::open(&[url]).expect("made")), CreateOptions::default());
    let mut making = Making::begin(Tree::default(), stores, &flists.join(name), &options).expect("begun");
    let about = About { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000 };
    let (content, len) = making.content(Box::pin(futures_util::stream::empty())).await.expect("empty");
    let part = |text: String| muxfs::Name::new(text.as_bytes()).expect("a name");
    for dir in 0..DIR_COUNT {
        for file in 0..IN_DIR_COUNT {
            let path = [part(format!("directory-{dir}")), part(format!("file-{file}"))];
            making.put(&path, about, What::File { len, content }).expect("put");
        }
    }
    making.finish(Facts::default()).await.expect("made");
    let (mut times, mut memory) = (vec![], 0.0f64);
    for _ in 0..ROUND_COUNT {
        let mount = Mount::new(&flists, "dir:///", "off");
        let mounted = mount.dir.path().join(Path::new(name).file_stem().expect("a name"));
        times.push(time(Command::new("ls").arg("-lR").arg(mounted)));
        memory = memory.max(mount.memory_mib());
    }
    let count = DIR_COUNT * (IN_DIR_COUNT + 1);
    println!("ls -lR of {count} nodes of {name}: {:.2} s; {memory:.0} MiB of memory", median(times));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(("--mount", arguments)) = arguments.split_first().map(|(first, rest)| (&**first, rest)) {
        return serve(arguments);
    }
    if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return skip("this machine has no /dev/fuse that this user can open");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match arguments.first() {
            Some(root) => start(Path::new(root)).await,
            None => skip("no root was named in which Python starts"),
        }
        read().await;
        list("list.fl").await;
        list("list.flist").await;
    });
}
