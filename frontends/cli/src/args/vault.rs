//! The commands of vaults.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    config::{ByteCount, Span},
    vault::password::PasswordFrom,
};

/// What to do with a vault.
#[derive(Debug, Subcommand)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where backticks would show")]
pub(crate) enum Vault {
    /// Make a vault that is empty
    ///
    /// Whatever keeps it sees objects of one length under random names, and learns neither contents nor names, sizes or
    /// structure. Who forgets the password has lost everything in it: nobody can bring it back.
    #[command(after_help = CREATE)]
    Create(VaultCreate),
    /// Mount a vault on a directory of this machine until it is taken away, by muxfs umount, Ctrl-C or SIGTERM
    ///
    /// No other process can have it open meanwhile. At the end everything is committed, and the keys go with the process.
    #[command(after_help = OPEN)]
    Open(VaultOpen),
    /// Put another password in the place of that of a vault: nothing but its header is written anew
    ///
    /// Who has the older password, and a copy of the header of before, still opens what was there then.
    #[command(after_help = PASSWD)]
    Passwd(VaultPasswd),
    /// Put another master key in the place of that of a vault, and everything in it under that
    ///
    /// Whoever knows the older one, and not the password, can read nothing any more of what is there when it is done. Where
    /// somebody knew the password, too, change that first. Every pack is written again; what was interrupted goes on when it
    /// is called again. Journal and pins, which are on the machine that has the vault open, come under other keys, too.
    #[command(
        after_help = "Examples:\n  muxfs vault passwd /srv/vault && muxfs vault rekey /srv/vault\n  muxfs vault rekey --password-file v.password /v"
    )]
    Rekey(VaultPlaceArgs),
    /// Tell what a vault is, and how much is in it
    #[command(
        after_help = "Examples:\n  muxfs vault info /srv/vault\n  muxfs vault info --sealed /srv/vault     what anybody sees, without the password\n  muxfs --json vault info /v"
    )]
    Info {
        #[command(flatten)]
        place: VaultPlaceArgs,
        /// Tell only what can be seen without the password
        #[arg(long)]
        sealed: bool,
    },
    /// Read everything in a vault, and hold each byte against its tag
    #[command(
        after_help = "Exit code 4 where something is damaged or lost.\n\nExamples:\n  muxfs vault check /srv/vault\n  muxfs --json vault check --password-file v.password sqlite:/srv/vault.sqlite"
    )]
    Check(VaultPlaceArgs),
    /// Copy all files of the newest commit of a vault to a directory of this machine
    #[command(after_help = "Examples:\n  muxfs vault export /srv/vault /tmp/all-of-it\n  muxfs vault export /v backup")]
    Export {
        #[command(flatten)]
        place: VaultPlaceArgs,
        /// Where to; must not be there
        #[arg(value_name = "DEST")]
        dest: PathBuf,
    },
    /// Delete a vault, with all that it ever put into its store; what else is there stays
    #[command(
        after_help = "Examples:\n  muxfs vault destroy /srv/vault\n  muxfs vault destroy --yes --password-file v.password /srv/vault"
    )]
    Destroy {
        #[command(flatten)]
        place: VaultPlaceArgs,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

const CREATE: &str = "\
<VAULT> is a mount of kind vault of the configuration, as /v, or a place: a directory, as /srv/vault or dir:///srv/vault, which
is made where it is absent and else has to be empty; or an SQLite file, as sqlite:/srv/vault.sqlite.

Examples:
  muxfs vault create /srv/vault                                       asks for the password, twice
  muxfs vault create --password-file v.password sqlite:/srv/vault.sqlite
  muxfs vault create --pack-size 64KiB --cipher xchacha20-poly1305 /media/stick/vault
  muxfs key new v.key && muxfs vault create --key-file v.key /v       the key instead of a password
  pass show vault | muxfs --password-fd 0 vault create /srv/vault
  muxfs vault create --password-command 'secret-tool lookup vault private' /srv/vault     from the keyring of the desktop";

const OPEN: &str = "\
Examples:
  muxfs vault open /srv/vault ~/private
  muxfs vault open --lock-after 15m /srv/vault ~/private &
  muxfs vault open -o ro --password-file v.password sqlite:/srv/vault.sqlite /mnt/x
  muxfs umount ~/private";

const PASSWD: &str = "\
Examples:
  muxfs vault passwd /srv/vault
  muxfs vault passwd --password-file old --new-password-file new /srv/vault";

/// Which vault, and its password.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where backticks would show")]
pub(crate) struct VaultPlaceArgs {
    /// A mount of the configuration, as /v, or a place, as /srv/vault or sqlite:/srv/vault.sqlite
    #[arg(value_name = "VAULT")]
    pub(crate) vault: OsString,
    /// A file with the password in its first line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key_file", "password_env", "password_command"])]
    pub(crate) password_file: Option<PathBuf>,
    /// A file that is the password, all of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_env", "password_command"])]
    pub(crate) key_file: Option<PathBuf>,
    /// A variable of the environment that has the password
    #[arg(long, value_name = "NAME", conflicts_with = "password_command")]
    pub(crate) password_env: Option<String>,
    /// What the shell is to run that prints the password in its first line, as what asks the keyring of the system
    #[arg(long, value_name = "COMMAND")]
    pub(crate) password_command: Option<String>,
}

impl VaultPlaceArgs {
    /// Whether they say where the password comes from.
    pub(crate) fn has_password(&self) -> bool {
        self.password_file.is_some()
            || self.key_file.is_some()
            || self.password_env.is_some()
            || self.password_command.is_some()
    }
}

/// How a vault is made.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where backticks would show")]
pub(crate) struct VaultCreate {
    #[command(flatten)]
    pub(crate) place: VaultPlaceArgs,
    /// How everything is encrypted: AES where the processor has it in hardware, else XChaCha20
    #[arg(long, value_enum, value_name = "CIPHER", default_value = "aes-256-gcm")]
    pub(crate) cipher: VaultCipher,
    /// How it is compressed
    #[arg(long, value_enum, value_name = "HOW", default_value = "zstd")]
    pub(crate) compression: VaultCompression,
    /// How long every object is: a power of two, 64KiB to 4MiB; a vault has four of them at least, each commit writes one at
    /// least, and one for many gigabytes wants long ones
    #[arg(long, value_name = "BYTES", default_value = "4MiB")]
    pub(crate) pack_size: ByteCount,
    /// How long it is to take on this machine to try a password, never less than 64 MiB of memory cost
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) unlock_time: Span,
}

