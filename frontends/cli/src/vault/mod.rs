//! Mounts of kind `vault`, and vaults by the place where they are: a working tree in a [`Vault`], which is in any store.
//!
//! The head of the tree is in the vault, so that the store learns nothing of it and cannot give an older one; the journal and the pins
//! are in the data directory, under keys of the vault. What state was seen last is remembered there, too. Spec: spec/vault.md
//! #the-mount.

mod claim;
pub(crate) mod password;
mod place;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    BlockStore, Env, Prefix, Result, SecretKey,
    block::SegmentsStats,
    heads::LogHeads,
    media::{Media, SealedMedia},
    pins::Pins,
    tree::uncommitted_count,
};
use muxfs_vault::{Vault, VaultPlace};
use serde::{Deserialize, Serialize};

pub(crate) use self::place::{Below, LOCK, OpenStore, VaultStore, Want};
use self::{claim::Claim, password::PasswordFrom, place::head};
use crate::{
    commands::{doctor::Finding, put::host},
    config::{Config, PrefixText},
    data_dir::{content_dir, private_dir},
    instance::{SpaceFn, media},
    take_over, writer,
};

/// What the directory of a journal begins with.
const JOURNAL: &str = "journal-";

/// A vault, and the working tree in it. Spec: spec/vault.md #the-mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VaultMount {
    pub(crate) prefix: PrefixText,
    /// Where its objects are; the directory `DATA/mounts/PREFIX/store` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<VaultStore>,
    /// A file with the password in its first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    /// A file that is the password, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// A variable of the environment that has the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_env: Option<String>,
    /// What the shell runs that prints the password in its first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_command: Option<String>,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
    #[serde(skip)]
    pub(crate) way: Way,
}

/// What a vault is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Way {
    /// To be this data directory's.
    #[default]
    Kept,
    /// To be anybody's again at the end, with everything committed.
    Lent,
    /// To read what was committed last.
    Read,
}

impl VaultMount {
    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let store = self.store.iter_mut().flat_map(VaultStore::files_mut);
        store.chain(&mut self.password_file).chain(&mut self.key_file)
    }

    /// Why it cannot be.
    pub(crate) fn fault(&self) -> Option<String> {
        let prefix = self.prefix.0;
        let said = [
            self.password_file.is_some(),
            self.key_file.is_some(),
            self.password_env.is_some(),
            self.password_command.is_some(),
        ];
        if said.into_iter().filter(|is| *is).count() > 1 {
            return Some(format!("/{prefix}: password_file, key_file, password_env and password_command: one of them"));
        }
        self.store.as_ref().and_then(VaultStore::fault).map(|why| format!("/{prefix}: {why}"))
    }

    /// Where its objects are.
    pub(crate) fn place(&self, data: &Path) -> VaultStore {
        self.store.clone().unwrap_or_else(|| VaultStore::Dir(self.local_dir(data).join("store")))
    }

    /// Where it keeps what is not in the vault.
    pub(crate) fn local_dir(&self, data: &Path) -> PathBuf {
        content_dir(data, self.prefix.0)
    }

    /// Where its password comes from.
    pub(crate) fn password(&self, config: &Config) -> PasswordFrom {
        PasswordFrom {
            file: self.password_file.clone(),
            key_file: self.key_file.clone(),
            env: self.password_env.clone(),
            command: self.password_command.clone(),
            descriptor: config.source.password_fd,
        }
    }

    /// What it is, for people.
    pub(crate) fn described(&self, data: &Path) -> String {
        format!("read and written, a vault in {}", self.place(data))
    }

    /// What it is called where somebody is asked for its password.
    fn name(&self, data: &Path) -> String {
        match self.way {
            Way::Kept => format!("/{}", self.prefix.0),
            Way::Lent | Way::Read => self.place(data).to_string(),
        }
    }
}

/// The place of a vault in an open store; what was seen of it is remembered in `local`.
///
/// # Errors
/// Those of the directory.
pub(crate) async fn place_in(store: &OpenStore, local: &Path, env: &Env) -> Result<VaultPlace> {
    let memory = LogHeads::open(media(&local.join("memory"))?, env).await?;
    let place = VaultPlace::new(store.blocks.clone(), store.heads.clone(), head()?, env.clone());
    Ok(VaultPlace { memory: Some(Arc::new(memory)), ..place })
}

