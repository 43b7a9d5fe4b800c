//! Clients that people use, driven against a host directory: curl, lftp and Python's ftplib.
//!
//! Each is skipped, loudly, where it is not installed.

mod raw;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use muxfs_ftp::{Options, Server, Tls};
use muxfs_local::{LocalOptions, LocalVfs};
use muxfs_users::user_line;
use tokio::process::Command;

/// A server of a host directory, and room for the client beside it.
struct Bed {
    dir: tempfile::TempDir,
    server: Server,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("root")).expect("a directory");
        std::fs::create_dir(dir.path().join("client")).expect("a directory");
        let local = LocalVfs::open(&dir.path().join("root"), &dir.path().join("handles"), LocalOptions::default());
        let tls = Some(Tls::SelfSigned { dir: dir.path().join("tls") });
        let env = Options::default().env;
        let users = dir.path().join("users.toml");
        let user = user_line("ann", "x", "/", false, &env).expect("a user");
        std::fs::write(&users, format!("version = 1\n{user}")).expect("writes");
        let options = Options { users: Some(users), tls, env, ..raw::options() };
        let server = raw::start(local.expect("opens"), options).await;
        Self { dir, server }
    }

    fn client(&self, name: &str) -> PathBuf {
        self.dir.path().join("client").join(name)
    }

    fn served(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    fn url(&self, path: &str) -> String {
        format!("ftp://{}/{path}", self.server.local_addr())
    }
}

/// Whether a program is there; says so if not.
async fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let there = there.is_ok_and(|status| status.success());
    if !there {
        muxfs::testing::skip(format_args!("{program} is not installed"));
    }
    there
}

/// Runs a program to a good end and returns what it printed.
async fn run<S: AsRef<OsStr> + Sync>(program: &str, args: &[S]) -> String {
    let output = Command::new(program).args(args).env("HOME", "/nonexistent").output().await.expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{text}\n{error}", output.status);
    text
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| index.to_le_bytes().iter().fold(index.to_le_bytes()[0], |a, b| a.rotate_left(3) ^ b)).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_moves_files_in_clear_and_under_tls() {
    if !has("curl").await {
        return;
    }
    let bed = Bed::new().await;
    let (source, target) = (bed.client("source"), bed.client("target"));
    let bytes = content(5_000_000);
    std::fs::write(&source, &bytes).expect("writes");
    for (index, extra) in
        [&["--disable-epsv"][..], &["--ssl-reqd", "--insecure"], &["--ftp-port", "127.0.0.1"]].iter().enumerate()
    {
        let url = bed.url(&format!("new/dir{index}/a%20file"));
        let base = ["-sS", "--user", "ann:x"].iter().chain(extra.iter()).copied();
        let with = |more: &[&str]| base.clone().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
        run("curl", &with(&["--ftp-create-dirs", "-T", text(&source), &url])).await;
        assert!(
            std::fs::read(bed.served(&format!("new/dir{index}/a file"))).expect("is there") == bytes,
            "other bytes"
        );
        run("curl", &with(&["-o", text(&target), &url])).await;
        assert!(std::fs::read(&target).expect("is there") == bytes, "other bytes");
        run("curl", &with(&["-r", "1000000-1999999", "-o", text(&target), &url])).await;
        assert!(std::fs::read(&target).expect("is there") == bytes[1_000_000..2_000_000], "other bytes");
        std::fs::write(&target, &bytes[..3_000_000]).expect("writes");
        run("curl", &with(&["-C", "-", "-o", text(&target), &url])).await;
        assert!(std::fs::read(&target).expect("is there") == bytes, "other bytes");
        std::fs::write(bed.served("half"), &bytes[..2_000_000]).expect("writes");
        run("curl", &with(&["-C", "-", "-T", text(&source), &bed.url("half")])).await;
        assert!(std::fs::read(bed.served("half")).expect("is there") == bytes, "other bytes");
        run("curl", &with(&["-a", "-T", text(&source), &bed.url("twice")])).await;
        let listing = run("curl", &with(&[&bed.url(&format!("new/dir{index}/"))])).await;
        assert!(listing.ends_with(" a file\r\n") || listing.ends_with(" a file\n"), "{listing}");
        let head = run("curl", &with(&["-I", &url])).await;
        assert!(head.contains("Content-Length: 5000000"), "{head}");
    }
    assert!(std::fs::read(bed.served("twice")).expect("is there") == bytes.repeat(3), "other bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lftp_mirrors_a_tree_both_ways() {
    if !has("lftp").await {
        return;
    }
    let bed = Bed::new().await;
    let tree = bed.client("tree");
    for index in 0..60 {
        let dir = tree.join(format!("d{}", index % 7));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join(format!("file {index} ü")), content(index * 997)).expect("writes");
    }
    std::fs::write(tree.join("-dash"), b"-").expect("writes");
    std::fs::write(tree.join(".hidden"), b".").expect("writes");
    let port = bed.server.local_addr().port().to_string();
    for (index, settings) in
        ["set ftp:ssl-allow no", "set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:verify-certificate no"]
            .iter()
            .enumerate()
    {
        for sync in ["yes", "no"] {
            let back = bed.client(&format!("back{index}{sync}"));
            let script = format!(
                "set net:max-retries 2; set net:timeout 60; set cmd:fail-exit yes; {settings}; set ftp:sync-mode {sync}; \
                 mirror -R -P 3 {tree} up{index}{sync}; mirror -P 3 up{index}{sync} {back}; \
                 mv up{index}{sync} moved; chmod 600 moved/-dash; rm -r moved; quit",
                tree = text(&tree),
                back = text(&back),
            );
            run("lftp", &["-u", "ann,x", "-p", &port, "-e", &script, "127.0.0.1"]).await;
            run("diff", &["-r", text(&tree), text(&back)]).await;
            assert!(!bed.served("moved").exists());
        }
    }
}

