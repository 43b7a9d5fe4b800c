//! The S3 frontend: serves the directories of a directory as buckets to whatever speaks S3.
//!
//! ```text
//!   client --> server --> s3s (routes, XML, signatures) --> keys (who may)
//!                          '--> service --> conditions, sums, receive
//!                                  |--> objects, versions, multipart --> tree --> vfs::posix --> Vfs
//!                                  '--> list --> walk --> sorted ---------^
//! ```
//!
//! It stands beside the other frontends and knows only [`muxfs`]. A key is a path below its bucket, so that an object is a
//! file to every other frontend, and a file an object; a key that no path can be lies in a hidden place. What was
//! acknowledged is durable, and appears under its key at one stroke. Spec: spec/s3.md.
//!
//! ```no_run
//! # async fn example(vfs: std::sync::Arc<dyn muxfs::vfs::Vfs>) -> muxfs::Result<()> {
//! use muxfs_s3_serve::{Key, Keys, Options};
//! let key = Key::generate(&Options::default().env);
//! println!("aws_access_key_id = {}\naws_secret_access_key = {}", key.id, key.secret);
//! let options = Options { keys: Keys::new(vec![key])?, ..Options::default() };
//! let server = muxfs_s3_serve::serve(vfs, options).await?;
//! println!("endpoint_url = http://{}", server.local_addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod absent;
mod begun;
mod body;
mod budget;
mod conditions;
mod failure;
mod forms;
mod hashers;
mod keys;
mod leaving;
mod list;
mod md5;
mod multipart;
mod names;
mod objects;
mod options;
mod patience;
mod receive;
mod record;
mod server;
mod service;
mod signed;
mod sorted;
mod stall;
mod sums;
mod told;
mod tree;
mod turns;
mod versions;
mod walk;

pub use crate::{
    failure::code_of,
    keys::{KEYS_VERSION, Key, Keys},
    options::Options,
    server::{Server, serve},
};
