//! READ, WRITE, COMMIT: RFC 1813 3.3.6, 3.3.7, 3.3.21. Payloads are slices of what was read from the `Vfs` or from the
//! socket: nothing is copied in between.

use bytes::Bytes;
use muxfs::{Error, ErrorKind};
use nfs3_types::nfs3::{
    COMMIT3res, COMMIT3resfail, COMMIT3resok, Nfs3Option, Nfs3Result, WRITE3res, WRITE3resfail, WRITE3resok, nfsstat3,
    post_op_attr, stable_how,
};

use super::{Context, fail};
use crate::{
    attr::{post_op, wcc, wcc_now},
    record::{RECORD_LEN_MAX, TRANSFER_LEN_MAX},
    rpc::Reply,
    status::status,
    xdr::{Decoder, Malformed},
};

/// The largest offset past a file: `off_t` is signed.
pub(super) const FILE_LEN_MAX: u64 = i64::MAX as u64;
/// Data below this is copied out of the record: a `Vfs` that keeps the slice must not keep the whole buffer with it.
const COPY_LEN_MAX: usize = 4096;

pub(super) async fn read(cx: &Context, mut args: Decoder, reply: &mut Reply) -> Result<nfsstat3, Malformed> {
    let (file, offset, count) = (args.handle()?, args.u64()?, args.u32()?.min(TRANSFER_LEN_MAX));
    let failed = |reply: &mut Reply, status, attributes: post_op_attr| {
        reply.put(&status).put(&attributes);
        status
    };
    let node = match cx.resolve(&file).await {
        Ok(node) => node,
        Err(status) => return Ok(failed(reply, status, Nfs3Option::None)),
    };
    let mut data = match cx.identity.view.read(node.ino(), offset, count).await {
        Ok(data) => data,
        Err(error) => return Ok(failed(reply, status(&error), post_op(&node.attr))),
    };
    data.truncate(count as usize);
    let len = u32::try_from(data.len()).unwrap_or(count);
    // The attributes are older than the data: where the two do not fit together the file changed, and is asked again.
    let expected = u64::from(count).min(node.attr.size.saturating_sub(offset));
    let attr = if u64::from(len) == expected { Some(node.attr.clone()) } else { cx.now(node.ino()).await };
    let eof = len < count || attr.as_ref().is_some_and(|attr| offset.saturating_add(len.into()) >= attr.size);
    cx.server.metrics.read(len.into());
    reply.put(&nfsstat3::NFS3_OK).put(&attr.as_ref().map_or(Nfs3Option::None, post_op));
    reply.put(&len).put(&eof).put_payload(data);
    Ok(nfsstat3::NFS3_OK)
}

pub(super) async fn write(cx: &Context, mut args: Decoder) -> Result<WRITE3res, Malformed> {
    let (file, offset, count) = (args.handle()?, args.u64()?, args.u32()?);
    let stable: stable_how = args.fixed()?;
    let mut data = args.opaque(RECORD_LEN_MAX)?;
    if data.len() != count as usize {
        return Err(Malformed);
    }
    let count = count.min(TRANSFER_LEN_MAX);
    data.truncate(count as usize);
    if data.len() < COPY_LEN_MAX {
        data = Bytes::copy_from_slice(&data);
    }
    let node = match cx.resolve(&file).await {
        Ok(node) => node,
        Err(status) => return Ok(fail(status, WRITE3resfail::default())),
    };
    // Taken before the write: whatever sync fails from here on may lose it, and the client must see that by the verifier
    // of its COMMIT.
    let verf = cx.server.verifier.current();
    let changed = if offset.checked_add(count.into()).is_none_or(|end| end > FILE_LEN_MAX) {
        Err(Error::new(ErrorKind::TooLarge, "nfs.write"))
    } else {
        cx.identity.view.write(node.ino(), offset, data, false).await
    };
    let changed = match changed {
        Ok(changed) => changed,
        Err(error) => {
            let now = cx.now(node.ino()).await;
            return Ok(fail(status(&error), WRITE3resfail { file_wcc: wcc_now(now.as_ref()) }));
        }
    };
    cx.server.metrics.written(count.into());
    if stable != stable_how::UNSTABLE {
        let synced = match cx.sync(node.ino()).await {
            // Another sync failed meanwhile, perhaps for this very data, and a failure is told once: send it again.
            Ok(()) if cx.server.verifier.current().0 != verf.0 => Err(nfsstat3::NFS3ERR_JUKEBOX),
            synced => synced,
        };
        if let Err(status) = synced {
            return Ok(fail(status, WRITE3resfail { file_wcc: wcc(&changed) }));
        }
    }
    let committed = if stable == stable_how::UNSTABLE { stable } else { stable_how::FILE_SYNC };
    Ok(Nfs3Result::Ok(WRITE3resok { file_wcc: wcc(&changed), count, committed, verf }))
}

pub(super) async fn commit(cx: &Context, mut args: Decoder) -> Result<COMMIT3res, Malformed> {
    let (file, _offset, _count) = (args.handle()?, args.u64()?, args.u32()?);
    let node = match cx.resolve(&file).await {
        Ok(node) => node,
        Err(status) => return Ok(fail(status, COMMIT3resfail { file_wcc: wcc_now(None) })),
    };
    let synced = cx.sync(node.ino()).await;
    // Taken after the sync: had another one failed before or meanwhile, success of this one would mean nothing.
    let verf = cx.server.verifier.current();
    let now = cx.now(node.ino()).await;
    let file_wcc = wcc_now(now.as_ref());
    Ok(match synced {
        Ok(()) => Nfs3Result::Ok(COMMIT3resok { file_wcc, verf }),
        Err(status) => fail(status, COMMIT3resfail { file_wcc }),
    })
}
