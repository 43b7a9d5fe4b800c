//! `name`: keys, and the names that lead to content.

use std::{ffi::OsStr, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc, time::SystemTime};

use muxfs::{
    Error, ErrorKind, QfsPath, Result,
    calendar::Utc,
    ipns::{IpnsName, NameKey, Record, Records as _, Resolved, Target, resolve},
};
use serde_json::json;
use zeroize::Zeroizing;

use super::put::host;
use crate::{
    args::{self, NamePublish},
    config::{Config, Ipfs},
    instance::{env, random_u128},
    names::{Follow, Label, Names, Publication, Push, read_record, read_up_to},
    namespace::Namespace,
    opened::{InUse, server},
    output::Output,
    sources::{names_among, names_of, records_of},
};

/// The longest key that is read, in bytes: one of RSA, to say that it does not sign here.
const KEY_LEN_MAX: u64 = 16 << 10;

/// Lets a name lead to what is at a path, now or from now on, and prints the name.
pub(crate) async fn publish(
    names: &Names,
    namespace: &dyn Namespace,
    args: &NamePublish,
    ipfs: &Ipfs,
    output: Output,
) -> Result<()> {
    let push = match &args.push_to {
        Some(url) => Some(Push::To(url.to_string())),
        None => args.push.then_some(Push::First),
    };
    // That there is none is told before anything is published.
    let node = push.as_ref().map(|push| push.node(ipfs)).transpose()?;
    let (lifetime, ttl) = (args.lifetime(), args.ttl);
    let (value, follow) = if args.follow {
        let (path, text) = path_to_follow(&args.path)?;
        let value = committed_value_of(namespace, &path).await?;
        (value, Some(Follow { path: text, lifetime, ttl, push: push.clone() }))
    } else {
        (value_of(namespace, &args.path).await?, None)
    };
    let before = followed(names, &args.key, output);
    let seen = seen_elsewhere(names, &args.key, (ipfs, push.as_ref()), output).await?;
    let publication = Publication { value: &value, lifetime: lifetime.0, ttl: ttl.0, seen };
    let record = names.publish(&args.key, &publication, follow.as_ref()).await?;
    let (name, until) = (record.name(), Utc::from(record.expires()));
    output.notice(&format!(
        "it leads to {value} until {:04}-{:02}-{:02}, record {}",
        until.year,
        until.month,
        until.day,
        record.sequence()
    ));
    match (&follow, before) {
        (Some(follow), _) => output.notice(&format!("it follows {} for as long as a server runs", follow.path)),
        (None, Some(before)) => output.notice(&format!("it does not follow {} any more", before.path)),
        (None, None) => {}
    }
    if let Some(node) = node {
        node.put_record(&record, random_u128()).await?;
        output.notice(&format!("{} has the record", node.url()));
    }
    output.result(
        format!("/ipns/{name}").as_bytes(),
        &json!({
            "name": name.to_string(),
            "value": value,
            "sequence": record.sequence(),
            "expires": seconds(&record),
            "follows": follow.map(|follow| follow.path),
        }),
    )
}

/// What a name follows; nothing, and a notice, where that cannot be read.
fn followed(names: &Names, label: &Label, output: Output) -> Option<Follow> {
    names.follow_of(label).unwrap_or_else(|error| {
        output.notice(&format!("what {label} follows cannot be read: {error:#}"));
        None
    })
}

/// The highest sequence number that sources, and the node that is to have the record, have seen of the name of a key: it may
/// have been published elsewhere.
async fn seen_elsewhere(
    names: &Names,
    label: &Label,
    (ipfs, push): (&Ipfs, Option<&Push>),
    output: Output,
) -> Result<Option<u64>> {
    let key = match names.key(label) {
        // One that is yet to be drawn.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        key => key?,
    };
    let mut sources = records_of(ipfs)?;
    if let Some(to @ Push::To(_)) = push {
        sources.push(Arc::new(to.node(ipfs)?));
    }
    let sources = names_among(Arc::new(names.clone()), sources, &env());
    let (seen, failure) = sources.sequence_elsewhere(key.name()).await;
    if let Some(failure) = failure {
        output.notice(&format!(
            "not every source tells which record it knows; who has one with a higher number goes on with that: {failure:#}"
        ));
    }
    Ok(seen)
}

/// A path of the working tree of `/ipfs`, and as text.
fn path_to_follow(path: &OsStr) -> Result<(QfsPath, String)> {
    let refuse =
        |path: &QfsPath, why: &'static str| Error::new(ErrorKind::InvalidArgument, "name.follow").at(path).because(why);
    let path = super::path(path)?;
    if path.prefix.as_str() != "ipfs" || path.cid().is_some() {
        return Err(refuse(&path, "what changes is followed: /ipfs, or a name below it"));
    }
    let text = String::from_utf8(path.to_bytes());
    let text = text.map_err(|_| refuse(&path, "its name is no UTF-8, so it cannot be noted"))?;
    Ok((path, text))
}

/// What is at a path of a working tree, committed.
async fn committed_value_of(namespace: &dyn Namespace, path: &QfsPath) -> Result<String> {
    namespace.commit(path.prefix, "").await?;
    let root = QfsPath { prefix: path.prefix, parts: Vec::new() };
    let head = namespace.log(&root).await?.into_iter().next();
    let head = head.ok_or_else(|| Error::new(ErrorKind::Internal, "name.follow").at(path))?;
    let mut below = QfsPath::content(path.prefix, &head.root.parse()?);
    below.parts.extend(path.parts.iter().cloned());
    Ok(format!("/ipfs/{}", super::root_of(namespace, &below, "name.follow").await?))
}

