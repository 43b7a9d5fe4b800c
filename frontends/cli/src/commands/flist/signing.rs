//! `flist sign` and `flist verify`: who made an flist.

use std::path::Path;

use muxfs::{
    Result,
    ipns::{IpnsName, NameKey},
};
use muxfs_flist::{Signers, signature_path};
use serde_json::json;

use crate::{
    commands::put::host,
    host_file::{Mode, replace},
    output::Output,
};

/// The mode of a file of signatures: whoever reads the flist reads it.
const MODE: u32 = 0o644;

/// Signs an flist, in the file beside it.
pub(crate) fn sign(flist: &Path, key: &NameKey, output: Output) -> Result<()> {
    let file = signature_path(flist);
    let signatures = muxfs_flist::sign(flist, key)?;
    replace(&file, signatures.as_bytes(), Mode::Given(MODE)).map_err(|error| host(&file, error))?;
    told(key.name(), output)
}

/// Checks that one of `signers` signed it.
pub(super) fn verify(flist: &Path, signers: &[IpnsName], output: Output) -> Result<()> {
    told(&Signers::new(signers.to_vec())?.verify(flist)?, output)
}

fn told(signer: &IpnsName, output: Output) -> Result<()> {
    output.result(signer.to_string().as_bytes(), &json!({ "signer": signer.to_string() }))
}
