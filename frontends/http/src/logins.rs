//! Users that show who they are: by name and password in each request (`Basic`), or by a cookie of a browser that did once.
//!
//! A password is looked at once, since its hash costs tens of milliseconds and as many MiB: a fit that was found is kept as a
//! keyed hash that only this process can make. What a user may reach and change is here as well. Spec: spec/http.md #users.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{
        Vfs,
        posix::{Caller, posix},
    },
};
use muxfs_users::{Brake, HASHINGS_MAX, User, Users};
use tokio::sync::Semaphore;

use crate::{
    access::{self, Token},
    failure::Failure,
    options::Options,
};

/// What tells the cookie of a user from everything else that is made of a token.
const SESSION: &str = "MuxFS HTTP 1: session of a user";
/// So many passwords wait for their hashing, which is less than a second: who makes up many keeps nobody longer.
const WAITING_MAX: usize = 16;

/// A user, as requests are theirs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Login {
    name: String,
    /// What they reach is at or below it.
    home: Vec<Name>,
    pub(crate) read_only: bool,
    /// As whom they act, where that is not who the server is.
    caller: Option<Caller>,
}

impl Login {
    fn of(user: &User, own: &Caller) -> Result<Self> {
        let parts = user.home.split('/').filter(|part| !part.is_empty() && *part != ".");
        let home = parts
            .map(|part| Name::new(part.as_bytes()))
            .collect::<Result<_>>()
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "http.users").at(&user.name).because(error))?;
        let is_own = user.uid.is_none() && user.gid.is_none();
        let caller = (!is_own).then(|| user.caller(own.clone()));
        Ok(Self { name: user.name.clone(), home, read_only: user.read_only, caller })
    }

    pub(crate) fn home(&self) -> &[Name] {
        &self.home
    }

    /// As whom they change something, where the server acts as `own`.
    pub(crate) fn caller(&self, own: &Caller) -> Caller {
        self.caller.clone().unwrap_or_else(|| own.clone())
    }

    /// A file system as they see it.
    pub(crate) fn view(&self, vfs: &Arc<dyn Vfs>) -> Arc<dyn Vfs> {
        self.caller.as_ref().map_or_else(|| vfs.clone(), |caller| posix(vfs.clone(), caller.clone()))
    }
}

/// The users of a server.
pub(crate) struct Logins {
    users: Users,
    by_name: HashMap<String, Arc<Login>>,
    /// What their cookies show: of no use to learn a password, and other ones when it changes.
    sessions: Vec<(blake3::Hash, Arc<Login>)>,
    /// What hashes of passwords that fit are made with, and these: no more than there are users.
    key: [u8; 32],
    known: Mutex<HashMap<blake3::Hash, Arc<Login>>>,
    /// Whoever hashes holds what it took of these until that is over, even where the one who asked hangs up.
    hashings: Arc<Semaphore>,
    /// For each that is being hashed or waits for that.
    places: Arc<Semaphore>,
    brake: Arc<Brake>,
}

/// Whose a password is; `None`: nobody's.
type Checked = Result<Option<Arc<Login>>, Failure>;

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("count", &self.by_name.len()).finish_non_exhaustive()
    }
}

impl Logins {
    /// Those of the options; `None` where these name none.
    ///
    /// # Errors
    /// `NotFound`, `Io` and `InvalidArgument` of their file.
    pub(crate) fn open(options: &Options) -> Result<Option<Self>> {
        let (Some(file), Some(writing)) = (&options.users, &options.writing) else { return Ok(None) };
        let users = Users::load(file)?;
        let mut key = [0; 32];
        (options.env.fill)(&mut key);
        let (mut by_name, mut sessions) = (HashMap::new(), Vec::new());
        for (user, hash) in users.accounts() {
            let login = Arc::new(Login::of(user, &writing.caller)?);
            sessions.push((session(&writing.token, &user.name, &hash), login.clone()));
            by_name.insert(user.name.clone(), login);
        }
        let (known, brake) = (Mutex::default(), Arc::default());
        let turns = |count| Arc::new(Semaphore::new(count));
        let (hashings, places) = (turns(HASHINGS_MAX), turns(HASHINGS_MAX + WAITING_MAX));
        Ok(Some(Self { users, by_name, sessions, key, known, hashings, places, brake }))
    }

    /// Whose cookie a browser shows.
    pub(crate) fn of_cookie(&self, headers: &HeaderMap) -> Option<Arc<Login>> {
        let shown = access::sessions(headers).collect::<Vec<_>>();
        let login = self.sessions.iter().find(|(session, _)| shown.contains(session))?;
        Some(login.1.clone())
    }

    /// What the cookie of a user shows.
    pub(crate) fn session_of(&self, login: &Login) -> Option<blake3::Hash> {
        self.sessions.iter().find(|(_, other)| other.name == login.name).map(|(session, _)| *session)
    }

    /// Whose name and password a request shows.
    pub(crate) async fn of_password(&self, headers: &HeaderMap, peer: IpAddr, now: SystemTime) -> Checked {
        match headers.get(AUTHORIZATION).and_then(access::basic) {
            Some((name, password)) => self.check(&name, &password, peer, now).await,
            None => Ok(None),
        }
    }

