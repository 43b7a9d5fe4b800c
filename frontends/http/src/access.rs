//! Who asks: somebody who shows the token, a user, or anybody.
//!
//! A token is shown as `Authorization: Bearer`, or as the password of any user (`Basic`), which is what WebDAV clients
//! ask people for; a browser that showed it once shows a cookie that was made of it. Compared by hash, in a time that says
//! nothing of where two differ; who shows a wrong one waits for the answer. Spec: spec/http.md #who.

use std::{fmt, sync::Arc, time::Duration};

use axum::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, COOKIE as COOKIES, WWW_AUTHENTICATE},
};
use multibase::Base;
use muxfs::{
    Env, Error, ErrorKind, Name, Result,
    vfs::{
        Fsid, Vfs,
        posix::{Caller, posix},
    },
};

use crate::{failure::Failure, logins::Login};

/// The shortest and the longest token, in bytes.
const TOKEN_LEN: std::ops::RangeInclusive<usize> = 16..=256;
/// How long the answer to a wrong token takes.
pub(crate) const REFUSAL_TIME: Duration = Duration::from_secs(1);
const REALM: &str = "MuxFS";
/// The cookie of a browser, how long it keeps it in seconds, and what tells its value from anything else of the token.
const COOKIE: &str = "muxfs-session";
const COOKIE_TIME: u32 = 30 * 86_400;
const SESSION: &str = "MuxFS HTTP 1: session of a browser";
/// What pages of ours send along: a browser is to ask for the token by them, not by itself.
const ASKED_BY: &str = "x-requested-with";

