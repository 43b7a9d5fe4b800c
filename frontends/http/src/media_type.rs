//! What content is, told by the end of its name, or else by how it begins.

use serde::de::IgnoredAny;

/// How much of the beginning is looked at, in bytes.
pub(crate) const SNIFFED_LEN: u32 = 4096;

const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// By the end of a name; sorted.
const BY_EXTENSION: [(&str, &str); 76] = [
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", TEXT),
    ("car", "application/vnd.ipld.car"),
    ("cbor", "application/cbor"),
    ("conf", TEXT),
    ("cpp", TEXT),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("diff", TEXT),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("go", TEXT),
    ("gz", "application/gzip"),
    ("h", TEXT),
    ("heic", "image/heic"),
    ("htm", HTML),
    ("html", HTML),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("ini", TEXT),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("log", TEXT),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("ogg", "audio/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("py", TEXT),
    ("rs", TEXT),
    ("rtf", "application/rtf"),
    ("sh", TEXT),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", TEXT),
    ("ttf", "font/ttf"),
    ("txt", TEXT),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "text/xml; charset=utf-8"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// By how content begins: how far in, with what, what it is.
const BY_MAGIC: [(usize, &[u8], &str); 21] = [
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBPVP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftyp", "video/mp4"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (0, b"OggS\0", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"\0asm", "application/wasm"),
    (0, b"wOFF", "font/woff"),
    (0, b"wOF2", "font/woff2"),
];

/// What the end of a name says; `None` if it says nothing.
pub(crate) fn of_name(name: &str) -> Option<&'static str> {
    let (stem, extension) = name.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    let found = BY_EXTENSION.binary_search_by(|(known, _)| known.cmp(&extension.as_str())).ok();
    found.filter(|_| !stem.is_empty()).and_then(|index| BY_EXTENSION.get(index)).map(|(_, media_type)| *media_type)
}

/// What the beginning of content says; `is_whole` where there is no more.
pub(crate) fn of_content(beginning: &[u8], is_whole: bool) -> &'static str {
    let starts =
        |(at, magic, _): &&(usize, &[u8], &str)| beginning.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, media_type)) = BY_MAGIC.iter().find(starts) {
        return media_type;
    }
    let Some(text) = text(beginning, is_whole) else { return OCTETS };
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let tag = |tag: &str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if tag("<!doctype html") || tag("<html") {
        return HTML;
    }
    if tag("<svg") {
        return "image/svg+xml";
    }
    if tag("<?xml") {
        return "text/xml; charset=utf-8";
    }
    if text.starts_with(['{', '[']) && is_json(text, is_whole) {
        return "application/json";
    }
    TEXT
}

/// Whether it is JSON, as far as can be seen.
fn is_json(text: &str, is_whole: bool) -> bool {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => true,
        Err(error) => !is_whole && error.is_eof(),
    }
}

/// The beginning as text, less a character that was cut at its end; `None` if it is none.
fn text(beginning: &[u8], is_whole: bool) -> Option<&str> {
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => text,
        Err(error) if !is_whole && error.error_len().is_none() => {
            std::str::from_utf8(beginning.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let is_binary = |char: char| char.is_control() && !matches!(char, '\t' | '\n' | '\r' | '\x0c' | '\x1b');
    (!text.contains(is_binary)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(BY_EXTENSION.is_sorted_by(|(a, _), (b, _)| a < b), "the table is searched by halves");
        for (name, media_type) in [
            ("a.txt", Some(TEXT)),
            ("A.HTML", Some(HTML)),
            ("a.tar.gz", Some("application/gzip")),
            ("txt", None),
            (".txt", None),
            ("a.", None),
            ("a.unheard-of", None),
        ] {
            assert_eq!(of_name(name), media_type, "{name}");
        }
    }

    #[test]
    fn beginnings() {
        for (beginning, media_type) in [
            (&b""[..], TEXT),
            (b"hello\n", TEXT),
            (b"  <!DOCTYPE html><p>", HTML),
            (b"<htm", TEXT),
            (b"{\"a\": [1, 2]}\n", "application/json"),
            (b"{\"a\": [1, 2}", TEXT),
            (b"{not json", TEXT),
            (b"\x89PNG\r\n\x1a\nrest", "image/png"),
            (b"\0\x01\x02", OCTETS),
            (b"caf\xc3\xa9", TEXT),
            (b"caf\xc3", OCTETS),
            (b"caf\xe9 au lait", OCTETS),
        ] {
            assert_eq!(of_content(beginning, true), media_type, "{}", beginning.escape_ascii());
        }
        assert_eq!(of_content(b"{\"a\": \"cut", false), "application/json");
        assert_eq!(of_content(b"caf\xc3", false), TEXT);
    }
}
