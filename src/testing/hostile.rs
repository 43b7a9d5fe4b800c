//! Paths that no honest client asks for: one list, the same in every run of a seed, for every frontend.
//!
//! A path is its parts as bytes, before any protocol encodes them: some have parts that a protocol cannot carry (a slash,
//! a NUL, nothing at all). What each frontend says of each is compared in the tests of the program. All stand in a
//! namespace of three mounts, `/ipfs`, `/mem` and `/local`: the root of each has a file `f`, and of `/ipfs` the directory
//! with the CID that [`paths`] is given, which holds a file `f` as well.

use std::collections::BTreeSet;

use multibase::Base;

use super::fault::Dice;
use crate::{Cid, Codec};

/// A path, and what is the matter with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostilePath {
    /// What sort of path it is; the same for many.
    pub sort: Sort,
    /// The parts that a slash would stand between, from the root of the namespace down.
    pub parts: Vec<Vec<u8>>,
    /// Whether something is there, however strange its spelling.
    pub is_there: bool,
}

/// What paths have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A part is `.` or `..`.
    Dots,
    /// A part is empty.
    Empty,
    /// A part holds a slash or a NUL.
    NoName,
    /// A part, or all of it, is longer than may be, or just not.
    Long,
    /// A first part that begins with what uploads under way are called.
    Kept,
    /// What is nearly a CID, or is one in another spelling.
    Cid,
    /// A name like any other to who keeps names as bytes.
    Name,
}

impl HostilePath {
    /// The parts with a slash before each, shown in ASCII; the middle of what is long is left out.
    pub fn shown(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|part| part.escape_ascii().to_string()).collect();
        let all = format!("/{}", parts.join("/"));
        if all.len() <= 120 {
            return all;
        }
        format!("{}...{} ({} bytes)", &all[..60], &all[all.len() - 40..], all.len())
    }
}

/// More than a thousand paths, each once.
///
/// ```
/// use muxfs::{Codec, cid_of, testing::hostile};
/// let paths = hostile::paths(&cid_of(Codec::DagPb, b"\x0a\x02\x08\x01"), 1);
/// assert!(paths.len() >= 1000);
/// ```
pub fn paths(dir: &Cid, seed: u64) -> Vec<HostilePath> {
    let mut list =
        List { dice: Dice::new(seed), dir: dir.to_string().into_bytes(), seen: BTreeSet::new(), paths: Vec::new() };
    list.names();
    list.cids(dir);
    list.long();
    list.ways_up();
    list.random();
    list.paths
}

