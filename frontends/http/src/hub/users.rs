//! Who may change what: users, and the repositories that they act for, in a file that is read again when it changes.
//!
//! A line is a name, the BLAKE3 of the token in hex, and the names of other repositories that the user may act for, with
//! spaces between. A token is 256 random bits, of which a hash tells nothing. Spec: spec/hub.md #users.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};
use muxfs::{Error, ErrorKind, Result};

use super::names::{is_reserved, name};
use crate::access::Token;

/// The longest file of users, in bytes: some ten thousand of them.
const USERS_LEN_MAX: u64 = 1 << 20;
/// The cookie by which clients say which repository they act for.
const ACTS_FOR: &str = "active-user";
const OP: &str = "http.hub.users";

/// Somebody who may change repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUser {
    /// The name, which the user's own repository has too: as repositories are called, and none of the words that mean
    /// something else there.
    pub name: String,
    /// Other repositories in which the user may do the same.
    pub acts_for: Vec<String>,
    /// Of the token.
    hash: blake3::Hash,
}

impl HubUser {
    /// A user who shows this token.
    ///
    /// ```
    /// use muxfs_http::{HubUser, Token};
    /// let token = Token::new("0123456789abcdef")?;
    /// assert!(HubUser::new("alice", &["official"], &token).is_ok());
    /// assert!(HubUser::new("../alice", &[], &token).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for what no repository is called.
    pub fn new(user: &str, acts_for: &[&str], token: &Token) -> Result<Self> {
        let checked = |text: &str| {
            if is_reserved(text) || name(text).is_err() {
                let why = format!(
                    "{text:?} is no name of a repository: 1 to 128 letters, digits and . _ - + @ : = ~, no dot in front, and \
                     none of api, hub, ipfs, ipns, me"
                );
                return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
            }
            Ok(text.to_owned())
        };
        let hash = blake3::hash(token.as_str().as_bytes());
        Ok(Self { name: checked(user)?, acts_for: acts_for.iter().copied().map(checked).collect::<Result<_>>()?, hash })
    }

    /// The line of a file that says so.
    fn line(&self) -> String {
        [&[self.name.clone(), self.hash.to_hex().to_string()][..], &self.acts_for].concat().join(" ")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (user, hash) = (words.next()?, blake3::Hash::from_hex(words.next()?).ok()?);
        let checked = |text: &str| (!is_reserved(text) && name(text).is_ok()).then(|| text.to_owned());
        Some(Self { name: checked(user)?, acts_for: words.map(checked).collect::<Option<_>>()?, hash })
    }
}

/// The users that a text names, in its order. Empty lines and those that begin with `#` are passed over.
///
/// # Errors
/// `InvalidArgument` naming the line, for one that is none, and for a name or a token that is there twice.
pub fn hub_users(text: &str) -> Result<Vec<HubUser>> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidArgument, OP).because(why);
    let mut users: Vec<HubUser> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let user = HubUser::parse(line).ok_or_else(|| {
            refuse(format!("line {number} is no user: a name, the BLAKE3 of a token, names of other repositories"))
        })?;
        if users.iter().any(|other| other.name == user.name || other.hash == user.hash) {
            return Err(refuse(format!("line {number} has the name or the token of another line")));
        }
        users.push(user);
    }
    Ok(users)
}

/// The text of a file of users with one more, in the place of the one of that name if there is one.
///
/// # Errors
/// Those of [`hub_users`].
pub fn with_hub_user(text: &str, user: &HubUser) -> Result<String> {
    let (without, _) = without_hub_user(text, &user.name)?;
    let break_ = if without.is_empty() || without.ends_with('\n') { "" } else { "\n" };
    let with = format!("{without}{break_}{}\n", user.line());
    hub_users(&with).map(|_| with)
}

/// The text of a file of users without one, and whether there was one.
///
/// # Errors
/// Those of [`hub_users`].
pub fn without_hub_user(text: &str, name: &str) -> Result<(String, bool)> {
    hub_users(text)?;
    let is_other = |line: &&str| line.starts_with('#') || line.split_ascii_whitespace().next() != Some(name);
    let kept: String = text.split_inclusive('\n').filter(is_other).collect();
    let was_there = kept.len() < text.len();
    Ok((kept, was_there))
}

/// What tells a file from the one that replaced it.
type Stamp = (u64, u64, u64, i64, i64);

/// The users of a file, as it is now.
#[derive(Debug)]
pub(super) struct Users {
    file: PathBuf,
    read: Mutex<Option<(Stamp, Arc<[HubUser]>)>>,
}

