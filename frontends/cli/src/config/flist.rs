//! Mounts of kind `flist`: flists, and where their chunks are.

use std::path::PathBuf;

use muxfs::ipns::IpnsName;
use muxfs_flist::{Profiles, SourceUrl};
use serde::{Deserialize, Serialize};

use super::{ByteCount, PrefixText, text::display_text};

/// Flists, and where their chunks are. Spec: spec/flist.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlistMount {
    pub(crate) prefix: PrefixText,
    /// The directory that has them, which must be there; `DATA/flists` where absent, made at the first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// Whether the directory has directories of flists, as that of a hub: `/flist/USER/NAME`.
    #[serde(default)]
    pub(crate) repositories: bool,
    /// Who is asked first, in order, for the chunks of every flist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<FlistSource>,
    /// Whether the servers are asked then that an flist itself names: who made it then chooses whom this machine talks to.
    #[serde(default)]
    pub(crate) follow: bool,
    /// The keys of which one has to have signed an flist for it to be opened; where empty, anybody's is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signers: Vec<FlistSigner>,
    #[serde(default)]
    pub(crate) profiles: FlistProfiles,
    /// The most bytes of chunks that are kept on disk; 0 keeps none.
    #[serde(default = "FlistMount::cache_default")]
    pub(crate) cache: ByteCount,
}

impl FlistMount {
    fn cache_default() -> ByteCount {
        ByteCount(10 << 30)
    }
}

/// What is done about what starts touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FlistProfiles {
    Off,
    /// The chunks are fetched that the profile beside an flist names.
    #[default]
    Replay,
    /// Profiles are written.
    Record,
}

impl From<FlistProfiles> for Profiles {
    fn from(profiles: FlistProfiles) -> Self {
        match profiles {
            FlistProfiles::Off => Self::Off,
            FlistProfiles::Replay => Self::Replay,
            FlistProfiles::Record => Self::Record,
        }
    }
}

/// Whose key signs flists, as text: an IPNS name that holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FlistSigner(#[serde(with = "display_text")] pub(crate) IpnsName);

/// Who is asked for chunks, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FlistSource(#[serde(with = "display_text")] pub(crate) SourceUrl);

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, Mount},
        *,
    };

    #[test]
    fn sources_of_flists_are_addresses_whose_passwords_are_not_printed() {
        let mount = |more: &str| Config::parse(&format!("[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\n{more}"));
        let Mount::Flist(flist) = mount("").expect("parses").mount.remove(0) else { panic!("it is one") };
        assert!(!flist.follow && flist.dir.is_none() && flist.cache == ByteCount(10 << 30));
        let good = mount(
            "sources = [\"dir:///chunks\", \"00-7f=zdb://:secret@h:1/ns\"]\nfollow = true\ncache = 0\n\
            signers = [\"k51qzi5uqu5dm0t4vbwri4lkg76q03b4x9tsvekgvbu4zli6454ff7w8wdosa4\"]",
        );
        let good = good.expect("parses");
        good.check().expect("good");
        let text = good.to_text().expect("prints");
        assert!(text.contains("00-7f=zdb://:***@h:1/ns") && !text.contains("secret"), "{text}");
        for (bad, word) in [
            ("sources = [\"chunks\"]", "dir://"),
            ("sources = [\"s3://h\"]", "a bucket is s3://"),
            ("sorces = []", "sorces"),
            ("signers = [\"me\"]", "k51"),
            ("cache = \"much\"", "units"),
            ("profiles = \"all\"", "replay"),
        ] {
            let error = mount(bad).expect_err(bad);
            assert!(format!("{error:#}").contains(word), "{bad}: {error:#}");
        }
    }
}
