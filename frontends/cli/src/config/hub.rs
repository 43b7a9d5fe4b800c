//! The hub of flists, which HTTP serves.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ByteCount, FlistSource};

/// A hub of flists. Spec: spec/hub.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hub {
    /// The directory of the repositories, which must be there; `DATA/hub/flists` where absent, made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// The file of the users; `DATA/hub/users` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<PathBuf>,
    /// Whether anybody may read, wherever the server listens.
    pub(crate) public: bool,
    /// Repositories that are shown first.
    pub(crate) official: Vec<String>,
    /// Where the chunks go of what is made of archives, and where those of flists are looked for that are given.
    pub(crate) stores: Vec<FlistSource>,
    /// Where chunks are looked for beside the stores.
    pub(crate) sources: Vec<FlistSource>,
    /// Whether they are then looked for where a given flist says itself.
    pub(crate) follow: bool,
    /// Where flists that are made say that their chunks are; where empty, the stores without their passwords.
    pub(crate) routes: Vec<FlistSource>,
    /// The format of flists that are made of archives.
    pub(crate) format: HubFormat,
    /// The longest flist that is taken.
    pub(crate) flist_max: ByteCount,
    /// The longest archive that is taken.
    pub(crate) archive_max: ByteCount,
}

/// A format of flists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HubFormat {
    #[default]
    Flist,
    Fl,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            dir: None,
            users: None,
            public: false,
            official: Vec::new(),
            stores: Vec::new(),
            sources: Vec::new(),
            follow: false,
            routes: Vec::new(),
            format: HubFormat::default(),
            flist_max: ByteCount(256 << 20),
            archive_max: ByteCount(8 << 30),
        }
    }
}

impl Hub {
    /// Why it cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        let secret = self.routes.iter().find(|url| url.0.has_password())?;
        Some(format!("http.hub: whoever has an flist would read the password of the route {}", secret.0))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn a_hub_is_there_where_it_is_named() {
        let parse = |text: &str| Config::parse(text).expect("parses");
        assert!(parse("[http]\nprivate = true").http.hub.is_none());
        let config = parse(
            "[http.hub]\nofficial = [\"apps\"]\nstores = [\"zdb://:secret@h/n\"]\nformat = \"fl\"\nflist_max = \"1MiB\"",
        );
        config.check().expect("good");
        let text = config.to_text().expect("printed");
        assert!(!text.contains("secret"), "{text}");
        let hub = parse(&text).http.hub.expect("a hub");
        assert_eq!(
            (hub.format, hub.flist_max, &hub.official[..]),
            (HubFormat::Fl, ByteCount(1 << 20), &["apps".to_owned()][..])
        );
        let error =
            parse("[http.hub]\nroutes = [\"zdb://:p@h/n\"]").check().expect_err("whoever has an flist reads it");
        assert!(format!("{error:#}").contains("password"), "{error:#}");
    }
}
