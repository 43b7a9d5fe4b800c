//! The commands of one who is logged in.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Cookie, RemoveKind, posix::Access},
};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::{
    line::Command,
    listing::{self, Entry, Form},
    path,
    reply::{RESTART_OP, Reply},
    session::{Flow, Login, Pulse, Session, Shared},
    time,
    transfer::{self, Data, Failure, Listed},
    tree::{Last, Node},
    upload::{Start, Upload, Uploader, hex},
    wire::{Endpoint, parse_extended_port, parse_port},
};

/// The lowest port that an active data connection goes to: below are other services (RFC 2577 3).
const ACTIVE_PORT_MIN: u16 = 1024;

/// What a transfer command is about to do.
enum Plan {
    Send { file: Node, offset: u64 },
    Receive(Box<Upload>),
    List(Listed),
}

impl Session {
    /// Obeys a command of a user.
    pub(crate) async fn command(&mut self, login: &Login, command: &Command) -> io::Result<Flow> {
        let verb = command.verb.as_str();
        if verb != "RNTO" {
            self.rename_from = None;
        }
        if let "RETR" | "STOR" | "STOU" | "APPE" | "LIST" | "NLST" | "MLSD" = verb {
            return self.transfer(login, command).await;
        }
        let restart = std::mem::take(&mut self.restart);
        let done = match verb {
            // Between REST and its transfer there may be what makes the connection.
            "PASV" | "EPSV" | "PORT" | "EPRT" | "TYPE" | "MODE" | "STRU" | "ALLO" => {
                self.restart = restart;
                Ok(match verb {
                    "PASV" => self.passive(),
                    "EPSV" => self.extended_passive(command),
                    "PORT" => self.active(command.text().and_then(parse_port)),
                    "EPRT" => self.active(command.text().and_then(parse_extended_port)),
                    "TYPE" => type_reply(command),
                    "MODE" => only(command, "S", "Only stream mode."),
                    "STRU" => only(command, "F", "Only file structure."),
                    _ => Reply::new(202, "Not needed here."),
                })
            }
            "REST" => Ok(self.rest(command)),
            "CWD" | "XCWD" => self.change_dir(login, &command.arg).await,
            "CDUP" | "XCUP" => self.change_dir(login, b"..").await,
            "PWD" | "XPWD" => Ok(Reply::path(&path::show(&self.cwd), "is where you are.")),
            "MKD" | "XMKD" => self.make_dir(login, &command.arg).await,
            "RMD" | "XRMD" => self.remove_dir(login, &command.arg).await,
            "DELE" => self.delete(login, &command.arg).await,
            "RNFR" => self.rename_from(login, &command.arg).await,
            "RNTO" => self.rename_to(login, &command.arg).await,
            "SIZE" => self.size(login, &command.arg).await,
            "MDTM" => self.modified(login, &command.arg).await,
            "MFMT" => self.set_modified(login, command).await,
            "MLST" => self.facts(login, &command.arg).await,
            "SITE" => self.site(login, command).await,
            "STAT" => Ok(self.status(login, command)),
            "ACCT" | "REIN" | "SMNT" => Ok(Reply::new(502, "Not here.")),
            _ => Ok(Reply::new(500, "No such command.")),
        };
        self.say(&done.unwrap_or_else(Reply::from)).await?;
        Ok(Flow::Next)
    }

