//! `key`, and the keys in files that `put`, `get` and `cat` take.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use muxfs::{Error, ErrorKind, Result, SecretKey};
use muxfs_zstor::RootKey;
use serde_json::json;

use crate::{instance::env, output::Output};

/// Draws a key and writes it to a new file.
pub(crate) fn new(file: &Path, output: Output) -> Result<()> {
    RootKey::make(file, &env())?;
    output.result(file.as_os_str().as_bytes(), &json!({ "key": file.to_string_lossy() }))
}

/// The key that is named, for sealed files.
pub(crate) fn of_files(file: Option<&Path>) -> Result<Option<SecretKey>> {
    let Some(file) = file else { return Ok(None) };
    match RootKey::load(file)? {
        Some(key) => Ok(Some(key.for_files())),
        None => Err(Error::new(ErrorKind::NotFound, "key").at(file.display()).because("make one with muxfs key new")),
    }
}
