//! `PROPFIND` and `PROPPATCH`: what is known of things, and what programs keep with them.
//!
//! Live properties are what the file system says. Dead ones, which clients make up, lie together in one extended
//! attribute of the node, as XML: so all of a `PROPPATCH` happens or none of it, and they go where the node goes.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    body::Body,
    http::{Response, StatusCode, header::CONTENT_TYPE},
};
use futures_util::{StreamExt, stream};
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Cookie, Ino, XATTR_LEN_MAX, XattrMode, XattrName},
};

use super::{
    Answer, Dav, Touch, XML_TYPE, etag, failed,
    headers::{self, Depth},
    href, is_hidden,
    locking::{SUPPORTED, active},
    told,
    tree::Node,
    xml::{self, Element, QName},
};
use crate::{
    entity::{http_date, set},
    failure::Failure,
    media_type,
    target::Target,
};

/// Where the dead properties of a node lie.
const ATTRIBUTE: &[u8] = b"user.muxfs.webdav";
/// The live properties that are told where nobody names any.
const TOLD: [&str; 7] = [
    "resourcetype",
    "getcontentlength",
    "getcontenttype",
    "getetag",
    "getlastmodified",
    "lockdiscovery",
    "supportedlock",
];
/// Those that are told to who names them (RFC 4331): they cost a question of their own.
const NAMED: [&str; 2] = ["quota-available-bytes", "quota-used-bytes"];
/// What a multi-status begins and ends with.
pub(super) const BEGIN: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">";
pub(super) const END: &str = "</D:multistatus>\n";

/// Which properties are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// The names of all.
    Names,
    /// All, and these.
    All(Vec<QName>),
    These(Vec<QName>),
}

/// How many properties one request names at most, and how long the text of their names is, in bytes.
const NAME_COUNT_MAX: usize = 256;
const NAMES_LEN_MAX: usize = 16 << 10;

impl Wanted {
    fn of(body: &[u8]) -> Result<Self, Failure> {
        if body.is_empty() {
            return Ok(Self::All(Vec::new()));
        }
        let bad = |why: &str| Failure::bad(format!("The body asks for no properties: {why}."), "See RFC 4918 9.1.");
        let asked = xml::parse(body).map_err(bad)?;
        if asked.name.as_dav() != Some("propfind") {
            return Err(bad("it is no propfind"));
        }
        let names = |element: &Element| {
            // One that is named twice is told once.
            let mut names: Vec<QName> = Vec::new();
            let mut seen = BTreeSet::new();
            names.extend(
                element.elements().map(|element| element.name.clone()).filter(|name| seen.insert(name.clone())),
            );
            // Each of them may be told of each entry.
            let len: usize = names.iter().map(|name| xml::escape(&name.ns).len() + name.local.len()).sum();
            if names.len() > NAME_COUNT_MAX || len > NAMES_LEN_MAX { Err(bad("it names too many")) } else { Ok(names) }
        };
        match (asked.dav("propname"), asked.dav("allprop"), asked.dav("prop")) {
            (Some(_), None, None) => Ok(Self::Names),
            (None, Some(_), None) => Ok(Self::All(asked.dav("include").map(names).transpose()?.unwrap_or_default())),
            (None, None, Some(prop)) => Ok(Self::These(names(prop)?)),
            _ => Err(bad("it has not one of propname, allprop and prop")),
        }
    }

    /// Whether dead properties have to be looked at.
    fn needs_dead(&self) -> bool {
        match self {
            Self::Names | Self::All(_) => true,
            Self::These(names) => names.iter().any(|name| !is_live(name)),
        }
    }
}

fn is_live(name: &QName) -> bool {
    name.as_dav().is_some_and(|local| TOLD.contains(&local) || NAMED.contains(&local))
}

