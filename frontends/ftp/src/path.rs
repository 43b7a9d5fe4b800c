//! What a client calls a path, made into names: absolute, without `.`, `..` or empty parts, before anything is looked up.
//!
//! `..` is resolved by name, as the working directory is shown: it never leads above `/`, which is the user's home.

use muxfs::{
    Error, ErrorKind, Name, Result,
    path::{PATH_LEN_MAX, PATH_PART_COUNT_MAX},
};

/// What the names of partial uploads begin with: no client can name one.
pub(crate) const PARTIAL_PREFIX: &[u8] = b".muxfs-part.";

/// An absolute path: the names from the user's home down.
pub(crate) type Path = Vec<Name>;

/// The path that `arg` means in `cwd`; `cwd` itself for an empty one.
///
/// # Errors
/// `InvalidArgument` for names that FTP cannot carry or that are kept for partial uploads; `NameTooLong`.
pub(crate) fn parse(cwd: &[Name], arg: &[u8]) -> Result<Path> {
    if arg.len() > PATH_LEN_MAX {
        return Err(Error::new(ErrorKind::NameTooLong, "ftp.path"));
    }
    let mut path = if arg.first() == Some(&b'/') { Vec::new() } else { cwd.to_vec() };
    for part in arg.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            part => path.push(name(part)?),
        }
    }
    if path.len() > PATH_PART_COUNT_MAX {
        return Err(Error::new(ErrorKind::NameTooLong, "ftp.path"));
    }
    Ok(path)
}

fn name(part: &[u8]) -> Result<Name> {
    let name = Name::new(part)?;
    if !is_plain(&name) {
        return Err(Error::new(ErrorKind::InvalidArgument, "ftp.path").because("FTP cannot carry such a name"));
    }
    if part.starts_with(PARTIAL_PREFIX) {
        let why = "names of this form are kept for uploads under way";
        return Err(Error::new(ErrorKind::InvalidArgument, "ftp.path").because(why));
    }
    Ok(name)
}

/// Whether a name fits on a line: any bytes but CR and LF.
pub(crate) fn is_plain(name: &Name) -> bool {
    !name.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

/// The bytes of a path, from `/` on.
pub(crate) fn show(path: &[Name]) -> Vec<u8> {
    if path.is_empty() {
        return b"/".to_vec();
    }
    path.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        parse(&[], text.as_bytes()).expect("a path")
    }

    #[test]
    fn paths_are_made_plain() {
        let table = [
            ("/a/b", "", "/a/b"),
            ("/a/b", "c", "/a/b/c"),
            ("/a/b", "/c//d/./", "/c/d"),
            ("/a/b", "..", "/a"),
            ("/a/b", "../../../../etc", "/etc"),
            ("/a/b", "/../../x/../y", "/y"),
            ("/", "..", "/"),
            ("/", "...", "/..."),
        ];
        for (cwd, arg, want) in table {
            let got = parse(&path(cwd), arg.as_bytes()).expect(arg);
            assert_eq!(show(&got), want.as_bytes(), "{arg} in {cwd}");
        }
        let raw = parse(&[], b"/\xff\xfe/x").expect("bytes are names");
        assert_eq!(show(&raw), b"/\xff\xfe/x");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = [b'a'; 256];
        let deep = "a/".repeat(PATH_PART_COUNT_MAX + 1);
        for arg in [b"a\0b".as_slice(), b"a\rb", b"a\nb", b".muxfs-part.x", &long, deep.as_bytes(), &[b'/'; 5000]] {
            let error = parse(&[], arg).expect_err("refused");
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NameTooLong), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_root(cwd in "(/[a-z.]{1,3}){0,4}", arg in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let Ok(cwd) = parse(&[], cwd.as_bytes()) else { return Ok(()) };
            if let Ok(path) = parse(&cwd, &arg) {
                proptest::prop_assert!(path.iter().all(|name| !matches!(name.as_bytes(), b"." | b"..")));
                proptest::prop_assert_eq!(parse(&[], &show(&path)).expect("reads back"), path);
            }
        }
    }
}
