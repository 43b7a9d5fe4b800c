//! Namespaces: made, removed, listed, told of and set.

use bytes::Bytes;
use muxfs_zdb::{Create, DEFAULT_NAMESPACE, Mode, Remove, Setting, Update};

use super::{check_name, exactly, namespace_of, number};
use crate::{
    client::Client,
    info,
    refusal::{Done, Refusal, refuse},
};

/// The longest name of a property, in bytes.
const PROPERTY_LEN_MAX: usize = 256;
/// The longest value of one, in bytes.
const PROPERTY_VALUE_LEN_MAX: usize = 63;

fn ok(client: &mut Client) -> Done {
    client.output.simple("OK");
    Ok(())
}

/// `NSNEW namespace`
pub(crate) async fn nsnew(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    let [name] = exactly(arguments)?;
    check_name(name)?;
    // 0-db says so of its own name, too.
    if name == DEFAULT_NAMESPACE {
        return refuse("This name is not allowed");
    }
    match client.server.engine.create(name).await? {
        Create::Created(_) => ok(client),
        Create::Taken => refuse("This namespace is not available"),
        Create::BadName => refuse("This name is not allowed"),
    }
}

/// `NSDEL namespace`
pub(crate) async fn nsdel(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    let [name] = exactly(arguments)?;
    check_name(name)?;
    if client.namespace.name().as_bytes() == name && name != DEFAULT_NAMESPACE {
        return refuse("Cannot remove namespace you're currently using.");
    }
    match client.server.engine.remove(name).await? {
        Remove::Removed => ok(client),
        Remove::Absent => refuse("This namespace doesn't exists"),
        Remove::IsDefault => refuse("Cannot remove default namespace"),
    }
}

/// `NSLIST`
pub(crate) fn nslist(client: &mut Client) -> Done {
    let namespaces = client.server.engine.namespaces();
    client.output.array(namespaces.len());
    for namespace in namespaces {
        client.output.bulk(namespace.name().as_bytes());
    }
    Ok(())
}

/// `NSINFO namespace`
pub(crate) fn nsinfo(client: &mut Client, arguments: &[Bytes]) -> Done {
    let [name] = exactly(arguments)?;
    let namespace = namespace_of(client, name)?;
    let text = info::of_namespace(&namespace, client.server.engine.free_len(), client.is_admin);
    client.output.bulk(text.as_bytes());
    Ok(())
}

/// `DBSIZE`
pub(crate) fn dbsize(client: &mut Client) -> Done {
    client.output.number(client.namespace.len());
    Ok(())
}

/// `NSSET namespace property value`
pub(crate) async fn nsset(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    let [name, property, value] = exactly(arguments)?;
    check_name(name)?;
    if property.len() > PROPERTY_LEN_MAX || value.len() > PROPERTY_VALUE_LEN_MAX {
        return refuse("Argument too long");
    }
    let namespace = namespace_of(client, name)?;
    let setting = setting(namespace.name() == DEFAULT_NAMESPACE, property, value)?;
    match client.server.engine.update(&namespace, setting).await? {
        Update::Done => ok(client),
        Update::InUse => refuse("Cannot change mode of used namespace"),
        Update::FixedMode => refuse("This server instance is configured to use a single runtime mode"),
    }
}

/// Reads a setting. The default namespace has few: it is everybody's.
fn setting(is_default: bool, property: &[u8], value: &Bytes) -> Result<Setting, Refusal> {
    // As in 0-db: whatever does not begin with 1 is off.
    let is_on = value.first() == Some(&b'1');
    Ok(match property {
        b"mode" => Setting::Mode(match &value[..] {
            b"user" => Mode::User,
            b"seq" => Mode::Sequential,
            _ => return refuse("Invalid property value (expected: user, seq)"),
        }),
        b"lock" => Setting::Lock(is_on),
        b"freeze" => Setting::Freeze(is_on),
        b"history" => Setting::History(is_on),
        _ if is_default => return refuse("Cannot update default namespace"),
        b"maxsize" => match number(value) {
            Some(len) => Setting::MaxSize(len),
            None => return refuse("Invalid property value (expected: a number of bytes, 0 for no limit)"),
        },
        b"password" if **value == *b"*" => Setting::Password(None),
        // Copied, so that the buffer it came in is not kept.
        b"password" => Setting::Password(Some(Bytes::copy_from_slice(value))),
        b"public" => Setting::Public(is_on),
        b"worm" => Setting::Worm(is_on),
        _ => return refuse("Invalid property"),
    })
}