/// Escapes as text, which only HTTP undoes, and what is made of undoing them twice.
const ESCAPES: [&str; 20] = [
    "%2e",
    "%2e%2e",
    "%2E%2E",
    ".%2e",
    "%2e.",
    "..%2f",
    "..%2f..%2fetc%2fpasswd",
    "..%5c",
    "%252e%252e",
    "%252e%252e%252f",
    "%25252e",
    "%c0%ae%c0%ae",
    "%e0%80%ae",
    "%u002e%u002e",
    "%uff0e",
    "%",
    "%zz",
    "%00",
    "f%00",
    "&#46;&#46;",
];
const SIGNS: [&str; 44] = [
    "...",
    "....",
    ".. ",
    " ..",
    "..;",
    "..\\",
    "\\..",
    "..\\..\\etc\\passwd",
    ". .",
    "..=",
    "-rf",
    "--",
    "-",
    "*",
    "?",
    "[a]",
    "{a,b}",
    "~",
    "~root",
    "`id`",
    "$(id)",
    "$HOME",
    ";id",
    "|id",
    "&",
    "\"",
    "'",
    "\\",
    "<b>",
    "a?format=raw",
    "?format=tar",
    "#f",
    "f#f",
    "f;type=i",
    "f&x=1",
    "http:",
    "ftp:",
    "@",
    "a b",
    " ",
    "  ",
    "+",
    "f+f",
    "!",
];
const WINDOWS: [&str; 22] = [
    "CON", "PRN", "AUX", "NUL", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8", "COM9", "LPT1", "LPT2",
    "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9",
];
const WINDOWS_FORMS: [&str; 12] = [
    "C:",
    "C:\\Windows\\win.ini",
    "\\\\?\\C:\\x",
    "\\\\host\\share",
    "f::$DATA",
    "f:x",
    "f.",
    "f ",
    "F",
    "PROGRA~1",
    "desktop.ini",
    "a<b>:\"|?*",
];
/// Other dots and slashes, marks that are not seen, forms of one letter, and what is no character.
const UNICODE: [&str; 40] = [
    "\u{2024}",
    "\u{2024}\u{2024}",
    "\u{2025}",
    "\u{ff0e}\u{ff0e}",
    "\u{2215}",
    "\u{2044}",
    "\u{ff0f}",
    "\u{29f8}",
    "\u{ff3c}",
    "\u{202e}txt.f",
    "\u{202d}f",
    "f\u{200b}",
    "f\u{200c}",
    "f\u{200d}",
    "f\u{200e}",
    "f\u{200f}",
    "\u{2066}f\u{2069}",
    "\u{feff}f",
    "f\u{ad}",
    "f\u{301}",
    "\u{e9}",
    "e\u{301}",
    "\u{c5}",
    "A\u{30a}",
    "\u{212b}",
    "\u{fb01}",
    "\u{17f}",
    "\u{130}",
    "\u{131}",
    "\u{df}",
    "\u{ac00}",
    "\u{1100}\u{1161}",
    "\u{1f468}\u{200d}\u{1f469}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{e000}",
    "\u{2028}",
    "\u{85}",
];
/// Text that is none: overlong forms of a dot and of a slash, halves of pairs, bytes that never occur.
const NOT_UTF8: [&[u8]; 20] = [
    b"\xc0\xae",
    b"\xc0\xae\xc0\xae",
    b"\xc0\xaf",
    b"\xc1\x9c",
    b"\xe0\x80\xae",
    b"\xe0\x80\xae\xe0\x80\xae",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xae",
    b"\xf8\x80\x80\x80\xae",
    b"\xfc\x80\x80\x80\x80\xae",
    b"\xed\xa0\x80",
    b"\xed\xb0\x80",
    b"\xf4\x90\x80\x80",
    b"\xff",
    b"\xfe",
    b"\xff\xff",
    b"\x80",
    b"\xbf",
    b"f\xe9",
    b"\xf0\x9f",
];
const OURS: [&str; 12] = [
    ".HISTORY",
    ".history.",
    ".histor",
    "history",
    ".muxfs",
    ".muxfs-part",
    "muxfs.toml",
    "pins",
    "journal",
    "zstor",
    "http",
    ".git",
];
const KEPT: [&str; 4] = [".muxfs-part.", ".muxfs-part.x", ".muxfs-part.http.x", ".muxfs-part.ftp.x"];
const NO_NAMES: [&[u8]; 12] =
    [b"a/b", b"/", b"../f", b"/etc/passwd", b"f/", b"./f", b"\0", b"f\0", b"f\0.txt", b"\0f", b"..\0", b"../\0"];

struct List {
    dice: Dice,
    dir: Vec<u8>,
    seen: BTreeSet<Vec<Vec<u8>>>,
    paths: Vec<HostilePath>,
}

impl List {
    fn add(&mut self, sort: Sort, parts: &[&[u8]], is_there: bool) {
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        if self.seen.insert(parts.clone()) {
            self.paths.push(HostilePath { sort, parts, is_there });
        }
    }

    /// A name in two of the places that names stand in.
    fn name(&mut self, sort: Sort, name: &[u8]) {
        let first = self.dice.roll(5);
        for place in [first, (first + 1 + self.dice.roll(4)) % 5] {
            self.name_at(sort, place, name);
        }
    }

    fn name_at(&mut self, sort: Sort, place: usize, name: &[u8]) {
        let dir = self.dir.clone();
        match place {
            0 => self.add(sort, &[b"local", name], false),
            1 => self.add(sort, &[b"mem", name], false),
            2 => self.add(sort, &[b"ipfs", &dir, name], false),
            3 => self.add(sort, &[b"ipfs", name], false),
            _ => self.add(sort, &[name], false),
        }
    }

    fn names(&mut self) {
        for text in [&ESCAPES[..], &SIGNS, &WINDOWS, &WINDOWS_FORMS, &UNICODE, &OURS].concat() {
            self.name(Sort::Name, text.as_bytes());
        }
        for device in WINDOWS {
            for form in [device.to_lowercase(), format!("{device}.txt"), format!("{device} "), format!("{device}:")] {
                self.name(Sort::Name, form.as_bytes());
            }
        }
        for bytes in NOT_UTF8 {
            self.name(Sort::Name, bytes);
        }
        for byte in (1..0x20).chain([0x7f]) {
            self.name(Sort::Name, &[byte]);
            self.name(Sort::Name, &[b'a', byte, b'b']);
            self.name(Sort::Name, &[b'f', byte]);
        }
        for bytes in NO_NAMES {
            self.name(Sort::NoName, bytes);
        }
        for text in KEPT {
            for place in 0..3 {
                self.name_at(Sort::Kept, place, text.as_bytes());
            }
        }
    }

