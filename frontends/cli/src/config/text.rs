//! Values that are written as text and read from it, in the file and on the command line.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use muxfs::{Prefix, QfsPath, dag::Profile};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A prefix as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PrefixText(pub(crate) Prefix);

impl Serialize for PrefixText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for PrefixText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Prefix::new(text.trim_start_matches('/')).map(Self).map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

/// A path of the namespace as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathText(pub(crate) QfsPath);

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        QfsPath::parse(text.as_bytes()).map(Self).map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

/// Where a frontend listens, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

impl Listen {
    pub(crate) fn at(addr: &str) -> Self {
        Self(Some(addr.parse().expect("a good address")))
    }
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|addr| Self(Some(addr)))
            .map_err(|_| format!("{text:?} is not an address and port as 127.0.0.1:11111 or [::1]:0, nor off"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => write!(f, "{addr}"),
            None => f.write_str("off"),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A length of time: text as `90s`, `15m`, `1h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// The units of time, the longest first, in seconds.
const SPAN_UNITS: [(&str, u64); 4] = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = SPAN_UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (_, unit) = unit.ok_or_else(|| format!("{text:?} is not a length of time as 90s, 15m, 1h or 30d"))?;
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a length of time as 15m"))?;
        let seconds = number.checked_mul(*unit).ok_or_else(|| format!("{text:?} is longer than can be counted"))?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (name, unit) =
            SPAN_UNITS.iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit)).unwrap_or(&("s", 1));
        write!(f, "{}{name}", seconds / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes: `1048576`, or text as `512MiB`, `4GiB`, `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct ByteCount(pub(crate) u64);

impl FromStr for ByteCount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" | "B" => 1,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(format!("{text:?}: the units are B kB MB GB TB KiB MiB GiB TiB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a number of bytes as 512MiB"))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| format!("{text:?} is more than 2^64 bytes"))
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// The name of a profile of CIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum ProfileName {
    #[default]
    #[serde(rename = "unixfs-v1-2025")]
    #[value(name = "unixfs-v1-2025")]
    UnixfsV1_2025,
    #[serde(rename = "unixfs-v0-2015")]
    #[value(name = "unixfs-v0-2015")]
    UnixfsV0_2015,
    #[serde(rename = "kubo-cidv1-legacy")]
    #[value(name = "kubo-cidv1-legacy")]
    KuboCidV1Legacy,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::UnixfsV1_2025 => Self::UnixfsV1_2025,
            ProfileName::UnixfsV0_2015 => Self::UnixfsV0_2015,
            ProfileName::KuboCidV1Legacy => Self::KuboCidV1Legacy,
        }
    }
}

/// What is written as text and read from it.
pub(super) mod display_text {
    use std::{fmt::Display, str::FromStr};

    use muxfs::Error;

    use super::{Deserialize, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| de::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("1 h", 3600), ("30d", 2_592_000), ("60s", 60)] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.0, Duration::from_secs(seconds), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in ["", "m", "15", "-1s", "1.5h", "15min", "99999999999999999999d", "9999999999999999d"] {
            text.parse::<Span>().expect_err(text);
        }
    }

    #[test]
    fn byte_counts() {
        for (text, bytes) in [("0", 0), ("12", 12), ("1KiB", 1024), ("2 MiB", 2 << 20), ("1GB", 1_000_000_000)] {
            assert_eq!(text.parse::<ByteCount>(), Ok(ByteCount(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1gib", "99999999999TiB"] {
            text.parse::<ByteCount>().expect_err(text);
        }
    }
}