    /// The user of this name and password; `None` where there is none, or too many were wrong from there.
    ///
    /// # Errors
    /// 503 where too many are being looked at.
    pub(crate) async fn check(&self, name: &str, password: &str, peer: IpAddr, now: SystemTime) -> Checked {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(password.as_bytes());
        let shown = hasher.finalize();
        if let Some(login) = self.known().get(&shown) {
            return Ok(Some(login.clone()));
        }
        // Behind a proxy on this machine all are one address: a stranger there is not to keep the users out.
        let is_braked = !peer.to_canonical().is_loopback();
        let is_held = || {
            let is_held = is_braked && self.brake.holds(peer, now);
            if is_held {
                tracing::warn!(%peer, user = name, "HTTP: too many wrong passwords from there");
            }
            is_held
        };
        if is_held() {
            return Ok(None);
        }
        let busy = || {
            let why = "Too many passwords are being looked at.";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, why, "Try again in a while.")
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = self.hashings.clone().acquire_owned().await.map_err(|_| busy())?;
        // Those who wait together all came before the first of them was found to be wrong, or to be right.
        if is_held() {
            return Ok(None);
        }
        if let Some(login) = self.known().get(&shown) {
            return Ok(Some(login.clone()));
        }
        let (users, brake, wanted, password) =
            (self.users.clone(), self.brake.clone(), name.to_owned(), password.to_owned());
        let hashing = tokio::task::spawn_blocking(move || {
            let fits = users.check(&wanted, &password).is_some();
            if !fits {
                tracing::warn!(%peer, user = wanted, "HTTP: a wrong name or password");
                if is_braked {
                    brake.failed(peer, now);
                }
            }
            drop((place, turn));
            fits
        });
        let fits = hashing.await.unwrap_or(false);
        Ok(self.by_name.get(name).filter(|_| fits).map(|login| {
            self.known().insert(shown, login.clone());
            login.clone()
        }))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<blake3::Hash, Arc<Login>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the cookie of a user shows.
fn session(token: &Token, name: &str, hash: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(SESSION);
    for part in [token.as_str(), name, hash] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};
    use muxfs::{
        testing::{env, model::ModelFs},
        vfs::Fsid,
    };

    use super::*;
    use crate::access::Writing;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// Those of a server with one user.
    fn logins() -> Logins {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("users.toml");
        let line = muxfs_users::user_line("ann", "ann's", "/", false, &env()).expect("a user");
        std::fs::write(&file, format!("version = 1\n{line}")).expect("written");
        let writing = Writing {
            vfs: ModelFs::new(env()),
            token: Token::new("0123456789abcdef").expect("a token"),
            caller: Caller { uid: 0, gid: 0, groups: Vec::new() },
            sync_names_except: Vec::<Fsid>::new(),
        };
        let options = Options { users: Some(file), writing: Some(writing), ..Options::default() };
        Logins::open(&options).expect("opens").expect("users")
    }

    async fn is_in(logins: &Logins, password: &str) -> bool {
        logins.check("ann", password, STRANGER, NOW).await.expect("there is a place").is_some()
    }

    /// However many guess at once: the brake counts those that were found to be wrong while others waited.
    #[tokio::test]
    async fn guesses_at_once_are_held_like_others() {
        let logins = logins();
        let crowd = HASHINGS_MAX + WAITING_MAX;
        let wrong = |count| join_all((0..count).map(|_| is_in(&logins, "bob's")));
        assert!(!wrong(crowd).await.contains(&true));
        // The brake does not hold yet when they come: it does before the last of them has its turn, who is right.
        let (others, last) = tokio::join!(wrong(crowd - 1), is_in(&logins, "ann's"));
        assert!(!others.contains(&true) && !last, "one too many was looked at");
    }

    /// Who hangs up while their password is looked at takes part in all the limits until that is over.
    #[tokio::test]
    async fn who_hangs_up_is_counted_all_the_same() {
        let logins = logins();
        let all = u32::try_from(HASHINGS_MAX).expect("few");
        for _ in 0..2 * (HASHINGS_MAX + WAITING_MAX) {
            let guess = Box::pin(logins.check("ann", "bob's", STRANGER, NOW)).now_or_never();
            assert!(guess.is_none_or(|guess| matches!(guess, Ok(None))), "it is hashed, or braked");
            drop(logins.hashings.acquire_many(all).await.expect("all that is hashed is over"));
        }
        assert!(!is_in(&logins, "ann's").await, "the brake counted none of them");
    }

    #[tokio::test]
    async fn few_wait_and_who_is_known_does_not() {
        let logins = logins();
        assert!(is_in(&logins, "ann's").await, "hashed once");
        let hashing = logins.hashings.acquire_many(u32::try_from(HASHINGS_MAX).expect("few")).await.expect("open");
        let mut crowd: Vec<_> =
            (0..HASHINGS_MAX + WAITING_MAX).map(|_| Box::pin(logins.check("ann", "bob's", STRANGER, NOW))).collect();
        for waiting in &mut crowd {
            assert!(waiting.now_or_never().is_none(), "it waits");
        }
        let refused = logins.check("ann", "bob's", STRANGER, NOW).now_or_never().expect("at once");
        assert_eq!(refused.expect_err("no place").status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(is_in(&logins, "ann's").now_or_never().expect("at once"));
        drop((crowd, hashing));
        assert!(!is_in(&logins, "bob's").await, "places come free");
    }
}
