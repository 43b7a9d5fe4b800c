//! Which command is carried out by whom, and with what: what needs no stores, what asks a server or does it itself, and what
//! works on a namespace.

use std::{process::ExitCode, sync::OnceLock};

use clap::CommandFactory as _;
use muxfs::{Error, ErrorKind, Result};

use super::{
    car, cp, doctor, flist, ftp_user, gc, get, history, hub, ipfs, key, list, mount, mount_of, mount_or_default, name,
    path_or_default, pin, put, read, reload, remove, serve, vault, verify, verify_all, zdb, zstor,
};
use crate::{
    args::{Car, Cli, Command, Flist, Global, Http, Ipfs, Key, Pin, Zstor},
    config::{Config, Source},
    exit_code, http_token,
    names::Names,
    namespace::Namespace,
    opened::{InUse, VfsInUse, server},
    output::{self, Output},
    s3,
};

pub(crate) async fn run(cli: Cli, vfs: VfsInUse) -> Result<ExitCode> {
    let in_use = InUse { vfs, own: OnceLock::new() };
    let done = Box::pin(run_in(cli, &in_use)).await;
    // Also one that failed lets others go on with what they share.
    if let (Err(_), Some(own)) = (&done, in_use.own.get())
        && let Err(error) = own.close().await
    {
        tracing::debug!("what was opened did not end well: {error:#}");
    }
    done
}

