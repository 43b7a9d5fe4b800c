//! `PUT`: a file appears under its name when all of it came and is durable, and never before.

use axum::{
    body::BodyDataStream,
    http::{
        StatusCode,
        header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName},
    },
};
use bytes::{Bytes, BytesMut};
use muxfs::{
    ErrorKind, FileKind, Name,
    vfs::{SetAttr, SetTime},
};

use super::{Answer, Dav, Touch, done, failed, headers, tell_etag, tree::Node};
use crate::failure::Failure;

/// How much is gathered before it is written, in bytes: what a working tree keeps as one block.
const WRITE_LEN: usize = 1 << 20;
/// The permission bits of a new file.
pub(super) const FILE_MODE: u32 = 0o644;
/// When the content was made, in seconds since 1970: programs that copy files tell it.
const MADE: HeaderName = HeaderName::from_static("x-oc-mtime");

impl Dav {
    pub(super) async fn put(&self, body: &mut BodyDataStream) -> Answer {
        if self.request.headers.contains_key(CONTENT_RANGE) {
            return Err(Failure::bad("A file is put whole, and not in parts.", "Leave Content-Range out."));
        }
        let made = self.made()?;
        let path = self.path();
        let (dir, name) = self.place(path).await?;
        let old = self.tree.child(dir.ino(), name).await.map_err(failed)?;
        let is_dir = self.target.is_dir || old.as_ref().is_some_and(Node::is_dir);
        if is_dir {
            let why = "This is a directory, or the name of one.";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, why, "Name the file in it."));
        }
        if old.as_ref().is_some_and(|old| old.attr.kind != FileKind::File) {
            let why = "What is there is no file.";
            return Err(Failure::new(StatusCode::CONFLICT, why, "Remove it first."));
        }
        self.check(old.as_ref(), &[self.touch(old.as_ref())]).await?;
        let (hidden, file) = self.tree.create_hidden(&dir, FILE_MODE).await.map_err(failed)?;
        let put = async {
            self.receive(&file, body).await?;
            if let Some(old) = &old {
                self.tree.take_after(&file, old).await.map_err(failed)?;
            }
            if let Some(made) = made {
                let set = SetAttr { mtime: Some(SetTime::At(made)), ..SetAttr::default() };
                self.tree.vfs.setattr(file.ino(), set).await.map_err(failed)?;
            }
            self.tree.sync_node(file.ino()).await.map_err(failed)?;
            self.appear((&dir, &hidden), name).await
        };
        let was_there = match put.await {
            Ok(was_there) => was_there,
            Err(failure) => {
                self.tree.discard(&dir, &hidden).await;
                return Err(failure);
            }
        };
        let mut response = done(if was_there { StatusCode::NO_CONTENT } else { StatusCode::CREATED });
        // It is there, whether its tag can be told or not.
        if let Ok(attr) = self.tree.vfs.getattr(file.ino()).await {
            tell_etag(response.headers_mut(), path, &attr);
        }
        if made.is_some() {
            response.headers_mut().insert(MADE, axum::http::HeaderValue::from_static("accepted"));
        }
        Ok(response)
    }

    fn touch(&self, there: Option<&Node>) -> Touch<'_> {
        // Who replaces the bytes of a file leaves the names of its directory as they are.
        if there.is_some() { Touch::Node(self.path()) } else { Touch::Tree(self.path()) }
    }

    fn made(&self) -> Result<Option<std::time::SystemTime>, Failure> {
        let Some(text) = self.request.headers.get(MADE) else { return Ok(None) };
        let seconds = text.to_str().ok().and_then(|text| text.split('.').next()?.parse().ok());
        let made =
            seconds.and_then(|seconds| std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds)));
        made.map(Some).ok_or_else(|| Failure::bad("X-OC-Mtime is no number of seconds since 1970.", ""))
    }

    /// Writes what comes; one piece is written while the next one comes.
    async fn receive(&self, file: &Node, body: &mut BodyDataStream) -> Result<(), Failure> {
        let announced = self.request.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        if let (Some(len), Ok(space)) = (announced, self.tree.vfs.statfs(file.ino()).await)
            && space.bytes_total > 0
            && len > space.bytes_free
        {
            let why = format!("There is no room for {len} bytes.");
            return Err(Failure::new(StatusCode::INSUFFICIENT_STORAGE, why, ""));
        }
        let (mut at, mut held) = (0, Bytes::new());
        loop {
            let next = async {
                let mut gathered = BytesMut::new();
                while gathered.len() < WRITE_LEN
                    && let Some(piece) = self.piece(body).await?
                {
                    gathered.extend_from_slice(&piece);
                }
                Ok::<_, Failure>(gathered)
            };
            let (gathered, written) = tokio::join!(next, self.write(file, at, held.clone()));
            written?;
            at += held.len() as u64;
            let mut gathered = gathered?;
            if gathered.is_empty() {
                break;
            }
            held = if gathered.len() > WRITE_LEN {
                let rest = gathered.split_off(WRITE_LEN);
                self.write(file, at, gathered.freeze()).await?;
                at += WRITE_LEN as u64;
                rest.freeze()
            } else {
                gathered.freeze()
            };
        }
        let len_expected = announced.unwrap_or(at);
        if at != len_expected {
            return Err(Failure::bad("The body broke off.", "Send it again; nothing was kept."));
        }
        Ok(())
    }

    async fn write(&self, file: &Node, at: u64, bytes: Bytes) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.tree.vfs.write(file.ino(), at, bytes, false).await.map(drop).map_err(failed)
    }

    /// Gives the file its name, if what was there is what it was when the body began to come, and says whether anything
    /// was there.
    async fn appear(&self, (dir, hidden): (&Node, &Name), name: &Name) -> Result<bool, Failure> {
        let there = self.tree.child(dir.ino(), name).await.map_err(failed)?;
        self.check(there.as_ref(), &[self.touch(there.as_ref())]).await?;
        let is_new = headers::is_for_new(&self.request.headers);
        if there.as_ref().is_some_and(|there| there.attr.kind != FileKind::File) {
            let why = "What has this name by now is no file.";
            return Err(Failure::new(StatusCode::CONFLICT, why, "Look at what is there, and ask again."));
        }
        // What a condition was held against is what is replaced.
        let expected = there.as_ref().filter(|_| headers::is_conditional(&self.request.headers)).map(Node::ino);
        match self.tree.install((dir, hidden), (dir, name), !is_new, expected).await {
            Err(taken)
                if (is_new && taken.kind() == ErrorKind::Exists)
                    || (expected.is_some() && matches!(taken.kind(), ErrorKind::Stale | ErrorKind::NotFound)) =>
            {
                let why = "Something else has this name by now.";
                Err(Failure::new(StatusCode::PRECONDITION_FAILED, why, "Look at what is there, and ask again."))
            }
            installed => installed.map(|()| there.is_some()).map_err(failed),
        }
    }
}
