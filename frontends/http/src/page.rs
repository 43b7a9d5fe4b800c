//! Pages for people: lists of directories, previews of linked data, and what went wrong.
//!
//! Plain HTML that needs no script; every name and value in it was chosen by somebody else and is escaped here, once.

use axum::{
    body::Body,
    http::{
        HeaderValue, Response, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION,
            X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
};
use muxfs::{Cid, Name, dag::murmur3_x64_64};

use crate::{
    dav::XML_TYPE,
    entity::{is_unchanged, set},
    failure::Failure,
    target::{Query, Target, path_of, percent_encode, percent_encode_value},
};

/// What is served in the place of a directory that has it.
pub(crate) const INDEX: &str = "index.html";
/// The most entries that one page lists.
pub(crate) const LIST_COUNT_MAX: usize = 4096;
/// A page that may look otherwise one day.
/// Of what nobody is to keep.
pub(crate) const NO_STORE: &str = "no-store";
const FOR_A_WEEK: &str = "public, max-age=604800, stale-while-revalidate=2678400";
/// No page of ours loads anything or runs anything.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
body{margin:0 auto;max-width:70rem;padding:1rem}\
h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}\
th,td{border-bottom:1px solid #8884;padding:.25rem .5rem;text-align:left;vertical-align:top}\
td{overflow-wrap:anywhere;unicode-bidi:isolate}\
td:last-child,th:last-child{text-align:right;white-space:nowrap}\
td.text{text-align:left;white-space:normal}\
input,button{font:inherit}\
.ipfs-hash{font-family:ui-monospace,monospace;font-size:.85em}\
a:focus-visible{outline:2px solid;outline-offset:2px}\
pre{overflow-x:auto}";

/// Text as HTML, in a value in quotation marks too.
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
        escaped
    })
}

fn html(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A line of a list.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: Name,
    /// Where content has one.
    pub(crate) cid: Option<Cid>,
    /// In bytes, as the directory says; `None` where that says nothing.
    pub(crate) size: Option<u64>,
    /// Whether it is known to be a directory.
    pub(crate) is_dir: bool,
}

/// A part of a directory, to be shown.
pub(crate) struct List<'a> {
    /// The parts of its path, the prefix first.
    pub(crate) parts: &'a [Name],
    pub(crate) rows: Vec<Row>,
    /// Where the next part begins.
    pub(crate) next: Option<u64>,
    /// Whether there is one before.
    pub(crate) is_first: bool,
    /// How many parts lead to where nothing above is shown.
    pub(crate) top: usize,
    /// Where other content is: nothing on this origin, or as `//localhost:8080`.
    pub(crate) others: &'a str,
    /// How many parts the name of the host says, and the path does not.
    pub(crate) of_host: usize,
}