/// A secret that lets whoever knows it write.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes a token that was made before.
    ///
    /// ```
    /// use muxfs_http::Token;
    /// assert!(Token::new("0123456789abcdef").is_ok());
    /// assert!(Token::new("secret").is_err());
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for one that is not of 16 to 256 visible ASCII characters.
    pub fn new(text: &str) -> Result<Self> {
        if TOKEN_LEN.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        let why = "a token has 16 to 256 characters of ASCII, without spaces";
        Err(Error::new(ErrorKind::InvalidArgument, "http.token").because(why))
    }

    /// Makes a token of 256 bits: 64 hex digits.
    ///
    /// ```
    /// use muxfs_http::{Options, Token};
    /// assert_eq!(Token::generate(&Options::default().env).as_str().len(), 64);
    /// ```
    pub fn generate(env: &Env) -> Self {
        let mut random = [0; 32];
        (env.fill)(&mut random);
        // Of bytes that nobody can predict: a hash only writes them.
        Self(blake3::Hash::from(random).to_hex().as_str().into())
    }

    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is(&self, shown: &str) -> bool {
        // Hashes compare in constant time.
        blake3::hash(self.0.as_bytes()) == blake3::hash(shown.as_bytes())
    }

    /// What a cookie shows in its place: good for as long as the token is, and of no use to learn it.
    pub(crate) fn session(&self) -> blake3::Hash {
        blake3::derive_key(SESSION, self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How the namespace is written, and by whom.
#[derive(Debug, Clone)]
pub struct Writing {
    /// All mounts under one root, as changes are to be made: what looks on there is told of them.
    pub vfs: Arc<dyn Vfs>,
    /// Whoever shows it may write.
    pub token: Token,
    /// As whom they do: what is made belongs to them, and their permissions hold.
    pub caller: Caller,
    /// File systems whose names are not made durable before the answer, by their fsid: a crash may lose the latest of
    /// them. What was put is durable all the same.
    pub sync_names_except: Vec<Fsid>,
}

impl Writing {
    /// All mounts, as somebody may change them.
    pub(crate) fn vfs_of(&self, who: &Who) -> Arc<dyn Vfs> {
        match who {
            Who::Owner => posix(self.vfs.clone(), self.caller.clone()),
            Who::User(login) if !login.read_only => posix(self.vfs.clone(), login.caller(&self.caller)),
            Who::User(_) | Who::Anybody | Who::Refused => who.view(&self.vfs),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    Anybody,
    /// Somebody who shows the token: they may read and write everything.
    Owner,
    /// A user: they may reach what is in their home, and write there unless they only read.
    User(Arc<Login>),
    /// Somebody who shows what is neither a token nor a password.
    Refused,
}

impl Who {
    pub(crate) fn may_write(&self) -> bool {
        match self {
            Self::Owner => true,
            Self::User(login) => !login.read_only,
            Self::Anybody | Self::Refused => false,
        }
    }

    /// The home that is all they may reach, where it is not everything.
    fn home(&self) -> Option<&[Name]> {
        if let Self::User(login) = self { Some(login.home()) } else { None }
    }

    /// Whether what is at a path is theirs to read.
    pub(crate) fn may_reach(&self, path: &[Name]) -> bool {
        self.home().is_none_or(|home| path.starts_with(home))
    }

    /// Whether they may make, replace and take away what is called this: a home itself stays what it is.
    pub(crate) fn may_name(&self, path: &[Name]) -> bool {
        self.home().is_none_or(|home| path.starts_with(home) && path.len() > home.len())
    }

    /// Whether they may know that there is something at a path: it is theirs, or on the way there.
    pub(crate) fn may_see(&self, path: &[Name]) -> bool {
        self.home().is_none_or(|home| path.starts_with(home) || home.starts_with(path))
    }

    /// Where they are led who ask for what is on the way to their home.
    pub(crate) fn led_from(&self, path: &[Name]) -> Option<&[Name]> {
        self.home().filter(|home| home.starts_with(path) && home.len() > path.len())
    }

    /// A file system as they may read it.
    pub(crate) fn view(&self, vfs: &Arc<dyn Vfs>) -> Arc<dyn Vfs> {
        if let Self::User(login) = self { login.view(vfs) } else { vfs.clone() }
    }
}

/// Who a request says that it is from.
pub(crate) fn who(headers: &HeaderMap, token: Option<&Token>) -> Who {
    let Some(token) = token else { return Who::Anybody };
    let session = token.session();
    if sessions(headers).any(|shown| shown == session) {
        return Who::Owner;
    }
    let Some(shown) = headers.get(AUTHORIZATION) else { return Who::Anybody };
    if secret(shown).is_some_and(|secret| token.is(&secret)) { Who::Owner } else { Who::Refused }
}

/// Refuses a request that shows more than one thing: each password would be looked at, and that costs.
pub(crate) fn check_shown(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get_all(AUTHORIZATION).into_iter().nth(1) {
        Some(_) => Err(Failure::bad("The request has more than one Authorization.", "")),
        None => Ok(()),
    }
}

/// What cookies of ours show.
pub(crate) fn sessions(headers: &HeaderMap) -> impl Iterator<Item = blake3::Hash> {
    let cookies = headers.get_all(COOKIES).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).filter_map(|(_, value)| blake3::Hash::from_hex(value).ok())
}

/// What is shown as a token, or as a password.
fn secret(value: &HeaderValue) -> Option<String> {
    let (scheme, shown) = value.to_str().ok()?.trim().split_once(' ')?;
    let shown = shown.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(shown.to_owned());
    }
    basic(value).map(|(_, password)| password)
}

/// The name of a user and a password (RFC 7617).
pub(crate) fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, shown) = value.to_str().ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Base::Base64.decode(shown.trim().trim_end_matches('=')).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

/// A request that needs the token or a user, and has none or a wrong one; or a user who may not do that.
pub(crate) fn refusal(who: &Who) -> Failure {
    let why = match who {
        Who::Refused => "This is neither the token of this server nor the password of a user.",
        Who::Anybody | Who::Owner => "This needs the token of this server, or a user of it.",
        Who::User(_) => {
            return Failure::new(StatusCode::FORBIDDEN, "This user may change nothing.", "Ask who runs the server.");
        }
    };
    let advice =
        "`muxfs http token` shows the token: send it as the password of any user, or as Authorization: Bearer.";
    Failure::new(StatusCode::UNAUTHORIZED, why, advice)
}

/// A request for what is not in the home of a user.
pub(crate) fn out_of_home() -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "This is not in the home of this user.", "Ask who runs the server.")
}