/// What a record says of a path: of content its CID, since what is at the path may change.
async fn value_of(namespace: &dyn Namespace, path: &OsStr) -> Result<String> {
    if let Some(value) = path.to_str().filter(|path| path.starts_with("/ipns/")) {
        Target::parse(value.as_bytes())?;
        return Ok(value.to_owned());
    }
    let path = super::path(path)?;
    if path.prefix.as_str() != "ipfs" {
        return Err(Error::new(ErrorKind::InvalidArgument, "name.publish")
            .at(path)
            .because("a name leads to /ipfs, where everybody may read: put it there first"));
    }
    Ok(format!("/ipfs/{}", super::root_of(namespace, &path, "name.publish").await?))
}

fn seconds(record: &Record) -> i64 {
    muxfs::calendar::unix_secs(record.expires())
}

/// Prints where a name leads.
pub(crate) async fn tell(names: &Names, ipfs: &Ipfs, name: &str, output: Output) -> Result<()> {
    let name = match name.strip_prefix("/ipns/").unwrap_or(name).parse::<IpnsName>() {
        Ok(name) => name,
        Err(error) => match name.parse::<Label>() {
            Ok(label) => names.key(&label).map(|key| key.name().clone())?,
            Err(_) => return Err(error),
        },
    };
    let records = names_of(Arc::new(names.clone()), ipfs, &env())?;
    let resolved = resolve(&records, &name, SystemTime::now()).await?;
    let value = value(&resolved);
    output.result(&value, &json!({ "name": name.to_string(), "path": String::from_utf8_lossy(&value) }))
}

fn value(resolved: &Resolved) -> Vec<u8> {
    let mut value = format!("/ipfs/{}", resolved.root).into_bytes();
    for part in &resolved.path {
        value.push(b'/');
        value.extend_from_slice(part.as_bytes());
    }
    value
}

/// Lists the keys.
pub(crate) async fn ls(names: &Names, output: Output) -> Result<()> {
    for (label, key) in names.keys()? {
        let record = names.record(key.name()).await?;
        let value = record.as_ref().map(|record| String::from_utf8_lossy(record.value()).into_owned());
        let mut shown = value.as_deref().map(|value| format!(" {}", value.escape_debug())).unwrap_or_default();
        let follow = followed(names, &label, output);
        if let Some(follow) = &follow {
            shown = format!("{shown} follows {}", follow.path.escape_debug());
        }
        output.result(
            format!("{label} {}{shown}", key.name()).as_bytes(),
            &json!({
                "label": label.to_string(),
                "name": key.name().to_string(),
                "value": value,
                "expires": record.as_ref().map(seconds),
                "follows": follow.map(|follow| follow.path),
            }),
        )?;
    }
    Ok(())
}

/// Draws a key, and prints its name.
pub(crate) async fn new(names: &Names, label: &Label, output: Output) -> Result<()> {
    told(&names.generate(label).await?, output)
}

/// Takes a key out of a file, and prints its name.
pub(crate) async fn import(names: &Names, label: &Label, file: &Path, output: Output) -> Result<()> {
    let mut bytes = Zeroizing::new(Vec::new());
    read_up_to(file, KEY_LEN_MAX, &mut bytes)?;
    let key = NameKey::decode(&bytes).map_err(|error| error.at(file.display()))?;
    names.import(label, &key).await?;
    told(&key, output)
}

fn told(key: &NameKey, output: Output) -> Result<()> {
    output.result(key.name().to_string().as_bytes(), &json!({ "name": key.name().to_string() }))
}

/// Writes a key to a file that is not there yet.
pub(crate) fn export(names: &Names, label: &Label, file: &Path, output: Output) -> Result<()> {
    let key = names.key(label)?;
    let write = || {
        let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        written.write_all(&key.encode())?;
        written.sync_all()
    };
    write().map_err(|error| host(file, error))?;
    output.result(file.as_os_str().as_encoded_bytes(), &json!({ "file": file.to_string_lossy() }))
}

/// Takes a record of a file.
pub(crate) async fn accept(names: &Names, name: &IpnsName, file: &Path, output: Output) -> Result<()> {
    let record = Record::verify(name, &read_record(file)?)?;
    if !record.is_good(SystemTime::now()) {
        return Err(Error::new(ErrorKind::InvalidArgument, "name.accept")
            .at(file.display())
            .because("the record is not good any more"));
    }
    let is_newer = names.accept(&record).await?;
    if !is_newer {
        output.notice("a record that is as new was known");
    }
    let value = String::from_utf8_lossy(record.value()).into_owned();
    output.result(
        value.escape_debug().to_string().as_bytes(),
        &json!({ "name": name.to_string(), "value": value, "new": is_newer }),
    )
}

/// Carries out one of the commands.
pub(crate) async fn name(config: Config, in_use: &InUse, name: args::Name, output: Output) -> Result<()> {
    let names = Names::of(&config.data);
    match name {
        args::Name::Publish(args) => {
            let ipfs = config.ipfs.clone();
            let namespace = in_use.open(config).await?;
            let done = publish(&names, &*namespace, &args, &ipfs, output).await;
            namespace.close().await?;
            done
        }
        args::Name::Resolve { name } => {
            let ipfs = match server(&config).await? {
                Some(client) => Config::parse(&client.config().await?)?.ipfs,
                None => config.ipfs,
            };
            tell(&names, &ipfs, &name, output).await
        }
        args::Name::Ls => ls(&names, output).await,
        args::Name::New { label } => new(&names, &label, output).await,
        args::Name::Export { label, file } => export(&names, &label, &file, output),
        args::Name::Import { label, file } => import(&names, &label, &file, output).await,
        args::Name::Accept { name, file } => accept(&names, &name, &file, output).await,
    }
}
