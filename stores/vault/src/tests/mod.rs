//! Tests of the whole: laws, a model, crashes, faults, tampering, and what a store below could learn.

mod crash;
mod destroying;
mod faults;
mod fuzz;
mod golden;
mod hidden;
mod laws;
mod model;
mod passwords;
mod primitives;
mod rekeying;
mod stops;
mod tampering;
mod unreadable;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, BlockStore, Env, Name,
    block::Mem,
    heads::{Heads, MemHeads},
    testing::{Clock, fault::Dice},
};

use crate::{Cipher, Compression, Cost, PACK_LEN_MIN, Password, Vault, VaultOptions, VaultPlace};

/// As cheap as it gets: tests try many passwords.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

fn password() -> Password {
    Password::new("correct horse").expect("a password")
}

fn options() -> VaultOptions {
    let (cipher, compression) = (Cipher::Aes256Gcm, Compression::Zstd);
    VaultOptions { cipher, compression, pack_len: PACK_LEN_MIN, cost: CHEAP }
}

fn name() -> Name {
    Name::new(b"vault").expect("a name")
}

fn place(blocks: Arc<dyn BlockStore>, heads: Arc<dyn Heads>, env: Env) -> VaultPlace {
    VaultPlace::new(blocks, heads, name(), env)
}

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

/// Others for every `n`, and half of it does not compress.
fn block(n: usize, len: usize) -> Bytes {
    let mut bytes = Dice::new(n as u64).bytes(len / 2);
    bytes.resize(len, u8::try_from(n % 251).expect("a byte"));
    bytes.into()
}

/// Stores below that tests look into and change.
#[derive(Debug, Clone)]
struct World {
    blocks: Arc<Mem>,
    heads: Arc<MemHeads>,
    env: Env,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { blocks: Arc::default(), heads: Arc::default(), env: Clock::default().env(seed) }
    }

    fn place(&self) -> VaultPlace {
        place(self.blocks.clone(), self.heads.clone(), self.env.clone())
    }

    async fn create(&self, options: &VaultOptions) -> Vault {
        Vault::create(self.place(), &password(), options).await.expect("made")
    }

    async fn open(&self) -> muxfs::Result<Vault> {
        Vault::open(self.place(), &password()).await
    }

    async fn objects(&self) -> BTreeMap<BlockKey, Bytes> {
        let keys: Vec<_> = self.blocks.keys().try_collect().await.expect("keys");
        let mut objects = BTreeMap::new();
        for key in keys {
            let object = self.blocks.get(&key).await.expect("get").expect("there");
            objects.insert(key, object);
        }
        objects
    }

    async fn head(&self) -> Bytes {
        self.heads.load(&name()).await.expect("load").expect("set").0
    }

    /// Another world with these objects and this head, and with randomness of its own.
    async fn of(objects: &BTreeMap<BlockKey, Bytes>, head: Bytes, seed: u64) -> Self {
        let world = Self::new(seed);
        for (key, object) in objects {
            world.blocks.put(key, object.clone()).await.expect("put");
        }
        drop(world.heads.swap(&name(), None, head).await.expect("swap"));
        world
    }
}

/// Every block that a vault has.
async fn all(vault: &Vault) -> muxfs::Result<BTreeMap<BlockKey, Bytes>> {
    let keys: Vec<_> = vault.keys().try_collect().await?;
    let mut blocks = BTreeMap::new();
    for key in keys {
        if let Some(block) = vault.get(&key).await? {
            blocks.insert(key, block);
        }
    }
    Ok(blocks)
}

async fn put(vault: &Vault, key: &BlockKey, block: Bytes) {
    vault.put(key, block).await.expect("put");
}

async fn flush(vault: &Vault) {
    vault.flush().await.expect("flush");
}
