//! The commands, by what they are about. Each checks its arguments in the order in which 0-db does, so that a request with
//! two faults has the same error, and replies by itself where it goes well.

#![allow(
    clippy::unnecessary_wraps,
    reason = "to the dispatcher a command is one thing, whether it can be refused or not"
)]

pub(crate) mod admin;
pub(crate) mod auth;
pub(crate) mod keys;
pub(crate) mod namespaces;
pub(crate) mod scan;
pub(crate) mod server;
pub(crate) mod wait;

use std::sync::Arc;

use bytes::Bytes;
use muxfs_zdb::{KEY_LEN_MAX, NAME_LEN_MAX, Namespace, Refused};

use crate::{
    client::Client,
    refusal::{Refusal, refuse, refused},
};

/// Takes exactly so many arguments, none of them empty.
fn exactly<const N: usize>(arguments: &[Bytes]) -> Result<&[Bytes; N], Refusal> {
    let arguments = counted(arguments)?;
    if arguments.iter().any(Bytes::is_empty) {
        return refuse("Invalid argument");
    }
    Ok(arguments)
}

/// Takes exactly so many arguments.
fn counted<const N: usize>(arguments: &[Bytes]) -> Result<&[Bytes; N], Refusal> {
    arguments.try_into().map_err(|_| Refusal::Text("Unexpected arguments"))
}

/// Takes at least so many arguments, none of them empty.
fn at_least(arguments: &[Bytes], count: usize) -> Result<(), Refusal> {
    match arguments {
        arguments if arguments.len() < count => refuse("Missing arguments"),
        arguments if arguments.iter().any(Bytes::is_empty) => refuse("Invalid argument"),
        _ => Ok(()),
    }
}

/// Refuses a key that is too long to be there.
fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.len() > KEY_LEN_MAX { refuse("Invalid key") } else { Ok(()) }
}

/// Refuses to read where the namespace is frozen: the engine leaves that to its frontend.
fn check_thawed(client: &Client) -> Result<(), Refusal> {
    if client.namespace.settings().frozen { refuse(refused(Refused::Frozen)) } else { Ok(()) }
}

/// The namespace of a name.
fn namespace_of(client: &Client, name: &[u8]) -> Result<Arc<Namespace>, Refusal> {
    check_name(name)?;
    client.server.engine.namespace(name).ok_or(Refusal::Text("Namespace not found"))
}

fn check_name(name: &[u8]) -> Result<(), Refusal> {
    if name.len() > NAME_LEN_MAX { refuse("Namespace too long") } else { Ok(()) }
}

/// A number of digits.
fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}
