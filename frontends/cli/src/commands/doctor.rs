//! `doctor`: looks at a data directory and its surroundings, and explains what it finds. Changes nothing.
//!
//! What the host tells it asks the host (`host`); what is in the mounts tells the server that owns them, or where none
//! runs the mounts themselves, opened over memory so that not a byte of them changes (`contents`). Each finding says what
//! was looked at, where, how bad it is and what to do. Spec: spec/doctor.md.

mod contents;
mod host;

use std::{path::Path, process::ExitCode};

use futures_util::{TryStreamExt as _, stream, stream::BoxStream};
use muxfs::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub(crate) use self::contents::of_instance;
use crate::{
    config::Config,
    control::Client,
    data_dir::{DataDir, Peek},
    namespace::Namespace as _,
    output::Output,
};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Ok,
    /// It works, and may soon not.
    Warning,
    /// It does not work, or something is lost.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was looked at: `config`, `lock`, `disk`, `tree`, …
    pub(crate) check: String,
    /// Where: a file, an address, a mount.
    pub(crate) place: String,
    pub(crate) found: String,
    /// What to do; nothing where all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &str, place: &(impl ToString + ?Sized), found: impl Into<String>) -> Self {
        let (check, place) = (check.into(), place.to_string());
        Self { level: Level::Ok, check, place, found: found.into(), advice: None }
    }

    pub(crate) fn warning(
        check: &str,
        place: &(impl ToString + ?Sized),
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, advice: Some(advice.into()), ..Self::ok(check, place, found) }
    }

    pub(crate) fn error(
        check: &str,
        place: &(impl ToString + ?Sized),
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Error, advice: Some(advice.into()), ..Self::ok(check, place, found) }
    }
}

/// Where findings go.
#[derive(Debug, Clone)]
pub(crate) struct Findings(mpsc::Sender<Result<Finding>>);

impl Findings {
    /// Tells one; to nobody, where nobody listens any more.
    pub(crate) async fn tell(&self, finding: Finding) {
        self.0.send(Ok(finding)).await.ok();
    }
}

/// What `work` finds, as it finds it.
pub(crate) fn findings<'a, F: Future<Output = ()> + Send + 'a>(
    work: impl FnOnce(Findings) -> F,
) -> BoxStream<'a, Result<Finding>> {
    use futures_util::StreamExt as _;
    let (out, found) = mpsc::channel(16);
    let work = stream::once(work(Findings(out))).filter_map(|()| std::future::ready(None));
    let found = stream::unfold(found, |mut found| async { found.recv().await.map(|item| (item, found)) });
    stream::select(work, found).boxed()
}

/// Looks at everything and prints what it finds; exit code 1 if something is an error.
///
/// # Errors
/// Those of asking a server, and of printing.
pub(crate) async fn doctor(config: Result<Config>, output: Output) -> Result<ExitCode> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let advice = "mend the configuration: muxfs --help and spec/config.md say what it may hold";
            print(output, &Finding::error("config", &error.path().unwrap_or("-"), format!("{error:#}"), advice))?;
            return Ok(ExitCode::from(1));
        }
    };
    let mut worst = Level::Ok;
    let mut found = findings(|out| async move { look(config, &out).await });
    while let Some(finding) = found.try_next().await? {
        worst = worst.max(finding.level);
        print(output, &finding)?;
    }
    Ok(if worst == Level::Error { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn print(output: Output, finding: &Finding) -> Result<()> {
    if output.quiet && finding.level == Level::Ok {
        return Ok(());
    }
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let mut line = format!("{level:8}{:9}{}: {}", finding.check, finding.place, finding.found);
    if let Some(advice) = &finding.advice {
        line.push_str("\n                 -> ");
        line.push_str(advice);
    }
    output.result(line.as_bytes(), finding)
}

async fn look(config: Config, out: &Findings) {
    let mounts: Vec<String> = config.mount.iter().map(|mount| format!("/{}", mount.prefix())).collect();
    out.tell(Finding::ok("config", "-", format!("mounts {}", mounts.join(" ")))).await;
    let peek = DataDir::peek(&config.data);
    let served = matches!(&peek, Ok(Peek::Server(_)));
    host::look(&config, served, out).await;
    let data = config.data.display();
    match peek {
        Ok(Peek::Absent) => {
            let found = "there is no data directory yet: the first command makes it";
            out.tell(Finding::ok("lock", &data, found)).await;
        }
        Ok(Peek::Free(_lease)) => {
            out.tell(Finding::ok("lock", &data, "nobody owns the directory")).await;
            contents::offline(&config, out).await;
        }
        Ok(Peek::Server(holder)) => {
            let found = format!("a server owns the directory (pid {})", holder.pid);
            out.tell(Finding::ok("lock", &data, found)).await;
            if let Err(error) = ask(&holder, out).await {
                let advice = "is the server overloaded, or of another version? See its log, or start it again";
                out.tell(Finding::error("server", &holder.pid, format!("{error:#}"), advice)).await;
            }
        }
        Ok(Peek::Busy(pid)) => {
            let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let found = format!("a command{who} uses the directory: its contents were not looked at");
            out.tell(Finding::warning("lock", &data, found, "run it again when the command has ended")).await;
        }
        Err(error) => {
            let advice = "see that the directory and its lock file belong to the user who runs muxfs";
            out.tell(Finding::error("lock", &data, format!("{error:#}"), advice)).await;
        }
    }
}

/// Passes on what the server finds.
async fn ask(holder: &crate::data_dir::Holder, out: &Findings) -> Result<()> {
    let Some(socket) = &holder.socket else { return Ok(()) };
    let client = Client::connect(socket.clone()).await?;
    let mut found = client.doctor();
    while let Some(finding) = found.try_next().await? {
        out.tell(finding).await;
    }
    Ok(())
}

/// What an error is on, or the place that is known.
fn place_of(error: &Error, known: &Path) -> String {
    error.path().map_or_else(|| known.display().to_string(), Into::into)
}
