//! Explicit TLS: the certificate, given or our own, and what is offered with it. RFC 4217.
//!
//! TLS 1.2 and 1.3. No tickets are sent in 1.3: a client that only uploads never reads them, and closing a socket with
//! unread bytes resets the connection under the data's tail.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{Error, ErrorKind, Result};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};

use crate::Tls;

const CERTIFICATE_FILE: &str = "ftp-cert.pem";
const KEY_FILE: &str = "ftp-key.pem";

fn failed(path: &Path, cause: impl Into<muxfs::BoxError>) -> Error {
    Error::new(ErrorKind::InvalidArgument, "ftp.tls").at(path.display()).because(cause)
}

fn io_failed(path: &Path, cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "ftp.tls").at(path.display()).because(cause)
}

/// Reads, or makes, the certificate.
pub(crate) fn config(tls: &Tls) -> Result<Arc<ServerConfig>> {
    let (certificate, key) = match tls {
        Tls::Files { cert, key } => (cert.clone(), key.clone()),
        Tls::SelfSigned { dir } => self_signed(dir)?,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect)
        .map_err(|error| failed(&certificate, error.to_string()))?;
    let Some(own) = chain.first() else { return Err(failed(&certificate, "the file holds no certificate")) };
    let digest = Sha256::digest(own);
    let fingerprint: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    tracing::info!(certificate = %certificate.display(), sha256 = fingerprint.join(":"), "FTP offers TLS");
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| failed(&key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| failed(&certificate, error))?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn self_signed(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
    // The key is written first: a start that was cut short leaves a key without certificate, and both are made anew.
    if certificate.exists() {
        return Ok((certificate, key));
    }
    fs::create_dir_all(dir).map_err(|error| io_failed(dir, error))?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()])
        .map_err(|error| Error::new(ErrorKind::Internal, "ftp.tls").because(error))?;
    write(&key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write(&certificate, made.cert.pem().as_bytes(), 0o644)?;
    Ok((certificate, key))
}

/// Writes a file whole or not at all, with its mode from the first byte on.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let half = path.with_extension("new");
    let attempt = || {
        let removed = fs::remove_file(&half);
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&half)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    attempt().map_err(|error| io_failed(path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_of_our_own_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let tls = Tls::SelfSigned { dir: dir.path().join("tls") };
        config(&tls).expect("makes one");
        let (certificate, key) = self_signed(&dir.path().join("tls")).expect("is there");
        let first = fs::read(&certificate).expect("reads");
        assert_eq!(fs::metadata(&key).expect("is there").permissions().mode() & 0o777, 0o600);
        config(&tls).expect("takes it again");
        assert_eq!(fs::read(&certificate).expect("reads"), first);
    }

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let bad = dir.path().join("bad.pem");
        fs::write(&bad, "no PEM").expect("writes");
        let Err(error) = config(&Tls::Files { cert: bad.clone(), key: bad.clone() }) else {
            panic!("took a file without certificate")
        };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("bad.pem"), "{error}");
        let Err(error) = config(&Tls::Files { cert: dir.path().join("none"), key: bad }) else {
            panic!("took an absent file")
        };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