    /// Every spelling of the CID that is one, and what is nearly one.
    fn cids(&mut self, dir: &Cid) {
        let binary = dir.to_bytes();
        let text = self.dir.clone();
        let cid = |list: &mut Self, text: &[u8], is_there| {
            list.add(Sort::Cid, &[b"ipfs", text], is_there);
            list.add(Sort::Cid, &[b"ipfs", text, b"f"], is_there);
        };
        for code in "bBkKzfFu".chars() {
            let base = Base::from_code(code).expect("a base");
            cid(self, format!("{code}{}", base.encode(&binary)).as_bytes(), true);
        }
        for code in "vVtTcCUmM79hZ".chars() {
            let Ok(base) = Base::from_code(code) else { continue };
            let text = format!("{code}{}", base.encode(&binary));
            // A slash in base64 would make two parts of it.
            if !text.contains('/') {
                cid(self, text.as_bytes(), false);
            }
        }
        if let Ok(digest) = dir.digest().try_into() {
            let v0 = Cid::v0_sha256(digest).to_string();
            cid(self, v0.as_bytes(), true);
            cid(self, format!("z{v0}").as_bytes(), false);
            cid(self, v0.to_lowercase().as_bytes(), false);
            cid(self, &v0.as_bytes()[..45], false);
            cid(self, format!("{v0}1").as_bytes(), false);
        }
        // What is written beside it, before, behind and within.
        for junk in [" ", "\n", "\t", "=", "a", "%20", "%00", ".", "\u{200b}", ":", "ipfs:"] {
            cid(self, &[junk.as_bytes(), &text].concat(), false);
            cid(self, &[&text, junk.as_bytes()].concat(), false);
        }
        cid(self, &text.to_ascii_uppercase(), false);
        cid(self, &[&b"b"[..], &text[1..].to_ascii_uppercase()].concat(), false);
        cid(self, &[&b"B"[..], &text[1..]].concat(), false);
        for prefix in b"kzfuQmB0179" {
            cid(self, &[&[*prefix][..], &text[1..]].concat(), false);
        }
        for len in [1, 2, 10, 58] {
            cid(self, &text[..len.min(text.len() - 1)], false);
        }
        for text in ["bafkqaaa0", "Qm", "b", "ipfs", "ipns", "f0155", "f01550000ff", "k51nothing", "example.org"] {
            cid(self, text.as_bytes(), false);
        }
        // Of other versions, hashes and lengths.
        let digest = dir.digest();
        let multihash =
            |code: &[u8], digest: &[u8]| [code, &[u8::try_from(digest.len()).expect("short")], digest].concat();
        for (head, hash) in [
            (&b"\x00\x70"[..], multihash(b"\x12", digest)),
            (b"\x02\x70", multihash(b"\x12", digest)),
            (b"\x03\x70", multihash(b"\x12", digest)),
            (b"\x81\x00\x70", multihash(b"\x12", digest)),
            (b"\x01\xf0\x00", multihash(b"\x12", digest)),
            (b"\x01\x70", multihash(b"\x92\x00", digest)),
            (b"\x01\x70", multihash(b"\x12", &[digest, b"\0"].concat())),
            (b"\x01\x70", multihash(b"\x12", &digest[..19])),
            (b"\x01\x70", multihash(b"\x12", b"")),
            (b"\x01\x70", multihash(b"\x22", &digest[..8])),
            (b"\x01\x70", multihash(b"\xd5\x01", &digest[..16])),
            (b"\x01\x70", [multihash(b"\x12", digest), b"\0".to_vec()].concat()),
            (b"\x01\x55", [b"\x00\x81\x01".to_vec(), vec![b'x'; 129]].concat()),
            (b"", b"".to_vec()),
            (b"\x01", b"".to_vec()),
            (b"\x01\x55\x12\x20", digest[..20].to_vec()),
        ] {
            cid(self, format!("b{}", Base::Base32Lower.encode([head, &hash].concat())).as_bytes(), false);
        }
        // Good CIDs of what nobody has; one that is in itself.
        for codec in [Codec::Raw, Codec::DagPb, Codec::DagCbor, Codec::DagJson] {
            let digest = self.dice.bytes(32).try_into().expect("32 bytes");
            cid(self, Cid::v1_sha256(codec, digest).to_string().as_bytes(), false);
        }
        self.add(Sort::Cid, &[b"ipfs", b"bafkqaaa"], true);
        self.add(Sort::Cid, &[b"ipfs", b"bafkqaaa", b"f"], false);
        // A character changed, left out, or put in.
        for _ in 0..40 {
            let at = 1 + self.dice.roll(text.len() - 1);
            let mut other = text.clone();
            match self.dice.roll(3) {
                0 => other[at] = if other[at] == b'q' { b'7' } else { b'q' },
                1 => drop(other.remove(at)),
                _ => other.insert(at, b"2z1A"[self.dice.roll(4)]),
            }
            cid(self, &other, false);
        }
    }