async fn run_in(mut cli: Cli, in_use: &InUse) -> Result<ExitCode> {
    if let Command::Mount(args) = &mut cli.command {
        mount::take_flags(args, &mut cli.global);
    }
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    // A node has no configuration, and its data directory is no other's.
    if let Command::Zdb(command) = cli.command {
        return Box::pin(zdb::zdb(cli.global.data.as_deref(), command, output)).await;
    }
    let Global { config: file, data, local, password_fd, .. } = &cli.global;
    let (file, data, local, password_fd) = (file.clone(), data.clone(), local.clone(), *password_fd);
    let source = Source { file, data, local, password_fd, ..Source::default() };
    let config = Config::effective(source);
    if let Command::Doctor = cli.command {
        return doctor::doctor(config, output).await;
    }
    let config = config?;
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "muxfs", &mut script);
            output::raw(&script)?;
        }
        Command::Key(Key::New { file }) => key::new(&file, output)?,
        Command::FtpUser { name, home, read_only, users } => {
            ftp_user::ftp_user(&name, &home, read_only, users.as_deref()).await?;
        }
        Command::Http(Http::Token) => {
            let token = http_token::read(&config.data)?;
            output
                .result(format!("{}\n", token.as_str()).as_bytes(), &serde_json::json!({ "token": token.as_str() }))?;
        }
        Command::S3(command) => s3::command(&config, &command, output).await?,
        Command::Hub(hub) => hub::hub(&hub, &config, output).await?,
        Command::Vault(command) => return Box::pin(vault::vault(command, config, output)).await,
        Command::Serve(args) => Box::pin(serve::serve(config, &args, output)).await?,
        Command::Mount(args) => {
            let server = server(&config).await?;
            return Box::pin(mount::mount(config, &args, server, output)).await;
        }
        Command::Umount(args) => mount::umount(&args, server(&config).await?).await?,
        Command::Put(put) => Box::pin(put::run(config, in_use, &put, output)).await?,
        Command::Cp(args) => Box::pin(cp::command(config, in_use, &args, output)).await?,
        Command::Zstor(Zstor::Status { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            zstor::status(&zstor::look(config).await?, mount, output).await?;
        }
        Command::Zstor(Zstor::Plan { lose, mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            return zstor::plan(&zstor::look(config).await?, mount, &lose, output).await;
        }
        Command::Zstor(Zstor::Node(node)) => {
            let server = server(&config).await?;
            zstor::change_nodes(config, server, node, output).await?;
        }
        Command::Zstor(Zstor::Import(args)) => {
            Box::pin(zstor::run_import(config, in_use, &args, output)).await?;
        }
        Command::Zstor(Zstor::Export(args)) => {
            Box::pin(zstor::run_export(config, in_use, &args, output)).await?;
        }
        Command::Flist(Flist::Import(args)) => Box::pin(flist::run_import(config, in_use, &args, output)).await?,
        Command::Flist(
            flist @ (Flist::Create { .. } | Flist::Export { .. } | Flist::Commit { .. } | Flist::Add { .. }),
        ) => {
            return Box::pin(flist::run_make(config, in_use, &flist, output)).await;
        }
        Command::Flist(Flist::Sign { flist, key }) => {
            flist::sign(&flist, &Names::of(&config.data).key(&key)?, output)?;
        }
        Command::Flist(flist) => return flist::flist(&flist, output).await,
        Command::Car(Car::Ls { file }) => car::ls(&file, output).await?,
        Command::Car(Car::Verify { file, whole }) => car::verify(&file, whole, output).await?,
        Command::Car(Car::Import(args)) => Box::pin(car::run_import(config, in_use, &args, output)).await?,
        Command::Ipfs(Ipfs::Publish(args)) => Box::pin(ipfs::run_publish(config, in_use, &args, output)).await?,
        Command::Name(name) => Box::pin(name::name(config, in_use, name, output)).await?,
        Command::Reload => {
            let Some(client) = server(&config).await? else {
                let why = "no server runs with this data directory: the next start reads the configuration";
                return Err(Error::new(ErrorKind::Unavailable, "reload").at(config.data.display()).because(why));
            };
            reload(&client, output).await?;
        }
        Command::Config => {
            let text = match server(&config).await? {
                Some(client) => client.config().await?,
                None => config.to_text()?,
            };
            output::raw(text.as_bytes())?;
        }
        other => {
            let namespace = in_use.open(config).await?;
            let done = command(other, &*namespace, output).await?;
            namespace.close().await?;
            return Ok(done);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn command(command: Command, namespace: &dyn Namespace, output: Output) -> Result<ExitCode> {
    match command {
        Command::Get(args) => {
            let keys = key::of_files(args.key_file.as_deref())?;
            let job = get::Job { dest: &args.dest, force: args.force, keys: &keys, output };
            get::get(namespace, &super::path(&args.path)?, &job).await?;
        }
        Command::Cat { paths, key_file } => {
            let keys = key::of_files(key_file.as_deref())?;
            read::cat(namespace, &super::paths(&paths)?, &keys).await?;
        }
        Command::Ls { path, long } => {
            list::ls(namespace, &super::place(&path)?, long, output).await?;
        }
        Command::Stat { path } => list::stat(namespace, &super::place(&path)?, output).await?,
        Command::Has { path } => {
            let has = read::has(namespace, &super::path(&path)?, output).await?;
            return Ok(if has { ExitCode::SUCCESS } else { ExitCode::from(exit_code(ErrorKind::NotFound)) });
        }
        Command::Rm { paths } => remove::rm(namespace, &super::paths(&paths)?, output).await?,
        Command::Pin(Pin::Ls { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            pin::ls(namespace, mount, output).await?;
        }
        Command::Pin(Pin::Add { path }) => {
            pin::add(namespace, &super::path(&path)?, output).await?;
        }
        Command::Pin(Pin::Rm { path }) => pin::rm(namespace, &super::path(&path)?, output).await?,
        Command::Commit { mount, note } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            history::commit(namespace, mount, &note, output).await?;
        }
        Command::Log { path } => {
            let path = path_or_default(namespace, path.as_deref()).await?;
            history::log(namespace, &path, output).await?;
        }
        Command::Diff { before, after, path } => {
            let path = path_or_default(namespace, path.as_deref()).await?;
            history::diff(namespace, &path, (&before, &after), output).await?;
        }
        Command::Snapshot { name, mount, remove } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            if remove {
                history::remove_snapshot(namespace, mount, &name, output).await?;
            } else {
                history::snapshot(namespace, mount, &name, output).await?;
            }
        }
        Command::Checkout { commit, mount } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            history::checkout(namespace, mount, &commit, output).await?;
        }
        Command::Restore { commit, path, dest } => {
            let path = super::path(&path)?;
            let target = dest.as_deref().map_or_else(|| Ok(path.clone()), super::path)?;
            history::restore(namespace, &commit, &path, &target, output).await?;
        }
        Command::Car(Car::Export(args)) => car::export(namespace, &args, output).await?,
        Command::Gc { mount, dry_run } => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            gc::gc(namespace, mount, dry_run, output).await?;
        }
        Command::Verify { path, all: true, restart, max_rate } => {
            let mount = path.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            let options = verify_all::VerifyAll { mount, restart, rate_max: max_rate.map(|rate| rate.0) };
            verify_all::verify_all(namespace, &options, output).await?;
        }
        Command::Verify { path, .. } => {
            let path = path.ok_or_else(|| Error::new(ErrorKind::Internal, "main.verify"))?;
            verify::verify(namespace, &super::path(&path)?, output).await?;
        }
        Command::Zstor(Zstor::Scrub { mount, restart, max_rate }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            let options = zstor::Scrub { mount, restart, rate_max: max_rate.map(|rate| rate.0) };
            zstor::scrub(namespace, &options, output).await?;
        }
        Command::Zstor(Zstor::Repair { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            zstor::repair(namespace, mount, output).await?;
        }
        Command::Key(Key::Rotate { mount, no_wait }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            key::rotate(namespace, &key::Rotate { mount, wait: !no_wait }, output).await?;
        }
        Command::Serve(_)
        | Command::Zdb(_)
        | Command::Name(_)
        | Command::Reload
        | Command::Zstor(
            Zstor::Status { .. } | Zstor::Plan { .. } | Zstor::Node(_) | Zstor::Import(_) | Zstor::Export(_),
        )
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Put(_)
        | Command::Cp(_)
        | Command::Car(Car::Import(_) | Car::Ls { .. } | Car::Verify { .. })
        | Command::Ipfs(_)
        | Command::Flist(_)
        | Command::Doctor
        | Command::Config
        | Command::Key(Key::New { .. })
        | Command::FtpUser { .. }
        | Command::Http(_)
        | Command::S3(_)
        | Command::Hub(_)
        | Command::Vault(_)
        | Command::Completions { .. } => {
            return Err(Error::new(ErrorKind::Internal, "main.command").because("this command needs no namespace"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