/// Says how to show a token.
pub(crate) fn ask(asked: &HeaderMap, headers: &mut HeaderMap) {
    let basic = format!("Basic realm=\"{REALM}\", charset=\"UTF-8\"");
    let basic = (!asked.contains_key(ASKED_BY)).then_some(basic);
    for challenge in basic.into_iter().chain([format!("Bearer realm=\"{REALM}\"")]) {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(&challenge).expect("ASCII"));
    }
}

/// The cookie of a browser that showed the token, or was a user's. No script reads it, and no page of another site has it sent.
pub(crate) fn cookie(session: &blake3::Hash) -> String {
    format!("{COOKIE}={session}; Path=/; Max-Age={COOKIE_TIME}; HttpOnly; SameSite=Strict")
}

/// Takes the cookie away.
pub(crate) fn no_cookie() -> String {
    format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_in_two_ways() {
        let token = Token::new("0123456789abcdef").expect("a token");
        for (shown, expected) in [
            (None, Who::Anybody),
            (Some("Bearer 0123456789abcdef"), Who::Owner),
            (Some("bearer  0123456789abcdef "), Who::Owner),
            // any:0123456789abcdef, with and without a user, padded or not.
            (Some("Basic YW55OjAxMjM0NTY3ODlhYmNkZWY="), Who::Owner),
            (Some("Basic OjAxMjM0NTY3ODlhYmNkZWY"), Who::Owner),
            (Some("Bearer 0123456789abcdeg"), Who::Refused),
            (Some("Bearer 0123456789abcde"), Who::Refused),
            (Some("Bearer 0123456789abcdef0"), Who::Refused),
            (Some("Bearer"), Who::Refused),
            (Some("Basic 0123456789abcdef"), Who::Refused),
            (Some("Basic !"), Who::Refused),
            (Some("Digest 0123456789abcdef"), Who::Refused),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(shown.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
            assert_eq!(who(&headers, Some(&token)), expected, "{shown:?}");
            assert_eq!(who(&headers, None), Who::Anybody, "{shown:?}");
        }
    }

    #[test]
    fn a_cookie_stands_for_the_token_it_was_made_of() {
        let [token, other] = ["0123456789abcdef", "0123456789abcdeg"].map(|text| Token::new(text).expect("a token"));
        let shown = cookie(&token.session());
        let pair = shown.split(';').next().expect("a pair");
        assert!(!shown.contains(token.as_str()) && shown.contains("HttpOnly; SameSite=Strict"));
        for (value, expected) in [
            (pair.to_owned(), Who::Owner),
            (format!("a=b; {pair}; c"), Who::Owner),
            (format!("x{pair}"), Who::Anybody),
            (format!("{pair}0"), Who::Anybody),
            (no_cookie(), Who::Anybody),
            (format!("{COOKIE}={}", token.as_str()), Who::Anybody),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIES, HeaderValue::from_str(&value).expect("a value"));
            assert_eq!(who(&headers, Some(&token)), expected, "{value}");
            assert_eq!(who(&headers, Some(&other)), Who::Anybody, "{value}");
        }
    }

    #[test]
    fn a_token_is_long_and_stays_out_of_logs() {
        for text in ["", "0123456789abcde", "0123456789abcde ", "0123456789abcd\u{e4}f", &"x".repeat(257)] {
            Token::new(text).expect_err(text);
        }
        assert!(!format!("{:?}", Token::new("0123456789abcdef").expect("a token")).contains("0123"));
    }
}