/// How a vault is mounted.
#[derive(Debug, Args)]
pub(crate) struct VaultOpen {
    #[command(flatten)]
    pub(crate) place: VaultPlaceArgs,
    /// The directory of this machine to mount it on
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// End when nothing has asked anything of it for so long, as 15m
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    pub(crate) lock_after: Option<Span>,
    /// Words between commas, as of muxfs mount
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
}

/// Which password is to take the place of another.
#[derive(Debug, Args)]
pub(crate) struct VaultPasswd {
    #[command(flatten)]
    pub(crate) place: VaultPlaceArgs,
    /// A file with the new password in its first line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_key_file", "new_password_env", "new_password_command"])]
    pub(crate) new_password_file: Option<PathBuf>,
    /// A file that is the new password, all of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_env", "new_password_command"])]
    pub(crate) new_key_file: Option<PathBuf>,
    /// A variable of the environment that has the new password
    #[arg(long, value_name = "NAME", conflicts_with = "new_password_command")]
    pub(crate) new_password_env: Option<String>,
    /// What the shell is to run that prints the new password in its first line
    #[arg(long, value_name = "COMMAND")]
    pub(crate) new_password_command: Option<String>,
    /// The open file descriptor whose first line is the new password
    #[arg(long, value_name = "N")]
    pub(crate) new_password_fd: Option<u32>,
    /// How long it is to take on this machine to try it
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) unlock_time: Span,
}

impl VaultPasswd {
    /// Where the new password comes from.
    pub(crate) fn new_password(&self) -> PasswordFrom {
        PasswordFrom {
            file: self.new_password_file.clone(),
            key_file: self.new_key_file.clone(),
            env: self.new_password_env.clone(),
            command: self.new_password_command.clone(),
            descriptor: self.new_password_fd,
        }
    }
}

/// How a vault is encrypted.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum VaultCipher {
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    #[value(name = "xchacha20-poly1305")]
    XChaCha20Poly1305,
}

impl From<VaultCipher> for muxfs_vault::Cipher {
    fn from(cipher: VaultCipher) -> Self {
        match cipher {
            VaultCipher::Aes256Gcm => Self::Aes256Gcm,
            VaultCipher::XChaCha20Poly1305 => Self::XChaCha20Poly1305,
        }
    }
}

/// How a vault is compressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum VaultCompression {
    None,
    Lz4,
    Zstd,
}

impl From<VaultCompression> for muxfs_vault::Compression {
    fn from(compression: VaultCompression) -> Self {
        match compression {
            VaultCompression::None => Self::None,
            VaultCompression::Lz4 => Self::Lz4,
            VaultCompression::Zstd => Self::Zstd,
        }
    }
}

/// A length of time that is not zero.
fn some_time(text: &str) -> Result<Span, String> {
    match text.parse()? {
        Span(Duration::ZERO) => Err("it would be locked at once: leave it out to keep it open".into()),
        some => Ok(some),
    }
}
