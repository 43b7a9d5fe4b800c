//! Where the password of a vault comes from: a file, the environment, a program, a file descriptor, or whoever sits at the terminal.
//!
//! A program is how the keyring of a system is asked, each by its own: `secret-tool lookup`, `security find-generic-password -w`, `pass`.
//! On a terminal nothing is shown while it is typed, also where the command is interrupted meanwhile.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use muxfs::{Error, ErrorKind, Result};
use muxfs_vault::Password;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::{commands::put::host, host_file::read_password_file};

const OP: &str = "vault.password";
/// The longest line that is read, and one byte more than the longest password.
const LINE_LEN_MAX: usize = (64 << 10) + 1;
/// The most that a command prints.
const PRINTED_LEN_MAX: usize = 64 << 10;

/// Where to take a password from; the terminal where nothing is said.
#[derive(Debug, Clone, Default)]
pub(crate) struct PasswordFrom {
    /// The first line of a file that only its owner may read.
    pub(crate) file: Option<PathBuf>,
    /// All of such a file.
    pub(crate) key_file: Option<PathBuf>,
    /// A variable of the environment.
    pub(crate) env: Option<String>,
    /// The first line of what the shell prints that runs it.
    pub(crate) command: Option<String>,
    /// The first line of what a descriptor gives.
    pub(crate) descriptor: Option<u32>,
}

impl PasswordFrom {
    /// The password that was chosen before.
    ///
    /// # Errors
    /// `Denied` for a file that others may read; `BadKey` where there is nobody to ask; `InvalidArgument` for an empty one.
    pub(crate) async fn known(&self, what: &str) -> Result<Password> {
        match self.told().await? {
            Some(password) => Ok(password),
            None => Password::new(asked(&format!("Password of {what}: ")).await?.to_vec()),
        }
    }

    /// A new password, which is typed twice.
    ///
    /// # Errors
    /// As [`known`](Self::known), and `InvalidArgument` where it was typed in two ways.
    pub(crate) async fn new_one(&self, what: &str) -> Result<Password> {
        if let Some(password) = self.told().await? {
            return Ok(password);
        }
        let first = asked(&format!("New password of {what}: ")).await?;
        let second = asked("The same again: ").await?;
        if first != second {
            return Err(
                Error::new(ErrorKind::InvalidArgument, OP).because("the two are not the same: nothing was done")
            );
        }
        Password::new(first.to_vec())
    }

    async fn told(&self) -> Result<Option<Password>> {
        let bytes = if let Some(file) = &self.file {
            first_line(file, OP)?
        } else if let Some(file) = &self.key_file {
            read_password_file(file, OP, |error| host(file, error))?
        } else if let Some(name) = &self.env {
            let value = std::env::var_os(name).ok_or_else(|| {
                let why = "the environment has no such variable, which is to have the password of the vault";
                Error::new(ErrorKind::BadKey, OP).at(name).because(why)
            })?;
            Zeroizing::new(value.into_vec())
        } else if let Some(command) = &self.command {
            printed(command).await?
        } else if let Some(descriptor) = self.descriptor {
            let at = PathBuf::from(format!("/dev/fd/{descriptor}"));
            line_of(File::open(&at).map_err(|error| host(&at, error))?, &at)?
        } else {
            return Ok(None);
        };
        Password::new(bytes.to_vec()).map(Some)
    }
}

/// The first line of a file that has a password, without its end.
///
/// # Errors
/// `Denied` where others than its owner may read it.
fn first_line(file: &Path, op: &'static str) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = read_password_file(file, op, |error| host(file, error))?;
    cut_line(&mut bytes);
    Ok(bytes)
}

/// Leaves the first line, without its end.
fn cut_line(bytes: &mut Vec<u8>) {
    let len = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    bytes.truncate(len);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
}