/// An open vault, as a mount has it.
#[derive(Debug)]
pub(crate) struct OpenVault {
    pub(crate) vault: Arc<Vault>,
    /// What is in it, of which nothing is deleted while pins are lost.
    pub(crate) blocks: Arc<dyn BlockStore>,
    below: Below,
    local: PathBuf,
    /// To be given back at the end.
    lent: Option<(Claim, Arc<Pins>)>,
}

/// What a mount is made of, besides.
pub(crate) struct Parts {
    pub(crate) vault: OpenVault,
    pub(crate) pins: Arc<Pins>,
    /// Where the journal is, and what seals it; `None` where nothing is written.
    pub(crate) journal: Option<(PathBuf, SecretKey)>,
    pub(crate) space: SpaceFn,
    pub(crate) local: PathBuf,
}

/// Opens the vault of a mount.
///
/// # Errors
/// `NotFound` where it was never made; `BadKey` for a wrong password; `Denied` where another data directory has its journal; those of the
/// stores.
pub(crate) async fn open(config: &Config, mount: &VaultMount, env: &Env) -> Result<Parts> {
    let (data, prefix) = (config.data.as_path(), mount.prefix.0);
    let local = mount.local_dir(data);
    let store = mount.place(data).open(data, prefix, Want::Vault, env).await?;
    let begin = async {
        private_dir(&local)?;
        let password = mount.password(config).known(&mount.name(data)).await?;
        password::forbid_dumps();
        let vault = Arc::new(Vault::open(place_in(&store, &local, env).await?, &password).await?);
        let pins: Arc<dyn Media> =
            Arc::new(SealedMedia::new(media(&local.join("pins"))?, vault.key("pins"), env.clone()));
        let pins = Arc::new(Pins::open(pins, env).await?);
        if mount.way == Way::Read {
            return Ok((vault, pins, None, None));
        }
        let takes_over = take_over::file(&local).exists();
        let claim = Claim::take(&*vault, &writer::known_or_drawn(&local, env)?, &who(data), takes_over).await?;
        let journal = local.join(format!("{JOURNAL}{}", claim.generation));
        if claim.is_taken_over && !journal.exists() {
            take_over::lose_pins(&local)?;
        }
        take_over::is_over(&local)?;
        let key = vault.key("journal");
        set_aside(&local, &journal, &key, (mount.way, env)).await?;
        let lent = (mount.way == Way::Lent).then(|| (claim, pins.clone()));
        Ok((vault, pins, Some((journal, key)), lent))
    };
    match begin.await {
        Ok((vault, pins, journal, lent)) => {
            let blocks = take_over::keeping(vault.clone(), &local);
            let vault = OpenVault { vault, blocks, below: store.below, lent, local: local.clone() };
            Ok(Parts { vault, pins, journal, space: store.space, local })
        }
        Err(error) => {
            // Whose it is may begin.
            store.below.close().await.ok();
            Err(error)
        }
    }
}

/// Who has a data directory, for people elsewhere.
fn who(data: &Path) -> String {
    format!("{} on {}", data.display(), writer::hostname())
}

/// Looks at the journals of before another data directory had the vault: tells of what no commit has, and of a vault that is lent
/// removes those that have nothing.
async fn set_aside(local: &Path, current: &Path, key: &SecretKey, (way, env): (Way, &Env)) -> Result<()> {
    for dir in journals(local)?.into_iter().filter(|dir| dir != current) {
        let sealed = SealedMedia::new(media(&dir)?, key.clone(), env.clone());
        match uncommitted_count(Arc::new(sealed), env).await {
            Ok(0) if way == Way::Lent => fs::remove_dir_all(&dir).map_err(|error| host(&dir, error))?,
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                dir = %dir.display(),
                count,
                "another data directory took the vault over before the changes in this journal were committed: they are nowhere else, and \
                 are not played over what that one did. Keep it for as long as they may be missed, then remove it"
            ),
            Err(error) => tracing::warn!(
                dir = %dir.display(),
                "a journal of before another data directory took the vault over cannot be read: {error:#}"
            ),
        }
    }
    Ok(())
}