    fn uploader<'a>(&self, login: &'a Login) -> Uploader<'a> {
        uploader(&self.shared, login)
    }

    // ---- data connections

    fn passive(&mut self) -> Reply {
        if self.extended_only {
            return Reply::new(503, "You said EPSV ALL.");
        }
        let SocketAddr::V4(local) = self.local else { return Reply::new(522, "Use EPSV over IPv6.") };
        match self.listen() {
            Ok(port) => {
                let [a, b, c, d] = self.shared.options.passive_host.unwrap_or(*local.ip()).octets();
                let [high, low] = port.to_be_bytes();
                Reply::new(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})."))
            }
            Err(reply) => reply,
        }
    }

    fn extended_passive(&mut self, command: &Command) -> Reply {
        let family = if self.local.is_ipv4() { "1" } else { "2" };
        match command.text().unwrap_or_default().to_ascii_uppercase().as_str() {
            "ALL" => {
                self.extended_only = true;
                return Reply::new(200, "Only EPSV from now on.");
            }
            "" => {}
            asked if asked == family => {}
            _ => return Reply::new(522, format!("Only ({family}).")),
        }
        match self.listen() {
            Ok(port) => Reply::new(229, format!("Entering Extended Passive Mode (|||{port}|).")),
            Err(reply) => reply,
        }
    }

    fn listen(&mut self) -> std::result::Result<u16, Reply> {
        let mut random = [0; 2];
        (self.shared.options.env.fill)(&mut random);
        let ports = &self.shared.options.passive_ports;
        // A listener of an earlier command would keep its port.
        self.endpoint = Endpoint::None;
        let (endpoint, port) =
            Endpoint::listen(self.local.ip(), ports, u16::from_be_bytes(random)).map_err(|error| {
                tracing::warn!(%error, "no passive port");
                Reply::new(425, "No passive port is free: try again.")
            })?;
        self.endpoint = endpoint;
        Ok(port)
    }

    fn active(&mut self, address: Option<SocketAddr>) -> Reply {
        match address {
            _ if self.extended_only => Reply::new(503, "You said EPSV ALL."),
            None => Reply::new(501, "That is no address."),
            Some(address) if address.ip() != self.peer.ip() || address.port() < ACTIVE_PORT_MIN => {
                Reply::new(504, "Data go only to where you are, to a port from 1024 on.")
            }
            Some(address) => {
                self.endpoint = Endpoint::Active(address);
                Reply::new(200, "Will connect there.")
            }
        }
    }

    fn rest(&mut self, command: &Command) -> Reply {
        match command.text().and_then(|text| text.parse().ok()) {
            Some(offset) => {
                self.restart = offset;
                Reply::new(350, format!("The next transfer starts at {offset}."))
            }
            None => Reply::new(501, "Where to restart is a number of bytes."),
        }
    }

    // ---- directories and names

    async fn change_dir(&mut self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let path = path::parse(&self.cwd, arg)?;
        let dir = login.tree.dir(&path).await?;
        if !login.tree.may(&dir.attr, Access::SEARCH) {
            return Err(Error::new(ErrorKind::Denied, "ftp.cwd"));
        }
        self.cwd = path;
        Ok(Reply::new(250, "There."))
    }

    async fn make_dir(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let path = self.named(arg)?;
        login.tree.make_dir(&path).await?;
        Ok(Reply::path(&path::show(&path), "created."))
    }

    async fn remove_dir(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        login.tree.writable()?;
        let path = self.named(arg)?;
        let (dir, name) = login.tree.place(&path, Last::Keep).await?;
        let removed = match login.tree.remove(&dir, &name, RemoveKind::Dir).await {
            Err(full) if full.kind() == ErrorKind::NotEmpty => {
                // A directory that looks empty can be removed: what hides in it are this user's leftovers.
                self.clear_leftovers(login, &dir, &name).await?;
                login.tree.remove(&dir, &name, RemoveKind::Dir).await
            }
            removed => removed,
        };
        removed?;
        Ok(Reply::new(250, "Removed."))
    }

    async fn clear_leftovers(&self, login: &Login, parent: &Node, name: &Name) -> Result<()> {
        let Some(dir) = login.tree.child(parent, name).await? else { return Ok(()) };
        let who = self.uploader(login);
        let not_empty = || Error::new(ErrorKind::NotEmpty, "ftp.rmd");
        let mut leftovers = Vec::new();
        let mut next = Some(Cookie::START);
        while let Some(after) = next {
            let (entries, then) = login.tree.page(&dir, after).await?;
            next = then;
            for (name, node) in entries {
                if !who.is_leftover(&name, &node.attr, true) {
                    return Err(not_empty());
                }
                leftovers.push(name);
            }
        }
        for name in leftovers {
            login.tree.remove(&dir, &name, RemoveKind::NonDir).await?;
        }
        Ok(())
    }

    async fn delete(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        login.tree.writable()?;
        let path = self.named(arg)?;
        let (dir, name) = login.tree.place(&path, Last::Keep).await?;
        let removed = login.tree.remove(&dir, &name, RemoveKind::NonDir).await;
        // With a name goes what was begun for it; alone it can be deleted too.
        let forgotten = self.uploader(login).forget(&dir, &name).await;
        match removed {
            Err(absent) if absent.kind() == ErrorKind::NotFound && forgotten? => {}
            removed => removed?,
        }
        Ok(Reply::new(250, "Deleted."))
    }

    async fn rename_from(&mut self, login: &Login, arg: &[u8]) -> Result<Reply> {
        login.tree.writable()?;
        let path = self.named(arg)?;
        login.tree.node(&path, Last::Keep).await?;
        self.rename_from = Some(path);
        Ok(Reply::new(350, "And the new name?"))
    }

    async fn rename_to(&mut self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let Some(from) = self.rename_from.take() else { return Ok(Reply::new(503, "RNFR comes first.")) };
        login.tree.rename(&from, &self.named(arg)?).await?;
        Ok(Reply::new(250, "Renamed."))
    }

    /// The path of a command that cannot do without one.
    fn named(&self, arg: &[u8]) -> Result<path::Path> {
        if arg.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "ftp.path").because("a path is missing"));
        }
        path::parse(&self.cwd, arg)
    }

    // ---- what is there

    /// The node of a path, or this user's partial for it.
    async fn node_or_partial(&self, login: &Login, path: &[Name], last: Last) -> Result<(Node, Option<Node>)> {
        let found = login.tree.find(path, last).await?;
        let partial = self.uploader(login).partial(&found).await?;
        let node = found.node.or(partial).ok_or_else(|| Error::new(ErrorKind::NotFound, "ftp.path"))?;
        Ok((node, found.name.map(|_| found.dir)))
    }

    async fn size(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let (node, _) = self.node_or_partial(login, &self.named(arg)?, Last::Follow).await?;
        crate::tree::plain_file(&node.attr)?;
        Ok(Reply::new(213, node.attr.size.to_string()))
    }

    async fn modified(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let node = login.tree.node(&self.named(arg)?, Last::Follow).await?;
        Ok(Reply::new(213, time::stamp(node.attr.mtime)))
    }

    async fn set_modified(&self, login: &Login, command: &Command) -> Result<Reply> {
        let mut parts = command.arg.splitn(2, |byte| *byte == b' ');
        let stamp = parts.next().and_then(|stamp| std::str::from_utf8(stamp).ok()).and_then(time::parse_stamp);
        let (Some(stamp), Some(arg)) = (stamp, parts.next()) else {
            return Ok(Reply::new(501, "MFMT takes YYYYMMDDHHMMSS and a path."));
        };
        let path = self.named(arg)?;
        login.tree.set_mtime(&path, stamp).await?;
        let head = format!("Modify={}; ", time::stamp(stamp));
        Ok(Reply::new(213, [head.as_bytes(), &path::show(&path)].concat()))
    }

    async fn facts(&self, login: &Login, arg: &[u8]) -> Result<Reply> {
        let path = path::parse(&self.cwd, arg)?;
        let (node, dir) = self.node_or_partial(login, &path, Last::Keep).await?;
        let target = match node.attr.kind {
            FileKind::Symlink => Some(login.tree.readlink(&node).await?),
            _ => None,
        };
        let shown = path::show(&path);
        let entry = Entry { name: &shown, attr: &node.attr, target: target.as_deref() };
        let facts = listing::facts(&entry, &login.tree, dir.as_ref().map(|dir| &dir.attr));
        Ok(Reply::many(250, "Facts:", [[facts.as_slice(), b" ", &shown].concat()], "End"))
    }

    fn status(&self, login: &Login, command: &Command) -> Reply {
        if !command.arg.is_empty() {
            return Reply::new(504, "STAT takes no path here: use LIST.");
        }
        let lines = [
            [b"User ", login.user.as_bytes()].concat(),
            [b"Directory ".to_vec(), path::show(&self.cwd)].concat(),
            format!("Data connections {} TLS", if self.protection.data { "under" } else { "without" }).into_bytes(),
        ];
        Reply::many(211, "MuxFS FTP", lines, "End")
    }

    // ---- SITE

    async fn site(&self, login: &Login, command: &Command) -> Result<Reply> {
        let mut parts = command.arg.splitn(2, |byte| *byte == b' ');
        let verb = parts.next().unwrap_or_default().to_ascii_uppercase();
        let rest = parts.next().unwrap_or_default();
        match verb.as_slice() {
            b"CID" => {
                let path = path::parse(&self.cwd, rest)?;
                match login.tree.cid(&path).await? {
                    Some(cid) => Ok(Reply::new(200, cid.to_string())),
                    None => {
                        Ok(Reply::new(550, "No CID is known of that: it is not content-addressed, or not committed."))
                    }
                }
            }
            b"CHMOD" => {
                let mut parts = rest.splitn(2, |byte| *byte == b' ');
                let mode = parts.next().and_then(|mode| std::str::from_utf8(mode).ok());
                let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).filter(|mode| *mode <= 0o7777);
                let (Some(mode), Some(arg)) = (mode, parts.next()) else {
                    return Ok(Reply::new(501, "SITE CHMOD takes an octal mode and a path."));
                };
                login.tree.set_mode(&self.named(arg)?, mode).await?;
                Ok(Reply::new(200, "Mode set."))
            }
            b"HELP" => {
                let lines = ["CID path: the CID of what is there", "CHMOD mode path: octal permission bits"];
                Ok(Reply::many(214, "SITE commands:", lines.map(|line| line.as_bytes().to_vec()), "End"))
            }
            _ => Ok(Reply::new(504, "No such SITE command: SITE HELP lists them.")),
        }
    }

    // ---- transfers

    async fn transfer(&mut self, login: &Login, command: &Command) -> io::Result<Flow> {
        let restart = std::mem::take(&mut self.restart);
        let endpoint = std::mem::take(&mut self.endpoint);
        let (plan, opening) = match self.plan(login, command, restart, &endpoint).await {
            Ok(planned) => planned,
            Err(reply) => {
                self.say(&reply).await?;
                return Ok(Flow::Next);
            }
        };
        self.say(&opening).await?;
        let stop = CancellationToken::new();
        let tls = if self.protection.data { self.shared.tls.clone() } else { None };
        let run = Run {
            shared: Arc::clone(&self.shared),
            pulse: Arc::clone(&self.pulse),
            login: login.clone(),
            endpoint,
            peer: self.peer,
            tls,
            stop: stop.clone(),
        };
        self.accompany(Box::pin(run.go(plan)), &stop).await
    }

    async fn plan(
        &self,
        login: &Login,
        command: &Command,
        restart: u64,
        endpoint: &Endpoint,
    ) -> std::result::Result<(Plan, Reply), Reply> {
        if matches!(endpoint, Endpoint::None) {
            return Err(Reply::new(425, "Say how to connect first: PASV, EPSV, PORT or EPRT."));
        }
        if self.shared.options.tls_required && !self.protection.data {
            return Err(Reply::new(521, "This server wants data under TLS: PROT P."));
        }
        let opening = Reply::new(150, "Data connection opens.");
        let who = self.uploader(login);
        match command.verb.as_str() {
            "RETR" => {
                let file = login.tree.file(&self.named(&command.arg)?).await?;
                if restart > file.attr.size {
                    return Err(Error::new(ErrorKind::InvalidArgument, RESTART_OP)
                        .because("it starts past the end")
                        .into());
                }
                let opening = Reply::new(150, format!("{} bytes follow.", file.attr.size - restart));
                Ok((Plan::Send { file, offset: restart }, opening))
            }
            "STOR" | "APPE" => {
                let start = if command.verb == "APPE" { Start::End } else { Start::At(restart) };
                let upload = who.begin(&self.shared.slots, &self.named(&command.arg)?, start).await?;
                Ok((Plan::Receive(Box::new(upload)), opening))
            }
            "STOU" => {
                let mut random = [0; 16];
                (self.shared.options.env.fill)(&mut random);
                let name = hex(&random);
                let path = path::parse(&self.cwd, name.as_bytes())?;
                let upload = who.begin(&self.shared.slots, &path, Start::At(0)).await?;
                // RFC 1123 4.1.2.9: the name is told here and in this form.
                Ok((Plan::Receive(Box::new(upload)), Reply::new(150, format!("FILE: {name}"))))
            }
            _ => {
                let (form, arg) = form_of(command);
                let path = path::parse(&self.cwd, arg)?;
                let node = login.tree.node(&path, Last::Follow).await?;
                if node.attr.kind != FileKind::Dir && form == Form::Facts {
                    return Err(Reply::new(501, "MLSD lists directories: MLST tells of a file."));
                }
                if node.attr.kind == FileKind::Dir && !login.tree.may(&node.attr, Access::READ) {
                    return Err(Error::new(ErrorKind::Denied, "ftp.list").into());
                }
                let hide_dot_files = self.shared.options.hide_dot_files;
                Ok((Plan::List(Listed { node, name: arg.to_vec(), form, hide_dot_files }), opening))
            }
        }
    }
}

