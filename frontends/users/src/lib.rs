//! Who may log in: a TOML file of names, argon2id hashes and homes, and the brake on guessing.
//!
//! Stands below the frontends that ask people for passwords, FTP and HTTP, so that both read one file in one way, and knows
//! only [`muxfs`]. An unknown name costs as much time as a wrong password: it is checked against another user's hash and
//! refused. Spec: spec/users.md.
//!
//! ```
//! use muxfs_users::{Users, user_line};
//! let lines = user_line("ann", "correct horse", "/local/ann", false, &muxfs::testing::env())?;
//! let users = Users::parse(&format!("version = 1\n{lines}"))?;
//! assert_eq!(users.check("ann", "correct horse").map(|user| &*user.home), Some("/local/ann"));
//! assert!(users.check("ann", "wrong horse").is_none());
//! # Ok::<(), muxfs::Error>(())
//! ```

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use muxfs::{Env, Error, ErrorKind, Result, vfs::posix::Caller};
use serde::Deserialize;

/// The version of users files written and read.
pub const USERS_VERSION: u32 = 1;
/// The most memory a hash may ask for, in KiB: a login must not be able to take the machine's.
pub const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// The most passes a hash may ask for.
pub const HASH_PASSES_MAX: u32 = 64;
/// The longest password looked at, in bytes.
pub const PASSWORD_LEN_MAX: usize = 1024;
/// Refused logins from one address after which it has to wait for [`FAILURE_WINDOW`].
pub const FAILURES_MAX: u32 = 20;
/// How long refused logins are held against an address.
pub const FAILURE_WINDOW: Duration = Duration::from_mins(5);
/// Passwords looked at at once: each takes the memory and the processor that its hash asks for.
pub const HASHINGS_MAX: usize = 2;
/// Addresses whose failures are remembered at once: bounds the memory that guessing can take.
const ADDRESSES_MAX: usize = 4096;

/// One who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The directory that is `/` to this user: an absolute path.
    pub home: String,
    /// May change nothing.
    pub read_only: bool,
    /// The user number that permissions are checked for; `None`: the server's own.
    pub uid: Option<u32>,
    /// The group number; `None`: the server's own.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl User {
    /// As whom the user acts, where the server acts as `own`.
    pub fn caller(&self, own: Caller) -> Caller {
        let groups = if self.uid.is_none() { own.groups } else { self.groups.clone() };
        Caller { uid: self.uid.unwrap_or(own.uid), gid: self.gid.unwrap_or(own.gid), groups }
    }
}

#[derive(Clone)]
struct Account {
    user: User,
    hash: PasswordHash,
}

/// The users of a file.
#[derive(Clone)]
pub struct Users(Arc<Vec<Account>>);

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|account| &account.user)).finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    version: u32,
    #[serde(default)]
    user: Vec<UserForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserForm {
    name: String,
    password: String,
    #[serde(default = "root")]
    home: String,
    #[serde(default)]
    read_only: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    #[serde(default)]
    groups: Vec<u32>,
}

fn root() -> String {
    "/".into()
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, "users.file").because(why.into())
}