/// The journals of a mount.
fn journals(local: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(local).map_err(|error| host(local, error))? {
        let path = entry.map_err(|error| host(local, error))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(JOURNAL)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes what a mount has of a vault that was destroyed: journals and pins. That it was destroyed stays remembered.
///
/// # Errors
/// The disk's.
pub(crate) fn forget(local: &Path) -> Result<()> {
    if !local.exists() {
        return Ok(());
    }
    take_over::forget(local)?;
    for path in journals(local)?.into_iter().chain([local.join("pins")]) {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(host(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

impl OpenVault {
    /// What its store takes, in bytes.
    pub(crate) async fn len(&self) -> Result<u64> {
        self.below.len().await
    }

    /// What it holds: pieces as they are kept; dead is what of its packs is neither.
    pub(crate) fn stats(&self) -> SegmentsStats {
        let usage = self.vault.usage();
        let dead_len = usage.len.saturating_sub(usage.live_len) + self.below.dead_len();
        SegmentsStats { block_count: usage.block_count, live_len: usage.live_len, dead_len }
    }

    /// What its objects are in.
    pub(crate) fn below(&self) -> &Below {
        &self.below
    }

    /// Gives the room of what is dead back, in the vault and then in its store; how many objects went.
    pub(crate) async fn compact(&self) -> Result<u64> {
        let done = self.vault.compact().await?;
        Ok(done.packs + self.below.compact().await?)
    }

    /// Whether others may open it when this process ends.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Ends the work with it; it is given back only if `is_all_there`: nothing is in this data directory alone.
    pub(crate) async fn close(&self, is_all_there: bool) -> Result<()> {
        let given_back = match &self.lent {
            // Whoever collected its garbage elsewhere would not know of them.
            Some((claim, pins)) if is_all_there && pins.count() == 0 && !take_over::has_lost_pins(&self.local) => {
                claim.give_back(&*self.vault).await
            }
            _ => Ok(()),
        };
        given_back.and(self.vault.flush().await).and(self.below.close().await)
    }
}

/// Looks whether there is a vault, and changes nothing; its password is not asked for.
pub(crate) async fn look(data: &Path, mount: &VaultMount, env: &Env) -> Finding {
    const CHECK: &str = "vault";
    let (store, prefix): (_, Prefix) = (mount.place(data), mount.prefix.0);
    match store.has_vault(data, prefix, env).await {
        Ok(true) => {
            let found =
                format!("a vault is there; muxfs vault check /{prefix} asks for its password and reads all of it");
            Finding::ok(CHECK, &store, found)
        }
        Ok(false) => {
            let advice = format!("make it: muxfs vault create /{prefix}; or mount the disk that has it");
            Finding::error(CHECK, &store, "there is no vault", advice)
        }
        Err(error) => Finding::error(CHECK, &store, format!("{error:#}"), "mend what is said; nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use muxfs::{
        ErrorKind, Name,
        block::Mem,
        dag::{Dag, DagOptions},
        heads::MemHeads,
        tree::{Tree, TreeOptions},
        vfs::{NewNode, SetAttr, Vfs as _},
    };

    use super::*;

    /// It was removed, though another data directory took the vault over before it was committed.
    #[tokio::test]
    async fn a_journal_of_what_no_commit_has_is_kept() {
        let (dir, env, key) =
            (tempfile::tempdir().expect("a directory"), crate::instance::env(), SecretKey::new([7; 32]));
        let (local, name) = (dir.path(), |text: &str| Name::new(text.as_bytes()).expect("a name"));
        for (journal, commits) in [("journal-1", false), ("journal-2", true)] {
            let media = media(&local.join(journal)).expect("made");
            let media = Arc::new(SealedMedia::new(media, key.clone(), env.clone()));
            let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
            let options = TreeOptions::new(name("main"), env.clone());
            let tree = Tree::open(dag, media, Arc::new(MemHeads::default()), options).await.expect("opened");
            let made = tree.create(tree.root(), &name("made"), NewNode::Dir, SetAttr::default()).await.expect("made");
            tree.release(made.node.ino, 1);
            tree.sync(tree.root()).await.expect("synced");
            if commits {
                tree.commit("").await.expect("committed");
                tree.close().await.expect("closed");
            }
        }
        let current = local.join("journal-3");
        loop {
            match set_aside(local, &current, &key, (Way::Lent, &env)).await {
                // Its calls have not ended.
                Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
                looked => break looked.expect("looked at"),
            }
        }
        assert!(local.join("journal-1").exists() && !local.join("journal-2").exists());
    }
}