impl Dav {
    pub(super) async fn propfind(&self, body: &[u8]) -> Answer {
        let (wanted, depth) = (Wanted::of(body)?, headers::depth(&self.request.headers)?);
        if depth == Depth::Infinity {
            let why = "Nothing lists all that is below a directory at once.";
            let failure = Failure::new(StatusCode::FORBIDDEN, why, "Ask with Depth 1, and go on from there.");
            return Err(failure.with_condition("<D:propfind-finite-depth/>".to_owned()));
        }
        let Some(node) = self.there().await? else {
            return Err(Failure::new(StatusCode::NOT_FOUND, "There is nothing of this name.", "Check the path."));
        };
        self.check(Some(&node), &[]).await?;
        let own = self.described(self.path(), &node, &wanted).await;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MULTI_STATUS;
        set(response.headers_mut(), CONTENT_TYPE, XML_TYPE);
        let first = BEGIN.to_owned() + &own;
        let below = (depth == Depth::One && node.is_dir()).then_some(Cookie::START);
        let lister = Arc::new(Lister { dav: self.again(), dir: node, wanted });
        // A page is fetched when the one before was taken.
        let pages = stream::unfold(below, move |after| {
            let lister = lister.clone();
            async move {
                let told = lister.page(after?).await;
                Some(match told {
                    Ok((text, next)) => (Ok(text), next),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "HTTP: a list breaks off");
                        (Err(error), None)
                    }
                })
            }
        });
        let end = stream::iter([Ok(END.to_owned())]);
        let text = stream::iter([Ok::<_, Error>(first)]).chain(pages).chain(end);
        *response.body_mut() = Body::from_stream(text);
        Ok(response)
    }

    fn again(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            tree: self.tree.clone(),
            who: self.who.clone(),
            request: self.request.clone(),
            target: Target { parts: self.target.parts.clone(), is_dir: true, query: self.target.query.clone() },
        }
    }

    /// One resource of a multi-status.
    async fn described(&self, path: &[Name], node: &Node, wanted: &Wanted) -> String {
        let dead = if wanted.needs_dead() {
            self.dead(node.ino()).await.unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "HTTP: properties of something cannot be read");
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let (mut found, mut absent) = (String::new(), String::new());
        let names = match wanted {
            Wanted::These(names) => names.clone(),
            Wanted::Names | Wanted::All(_) => {
                let mut names: Vec<_> = TOLD.map(QName::dav).into();
                names.extend(dead.iter().map(|element| element.name.clone()));
                if let Wanted::All(more) = wanted {
                    names.extend(more.iter().filter(|name| is_live(name) && !TOLD.contains(&&*name.local)).cloned());
                }
                names
            }
        };
        for name in names {
            let empty = |out: &mut String| Element::new(name.clone()).write("", out);
            let own = dead.iter().find(|element| element.name == name);
            let live = if is_live(&name) { self.live(path, node, &name.local).await } else { None };
            match (live, own) {
                (Some(_), _) | (_, Some(_)) if *wanted == Wanted::Names => empty(&mut found),
                (Some(value), _) => found.extend(["<D:", &*name.local, ">", &*value, "</D:", &*name.local, ">"]),
                (None, Some(own)) => own.write("", &mut found),
                (None, None) if matches!(wanted, Wanted::These(_)) => empty(&mut absent),
                (None, None) => {}
            }
        }
        let mut text = format!("<D:response><D:href>{}</D:href>", xml::escape(&href(path, node.is_dir())));
        if !found.is_empty() || absent.is_empty() {
            text += &propstat(&found, StatusCode::OK);
        }
        if !absent.is_empty() {
            text += &propstat(&absent, StatusCode::NOT_FOUND);
        }
        text + "</D:response>\n"
    }

    /// The value of a live property, in XML; `None` for what has none.
    async fn live(&self, path: &[Name], node: &Node, name: &str) -> Option<String> {
        let attr = &node.attr;
        match name {
            "resourcetype" => Some(if node.is_dir() { "<D:collection/>".to_owned() } else { String::new() }),
            "getcontentlength" => (!node.is_dir()).then(|| attr.size.to_string()),
            "getcontenttype" => content_type(path, attr).map(xml::escape),
            "getetag" => (!node.is_dir()).then(|| xml::escape(&etag(path, attr))),
            "getlastmodified" => http_date(attr.mtime),
            "supportedlock" => Some(SUPPORTED.to_owned()),
            "lockdiscovery" => Some(self.shared.locks.covering(path).iter().map(|lock| active(lock)).collect()),
            _ => {
                let space = self.tree.vfs.statfs(node.ino()).await.ok().filter(|space| space.bytes_total > 0)?;
                let used = space.bytes_total.saturating_sub(space.bytes_free);
                Some(if name == "quota-used-bytes" { used } else { space.bytes_free }.to_string())
            }
        }
    }

    /// The dead properties of a node.
    async fn dead(&self, ino: Ino) -> Result<Vec<Element>> {
        let value = match self.tree.vfs.getxattr(ino, &attribute()).await {
            Ok(value) => value,
            Err(none) if matches!(none.kind(), ErrorKind::NoAttr | ErrorKind::Unsupported) => return Ok(Vec::new()),
            Err(other) => return Err(other),
        };
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, "http.properties").because(why.to_owned());
        let kept = xml::parse(&value).map_err(corrupt)?;
        Ok(kept.elements().cloned().collect())
    }

    pub(super) async fn proppatch(&self, body: &[u8]) -> Answer {
        let bad = |why: &str| Failure::bad(format!("The body changes no properties: {why}."), "See RFC 4918 9.2.");
        let asked = xml::parse(body).map_err(bad)?;
        if asked.name.as_dav() != Some("propertyupdate") {
            return Err(bad("it is no propertyupdate"));
        }
        let Some(node) = self.there().await? else {
            return Err(Failure::new(StatusCode::NOT_FOUND, "There is nothing of this name.", "Check the path."));
        };
        self.check(Some(&node), &[Touch::Node(self.path())]).await?;
        let mut dead = self.dead(node.ino()).await.map_err(failed)?;
        let mut named: Vec<QName> = Vec::new();
        for change in asked.elements() {
            let is_set = match change.name.as_dav() {
                Some("set") => true,
                Some("remove") => false,
                _ => continue,
            };
            let prop = change.dav("prop").ok_or_else(|| bad("a change has no prop"))?;
            for property in prop.elements() {
                dead.retain(|element| element.name != property.name);
                if is_set {
                    dead.push(with_language(property.clone(), prop));
                }
                if !named.contains(&property.name) {
                    named.push(property.name.clone());
                }
            }
        }
        if named.is_empty() {
            return Err(bad("it names none"));
        }
        let protected: Vec<bool> = named.iter().map(is_live).collect();
        let refused = if protected.contains(&true) { None } else { self.keep(&node, dead).await? };
        let mut stats = Vec::new();
        let list = |names: &mut dyn Iterator<Item = &QName>| {
            names.fold(String::new(), |mut text, name| {
                Element::new(name.clone()).write("", &mut text);
                text
            })
        };
        if protected.contains(&true) {
            let which =
                |is: bool| named.iter().zip(&protected).filter(move |(_, live)| **live == is).map(|(name, _)| name);
            let why = "<D:error><D:cannot-modify-protected-property/></D:error>";
            stats.push(propstat_with(&list(&mut which(true)), StatusCode::FORBIDDEN, why));
            let rest = list(&mut which(false));
            if !rest.is_empty() {
                stats.push(propstat(&rest, StatusCode::FAILED_DEPENDENCY));
            }
        } else {
            stats.push(propstat(&list(&mut named.iter()), refused.unwrap_or(StatusCode::OK)));
        }
        let address = xml::escape(&href(self.path(), node.is_dir()));
        let text = format!("{BEGIN}<D:response><D:href>{address}</D:href>{}</D:response>{END}", stats.concat());
        Ok(told(StatusCode::MULTI_STATUS, text))
    }

    /// Keeps the dead properties of a node, durably; the status for all of them where they cannot be kept.
    async fn keep(&self, node: &Node, dead: Vec<Element>) -> Result<Option<StatusCode>, Failure> {
        let vfs = &self.tree.vfs;
        let kept = if dead.is_empty() {
            match vfs.removexattr(node.ino(), &attribute()).await {
                Err(gone) if gone.kind() == ErrorKind::NoAttr => Ok(()),
                removed => removed.map(drop),
            }
        } else {
            let mut all = Element::new(QName::dav("prop"));
            all.nodes = dead.into_iter().map(xml::Node::Element).collect();
            let mut text = String::new();
            all.write("", &mut text);
            // What is not read again is not kept.
            if text.len() > XATTR_LEN_MAX || xml::parse(text.as_bytes()).as_ref() != Ok(&all) {
                return Ok(Some(StatusCode::INSUFFICIENT_STORAGE));
            }
            vfs.setxattr(node.ino(), &attribute(), text.into(), XattrMode::Set).await.map(drop)
        };
        match kept {
            Ok(()) => {}
            Err(error) => match error.kind() {
                ErrorKind::Unsupported => return Ok(Some(StatusCode::FORBIDDEN)),
                ErrorKind::TooLarge | ErrorKind::NoSpace => return Ok(Some(StatusCode::INSUFFICIENT_STORAGE)),
                _ => return Err(failed(error)),
            },
        }
        self.tree.sync_names(node).await.map_err(failed)?;
        Ok(None)
    }
}

