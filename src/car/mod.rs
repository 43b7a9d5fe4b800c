//! CAR files: blocks with their CIDs, one after the other, as IPFS tools carry DAGs.
//!
//! ```text
//! CARv1   = varint(len) header *section
//! header  = dag-cbor {"roots": [CID, …], "version": 1}
//! section = varint(len) CID block                          len counts both
//! CARv2   = 0a a1 67 "version" 02                          the pragma: a header that has only a version
//!           characteristics(16) data offset(8) data length(8) index offset(8)     little-endian, from the pragma on
//!           *padding CARv1 *padding [index]
//! ```
//!
//! Sits above [`Dag`]: [`stream`] writes what [`Dag::export`] gives, [`Reader`] reads what anybody wrote and hands out no
//! block that it has not verified; [`import()`] takes from it what is wanted, [`check()`] tells what is in it, and [`Archive`] reads
//! it anywhere. We write version 1, which can be written and read as it comes. Of version 2 the inner
//! file of version 1 is read and nothing else: an index from outside is a claim that would have to be checked against the blocks anyway.
//! Spec: spec/car.md, <https://ipld.io/specs/transport/car/>.

mod archive;
mod check;
mod header;
mod import;
mod links;
mod read;
mod section;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use self::{
    archive::{ARCHIVE_BLOCK_COUNT_MAX, Archive},
    check::{CheckReport, check},
    header::{HEADER_LEN_MAX, ROOT_COUNT_MAX},
    import::{
        IMPORT_HELD_LEN_MAX, ImportOptions, ImportProgress, ImportReport, MISSING_NAMED_MAX, OnImportProgress, import,
    },
    read::{PADDING_LEN_MAX, Reader, Section},
    section::SECTION_LEN_MAX,
    write::{Writer, stream},
};
use crate::{
    Cid, Name, Result,
    dag::{Dag, ExportOptions},
};

/// What a path leads to, as a `CARv1` whose root is the block where the path ends: [`Dag::export`] and [`stream`] at once.
///
/// The call itself walks the path and reads the block at its end, so that its error comes before the first byte; the
/// stream ends after the first error, and a CAR that was cut off so must not be taken for a whole one.
///
/// ```
/// # use std::sync::Arc;
/// # use muxfs::{Cid, block::Mem, car, dag::{Dag, DagOptions, ExportOptions}};
/// use futures_util::TryStreamExt;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
/// // The CID of no bytes at all, which holds its block itself: a header, and nothing behind it.
/// let probe: Cid = "bafkqaaa".parse()?;
/// let car: Vec<_> = car::export(&dag, &probe, &[], &ExportOptions::default()).await?.try_collect().await?;
/// assert_eq!(car.concat(), b"\x19\xa2eroots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00gversion\x01");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
///
/// # Errors
/// As [`Dag::export`].
pub async fn export(
    dag: &Dag,
    root: &Cid,
    path: &[Name],
    options: &ExportOptions,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    Ok(stream(dag.export(root, path, options).await?))
}
