//! Callers: what the credentials of a call say, what the squash rules make of it, and the `Vfs` as that caller may see
//! it. Spec: spec/nfs.md #callers.

use std::{net::IpAddr, sync::Arc};

use muxfs::vfs::{
    Vfs,
    posix::{Caller, PosixOptions, posix_with},
};

use crate::{
    options::{Options, Squash},
    rpc::Claimed,
};

/// One caller, and the file system with the checks for them.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) caller: Caller,
    pub(crate) view: Arc<dyn Vfs>,
}

impl Identity {
    pub(crate) fn new(vfs: &Arc<dyn Vfs>, options: &Options, peer: IpAddr, claimed: Claimed) -> Self {
        let caller = squash(options, peer, claimed);
        let rules = PosixOptions { owner_override: options.owner_override };
        Self { view: posix_with(vfs.clone(), caller.clone(), rules), caller }
    }
}

/// Whom the server takes a caller for.
fn squash(options: &Options, peer: IpAddr, claimed: Claimed) -> Caller {
    let anonymous = Caller { uid: options.anon_uid, gid: options.anon_gid, groups: Vec::new() };
    let Claimed::Unix { uid, gid, groups } = claimed else { return anonymous };
    match options.squash_for(peer) {
        Squash::All => anonymous,
        Squash::None => Caller { uid, gid, groups },
        Squash::Root => {
            let group = |gid| if gid == 0 { options.anon_gid } else { gid };
            let uid = if uid == 0 { options.anon_uid } else { uid };
            Caller { uid, gid: group(gid), groups: groups.into_iter().map(group).collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ids = (u32, u32, &'static [u32]);
    type Row = (Option<Squash>, IpAddr, Option<(u32, u32)>, Ids);

    /// The whole matrix: who is squashed to whom, by rule and by where the call comes from.
    #[test]
    fn squash_matrix() {
        const ANON: Ids = (65534, 65534, &[]);
        let near: IpAddr = [127, 0, 0, 1].into();
        let far: IpAddr = [192, 0, 2, 1].into();
        let table: [Row; 14] = [
            (None, near, None, ANON),
            (None, near, Some((0, 0)), (0, 0, &[0, 5])),
            (None, near, Some((7, 8)), (7, 8, &[0, 5])),
            (None, far, None, ANON),
            (None, far, Some((0, 0)), (65534, 65534, &[65534, 5])),
            (None, far, Some((7, 0)), (7, 65534, &[65534, 5])),
            (None, far, Some((7, 8)), (7, 8, &[65534, 5])),
            (Some(Squash::None), far, None, ANON),
            (Some(Squash::None), far, Some((0, 0)), (0, 0, &[0, 5])),
            (Some(Squash::Root), near, None, ANON),
            (Some(Squash::Root), near, Some((0, 8)), (65534, 8, &[65534, 5])),
            (Some(Squash::All), near, None, ANON),
            (Some(Squash::All), near, Some((0, 0)), ANON),
            (Some(Squash::All), far, Some((7, 8)), ANON),
        ];
        for (rule, peer, claimed, want) in table {
            let options = Options { squash: rule, ..Options::default() };
            let claimed = claimed.map_or(Claimed::Nobody, |(uid, gid)| Claimed::Unix { uid, gid, groups: vec![0, 5] });
            let got = squash(&options, peer, claimed.clone());
            assert_eq!((got.uid, got.gid, got.groups.as_slice()), want, "{rule:?} {peer} {claimed:?}");
        }
    }
}