impl List<'_> {
    /// Its path, each directory leading to its list.
    pub(crate) fn path_html(&self) -> String {
        let mut html = vec!["<a href=\"/?list\">/</a>".to_owned()];
        for (index, name) in self.parts.iter().enumerate() {
            let path = escape(&path_of(self.parts.get(..=index).unwrap_or_default()));
            html.push(format!(" <a href=\"{path}/?list\">{}</a> /", escape(&name.to_string())));
        }
        html.concat()
    }

    /// Its lines, for the page that manages files.
    pub(crate) fn rows_html(&self) -> String {
        let path = path_of(self.parts);
        let mut html = Vec::new();
        if !self.parts.is_empty() {
            html.push(format!("<tr><td colspan=\"4\"><a href=\"{}/..\">..</a></td></tr>\n", escape(&path)));
        }
        for row in &self.rows {
            let href = escape(&format!("{path}/{}", percent_encode(row.name.as_bytes())));
            let (name, slash) = (escape(&row.name.to_string()), if row.is_dir { "/" } else { "" });
            let size = row.size.map(size).unwrap_or_default();
            let cid = row.cid.map(|cid| cid.to_string()).unwrap_or_default();
            html.push(format!(
                "<tr><td><a href=\"{href}{slash}\">{name}</a>{slash}</td><td class=\"number\">{size}</td><td></td>\
                 <td class=\"cid\">{cid}</td></tr>\n"
            ));
        }
        html.concat()
    }

    /// Where the rest of it is.
    pub(crate) fn parts_html(&self) -> String {
        self.other_parts(&escape(&path_of(self.parts)))
    }

    pub(crate) fn html(&self) -> String {
        let path_of = |parts: &[Name]| path_of(parts.get(self.of_host..).unwrap_or_default());
        let path = path_of(self.parts);
        let prefix = self.parts.first().map(Name::to_string).unwrap_or_default();
        let mut body = vec![format!("<h1>Index of /{}", escape(&prefix))];
        for end in 2..=self.parts.len() {
            let (Some(above), Some(name)) = (self.parts.get(..end), self.parts.get(end - 1)) else { continue };
            let above = Some(path_of(above)).filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
            body.push(format!("/<a href=\"{}\">{}</a>", escape(&above), escape(&name.to_string())));
        }
        let head = "</h1>\n<table>\n<thead><tr><th scope=\"col\">Name</th><th scope=\"col\">CID</th>\
                    <th scope=\"col\">Size</th></tr></thead>\n<tbody>\n";
        body.push(head.to_owned());
        if self.parts.len() > self.top {
            let href = escape(&path);
            body.push(format!("<tr><td><a href=\"{href}/..\">..</a></td><td>the directory above</td><td></td></tr>\n"));
        }
        body.extend(self.rows.iter().map(|row| row.html(&format!("{}/{prefix}", self.others), &path)));
        body.push("</tbody>\n</table>\n".to_owned());
        if self.rows.is_empty() {
            body.push("<p>There is nothing here.</p>\n".to_owned());
        }
        body.push(self.other_parts(&escape(&path)));
        let shown = self.parts.iter().fold(String::new(), |shown, part| shown + "/" + &part.to_string());
        html(&format!("Index of {shown}"), &body.concat())
    }

    /// Where the rest of a directory is that is shown in parts.
    fn other_parts(&self, href: &str) -> String {
        if self.is_first && self.next.is_none() {
            return String::new();
        }
        let first = if self.is_first { String::new() } else { format!(" <a href=\"{href}/\">The first part</a>.") };
        let next = self.next.map(|next| format!(" <a rel=\"next\" href=\"{href}/?from={next:x}\">The next part</a>."));
        let next = next.unwrap_or_default();
        format!("<p>This directory is shown in parts, each in the order of its names.{first}{next}</p>\n")
    }
}

impl Row {
    fn html(&self, content: &str, path: &str) -> String {
        let href = escape(&format!("{path}/{}", percent_encode(self.name.as_bytes())));
        let name = self.name.to_string();
        let saved_as = percent_encode_value(&name);
        let (name, slash) = (escape(&name), if self.is_dir { "/" } else { "" });
        let cid = self.cid.map(|cid| {
            let href = format!("{}/{cid}?filename={saved_as}", escape(content));
            format!("<a class=\"ipfs-hash\" translate=\"no\" href=\"{href}\">{cid}</a>")
        });
        let (cid, size) = (cid.unwrap_or_default(), self.size.map(size).unwrap_or_default());
        format!("<tr><td><a href=\"{href}{slash}\">{name}</a>{slash}</td><td>{cid}</td><td>{size}</td></tr>\n")
    }
}

/// A length for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).unwrap_or(&""))
}

/// Linked data as text, and what it links to: `content` is where a CID is shown, as `/ipfs`.
pub(crate) fn preview(content: &str, cid: &Cid, text: &str, is_cut: bool, links: &[Cid]) -> String {
    let mut body = vec![format!("<h1>Linked data {cid}</h1>\n<pre>{}</pre>\n", escape(text))];
    if is_cut {
        body.push("<p>The rest is left out here.</p>\n".to_owned());
    }
    let content = escape(content);
    let block = format!("{content}/{cid}?format=raw&amp;download=true");
    body.push(format!("<p>As it is: <a href=\"{block}\">the block</a>.</p>\n"));
    if !links.is_empty() {
        body.push("<h2>Links</h2>\n<ul>\n".to_owned());
        let item = |link| format!("<li><a class=\"ipfs-hash\" href=\"{content}/{link}\">{link}</a></li>\n");
        body.extend(links.iter().map(item));
        body.push("</ul>\n".to_owned());
    }
    html(&format!("Linked data {cid}"), &body.concat())
}

/// An `ETag` of a page about a CID: it changes with the looks of the page.
pub(crate) fn etag(kind: &str, cid: &Cid, part: &str) -> String {
    let looks = format!("{STYLE}{part}{}", env!("CARGO_PKG_VERSION"));
    format!("\"{kind}-{:x}_CID-{cid}\"", murmur3_x64_64(looks.as_bytes()))
}

/// Whether who asks has a page already.
pub(crate) fn is_known(request: &Parts, etag: &str) -> bool {
    is_unchanged(&request.headers, etag, None)
}

