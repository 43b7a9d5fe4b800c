//! Sites: content on an origin of its own, `http://CID.ipfs.localhost:8080/`, and with a name `http://NAME.ipns.localhost:8080/`.
//!
//! A browser keeps such an origin from every other, also from the one that manages files here: so what is served there may run
//! as any page does, begins at `/`, and may say with [`_redirects`](crate::redirects) what is at paths that lead nowhere. Nothing
//! but content is on these origins, and nothing is written. Names below `localhost` are this machine's for every browser
//! (RFC 6761 6.3), so nobody else can have them lead here. Spec: spec/http.md #sites; why: spec/adr/0028-sites.md.

use axum::{
    body::Body,
    http::{
        HeaderValue, Response, StatusCode, Uri,
        header::{
            CONTENT_LENGTH, CONTENT_SECURITY_POLICY, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
        },
        request::Parts,
    },
};
use muxfs::{Cid, ErrorKind, FileKind, Name, Result, ipns::IpnsName};

use crate::{
    entity::set,
    failure::Failure,
    gateway::Gateway,
    guard,
    redirects::{Answer, BadLine, FILE, FILE_LEN_MAX, Redirects},
    target::Target,
};

/// The name of this machine that every browser knows.
const APEX: &str = "localhost";
/// The longest label of a name (RFC 1035 2.3.4).
const LABEL_LEN_MAX: usize = 63;
/// How many parts of a content path the name of the host says: `/ipfs/CID`.
pub(crate) const PARTS_OF_HOST: usize = 2;

/// What the name of a host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) root: Root,
    /// What was asked for without the label, as `//localhost:8080`: where all other content is.
    pub(crate) others: String,
}

/// Where a site begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    Cid(Cid),
    Name(IpnsName),
}

impl Site {
    /// The site that a request is for: one whose host is `LABEL.ipfs.localhost` or `LABEL.ipns.localhost`, the label being a CID
    /// of version 1 in base32 or base36, or such a name. Anything else is none.
    pub(crate) fn of(request: &Parts) -> Option<Self> {
        let host = guard::asked_host(request).ok()??;
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        if port.is_some() && !guard::is_port(port) {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let (label, kind) = name.strip_suffix(APEX)?.strip_suffix('.')?.split_once('.')?;
        if label.len() > LABEL_LEN_MAX || !label.starts_with(['b', 'k']) {
            return None;
        }
        let root = match kind {
            "ipfs" => Root::Cid(Cid::parse_in_path(label).ok()?),
            "ipns" => Root::Name(label.parse().ok()?),
            _ => return None,
        };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Some(Self { root, others: format!("//{APEX}{port}") })
    }

    /// A path of the site as one of content.
    pub(crate) fn content(&self, target: Target) -> Result<Target> {
        let (prefix, root) = match &self.root {
            Root::Cid(cid) => (&b"ipfs"[..], cid.to_string()),
            Root::Name(name) => (&b"ipns"[..], name.to_string()),
        };
        let parts = [vec![Name::new(prefix)?, Name::new(root.as_bytes())?], target.parts].concat();
        Ok(Target { parts, ..target })
    }
}

impl Gateway<'_> {
    /// Answers for a site that begins at `base` below a CID; `below` is the path that is asked for.
    pub(crate) async fn answer_on(
        &self,
        site: &Site,
        cid: Cid,
        (base, below): (&[Name], &[Name]),
    ) -> Result<Response<Body>, Failure> {
        let mut answered = self.answer(cid, &[base, below].concat()).await;
        if let Err(failure) = &answered
            && failure.status == StatusCode::NOT_FOUND
            && self.wanted.format.is_none()
            && let Some(instead) = self.redirected(site, cid, (base, below)).await?
        {
            answered = Ok(instead);
        }
        let mut response = answered?;
        // It has an origin of its own already.
        let policy = response.headers().get(CONTENT_SECURITY_POLICY);
        if policy.is_some_and(|policy| policy.as_bytes().starts_with(b"sandbox")) {
            response.headers_mut().remove(CONTENT_SECURITY_POLICY);
        }
        Ok(response)
    }

