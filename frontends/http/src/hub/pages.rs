//! Pages for people: repositories, what is in them, an flist and its tree. Plain HTML without scripts: lists of links, one
//! directory of an flist at a time. Every name was chosen by somebody else and is escaped. Spec: spec/hub.md #pages.

use axum::{body::Body, http::Response};
use muxfs::{
    ErrorKind, FileKind, Name,
    calendar::{Utc, unix_secs},
};

use super::{
    Hub, HubNode,
    api::cleaned,
    receive::refused,
    shelf::{Kind, Result, Shelved, Spot, absent},
};
use crate::{
    page::{escape, of_hub, size},
    target::{path_of, percent_encode},
};

/// The most flists that a search shows.
const FOUND_COUNT_MAX: usize = 500;
/// The most entries of a directory on one page.
const SHOWN_COUNT_MAX: usize = 1000;
/// So much of a value of metadata is shown, in bytes, and so many values.
const VALUE_LEN_MAX: usize = 64 << 10;
const VALUE_COUNT_MAX: usize = 100;

/// A moment in seconds since 1970, as people read it.
fn time(seconds: i64) -> String {
    let Utc { year, month, day, hour, minute, .. } = Utc::of_unix(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

fn table(heads: &[&str], rows: &str) -> String {
    let heads = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect::<Vec<_>>().concat();
    format!("<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

fn link(href: &str, text: &str) -> String {
    format!("<a href=\"{}\">{}</a>", escape(href), escape(text))
}

/// An address of the hub.
fn at(base: &str, parts: &[&str]) -> String {
    parts.iter().fold(base.to_owned(), |path, part| path + "/" + &percent_encode(part.as_bytes()))
}

/// The pages of a hub, as they are seen at an address.
pub(super) struct Pages<'a> {
    pub(super) hub: &'a Hub,
    /// What all addresses of the hub begin with: `/hub`, or nothing.
    pub(super) base: &'a str,
}

impl Pages<'_> {
    /// What leads back, each part of it.
    fn trail(&self, parts: &[(String, &str)]) -> String {
        let all = if self.base.is_empty() { "/api/repositories" } else { self.base };
        let mut html = vec![link(all, "Flists")];
        html.extend(parts.iter().map(|(href, text)| link(href, text)));
        format!("<h1>{}</h1>\n", html.join(" / "))
    }

    /// All repositories, or the flists that a text was found in.
    pub(super) fn repositories(&self, query: Option<&str>) -> Result<Response<Body>> {
        let mut body = vec![self.trail(&[])];
        body.push(format!(
            "<form action=\"{}\" role=\"search\"><label>Name <input type=\"search\" name=\"q\" value=\"{}\"></label> \
             <button>Search</button></form>\n",
            escape(self.base),
            escape(query.unwrap_or_default())
        ));
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            let found = self.hub.named(query, FOUND_COUNT_MAX)?;
            let row = |name: &String| {
                let (repository, flist) = name.split_once('/').unwrap_or_default();
                format!("<tr><td>{}</td></tr>\n", link(&self.page(repository, flist), name))
            };
            body.push(if found.is_empty() {
                "<p>No flist has this in its name.</p>\n".to_owned()
            } else {
                table(&["Flist"], &found.iter().map(row).collect::<String>())
            });
            if found.len() == FOUND_COUNT_MAX {
                body.push("<p>There are more: search for more of the name.</p>\n".to_owned());
            }
            return Ok(of_hub(&format!("Flists: {query}"), &body.concat()));
        }
        let official = &self.hub.0.options.official;
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for (name, updated) in self.hub.0.shelf.repositories()? {
            let is_official = official.contains(&name);
            let (rows, mark) = if is_official { (&mut first, "official") } else { (&mut others, "") };
            let link = link(&at(self.base, &[&name]), &name);
            rows.push(format!("<tr><td>{link}</td><td>{mark}</td><td>{}</td></tr>\n", time(updated)));
        }
        first.extend(others);
        body.push(table(&["Repository", "", "Changed"], &first.concat()));
        Ok(of_hub("Flists", &body.concat()))
    }

    /// Where the page of an flist is.
    fn page(&self, repository: &str, flist: &str) -> String {
        at(self.base, &[repository, &format!("{flist}.md")])
    }

    pub(super) fn repository(&self, repository: &str) -> Result<Response<Body>> {
        let list = self.hub.0.shelf.list(repository)?;
        let rows: String = list.iter().map(|there| self.row(there, repository, None)).collect();
        let trail = self.trail(&[(at(self.base, &[repository]), repository)]);
        Ok(of_hub(repository, &(trail + &table(&["Name", "Leads to", "Changed", "Size"], &rows))))
    }

    pub(super) fn tag(&self, repository: &str, tag: &str) -> Result<Response<Body>> {
        let list = self.hub.0.shelf.tagged(repository, tag)?;
        let rows: String = list.iter().map(|there| self.row(there, repository, Some(tag))).collect();
        let above = at(self.base, &[repository]);
        let trail = self
            .trail(&[(above.clone(), repository), (format!("{above}/tags/{}", percent_encode(tag.as_bytes())), tag)]);
        Ok(of_hub(&format!("{repository}, {tag}"), &(trail + &table(&["Name", "Leads to", "Changed", "Size"], &rows))))
    }

    fn row(&self, there: &Shelved, repository: &str, tag: Option<&str>) -> String {
        let name = there.name.as_str();
        let (href, target) = match &there.kind {
            Kind::Tag => (at(self.base, &[repository, "tags", name]), "a tag".into()),
            Kind::TagLink(target, _) => {
                let target = cleaned(target);
                (format!("{}/{target}", self.base), target)
            }
            Kind::Symlink(target, _) => {
                let href = match tag {
                    Some(tag) => at(self.base, &[repository, "tags", tag, name]),
                    None => self.page(repository, name),
                };
                (href, cleaned(target))
            }
            Kind::Regular => (self.page(repository, name), String::new()),
        };
        let len = if matches!(there.kind, Kind::Tag | Kind::TagLink(..)) { String::new() } else { size(there.len) };
        let (link, target) = (link(&href, name), escape(&target));
        format!("<tr><td>{link}</td><td>{target}</td><td>{}</td><td>{len}</td></tr>\n", time(there.mtime))
    }

    /// What an flist says of itself, and its root.
    pub(super) fn flist(&self, spot: &Spot) -> Result<Response<Body>> {
        let (all, flists) = (&self.hub.0.shelf, &self.hub.0.flists);
        let (about, file) = (all.about(spot)?, all.file(spot)?);
        let (found, md5) = (flists.look(&file).map_err(refused)?, all.md5(&file)?);
        let Spot { repository, flist, .. } = spot;
        let href = at(self.base, &[repository, flist]);
        let mut rows = vec![
            ("File".to_owned(), format!("{}, {}, {}", link(&href, flist), size(about.len), time(about.mtime))),
            ("Format".to_owned(), escape(&found.format)),
            ("MD5".to_owned(), md5),
        ];
        if let Kind::Symlink(target, linked) = &about.kind {
            rows.push(("Leads to".into(), format!("{}, since {}", escape(&cleaned(target)), time(*linked))));
        }
        if !found.routes.is_empty() {
            rows.push((
                "Chunks".into(),
                found.routes.iter().map(|route| escape(route)).collect::<Vec<_>>().join("<br>"),
            ));
        }
        for (key, value) in found.metadata.iter().take(VALUE_COUNT_MAX) {
            let shown = value.get(..value.floor_char_boundary(VALUE_LEN_MAX)).unwrap_or_default();
            let cut = if shown.len() < value.len() { "\n…" } else { "" };
            rows.push((escape(key), format!("<pre>{}{cut}</pre>", escape(shown))));
        }
        if found.metadata.len() > VALUE_COUNT_MAX {
            rows.push((String::new(), format!("and {} more", found.metadata.len() - VALUE_COUNT_MAX)));
        }
        let row = |(head, text): &(String, String)| {
            format!("<tr><th scope=\"row\">{head}</th><td class=\"text\">{text}</td></tr>\n")
        };
        let facts: String = rows.iter().map(row).collect();
        let trail = self.trail(&[(at(self.base, &[repository]), repository), (self.page(repository, flist), flist)]);
        let tree = self.dir(spot, &file, &[], 0)?;
        let body = format!("{trail}<table>\n<tbody>\n{facts}</tbody>\n</table>\n<h2>Files</h2>\n{tree}");
        Ok(of_hub(&format!("{repository}/{flist}"), &body))
    }

    /// A directory of an flist.
    pub(super) fn tree(&self, spot: &Spot, dir: &[Name], from: usize) -> Result<Response<Body>> {
        let file = self.hub.0.shelf.file(spot)?;
        let Spot { repository, flist, .. } = spot;
        let tree = at(self.base, &[repository, flist, "tree"]);
        let texts: Vec<String> = dir.iter().map(ToString::to_string).collect();
        let mut parts =
            vec![(at(self.base, &[repository]), repository.as_str()), (self.page(repository, flist), flist)];
        for (index, text) in texts.iter().enumerate() {
            parts.push((format!("{tree}{}/", path_of(dir.get(..=index).unwrap_or_default())), text));
        }
        let body = self.trail(&parts) + &self.dir(spot, &file, dir, from)?;
        Ok(of_hub(&format!("{repository}/{flist}: /{}", texts.join("/")), &body))
    }

    fn dir(&self, spot: &Spot, file: &std::path::Path, dir: &[Name], from: usize) -> Result<String> {
        let list = self.hub.0.flists.list(file, dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotDir => absent("directory"),
            _ => refused(error),
        })?;
        let here = format!("{}{}/", at(self.base, &[&spot.repository, &spot.flist, "tree"]), path_of(dir));
        let rows: String = list.iter().skip(from).take(SHOWN_COUNT_MAX).map(|node| row(node, &here)).collect();
        if list.is_empty() {
            return Ok("<p>There is nothing here.</p>\n".to_owned());
        }
        let mut html = vec![table(&["Name", "Mode", "Changed", "Size"], &rows)];
        let next = from.saturating_add(SHOWN_COUNT_MAX);
        if next < list.len() {
            let (count, first) = (list.len(), from + 1);
            let more = link(&format!("{here}?from={next}"), "The next part");
            html.push(format!("<p>Of {count} names these are {first} to {next}. {more}.</p>\n"));
        }
        Ok(html.concat())
    }
}

fn row(node: &HubNode, here: &str) -> String {
    let text = escape(&node.name.to_string());
    let name = match node.kind {
        FileKind::Dir => {
            let href = format!("{here}{}/", percent_encode(node.name.as_bytes()));
            format!("<a href=\"{}\">{text}</a>/", escape(&href))
        }
        FileKind::Symlink => format!("{text} → {}", escape(&String::from_utf8_lossy(&node.target))),
        _ => text,
    };
    let len = if node.kind == FileKind::File { size(node.size) } else { String::new() };
    let mtime = time(unix_secs(node.mtime));
    format!("<tr><td>{name}</td><td>{:04o}</td><td>{mtime}</td><td>{len}</td></tr>\n", node.mode & 0o7777)
}