/// A page; `None` where whoever asks has it already.
pub(crate) fn answer(etag: Option<&str>, page: Option<String>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if let Some(etag) = etag {
        set(response.headers_mut(), ETAG, etag);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(FOR_A_WEEK));
    match page {
        Some(page) => put(&mut response, page, "text/html; charset=utf-8"),
        None => *response.status_mut() = StatusCode::NOT_MODIFIED,
    }
    response
}

fn put(response: &mut Response<Body>, text: String, content_type: &'static str) {
    set(response.headers_mut(), CONTENT_LENGTH, &text.len().to_string());
    for (name, value) in
        [(CONTENT_TYPE, content_type), (CONTENT_SECURITY_POLICY, POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    *response.body_mut() = Body::from(text);
}

/// The same path with a slash at its end: what is named in a page is found below it then.
pub(crate) fn to_dir(parts: &[Name], query: &Query) -> Response<Body> {
    let query = &query.text;
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    set(response.headers_mut(), LOCATION, &format!("{}/{query}", path_of(parts)));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A page of a hub, which has forms. What is put into it was escaped.
pub(crate) fn of_hub(title: &str, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    put(&mut response, html(title, body), "text/html; charset=utf-8");
    let policy = POLICY.replace("form-action 'none'", "form-action 'self'");
    set(response.headers_mut(), CONTENT_SECURITY_POLICY, &policy);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    response
}

/// Leads a user to their home.
pub(crate) fn to_home(home: &[Name]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    set(headers, LOCATION, &format!("{}/", path_of(home)));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    response
}

/// Where the part of a directory begins that is asked for.
pub(crate) fn from(target: &Target) -> Result<u64, Failure> {
    let bad = |_| Failure::bad("The part of a directory begins nowhere.", "Begin without ?from=.");
    target.query.get("from").map_or(Ok(0), |from| u64::from_str_radix(from, 16).map_err(bad))
}

/// What went wrong, as a page or, for programs, as text.
pub(crate) fn failed(failure: &Failure, for_people: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = failure.status;
    let Failure { status, why, advice, condition } = failure;
    if let Some(condition) = condition {
        let text =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\">{condition}</D:error>\n");
        put(&mut response, text, XML_TYPE);
    } else if for_people {
        let body = format!("<h1>{status}</h1>\n<p>{}</p>\n<p>{}</p>\n", escape(why), escape(advice));
        put(&mut response, html(&status.to_string(), &body), "text/html; charset=utf-8");
    } else {
        put(&mut response, format!("{status}: {why}\n{advice}\n"), "text/plain; charset=utf-8");
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    response
}

#[cfg(test)]
mod tests {
    use muxfs::{Codec, cid_of};

    use super::*;

    fn names(names: &[&[u8]]) -> Vec<Name> {
        names.iter().map(|name| Name::new(name).expect("a name")).collect()
    }

    /// A name is chosen by whoever made the directory, and becomes part of a page of ours.
    #[test]
    fn names_stay_names() {
        let hostile = b"\"><script>alert(1)<b>&#x27;'";
        let cid = cid_of(Codec::Raw, b"");
        let row = |name| Row { name, cid: Some(cid), size: None, is_dir: false };
        let rows = names(&[hostile, b"\xff.txt"]).into_iter().map(row).collect();
        let parts = names(&[b"ipfs", cid.to_string().as_bytes(), b"<b>", hostile]);
        let page =
            List { parts: &parts, rows, next: Some(255), is_first: false, top: 2, others: "", of_host: 0 }.html();
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains("&#x27;"), "{page}");
        assert!(page.contains("%FF.txt") && page.contains("?from=ff"));
        let failure = Failure::bad("<script>", "");
        assert_eq!(failed(&failure, true).headers()[CONTENT_SECURITY_POLICY], POLICY);
    }

    #[test]
    fn above_a_cid_there_is_nothing() {
        let cid = cid_of(Codec::Raw, b"").to_string();
        let page = |parts: &[&[u8]]| {
            let parts = names(parts);
            List { parts: &parts, rows: vec![], next: None, is_first: true, top: 2, others: "", of_host: 0 }.html()
        };
        assert!(!page(&[b"ipfs", cid.as_bytes()]).contains(">..<"));
        let below = page(&[b"ipfs", cid.as_bytes(), b"a b"]);
        assert!(below.contains(&format!("<a href=\"/ipfs/{cid}/a%20b/..\">..</a>")), "{below}");
        assert!(
            below.contains(&format!("/ipfs/<a href=\"/ipfs/{cid}\">{cid}</a>/<a href=\"/ipfs/{cid}/a%20b\">a b</a>"))
        );
    }

    #[test]
    fn lengths() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
