//! `vault`: makes vaults, opens one alone, and looks after them.
//!
//! Each command has the vault for itself: a server that has it open is asked to end first. A mount of the configuration has its data
//! directory; a vault that is named by its place has one of its own in the state directory of the user.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use futures_util::TryStreamExt as _;
use muxfs::{Error, ErrorKind, Prefix, QfsPath, Result};
use muxfs_vault::{Cost, Vault, VaultOptions, VaultPlace};
use serde_json::json;

use super::{get, put::host};
use crate::{
    args,
    config::{Config, Mount, PrefixText, Span},
    data_dir::{DataDir, private_dir},
    instance::{Instance, env},
    mounts::MountPoint,
    output::{Output, bytes, count},
    vault::{self, LOCK, OpenStore, Renewed, VaultMount, VaultStore, Want, Way, password::PasswordFrom},
};

/// So much is put under another master key between two looks at how far it is, in bytes.
const REKEY_LEN: u64 = 64 << 20;

/// What a vault is mounted as that is named by its place.
const PREFIX: &str = "vault";

/// Does what is asked of a vault.
pub(crate) async fn vault(command: args::Vault, config: Config, output: Output) -> Result<ExitCode> {
    match command {
        args::Vault::Create(args) => create(&config, &args, output).await?,
        args::Vault::Open(args) => Box::pin(open(&config, &args, output)).await?,
        args::Vault::Passwd(args) => passwd(&config, &args, output).await?,
        args::Vault::Rekey(place) => rekey(&config, &place, output).await?,
        args::Vault::Info { place, sealed } => info(&config, &place, sealed, output).await?,
        args::Vault::Check(place) => return check(&config, &place, output).await,
        args::Vault::Export { place, dest } => Box::pin(export(&config, &place, &dest, output)).await?,
        args::Vault::Destroy { place, yes } => destroy(&config, &place, yes, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A vault of the command line.
struct Target {
    /// With the data directory, and one mount alone.
    config: Config,
    mount: VaultMount,
    password: PasswordFrom,
    /// As whoever typed the command calls it.
    name: String,
}

impl Target {
    /// Finds out what is meant: a mount of the configuration, or a place.
    ///
    /// # Errors
    /// `InvalidArgument` for a mount of another kind.
    fn of(config: &Config, args: &args::VaultPlaceArgs, way: Way) -> Result<Self> {
        let name = args.vault.to_string_lossy().into_owned();
        let (mut config, mut mount) = match mount_of(config, &args.vault)? {
            Some(mount) => (config.clone(), mount.clone()),
            None => of_place(config, VaultStore::parse(&args.vault)?)?,
        };
        // The descriptor is what remains where nothing is named.
        if args.has_password() || config.source.password_fd.is_some() {
            mount.password_file.clone_from(&args.password_file);
            mount.key_file.clone_from(&args.key_file);
            mount.password_env.clone_from(&args.password_env);
            mount.password_command.clone_from(&args.password_command);
        }
        mount.way = way;
        config.mount = vec![Mount::Vault(mount.clone())];
        config.default = None;
        let password = mount.password(&config);
        Ok(Self { config, mount, password, name })
    }

    /// Owns the data directory.
    ///
    /// # Errors
    /// `Unavailable` where a server has it.
    fn own(&self) -> Result<DataDir> {
        DataDir::own(&self.config.data)
    }

    fn local(&self) -> PathBuf {
        self.mount.local_dir(&self.config.data)
    }

    /// Opens the store.
    async fn store(&self, want: Want) -> Result<OpenStore> {
        let prefix = self.mount.prefix.0;
        let opened = self.mount.place(&self.config.data).open(&self.config.data, prefix, want, &env()).await;
        let opened = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound if want == Want::Vault => {
                let why = format!("there is no vault: make one with muxfs vault create {}", self.name);
                Error::new(ErrorKind::NotFound, "vault.open").at(&self.name).because(why)
            }
            _ => error,
        })?;
        private_dir(&self.local())?;
        Ok(opened)
    }

    async fn place(&self, store: &OpenStore) -> Result<VaultPlace> {
        vault::place_in(store, &self.local(), &env()).await
    }

    /// Opens the vault in a store, with its password.
    async fn open(&self, store: &OpenStore) -> Result<Vault> {
        let password = self.password.known(&self.name).await?;
        vault::password::forbid_dumps();
        Vault::open(self.place(store).await?, &password).await.map_err(|error| error.at(&self.name))
    }
}

/// The mount of the configuration that is named, if one is.
fn mount_of<'a>(config: &'a Config, text: &OsStr) -> Result<Option<&'a VaultMount>> {
    let named = text.to_str().and_then(|text| Prefix::new(text.strip_prefix('/')?).ok());
    match config.mount.iter().find(|mount| Some(mount.prefix()) == named) {
        Some(Mount::Vault(mount)) => Ok(Some(mount)),
        // What is no directory of the host either is meant as a mount.
        Some(mount) if !Path::new(text).exists() => {
            let why = "this mount is no vault; a directory of that name is dir:///NAME";
            Err(Error::new(ErrorKind::InvalidArgument, "vault.place").at(format!("/{}", mount.prefix())).because(why))
        }
        _ => Ok(None),
    }
}