    fn long(&mut self) {
        for len in [254, 255, 256, 257, 511, 1024, 4000, 4095, 4096, 4097, 8191, 65_535, 65_536] {
            for place in 0..5 {
                self.name_at(Sort::Long, place, &vec![b'a'; len]);
            }
            for filler in [&b"."[..], b" ", b"%", b"%2e", "\u{e9}".as_bytes(), b"\xff", b"../"] {
                // The last would be many parts, not one: its slashes are left to others.
                let name: Vec<u8> = filler.iter().copied().filter(|byte| *byte != b'/').cycle().take(len).collect();
                self.name(Sort::Long, &name);
            }
        }
        for count in [255, 256, 257, 1000, 30_000] {
            let parts: Vec<&[u8]> = std::iter::once(&b"mem"[..]).chain(std::iter::repeat_n(&b"a"[..], count)).collect();
            self.add(Sort::Long, &parts, false);
        }
        for count in [15, 16, 17, 40] {
            let part = [b'a'; 255];
            let parts: Vec<&[u8]> = std::iter::once(&b"mem"[..]).chain(std::iter::repeat_n(&part[..], count)).collect();
            self.add(Sort::Long, &parts, false);
        }
    }

    /// What climbs, and what stays where it is.
    fn ways_up(&mut self) {
        let dir = self.dir.clone();
        let places: [&[&[u8]]; 6] =
            [&[], &[b"local"], &[b"mem"], &[b"ipfs"], &[b"ipfs", &dir[..]], &[b"ipfs", &dir[..], b"f"]];
        let ways: [&[&[u8]]; 8] = [
            &[b".."],
            &[b".", b"f"],
            &[b"..", b"f"],
            &[b"..", b"..", b"..", b"..", b"..", b"etc", b"passwd"],
            &[b"..", b"..", b"secret"],
            &[b"none", b"..", b"f"],
            &[&b".."[..]; 40],
            &[&b"."[..]; 40],
        ];
        for place in places {
            for way in ways {
                self.add(Sort::Dots, &[place, way].concat(), false);
            }
            for way in [&[&b""[..], b"f"][..], &[b"", b"", b"etc"], &[b"", b"none", b""]] {
                // Where empty parts are passed over.
                let is_there = way.ends_with(&[b"f"]) && (1..=2).contains(&place.len());
                self.add(Sort::Empty, &[place, way].concat(), is_there);
            }
        }
    }

    /// Fragments of the others put together, and noise.
    fn random(&mut self) {
        let fragments = [&ESCAPES[..], &SIGNS, &UNICODE, &WINDOWS_FORMS].concat();
        for _ in 0..120 {
            let count = 2 + self.dice.roll(3);
            let text: String = (0..count).map(|_| fragments[self.dice.roll(fragments.len())]).collect();
            self.name(Sort::Name, text.as_bytes());
        }
        for _ in 0..80 {
            let len = 1 + self.dice.roll(60);
            let noise = self.dice.bytes(len).into_iter();
            let noise: Vec<u8> = noise.map(|byte| if matches!(byte, 0 | b'.' | b'/') { b'_' } else { byte }).collect();
            self.name(Sort::Name, &noise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid_of;

    #[test]
    fn there_are_more_than_a_thousand_and_the_same_each_time() {
        let dir = cid_of(Codec::DagPb, b"\x0a\x02\x08\x01");
        let (one, same, other) = (paths(&dir, 1), paths(&dir, 1), paths(&dir, 2));
        assert!(one.len() > 1500, "{}", one.len());
        assert_eq!(one, same);
        assert_ne!(one, other);
        for sort in [Sort::Dots, Sort::Empty, Sort::NoName, Sort::Long, Sort::Kept, Sort::Cid, Sort::Name] {
            assert!(one.iter().filter(|path| path.sort == sort).count() >= 12, "{sort:?}");
        }
    }

    /// What is said to be a name can be one, and what is not cannot.
    #[test]
    fn sorts_say_what_they_are() {
        for path in paths(&cid_of(Codec::DagPb, b"\x0a\x02\x08\x01"), 3) {
            let are_names = path.parts.iter().all(|part| crate::Name::new(part).is_ok());
            match path.sort {
                Sort::Name | Sort::Kept | Sort::Cid => assert!(are_names, "{}", path.shown()),
                Sort::Dots | Sort::Empty | Sort::NoName => assert!(!are_names, "{}", path.shown()),
                Sort::Long => {}
            }
        }
    }
}
