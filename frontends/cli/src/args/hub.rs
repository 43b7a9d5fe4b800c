//! The commands for a hub of flists.

use clap::Subcommand;

/// What to do with a hub.
#[derive(Debug, Subcommand)]
pub(crate) enum Hub {
    /// Make, list and remove the users of the hub; a server that runs follows at once
    #[command(subcommand)]
    User(HubUser),
}

/// What to do with its users.
#[derive(Debug, Subcommand)]
pub(crate) enum HubUser {
    /// Make a user and print the token, which is shown this once; of one who is there, another token in the place of the old
    ///
    /// The user changes the repository of the same name, and those of --acts-for. The file of users, hub/users in the data
    /// directory unless the configuration names another, has a hash of the token.
    #[command(
        after_help = "Examples:\n  muxfs hub user add alice\n  muxfs hub user add bob --acts-for official-apps\n  export ZFLIST_HUB=http://127.0.0.1:8080 ZFLIST_HUB_TOKEN=$(muxfs hub user add alice)\n  zflist hub upload app.flist\n  curl -H \"Authorization: Bearer $ZFLIST_HUB_TOKEN\" -F file=@app.flist http://127.0.0.1:8080/api/flist/me/upload-flist\n  curl -H \"Authorization: Bearer $ZFLIST_HUB_TOKEN\" -F file=@image.tar http://127.0.0.1:8080/api/flist/me/docker"
    )]
    Add {
        /// The user, and the repository
        #[arg(value_name = "NAME")]
        name: String,
        /// Another repository that the user may change; may be given again
        #[arg(long, value_name = "REPOSITORY")]
        acts_for: Vec<String>,
    },
    /// List the users, each with the repositories that the user may change
    Ls,
    /// Remove a user; the repository stays
    #[command(after_help = "Examples:\n  muxfs hub user rm alice")]
    Rm {
        /// The user
        #[arg(value_name = "NAME")]
        name: String,
    },
}
