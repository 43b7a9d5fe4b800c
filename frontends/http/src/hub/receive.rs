//! Uploads: a form whose file is written beside the repositories as it comes, looked into, and then given its name.
//!
//! ```text
//!   form --> .muxfs-part-… --> checked, every chunk asked for ----------------> synced, renamed
//!                         '--> made an flist of, its chunks stored, durably --'
//! ```
//!
//! What is acknowledged has its name durably; what stops before leaves what had the name.

use std::{path::PathBuf, time::Duration};

use axum::{
    body::BodyDataStream,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use muxfs::{Error, ErrorKind};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, sync::OwnedSemaphorePermit, time::Instant};

use super::{
    Hub,
    api::stats,
    blocking, busy,
    change::Part,
    form::Form,
    names::{flist_name, is_fl, is_flist},
    shelf::{PART, Result, Spot, failed},
};
use crate::{body, failure::Failure};

/// The least bytes a second of an upload,
const RATE_MIN: u64 = 16 << 10;
/// counted from so long after its beginning.
const RATE_GRACE: Duration = Duration::from_mins(1);
/// What archives are called that an flist is made of, the longer first.
const ARCHIVES: [&str; 7] = [".tar.gz", ".tar.zst", ".tar.xz", ".tgz", ".tzst", ".txz", ".tar"];
/// What the names of fields begin with that are metadata of what is made.
const METADATA: &str = "metadata-";
/// Metadata that is what the archive says, and the hub.
const OWN_METADATA: [&str; 6] = ["readme", "backend", "entrypoint", "environ", "port", "volume"];
/// What a client that has the file by another name calls it.
const ORIGINAL_NAME: &str = "x-original-name";

/// Whether so many bytes in so long are fewer than a client may send who keeps others waiting.
fn is_too_slow(len: u64, took: Duration) -> bool {
    len < took.saturating_sub(RATE_GRACE).as_secs().saturating_mul(RATE_MIN)
}

/// A form that came whole.
struct Arrived {
    part: Part,
    form: Form,
}

/// Takes the form of an upload, whose file has `len_max` bytes at most.
async fn receive(
    hub: &Hub,
    random: &str,
    request: &Parts,
    body: &mut BodyDataStream,
    (len_max, patience): (u64, Duration),
) -> Result<Arrived> {
    let bad = |why: &str| Failure::bad(format!("The form cannot be read: {why}."), "");
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut form = Form::new(content_type.unwrap_or_default()).map_err(bad)?;
    let (this, random) = (hub.clone(), random.to_owned());
    let part = blocking(move || Part::new(&this.0.shelf, &random, "")).await?;
    let mut file = tokio::fs::File::from_std(part.file.try_clone().map_err(failed)?);
    let (mut len, mut bytes, mut came, since) = (0, Vec::new(), 0, Instant::now());
    while let Some(piece) = body::piece(body, patience).await? {
        came += piece.len() as u64;
        if is_too_slow(came, since.elapsed()) {
            let why = format!("It comes too slowly: others wait, and {RATE_MIN} bytes a second are the least.");
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, why, "Nothing was kept."));
        }
        form.push(&piece, &mut bytes).map_err(bad)?;
        len += bytes.len() as u64;
        if len > len_max {
            let why = format!("The hub takes {len_max} bytes of this at most.");
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, why, ""));
        }
        file.write_all(&bytes).await.map_err(failed)?;
        bytes.clear();
    }
    form.end().map_err(bad)?;
    file.flush().await.map_err(failed)?;
    Ok(Arrived { part, form })
}

/// What the client calls the file: its name, without directories.
fn called<'a>(headers: &'a HeaderMap, form: &'a Form) -> Result<&'a str> {
    let named = match headers.get(ORIGINAL_NAME) {
        Some(name) => Some(name.to_str().map_err(|_| Failure::bad("X-Original-Name is no name.", ""))?),
        None => form.file.as_deref(),
    };
    // As of a path of the client's machine.
    let name = named.map(|name| name.rsplit('/').next().unwrap_or(name)).filter(|name| !name.is_empty());
    name.ok_or_else(|| Failure::bad("no file found", ""))
}

/// Takes an flist: every chunk of it has to be stored already.
pub(super) async fn flist(
    hub: &Hub,
    mine: &str,
    random: &str,
    (request, body, patience): (&Parts, &mut BodyDataStream, Duration),
) -> Result<Value> {
    let arrived = receive(hub, random, request, body, (hub.0.options.flist_len_max, patience)).await?;
    let name = called(&request.headers, &arrived.form)?;
    if !is_flist(name) {
        return Err(Failure::bad("this file is not allowed: an flist ends with .flist or .fl", ""));
    }
    let spot = Spot::new(mine, name)?;
    hub.0.flists.check(&arrived.part.path).await.map_err(refused)?;
    finish(hub, arrived.part, spot).await
}

