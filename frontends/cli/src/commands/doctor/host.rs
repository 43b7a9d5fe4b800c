//! What the host tells: disk, permissions, limits, clock, ports, and the files as files.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::process::{Resource, geteuid, getrlimit};

use super::{Finding, Findings};
use crate::{
    commands::{list::utc, verify_all::last_done},
    config::{Config, Mount, ZstorMount},
    data_dir::content_dir,
    output::{ago, bytes, count},
    vault::VaultStore,
    zstor,
};

/// Below so much free space a commit may fail: a warning, and an error.
const FREE_LEN_LOW: u64 = 2 << 30;
const FREE_LEN_MIN: u64 = 64 << 20;
/// Below so many free inodes.
const FREE_INODES_LOW: u64 = 10_000;
/// Connections and cached files need one each.
const OPEN_FILES_LOW: u64 = 4096;
const OPEN_FILES_MIN: u64 = 256;
/// 2026-01-01: no clock of a machine that runs this program is right before.
const CLOCK_MIN: Duration = Duration::from_hours(490_896);
/// How long to wait for a port of this machine to answer.
const CONNECT_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn look(config: &Config, served: bool, out: &Findings) {
    for finding in clock().into_iter().chain(limits()).chain(ports(config, served)) {
        out.tell(finding).await;
    }
    if fs::symlink_metadata(&config.data).is_ok() {
        for finding in disk(&config.data).into_iter().chain(private(config)).chain(segments(config)) {
            out.tell(finding).await;
        }
        for mount in config.mount.iter().filter(|mount| matches!(mount, Mount::Ipfs { .. } | Mount::Overlay(_))) {
            out.tell(verified(&config.data, mount).await).await;
        }
    }
}

fn clock() -> Vec<Finding> {
    let advice = "set the clock, or run a time service: times of files and commits come from it";
    vec![match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(now) if now >= CLOCK_MIN => {
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            Finding::ok("clock", "-", format!("it is {}", utc((now, 0))))
        }
        _ => Finding::error("clock", "-", "the clock is before 2026", advice),
    }]
}

fn limits() -> Vec<Finding> {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let found = format!("{most} at most");
    let advice = "raise it: ulimit -Hn, or LimitNOFILE= of the service";
    vec![match most {
        ..OPEN_FILES_MIN => Finding::error("limits", "open files", found, advice),
        OPEN_FILES_MIN..OPEN_FILES_LOW => Finding::warning("limits", "open files", found, advice),
        _ => Finding::ok("limits", "open files", found),
    }]
}

fn ports(config: &Config, served: bool) -> Vec<Finding> {
    let frontends = [("nfs", config.nfs.listen), ("ftp", config.ftp.listen), ("metrics", config.metrics.listen)];
    let listening = frontends.into_iter().filter_map(|(name, listen)| Some((name, listen.0?)));
    listening.map(|(name, addr)| port(name, addr, served)).collect()
}

fn port(name: &str, addr: SocketAddr, served: bool) -> Finding {
    let place = format!("{name} {addr}");
    let other = format!("give --{name} another port (0 takes a free one), or --{name} off");
    if addr.port() == 0 {
        return Finding::ok("ports", &place, "any free port");
    }
    if served {
        return match TcpStream::connect_timeout(&addr, CONNECT_WAIT) {
            Ok(_) => Finding::ok("ports", &place, "somebody listens, as it is to be while a server runs"),
            // It may have been started with other flags.
            Err(error) => Finding::warning(
                "ports",
                &place,
                format!("a server runs, and nobody listens there: {error}"),
                "see what the server said when it started: it may have been given another address",
            ),
        };
    }
    match TcpListener::bind(addr) {
        Ok(_) => Finding::ok("ports", &place, "free"),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Finding::warning("ports", &place, "another program listens there", other)
        }
        Err(error) => Finding::error("ports", &place, error.to_string(), other),
    }
}