/// A configuration of a vault alone, with a data directory for what is not in it.
fn of_place(config: &Config, store: VaultStore) -> Result<(Config, VaultMount)> {
    let state = config.source.data.clone().unwrap_or_else(state_dir);
    let data = std::path::absolute(state.join("vaults").join(store.id())).map_err(|error| host(&state, error))?;
    let prefix = PrefixText(Prefix::new(PREFIX)?);
    let mount = VaultMount {
        prefix,
        store: Some(store),
        password_file: None,
        key_file: None,
        password_env: None,
        password_command: None,
        is_async: false,
        way: Way::default(),
    };
    Ok((Config { data, ..config.clone() }, mount))
}

/// `$XDG_STATE_HOME/muxfs`, else `~/.local/state/muxfs`, else `./muxfs-state`.
fn state_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from("muxfs-state"), |dir| dir.join("muxfs"))
}

async fn calibrated(Span(target): Span) -> Result<Cost> {
    let measured = tokio::task::spawn_blocking(move || Cost::calibrated(target)).await;
    measured.map_err(|error| Error::new(ErrorKind::Internal, "vault.cost").because(error))
}

/// Closes a store, and gives what was done before.
async fn closing<T>(store: OpenStore, done: Result<T>) -> Result<T> {
    let closed = store.below.close().await;
    let done = done?;
    closed.map(|()| done)
}

async fn create(config: &Config, args: &args::VaultCreate, output: Output) -> Result<()> {
    let target = Target::of(config, &args.place, Way::Kept)?;
    let _data = target.own()?;
    let pack_len = u32::try_from(args.pack_size.0).unwrap_or(u32::MAX);
    let store = target.store(Want::Nothing).await?;
    let work = async {
        let place = target.place(&store).await?;
        if Vault::seen(&place).await.is_ok() {
            let why = "there is a vault already: muxfs vault destroy removes it";
            return Err(Error::new(ErrorKind::Exists, "vault.create").at(&target.name).because(why));
        }
        let password = target.password.new_one(&target.name).await?;
        vault::password::forbid_dumps();
        let cost = calibrated(args.unlock_time).await?;
        let options = VaultOptions { cipher: args.cipher.into(), compression: args.compression.into(), pack_len, cost };
        let made = Vault::create(place, &password, &options).await;
        made.map(|made| (made.about(), cost)).map_err(|error| error.at(&target.name))
    };
    let made = work.await;
    let (about, cost) = closing(store, made).await?;
    let place = target.mount.place(&target.config.data).to_string();
    output.notice(
        "Who forgets the password, or loses the key file, has lost everything in the vault: keep a copy elsewhere.",
    );
    let id = hex(about.id);
    let value = json!({
        "id": id,
        "place": place,
        "cipher": about.cipher.to_string(),
        "compression": about.compression.to_string(),
        "pack_len": about.pack_len,
        "cost": { "memory_kib": cost.memory_kib, "passes": cost.passes, "lanes": cost.lanes },
    });
    output.result(format!("vault {id} in {place}").as_bytes(), &value)
}

async fn open(config: &Config, args: &args::VaultOpen, output: Output) -> Result<()> {
    let Target { mut config, mount, name, .. } = Target::of(config, &args.place, Way::Lent)?;
    let dir = std::path::absolute(&args.dir).map_err(|error| host(&args.dir, error))?;
    let prefix = Some(format!("/{}", mount.prefix.0));
    let point = MountPoint { dir, prefix, options: args.options.join(",") };
    point.fuse_options()?;
    config.listen_nowhere();
    config.http.hub = None;
    config.fuse.mounts = vec![point.clone()];
    config.check()?;
    let data = DataDir::own(&config.data)?;
    let ready = || {
        let value = json!({ "vault": name, "dir": point.dir.to_string_lossy() });
        output.result(format!("{name} is open at {}", point.dir.display()).as_bytes(), &value)
    };
    let idle = args.lock_after.map(|Span(idle)| idle);
    Box::pin(super::serve::serve_until_idle(config, data, idle, ready, output)).await
}