fn line_of(mut file: File, at: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut read = Bounded::new(LINE_LEN_MAX);
    while !read.has_line() {
        match file.read(read.free()) {
            Ok(0) => break,
            Ok(len) => read.len += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(host(at, error)),
        }
    }
    let mut line = read.into_bytes();
    cut_line(&mut line);
    Ok(line)
}

/// What is read of something that may be endless, in one place from the beginning: a vector that grows leaves copies behind.
struct Bounded {
    bytes: Zeroizing<Vec<u8>>,
    len: usize,
}

impl Bounded {
    fn new(len_max: usize) -> Self {
        Self { bytes: Zeroizing::new(vec![0; len_max]), len: 0 }
    }

    /// Where more goes; nowhere if it is full.
    fn free(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    fn has_line(&self) -> bool {
        self.bytes.iter().take(self.len).any(|byte| *byte == b'\n')
    }

    fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        let Self { mut bytes, len } = self;
        bytes.truncate(len);
        bytes
    }
}

/// The first line of what a command of the shell prints. It gets no input, which may be what is to be stored: what asks for something
/// asks the terminal.
async fn printed(command: &str) -> Result<Zeroizing<Vec<u8>>> {
    // It may have a secret in it, and is not told.
    let failed = |why: String| Error::new(ErrorKind::BadKey, OP).because(format!("the password command: {why}"));
    let unread = |error: io::Error| failed(format!("what it prints cannot be read: {error}"));
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut shell = shell.spawn().map_err(|error| failed(format!("it cannot be run: {error}")))?;
    let mut stdout = shell.stdout.take().ok_or_else(|| unread(io::ErrorKind::BrokenPipe.into()))?;
    let mut read = Bounded::new(PRINTED_LEN_MAX + 1);
    loop {
        match stdout.read(read.free()).await.map_err(unread)? {
            0 => break,
            len => read.len += len,
        }
    }
    // Whoever prints endlessly is not waited for.
    if read.len > PRINTED_LEN_MAX {
        let why = format!(
            "it prints more than {} KiB: it is to print the password of the vault alone",
            PRINTED_LEN_MAX >> 10
        );
        return Err(failed(why));
    }
    let status = shell.wait().await.map_err(unread)?;
    if !status.success() {
        return Err(failed(format!("it is to print the password of the vault, and failed: {status}")));
    }
    let mut line = read.into_bytes();
    cut_line(&mut line);
    if line.is_empty() {
        return Err(failed("it is to print the password of the vault, and its first line is empty".to_owned()));
    }
    Ok(line)
}

/// Asks whoever sits at the terminal.
async fn asked(prompt: &str) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: io::Error| Error::new(ErrorKind::Io, OP).at("/dev/tty").because(error);
    let Ok(tty) = fs::File::options().read(true).write(true).open("/dev/tty") else {
        let why = "there is no terminal to ask for the password of the vault: name it with --password-file, --key-file, --password-env, \
                   --password-command or --password-fd, or in the configuration with password_file, key_file, password_env or \
                   password_command";
        return Err(Error::new(ErrorKind::BadKey, OP).because(why));
    };
    let reading = tty.try_clone().map_err(failed)?;
    let hidden = Hidden::begin(tty).map_err(failed)?;
    (&hidden.tty).write_all(prompt.as_bytes()).map_err(failed)?;
    let typed = tokio::task::spawn_blocking(move || typed(reading)).await;
    (&hidden.tty).write_all(b"\n").map_err(failed)?;
    drop(hidden);
    let typed = typed.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?.map_err(failed)?;
    typed.ok_or_else(|| Error::new(ErrorKind::BadKey, OP).because("no password was given"))
}

