//! Sources against servers in this process: what is fetched, from whom, and what a server that lies, hangs or breaks off
//! comes to: never a wrong byte, unbounded memory, or a wait without end.
//!
//! The shared laws of block stores begin with a put of any bytes under any key. No source takes one, so what the laws say
//! of reading is tested here, each by its own name; a mount that looks elsewhere runs the laws of its seams in `muxfs`.

mod ahead;
mod copying;
mod fetching;
mod kubo;
mod lying;
mod names;
mod order;
mod server;

use bytes::Bytes;
use muxfs::{BlockKey, Cid, Codec, cid_of, testing::fault::Dice};

/// A block of so many bytes, and the key that it is under.
fn block(n: u64, len: usize) -> (BlockKey, Bytes) {
    let block: Bytes = Dice::new(n).bytes(len).into();
    (BlockKey::from(&cid_of(Codec::Raw, &block)), block)
}

/// The CID that a request of a gateway names.
fn asked_for(path: &str) -> Option<Cid> {
    path.strip_prefix("/ipfs/")?.parse().ok()
}
