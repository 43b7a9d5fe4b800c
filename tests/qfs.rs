//! Goal: the QFS library as its users meet it, every refusal included, and nothing acknowledged is lost. Method: whole
//! namespaces through `MuxFs`; for crashes, the machine stops at every single call of the disk.

use std::sync::Arc;

use muxfs::{
    ErrorKind, FileKind, Mount, MuxFs, Prefix, QfsPath, Result, SecretKey, Source,
    block::{Mem, Segments, SegmentsOptions},
    dag::{Dag, DagOptions, Ipld},
    media::MemMedia,
    pins::Pins,
    testing::{
        self,
        fault::{Crash, CrashMedia},
        model::ModelFs,
    },
};

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("a prefix")
}

async fn namespace() -> MuxFs {
    let env = testing::env();
    let mut mux = MuxFs::new();
    let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("pins");
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    mux.mount(Mount::cas(prefix("ipfs"), dag, Arc::new(pins))).expect("mounts");
    mux.mount(Mount::location(prefix("local"), ModelFs::new(env.clone()), env)).expect("mounts");
    mux
}

#[tokio::test]
async fn a_file_is_put_opened_and_deleted_by_content_and_by_place() {
    let mux = namespace().await;
    for target in ["/ipfs", "/local/notes/hello.txt"] {
        let path = mux.put(target, &b"hello"[..]).await.expect("put");
        let file = mux.open(&path).await.expect("open");
        assert_eq!((file.info().kind, file.info().size, file.info().cid), (FileKind::File, 5, path.cid()));
        assert_eq!(file.read_at(1, 3).await.expect("read"), "ell");
        assert!(mux.has(&path).await.expect("has"));
        assert!(mux.delete(&path).await.expect("delete"));
        assert!(!mux.delete(&path).await.expect("delete again"));
    }
}

/// Every path that the specification refuses, with what each call says.
#[tokio::test]
async fn refusals() {
    use ErrorKind::{InvalidArgument, IsDir, NameTooLong, NotDir, NotFound};
    let mux = namespace().await;
    let cid = mux.put("/ipfs", &b"x"[..]).await.expect("put").parts.first().expect("a CID").to_string();
    mux.put("/local/file", &b"x"[..]).await.expect("put");
    let long = format!("/local/{}", "n".repeat(256));
    // open, put, delete: `None` where it is no error.
    let cases: Vec<(String, [Option<ErrorKind>; 3])> = vec![
        (String::new(), [Some(InvalidArgument); 3]),
        ("/".into(), [Some(InvalidArgument); 3]),
        ("local/file".into(), [Some(InvalidArgument); 3]),
        ("./local/file".into(), [Some(InvalidArgument); 3]),
        ("/local/".into(), [Some(InvalidArgument); 3]),
        ("/local//file".into(), [Some(InvalidArgument); 3]),
        ("/local/./file".into(), [Some(InvalidArgument); 3]),
        ("/local/../etc/passwd".into(), [Some(InvalidArgument); 3]),
        ("/local/a\0b".into(), [Some(InvalidArgument); 3]),
        ("/LOCAL/file".into(), [Some(InvalidArgument); 3]),
        ("/toolong/file".into(), [Some(InvalidArgument); 3]),
        (long, [Some(NameTooLong); 3]),
        ("/etc/passwd".into(), [Some(NotFound); 3]),
        (format!("/mem/{cid}"), [Some(NotFound); 3]),
        // A location-addressed store does not write cid-paths.
        (format!("/local/{cid}"), [Some(NotFound), Some(InvalidArgument), Some(InvalidArgument)]),
        (format!("/local/{cid}/a"), [Some(NotFound), Some(InvalidArgument), Some(InvalidArgument)]),
        ("/local".into(), [None, Some(InvalidArgument), Some(InvalidArgument)]),
        ("/local/file/x".into(), [Some(NotDir), Some(NotDir), None]),
        ("/local/absent".into(), [Some(NotFound), None, None]),
        // A content-addressed store knows /prefix/<cid>[/path] and nothing else.
        ("/ipfs/name".into(), [Some(InvalidArgument); 3]),
        (format!("/ipfs/name/{cid}"), [Some(InvalidArgument); 3]),
        (format!("/ipfs/{cid}x"), [Some(InvalidArgument); 3]),
        (format!("/ipfs/{}", cid.to_uppercase().replacen('B', "b", 1)), [Some(InvalidArgument); 3]),
        (format!("/ipfs/{cid}/below"), [Some(NotDir), Some(InvalidArgument), Some(InvalidArgument)]),
        ("/ipfs".into(), [None, None, Some(InvalidArgument)]),
        // `put` to a CID must hash to it.
        (format!("/ipfs/{cid}"), [None, Some(InvalidArgument), None]),
    ];
    for (path, expected) in cases {
        let got = [
            mux.open(&path).await.err().map(|error| error.kind()),
            mux.put(&path, &b"other content"[..]).await.err().map(|error| error.kind()),
            mux.delete(&path).await.err().map(|error| error.kind()),
        ];
        assert_eq!(got, expected, "{path:?}: open, put, delete");
    }
    mux.put("/local/dir/file", &b"x"[..]).await.expect("put");
    assert_eq!(mux.put("/local/dir", &b"x"[..]).await.expect_err("a directory").kind(), IsDir);
    assert!(mux.has("/local/../x").await.is_err() && !mux.has(format!("/ipfs/{cid}/below")).await.expect("has"));
}

