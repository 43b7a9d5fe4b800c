//! The 0-db protocol of MuxFS: a storage node over TCP and Unix sockets, for `redis-cli`, zstor, 0-db-fs and the `/zstor`
//! of MuxFS itself.
//!
//! ```text
//! socket -> request -> connection -> dispatch -> commands/* -> muxfs_zdb::Engine
//!             output <- client <--------------------|
//! ```
//! A connection is one task. It runs every request that has come, one after the other, waits once for all they wrote to be
//! durable, and sends their replies in order: that is the whole of pipelining, and connections share the disk's sync besides.
//! Every number that a client claims is checked before anything is kept for it, and what all clients together can have this
//! process hold is bounded. Spec: spec/zdb.md.

mod client;
mod command;
mod commands;
mod connection;
mod dispatch;
mod info;
mod measure;
mod options;
mod output;
mod refusal;
mod request;
mod room;
mod secret;
mod server;
mod socket;
mod watch;

pub use crate::{
    commands::wait::{TIMEOUT_MAX, TIMEOUT_MIN},
    options::{Options, PORT},
    request::{ARGUMENT_COUNT_MAX, ARGUMENT_LEN_MAX, REQUEST_LEN_MAX},
    room::{REPLIES_LEN_MAX, REQUESTS_LEN_MAX},
    secret::{PASSWORD_LEN_MAX, Password},
    server::{Server, serve},
};