    /// What the site says of a path that it has nothing at.
    async fn redirected(
        &self,
        site: &Site,
        cid: Cid,
        (base, below): (&[Name], &[Name]),
    ) -> Result<Option<Response<Body>>, Failure> {
        let root = self.dag.resolve(&cid, base).await?;
        let file = match self.dag.lookup(&root.cid, &Name::new(FILE.as_bytes())?).await {
            Ok(Some(entry)) if root.within.is_empty() => entry.link.cid,
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotDir | ErrorKind::InvalidArgument) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !self.leads_nowhere(root.cid, below).await? {
            return Ok(None);
        }
        let node = self.dag.stat(&file).await?;
        let broken = |why: String| {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The file {FILE} of this site is bad: {why}."), "")
        };
        if node.kind != FileKind::File || node.size > FILE_LEN_MAX {
            return Err(broken(format!("it is no file of at most {FILE_LEN_MAX} bytes")));
        }
        let text = self.dag.read_at(&file, 0, u32::try_from(FILE_LEN_MAX).unwrap_or(u32::MAX)).await?;
        let bad_line = |BadLine { line, why }| broken(format!("line {line}: {why}"));
        let redirects = Redirects::parse(&text).map_err(bad_line)?;
        match redirects.answer(below, &self.target.query.text).map_err(bad_line)? {
            None => Ok(None),
            Some(Answer::Elsewhere(status, to)) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                set(response.headers_mut(), LOCATION, &to);
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                Ok(Some(response))
            }
            Some(Answer::Instead { status, path, line }) => {
                let bad_path = |why: String| bad_line(BadLine { line, why: format!("TO becomes no path: {why}") });
                let uri: Uri = path.parse().map_err(|error| bad_path(format!("{error}.")))?;
                let target = Target::parse(&uri).map_err(|failure| bad_path(failure.why))?;
                let path = [base, &target.parts].concat();
                let target = site.content(Target { query: self.target.query.clone(), ..target })?;
                let request = &whole(self.request, status);
                let instead = |target| Gateway { target, request, wanted: self.wanted.clone(), ..*self };
                let mut response = instead(&target).answer(cid, &path).await?;
                if response.status() == StatusCode::MOVED_PERMANENTLY {
                    // A directory without a slash. To be sent there would lose the status.
                    let slashed = Target { is_dir: true, ..target.clone() };
                    response = instead(&slashed).answer(cid, &path).await?;
                }
                if response.status() == StatusCode::OK {
                    *response.status_mut() = status;
                }
                Ok(Some(response))
            }
        }
    }

    /// Whether a path below a directory names something that is not there. A block that is absent hides what is: that is an error.
    async fn leads_nowhere(&self, root: Cid, below: &[Name]) -> Result<bool> {
        let mut at = root;
        for name in below {
            match self.dag.lookup(&at, name).await {
                Ok(Some(entry)) => at = entry.link.cid,
                Ok(None) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::NotDir => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// A request for all of what is answered with a status that says that it is not what was asked for: who has that already, or
/// wants a part of it, is told the same.
fn whole(request: &Parts, status: StatusCode) -> Parts {
    let mut request = request.clone();
    if status != StatusCode::OK {
        for name in [RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE] {
            request.headers.remove(name);
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";

    fn site(host: &str) -> Option<Site> {
        Site::of(
            &axum::http::Request::builder().uri("/").header("host", host).body(()).expect("a request").into_parts().0,
        )
    }

    /// A label that is no CID, or a name of another machine, is no site: then the rules for hosts hold.
    #[test]
    fn only_cids_below_localhost_are_sites() {
        let name = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
        for (host, others) in [
            (format!("{CID}.ipfs.localhost"), "//localhost"),
            (format!("{CID}.ipfs.localhost:8080"), "//localhost:8080"),
            (format!("{}.IPFS.LocalHost.:80", CID.to_ascii_uppercase()), "//localhost:80"),
            ("bafkqaaa.ipfs.localhost".to_owned(), "//localhost"),
            (format!("{name}.ipns.localhost:1"), "//localhost:1"),
        ] {
            assert_eq!(site(&host).map(|site| site.others).as_deref(), Some(others), "{host}");
        }
        let long = format!("b{}", "a".repeat(63));
        for host in [
            "localhost",
            "ipfs.localhost",
            ".ipfs.localhost",
            "x.ipfs.localhost",
            "en-wikipedia--on--ipfs-org.ipns.localhost",
            "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn.ipfs.localhost",
            "f01551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b.ipfs.localhost",
            &format!("{CID}.localhost"),
            &format!("{CID}.ipns.localhost"),
            &format!("{CID}.zstor.localhost"),
            &format!("x.{CID}.ipfs.localhost"),
            &format!("{CID}.x.ipfs.localhost"),
            &format!("{CID}.ipfs.localhost.evil.example"),
            &format!("{CID}.ipfs.evillocalhost"),
            &format!("{CID}.ipfs.evil.example"),
            &format!("{CID}.ipfs.127.0.0.1"),
            &format!("{CID}.ipfs.localhost:x"),
            &format!("{CID}.ipfs.localhost:80:90"),
            &format!("user@{CID}.ipfs.localhost"),
            &format!("{long}.ipfs.localhost"),
        ] {
            assert_eq!(site(host), None, "{host}");
        }
    }
}
