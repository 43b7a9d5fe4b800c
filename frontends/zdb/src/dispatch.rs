//! A request to its command, and what came of it to a reply, the metrics, and those who wait.

use std::time::Instant;

use bytes::Bytes;
use muxfs::ErrorKind;

use crate::{
    client::{Cause, Client},
    command::Command,
    commands::{admin, auth, keys, namespaces, scan, server, wait},
    measure::Status,
    refusal::{Done, GONE, Refusal, failed},
};

/// What a connection does next.
#[derive(Debug)]
pub(crate) enum Flow {
    /// The next request.
    Go,
    /// Nothing: it ends when its replies are sent.
    End,
    /// It waits for a command of another client.
    Wait(wait::Wait),
}

/// Runs a request, and puts its reply behind the others.
///
/// # Errors
/// Why the connection is lost.
pub(crate) async fn run(client: &mut Client, request: &[Bytes]) -> Result<Flow, Cause> {
    if client.namespace.is_removed() {
        client.output.error(GONE);
        return Ok(Flow::End);
    }
    let begun = Instant::now();
    let command = request.first().and_then(|name| Command::of(name));
    let (flow, status) = if let Some(command) = command {
        let arguments = request.get(1..).unwrap_or_default();
        let outcome = match command {
            Command::Wait => wait::wait(arguments).map(Flow::Wait),
            Command::Stop => server::stop(client).map(|()| Flow::End),
            command => execute(client, command, arguments).await.map(|()| Flow::Go),
        };
        answered(client, command, outcome)?
    } else {
        client.output.error("Command not supported");
        (Flow::Go, Status::Error)
    };
    client.server.metrics.request(command, status, begun.elapsed());
    if let Some(command) = command {
        client.has_run(command);
    }
    Ok(flow)
}

/// Writes the refusal, if it is one.
fn answered(client: &mut Client, command: Command, outcome: Result<Flow, Refusal>) -> Result<(Flow, Status), Cause> {
    let (text, status) = match outcome {
        Ok(flow) => return Ok((flow, Status::Ok)),
        Err(Refusal::Text(text)) => (text, Status::Error),
        Err(Refusal::Denied) => ("Permission denied", Status::Denied),
        Err(Refusal::Lost(cause)) => return Err(cause),
        Err(Refusal::Failed(error)) => {
            let namespace = client.namespace.name();
            // What a client asks for fills no log.
            if matches!(error.kind(), ErrorKind::Stale | ErrorKind::InvalidArgument) {
                tracing::debug!(namespace, command = command.name(), "a command was refused: {error:#}");
            } else {
                tracing::error!(namespace, command = command.name(), error = format!("{error:#}"), "a command failed");
            }
            (failed(error.kind()), Status::Error)
        }
    };
    client.output.error(text);
    let flow = if text == GONE { Flow::End } else { Flow::Go };
    Ok((flow, status))
}

async fn execute(client: &mut Client, command: Command, arguments: &[Bytes]) -> Done {
    match command {
        Command::Any | Command::Wait | Command::Stop => crate::refusal::refuse("This is not a valid command"),
        Command::Ping => server::ping(client),
        Command::Time => server::time(client),
        Command::Info => server::info(client),
        Command::Auth => auth::auth(client, arguments),
        Command::Select => auth::select(client, arguments),
        Command::Set | Command::Setx => keys::set(client, arguments).await,
        Command::Get => keys::get(client, arguments).await,
        Command::Mget => keys::mget(client, arguments).await,
        Command::Del => keys::del(client, arguments).await,
        Command::Exists => keys::exists(client, arguments).await,
        Command::Check => keys::check(client, arguments).await,
        Command::Length => keys::length(client, arguments).await,
        Command::Keytime => keys::keytime(client, arguments).await,
        Command::Keycur => scan::keycur(client, arguments).await,
        Command::Scan | Command::Scanx => scan::scan(client, arguments).await,
        Command::Rscan => scan::rscan(client, arguments).await,
        Command::Kscan => crate::refusal::refuse("Command disabled in release code, not yet available"),
        Command::History => scan::history(client, arguments).await,
        Command::Dbsize => namespaces::dbsize(client),
        Command::Nsnew => namespaces::nsnew(client, arguments).await,
        Command::Nsdel => namespaces::nsdel(client, arguments).await,
        Command::Nslist => namespaces::nslist(client),
        Command::Nsset => namespaces::nsset(client, arguments).await,
        Command::Nsinfo => namespaces::nsinfo(client, arguments),
        Command::Nsjump => admin::nsjump(client).await,
        Command::Reload => admin::reload(client, arguments).await,
        Command::Flush => admin::flush(client).await,
        Command::Index => admin::index(client, arguments),
        Command::Data => admin::data(client, arguments).await,
        Command::Hooks => admin::hooks(client),
        Command::Mirror | Command::Master => admin::replication(client),
    }
}
