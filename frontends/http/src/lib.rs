//! The HTTP frontend: serves what has a CID as an IPFS gateway does, by block and by path, reads every mount by name,
//! writes over WebDAV what may be written, and has pages that manage files and tell how the server does.
//!
//! ```text
//!   client --> server --> answer --> guard, access, logins   who may ask
//!                           |------> target  what for
//!                           |------> site    --> gateway, redirects  (content on an origin of its own)
//!                           |------> place   --> entity, page, folder                       ---> muxfs::vfs::Vfs
//!                           |------> ours    (pages of our own, and what they ask for)
//!                           |------> dav     (WebDAV: lists for programs, and changes)     ---> muxfs::vfs::Vfs
//!                           '------> gateway --> entity (ranges, conditions), page, car, tar ---> muxfs::dag::Dag
//! ```
//!
//! It stands beside the other frontends and knows only [`muxfs`] and its users. Every block is verified before a byte of it is sent;
//! what turns out bad below an answer that has begun breaks the connection off. Bounded: connections, answers, heads, paths, lists,
//! what is fetched ahead of a client, and how long any of them may stand still. Spec: spec/http.md.
//!
//! ```no_run
//! # async fn example(mux: muxfs::MuxFs) -> muxfs::Result<()> {
//! let server = muxfs_http::serve(mux, muxfs_http::Options::default())?;
//! println!("http://{}/ipfs/bafkqaaa", server.local_addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod answer;
mod body;
mod car;
mod dav;
mod entity;
mod failure;
mod folder;
mod format;
mod gateway;
mod guard;
mod hub;
mod ipns;
mod logins;
mod media_type;
mod options;
mod ours;
mod page;
mod place;
mod range;
mod redirects;
mod server;
mod site;
mod stall;
mod tar;
mod target;
mod turn;
mod ustar;

pub use crate::{
    access::{Token, Writing},
    failure::status_of,
    hub::{Flists, Hub, HubFlist, HubNode, HubOptions, HubUser, hub_users, with_hub_user, without_hub_user},
    options::Options,
    ours::{Counter, Report, Reporter},
    server::{Server, serve},
};