/// Takes an archive of files or of an image, and makes an flist of it.
///
/// The turn of the upload is given back when it came: making waits for others, and takes long.
pub(super) async fn archive(
    hub: &Hub,
    mine: &str,
    random: &str,
    (request, body, patience): (&Parts, &mut BodyDataStream, Duration),
    turn: OwnedSemaphorePermit,
) -> Result<Value> {
    let arrived = receive(hub, random, request, body, (hub.0.options.archive_len_max, patience)).await?;
    drop(turn);
    let name = called(&request.headers, &arrived.form)?;
    let Some(stem) = ARCHIVES.iter().find_map(|ending| name.strip_suffix(ending)) else {
        let why = format!("this file is not allowed: an archive ends with {}", ARCHIVES.join(", "));
        return Err(Failure::bad(why, ""));
    };
    let name = if is_flist(stem) { stem.to_owned() } else { format!("{stem}{}", hub.0.options.ending) };
    let spot = Spot::new(mine, &flist_name(&name)?)?;
    let mut metadata = Vec::new();
    for (field, value) in &arrived.form.fields {
        let Some(key) = field.strip_prefix(METADATA).filter(|key| !OWN_METADATA.contains(key)) else { continue };
        let value = std::str::from_utf8(value).map_err(|_| Failure::bad("A field is no UTF-8.", ""))?;
        metadata.push((key.to_owned(), value.to_owned()));
    }
    let target = hub.0.shelf.dir().join(format!("{PART}{random}-made"));
    {
        // Of these each may take a gigabyte of memory.
        let _waits = hub.0.waiting.try_acquire().map_err(busy)?;
        let _turn = hub.0.makes.acquire().await;
        let is_fl = is_fl(&spot.flist);
        hub.0.flists.make(&arrived.part.path, &target, is_fl, metadata).await.map_err(refused)?;
    }
    finish(hub, adopt(target).await?, spot).await
}

/// Makes an flist of several, of which the first wins.
pub(super) async fn merge(hub: &Hub, mine: &str, target: &str, random: &str, sources: Vec<Spot>) -> Result<Value> {
    // The format is theirs, and so is its ending where none is named.
    let are_fl = !is_flist(target) && sources.iter().all(|source| is_fl(&source.flist));
    let spot = Spot::new(mine, &format!("{target}{}", if are_fl { ".fl" } else { "" }))?;
    let this = hub.clone();
    let files =
        blocking(move || sources.iter().map(|source| this.0.shelf.file(source)).collect::<Result<Vec<_>>>()).await?;
    let made = hub.0.shelf.dir().join(format!("{PART}{random}-made"));
    {
        let _waits = hub.0.waiting.try_acquire().map_err(busy)?;
        let _turn = hub.0.makes.acquire().await;
        hub.0.flists.merge(&files, &made).await.map_err(refused)?;
    }
    finish(hub, adopt(made).await?, spot).await
}

/// What was made, as a part.
async fn adopt(path: PathBuf) -> Result<Part> {
    blocking(move || {
        let file = std::fs::File::open(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(Part { path, file })
    })
    .await
}

/// Gives what arrived its name, and tells what is in it.
async fn finish(hub: &Hub, part: Part, spot: Spot) -> Result<Value> {
    let hub = hub.clone();
    blocking(move || {
        let stats = stats(&*hub.0.flists, &part.path).map_err(refused)?;
        hub.0.shelf.install(&part, None, &spot)?;
        Ok(json!({ "name": spot.flist, "files": { "status": 0, "success": true, "response": stats } }))
    })
    .await
}

/// Why an flist or an archive is not taken.
pub(super) fn refused(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Corrupt
        | ErrorKind::TooLarge
        | ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::NotDir
        | ErrorKind::NameTooLong => {
            let place = error.path().map(|path| format!(" ({path})")).unwrap_or_default();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::bad(format!("this is not taken{place}{cause}"), "")
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drips_is_told_so_and_who_stops_for_a_moment_is_not() {
        for (len, secs, is_slow) in [
            (0, 60, false),
            (0, 61, true),
            (RATE_MIN, 61, false),
            (RATE_MIN * 10, 71, true),
            (8 << 30, 3600, false),
            (RATE_MIN * 3600, 3660, false),
            (RATE_MIN * 3600 - 1, 3660, true),
        ] {
            assert_eq!(is_too_slow(len, Duration::from_secs(secs)), is_slow, "{len} bytes in {secs} s");
        }
    }
}