/// A directory whose entries are told.
struct Lister {
    dav: Dav,
    dir: Node,
    wanted: Wanted,
}

impl Lister {
    async fn page(&self, after: Cookie) -> Result<(String, Option<Cookie>)> {
        let (entries, next) = self.dav.tree.page(self.dir.ino(), after).await?;
        let mut text = String::new();
        for (name, node) in entries {
            let (who, path) = (&self.dav.who, [&self.dav.target.parts[..], std::slice::from_ref(&name)].concat());
            if is_hidden(&name) {
                if who.may_write() && who.may_name(&path) && self.dav.tree.is_leftover(&name, &node.attr) {
                    self.dav.tree.discard(&self.dir, &name).await;
                }
                continue;
            }
            if !who.may_see(&path) {
                continue;
            }
            text += &self.dav.described(&path, &node, &self.wanted).await;
        }
        Ok((text, next))
    }
}

fn attribute() -> XattrName {
    XattrName::new(ATTRIBUTE).expect("17 letters and dots")
}

/// The language that is said for all properties together is said of each (RFC 4918 4.3).
fn with_language(mut property: Element, all: &Element) -> Element {
    let is_language = |(name, _): &&(QName, String)| &*name.local == "lang" && !name.ns.is_empty();
    if let Some(language) = all.attributes.iter().find(is_language)
        && !property.attributes.iter().any(|attribute| is_language(&attribute))
    {
        property.attributes.push(language.clone());
    }
    property
}