fn uploader<'a>(shared: &Shared, login: &'a Login) -> Uploader<'a> {
    Uploader { tree: &login.tree, user: &login.user, now: shared.now(), lifetime: shared.options.partial_lifetime }
}

/// What a listing command wants, and of what. Options of `ls` before the path are taken and only `a` is meant.
fn form_of(command: &Command) -> (Form, &[u8]) {
    let mut arg = command.arg.as_slice();
    let mut all = false;
    if command.verb != "MLSD" {
        while let Some(options) = arg.strip_prefix(b"-") {
            let end = options.iter().position(|byte| *byte == b' ');
            let (word, rest) = options.split_at(end.unwrap_or(options.len()));
            all |= word.contains(&b'a');
            arg = rest.strip_prefix(b" ").unwrap_or(rest);
            if word == b"-" {
                break;
            }
        }
    }
    let form = match command.verb.as_str() {
        "LIST" => Form::Long { all },
        "NLST" => Form::Names,
        _ => Form::Facts,
    };
    (form, arg)
}

fn type_reply(command: &Command) -> Reply {
    match command.text().unwrap_or_default().to_ascii_uppercase().as_str() {
        "A" | "A N" | "I" | "L 8" => Reply::new(200, "Bytes are sent as they are."),
        _ => Reply::new(504, "Only TYPE A and TYPE I."),
    }
}

