//! Blocks and heads on a Redis server: `/redis`.
//!
//! A block is a value with a checksum before it, a head one that a script swaps. What an acknowledgement is worth is for the
//! server to say: an opening asks it, and warns where that is little ([`RedisDurability`]). [`RedisStore`] is the store.
//! Nothing is encrypted on the way: TLS is not spoken. Spec: spec/redis.md.

mod address;
mod connection;
mod heads;
mod info;
mod link;
mod opening;
mod pending;
mod script;
mod store;

pub use self::{
    address::{RedisAccess, RedisAddress, RedisOptions},
    info::RedisDurability,
    store::{RedisStore, RedisUsage},
};