fn propstat(prop: &str, status: StatusCode) -> String {
    propstat_with(prop, status, "")
}

fn propstat_with(prop: &str, status: StatusCode, why: &str) -> String {
    format!("<D:propstat><D:prop>{prop}</D:prop><D:status>HTTP/1.1 {status}</D:status>{why}</D:propstat>")
}

/// The type that `GET` tells too; `None` where it would have to look into the file.
fn content_type<'a>(path: &[Name], attr: &Attr) -> Option<&'a str> {
    match attr.kind {
        FileKind::File => media_type::of_name(&path.last()?.to_string()),
        FileKind::Symlink => Some("inode/symlink"),
        FileKind::Dir | FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let ask = |inner: &str| Wanted::of(format!("<propfind xmlns='DAV:'>{inner}</propfind>").as_bytes());
        assert_eq!(Wanted::of(b"").expect("all"), Wanted::All(Vec::new()));
        assert_eq!(ask("<propname/>").expect("names"), Wanted::Names);
        assert_eq!(ask("<prop/>").expect("none"), Wanted::These(Vec::new()));
        let twice = ask("<prop><getetag/><a xmlns='x'/><getetag/></prop>").expect("two");
        let own = QName { ns: "x".into(), local: "a".into() };
        assert_eq!(twice, Wanted::These(vec![QName::dav("getetag"), own.clone()]));
        assert!(twice.needs_dead() && !Wanted::These(vec![QName::dav("getetag")]).needs_dead());
        assert_eq!(ask("<allprop/><include><a xmlns='x'/></include>").expect("all"), Wanted::All(vec![own]));
        for inner in ["", "<prop/><propname/>", "<other/>", "text"] {
            ask(inner).expect_err(inner);
        }
        for body in ["x", "<prop/>", "<propfind/>", "<propfind xmlns='x'><propname/></propfind>"] {
            Wanted::of(body.as_bytes()).expect_err(body);
        }
    }
}
