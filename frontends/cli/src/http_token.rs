//! The token that lets its owner write over HTTP: a file of the data directory that only its owner reads.

use std::{
    io,
    path::{Path, PathBuf},
};

use muxfs::{Env, Error, ErrorKind, Result};
use muxfs_http::Token;

use crate::{
    commands::put::host,
    data_dir::private_dir,
    host_file::{Mode, read_password_file, replace},
};

/// Where it is.
pub(crate) fn file(data: &Path) -> PathBuf {
    data.join("http").join("token")
}

/// The token, as it was made.
///
/// # Errors
/// `NotFound` before the first server made it; `Denied` where others may read it; `InvalidArgument` for what is none.
pub(crate) fn read(data: &Path) -> Result<Token> {
    let file = file(data);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "http.token")
            .at(file.display())
            .because("there is none yet: `muxfs serve` makes it at its first start"),
        _ => host(&file, error),
    };
    let text = read_password_file(&file, "http.token", failed)?;
    let text = String::from_utf8_lossy(text.trim_ascii()).into_owned();
    Token::new(&text).map_err(|error| error.at(file.display()))
}

/// The token, which is made where there is none.
pub(crate) fn read_or_make(data: &Path, env: &Env) -> Result<Token> {
    match read(data) {
        Err(none) if none.kind() == ErrorKind::NotFound => {}
        read => return read,
    }
    let (token, file) = (Token::generate(env), file(data));
    private_dir(&data.join("http"))?;
    let line = format!("{}\n", token.as_str());
    replace(&file, line.as_bytes(), Mode::Given(0o600)).map_err(|error| host(&file, error))?;
    Ok(token)
}
