//! `MKCOL`, `DELETE`, `COPY` and `MOVE`.

use axum::http::{HeaderValue, StatusCode, header::LOCATION};
use muxfs::{
    Name,
    vfs::{NewNode, SetAttr},
};

use super::{
    Answer, Dav, Touch, done, failed,
    headers::{self, Depth},
    href, is_hidden, mount_of,
    properties::{BEGIN, END},
    told,
    tree::{Copying, Left, Node},
    xml,
};
use crate::{access, failure::Failure, target::Target};

/// The permission bits of a new directory.
const DIR_MODE: u32 = 0o755;

/// Where something is copied or moved to.
struct Goal {
    target: Target,
    dir: Node,
    was_there: bool,
}

impl Goal {
    fn path(&self) -> &[Name] {
        &self.target.parts
    }

    fn place(&self) -> (&Node, &Name) {
        (&self.dir, self.target.parts.last().expect("it was split from it"))
    }

    fn status(&self) -> StatusCode {
        if self.was_there { StatusCode::NO_CONTENT } else { StatusCode::CREATED }
    }
}

impl Dav {
    pub(super) async fn make_dir(&self) -> Answer {
        let path = self.path();
        let (dir, name) = match self.there().await? {
            Some(_) => {
                let why = "Something has this name already.";
                return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, why, ""));
            }
            None => self.place(path).await?,
        };
        self.check(None, &[Touch::Tree(path)]).await?;
        let set = SetAttr { mode: Some(DIR_MODE), ..SetAttr::default() };
        let made = self.tree.vfs.create(dir.ino(), name, NewNode::Dir, set).await.map_err(failed)?;
        self.tree.vfs.release(made.node.ino, 1);
        self.tree.sync_names(&dir).await.map_err(failed)?;
        Ok(done(StatusCode::CREATED))
    }

    pub(super) async fn delete(&self) -> Answer {
        if headers::depth(&self.request.headers)? != Depth::Infinity {
            return Err(Failure::bad("A directory goes with all that is in it.", "Leave Depth out."));
        }
        let (path, there) = (self.path(), self.source().await?);
        let (dir, name) = self.place(path).await?;
        self.check(Some(&there), &[Touch::Tree(path)]).await?;
        let left = self.tree.remove_all(&dir, name).await.map_err(failed)?;
        self.tree.sync_names(&dir).await.map_err(failed)?;
        if left.is_empty() {
            self.shared.locks.forget(path);
            return Ok(done(StatusCode::NO_CONTENT));
        }
        Ok(told(StatusCode::MULTI_STATUS, what_is_left(path, left)))
    }

    pub(super) async fn copy(&self) -> Answer {
        let how = match headers::depth(&self.request.headers)? {
            Depth::Infinity => Copying::Deep,
            Depth::Zero => Copying::Shallow,
            Depth::One => return Err(Failure::bad("Depth is 0 or infinity here.", "")),
        };
        let (source, replaces) = (self.source().await?, self.replaces()?);
        let goal = self.goal(&source, &[]).await?;
        let hidden = self.tree.copy_hidden(source, &goal.dir, how).await.map_err(failed)?;
        let (dir, name) = goal.place();
        let installed = async {
            // Somebody may have locked the place meanwhile.
            self.check_locks(&[Touch::Tree(goal.path())])?;
            self.tree.install((dir, &hidden), (dir, name), replaces, None).await.map_err(taken_or)
        };
        if let Err(failure) = installed.await {
            self.tree.discard(dir, &hidden).await;
            return Err(failure);
        }
        Ok(self.moved(&goal))
    }

    pub(super) async fn rename(&self) -> Answer {
        if headers::depth(&self.request.headers)? != Depth::Infinity {
            return Err(Failure::bad("A directory moves with all that is in it.", "Leave Depth out."));
        }
        let (path, source, replaces) = (self.path(), self.source().await?, self.replaces()?);
        let (dir, name) = self.place(path).await?;
        let goal = self.goal(&source, &[Touch::Tree(path)]).await?;
        if mount_of(path) != mount_of(goal.path()) {
            self.move_over(source, (&dir, name), &goal, replaces).await?;
            self.shared.locks.forget(path);
            return Ok(self.moved(&goal));
        }
        let to = goal.place();
        let same = self.tree.child(to.0.ino(), to.1).await.map_err(failed)?.filter(|node| node.ino() == source.ino());
        match same {
            // Two names of one file: a rename would leave both.
            Some(same) if replaces && is_named_twice(&same, name, to.1) => {
                self.tree.remove_all(&dir, name).await.map_err(failed)?;
                self.tree.sync_names(&dir).await.map_err(failed)?;
            }
            Some(_) => self.tree.respell((&dir, name), to).await.map_err(failed)?,
            None => self.tree.install((&dir, name), to, replaces, None).await.map_err(taken_or)?,
        }
        self.shared.locks.forget(path);
        Ok(self.moved(&goal))
    }

    /// Moves from one mount to another: a copy takes its place, whole, and then the source goes, unless somebody changed it
    /// meanwhile. So whatever stops in between leaves the one or the other, or both.
    async fn move_over(&self, source: Node, from: (&Node, &Name), goal: &Goal, replaces: bool) -> Result<(), Failure> {
        let (tree, lease) = (&self.tree, source.lease.clone());
        tree.may_take_from(from.0).await.map_err(failed)?;
        let before = tree.state(lease.ino()).await.map_err(failed)?;
        let hidden = tree.copy_hidden(source, &goal.dir, Copying::Moved).await.map_err(failed)?;
        let (dir, name) = goal.place();
        let installed = async {
            // Somebody may have changed it, or locked one of the places, meanwhile.
            if tree.state(lease.ino()).await.map_err(failed)? != before {
                return Err(changed("Nothing was moved."));
            }
            self.check_locks(&[Touch::Tree(self.path()), Touch::Tree(goal.path())])?;
            tree.install((dir, &hidden), (dir, name), replaces, None).await.map_err(taken_or)
        };
        if let Err(failure) = installed.await {
            tree.discard(dir, &hidden).await;
            return Err(failure);
        }
        self.shared.locks.forget_below(goal.path());
        // Whatever is promised of that mount: what is removed here is nowhere else.
        let stays = |mut failure: Failure| {
            let why =
                " The destination is there, and the source stays: if it is not in its place the log tells its name.";
            failure.why.push_str(why);
            failure
        };
        tree.sync_node(dir.ino()).await.map_err(|error| stays(failed(error)))?;
        if tree.remove_unchanged(from, lease.ino(), before).await.map_err(|error| stays(failed(error)))? {
            return Ok(());
        }
        Err(changed("The destination has what there was before."))
    }

    /// What is to be removed, copied or moved.
    async fn source(&self) -> Result<Node, Failure> {
        let there = self.there().await?;
        let is_file_as_dir = self.target.is_dir && there.as_ref().is_some_and(|there| !there.is_dir());
        there
            .filter(|_| !is_file_as_dir)
            .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "There is nothing of this name.", "Check the path."))
    }

    fn replaces(&self) -> Result<bool, Failure> {
        headers::overwrite(&self.request.headers)
    }

    /// Where the request wants its source to be, if that can be. `touched` is what it changes beside.
    async fn goal(&self, source: &Node, touched: &[Touch<'_>]) -> Result<Goal, Failure> {
        let (path, target) = (self.path(), headers::destination(&self.request, &self.shared.options.hosts)?);
        if target.parts.iter().any(is_hidden) {
            return Err(Failure::new(StatusCode::FORBIDDEN, "This name is kept for what is not whole yet.", ""));
        }
        if !self.who.may_name(&target.parts) {
            return Err(access::out_of_home());
        }
        if target.parts.starts_with(path) || path.starts_with(&target.parts) {
            let why = "One of the two places is in the other, or they are one.";
            return Err(Failure::new(StatusCode::FORBIDDEN, why, "Name another destination."));
        }
        let (dir, name) = self.place(&target.parts).await?;
        let there = self.tree.child(dir.ino(), name).await.map_err(failed)?;
        if there.is_some() && !self.replaces()? {
            return Err(taken());
        }
        let touched = [touched, &[Touch::Tree(&target.parts)]].concat();
        self.check(Some(source), &touched).await?;
        let was_there = there.is_some();
        Ok(Goal { target, dir, was_there })
    }

    /// What is at the goal now was not there before: neither were its locks.
    fn moved(&self, goal: &Goal) -> axum::http::Response<axum::body::Body> {
        self.shared.locks.forget_below(goal.path());
        let mut response = done(goal.status());
        if !goal.was_there
            && let Ok(location) = HeaderValue::from_str(&goal.target.path())
        {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

/// Whether one node that two names find has both, rather than one name in two spellings.
fn is_named_twice(node: &Node, one: &Name, other: &Name) -> bool {
    !node.is_dir() && node.attr.nlink > 1 && !one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
}

/// What was to be moved is not what was copied.
fn changed(outcome: &str) -> Failure {
    let why = format!("Somebody changed this while it was moved to another mount. {outcome}");
    Failure::new(StatusCode::CONFLICT, why, "Look at what is there, and ask again.")
}

fn taken() -> Failure {
    let why = "The destination is there already, and Overwrite is F.";
    Failure::new(StatusCode::PRECONDITION_FAILED, why, "Name another destination.")
}

fn taken_or(error: muxfs::Error) -> Failure {
    if error.kind() == muxfs::ErrorKind::Exists { taken() } else { failed(error) }
}

/// What could not be removed, as a multi-status (RFC 4918 9.6.1).
fn what_is_left(path: &[Name], left: Vec<Left>) -> String {
    let left = left.into_iter().map(|(below, error)| {
        let failure = failed(error);
        let at = href(&[path, &below].concat(), false);
        format!(
            "<D:response><D:href>{}</D:href><D:status>HTTP/1.1 {}</D:status>\
             <D:responsedescription>{}</D:responsedescription></D:response>",
            xml::escape(&at),
            failure.status,
            xml::escape(&failure.why)
        )
    });
    format!("{BEGIN}{}{END}", left.collect::<String>())
}