/// A line as it is typed; `None` where whoever types gives up.
fn typed(mut tty: impl io::Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const KILL: u8 = 21;
    const DELETE: u8 = 127;
    // Whole, so that nothing is copied while it grows.
    let mut line = Zeroizing::new(Vec::with_capacity(4096));
    let mut byte = [0];
    // One at a time, as they are typed.
    while tty.read(&mut byte)? == 1 {
        match byte[0] {
            b'\n' | b'\r' => return Ok(Some(line)),
            INTERRUPT => return Ok(None),
            END if line.is_empty() => return Ok(None),
            BACKSPACE | DELETE => {
                // The last character, however many bytes it has.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            KILL => line.clear(),
            byte => line.push(byte),
        }
    }
    Ok((!line.is_empty()).then_some(line))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden {
    tty: File,
    before: Termios,
}

impl Hidden {
    fn begin(tty: File) -> io::Result<Self> {
        let before = tcgetattr(&tty)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.tty, OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "the terminal may not show what is typed: stty sane");
        }
    }
}

/// Lets nothing of this process be written to a disk when it crashes, nor be read by other processes of its user.
///
/// What cannot be had is told: the vault is opened in any case.
pub(crate) fn forbid_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may write the keys of the vault into a core file");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user may read the keys of the vault");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_line_is_typed_and_mended() {
        let line = |keys: &[u8]| typed(keys).expect("read").map(|line| line.to_vec());
        assert_eq!(line(b"secret\nmore").as_deref(), Some(&b"secret"[..]));
        assert_eq!(line(b"secrex\x7ft\r").as_deref(), Some(&b"secret"[..]));
        assert_eq!(line("ä\x7fb\n".as_bytes()).as_deref(), Some(&b"b"[..]), "a character is one");
        assert_eq!(line(b"wrong\x15right\n").as_deref(), Some(&b"right"[..]));
        assert_eq!(line(b"secret\x03\n"), None);
        assert_eq!(line(b"\x04"), None);
        assert_eq!(line(b""), None);
    }

    #[tokio::test]
    async fn a_command_prints_it_or_is_named() {
        assert_eq!(*printed("echo correct horse; echo battery").await.expect("printed"), b"correct horse");
        for (command, why) in [
            ("exit 3", "exit status: 3"),
            ("true", "is empty"),
            ("echo secret; false", "exit status: 1"),
            ("yes secret", "more than 64 KiB"),
            ("head -c 65537 /dev/zero | tr '\\0' x", "more than 64 KiB"),
        ] {
            let error = printed(command).await.expect_err("there is none");
            let text = format!("{error:#}");
            assert!(error.kind() == ErrorKind::BadKey && text.contains(why) && !text.contains("secret"), "{text}");
        }
        let longest = printed("head -c 65536 /dev/zero | tr '\\0' x").await.expect("printed");
        assert!(longest.len() == PRINTED_LEN_MAX && longest.iter().all(|byte| *byte == b'x'));
        assert_eq!(*printed("cat; echo password").await.expect("printed"), b"password", "it gets no input");
        let from = PasswordFrom { command: Some("echo x".into()), ..PasswordFrom::default() };
        assert!(from.told().await.expect("printed").is_some());
    }

    #[tokio::test]
    async fn a_password_is_the_first_line_of_a_file_and_a_key_all_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        fs::write(&file, "correct horse\r\nbattery\n").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(*first_line(&file, OP).expect("read"), b"correct horse");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        assert_eq!(first_line(&file, OP).expect_err("others read it").kind(), ErrorKind::Denied);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        let from = PasswordFrom { key_file: Some(file.clone()), ..PasswordFrom::default() };
        assert!(from.told().await.expect("read").is_some());
        assert!(PasswordFrom::default().told().await.expect("nothing to read").is_none(), "somebody is asked");

        let line = |text: &[u8]| {
            fs::write(&file, text).expect("written");
            line_of(File::open(&file).expect("opened"), &file).expect("read").to_vec()
        };
        assert_eq!(line(b"correct horse\r\nbattery\n"), b"correct horse");
        assert_eq!(line(b"correct horse"), b"correct horse");
        assert_eq!(line("x".repeat(100_000).as_bytes()).len(), LINE_LEN_MAX, "longer than any password");
    }
}