fn disk(data: &Path) -> Vec<Finding> {
    let stat = match rustix::fs::statvfs(data) {
        Ok(stat) => stat,
        Err(error) => {
            return vec![Finding::error(
                "disk",
                &data.display(),
                error.to_string(),
                "is the disk mounted, and readable?",
            )];
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} of {} free", bytes(free), bytes(stat.f_blocks.saturating_mul(stat.f_frsize)));
    let advice = "make room: when the disk is full, nothing can be written, and no commit made";
    let mut findings = vec![match free {
        ..FREE_LEN_MIN => Finding::error("disk", &data.display(), found, advice),
        FREE_LEN_MIN..FREE_LEN_LOW => Finding::warning("disk", &data.display(), found, advice),
        _ => Finding::ok("disk", &data.display(), found),
    }];
    // Some file systems have as many as they need, and count none.
    if stat.f_files > 0 {
        let found = format!("{} of {} inodes free", count(stat.f_favail), count(stat.f_files));
        let advice = "remove small files: a segment, and a file below /local, needs an inode";
        findings.push(match stat.f_favail {
            ..FREE_INODES_LOW => Finding::warning("disk", &data.display(), found, advice),
            _ => Finding::ok("disk", &data.display(), found),
        });
    }
    findings
}

/// What only the owner may read, or write.
fn private(config: &Config) -> Vec<Finding> {
    let data = &config.data;
    let in_data = ["", "lock", "control", "mounts", "handles", "slots", "verify", "zstor", "ftp", "ftp/key.pem"];
    // FTP and HTTP may read one.
    let of_http = config.http.users.as_ref().filter(|users| config.ftp.users.as_ref() != Some(users));
    let named = [config.ftp.users.as_ref(), of_http, config.ftp.tls_key.as_ref()];
    let keys = config.mount.iter().filter_map(|mount| mount.key_file(data));
    let paths = in_data.iter().map(|name| data.join(name)).chain(named.into_iter().flatten().cloned()).chain(keys);
    let mut findings: Vec<Finding> = paths.filter_map(|path| permissions(&path)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("secrets", &data.display(), "only their owner can read them"));
    }
    findings
}

fn permissions(path: &Path) -> Option<Finding> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(Finding::error(
                "secrets",
                &path.display(),
                error.to_string(),
                "see who owns it and the way to it",
            ));
        }
    };
    let (own, mode) = (geteuid().as_raw(), metadata.permissions().mode() & 0o777);
    if own != 0 && metadata.uid() != own {
        let found = format!("it belongs to uid {}, and this is uid {own}", metadata.uid());
        return Some(Finding::warning("secrets", &path.display(), found, "run muxfs as its owner, or chown it"));
    }
    let (of_others, writable) = (mode & 0o077, mode & 0o022 != 0);
    if of_others == 0 {
        return None;
    }
    let safe = if metadata.is_dir() { "700" } else { "600" };
    let found = format!("its mode is {mode:03o}: others can get at it");
    let advice = format!("chmod {safe} {}", path.display());
    Some(if writable {
        Finding::error("secrets", &path.display(), found, advice)
    } else {
        Finding::warning("secrets", &path.display(), found, advice)
    })
}

