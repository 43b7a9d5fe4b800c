//! What repositories, flists and tags are called, and which part of an address means which of them.

use crate::failure::Failure;

pub(super) const NAME_LEN_MAX: usize = 128;
/// What the files of flists end with.
pub(super) const EXTENSIONS: [&str; 2] = [".flist", ".fl"];
/// What the directory of a tag begins with.
pub(super) const TAG: &str = ".tag-";
const NAME_WHY: &str = "A name has 1 to 128 letters, digits and . _ - + @ : = ~, and no dot in front.";

/// Names that are no repositories, since something else is at their addresses.
pub(super) fn is_reserved(name: &str) -> bool {
    matches!(name, "api" | "hub" | "ipfs" | "ipns" | "me")
}

fn is_name(text: &str, len_max: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@:=~".contains(&byte);
    (1..=len_max).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_plain)
}

/// A name that leads nowhere but to what has it: no slash, no dot in front, nothing that cannot be seen.
pub(super) fn name(text: &str) -> Result<&str, Failure> {
    if is_name(text, NAME_LEN_MAX) { Ok(text) } else { Err(Failure::bad(NAME_WHY, "")) }
}

/// Whether a name says that it is an flist.
pub(super) fn is_flist(text: &str) -> bool {
    EXTENSIONS.iter().any(|extension| text.len() > extension.len() && text.ends_with(extension))
}

/// Whether it is one of rfs.
pub(super) fn is_fl(text: &str) -> bool {
    is_flist(text) && text.rsplit('.').next() == Some("fl")
}

/// The name of the file of an flist: `.flist` is added where it was left out.
pub(super) fn flist_name(text: &str) -> Result<String, Failure> {
    let whole = if is_flist(text) { text.to_owned() } else { format!("{text}.flist") };
    if is_name(&whole, NAME_LEN_MAX + ".flist".len()) { Ok(whole) } else { Err(Failure::bad(NAME_WHY, "")) }
}

/// What is asked of an flist, as the end of its address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The flist itself.
    File,
    /// Its MD5, as text.
    Md5,
    /// Its signatures.
    Signatures,
    /// Where it is and what its MD5 is, as text.
    Text,
    /// The same as JSON.
    Json,
    /// A page about it.
    Page,
}

/// Which flist the last part of an address is of, and what of it is asked.
pub(super) fn address(part: &str) -> Option<(String, Form)> {
    let forms = [
        (".md5", Form::Md5),
        (".sig", Form::Signatures),
        (".txt", Form::Text),
        (".json", Form::Json),
        (".md", Form::Page),
    ];
    let found = forms.iter().find_map(|(end, form)| Some((part.strip_suffix(end)?, *form)));
    let (flist, form) = found.or_else(|| is_flist(part).then_some((part, Form::File)))?;
    flist_name(flist).ok().map(|flist| (flist, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["a", "alpine-latest.flist", "user_1", "x@y+z", "redis:latest", &"x".repeat(128)] {
            name(good).expect(good);
        }
        for bad in [
            "", ".", "..", ".a", "a/b", "../a", "a\0", "a b", "a\\b", "a\n", "a\u{7f}", "\u{e9}", "a%2fb", "a?b",
            "a\"b",
        ] {
            name(bad).expect_err(bad);
            assert!(bad.is_empty() || flist_name(bad).is_err(), "{bad}");
        }
        name(&"x".repeat(129)).expect_err("too long");
        flist_name(&"x".repeat(135)).expect_err("too long");
        assert_eq!(flist_name("a").expect("good"), "a.flist");
        assert_eq!(flist_name("a.fl").expect("good"), "a.fl");
        assert!(flist_name("").is_err() && flist_name(".flist").is_err());
    }

    #[test]
    fn addresses_say_what_is_asked() {
        for (part, expected) in [
            ("a.flist", Some(("a.flist", Form::File))),
            ("a.fl", Some(("a.fl", Form::File))),
            ("a.flist.md5", Some(("a.flist", Form::Md5))),
            ("a.flist.sig", Some(("a.flist", Form::Signatures))),
            ("a.md", Some(("a.flist", Form::Page))),
            ("a.fl.json", Some(("a.fl", Form::Json))),
            ("a.txt", Some(("a.flist", Form::Text))),
            ("a", None),
            ("a.png", None),
            ("..flist", None),
            (".md", None),
        ] {
            assert_eq!(address(part), expected.map(|(flist, form)| (flist.to_owned(), form)), "{part}");
        }
    }
}
