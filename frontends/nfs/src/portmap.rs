//! The port mapper, version 2, for our own three programs: a client that asks this port finds everything on it.
//!
//! Nothing is registered with the host's rpcbind, and SET, UNSET and CALLIT are not answered: they let a stranger change
//! the map, or call for somebody else. Spec: RFC 1833 section 3.

use nfs3_types::{
    mount, nfs3,
    portmap::{IPPROTO_TCP, PROGRAM, VERSION, mapping},
    xdr_codec::List,
};

use crate::{
    rpc::Reply,
    xdr::{Decoder, Malformed},
};

/// The programs on this port, and their one version each.
const PROGRAMS: [(u32, u32); 3] =
    [(PROGRAM, VERSION), (nfs3::PROGRAM, nfs3::VERSION), (mount::PROGRAM, mount::VERSION)];

/// Runs one procedure; `Ok(false)` for one there is not.
pub(crate) fn run(port: u16, procedure: u32, mut args: Decoder, reply: &mut Reply) -> Result<bool, Malformed> {
    match procedure {
        0 => {}
        3 => {
            let asked = (args.u32()?, args.u32()?);
            let protocol = args.u32()?;
            let here = protocol == IPPROTO_TCP && PROGRAMS.contains(&asked);
            reply.put(&if here { u32::from(port) } else { 0 });
        }
        4 => {
            let mappings = PROGRAMS.map(|(prog, vers)| mapping { prog, vers, prot: IPPROTO_TCP, port: port.into() });
            reply.put(&List(mappings.to_vec()));
        }
        _ => return Ok(false),
    }
    Ok(true)
}
