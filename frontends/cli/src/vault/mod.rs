//! Mounts of kind `vault`, and vaults by the place where they are: a working tree in a [`Vault`], which is in any store.
//!
//! The head of the tree is in the vault, so that the store learns nothing of it and cannot give an older one; the journal and the pins
//! are in the data directory, under keys of the vault. What state was seen last is remembered there, too. Spec: spec/vault.md
//! #the-mount.

mod beside;
mod claim;
pub(crate) mod password;
mod place;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    BlockStore, Env, Prefix, Result,
    block::SegmentsStats,
    heads::LogHeads,
    media::{Media, MemMedia},
    pins::Pins,
};
use muxfs_vault::{Vault, VaultPlace};
use serde::{Deserialize, Serialize};

use self::{beside::Kept, claim::Claim, password::PasswordFrom, place::head};
pub(crate) use self::{
    beside::{Renewed, is_settled, renew},
    place::{Below, LOCK, OpenStore, VaultStore, Want},
};
use crate::{
    commands::doctor::Finding,
    config::{Config, PrefixText},
    data_dir::{content_dir, private_dir},
    instance::{SpaceFn, media},
    take_over, writer,
};

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
    /// `None` where nothing is written.
    pub(crate) journal: Option<Arc<dyn Media>>,
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
        if mount.way == Way::Read {
            let pins = Pins::open(Arc::new(MemMedia::default()), env).await?;
            return Ok((vault, Arc::new(pins), None, None));
        }
        let takes_over = take_over::file(&local).exists();
        let me = writer::known_or_drawn(&local, env)?;
        let offer = Claim::offered(&*vault, &me, &who(data), takes_over).await?;
        let dir = beside::journal_dir(&local, offer.claim.generation);
        if !offer.is_held {
            beside::clear(&vault, &local, &dir, env).await?;
        }
        let claim = offer.take(&*vault).await?;
        if claim.is_taken_over && !dir.exists() {
            take_over::lose_pins(&local)?;
        }
        take_over::is_over(&local)?;
        let (journal, pins) = open_beside(&vault, &local, &dir, (mount.way, env)).await?;
        let lent = (mount.way == Way::Lent).then(|| (claim, pins.clone()));
        Ok((vault, pins, Some(journal), lent))
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

/// Opens the journal and the pins, and looks at the journals of before another data directory had the vault.
async fn open_beside(
    vault: &Vault,
    local: &Path,
    journal: &Path,
    (way, env): (Way, &Env),
) -> Result<(Arc<dyn Media>, Arc<Pins>)> {
    let counting = Kept::counting(vault, local, journal, env)?;
    let set_aside = Kept::set_aside(vault, local, Some(journal), env)?;
    if let Err(error) = beside::settle(vault, &counting, &set_aside).await {
        tracing::warn!(
            "not all that is beside the vault could be sealed anew: it is read under the keys of before until an opening that can: {error:#}"
        );
    }
    for journal in set_aside {
        journal.look((way, env)).await?;
    }
    let [journal, pins] = counting;
    Ok((journal.sealed, Arc::new(Pins::open(pins.sealed, env).await?)))
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
    beside::forget(local)
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