async fn passwd(config: &Config, args: &args::VaultPasswd, output: Output) -> Result<()> {
    let target = Target::of(config, &args.place, Way::Kept)?;
    let _data = target.own()?;
    let store = target.store(Want::Vault).await?;
    let change = async {
        let vault = target.open(&store).await?;
        let password = args.new_password().new_one(&target.name).await?;
        vault.change_password(&password, calibrated(args.unlock_time).await?).await
    };
    let changed = change.await;
    closing(store, changed).await?;
    let value = json!({ "vault": target.name });
    output.result(format!("{} has another password", target.name).as_bytes(), &value)
}

async fn rekey(config: &Config, args: &args::VaultPlaceArgs, output: Output) -> Result<()> {
    let target = Target::of(config, args, Way::Kept)?;
    let _data = target.own()?;
    let store = target.store(Want::Vault).await?;
    let replace = async {
        let password = target.password.known(&target.name).await?;
        vault::password::forbid_dumps();
        let vault = Vault::open(target.place(&store).await?, &password).await?;
        let begun = vault.rekey(&password).await?;
        if !begun {
            output.notice("The master key was being replaced already: that goes on.");
        }
        // Before the last pack, so that a rekey which is done has done this.
        let beside = vault::renew(&vault, &target.local(), &env()).await?;
        let pack_len = u64::from(vault.about().pack_len);
        let progress = output.progress(vault.rekey_left().map(|packs| packs * pack_len));
        let mut packs = 0;
        loop {
            let done = vault.rekey_some(REKEY_LEN).await?;
            packs += done.packs;
            progress.add_bytes(done.packs * pack_len);
            if done.is_done {
                return Ok((packs, beside));
            }
        }
    };
    let replaced = replace.await.map_err(|error: Error| error.at(&target.name));
    let (packs, beside) = closing(store, replaced).await?;
    match &beside {
        Renewed::Settled => {}
        Renewed::Elsewhere(place) => output.notice(&format!(
            "{place} has the journal and the pins of this vault: they come under new keys when it opens the vault there."
        )),
        Renewed::Waits(place) => output.notice(&format!(
            "{place} has the journal and the pins of this vault, which may still be under keys of before the rekey before this one: \
             open the vault there, and rekey it again if muxfs vault info says so then."
        )),
    }
    let value = json!({ "vault": target.name, "packs": packs, "is_beside_settled": beside == Renewed::Settled });
    let text = format!("{} has another master key: {} packs were put again", target.name, count(packs));
    output.result(text.as_bytes(), &value)
}

async fn info(config: &Config, args: &args::VaultPlaceArgs, sealed: bool, output: Output) -> Result<()> {
    let target = Target::of(config, args, Way::Kept)?;
    let _data = target.own()?;
    let store = target.store(Want::Vault).await?;
    let look = async {
        let seen = Vault::seen(&target.place(&store).await?).await?;
        let len = store.below.len().await?;
        let vault = if sealed { None } else { Some(target.open(&store).await?) };
        let opened = vault.map(|vault| (vault.about(), vault.usage(), vault.rekey_left(), vault::is_settled(&vault)));
        Ok((seen, len, opened))
    };
    let looked = look.await;
    let (seen, len, opened) = closing(store, looked).await?;
    let (cost, place) = (seen.cost, target.mount.place(&target.config.data).to_string());
    let mut lines = vec![
        ("place", place.clone()),
        ("cipher", seen.cipher.to_string()),
        ("password", format!("{} MiB of memory, {} passes, {} lanes", cost.memory_kib >> 10, cost.passes, cost.lanes)),
        ("objects", format!("{} of random names", count(seen.object_count))),
        ("store", format!("{} in all", bytes(len))),
    ];
    let mut value = json!({
        "place": place,
        "cipher": seen.cipher.to_string(),
        "cost": { "memory_kib": cost.memory_kib, "passes": cost.passes, "lanes": cost.lanes },
        "objects": seen.object_count,
        "store_len": len,
    });
    if let Some((about, usage, rekey_left, is_beside_settled)) = opened {
        lines.extend([
            ("id", hex(about.id)),
            ("compression", about.compression.to_string()),
            ("packs", format!("{} of {}", count(usage.pack_count), bytes(about.pack_len.into()))),
            ("live", format!("{} in {} blocks", bytes(usage.live_len), count(usage.block_count))),
            ("epoch", about.epoch.to_string()),
        ]);
        if let Some(left) = rekey_left {
            let text = format!("{} packs are under the master key of before: muxfs vault rekey goes on", count(left));
            lines.push(("rekey", text));
        }
        if !is_beside_settled {
            let text = "journal and pins are under keys of before, until who has them opens the vault";
            lines.push(("beside", text.to_owned()));
        }
        value["rekey_packs_left"] = rekey_left.into();
        value["is_beside_settled"] = is_beside_settled.into();
        value["id"] = hex(about.id).into();
        value["compression"] = about.compression.to_string().into();
        value["pack_len"] = about.pack_len.into();
        value["packs"] = usage.pack_count.into();
        value["live_len"] = usage.live_len.into();
        value["blocks"] = usage.block_count.into();
        value["epoch"] = about.epoch.into();
    }
    let lines: Vec<String> = lines.into_iter().map(|(key, text)| format!("{key:12}{text}")).collect();
    output.result(lines.join("\n").as_bytes(), &value)
}

