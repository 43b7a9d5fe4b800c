//! XML as WebDAV needs it: a body into elements with their namespaces, and elements into text again.
//!
//! Bounded by construction: no DTD is taken, so nothing expands; elements nest [`DEPTH_MAX`] deep and are
//! [`ELEMENT_COUNT_MAX`] at most; names of namespaces are short, since each may have to be said again. Comments and
//! processing instructions are passed over. Spec: XML 1.0, Namespaces in XML 1.0, RFC 4918 8.2.

use std::{fmt::Write as _, sync::Arc};

/// How deep elements nest: requests take six levels, and the rest is for the values of properties.
const DEPTH_MAX: usize = 32;
/// How many elements a document has at most.
const ELEMENT_COUNT_MAX: usize = 2048;
/// How many attributes an element has at most, declarations of namespaces among them.
const ATTRIBUTE_COUNT_MAX: usize = 64;
/// The longest name of a namespace, in bytes.
const NAMESPACE_LEN_MAX: usize = 1024;
/// The namespace of WebDAV's own names.
pub(crate) const DAV: &str = "DAV:";
/// The namespace of `xml:lang`.
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Why a text is no XML that is taken here.
pub(crate) type Wrong = &'static str;

/// A name in a namespace; the empty namespace is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QName {
    pub(crate) ns: Arc<str>,
    pub(crate) local: Box<str>,
}

impl QName {
    /// One of WebDAV's own names.
    pub(crate) fn dav(local: &str) -> Self {
        Self { ns: DAV.into(), local: local.into() }
    }

    /// Which of WebDAV's own names it is.
    pub(crate) fn as_dav(&self) -> Option<&str> {
        (&*self.ns == DAV).then_some(&*self.local)
    }
}

/// An element, its attributes but for declarations of namespaces, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: QName,
    pub(crate) attributes: Vec<(QName, String)>,
    pub(crate) nodes: Vec<Node>,
}

/// What is in an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    /// An empty element.
    pub(crate) fn new(name: QName) -> Self {
        Self { name, attributes: Vec::new(), nodes: Vec::new() }
    }

    /// The elements in it.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first of the elements in it with this name of WebDAV's own.
    pub(crate) fn dav(&self, local: &str) -> Option<&Self> {
        self.elements().find(|element| element.name.as_dav() == Some(local))
    }

    /// Writes it where `default` is the namespace of names without a prefix.
    pub(crate) fn write(&self, default: &str, out: &mut String) {
        let name = &*self.name.local;
        out.push('<');
        out.push_str(name);
        if *self.name.ns != *default {
            attribute(out, "xmlns", &self.name.ns);
        }
        for (index, (key, value)) in self.attributes.iter().enumerate() {
            match &*key.ns {
                "" => attribute(out, &key.local, value),
                XML => attribute(out, &format!("xml:{}", key.local), value),
                ns => {
                    attribute(out, &format!("xmlns:a{index}"), ns);
                    attribute(out, &format!("a{index}:{}", key.local), value);
                }
            }
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.write(&self.name.ns, out),
                Node::Text(text) => out.push_str(&escape(text)),
            }
        }
        out.push_str("</");
        out.push_str(name);
        out.push('>');
    }
}

fn attribute(out: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    write!(out, " {name}=\"{}\"", escape(value)).ok();
}

/// Text as it stands in XML, between tags and in quotation marks.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Else they would become a space or a line's end.
            '\t' | '\n' | '\r' => {
                write!(escaped, "&#{};", u32::from(char)).ok();
            }
            char => escaped.push(char),
        }
    }
    escaped
}

/// Reads a document: UTF-8, or UTF-16 with a byte order mark, as RFC 4918 8.2 asks for.
pub(crate) fn parse(bytes: &[u8]) -> Result<Element, Wrong> {
    let text = match bytes {
        [0xFE, 0xFF, rest @ ..] => from_utf16(rest, u16::from_be_bytes)?,
        [0xFF, 0xFE, rest @ ..] => from_utf16(rest, u16::from_le_bytes)?,
        [0xEF, 0xBB, 0xBF, rest @ ..] => from_utf8(rest)?,
        bytes => from_utf8(bytes)?,
    };
    if !text.chars().all(is_char) {
        return Err("it has a character that XML has not");
    }
    let mut reader = Reader { rest: &text, scope: Scope::default(), element_count: 0 };
    reader.between()?;
    let Some(rest) = reader.rest.strip_prefix('<') else { return Err("it does not begin with an element") };
    reader.rest = rest;
    let root = reader.element(0)?;
    reader.between()?;
    if reader.rest.is_empty() { Ok(root) } else { Err("something follows its end") }
}

