//! Where mounts of kind `ipfs` look for what was not put here.

use std::{fmt, path::PathBuf};

use muxfs::Error;
use muxfs_ipfs::SourceUrl;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ByteCount, text::display_text};

/// Where mounts of kind `ipfs` look for content that was not put here. Spec: spec/sources.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ipfs {
    /// The most bytes of blocks from there that are kept on disk; 0 keeps none.
    pub(crate) cache: ByteCount,
    /// Who is asked; where there is none, nobody.
    pub(crate) sources: Vec<IpfsSource>,
}

impl Default for Ipfs {
    fn default() -> Self {
        Self { cache: ByteCount(10 << 30), sources: Vec::new() }
    }
}

/// Who is asked for content: its address alone, or a table that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpfsSource {
    pub(crate) url: SourceUrl,
    /// Of a Kubo node: the file whose first line says who we are.
    pub(crate) auth_file: Option<PathBuf>,
    /// Of a Kubo node: whether it looks in its network for what it has not.
    pub(crate) network: bool,
}

/// The table.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpfsSourceTable {
    #[serde(with = "display_text")]
    url: SourceUrl,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    network: bool,
}

impl IpfsSource {
    /// Why it cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        let is_gateway = matches!(self.url, SourceUrl::Gateway(_));
        (is_gateway && (self.auth_file.is_some() || self.network)).then(|| {
            format!("ipfs: auth_file and network are for Kubo nodes, and {} is a gateway: kubo+{0} is a node", self.url)
        })
    }
}

impl Serialize for IpfsSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { url, auth_file, network } = self.clone();
        if auth_file.is_none() && !network {
            return serializer.collect_str(&url);
        }
        IpfsSourceTable { url, auth_file, network }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IpfsSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> de::Visitor<'de> for Form {
            type Value = IpfsSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with url")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IpfsSource, E> {
                let url = text.parse().map_err(|error: Error| E::custom(format!("{error:#}")))?;
                Ok(IpfsSource { url, auth_file: None, network: false })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<IpfsSource, A::Error> {
                let table = IpfsSourceTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let IpfsSourceTable { url, auth_file, network } = table;
                Ok(IpfsSource { url, auth_file, network })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn sources_are_addresses_or_tables_and_a_bad_one_is_named_with_its_line() {
        let text = "[ipfs]\ncache = \"1GiB\"\nsources = [\n  \"https://gateway.example\",\n  { url = \"kubo+http://[::1]:5001\", \
                    auth_file = \"/k\", network = true },\n  \"kubo+http://127.0.0.1:5001\",\n]\n";
        let config = Config::parse(text).expect("parses");
        config.check().expect("good");
        let urls: Vec<_> = config.ipfs.sources.iter().map(|source| source.url.to_string()).collect();
        assert_eq!(urls, ["https://gateway.example", "kubo+http://[::1]:5001", "kubo+http://127.0.0.1:5001"]);
        assert_eq!(config.ipfs.cache, ByteCount(1 << 30));
        let again = Config::parse(&config.to_text().expect("prints")).expect("parses");
        assert_eq!(again.ipfs, config.ipfs);
        for (bad, word) in [
            ("sources = [\n\"https://a.example\",\n\"gateway.example\"]", "line 4"),
            ("sources = [{ url = \"https://u:p@a.example\" }]", "auth_file"),
            ("sources = [{ url = \"https://a.example\", autfile = \"x\" }]", "autfile"),
            ("sources = [7]", "an address, or a table"),
            ("source = []", "source"),
        ] {
            let error = Config::parse(&format!("[ipfs]\n{bad}")).expect_err(bad);
            assert!(format!("{error:#}").contains(word), "{bad}: {error:#}");
        }
        let gateway = "[ipfs]\nsources = [{ url = \"https://a.example\", network = true }]";
        let error = Config::parse(gateway).expect("parses").check().expect_err("a gateway");
        assert!(format!("{error:#}").contains("kubo+https://a.example"), "{error:#}");
        assert_eq!(Config::default().ipfs.sources, [], "nobody is asked by default");
    }
}