impl Users {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, read: Mutex::default() }
    }

    /// Reads the file if it is another than it was; where there is none, there are no users.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge`; `Io`.
    pub(super) fn now(&self) -> Result<Arc<[HubUser]>> {
        let failed = |error: io::Error| Error::new(ErrorKind::Io, OP).at(self.file.display()).because(error);
        let mut file = match fs::File::open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            opened => opened.map_err(failed)?,
        };
        let about = file.metadata().map_err(failed)?;
        let stamp = (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, users)) = read.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(users.clone());
        }
        let named = |error: Error| error.at(self.file.display());
        if about.len() > USERS_LEN_MAX {
            let why = format!("it has {} bytes, and {USERS_LEN_MAX} are read", about.len());
            return Err(named(Error::new(ErrorKind::TooLarge, OP).because(why)));
        }
        let mut text = String::new();
        (&mut file).take(USERS_LEN_MAX).read_to_string(&mut text).map_err(failed)?;
        let users: Arc<[HubUser]> = hub_users(&text).map_err(named)?.into();
        *read = Some((stamp, users.clone()));
        Ok(users)
    }
}

/// The token that a request shows: as `Authorization: Bearer` alone, which no browser sends by itself.
pub(super) fn shown(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whose token it is. All are compared, in constant time, so that it takes as long whose ever it is.
pub(super) fn user_of<'a>(users: &'a [HubUser], token: &str) -> Option<&'a HubUser> {
    let hash = blake3::hash(token.as_bytes());
    users.iter().fold(None, |found, user| if user.hash == hash { Some(user) } else { found })
}

/// The repository that a request says to act for, where that is another than the user's own.
pub(super) fn acts_for(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == ACTS_FOR).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text).expect("a token")
    }

    #[test]
    fn a_file_has_names_and_no_tokens() {
        let (one, two) = (token("one-0123456789abcdef"), token("two-0123456789abcdef"));
        let alice = HubUser::new("alice", &["official"], &one).expect("good");
        let text = with_hub_user("# ours", &alice).expect("added");
        assert!(text.starts_with("# ours\nalice ") && text.ends_with(" official\n") && !text.contains(one.as_str()));
        let bob = HubUser::new("bob", &[], &two).expect("good");
        let both = with_hub_user(&text, &bob).expect("added");
        let users = hub_users(&both).expect("good");
        assert_eq!(users, [alice.clone(), bob.clone()]);
        assert_eq!(user_of(&users, one.as_str()), Some(&alice));
        assert_eq!(user_of(&users, two.as_str()), Some(&bob));
        assert_eq!(user_of(&users, &one.as_str()[1..]), None);
        // Another token in the place of the one before.
        let again = HubUser::new("alice", &[], &token("new-0123456789abcdef")).expect("good");
        let replaced = with_hub_user(&both, &again).expect("replaced");
        assert_eq!(user_of(&hub_users(&replaced).expect("good"), one.as_str()), None);
        assert_eq!(without_hub_user(&both, "alice").expect("removed"), (format!("# ours\n{}\n", bob.line()), true));
        assert!(!without_hub_user(&both, "carol").expect("none").1);
    }

    #[test]
    fn users_that_cannot_be_told_apart_are_refused() {
        let line = |name: &str, text: &str| HubUser::new(name, &[], &token(text)).map(|user| user.line() + "\n");
        let alice = line("alice", "one-0123456789abcdef").expect("good");
        for bad in [
            format!("{alice}{alice}"),
            alice.clone() + &line("bob", "one-0123456789abcdef").expect("good"),
            "alice".into(),
            "alice 0123".into(),
            alice.replace("alice", "../alice"),
            alice.replace("alice", "me"),
            alice.trim().to_owned() + " ../bob",
        ] {
            assert_eq!(hub_users(&bad).expect_err(&bad).kind(), ErrorKind::InvalidArgument);
        }
        for bad in ["", "me", "api", "hub", ".a", "a/b", "a b", "\u{e9}", "ipfs"] {
            line(bad, "one-0123456789abcdef").expect_err(bad);
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let users = Users::new(dir.path().join("users"));
        assert!(users.now().expect("there is none").is_empty());
        for (name, text) in [("alice", "one-0123456789abcdef"), ("bob", "two-0123456789abcdef")] {
            let user = HubUser::new(name, &[], &token(text)).expect("good");
            let part = dir.path().join("part");
            fs::write(&part, with_hub_user("", &user).expect("a line")).expect("written");
            fs::rename(part, &users.file).expect("replaced");
            assert_eq!(*users.now().expect("read"), [user]);
        }
    }

    #[test]
    fn a_token_is_shown_in_one_way() {
        let headers = |name, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            headers
        };
        assert_eq!(shown(&headers(AUTHORIZATION, "bearer  abc ")), Some("abc"));
        assert_eq!(shown(&headers(AUTHORIZATION, "Basic OjAxMjM")), None);
        assert_eq!(acts_for(&headers(COOKIE, "a=b; active-user=official")), Some("official"));
        assert_eq!(acts_for(&headers(COOKIE, "a=b")), None);
    }
}
