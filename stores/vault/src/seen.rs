//! What anybody sees of a vault who has its store, and not its password. Spec: spec/vault.md #what-is-promised-and-to-whom.

use futures_util::TryStreamExt as _;
use muxfs::{Error, ErrorKind, Result};

use crate::{
    cipher::Cipher,
    head::{Standing, in_clear, standing},
    keys::PACK_NAME_LEN,
    password::Cost,
    vault::{Vault, VaultPlace},
};

/// What is seen without the password. Nobody vouches for it: whoever has the store can write anything there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How everything is encrypted.
    pub cipher: Cipher,
    /// What it costs to try a password.
    pub cost: Cost,
    /// Objects of the store that may be packs.
    pub object_count: u64,
}

impl Vault {
    /// Looks at a vault from outside, and changes nothing.
    ///
    /// # Errors
    /// `NotFound` where there is none; what the stores below say.
    pub async fn seen(place: &VaultPlace) -> Result<Seen> {
        let head = place.heads.load(&place.name).await?.map(|(head, _)| head);
        let Some(head) = head.filter(|head| standing(head) == Standing::Vault) else {
            return Err(Error::new(ErrorKind::NotFound, "vault.look").because("there is no vault in that place"));
        };
        let (cipher, cost) = in_clear(&head);
        let may_be_pack = |count, key: muxfs::BlockKey| async move {
            Ok::<u64, Error>(count + u64::from(key.as_bytes().len() == PACK_NAME_LEN))
        };
        let object_count = place.blocks.keys().try_fold(0, may_be_pack).await?;
        Ok(Seen { cipher, cost, object_count })
    }
}