fn from_utf8(bytes: &[u8]) -> Result<String, Wrong> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "it is not UTF-8")
}

fn from_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, Wrong> {
    let (units, odd) = bytes.as_chunks::<2>();
    let text: Result<String, _> = char::decode_utf16(units.iter().copied().map(unit)).collect();
    if odd.is_empty() { text.map_err(|_| "it is not UTF-16") } else { Err("it is not UTF-16") }
}

fn is_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

fn is_name_start(char: char) -> bool {
    matches!(char, 'a'..='z' | 'A'..='Z' | '_' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

fn is_name_part(char: char) -> bool {
    is_name_start(char)
        || matches!(char, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// The prefixes that stand for namespaces at a place; of one that is there twice the last counts.
#[derive(Debug, Default)]
struct Scope(Vec<(Box<str>, Arc<str>)>);

impl Scope {
    fn find(&self, prefix: &str) -> Option<Arc<str>> {
        self.0.iter().rev().find(|(found, _)| **found == *prefix).map(|(_, ns)| ns.clone())
    }

    /// Declares what an attribute declares, and says whether it does.
    fn declare(&mut self, (prefix, local): (&str, &str), value: &str) -> Result<bool, Wrong> {
        let declared = match (prefix, local) {
            ("", "xmlns") => "",
            ("xmlns", local) => local,
            _ => return Ok(false),
        };
        if value.len() > NAMESPACE_LEN_MAX {
            return Err("the name of a namespace is too long");
        }
        if declared == "xmlns" || (declared == "xml") != (value == XML) || (!declared.is_empty() && value.is_empty()) {
            return Err("a prefix stands for a namespace that it cannot stand for");
        }
        self.0.push((declared.into(), value.into()));
        Ok(true)
    }

    fn name(&self, (prefix, local): (&str, &str), default: bool) -> Result<QName, Wrong> {
        let ns = match prefix {
            "" if !default => "".into(),
            "" => self.find("").unwrap_or_default(),
            "xml" => XML.into(),
            prefix => self.find(prefix).ok_or("a prefix stands for no namespace")?,
        };
        Ok(QName { ns, local: local.into() })
    }
}

struct Reader<'a> {
    rest: &'a str,
    scope: Scope,
    element_count: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, text: &str, wrong: Wrong) -> Result<(), Wrong> {
        if self.take(text) { Ok(()) } else { Err(wrong) }
    }

    fn space(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let is_some = rest.len() < self.rest.len();
        self.rest = rest;
        is_some
    }

    fn until(&mut self, end: &str, wrong: Wrong) -> Result<&'a str, Wrong> {
        let (found, rest) = self.rest.split_once(end).ok_or(wrong)?;
        self.rest = rest;
        Ok(found)
    }

    /// Passes over a comment or a processing instruction, and says whether there was one.
    fn aside(&mut self) -> Result<bool, Wrong> {
        if self.take("<!--") {
            self.until("--", "a comment does not end")?;
            self.expect(">", "a comment has two hyphens in it")?;
            return Ok(true);
        }
        if self.take("<?") {
            self.until("?>", "a processing instruction does not end")?;
            return Ok(true);
        }
        if self.rest.starts_with("<!DOCTYPE") {
            return Err("it has a DTD, and none is taken");
        }
        Ok(false)
    }

    /// What may stand before and after the outermost element.
    fn between(&mut self) -> Result<(), Wrong> {
        while self.space() || self.aside()? {}
        Ok(())
    }

    fn ncname(&mut self) -> Result<&'a str, Wrong> {
        let end = self.rest.find(|char| !is_name_part(char)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if !name.starts_with(is_name_start) {
            return Err("a name is missing or begins as none does");
        }
        self.rest = rest;
        Ok(name)
    }

    fn qname(&mut self) -> Result<(&'a str, &'a str), Wrong> {
        let first = self.ncname()?;
        if self.take(":") { Ok((first, self.ncname()?)) } else { Ok(("", first)) }
    }

    /// The element whose `<` was taken.
    fn element(&mut self, depth: usize) -> Result<Element, Wrong> {
        self.element_count += 1;
        if depth >= DEPTH_MAX {
            return Err("its elements nest too deep");
        }
        if self.element_count > ELEMENT_COUNT_MAX {
            return Err("it has too many elements");
        }
        let (name, outer) = (self.qname()?, self.scope.0.len());
        let (mut raw, mut attribute_count) = (Vec::new(), 0);
        let is_empty = loop {
            let spaced = self.space();
            if self.take("/>") {
                break true;
            }
            if self.take(">") {
                break false;
            }
            if !spaced {
                return Err("a tag does not end");
            }
            attribute_count += 1;
            if attribute_count > ATTRIBUTE_COUNT_MAX {
                return Err("an element has too many attributes");
            }
            let key = self.qname()?;
            self.space();
            self.expect("=", "an attribute has no value")?;
            self.space();
            let quote = if self.take("\"") { "\"" } else { "'" };
            if quote == "'" {
                self.expect("'", "the value of an attribute is not in quotation marks")?;
            }
            let value = self.until(quote, "the value of an attribute does not end")?;
            if value.contains('<') {
                return Err("the value of an attribute has a tag in it");
            }
            let value = resolve(&value.replace(['\t', '\n', '\r'], " "))?;
            if !self.scope.declare(key, &value)? {
                raw.push((key, value));
            }
        };
        let mut element = Element::new(self.scope.name(name, true)?);
        for (key, value) in raw {
            let key = self.scope.name(key, false)?;
            if element.attributes.iter().any(|(known, _)| *known == key) {
                return Err("an attribute is there twice");
            }
            element.attributes.push((key, value));
        }
        if !is_empty {
            self.content(&mut element, depth)?;
            if self.qname()? != name {
                return Err("an element ends that did not begin");
            }
            self.space();
            self.expect(">", "a tag does not end")?;
        }
        self.scope.0.truncate(outer);
        Ok(element)
    }

    /// What is in an element, up to the `</` of its end.
    fn content(&mut self, element: &mut Element, depth: usize) -> Result<(), Wrong> {
        let mut text = String::new();
        loop {
            let end = self.rest.find('<').ok_or("an element does not end")?;
            let (plain, rest) = self.rest.split_at(end);
            if plain.contains("]]>") {
                return Err("the end of a CDATA section stands alone");
            }
            text.push_str(&resolve(&plain.replace("\r\n", "\n").replace('\r', "\n"))?);
            self.rest = rest;
            if self.take("<![CDATA[") {
                text.push_str(self.until("]]>", "a CDATA section does not end")?);
            } else if !self.aside()? {
                if !text.is_empty() {
                    element.nodes.push(Node::Text(std::mem::take(&mut text)));
                }
                if self.take("</") {
                    return Ok(());
                }
                self.take("<");
                element.nodes.push(Node::Element(self.element(depth + 1)?));
            }
        }
    }
}

/// Undoes references to characters, and the five entities that need no declaration.
fn resolve(text: &str) -> Result<String, Wrong> {
    let mut pieces = text.split('&');
    let mut resolved = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once(';').ok_or("a reference does not end")?;
        let code = |digits: &str, radix| {
            let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
            u32::from_str_radix(digits, radix).ok().filter(|_| is_number).and_then(char::from_u32)
        };
        let char = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            name => match (name.strip_prefix("#x"), name.strip_prefix('#')) {
                (Some(digits), _) => code(digits, 16),
                (None, Some(digits)) => code(digits, 10),
                (None, None) => None,
            },
        };
        resolved.push(char.filter(|char| is_char(*char)).ok_or("a reference leads to nothing")?);
        resolved.push_str(rest);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> Result<String, Wrong> {
        let mut out = String::new();
        parse(text.as_bytes())?.write("", &mut out);
        Ok(out)
    }

    #[test]
    fn namespaces_are_found_and_told_again() {
        for (text, expected) in [
            ("<a/>", "<a/>"),
            ("<?xml version=\"1.0\"?>\n<!-- c --><a></a>\n", "<a/>"),
            ("<D:a xmlns:D='DAV:'><D:b/></D:a>", "<a xmlns=\"DAV:\"><b/></a>"),
            ("<a xmlns='x'><b xmlns=''/></a>", "<a xmlns=\"x\"><b xmlns=\"\"/></a>"),
            ("<p:a xmlns:p='x'><p:b xmlns:p='y'/><p:c/></p:a>", "<a xmlns=\"x\"><b xmlns=\"y\"/><c/></a>"),
            ("<a xml:lang='en' p:b='1' xmlns:p='x'/>", "<a xml:lang=\"en\" xmlns:a1=\"x\" a1:b=\"1\"/>"),
            ("<a> &lt;&#38;&#x26;<![CDATA[<b>&amp;]]>\r\nc</a>", "<a> &lt;&amp;&amp;&lt;b&gt;&amp;amp;&#10;c</a>"),
            ("<a b='&#10;\n'/>", "<a b=\"&#10; \"/>"),
            ("<\u{e4}/>", "<\u{e4}/>"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
        let wide: Vec<u8> = "\u{feff}<a>\u{1f600}</a>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(parse(&wide).expect("UTF-16").nodes, [Node::Text("\u{1f600}".into())]);
    }

    #[test]
    fn what_is_no_xml_or_too_much_is_refused() {
        let deep = "<a>".repeat(30_000);
        let wide = format!("<a>{}</a>", "<b/>".repeat(ELEMENT_COUNT_MAX));
        let long = format!("<a xmlns='{}'/>", "x".repeat(NAMESPACE_LEN_MAX + 1));
        for (text, wrong) in [
            ("", "begin"),
            ("a", "begin"),
            ("<a>", "end"),
            ("<a></b>", "did not begin"),
            ("<a/><b/>", "follows"),
            ("<a b=1/>", "quotation"),
            ("<a b='1' b='2'/>", "twice"),
            ("<a p:b='1' q:b='2' xmlns:p='x' xmlns:q='x'/>", "twice"),
            ("<p:a/>", "no namespace"),
            ("<a xmlns:p=''/>", "cannot stand"),
            ("<a xmlns:xml='x'/>", "cannot stand"),
            ("<a>&b;</a>", "nothing"),
            ("<a>&#0;</a>", "nothing"),
            ("<a>&#x+1;</a>", "nothing"),
            ("<a>&amp</a>", "end"),
            ("<a>]]></a>", "alone"),
            ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "DTD"),
            ("<a>\u{1}</a>", "character"),
            ("<-a/>", "name"),
            (&deep, "deep"),
            (&wide, "many"),
            (&long, "long"),
        ] {
            let shown: String = text.chars().take(60).collect();
            let found = parse(text.as_bytes()).expect_err(&shown);
            assert!(found.contains(wrong), "{shown}: {found}");
        }
        for bytes in [&b"<a>\xff</a>"[..], b"\xfe\xff\0", b"\xff\xfe\0\xd8"] {
            parse(bytes).expect_err("no text");
        }
    }

    fn element() -> impl Strategy<Value = Element> {
        let name =
            ("[a-z]{0,2}", "[a-z][a-z0-9]{0,3}").prop_map(|(ns, local)| QName { ns: ns.into(), local: local.into() });
        let text = "[ -~\t\n\r\u{e4}\u{1f600}]{1,8}".prop_map(Node::Text);
        let attribute = (name.clone(), "[ -~\t\n]{0,6}");
        let leaf = (name.clone(), proptest::collection::vec(attribute, 0..3)).prop_map(|(name, mut attributes)| {
            attributes.sort();
            attributes.dedup_by(|a, b| a.0 == b.0);
            Element { name, attributes, nodes: Vec::new() }
        });
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let nodes = proptest::collection::vec(
                (proptest::option::of(text.clone()), inner).prop_map(|(text, element)| (text, Node::Element(element))),
                0..3,
            );
            (name.clone(), nodes).prop_map(|(name, nodes)| {
                let nodes = nodes.into_iter().flat_map(|(text, element)| text.into_iter().chain([element])).collect();
                Element { name, attributes: Vec::new(), nodes }
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(element in element()) {
            let mut text = String::new();
            element.write("", &mut text);
            prop_assert_eq!(parse(text.as_bytes()), Ok(element), "{}", text);
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[<>/a:='\"&;!\\[\\]?x -]{0,60}") {
            parse(&bytes).ok();
            if let Ok(element) = parse(text.as_bytes()) {
                let mut out = String::new();
                element.write("", &mut out);
                prop_assert_eq!(parse(out.as_bytes()), Ok(element));
            }
        }
    }
}
