//! Blocks and heads in one SQLite file: `/sqlite`.
//!
//! One thread writes: what many ask for at a time becomes one transaction, and one sync where any of them wants to know it
//! durable. Several connections read beside it and are never waited for. [`SqliteStore`] is the store.
//! Spec: spec/sqlite.md.

mod batch;
mod failed;
mod file;
mod lock;
mod readers;
mod rows;
mod store;
mod writer;

pub use self::store::{SqliteOptions, SqliteStats, SqliteStore, SqliteUsage};