impl Users {
    /// Reads a users file.
    ///
    /// # Errors
    /// `NotFound` or `Io` where it cannot be read; as [`Users::parse`] else.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            };
            Error::new(kind, "users.file").at(path.display()).because(error)
        })?;
        Self::parse(&text).map_err(|error| error.at(path.display()))
    }

    /// Reads the text of a users file.
    ///
    /// # Errors
    /// `InvalidArgument` with the line or the user that is wrong; `Unsupported` for a newer version.
    pub fn parse(text: &str) -> Result<Self> {
        let file: FileForm = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if file.version != USERS_VERSION {
            let why = format!("users file of version {}: this program reads version {USERS_VERSION}", file.version);
            return Err(Error::new(ErrorKind::Unsupported, "users.file").because(why));
        }
        let mut accounts: Vec<Account> = Vec::with_capacity(file.user.len());
        for form in file.user {
            let name = form.name;
            if name.is_empty() || accounts.iter().any(|account| account.user.name == name) {
                return Err(refuse(format!("user {name:?} is empty or there twice")));
            }
            if !form.home.starts_with('/') || form.home.split('/').any(|part| part == "..") {
                return Err(refuse(format!("the home of {name:?} is not an absolute path without ..")));
            }
            let hash = PasswordHash::new(&form.password)
                .ok()
                .filter(is_sane)
                .ok_or_else(|| refuse(format!("the password of {name:?} is no argon2id hash that can be afforded")))?;
            let user = User {
                name,
                home: form.home,
                read_only: form.read_only,
                uid: form.uid,
                gid: form.gid,
                groups: form.groups,
            };
            accounts.push(Account { user, hash });
        }
        Ok(Self(Arc::new(accounts)))
    }

    /// The users, each with the hash of the password.
    pub fn accounts(&self) -> impl Iterator<Item = (&User, String)> {
        self.0.iter().map(|account| (&account.user, account.hash.to_string()))
    }

    /// The user of that name and password. Takes as long for a name that is not there. Blocks for tens of
    /// milliseconds: for a thread that may.
    pub fn check(&self, name: &str, password: &str) -> Option<&User> {
        let known = self.0.iter().find(|account| account.user.name == name);
        let account = known.or_else(|| self.0.first())?;
        let fits = password.len() <= PASSWORD_LEN_MAX
            && Argon2::default().verify_password(password.as_bytes(), &account.hash).is_ok();
        known.filter(|_| fits).map(|account| &account.user)
    }
}

fn is_sane(hash: &PasswordHash) -> bool {
    hash.algorithm.as_str() == "argon2id"
        && hash.salt.is_some()
        && hash.hash.is_some()
        && Params::try_from(hash)
            .is_ok_and(|params| params.m_cost() <= HASH_MEMORY_KIB_MAX && params.t_cost() <= HASH_PASSES_MAX)
}

/// The hash of a password, as the `password` of a user in the file wants it: argon2id with 19 MiB and 2 passes.
///
/// ```
/// let env = muxfs::testing::env();
/// assert!(muxfs_users::hash_password("correct horse", &env)?.starts_with("$argon2id$"));
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` for one that is empty or longer than [`PASSWORD_LEN_MAX`].
pub fn hash_password(password: &str, env: &Env) -> Result<String> {
    if password.is_empty() || password.len() > PASSWORD_LEN_MAX {
        return Err(refuse(format!("a password has 1 to {PASSWORD_LEN_MAX} bytes")));
    }
    let mut salt = [0; 16];
    (env.fill)(&mut salt);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let hash: PasswordHash = argon2
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| Error::new(ErrorKind::Internal, "users.hash").because(error.to_string()))?;
    Ok(hash.to_string())
}

/// The lines of one user for a users file, which begins with `version = 1`.
///
/// ```
/// let env = muxfs::testing::env();
/// let lines = muxfs_users::user_line("ann", "correct horse", "/local/ann", true, &env)?;
/// assert!(lines.starts_with("[[user]]\nname = \"ann\"\n"));
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// As [`hash_password`]; `InvalidArgument` for a name or a home that no file may hold.
pub fn user_line(name: &str, password: &str, home: &str, read_only: bool, env: &Env) -> Result<String> {
    let hash = hash_password(password, env)?;
    let (quoted, home) = (toml::Value::from(name), toml::Value::from(home));
    let lines = format!("[[user]]\nname = {quoted}\npassword = \"{hash}\"\nhome = {home}\nread_only = {read_only}\n");
    Users::parse(&format!("version = {USERS_VERSION}\n{lines}"))?;
    Ok(lines)
}

