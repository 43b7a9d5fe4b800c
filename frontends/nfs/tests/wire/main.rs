//! The server as its clients see it, over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it panics")]

#[cfg(feature = "nfsserve")]
mod adapter;
mod callers;
mod calls;
mod exercise;
mod gate;
mod laws;
mod limits;
mod listings;
mod past;
mod procedures;
mod raw;
