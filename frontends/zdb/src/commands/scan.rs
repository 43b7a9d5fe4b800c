//! Keys in their order, and what values were before.

use bytes::Bytes;
use muxfs::ErrorKind;
use muxfs_zdb::{Cursor, Direction, Page, ScanLimit};

use super::{check_thawed, exactly};
use crate::{
    client::Client,
    refusal::{Done, refuse},
};

const BAD_CURSOR: &str = "Invalid key format";
const BAD_PLACE: &str = "Invalid arguments (index query)";

/// `KEYCUR key`
pub(crate) async fn keycur(client: &mut Client, arguments: &[Bytes]) -> Done {
    let [key] = exactly(arguments)?;
    check_thawed(client)?;
    match client.namespace.key(key).await? {
        Some(key) => client.output.bulk(&key.cursor),
        None => return refuse("Key not found"),
    }
    Ok(())
}

/// `SCAN [cursor]`
pub(crate) async fn scan(client: &mut Client, arguments: &[Bytes]) -> Done {
    page(client, Direction::Forward, arguments).await
}

/// `RSCAN [cursor]`
pub(crate) async fn rscan(client: &mut Client, arguments: &[Bytes]) -> Done {
    page(client, Direction::Backward, arguments).await
}

/// What comes behind the cursor, if there is one, is not looked at, as in 0-db.
async fn page(client: &mut Client, direction: Direction, arguments: &[Bytes]) -> Done {
    check_thawed(client)?;
    let cursor = arguments.first();
    if cursor.is_some_and(|cursor| cursor.len() != size_of::<Cursor>()) {
        return refuse(BAD_CURSOR);
    }
    let cursor = cursor.map(|cursor| &cursor[..]);
    let (next, keys) = match client.namespace.scan(direction, cursor, ScanLimit::default()).await? {
        Page::Keys { next, keys } => (next, keys),
        Page::End => return refuse("No more data"),
        Page::BadCursor => return refuse(BAD_CURSOR),
    };
    let output = &mut client.output;
    output.array(2);
    output.bulk(&next);
    output.array(keys.len());
    for listed in keys {
        output.array(3);
        output.bulk(&listed.key);
        output.number(listed.len.into());
        output.number(listed.timestamp.into());
    }
    Ok(())
}

/// `HISTORY key [place]`
pub(crate) async fn history(client: &mut Client, arguments: &[Bytes]) -> Done {
    let (key, place) = match arguments {
        [key] => (key, None),
        [key, place] => (key, Some(place)),
        _ => return refuse("Invalid arguments"),
    };
    check_thawed(client)?;
    let place: Option<[u8; 8]> = match place.map(|place| <[u8; 8]>::try_from(&place[..])) {
        None => None,
        Some(Ok([0, 0, 0, 0, 0, 0, 0, 0])) => return refuse("No more history"),
        Some(Ok(place)) => Some(place),
        Some(Err(_)) => return refuse("Invalid arguments"),
    };
    let permit = client.room_for_value().await?;
    let version = match client.namespace.history(key, place).await {
        Ok(Some(version)) => version,
        Ok(None) if place.is_none() => return refuse("Key not found"),
        Ok(None) => return refuse(BAD_PLACE),
        Err(error) if error.kind() == ErrorKind::InvalidArgument => return refuse(BAD_PLACE),
        Err(error) => return Err(error.into()),
    };
    let output = &mut client.output;
    output.array(3);
    match version.previous {
        Some(previous) => output.bulk(&previous),
        None => output.nil(),
    }
    output.bulk(version.timestamp.to_string().as_bytes());
    client.reply_value(version.value, permit).await;
    Ok(())
}
