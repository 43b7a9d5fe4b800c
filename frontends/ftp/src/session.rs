//! One control connection: who it is, what it asks, in what order it is answered.
//!
//! A command is answered before the next one is looked at, so replies cannot change places. While a transfer runs the
//! control connection is read on: ABOR breaks the transfer off, other commands wait their turn, and its end means that
//! nobody is there to whom an upload could be confirmed. RFC 959 5.4, RFC 4217.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muxfs::vfs::{Vfs, posix::Caller};
use muxfs_users::{Brake, Users};
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    line::{Command, Line, Lines},
    path::{self, Path},
    reply::Reply,
    tree::Tree,
    upload::Slots,
    wire::{Endpoint, Wire},
};

/// Refused logins after which a connection is closed.
const ATTEMPTS_MAX: u32 = 3;
/// How long a connection may stay without a login.
const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long one reply may take to be taken by the client.
const REPLY_TIMEOUT: Duration = Duration::from_mins(1);
/// Commands that wait while a transfer runs; with more the connection is read no further.
const QUEUE_MAX: usize = 16;

/// What all sessions of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) options: Options,
    pub(crate) users: Option<Users>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) brake: Brake,
    pub(crate) hashings: Semaphore,
    /// No new commands.
    pub(crate) closing: CancellationToken,
    /// No waiting for transfers any more.
    pub(crate) killed: CancellationToken,
}

impl Shared {
    pub(crate) fn now(&self) -> SystemTime {
        (self.options.env.now)()
    }
}

/// Who is logged in, and what that user sees.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) tree: Arc<Tree>,
}

/// Whether the session goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Close,
}

/// A second hold on the control connection, by which to see whether the client still is there.
#[derive(Debug)]
pub(crate) struct Pulse(std::net::TcpStream);

impl Pulse {
    /// Whether the client has not closed the connection. Asks the system, not the runtime: an end that came before the
    /// data's end is seen although nobody has read up to it.
    pub(crate) fn beats(&self) -> bool {
        match self.0.peek(&mut [0]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// What is under TLS (RFC 2228).
#[derive(Debug, Default)]
pub(crate) struct Protection {
    control: bool,
    /// PBSZ was said, without which no PROT.
    sized: bool,
    pub(crate) data: bool,
}

/// The state of one control connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    wire: Wire,
    pub(crate) pulse: Arc<Pulse>,
    lines: Lines,
    queue: VecDeque<Line>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) protection: Protection,
    name: Option<String>,
    attempts: u32,
    pub(crate) login: Option<Login>,
    pub(crate) cwd: Path,
    pub(crate) rename_from: Option<Path>,
    pub(crate) restart: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) extended_only: bool,
}

