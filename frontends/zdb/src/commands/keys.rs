//! Values by key.

use bytes::Bytes;
use muxfs_zdb::{Delete, KEY_LEN_MAX, Key, Refused, Set};

use super::{check_key, check_thawed, counted, exactly, number};
use crate::{
    client::Client,
    output::Output,
    refusal::{Done, Refusal, failed, refuse, refused},
};

/// When a value is said to have been set: an administrator may say so.
fn timestamp(client: &Client, given: Option<&Bytes>) -> Result<Option<u32>, Refusal> {
    let Some(given) = given else { return Ok(None) };
    client.check_admin()?;
    number(given).map(Some).ok_or(Refusal::Text("Invalid argument"))
}

fn check_writer(client: &Client) -> Result<(), Refusal> {
    if client.is_writer { Ok(()) } else { refuse("Namespace is in read-only mode") }
}

/// `SET key value [timestamp]`
pub(crate) async fn set(client: &mut Client, arguments: &[Bytes]) -> Done {
    let (key, value, given) = match arguments {
        [key, value, given] => (key, value, Some(given)),
        arguments => {
            let [key, value] = counted(arguments)?;
            (key, value, None)
        }
    };
    let timestamp = timestamp(client, given)?;
    if key.len() > KEY_LEN_MAX {
        return refuse(refused(Refused::KeyTooLong));
    }
    check_writer(client)?;
    match client.namespace.set(key, value.clone(), timestamp).await? {
        Set::Stored { key } => {
            client.has_written().await;
            client.output.promise(|output| output.bulk(&key));
        }
        // The same value may be another client's, and under way.
        Set::Same => {
            client.has_written().await;
            client.output.promise(Output::nil);
        }
        Set::Refused(why) => return refuse(refused(why)),
    }
    Ok(())
}

/// `DEL key [timestamp]`
pub(crate) async fn del(client: &mut Client, arguments: &[Bytes]) -> Done {
    let (key, given) = match arguments {
        [key, given] => (key, Some(given)),
        arguments => {
            let [key] = exactly(arguments)?;
            (key, None)
        }
    };
    let timestamp = timestamp(client, given)?;
    check_key(key)?;
    check_writer(client)?;
    match client.namespace.delete(key, timestamp).await? {
        Delete::Deleted => {
            client.has_written().await;
            client.output.promise(|output| output.simple("OK"));
            Ok(())
        }
        Delete::Absent => refuse("Key not found"),
        Delete::Refused(Refused::Worm) => refuse("Cannot delete a key when namespace is in worm mode"),
        Delete::Refused(why) => refuse(refused(why)),
    }
}

/// `GET key`
pub(crate) async fn get(client: &mut Client, arguments: &[Bytes]) -> Done {
    let [key] = exactly(arguments)?;
    check_key(key)?;
    check_thawed(client)?;
    let permit = client.room_for_value().await?;
    match client.namespace.get(key).await? {
        Some(entry) => client.reply_value(entry.value, permit).await,
        None => client.output.nil(),
    }
    Ok(())
}

/// `MGET key…`
pub(crate) async fn mget(client: &mut Client, keys: &[Bytes]) -> Done {
    if keys.is_empty() {
        return refuse("Invalid arguments");
    }
    keys.iter().try_for_each(|key| check_key(key))?;
    check_thawed(client)?;
    client.output.array(keys.len());
    for key in keys {
        let permit = client.room_for_value().await?;
        match client.namespace.get(key).await {
            Ok(Some(entry)) => client.reply_value(entry.value, permit).await,
            Ok(None) => client.output.nil(),
            // The others are given all the same.
            Err(error) => {
                let namespace = client.namespace.name();
                tracing::error!(namespace, error = format!("{error:#}"), "a value could not be read");
                client.output.error(failed(error.kind()));
            }
        }
        client.flush_if_long().await.map_err(Refusal::Lost)?;
    }
    Ok(())
}

/// What is known of the key that is the only argument.
async fn key(client: &Client, arguments: &[Bytes]) -> Result<Option<Key>, Refusal> {
    let [key] = exactly(arguments)?;
    check_key(key)?;
    check_thawed(client)?;
    Ok(client.namespace.key(key).await?)
}

fn number_or_nil(client: &mut Client, number: Option<u32>) {
    match number {
        Some(number) => client.output.number(number.into()),
        None => client.output.nil(),
    }
}

/// `EXISTS key`
pub(crate) async fn exists(client: &mut Client, arguments: &[Bytes]) -> Done {
    let is_there = key(client, arguments).await?.is_some();
    client.output.number(is_there.into());
    Ok(())
}

/// `LENGTH key`
pub(crate) async fn length(client: &mut Client, arguments: &[Bytes]) -> Done {
    let found = key(client, arguments).await?;
    number_or_nil(client, found.map(|key| key.len));
    Ok(())
}

/// `KEYTIME key`
pub(crate) async fn keytime(client: &mut Client, arguments: &[Bytes]) -> Done {
    let found = key(client, arguments).await?;
    number_or_nil(client, found.map(|key| key.timestamp));
    Ok(())
}

/// `CHECK key`
pub(crate) async fn check(client: &mut Client, arguments: &[Bytes]) -> Done {
    let [key] = exactly(arguments)?;
    check_key(key)?;
    check_thawed(client)?;
    let is_good = client.namespace.check(key).await?;
    number_or_nil(client, is_good.map(u32::from));
    Ok(())
}
