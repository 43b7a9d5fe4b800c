//! Names that their owner makes lead somewhere else: IPNS, as far as it needs no network.
//!
//! A name is the hash of a public key. What it leads to is told by a [`Record`], signed with the secret key and good until
//! a time; of two, the one with the higher sequence number counts. Who has a record can check it, wherever it came from.
//! Ed25519 keys sign; records of RSA keys are verified too. Spec: spec/ipns.md,
//! <https://specs.ipfs.tech/ipns/ipns-record/>.

mod key;
mod name;
mod record;
mod resolve;
#[cfg(test)]
mod tests;

pub use self::{
    key::NameKey,
    name::IpnsName,
    record::{LIFETIME, RECORD_LEN_MAX, Record, TTL, Target},
    resolve::{NAME_COUNT_MAX, Records, Resolved, resolve},
};
