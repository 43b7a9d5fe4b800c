//! The commands for keys.

use std::{ffi::OsString, path::PathBuf};

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Draw a key and write it to a file that is not there yet, for its owner alone
    ///
    /// For put, get and cat with --key-file. Without the key nobody reads what was sealed with it: keep a copy elsewhere.
    #[command(after_help = "Examples:\n  muxfs key new mine.key")]
    New {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Put a new key in the place of that of /zstor, and all that is there under it, while everything is used
    ///
    /// The new key is written to the file of the keys, before those that it takes the place of: copy that file anew, all of
    /// it and at once, for the copy of before opens the store no more. Then
    /// everything is read and written again, in the background, by the server or by this command where none runs; whatever
    /// stops it, the next server goes on. The older key goes from the file when nothing is under it. It has to be in a
    /// file of its own, not in the environment, and all nodes have to be there for the end of it. What was read and written
    /// again takes its room twice until garbage is collected, as `muxfs gc` does.
    #[command(
        after_help = "Where keys are being replaced already it goes on with that. Ctrl-C leaves the server going on.\n\nExamples:\n  muxfs key rotate\n  muxfs key rotate /zstor --no-wait\n  muxfs zstor status                     how far it is"
    )]
    Rotate {
        /// The mount [default: the one of its kind]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
        /// Draw the key, and leave all else to the server, or the next one
        #[arg(long)]
        no_wait: bool,
    },
}
