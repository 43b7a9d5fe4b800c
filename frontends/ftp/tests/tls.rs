//! Explicit TLS through suppaftp: what is under it, what is refused without it, and that a cut upload is seen.

mod raw;

use std::{path::Path, sync::Arc, time::Duration};

use muxfs_ftp::{Options, Tls};
use raw::{Raw, model, names, options, start};
use suppaftp::tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

/// A client that trusts the server's own certificate and nothing else.
fn connector(dir: &Path, old: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(dir.join("ftp-cert.pem")).expect("the server made it");
    roots.add(certificate).expect("is a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[if old { &TLS12 } else { &TLS13 }])
        .expect("the versions exist")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn enter(address: std::net::SocketAddr, dir: &Path, old: bool) -> AsyncRustlsFtpStream {
    let stream = AsyncRustlsFtpStream::connect(address).await.expect("connects");
    let connector = AsyncRustlsConnector::from(connector(dir, old));
    let mut stream = stream.into_secure(connector, "localhost").await.expect("the handshake succeeds");
    stream.set_mode(suppaftp::Mode::ExtendedPassive);
    stream.login("ann", "x").await.expect("logs in");
    stream.transfer_type(suppaftp::types::FileType::Binary).await.expect("bytes are bytes");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_under_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let fs = model().await;
    let tls = Some(Tls::SelfSigned { dir: dir.path().into() });
    let server = start(fs.clone(), Options { tls, tls_required: true, ..options() }).await;
    let all = async {
        for old in [true, false] {
            let mut client = enter(server.local_addr(), dir.path(), old).await;
            let content: Vec<u8> = (0..3_000_000u32).map(|index| index.to_le_bytes()[1]).collect();
            client.put_file("f", &mut content.as_slice()).await.expect("puts");
            client.append_file("f", &mut b"more".as_slice()).await.expect("appends");
            let mut back = Vec::new();
            let mut download = client.retr_as_stream("f").await.expect("gets");
            download.read_to_end(&mut back).await.expect("reads to the close_notify");
            download.finish().await.expect("ends well");
            assert!(back == [content.as_slice(), b"more"].concat(), "other bytes came back");
            assert_eq!(client.nlst(None).await.expect("lists"), ["f"]);
            client.quit().await.expect("quits");
        }
    };
    // The client does not flush what it writes. The runtime, which has a task yield now and then, may have TLS keep a
    // command back for the next write, and that one never comes.
    tokio::task::unconstrained(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_without_close_notify_does_not_appear() {
    let dir = tempfile::tempdir().expect("a directory");
    let fs = model().await;
    let server =
        start(fs.clone(), Options { tls: Some(Tls::SelfSigned { dir: dir.path().into() }), ..options() }).await;
    let mut client = enter(server.local_addr(), dir.path(), false).await;
    let mut upload = client.put_with_stream("f").await.expect("begins");
    upload.write_all(b"half of it").await.expect("sends");
    upload.flush().await.expect("sends");
    // The TCP connection ends well, the control connection stays: only TLS knows that this is not all.
    drop(upload);
    let resumable = async {
        while client.size("f").await.ok() != Some(10) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), resumable).await.expect("what arrived is kept");
    assert!(client.nlst(None).await.expect("lists").is_empty());
    client.resume_transfer(10).await.expect("is told");
    client.put_file("f", &mut b", and the rest".as_slice()).await.expect("goes on");
    assert_eq!(client.size("f").await.expect("is there"), 24);
    assert_eq!(names(&fs).await, ["f"]);
}

#[tokio::test]
async fn what_is_required_is_refused_in_clear() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = Some(Tls::SelfSigned { dir: dir.path().into() });
    let server = start(model().await, Options { tls, tls_required: true, ..options() }).await;
    let mut raw = Raw::connect(server.local_addr()).await;
    raw.want("USER ann", 530).await;
    raw.want("PROT P", 503).await;
    raw.want("AUTH KERBEROS", 504).await;
    assert!(raw.want("FEAT", 211).await.contains(" AUTH TLS\r\n"));
    let plain = start(model().await, options()).await;
    let mut raw = Raw::connect(plain.local_addr()).await;
    raw.want("AUTH TLS", 502).await;
    assert!(!raw.want("FEAT", 211).await.contains("AUTH"));
}

/// Commands that somebody slips in behind AUTH, in clear, are not obeyed under TLS.
#[tokio::test]
async fn what_came_in_clear_is_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = Some(Tls::SelfSigned { dir: dir.path().into() });
    let server = start(model().await, Options { tls, tls_required: true, ..options() }).await;
    let mut raw = Raw::connect(server.local_addr()).await;
    raw.send(b"AUTH TLS\r\nFEAT\r\n").await;
    assert_eq!(raw.reply().await.0, 234);
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = connector(dir.path(), false).connect(name, raw.control.into_inner()).await.expect("shakes hands");
    let mut stream = BufReader::new(stream);
    let mut ask = async |command: &str| {
        stream.write_all(command.as_bytes()).await.expect("sends");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("reads");
        line.get(..3).unwrap_or_default().to_owned()
    };
    assert_eq!(ask("NOOP\r\n").await, "200", "the first reply is to the first command under TLS");
    assert_eq!(ask("USER ann\r\n").await, "331");
    assert_eq!(ask("PASS x\r\n").await, "230");
    assert_eq!(ask("EPSV\r\n").await, "229");
    assert_eq!(ask("LIST\r\n").await, "521", "data in clear are refused too");
    assert_eq!(ask("PROT P\r\n").await, "503");
    assert_eq!(ask("PBSZ 0\r\n").await, "200");
    assert_eq!(ask("PROT C\r\n").await, "534");
    assert_eq!(ask("PROT P\r\n").await, "200");
    assert_eq!(ask("CCC\r\n").await, "533");
    assert_eq!(ask("AUTH TLS\r\n").await, "503");
}

/// A handshake that fails on a data connection is answered; libunftp's ended its task without a word.
#[tokio::test]
async fn nonsense_instead_of_a_handshake_is_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = Some(Tls::SelfSigned { dir: dir.path().into() });
    let server = start(model().await, Options { tls, ..options() }).await;
    let mut raw = Raw::connect(server.local_addr()).await;
    raw.want("AUTH TLS", 234).await;
    raw.send(b"no handshake at all\r\n\r\n").await;
    assert_eq!(raw.try_reply().await, None, "the connection is closed");
    let mut client = enter(server.local_addr(), dir.path(), false).await;
    let reply = client.custom_command("EPSV", &[suppaftp::Status::ExtendedPassiveMode]).await.expect("a port");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let port: u16 = text.split('|').nth(3).expect("a port").parse().expect("a number");
    let mut data = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    client.custom_command("STOR f", &[suppaftp::Status::AboutToSend]).await.expect("150");
    data.write_all(b"no handshake either, but long enough to look at").await.expect("sends");
    let error = client.read_response(suppaftp::Status::ClosingDataConnection).await.expect_err("425");
    assert!(error.to_string().contains("425"), "{error}");
    client.noop().await.expect("the session goes on");
}
