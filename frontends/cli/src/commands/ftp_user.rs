//! `ftp-user`: makes a user for the users file of FTP and HTTP.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use muxfs::{Error, ErrorKind, Result};

use super::put::host;
use crate::{
    host_file::{Editing, Mode, replace},
    instance, output,
};

/// Adds a user to `users`, or prints its lines; the password comes from standard input.
pub(crate) async fn ftp_user(name: &str, home: &str, read_only: bool, users: Option<&Path>) -> Result<()> {
    if io::stdin().is_terminal() {
        eprint!("password for {name} (it is shown): ");
        io::stderr().flush().ok();
    }
    let mut password = String::new();
    io::stdin()
        .lock()
        .read_line(&mut password)
        .map_err(|error| Error::new(ErrorKind::Io, "ftp-user.password").because(error))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "ftp-user.password").because("an empty password"));
    }
    let lines = muxfs_users::user_line(name, password, home, read_only, &instance::env())?;
    match users {
        Some(users) => add(users, &lines).await,
        None => output::raw(lines.as_bytes()),
    }
}

/// Replaces the file at one stroke, so that a server that starts meanwhile reads a whole one, and alone, so that another
/// user who is added meanwhile is not left out.
async fn add(users: &Path, lines: &str) -> Result<()> {
    let _editing = Editing::begin(users).await?;
    let text = match fs::read_to_string(users) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| host(users, error))?,
    };
    let with = muxfs_users::with_user(&text, lines).map_err(|error| error.at(users.display()))?;
    replace(users, with.as_bytes(), Mode::Given(0o600)).map_err(|error| host(users, error))
}
