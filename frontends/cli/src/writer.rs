//! Who a data directory is to others that could write where it does: as long as it is the same directory, the same.

use std::{fs, io, path::Path};

use muxfs::{Env, Error, ErrorKind, Result};

use crate::{
    commands::put::host,
    host_file::{Mode, replace},
};

const WRITER: &str = "writer";

/// Who it is, by the directory of a mount, if that was drawn.
///
/// # Errors
/// `Corrupt`; those of the disk.
pub(crate) fn known(dir: &Path) -> Result<Option<String>> {
    let file = dir.join(WRITER);
    match fs::read_to_string(&file) {
        Ok(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(Some(text)),
        Ok(_) => {
            let why = "it is damaged: bring it back from a backup; without it this machine is another one to whoever knows it";
            Err(Error::new(ErrorKind::Corrupt, "mount.writer").at(file.display()).because(why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(host(&file, error)),
    }
}

/// The same, drawn now where it was not.
///
/// # Errors
/// As [`known`].
pub(crate) fn known_or_drawn(dir: &Path, env: &Env) -> Result<String> {
    if let Some(known) = known(dir)? {
        return Ok(known);
    }
    let (file, text) = (dir.join(WRITER), env.random_id());
    replace(&file, text.as_bytes(), Mode::Given(0o600)).map_err(|error| host(&file, error))?;
    Ok(text)
}

/// What others are told of this machine.
pub(crate) fn hostname() -> String {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    hostname.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_same_as_long_as_its_file_is_there() {
        let (dir, env) = (tempfile::tempdir().expect("a directory"), crate::instance::env());
        assert_eq!(known(dir.path()).expect("read"), None);
        let drawn = known_or_drawn(dir.path(), &env).expect("drawn");
        assert_eq!(known_or_drawn(dir.path(), &env).expect("read"), drawn);
        assert_eq!(known(dir.path()).expect("read"), Some(drawn));
        fs::write(dir.path().join(WRITER), "rubbish").expect("written");
        assert_eq!(known(dir.path()).expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert_eq!(known_or_drawn(dir.path(), &env).expect_err("damaged").kind(), ErrorKind::Corrupt);
    }
}
