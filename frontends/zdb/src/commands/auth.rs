//! Who a client is: administrator or not, and in which namespace.

use bytes::Bytes;
use muxfs_zdb::Namespace;

use super::{exactly, namespace_of};
use crate::{
    client::Client,
    refusal::{Done, Refusal, refuse},
    secret::{PASSWORD_LEN_MAX, PROOF_LEN, challenge, is_proof, is_same},
};

/// The longest password of a namespace that is compared, in bytes.
const NAMESPACE_PASSWORD_LEN_MAX: usize = 255;

const DENIED: &str = "Access denied";
const DISABLED: &str = "Authentication disabled";
const ONLY_SECURE: &str = "Only SECURE extra method supported";
const NO_CHALLENGE: &str = "No CHALLENGE requested, secure authentication not available";
const BAD_PROOF: &str = "Invalid hash length";

/// `AUTH password`, `AUTH SECURE CHALLENGE`, `AUTH SECURE proof`
pub(crate) fn auth(client: &mut Client, arguments: &[Bytes]) -> Done {
    match arguments {
        [_] => with_password(client, arguments),
        [_, _] => secure(client, arguments),
        _ => refuse("Unexpected arguments"),
    }
}

fn with_password(client: &mut Client, arguments: &[Bytes]) -> Done {
    let Some(admin) = &client.server.options.admin else { return refuse(DISABLED) };
    let [password] = exactly(arguments)?;
    if password.len() > PASSWORD_LEN_MAX {
        return refuse("Password too long");
    }
    if !is_same(password, admin.as_bytes()) {
        return refuse(DENIED);
    }
    client.is_admin = true;
    client.output.simple("OK");
    Ok(())
}

fn secure(client: &mut Client, arguments: &[Bytes]) -> Done {
    let [method, proof] = exactly(arguments)?;
    if !method.eq_ignore_ascii_case(b"SECURE") {
        return refuse(ONLY_SECURE);
    }
    if proof.eq_ignore_ascii_case(b"CHALLENGE") {
        let mut bytes = [0; 8];
        (client.server.options.env.fill)(&mut bytes);
        let challenge = client.challenge.insert(challenge(bytes));
        client.output.simple(challenge);
        return Ok(());
    }
    let Some(admin) = &client.server.options.admin else { return refuse(DISABLED) };
    if client.challenge.is_none() {
        return refuse(NO_CHALLENGE);
    }
    if proof.len() != PROOF_LEN {
        return refuse(BAD_PROOF);
    }
    // One use, right or wrong.
    let challenge = client.challenge.take().unwrap_or_default();
    if !is_proof(proof, &challenge, admin.as_bytes()) {
        return refuse(DENIED);
    }
    client.is_admin = true;
    client.output.simple("OK");
    Ok(())
}

/// `SELECT namespace [password]`, `SELECT namespace SECURE proof`
pub(crate) fn select(client: &mut Client, arguments: &[Bytes]) -> Done {
    let Some((name, proof)) = arguments.split_first() else { return refuse("Invalid argument") };
    let namespace = namespace_of(client, name)?;
    client.is_writer = may_write(client, &namespace, proof)?;
    client.namespace = namespace;
    client.output.simple("OK");
    Ok(())
}

/// Whether who gives this may write.
///
/// # Errors
/// Who may not even read.
fn may_write(client: &Client, namespace: &Namespace, given: &[Bytes]) -> Result<bool, Refusal> {
    let settings = namespace.settings();
    let Some(password) = &settings.password else { return Ok(true) };
    match given {
        [] if settings.public => Ok(false),
        [] => refuse("Namespace protected and private"),
        [given] if given.len() > NAMESPACE_PASSWORD_LEN_MAX => refuse("Password too long"),
        [given] => {
            if is_same(given, password) {
                Ok(true)
            } else {
                refuse(DENIED)
            }
        }
        [method, proof] => {
            if !method.eq_ignore_ascii_case(b"SECURE") {
                return refuse(ONLY_SECURE);
            }
            let Some(challenge) = &client.challenge else { return refuse(NO_CHALLENGE) };
            if proof.len() != PROOF_LEN {
                return refuse(BAD_PROOF);
            }
            if is_proof(proof, challenge, password) { Ok(true) } else { refuse(DENIED) }
        }
        _ => refuse("Too many arguments"),
    }
}
