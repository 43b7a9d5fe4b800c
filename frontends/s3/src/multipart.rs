//! Uploads in parts: each part a file, the whole one that shares their blocks.
//!
//! An upload is a directory of its own, by a random name, with a record of what the object is to be; a part is a file in
//! it, whole and durable when it is acknowledged. So an upload outlives the server, and a part that is sent again replaces
//! the one before. Spec: spec/s3.md #uploads.

use muxfs::{Error, ErrorKind, Name, vfs::RenameMode};
use s3s::{
    S3ErrorCode,
    crypto::{Checksum as _, Md5},
    dto::CompletedPart,
};

use crate::{
    conditions::Conditions,
    failure::{S3Result, failed, refuse},
    names::{self, UPLOADS},
    objects::{Bucket, Buckets, Object},
    receive::hex,
    record::{Content, PartRecord, Record, Sums, nanos},
    sums::{Algorithm, of_parts},
    tree::{Node, Work},
};

/// The most parts of an upload: AWS's limit.
pub(crate) const PART_COUNT_MAX: i32 = 10_000;
/// Of so many parts their lengths and checksums are kept: what fits into an extended attribute.
const PARTS_KEPT_MAX: usize = 200;

/// An upload.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) dir: Node,
    pub(crate) record: Record,
}

/// A part of one.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) number: i32,
    pub(crate) node: Node,
    pub(crate) content: Content,
}

impl Upload {
    /// The checksum that its parts are to have.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        self.record.algorithm.as_deref().and_then(|name| Algorithm::parse(name).ok())
    }
}