/// The files of logs: which there are, of which format, and what does not belong there.
fn segments(config: &Config) -> Vec<Finding> {
    let dirs = config.mount.iter().flat_map(|mount| {
        let dir = content_dir(&config.data, mount.prefix());
        let besides = ["pins", "journal", "heads"].map(|part| dir.join(part));
        let blocks = |dir: &Path| ["blocks", "index"].map(|part| dir.join(part));
        match mount {
            Mount::Mem { .. } | Mount::Local { .. } | Mount::Flist(_) => Vec::new(),
            Mount::S3(_) => vec![dir.join("pins")],
            Mount::Sqlite(_) | Mount::Redis(_) => vec![dir.join("pins"), dir.join("journal")],
            Mount::Vault(mount) => {
                let below = match mount.place(&config.data) {
                    VaultStore::Dir(dir) => ["blocks", "index", "heads"].map(|part| dir.join(part)).to_vec(),
                    VaultStore::Zstor(nodes) => shards(config, &nodes.mount(mount.prefix)),
                    VaultStore::Sqlite(_) | VaultStore::Redis(_) | VaultStore::S3(_) => Vec::new(),
                };
                ["pins", "memory"].map(|part| dir.join(part)).into_iter().chain(below).collect()
            }
            Mount::Ipfs { .. } | Mount::Overlay(_) => blocks(&dir).into_iter().chain(besides).collect(),
            Mount::Zstor(zstor) => shards(config, zstor).into_iter().chain(besides).collect(),
        }
    });
    let dirs = dirs.chain([config.data.join("slots")]);
    dirs.filter(|dir| dir.exists()).flat_map(|dir| log_files(&dir)).collect()
}

/// Where the nodes of a store have logs on this machine.
fn shards(config: &Config, mount: &ZstorMount) -> Vec<PathBuf> {
    let nodes = zstor::nodes(&config.data, mount);
    let dirs = nodes.iter().filter_map(|node| node.place.dir());
    dirs.flat_map(|dir| ["blocks", "index"].map(|part| dir.join(part))).collect()
}

fn log_files(dir: &Path) -> Vec<Finding> {
    let (mut findings, mut files, mut len) = (Vec::new(), 0, 0);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            return vec![Finding::error("files", &dir.display(), error.to_string(), "see who may read it")];
        }
    };
    let mut formats = std::collections::BTreeSet::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_segment = name.to_str().is_some_and(|name| {
            name.strip_suffix(".seg")
                .is_some_and(|digits| digits.len() == 16 && u64::from_str_radix(digits, 16).is_ok())
        });
        if !is_segment {
            let advice = "move it away: the data directory is for muxfs alone";
            findings.push(Finding::warning("files", &path.display(), "it is no file of muxfs", advice));
            continue;
        }
        files += 1;
        len += entry.metadata().map_or(0, |metadata| metadata.len());
        match format_of(&path) {
            Ok(format) => formats.extend(format),
            Err(error) => {
                let advice = "see who may read it, and whether the disk is well (dmesg, smartctl)";
                findings.push(Finding::error("files", &path.display(), error.to_string(), advice));
            }
        }
    }
    let formats: Vec<String> = formats.into_iter().collect();
    let formats = if formats.is_empty() { String::new() } else { format!(" ({})", formats.join(", ")) };
    let found = format!("{} files, {}{formats}", count(files), bytes(len));
    findings.push(Finding::ok("files", &dir.display(), found));
    findings
}

/// What a file says it is; `None` for one that is empty, or says nothing that is known.
fn format_of(path: &Path) -> io::Result<Option<String>> {
    let mut front = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, 10), &mut front)?;
    let Some((magic, version)) = front.split_first_chunk::<8>() else { return Ok(None) };
    let Ok(version) = version.try_into().map(u16::from_le_bytes) else { return Ok(None) };
    let known = magic.starts_with(b"muxfs");
    Ok(known.then(|| format!("{} {version}", magic.escape_ascii())))
}

async fn verified(data: &Path, mount: &Mount) -> Finding {
    let place = format!("/{}", mount.prefix());
    match last_done(data, mount.prefix()).await {
        Ok(Some((ended, 0))) => Finding::ok("verify", &place, format!("all was there and whole {}", ago(ended))),
        Ok(Some((ended, bad))) => {
            let found = format!("{} blocks or roots were bad {}", count(bad), ago(ended));
            Finding::error("verify", &place, found, "muxfs verify --all names them; put their content again")
        }
        Ok(None) => Finding::ok("verify", &place, "never to its end: muxfs verify --all re-hashes everything"),
        Err(error) => Finding::error("verify", &place, format!("{error:#}"), "use the newer program that wrote it"),
    }
}
