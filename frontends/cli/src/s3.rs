//! S3: its part of the configuration, its server, and the file of its keys.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use muxfs::{
    Error, ErrorKind, Name, Result,
    path::QfsPath,
    vfs::{Fsid, posix::Caller},
};
use muxfs_s3_serve::{Key, Keys, Options, Server};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::{
    args::{self, S3Key, S3KeyAdd},
    commands::{put::host, serve::connect_host},
    config::{Config, Listen},
    data_dir::private_dir,
    host_file::{Editing, Mode, read_password_file, replace},
    instance::{self, Instance},
    output::Output,
};

/// How often a server looks whether there are other keys.
const KEYS_POLL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct S3 {
    pub(crate) listen: Listen,
    /// The directory whose directories are the buckets; the default mount where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
    /// The file of the keys; `DATA/s3/keys.toml` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<PathBuf>,
    /// What clients are told where they ask for a region.
    pub(crate) region: String,
}

impl Default for S3 {
    fn default() -> Self {
        Self { listen: Listen(None), root: None, keys: None, region: Options::default().region }
    }
}

/// A server, and who looks after its keys.
pub(crate) struct Serving {
    server: Server,
    looking: JoinHandle<()>,
}

impl Serving {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub(crate) async fn shutdown(self) {
        self.looking.abort();
        self.server.shutdown().await;
    }
}

fn keys_file(config: &Config) -> PathBuf {
    config.s3.keys.clone().unwrap_or_else(|| config.data.join("s3").join("keys.toml"))
}

/// The keys of a file; none where there is no file.
fn read_keys(file: &Path) -> Result<Keys> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "s3.keys").at(file.display()),
        _ => host(file, error),
    };
    match read_password_file(file, "s3.keys", failed) {
        Err(none) if none.kind() == ErrorKind::NotFound => Ok(Keys::default()),
        text => Keys::parse(&String::from_utf8_lossy(&text?)).map_err(|error| error.at(file.display())),
    }
}

fn modified(file: &Path) -> Option<(SystemTime, u64)> {
    let known = fs::metadata(file).ok()?;
    Some((known.modified().ok()?, known.len()))
}

/// Takes over what becomes of the file, for as long as the server runs.
async fn look_after(file: PathBuf, keys: Keys, mut seen: Option<(SystemTime, u64)>) {
    loop {
        tokio::time::sleep(KEYS_POLL).await;
        let now = modified(&file);
        if now == seen {
            continue;
        }
        seen = now;
        match read_keys(&file) {
            Ok(new) => keys.replace(&new),
            Err(error) => tracing::error!(error = format!("{error:#}"), "S3 goes on with the keys that it had"),
        }
    }
}

fn root(instance: &Instance, config: &Config) -> Result<Vec<Name>> {
    let why = "there is no mount to keep buckets in: say which, as root = \"/ipfs\"";
    let none = || Error::new(ErrorKind::InvalidArgument, "s3.root").because(why);
    let text = match &config.s3.root {
        Some(text) => text.clone(),
        None => format!("/{}", instance.mux.default_write().ok_or_else(none)?),
    };
    let path = QfsPath::parse(text.as_bytes())?.to_bytes();
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(Name::new).collect()
}

/// Starts the server, where one is asked for.
pub(crate) async fn start(
    instance: &Instance,
    config: &Config,
    (unsynced, ordered): (Vec<Fsid>, Vec<Fsid>),
) -> Result<Option<Serving>> {
    let Some(addr) = config.s3.listen.0 else { return Ok(None) };
    let file = keys_file(config);
    let seen = modified(&file);
    let keys = read_keys(&file)?;
    let groups = rustix::process::getgroups().unwrap_or_default();
    let options = Options {
        addr,
        root: root(instance, config)?,
        keys: keys.clone(),
        // A server can only act as itself.
        caller: Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
        },
        region: config.s3.region.clone(),
        sync_names_except: unsynced,
        ordered,
        env: instance::env(),
        ..Options::default()
    };
    let server = muxfs_s3_serve::serve(instance.vfs.clone(), options).await?;
    let looking = tokio::spawn(look_after(file, keys, seen));
    Ok(Some(Serving { server, looking }))
}

/// What `serve` says of it.
pub(crate) fn greeting(config: &Config, addr: SocketAddr) -> Vec<String> {
    let url = format!("http://{}:{}", connect_host(addr.ip()), addr.port());
    let mut lines = vec![format!("S3 on {addr}")];
    if read_keys(&keys_file(config)).is_ok_and(|keys| keys.all().is_empty()) {
        lines.push("  nobody may ask yet: `muxfs s3 key add` makes a key".to_owned());
    }
    lines.push(format!("  aws    aws --endpoint-url {url} s3 ls"));
    lines
}

/// `muxfs s3`.
pub(crate) async fn command(config: &Config, command: &args::S3, output: Output) -> Result<()> {
    let args::S3::Key(command) = command;
    let file = keys_file(config);
    match command {
        S3Key::Add(args) => add(&file, args, output).await,
        S3Key::Ls => list(&file, output),
        S3Key::Rm { ids } => remove(&file, ids).await,
    }
}

/// Replaces the file at one stroke, and alone, so that nobody who is added meanwhile is left out.
async fn edit(file: &Path, change: impl FnOnce(&mut Vec<Key>) -> Result<()>) -> Result<()> {
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        private_dir(dir)?;
    }
    let _editing = Editing::begin(file).await?;
    let mut keys = read_keys(file)?.all();
    change(&mut keys)?;
    let text = Keys::new(keys)?.to_text()?;
    replace(file, text.as_bytes(), Mode::Given(0o600)).map_err(|error| host(file, error))
}

async fn add(file: &Path, args: &S3KeyAdd, output: Output) -> Result<()> {
    let mut key = Key::generate(&instance::env());
    key.id = args.id.clone().unwrap_or(key.id);
    key.read_only = args.read_only;
    key.allow.clone_from(&args.allow);
    let added = key.clone();
    edit(file, |keys| {
        keys.push(added);
        Ok(())
    })
    .await?;
    let (id, secret) = (&key.id, &key.secret);
    let text = if args.env {
        format!("export AWS_ACCESS_KEY_ID={id}\nexport AWS_SECRET_ACCESS_KEY='{secret}'\n")
    } else {
        format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    };
    output.result(text.as_bytes(), &key)
}

fn list(file: &Path, output: Output) -> Result<()> {
    for key in read_keys(file)?.all() {
        let mode = if key.read_only { "read-only " } else { "read-write" };
        let allow = if key.allow.is_empty() { "everything".to_owned() } else { key.allow.join(" ") };
        let known = serde_json::json!({ "id": key.id, "read_only": key.read_only, "allow": key.allow });
        output.result(format!("{}  {mode}  {allow}\n", key.id).as_bytes(), &known)?;
    }
    Ok(())
}

async fn remove(file: &Path, ids: &[String]) -> Result<()> {
    edit(file, |keys| {
        for id in ids {
            let count = keys.len();
            keys.retain(|key| key.id != *id);
            if keys.len() == count {
                return Err(Error::new(ErrorKind::NotFound, "s3.key").at(id).because("there is no key of this id"));
            }
        }
        Ok(())
    })
    .await
}