/// What ftplib is asked to do: all its calls, the odd names, a break and a resumption.
const FTPLIB: &str = r#"
import ftplib, io, sys
port = int(sys.argv[1])
for tls in (False, True):
    f = ftplib.FTP_TLS() if tls else ftplib.FTP()
    f.connect("127.0.0.1", port, timeout=60)
    f.login("ann", "x")
    if tls: f.prot_p()
    data = bytes(range(256)) * 8000
    base = "py%d" % tls
    f.mkd(base); f.cwd(base); assert f.pwd() == "/" + base
    f.storbinary("STOR a \"b\" ü", io.BytesIO(data))
    assert f.size("a \"b\" ü") == len(data)
    out = io.BytesIO(); f.retrbinary("RETR a \"b\" ü", out.write, rest=1000); assert out.getvalue() == data[1000:]
    f.storbinary("STOR c", io.BytesIO(data[:5000])); f.storbinary("STOR c", io.BytesIO(data[5000:]), rest=5000)
    f.storbinary("APPE c", io.BytesIO(b"tail"))
    out = io.BytesIO(); f.retrbinary("RETR c", out.write); assert out.getvalue() == data + b"tail"
    facts = dict(f.mlsd()); assert facts["c"]["size"] == str(len(data) + 4) and facts["c"]["unix.mode"] == "0644", facts
    assert sorted(f.nlst()) == ["a \"b\" ü", "c"]
    f.mkd("q \"q\""); f.cwd("q \"q\""); assert f.pwd() == "/" + base + "/q \"q\"", f.pwd(); f.cwd("..")
    f.rename("c", "d"); f.delete("d"); f.rmd("q \"q\"")
    f.sendcmd("MFMT 20200102030405 a \"b\" ü"); assert f.sendcmd("MDTM a \"b\" ü") == "213 20200102030405"
    if not tls:
        s = f.transfercmd("STOR cut"); s.sendall(b"z" * 100000)
        assert f.abort()[:3] == "426"; s.close(); assert f.getmultiline()[:3] == "226"
        assert "cut" not in f.nlst()
    f.set_pasv(False); lines = []; f.retrlines("LIST", lines.append); assert len(lines) == 1, lines
    f.quit()
print("ok")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ftplib_does_all_it_can() {
    if !has("python3").await {
        return;
    }
    let bed = Bed::new().await;
    let port = bed.server.local_addr().port().to_string();
    assert_eq!(run("python3", &["-c", FTPLIB, &port]).await, "ok\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_check_passes() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("MUXFS_SHARED").map_or(beside, PathBuf::from);
    let check = shared.join("tools/ftp/ftpcheck.py");
    if !check.is_file() {
        muxfs::testing::skip(format_args!("{} is not there", check.display()));
        return;
    }
    if !has("python3").await {
        return;
    }
    let bed = Bed::new().await;
    let port = bed.server.local_addr().port().to_string();
    let report = run("python3", &[text(&check), &port, "ann", "x"]).await;
    assert!(report.ends_with("ftpcheck: 0 failed\n"), "{report}");
}
