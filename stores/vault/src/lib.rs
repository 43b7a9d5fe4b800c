//! Vaults: blocks that a store keeps and learns nothing of.
//!
//! [`Vault`] is a [`BlockStore`](muxfs::BlockStore) over any other, and a head in any [`Heads`](muxfs::heads::Heads). What is
//! below sees objects of one length, of random names and bytes, in numbers that are few. Blocks are cut into pieces that
//! are kept once, compressed and encrypted; names, sizes and structure are in them like all else, since what is above puts
//! those into blocks. Spec: spec/vault.md.

mod check;
mod cipher;
mod compact;
mod cut;
mod destroy;
mod directory;
mod flush;
mod head;
mod heads;
mod index;
mod keep;
mod keys;
mod memory;
mod open;
mod pack;
mod password;
mod put;
mod read;
mod rekey;
mod runs;
mod secret;
mod seen;
mod shrink;
mod state;
mod superblock;
#[cfg(test)]
mod tests;
mod vault;
mod wire;

pub use self::{
    check::Checked,
    cipher::Cipher,
    compact::Compacted,
    destroy::{Destroyed, Unknown},
    pack::{PACK_LEN_MAX, PACK_LEN_MIN},
    password::{Cost, Password},
    rekey::Rekeyed,
    seen::Seen,
    shrink::Compression,
    vault::{Vault, VaultAbout, VaultOptions, VaultPlace, VaultUsage},
};