/// A sealed file is the same file in whatever store: copied from one to another it opens with its key.
#[tokio::test]
async fn sealed_files_are_read_with_their_key_wherever_they_are() {
    let mux = namespace().await;
    let key = SecretKey::new([1; 32]);
    for target in ["/ipfs", "/local/sealed"] {
        let path = mux.put_encrypted(&key, target, &b"secret"[..]).await.expect("put");
        let sealed = mux.open(&path).await.expect("open").read_at(0, u32::MAX).await.expect("read");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        for copy in ["/ipfs", "/local/copy"] {
            let copy = mux.put(copy, sealed.clone()).await.expect("put");
            let opened = mux.open_encrypted(&key, &copy).await.expect("open");
            assert_eq!(opened.read_at(0, 99).await.expect("read"), "secret");
            let other = mux.open_encrypted(&SecretKey::new([2; 32]), &copy).await.expect_err("refused");
            assert_eq!(other.kind(), ErrorKind::BadKey);
        }
    }
}

/// A directory is a linked-data file, by content and by place.
#[tokio::test]
async fn directories_are_linked_data() {
    let mux = namespace().await;
    let one = mux.put("/ipfs", &b"1"[..]).await.expect("put");
    mux.put("/local/dir/one", &b"1"[..]).await.expect("put");
    for (dir, name, link) in [
        ("/ipfs", one.parts.first().expect("a CID").to_string(), Ipld::from(one.cid().expect("a CID"))),
        ("/local", "dir".to_owned(), Ipld::from("/local/dir")),
        ("/local/dir", "one".to_owned(), Ipld::from("/local/dir/one")),
    ] {
        let opened = mux.open(dir).await.expect("open");
        assert_eq!(
            (opened.info().kind, opened.read_at(0, 1).await.expect_err("no bytes").kind()),
            (FileKind::Dir, ErrorKind::IsDir)
        );
        assert_eq!(opened.linked_data().await.expect("links"), Some(Ipld::Map([(name, link)].into())), "{dir}");
    }
}

/// A machine with three disks; one `MuxFs` at a time runs on it.
struct Machine {
    data: Arc<CrashMedia>,
    index: Arc<CrashMedia>,
    pins: Arc<CrashMedia>,
}

impl Machine {
    fn new(crash: &Arc<Crash>) -> Self {
        let disk = || Arc::new(CrashMedia::new(crash.clone()));
        Self { data: disk(), index: disk(), pins: disk() }
    }

    fn restart(&self, seed: u64) -> Self {
        let again = |disk: &CrashMedia, seed| Arc::new(disk.restart(seed, Crash::never()));
        Self {
            data: again(&self.data, seed),
            index: again(&self.index, seed ^ 0x55),
            pins: again(&self.pins, seed ^ 0xaa),
        }
    }

    async fn run(&self) -> Result<MuxFs> {
        let segments =
            Segments::open(self.data.clone(), self.index.clone(), SegmentsOptions::default(), &muxfs::testing::env())
                .await?;
        let pins = Pins::open(self.pins.clone(), &muxfs::testing::env()).await?;
        let mut mux = MuxFs::new();
        let dag = Dag::new(Arc::new(segments), DagOptions { verified_len_max: 0, ..DagOptions::default() });
        mux.mount(Mount::cas(prefix("ipfs"), dag, Arc::new(pins)))?;
        Ok(mux)
    }
}

/// What a run was told is done.
#[derive(Default)]
struct Told {
    put: Vec<(QfsPath, Vec<u8>)>,
    deleted: Vec<QfsPath>,
}

async fn some_work(machine: &Machine, told: &mut Told) -> Result<()> {
    let mux = machine.run().await?;
    for i in 0..4_u32 {
        let content = vec![u8::try_from(i).unwrap_or_default(); 100 + 400_000 * usize::try_from(i % 2).unwrap_or(0)];
        let path = mux.put("/ipfs", content.clone()).await?;
        told.put.push((path.clone(), content));
        if i == 1 {
            // From the moment it is asked for, it may be gone.
            told.put.pop();
            mux.delete(&path).await?;
            told.deleted.push(path);
        }
    }
    mux.put("/ipfs", Source::LinkedData(Ipld::from("linked"))).await?;
    Ok(())
}

/// Stopped at any call of any disk, the store opens again with everything it acknowledged: what was put is pinned and
/// reads back, what was deleted is not pinned, and every pin there is has its content.
#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_crash() {
    let quiet = Crash::never();
    some_work(&Machine::new(&quiet), &mut Told::default()).await.expect("without a crash");
    let calls = quiet.calls();
    assert!(calls > 10, "there is something to stop at");
    for at in 0..calls {
        let crash = Crash::at(at);
        let machine = Machine::new(&crash);
        let mut told = Told::default();
        // It may also succeed: what happens in the background is not what was asked for.
        if let Err(error) = some_work(&machine, &mut told).await {
            assert!(crash.happened(), "at {at}, without a crash: {error:#}");
        }
        for seed in 0..4 {
            let mux =
                machine.restart(seed).run().await.unwrap_or_else(|error| panic!("at {at}, seed {seed}: {error:#}"));
            let links = mux.open("/ipfs").await.expect("open").linked_data().await.expect("pins");
            let Some(Ipld::Map(pins)) = links else { panic!("a map") };
            for (path, content) in &told.put {
                let cid = path.parts.first().expect("a CID").to_string();
                assert!(pins.contains_key(&cid), "at {at}, seed {seed}: the pin of {path} is lost");
                let file = mux.open(path).await.expect("open");
                let read = file.read_at(0, 1 << 20).await.expect("read");
                assert!(read == *content, "at {at}, seed {seed}: {path}");
            }
            for path in &told.deleted {
                let cid = path.parts.first().expect("a CID").to_string();
                assert!(!pins.contains_key(&cid), "at {at}, seed {seed}: {path} is back");
            }
            for cid in pins.keys() {
                let file = mux.open(format!("/ipfs/{cid}")).await.expect("a pin has its content");
                file.read_at(0, 1 << 20).await.expect("whole");
            }
        }
    }
}