fn part_name(number: i32) -> S3Result<Name> {
    if !(1..=PART_COUNT_MAX).contains(&number) {
        return refuse(S3ErrorCode::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive");
    }
    Ok(names::own(&format!("{number:05}")))
}

fn no_upload<T>() -> S3Result<T> {
    refuse(S3ErrorCode::NoSuchUpload, "There is no such upload: it was completed, aborted, or never begun.")
}

impl Buckets {
    /// Begins an upload.
    pub(crate) async fn begin(&self, bucket: &Bucket, key: &str, mut record: Record) -> S3Result<String> {
        let begun = nanos((self.tree.env.now)());
        let mut random = [0; 8];
        (self.tree.env.fill)(&mut random);
        // In the order of time, which is the order that uploads of a key are listed in.
        let id = format!("{begun:016x}{:016x}", u64::from_le_bytes(random));
        record.key = Some(key.to_owned());
        record.upload = Some(id.clone());
        record.begun = Some(begun);
        let made = async {
            let all = self.tree.own_dir(&bucket.node, UPLOADS).await?;
            let is_new = self.tree.own_dir_with(&bucket.node, &all, &names::own(&id), &record).await?;
            if is_new { self.tree.sync_names(&all).await } else { Err(Error::new(ErrorKind::Exists, "s3.begin")) }
        };
        made.await.map_err(failed)?;
        Ok(id)
    }

    /// An upload of a key.
    pub(crate) async fn upload(&self, bucket: &Bucket, key: &str, id: &str) -> S3Result<Upload> {
        let Ok(name) = Name::new(id.as_bytes()) else { return no_upload() };
        let found = async {
            let Some(all) = self.tree.child(bucket.node.ino(), &names::own(UPLOADS)).await? else { return Ok(None) };
            let Some(dir) = self.tree.child(all.ino(), &name).await?.filter(Node::is_dir) else { return Ok(None) };
            let record = self.tree.record(dir.ino()).await?;
            Ok::<_, Error>(Some(Upload { id: id.to_owned(), dir, record }))
        };
        match found.await.map_err(failed)? {
            Some(upload) if upload.record.key.as_deref() == Some(key) => Ok(upload),
            _ => no_upload(),
        }
    }

    /// Makes what came a part, durably, in the place of one of the same number.
    pub(crate) async fn put_part(&self, upload: &Upload, number: i32, work: &Work, content: Content) -> S3Result<()> {
        let name = part_name(number)?;
        let record = Record { content: Some(content), ..Record::default() };
        let put = async {
            self.tree.set_record(work.file.ino(), &record).await?;
            self.tree.order_node(&work.file).await?;
            self.tree.rename((&work.dir, &work.name), (&upload.dir, &name), None, RenameMode::Replace).await?;
            self.tree.sync_names(&upload.dir).await
        };
        match put.await {
            Err(gone) if matches!(gone.kind(), ErrorKind::NotFound | ErrorKind::Stale) => no_upload(),
            put => put.map_err(failed),
        }
    }

    /// Refuses a number that no part can have, before anything of it comes.
    pub(crate) fn check_part(number: i32) -> S3Result<()> {
        part_name(number).map(drop)
    }

    /// The parts that came, by number.
    pub(crate) async fn parts(&self, upload: &Upload) -> S3Result<Vec<Part>> {
        let mut found = Vec::new();
        for (name, node) in self.tree.entries(upload.dir.ino()).await.map_err(failed)? {
            let number = std::str::from_utf8(name.as_bytes()).ok().and_then(|text| text.parse().ok());
            let content = self.tree.record(node.ino()).await.map_err(failed)?.content;
            if let (Some(number), Some(content)) = (number, content) {
                found.push(Part { number, node, content });
            }
        }
        found.sort_by_key(|part| part.number);
        Ok(found)
    }

    /// The parts that a client says the object is of.
    fn chosen(asked: &[CompletedPart], parts: Vec<Part>, least: u64) -> S3Result<Vec<Part>> {
        if asked.is_empty() {
            return refuse(S3ErrorCode::MalformedXML, "An object has one part at least.");
        }
        let mut by_number: std::collections::BTreeMap<_, _> =
            parts.into_iter().map(|part| (part.number, part)).collect();
        let (mut chosen, mut before) = (Vec::new(), 0);
        for (index, wanted) in asked.iter().enumerate() {
            let number = wanted.part_number.unwrap_or_default();
            if number <= before {
                return refuse(S3ErrorCode::InvalidPartOrder, "The list of parts was not in ascending order.");
            }
            before = number;
            let Some(part) = by_number.remove(&number) else {
                return refuse(S3ErrorCode::InvalidPart, format!("Part {number} did not come."));
            };
            if wanted.e_tag.as_ref().is_none_or(|etag| etag.value() != part.content.etag) {
                return refuse(S3ErrorCode::InvalidPart, format!("Part {number} has another ETag."));
            }
            let said = [
                (Algorithm::Crc32, &wanted.checksum_crc32),
                (Algorithm::Crc32c, &wanted.checksum_crc32c),
                (Algorithm::Crc64Nvme, &wanted.checksum_crc64nvme),
                (Algorithm::Sha1, &wanted.checksum_sha1),
                (Algorithm::Sha256, &wanted.checksum_sha256),
            ];
            if said.iter().any(|(algorithm, sum)| sum.is_some() && sum.as_ref() != algorithm.of(&part.content.sums)) {
                return refuse(S3ErrorCode::InvalidPart, format!("Part {number} has another checksum."));
            }
            if index + 1 < asked.len() && part.content.size < least {
                return refuse(S3ErrorCode::EntityTooSmall, "Every part but the last has 5 MiB at least.");
            }
            chosen.push(part);
        }
        Ok(chosen)
    }

    /// Makes the parts one object, which shares their blocks, and forgets the upload. What is known of its bytes, and its version.
    pub(crate) async fn complete(
        &self,
        (bucket, key): (&str, &str),
        upload: &Upload,
        asked: &[CompletedPart],
        (said, part_len_min): (&Sums, u64),
        conditions: &Conditions,
    ) -> S3Result<(Content, Option<String>)> {
        let found = self.bucket(bucket).await?;
        conditions.check_write(self.find(&found.node, key).await.map_err(failed)?.as_ref())?;
        let parts = Self::chosen(asked, self.parts(upload).await?, part_len_min)?;
        let mut content = whole(upload, &parts)?;
        for algorithm in crate::sums::ALL {
            let claimed = algorithm.of(said);
            if claimed.is_some() && algorithm.of(&content.sums).is_some() && claimed != algorithm.of(&content.sums) {
                return refuse(
                    S3ErrorCode::BadDigest,
                    "The object does not have the checksum that it is said to have.",
                );
            }
        }
        let work = self.tree.work_file(&found.node).await.map_err(failed)?;
        let made = async {
            let mut at = 0;
            for part in &parts {
                let size = part.content.size;
                if self.tree.copy((part.node.ino(), 0), (work.file.ino(), at), size).await.map_err(failed)? != size {
                    return refuse(S3ErrorCode::InvalidPart, format!("Part {} was changed.", part.number));
                }
                at += size;
            }
            content.mtime = nanos(self.tree.vfs.getattr(work.file.ino()).await.map_err(failed)?.mtime);
            let record = Record {
                content: Some(content.clone()),
                upload: Some(upload.id.clone()),
                begun: None,
                algorithm: None,
                is_composite: false,
                ..upload.record.clone()
            };
            self.commit((bucket, key), &work, record, conditions).await
        };
        match made.await {
            Ok(version) => {
                self.forget(&found, upload).await;
                Ok((content, version))
            }
            Err(failure) => {
                self.tree.discard(&work).await;
                Err(failure)
            }
        }
    }

    /// The object that an upload became that is gone: who did not hear the answer asks again.
    pub(crate) async fn completed(&self, bucket: &Bucket, key: &str, id: &str) -> S3Result<Option<Object>> {
        let object = self.find(&bucket.node, key).await.map_err(failed)?;
        Ok(object.filter(|object| object.record.upload.as_deref() == Some(id)))
    }

    async fn forget(&self, bucket: &Bucket, upload: &Upload) {
        if let Err(error) = self.abort(bucket, upload).await {
            tracing::warn!(?error, "S3: parts of a completed upload stay until it is aborted");
        }
    }

    /// Removes an upload and its parts.
    pub(crate) async fn abort(&self, bucket: &Bucket, upload: &Upload) -> S3Result<()> {
        let gone = async {
            let Some(all) = self.tree.child(bucket.node.ino(), &names::own(UPLOADS)).await? else { return Ok(()) };
            self.tree.remove_all(&all, &names::own(&upload.id), upload.dir.clone()).await?;
            self.tree.sync_names(&all).await
        };
        match gone.await {
            Err(gone) if gone.kind() == ErrorKind::NotFound => no_upload(),
            gone => gone.map_err(failed),
        }
    }
}

/// What is known of the bytes of all parts together.
fn whole(upload: &Upload, parts: &[Part]) -> S3Result<Content> {
    let mut md5 = Md5::new();
    for part in parts {
        let pairs = part.content.etag.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Vec<_> = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        md5.update(&bytes);
    }
    let of: Vec<_> = parts.iter().map(|part| (&part.content.sums, part.content.size)).collect();
    let sums = match upload.algorithm() {
        Some(algorithm) => match of_parts(algorithm, upload.record.is_composite, &of) {
            Some(sums) => sums,
            None => return refuse(S3ErrorCode::InvalidPart, "A part lacks the checksum that the upload is to have."),
        },
        // As AWS has it where nobody asks.
        None => of_parts(Algorithm::Crc64Nvme, false, &of).unwrap_or_default(),
    };
    let kept = if parts.len() > PARTS_KEPT_MAX { &[] } else { parts };
    let record = |part: &Part| PartRecord {
        number: part.number,
        size: part.content.size,
        sums: if upload.algorithm().is_some() { part.content.sums.clone() } else { Sums::default() },
    };
    Ok(Content {
        etag: format!("{}-{}", hex(&md5.finalize()), parts.len()),
        size: parts.iter().map(|part| part.content.size).sum(),
        mtime: 0,
        sums,
        parts: kept.iter().map(record).collect(),
    })
}
