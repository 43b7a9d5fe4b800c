//! How fast an flist is made, beside rfs or the limit of the machine: 100 files of 1 MiB of noise, and a root.
//!
//! `cargo bench -p muxfs-flist --bench create -- [ROOT]`; no root is packed where none is named. `MUXFS_BENCH_RFS` names the
//! program of rfs, which then packs the same; without it the limit is what two hashes, snappy and AES-256-GCM take on each
//! core for the same chunks, and the disk. Medians of five; everything is written below the directory for temporary files.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blake2b_simd::{
    Params,
    many::{HashManyJob, hash_many},
};
use muxfs::testing::fault::Dice;
use muxfs_flist::write::{self, CreateOptions, Report, Source, Stores};
use tempfile::TempDir;

const FILE_COUNT: usize = 100;
const FILE_LEN: usize = 1 << 20;
const CHUNK_LEN: usize = 512 << 10;
const ROUND_COUNT: usize = 5;
const MIB: f64 = 1_048_576.0;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

fn hashes(inputs: &[impl AsRef<[u8]>]) -> Vec<[u8; 32]> {
    let mut params = Params::new();
    params.hash_length(32);
    let mut jobs: Vec<_> = inputs.iter().map(|input| HashManyJob::new(&params, input.as_ref())).collect();
    hash_many(&mut jobs);
    jobs.iter().map(|job| *job.to_hash().as_bytes().first_chunk().expect("64 bytes")).collect()
}

/// What all chunks of `bytes` cost without anything around them, on each core, four at a time.
fn limit(bytes: &[u8]) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_LEN).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for part in chunks.chunks(chunks.len().div_ceil(cores)) {
            scope.spawn(move || {
                for chunks in part.chunks(4) {
                    let seal = |(chunk, key): (&&[u8], [u8; 32])| {
                        let mut sealed = snap::raw::Encoder::new().compress_vec(chunk).expect("short");
                        let nonce = Nonce::assume_unique_for_key(*key.first_chunk().expect("a nonce"));
                        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes"));
                        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed);
                        sealed.extend(tag.expect("short").as_ref());
                        sealed
                    };
                    let sealed: Vec<Vec<u8>> = chunks.iter().zip(hashes(chunks)).map(seal).collect();
                    std::hint::black_box(hashes(&sealed));
                }
            });
        }
    });
    began.elapsed()
}

async fn create(source: &Path, name: &str, dir: &TempDir) -> (Duration, Report) {
    let url = format!("dir://{}", dir.path().join("chunks").display()).parse().expect("an address");
    let stores = Arc::new(Stores::open(&[url]).expect("made"));
    let began = Instant::now();
    let made =
        write::create(Source::Dir(source.into()), stores, &dir.path().join(name), CreateOptions::default()).await;
    (began.elapsed(), made.expect("made"))
}

fn rfs(program: &std::ffi::OsStr, source: &Path, dir: &TempDir) -> (Duration, u64) {
    let target = dir.path().join("made.fl");
    let store = format!("dir://{}", dir.path().join("chunks").display());
    let began = Instant::now();
    let packed = Command::new(program)
        .args(["pack", "-m"])
        .arg(&target)
        .args(["-s", &store])
        .arg(source)
        .stdout(Stdio::null())
        .status();
    assert!(packed.expect("it runs").success(), "rfs pack fails");
    (began.elapsed(), fs::metadata(&target).expect("made").len())
}

#[allow(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
async fn measure(what: &str, source: &Path) {
    let (mut fl, mut flist, mut beside, mut report, mut beside_len) = (vec![], vec![], vec![], Report::default(), None);
    // What is removed while others are made costs those.
    let dirs: Vec<TempDir> = (0..3 * ROUND_COUNT).map(|_| tempfile::tempdir().expect("a directory")).collect();
    for dirs in dirs.chunks(3) {
        let [of_fl, of_flist, of_rfs] = dirs else { unreachable!("they are three") };
        let (time, made) = create(source, "made.fl", of_fl).await;
        fl.push(time);
        report = made;
        flist.push(create(source, "made.flist", of_flist).await.0);
        match std::env::var_os("MUXFS_BENCH_RFS") {
            Some(program) => {
                let (time, len) = rfs(&program, source, of_rfs);
                beside.push(time);
                beside_len = Some(len);
            }
            None => beside.push(limit(&Dice::new(7).bytes(FILE_COUNT * FILE_LEN))),
        }
    }
    let mib = report.bytes as f64 / MIB;
    let (fl, flist, beside) = (mib / median(fl), mib / median(flist), median(beside));
    println!(
        "{what}: {} nodes, {mib:.0} MiB; .fl {fl:.0} MiB/s, {} bytes; .flist {flist:.0} MiB/s",
        report.nodes, report.len
    );
    if let Some(len) = beside_len {
        let rate = mib / beside;
        println!(
            "  rfs pack {rate:.0} MiB/s, {len} bytes: {:.2} of its speed, {:.2} of its length",
            fl / rate,
            report.len as f64 / len as f64
        );
    } else {
        let rate = (FILE_COUNT * FILE_LEN) as f64 / MIB / beside;
        println!("  hashing and sealing alone {rate:.0} MiB/s: {:.2} of it", fl / rate);
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut dice = Dice::new(1);
        for number in 0..FILE_COUNT {
            fs::write(dir.path().join(format!("{number}")), dice.bytes(FILE_LEN)).expect("written");
        }
        measure("100 files of 1 MiB", dir.path()).await;
        if let Some(root) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
            measure(&root, Path::new(&root)).await;
        }
    });
}