/// IPv4 addresses in IPv6 clothing are what they are.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, stream: TcpStream) -> io::Result<Self> {
        let (peer, local) = (plain(stream.peer_addr()?), plain(stream.local_addr()?));
        stream.set_nodelay(true)?;
        // The last byte of an ABOR may come as urgent data: it belongs to the line.
        rustix::net::sockopt::set_socket_oobinline(&stream, true)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        let pulse = Arc::new(Pulse(std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?)));
        Ok(Self {
            shared,
            wire: Wire::Plain(stream),
            pulse,
            lines: Lines::default(),
            queue: VecDeque::new(),
            peer,
            local,
            protection: Protection::default(),
            name: None,
            attempts: 0,
            login: None,
            cwd: Path::new(),
            rename_from: None,
            restart: 0,
            endpoint: Endpoint::None,
            extended_only: false,
        })
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(mut self) {
        let killed = self.shared.killed.clone();
        let ended = tokio::select! {
            ended = self.converse() => ended,
            () = killed.cancelled() => Ok(()),
        };
        match ended {
            Ok(()) => tracing::debug!(peer = %self.peer, "FTP session closed"),
            Err(error) => tracing::debug!(peer = %self.peer, %error, "FTP session broken"),
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        self.say(&Reply::new(220, "MuxFS FTP ready.")).await?;
        let deadline = Instant::now() + LOGIN_TIMEOUT;
        while let Some(line) = self.next_line(deadline).await? {
            let flow = match line {
                Line::Command(command) => self.obey(&command).await?,
                Line::TooLong => {
                    self.say(&Reply::new(500, "That line is too long.")).await?;
                    Flow::Next
                }
            };
            if flow == Flow::Close {
                break;
            }
        }
        Ok(())
    }

    /// The next line to obey; `None` when the session is to end, which the client is told.
    async fn next_line(&mut self, deadline: Instant) -> io::Result<Option<Line>> {
        if let Some(line) = self.queue.pop_front() {
            return Ok(Some(line));
        }
        let idle = Instant::now() + self.shared.options.idle_timeout;
        let until = if self.login.is_some() { idle } else { idle.min(deadline) };
        let closing = self.shared.closing.clone();
        let why = tokio::select! {
            biased;
            () = closing.cancelled() => "The server shuts down.",
            line = timeout_at(until, self.lines.next(&mut self.wire, Wire::late)) => match line {
                Ok(line) => return line,
                Err(_) => "Nothing was said for too long.",
            },
        };
        self.say(&Reply::new(421, why)).await?;
        Ok(None)
    }

    /// Sends a reply.
    pub(crate) async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        let bytes = reply.encode();
        let sent = async {
            self.wire.write_all(&bytes).await?;
            self.wire.flush().await
        };
        timeout(REPLY_TIMEOUT, sent).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn obey(&mut self, command: &Command) -> io::Result<Flow> {
        let reply = match command.verb.as_str() {
            "QUIT" => {
                self.say(&Reply::new(221, "Goodbye.")).await?;
                return Ok(Flow::Close);
            }
            "USER" => self.user(command),
            "PASS" => return self.pass(command).await,
            "AUTH" => return self.auth(command).await,
            "PBSZ" => self.protection_size(),
            "PROT" => self.protection(command),
            "CCC" => Reply::new(533, "The control connection stays protected."),
            "NOOP" => Reply::new(200, "Here."),
            "SYST" => Reply::new(215, "UNIX Type: L8"),
            "FEAT" => self.features(),
            "OPTS" => options_reply(command),
            "HELP" => help(),
            "ABOR" => Reply::new(226, "Nothing is under way."),
            _ => match self.login.clone() {
                Some(login) => return self.command(&login, command).await,
                None => Reply::new(530, "Log in first: USER, then PASS."),
            },
        };
        self.say(&reply).await?;
        Ok(Flow::Next)
    }

    // ---- logging in

    fn user(&mut self, command: &Command) -> Reply {
        if self.login.is_some() {
            return Reply::new(503, "You are logged in: open another connection for another user.");
        }
        if self.shared.options.tls_required && !self.protection.control {
            return Reply::new(530, "This server wants TLS first: AUTH TLS.");
        }
        match command.text() {
            Some(name) if !name.is_empty() => {
                self.name = Some(name.to_owned());
                Reply::new(331, "Now the password.")
            }
            _ => Reply::new(501, "A user has a name."),
        }
    }

    async fn pass(&mut self, command: &Command) -> io::Result<Flow> {
        let Some(name) = self.name.take() else {
            self.say(&Reply::new(503, "Say who you are first: USER.")).await?;
            return Ok(Flow::Next);
        };
        let reply = match self.admit(&name, &command.arg).await {
            Ok(login) => {
                tracing::info!(peer = %self.peer, user = %name, tls = self.protection.control, "FTP login");
                metrics::counter!("muxfs_ftp_logins_total", "result" => "ok").increment(1);
                self.login = Some(login);
                Reply::new(230, "Welcome.")
            }
            Err(refused) => {
                tracing::warn!(peer = %self.peer, user = %name, code = refused.code, "FTP login refused");
                metrics::counter!("muxfs_ftp_logins_total", "result" => "refused").increment(1);
                self.attempts += 1;
                tokio::time::sleep(self.shared.options.login_delay).await;
                refused
            }
        };
        let over = self.login.is_none() && self.attempts >= ATTEMPTS_MAX;
        self.say(&reply).await?;
        if over {
            self.say(&Reply::new(421, "Too many refused logins.")).await?;
            return Ok(Flow::Close);
        }
        Ok(Flow::Next)
    }

    async fn admit(&self, name: &str, password: &[u8]) -> Result<Login, Reply> {
        let own = own_caller();
        let options = &self.shared.options;
        let (caller, home, read_only) = match &self.shared.users {
            None => (own, "/".to_owned(), false),
            Some(users) => {
                let refused = || Reply::new(530, "That name and password do not fit.");
                let address: IpAddr = self.peer.ip();
                if self.shared.brake.holds(address, self.shared.now()) {
                    return Err(Reply::new(530, "Too many refused logins from there: try again in some minutes."));
                }
                let (users, name) = (users.clone(), name.to_owned());
                // One that is no text fits nobody, after the same time.
                let password = String::from_utf8(password.to_vec()).unwrap_or_default();
                let _turn = self.shared.hashings.acquire().await.map_err(|_| refused())?;
                let checked = tokio::task::spawn_blocking(move || users.check(&name, &password).cloned()).await;
                let Some(user) = checked.ok().flatten() else {
                    self.shared.brake.failed(address, self.shared.now());
                    return Err(refused());
                };
                (user.caller(own), user.home, user.read_only)
            }
        };
        let tree = async {
            let home = path::parse(&[], home.as_bytes())?;
            Tree::open(Arc::clone(&self.shared.vfs), caller, &home, read_only, options).await
        };
        match tree.await {
            Ok(tree) => Ok(Login { user: name.to_owned(), tree: Arc::new(tree) }),
            Err(error) => {
                tracing::error!(
                    user = name,
                    home,
                    error = format!("{error:#}"),
                    "the home of an FTP user is not there"
                );
                Err(Reply::new(530, "Your home directory is not available."))
            }
        }
    }

    // ---- TLS

    async fn auth(&mut self, command: &Command) -> io::Result<Flow> {
        let kind = command.text().unwrap_or_default().to_ascii_uppercase();
        let refused = match (&self.shared.tls, kind.as_str()) {
            (None, _) => Reply::new(502, "This server has no certificate."),
            (Some(_), _) if self.protection.control => Reply::new(503, "The connection is protected."),
            (Some(config), "TLS" | "TLS-C" | "SSL") => {
                let config = Arc::clone(config);
                self.say(&Reply::new(234, "Begin the handshake.")).await?;
                self.lines.clear();
                self.queue.clear();
                self.wire = std::mem::replace(&mut self.wire, Wire::Closed).secure(config).await?;
                self.protection.control = true;
                // Who was named in clear is nobody now.
                (self.name, self.login) = (None, None);
                return Ok(Flow::Next);
            }
            _ => Reply::new(504, "Only AUTH TLS."),
        };
        self.say(&refused).await?;
        Ok(Flow::Next)
    }

    fn protection_size(&mut self) -> Reply {
        if !self.protection.control {
            return Reply::new(503, "AUTH TLS comes first.");
        }
        self.protection.sized = true;
        Reply::new(200, "PBSZ=0")
    }

    fn protection(&mut self, command: &Command) -> Reply {
        if !self.protection.control || !self.protection.sized {
            return Reply::new(503, "AUTH TLS and PBSZ come first.");
        }
        match command.text().unwrap_or_default().to_ascii_uppercase().as_str() {
            "P" => self.protection.data = true,
            "C" if self.shared.options.tls_required => return Reply::new(534, "This server wants data under TLS."),
            "C" => self.protection.data = false,
            "S" | "E" => return Reply::new(536, "Only PROT C and PROT P."),
            _ => return Reply::new(504, "Only PROT C and PROT P."),
        }
        Reply::new(200, "As you wish.")
    }

    fn features(&self) -> Reply {
        let mut features = vec![
            "EPRT",
            "EPSV",
            "MDTM",
            "MFMT",
            "MLST type*;size*;modify*;perm*;unique*;unix.mode*;unix.uid*;unix.gid*;",
            "REST STREAM",
            "SITE CHMOD",
            "SITE CID",
            "SIZE",
            "TVFS",
            "UTF8",
        ];
        if self.shared.tls.is_some() {
            features.splice(0..0, ["AUTH TLS", "PBSZ", "PROT"]);
        }
        Reply::many(211, "Features:", features.into_iter().map(|feature| feature.as_bytes().to_vec()), "End")
    }

    // ---- transfers

    /// Runs a transfer and answers it, reading the control connection on.
    pub(crate) async fn accompany<F>(&mut self, transfer: F, stop: &CancellationToken) -> io::Result<Flow>
    where
        F: Future<Output = Reply> + Send,
    {
        let mut transfer = pin!(transfer);
        let mut aborted = false;
        let reply = loop {
            tokio::select! {
                biased;
                line = self.lines.next(&mut self.wire, Wire::late), if self.queue.len() < QUEUE_MAX => match line {
                    Ok(Some(Line::Command(command))) if command.verb == "ABOR" => {
                        aborted = true;
                        stop.cancel();
                    }
                    Ok(Some(line)) => self.queue.push_back(line),
                    gone => {
                        // What arrived is put by before the session ends.
                        stop.cancel();
                        drop(transfer.await);
                        return gone.map(|_| Flow::Close);
                    }
                },
                reply = &mut transfer => break reply,
            }
        };
        self.say(&reply).await?;
        if aborted {
            self.say(&Reply::new(226, "Abort done.")).await?;
        }
        Ok(Flow::Next)
    }
}

/// The server's own user and groups.
fn own_caller() -> Caller {
    let groups = rustix::process::getgroups().unwrap_or_default();
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
    }
}

fn options_reply(command: &Command) -> Reply {
    let text = command.text().unwrap_or_default().to_ascii_uppercase();
    match text.split(' ').next().unwrap_or_default() {
        "UTF8" | "UTF-8" => Reply::new(200, "Names are sent as they are."),
        "MLST" => Reply::new(200, "MLST OPTS type;size;modify;perm;unique;unix.mode;unix.uid;unix.gid;"),
        _ => Reply::new(501, "No such option."),
    }
}

fn help() -> Reply {
    let commands = [
        "USER PASS QUIT AUTH PBSZ PROT FEAT OPTS SYST HELP NOOP STAT",
        "CWD CDUP PWD MKD RMD DELE RNFR RNTO",
        "PASV EPSV PORT EPRT TYPE MODE STRU ALLO REST ABOR",
        "RETR STOR STOU APPE LIST NLST MLSD MLST SIZE MDTM MFMT",
        "SITE CID, SITE CHMOD, SITE HELP",
    ];
    Reply::many(214, "Commands:", commands.map(|line| line.as_bytes().to_vec()), "End")
}
