//! What an administrator does to files, and `FLUSH`.

use bytes::Bytes;
use muxfs_zdb::Refused;

use super::{at_least, exactly, namespace_of, number};
use crate::{
    client::Client,
    refusal::{Done, refuse, refused},
};

/// The longest name of a part of a command, in bytes.
const WORD_LEN_MAX: usize = 256;

fn ok(client: &mut Client) -> Done {
    client.output.simple("OK");
    Ok(())
}

/// `NSJUMP`
pub(crate) async fn nsjump(client: &mut Client) -> Done {
    client.check_admin()?;
    client.namespace.jump().await?;
    ok(client)
}

/// `RELOAD namespace`
pub(crate) async fn reload(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    let [name] = exactly(arguments)?;
    let namespace = namespace_of(client, name)?;
    // What this connection has promised of it has to be kept first.
    client.settle().await;
    client.server.engine.reload(&namespace).await?;
    ok(client)
}

/// `FLUSH`
///
/// Unlike 0-db it heeds a lock, a freeze and worm mode: what cannot be deleted one by one cannot be all at once.
pub(crate) async fn flush(client: &mut Client) -> Done {
    let settings = client.namespace.settings();
    if settings.public || settings.password.is_none() {
        return refuse("Flushing public namespace denied");
    }
    let refusal = match settings {
        _ if !client.is_writer => return refuse("Namespace is in read-only mode"),
        settings if settings.frozen => Refused::Frozen,
        settings if settings.locked => Refused::Locked,
        settings if settings.worm => Refused::Worm,
        _ => {
            client.settle().await;
            client.server.engine.flush(&client.namespace).await?;
            return ok(client);
        }
    };
    refuse(refused(refusal))
}

/// `INDEX DIRTY [RESET]`
pub(crate) fn index(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    at_least(arguments, 1)?;
    match arguments {
        [word, ..] if word.len() > WORD_LEN_MAX => refuse("Argument too long"),
        [word, rest @ ..] if word.eq_ignore_ascii_case(b"DIRTY") => match rest {
            [word] if word.eq_ignore_ascii_case(b"RESET") => {
                client.namespace.reset_dirty();
                ok(client)
            }
            [_] => refuse("Unknown INDEX DIRTY subcommand"),
            _ => {
                let dirty = client.namespace.dirty();
                client.output.array(dirty.len());
                for file in dirty {
                    client.output.number(file.into());
                }
                Ok(())
            }
        },
        _ => refuse("Unknown INDEX subcommand"),
    }
}

/// `DATA RAW file offset`, `DATA EXISTS file`
pub(crate) async fn data(client: &mut Client, arguments: &[Bytes]) -> Done {
    client.check_admin()?;
    at_least(arguments, 1)?;
    match arguments {
        [word, ..] if word.len() > WORD_LEN_MAX => refuse("Argument too long"),
        [word, rest @ ..] if word.eq_ignore_ascii_case(b"RAW") => raw(client, rest).await,
        [word, rest @ ..] if word.eq_ignore_ascii_case(b"EXISTS") => {
            let [file, ..] = rest else { return refuse("Missing arguments") };
            let Some(file) = number(file) else { return refuse("Invalid argument") };
            let is_there = client.namespace.has_file(file).await?;
            client.output.number(is_there.into());
            Ok(())
        }
        _ => refuse("Unknown DATA subcommand"),
    }
}

async fn raw(client: &mut Client, place: &[Bytes]) -> Done {
    let [file, offset, ..] = place else { return refuse("Missing arguments") };
    let (Some(file), Some(offset)) = (number(file), number(offset)) else { return refuse("Invalid argument") };
    let permit = client.room_for_value().await?;
    let Some(raw) = client.namespace.raw(file, offset).await? else { return refuse("EOF") };
    let output = &mut client.output;
    output.array(6);
    output.bulk(&raw.key);
    output.number(raw.previous.into());
    output.bulk(format!("0x{:08x}", raw.crc).as_bytes());
    output.number(raw.flags.into());
    output.number(raw.timestamp.into());
    if raw.flags & 1 == 1 && raw.value.is_empty() {
        output.nil();
    } else {
        client.reply_value(raw.value, permit).await;
    }
    Ok(())
}

/// `HOOKS`: there are none.
pub(crate) fn hooks(client: &mut Client) -> Done {
    client.check_admin()?;
    client.output.array(0);
    Ok(())
}

/// `MIRROR` and `MASTER`
pub(crate) fn replication(client: &mut Client) -> Done {
    client.check_admin()?;
    refuse("Replication is not supported by this server")
}
