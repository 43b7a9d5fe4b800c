//! Symlinks followed by the library: the steps of a path, with targets spliced in, that never lead out of a mount.
//!
//! [`Cas`](crate::cas::Cas) and [`AsStore`](crate::vfs::as_store::AsStore) walk their own nodes and share what is
//! pure: how a target is read, how many links are followed, what "up" means. A frontend that speaks inodes hands a
//! symlink to its client and needs none of this. Spec: spec/paths.md, "Symbolic links".

use std::collections::VecDeque;

use crate::{
    Error, ErrorKind, Name, Result,
    path::{PATH_LEN_MAX, PATH_PART_COUNT_MAX},
};

/// The most symlinks that one path may follow: what Linux allows, and enough to end every loop.
pub(crate) const SYMLINK_COUNT_MAX: u32 = 40;

/// One step of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// To the directory above.
    Up,
    /// To the node of that name.
    Down(Name),
}

/// Where a symlink points: a path that may be relative and may climb, unlike every path from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// It begins with a slash: at the root of the mount.
    absolute: bool,
    steps: Vec<Step>,
}

impl Target {
    /// Reads a target as POSIX does: `.`, and slashes too many, are no step.
    ///
    /// # Errors
    /// `NotFound` for an empty one; `NameTooLong`; `InvalidArgument` for a NUL.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: &str| Error::new(kind, "walk.target").because(why);
        if bytes.is_empty() {
            return Err(refuse(ErrorKind::NotFound, "a symlink that points to nothing"));
        }
        if bytes.len() > PATH_LEN_MAX {
            return Err(refuse(ErrorKind::NameTooLong, "a symlink's target has at most 4096 bytes"));
        }
        let steps = bytes.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let steps = steps.map(|part| if part == b".." { Ok(Step::Up) } else { Name::new(part).map(Step::Down) });
        Ok(Self { absolute: bytes.first() == Some(&b'/'), steps: steps.collect::<Result<_>>()? })
    }
}

/// The steps that are left of a path.
#[derive(Debug)]
pub(crate) struct Walk {
    left: VecDeque<Step>,
    symlink_count: u32,
}

impl Walk {
    /// A walk along the parts of a path.
    pub(crate) fn new(parts: &[Name]) -> Self {
        Self { left: parts.iter().cloned().map(Step::Down).collect(), symlink_count: 0 }
    }

    /// The next step; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Step> {
        self.left.pop_front()
    }

    /// Puts a symlink's target before what is left; whether it begins at the root of the mount.
    ///
    /// # Errors
    /// `Loop` past [`SYMLINK_COUNT_MAX`]; `NotFound` for an empty target; `NameTooLong`; `InvalidArgument`.
    pub(crate) fn follow(&mut self, target: &[u8]) -> Result<bool> {
        self.symlink_count += 1;
        if self.symlink_count > SYMLINK_COUNT_MAX {
            return Err(Error::new(ErrorKind::Loop, "walk.follow").because("a path follows at most 40 symlinks"));
        }
        let target = Target::parse(target)?;
        if self.left.len() + target.steps.len() > PATH_LEN_MAX + PATH_PART_COUNT_MAX {
            return Err(Error::new(ErrorKind::NameTooLong, "walk.follow").because("symlinks made the path too long"));
        }
        for step in target.steps.into_iter().rev() {
            self.left.push_front(step);
        }
        Ok(target.absolute)
    }
}

/// The error of a symlink that leads out of its mount.
pub(crate) fn escapes() -> Error {
    Error::new(ErrorKind::InvalidArgument, "walk.follow")
        .because("a symlink leads out of its mount: links are followed within one mount only")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8]) -> Result<String, ErrorKind> {
        let target = Target::parse(bytes).map_err(|error| error.kind())?;
        let start = if target.absolute { "/" } else { "" };
        let steps = target.steps.iter().map(|step| match step {
            Step::Up => "..".to_owned(),
            Step::Down(name) => name.to_string(),
        });
        Ok(format!("{start}{}", steps.collect::<Vec<_>>().join(",")))
    }

    #[test]
    fn targets() {
        let long = vec![b'a'; PATH_LEN_MAX + 1];
        let cases: [(&[u8], Result<&str, ErrorKind>); 10] = [
            (b"a", Ok("a")),
            (b"a/b/", Ok("a,b")),
            (b"./a//b", Ok("a,b")),
            (b"../../a", Ok("..,..,a")),
            (b"/", Ok("/")),
            (b"/a/../b", Ok("/a,..,b")),
            (b"", Err(ErrorKind::NotFound)),
            (b"a\0b", Err(ErrorKind::InvalidArgument)),
            (&[b'n'; 256], Err(ErrorKind::NameTooLong)),
            (&long, Err(ErrorKind::NameTooLong)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(shown(bytes), expected.map(str::to_owned), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_target_goes_before_what_is_left() {
        let [a, b, x] = [b"a", b"b", b"x"].map(|name| Name::new(name).expect("a name"));
        let mut walk = Walk::new(&[a, b.clone()]);
        walk.next();
        assert!(!walk.follow(b"../x").expect("follows"));
        let rest: Vec<_> = std::iter::from_fn(|| walk.next()).collect();
        assert_eq!(rest, [Step::Up, Step::Down(x), Step::Down(b)]);
    }

    #[test]
    fn the_41st_symlink_is_a_loop() {
        let mut walk = Walk::new(&[]);
        for _ in 0..SYMLINK_COUNT_MAX {
            walk.follow(b".").expect("within the limit");
        }
        assert_eq!(walk.follow(b".").expect_err("one more").kind(), ErrorKind::Loop);
    }

    proptest! {
        /// No target panics, and none makes a walk longer than its own bytes.
        #[test]
        fn any_target_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut walk = Walk::new(&[]);
            if walk.follow(&bytes).is_ok() {
                prop_assert!(walk.left.len() <= bytes.len());
            }
        }
    }
}