fn only(command: &Command, word: &str, why: &'static str) -> Reply {
    if command.text().is_some_and(|text| text.eq_ignore_ascii_case(word)) {
        Reply::new(200, "As ever.")
    } else {
        Reply::new(504, why)
    }
}

/// All that a transfer needs, apart from the session that goes on reading beside it.
struct Run {
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    login: Login,
    endpoint: Endpoint,
    peer: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
}

impl Run {
    async fn go(self, plan: Plan) -> Reply {
        let verb = match &plan {
            Plan::Send { .. } => "retr",
            Plan::Receive(_) => "stor",
            Plan::List(_) => "list",
        };
        let began = Instant::now();
        let result = self.run(plan).await;
        metrics::histogram!("muxfs_ftp_transfer_seconds", "verb" => verb).record(began.elapsed());
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        metrics::counter!("muxfs_ftp_transfers_total", "verb" => verb, "result" => outcome).increment(1);
        match result {
            Ok(count) => {
                let direction =
                    if verb == "stor" { "muxfs_ftp_received_bytes_total" } else { "muxfs_ftp_sent_bytes_total" };
                metrics::counter!(direction).increment(count);
                Reply::new(226, "Done.")
            }
            Err(reply) => reply,
        }
    }

    async fn run(self, plan: Plan) -> std::result::Result<u64, Reply> {
        let Self { shared, pulse, login, endpoint, peer, tls, stop } = self;
        let opened = tokio::select! {
            opened = endpoint.open(peer.ip(), tls) => opened
                .map_err(|error| Reply::new(425, format!("The data connection did not come about ({}).", error.kind()))),
            // ABOR may overtake the data connection that the client has opened already: it is answered alike.
            () = stop.cancelled() => Err(Failure::Aborted.into()),
        };
        let wire = match opened {
            Ok(wire) => wire,
            Err(reply) => {
                if let Plan::Receive(upload) = plan {
                    upload.abandon().await;
                }
                return Err(reply);
            }
        };
        let mut data = Data { wire, stop, superseded: CancellationToken::new(), stall: shared.options.idle_timeout };
        match plan {
            Plan::Send { file, offset } => Ok(transfer::send_file(&login.tree, &file, offset, &mut data).await?),
            Plan::List(listed) => {
                let who = uploader(&shared, &login);
                Ok(transfer::send_listing(&who, &listed, &mut data).await?)
            }
            Plan::Receive(upload) => Ok(receive(upload, &mut data, &pulse).await?),
        }
    }
}

/// Receives an upload and ends it: whole, durable and under its name, or put by.
async fn receive(mut upload: Box<Upload>, data: &mut Data, pulse: &Pulse) -> std::result::Result<u64, Failure> {
    data.superseded = upload.slot.superseded.clone();
    let finish = async {
        let count = transfer::receive_file(&mut upload, data).await?;
        upload.settle().await?;
        // The last moment to see that nobody is there any more: from here on the file is whole and durable.
        tokio::task::yield_now().await;
        if data.is_stopped() || !pulse.beats() {
            return Err(Failure::Aborted);
        }
        upload.appear().await?;
        Ok(count)
    };
    let result = finish.await;
    if result.is_err() {
        upload.abandon().await;
    }
    result
}