async fn check(config: &Config, args: &args::VaultPlaceArgs, output: Output) -> Result<ExitCode> {
    let target = Target::of(config, args, Way::Kept)?;
    let _data = target.own()?;
    let store = target.store(Want::Vault).await?;
    let read = async { target.open(&store).await?.check().await };
    let read = read.await;
    let checked = closing(store, read).await?;
    let mut lines: Vec<String> = checked.damaged.iter().map(|what| format!("damaged: {what}")).collect();
    lines.push(match checked.damaged.len() {
        0 => format!("{} packs are whole", count(checked.packs)),
        damaged => format!("{} packs were read, {damaged} faults", count(checked.packs)),
    });
    let value = json!({ "vault": target.name, "packs": checked.packs, "damaged": checked.damaged });
    output.result(lines.join("\n").as_bytes(), &value)?;
    if checked.damaged.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let why =
        "something is damaged or lost: bring the store back from a backup; muxfs vault export copies what can be read";
    Err(Error::new(ErrorKind::Corrupt, "vault.check").at(&target.name).because(why))
}

async fn export(config: &Config, args: &args::VaultPlaceArgs, dest: &Path, output: Output) -> Result<()> {
    let Target { config, mount, .. } = Target::of(config, args, Way::Read)?;
    let data = DataDir::own(&config.data)?;
    let instance = Box::pin(Instance::open(config, &data, None)).await?;
    let job = get::Job { dest, force: false, keys: &[], output };
    let path = QfsPath { prefix: mount.prefix.0, parts: Vec::new() };
    let copied = get::get(&instance, &path, &job).await;
    let closed = instance.close().await;
    copied.and(closed)
}

async fn destroy(config: &Config, args: &args::VaultPlaceArgs, yes: bool, output: Output) -> Result<()> {
    let target = Target::of(config, args, Way::Kept)?;
    let _data = target.own()?;
    let store = target.store(Want::Vault).await?;
    let destroy = async {
        let password = target.password.known(&target.name).await?;
        if !yes {
            confirmed(&target.name)?;
        }
        let destroyed = Vault::destroy(target.place(&store).await?, &password).await;
        let destroyed = destroyed.map_err(|error| error.at(&target.name))?;
        store.below.compact().await?;
        Ok((destroyed, store.blocks.keys().try_next().await?.is_none()))
    };
    let destroyed = destroy.await;
    let lock = store.below.keep_lock().map_err(|error| host(&target.local(), error));
    let (destroyed, is_empty) = closing(store, destroyed).await?;
    vault::forget(&target.local())?;
    let place = target.mount.place(&target.config.data);
    // What somebody else keeps there stays.
    if let VaultStore::Dir(dir) = &place
        && is_empty
    {
        remove_store(dir)?;
    }
    drop(lock?);
    let value = json!({ "vault": target.name, "objects": destroyed.packs });
    let text = format!("{} is destroyed: {} objects are gone from {place}", target.name, count(destroyed.packs));
    output.result(text.as_bytes(), &value)
}

/// Removes the files of a store that nothing is in any more, and their directory if nothing else is in it.
fn remove_store(dir: &Path) -> Result<()> {
    let failed = |path: &Path, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(host(path, error)),
    };
    for part in ["blocks", "index", "heads"] {
        let path = dir.join(part);
        fs::remove_dir_all(&path).or_else(|error| failed(&path, error))?;
    }
    let lock = dir.join(LOCK);
    fs::remove_file(&lock).or_else(|error| failed(&lock, error))?;
    // Somebody else's files stay, and with them the directory.
    fs::remove_dir(dir).ok();
    Ok(())
}

/// Has whoever sits at the terminal type the name.
fn confirmed(name: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "vault.destroy").at(name).because(why));
    if !io::stdin().is_terminal() {
        return refuse("nobody is there to be asked: say --yes");
    }
    let mut typed = String::new();
    write!(io::stderr(), "Everything in {name} will be gone. Type {name} to destroy it: ").ok();
    let failed = |error| Error::new(ErrorKind::Io, "vault.destroy").because(error);
    io::stdin().lock().read_line(&mut typed).map_err(failed)?;
    if typed.trim_end_matches(['\r', '\n']) == name {
        Ok(())
    } else {
        refuse("that was another name: nothing was done")
    }
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}