/// The text of a users file with the lines of one more user; an empty file begins.
///
/// ```
/// let env = muxfs::testing::env();
/// let lines = muxfs_users::user_line("ann", "correct horse", "/local/ann", true, &env)?;
/// let users = muxfs_users::with_user("", &lines)?;
/// assert!(users.starts_with("version = 1\n"));
/// assert!(muxfs_users::with_user(&users, &lines).is_err(), "she is there");
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` if the text is no users file or has a user of that name; `Unsupported` for a newer version.
pub fn with_user(text: &str, lines: &str) -> Result<String> {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let with = match text.trim() {
        "" => format!("version = {USERS_VERSION}\n\n{lines}"),
        _ => format!("{text}{gap}\n{lines}"),
    };
    Users::parse(&with)?;
    Ok(with)
}

/// Remembers refused logins by address.
#[derive(Debug, Default)]
pub struct Brake(Mutex<HashMap<IpAddr, (u32, SystemTime)>>);

impl Brake {
    /// Whether this address has to wait.
    pub fn holds(&self, address: IpAddr, now: SystemTime) -> bool {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(&address).is_some_and(|(count, until)| *count >= FAILURES_MAX && now < *until)
    }

    /// Counts a refused login.
    pub fn failed(&self, address: IpAddr, now: SystemTime) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, (_, until)| now < *until);
        if map.len() >= ADDRESSES_MAX && !map.contains_key(&address) {
            let soonest = map.iter().min_by_key(|(_, (count, until))| (*count, *until)).map(|(address, _)| *address);
            soonest.map(|address| map.remove(&address));
        }
        let entry = map.entry(address).or_insert((0, now));
        entry.0 = entry.0.saturating_add(1);
        entry.1 = now.checked_add(FAILURE_WINDOW).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use muxfs::testing::env;

    use super::*;

    #[test]
    fn a_wrong_file_names_what_is_wrong() {
        let hash = hash_password("x", &env()).expect("hashes");
        let cases = [
            ("version = 2".to_owned(), "version 2"),
            ("version = 1\nusers = 3".to_owned(), "users"),
            ("version = 1\n[[user]]\nname = \"a\"\npassword = \"plain\"".to_owned(), "\"a\""),
            (format!("version = 1\n[[user]]\nname = \"a\"\npassword = \"{hash}\"\nhome = \"b\""), "absolute"),
            (format!("version = 1\n[[user]]\nname = \"a\"\npassword = \"{hash}\"\nhome = \"/b/../..\""), "absolute"),
            (
                format!("version = 1\n[[user]]\nname='a'\npassword='{hash}'\n[[user]]\nname='a'\npassword='{hash}'"),
                "twice",
            ),
            (
                "version = 1\n[[user]]\nname='a'\npassword='$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b27dA'"
                    .to_owned(),
                "afforded",
            ),
        ];
        for (text, word) in cases {
            let error = Users::parse(&text).expect_err(word);
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_a_known_password_too() {
        let hash = hash_password("secret", &env()).expect("hashes");
        let users = Users::parse(&format!("version = 1\n[[user]]\nname='ann'\npassword='{hash}'")).expect("parses");
        assert_eq!(users.check("ann", "secret").map(|user| user.home.as_str()), Some("/"));
        assert!(users.check("bob", "secret").is_none());
        assert!(users.check("ann", "Secret").is_none());
        assert!(Users::parse("version = 1").expect("parses").check("ann", "secret").is_none());
    }

    #[test]
    fn the_lines_of_a_user_read_back() {
        let lines = user_line("a 'b' \\", "secret", "/x y", true, &env()).expect("makes lines");
        let users = Users::parse(&format!("version = 1\n{lines}")).expect("parses");
        let user = users.check("a 'b' \\", "secret").expect("fits");
        assert!(user.read_only && user.home == "/x y" && user.uid.is_none());
        assert!(user_line("a", "secret", "relative", false, &env()).is_err());
    }

    #[test]
    fn two_hashes_of_one_password_differ() {
        let env = env();
        let (one, two) = (hash_password("x", &env).expect("hashes"), hash_password("x", &env).expect("hashes"));
        assert_ne!(one, two);
        assert_eq!(hash_password("", &env).expect_err("empty").kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn guessing_is_braked_by_address_and_forgiven_with_time() {
        let brake = Brake::default();
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for _ in 0..FAILURES_MAX {
            assert!(!brake.holds(here, now));
            brake.failed(here, now);
        }
        assert!(brake.holds(here, now) && !brake.holds(there, now));
        assert!(!brake.holds(here, now + FAILURE_WINDOW));
        for index in 0..2 * u32::try_from(ADDRESSES_MAX).expect("small") {
            brake.failed(IpAddr::from(index.to_be_bytes()), now);
        }
        assert!(brake.0.lock().expect("not poisoned").len() <= ADDRESSES_MAX);
        assert!(brake.holds(here, now), "the worst are remembered longest");
    }
}
