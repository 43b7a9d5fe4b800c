//! `hub user`: makes, lists and removes the users of a hub of flists.

use std::{fs, io, path::Path};

use muxfs::{Error, ErrorKind, Result};
use muxfs_http::{HubUser, Token, hub_users, with_hub_user, without_hub_user};
use serde_json::json;

use super::put::host;
use crate::{
    args,
    config::Config,
    data_dir::private_dir,
    host_file::{Editing, Mode, replace},
    hub::users_file,
    instance,
    output::Output,
};

/// Carries out one of the commands.
pub(crate) async fn hub(command: &args::Hub, config: &Config, output: Output) -> Result<()> {
    let args::Hub::User(command) = command;
    let file = users_file(config);
    match command {
        args::HubUser::Add { name, acts_for } => {
            let token = Token::generate(&instance::env());
            let acts_for: Vec<&str> = acts_for.iter().map(String::as_str).collect();
            let user = HubUser::new(name, &acts_for, &token)?;
            if config.mount.iter().any(|mount| mount.prefix().as_str() == name) {
                let why = "a mount has this name, and is at the address of the repository";
                return Err(Error::new(ErrorKind::InvalidArgument, "hub.user").at(name).because(why));
            }
            if config.http.hub.is_none() {
                output.notice("muxfs: no server has a hub unless its configuration has [http.hub]");
            }
            if let Some(dir) = file.parent()
                && dir.starts_with(&config.data)
            {
                private_dir(dir)?;
            }
            edit(&file, |text| with_hub_user(text, &user)).await?;
            output.result(token.as_str().as_bytes(), &json!({ "user": name, "token": token.as_str() }))
        }
        args::HubUser::Ls => {
            for user in hub_users(&read(&file)?).map_err(|error| error.at(file.display()))? {
                let line = [std::slice::from_ref(&user.name), &user.acts_for].concat().join(" ");
                output.result(line.as_bytes(), &json!({ "user": user.name, "acts_for": user.acts_for }))?;
            }
            Ok(())
        }
        args::HubUser::Rm { name } => {
            edit(&file, |text| {
                let (text, was_there) = without_hub_user(text, name)?;
                if was_there { Ok(text) } else { Err(Error::new(ErrorKind::NotFound, "hub.user").at(name)) }
            })
            .await
        }
    }
}

/// The text of the file; nothing where there is none.
fn read(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| host(file, error)),
    }
}

/// Replaces the file at one stroke, and alone, as that of FTP users.
async fn edit(file: &Path, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let _editing = Editing::begin(file).await?;
    let text = change(&read(file)?).map_err(|error| error.at(file.display()))?;
    replace(file, text.as_bytes(), Mode::Given(0o600)).map_err(|error| host(file, error))
}
