//! `zstor`: how the nodes of `/zstor` do, what more may be lost, and bringing everything back to full strength.
//!
//! Who only asks is answered by the server that has the store, or where none runs by looking at the nodes, however few
//! are there (`look`). Who scrubs has it done by the server, or opens the store. Spec: spec/cli.md #zstor, spec/zstor.md.

mod look;
mod node;
mod plan;
mod scrub;
mod status;
mod v2;

use muxfs::{Error, ErrorKind, Prefix, Result};

pub(crate) use self::{
    look::{look, plan_of, status_of},
    node::change_nodes,
    plan::{Plan, plan},
    scrub::{Scrub, Scrubbing, repair, run, scrub},
    status::{Status, status},
    v2::{run_export, run_import},
};

/// The mounts of kind `zstor`, or the one that is named.
///
/// # Errors
/// `InvalidArgument` where the one that is named is none, or there is none at all.
fn chosen<T>(all: Vec<(Prefix, T)>, named: Option<Prefix>) -> Result<Vec<(Prefix, T)>> {
    let prefixes: Vec<String> = all.iter().map(|(prefix, _)| format!("/{prefix}")).collect();
    let refuse = |why: String| Error::new(ErrorKind::InvalidArgument, "zstor.mount").because(why);
    if all.is_empty() {
        return Err(refuse("there is no mount of kind zstor".into()));
    }
    let Some(named) = named else { return Ok(all) };
    let chosen: Vec<_> = all.into_iter().filter(|(prefix, _)| *prefix == named).collect();
    if chosen.is_empty() {
        return Err(refuse(format!("/{named} has no nodes; those that have: {}", prefixes.join(" "))));
    }
    Ok(chosen)
}

/// The same where it has to be one.
pub(crate) fn chosen_one<T>(all: Vec<(Prefix, T)>, named: Option<Prefix>) -> Result<(Prefix, T)> {
    let mut chosen = chosen(all, named)?;
    if chosen.len() > 1 {
        let prefixes: Vec<String> = chosen.iter().map(|(prefix, _)| format!("/{prefix}")).collect();
        let why = format!("name the mount that is meant: {}", prefixes.join(" "));
        return Err(Error::new(ErrorKind::InvalidArgument, "zstor.mount").because(why));
    }
    chosen.pop().ok_or_else(|| Error::new(ErrorKind::Internal, "zstor.mount"))
}
