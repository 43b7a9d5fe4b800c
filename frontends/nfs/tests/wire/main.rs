//! The server as its clients see it, over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it panics")]

mod laws;
mod procedures;
mod raw;
