//! Records: where a name leads, since which version and how long, signed.
//!
//! ```text
//! IpnsEntry = protobuf: 1 value, 2 signatureV1, 3 validityType, 4 validity, 5 sequence, 6 ttl, 7 pubKey, 8 signatureV2, 9 data
//! data      = dag-cbor: {TTL: ns, Value: bytes, Sequence: n, Validity: RFC 3339 text as bytes, ValidityType: 0}
//! signatureV2 is over "ipns-signature:" and data
//! ```
//! What counts stands in `data`. The fields of version 1, for programs before 2021, are not written; where a record has them
//! they must agree with it.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    str,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    key::{NameKey, PublicKey},
    name::IpnsName,
};
use crate::{
    Cid, Error, ErrorKind, Name, Result,
    calendar::{Utc, of_unix_secs},
    dag::{
        Ipld, cbor,
        wire::{Value, put_bytes, take_field},
    },
};

/// The longest record, in bytes.
pub const RECORD_LEN_MAX: usize = 10 * 1024;
/// How long a record is good as Kubo makes it, and publishes it again before that.
pub const LIFETIME: Duration = Duration::from_hours(48);
/// How long who has resolved a name need not do so again where nobody says, as Kubo has it.
pub const TTL: Duration = Duration::from_mins(5);

const SIGNED_PREFIX: &[u8] = b"ipns-signature:";

/// Where a name leads: to content, to another name, or to what we do not resolve, below it a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/ipfs/CID[/path]`
    Content(Cid, Vec<Name>),
    /// `/ipns/NAME[/path]`
    Name(IpnsName, Vec<Name>),
}

impl Target {
    /// Reads a value: a path, or as very old records have it the bytes of a CID.
    ///
    /// # Errors
    /// `InvalidArgument` for anything else; `Unsupported` where it leads to a name of the DNS.
    pub fn parse(value: &[u8]) -> Result<Self> {
        let refuse = |why: &'static str| {
            let shown = value.get(..128).unwrap_or(value).escape_ascii().to_string();
            Error::new(ErrorKind::InvalidArgument, "ipns.target").at(shown).because(why)
        };
        let Some(path) = value.strip_prefix(b"/") else {
            let cid = Cid::from_bytes(value).or_else(|_| str::from_utf8(value).unwrap_or_default().parse());
            return cid.map(|cid| Self::Content(cid, Vec::new())).map_err(|_| refuse("it is neither a path nor a CID"));
        };
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let (kind, root) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let below = parts.map(Name::new).collect::<Result<Vec<_>>>()?;
        let root = str::from_utf8(root).map_err(|_| refuse("it leads to nothing"))?;
        match kind {
            b"ipfs" => Ok(Self::Content(root.parse()?, below)),
            b"ipns" if root.contains('.') => Err(Error::new(ErrorKind::Unsupported, "ipns.target")
                .at(root)
                .because("names of the DNS are not resolved")),
            b"ipns" => Ok(Self::Name(root.parse()?, below)),
            _ => Err(refuse("it leads neither to /ipfs nor to /ipns")),
        }
    }
}

/// A record that was verified, or made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    encoded: Bytes,
    name: IpnsName,
    value: Vec<u8>,
    sequence: u64,
    expires: SystemTime,
    ttl: Duration,
}

impl Record {
    /// Makes a record: the name of `key` leads to `value`, as `/ipfs/CID/path`, until `expires`.
    ///
    /// `sequence` has to be higher than that of every record that the name had. `ttl` says how long a reader need not ask
    /// again.
    ///
    /// ```
    /// use muxfs::{SecretKey, ipns::{NameKey, Record, TTL}};
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let key = NameKey::of_seed(SecretKey::new([7; 32]));
    /// let expires = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    /// let record = Record::create(&key, b"/ipfs/bafkqaaa", 1, expires, TTL)?;
    /// let read = Record::verify(key.name(), record.as_bytes())?;
    /// assert_eq!((read.sequence(), read.is_good(expires)), (1, false));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where `value` is nothing that a name leads to, and for a time outside of the years 0 to 9999;
    /// `TooLarge` past [`RECORD_LEN_MAX`].
    pub fn create(key: &NameKey, value: &[u8], sequence: u64, expires: SystemTime, ttl: Duration) -> Result<Self> {
        const OP: &str = "ipns.create";
        Target::parse(value)?;
        let validity = stamp(expires).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, OP).because("a record is good until a time of the years 0 to 9999")
        })?;
        let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let data = cbor::encode(&Ipld::Map(BTreeMap::from([
            ("TTL".into(), Ipld::from(ttl_ns)),
            ("Value".into(), Ipld::from(Bytes::copy_from_slice(value))),
            ("Sequence".into(), Ipld::from(sequence)),
            ("Validity".into(), Ipld::from(Bytes::from(validity))),
            ("ValidityType".into(), Ipld::from(0)),
        ])))?;
        let signature = key.sign(&[SIGNED_PREFIX, &data].concat());
        let mut encoded = Vec::new();
        put_bytes(&mut encoded, 8, &signature);
        put_bytes(&mut encoded, 9, &data);
        if encoded.len() > RECORD_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP).because("a record has at most 10 KiB"));
        }
        let (name, value, ttl) = (key.name().clone(), value.to_vec(), Duration::from_nanos(ttl_ns));
        Ok(Self { encoded: encoded.into(), name, value, sequence, expires, ttl })
    }

    /// Reads a record, and checks that it is of the key of `name`. Whether it is still good, [`Record::is_good`] tells.
    ///
    /// # Errors
    /// `Corrupt` where it is no record, lacks a signature of version 2 or has a wrong one, or says two things at once;
    /// `Unsupported` for a key that is neither Ed25519 nor RSA; `TooLarge` past [`RECORD_LEN_MAX`].
    pub fn verify(name: &IpnsName, bytes: &[u8]) -> Result<Self> {
        const OP: &str = "ipns.verify";
        if bytes.len() > RECORD_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP).at(name).because("a record has at most 10 KiB"));
        }
        let refuse = |why: &'static str| Error::new(ErrorKind::Corrupt, OP).at(name).because(why);
        let entry = Entry::decode(bytes).map_err(refuse)?;
        let (Some(signature), Some(data)) = (entry.signature, entry.data) else {
            return Err(refuse("it has no signature of version 2"));
        };
        let key = match (entry.key, name.key()) {
            (Some(key), _) => PublicKey::decode(key),
            (None, Some(key)) => key,
            (None, None) => return Err(refuse("neither the record nor the name has the key")),
        };
        let key = key.map_err(|error| error.at(name))?;
        if key.multihash() != name.multihash_bytes() {
            return Err(refuse("its key is another than the name's"));
        }
        key.verify(&[SIGNED_PREFIX, data].concat(), signature).map_err(|error| error.at(name))?;
        let data = cbor::decode(data).map_err(|error| error.at(name))?;
        let signed = Signed::of(&data).map_err(refuse)?;
        if !entry.agrees(&signed) {
            return Err(refuse("its fields of version 1 say something else than what is signed"));
        }
        let expires = moment(signed.validity).ok_or_else(|| refuse("how long it is good is no time of RFC 3339"))?;
        Ok(Self {
            encoded: Bytes::copy_from_slice(bytes),
            name: name.clone(),
            value: signed.value.to_vec(),
            sequence: signed.sequence,
            expires,
            ttl: Duration::from_nanos(signed.ttl),
        })
    }

    /// As it goes over a wire, at most [`RECORD_LEN_MAX`] bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.encoded
    }

    /// Whose it is.
    pub fn name(&self) -> &IpnsName {
        &self.name
    }

    /// What the name leads to, as it was written.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// What the name leads to.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn target(&self) -> Result<Target> {
        Target::parse(&self.value)
    }

    /// Which one of the name's it is: the highest counts.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Until when it is good.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// How long a reader need not ask again; zero where the record does not say.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether it counts at this time.
    pub fn is_good(&self, now: SystemTime) -> bool {
        now < self.expires
    }

    /// Which of two records of a name counts, the greater: by sequence, then by how long it is good, then by its bytes, so
    /// that all readers agree.
    pub fn cmp_age(&self, other: &Self) -> Ordering {
        let order = self.sequence.cmp(&other.sequence).then_with(|| self.expires.cmp(&other.expires));
        order.then_with(|| self.encoded.cmp(&other.encoded))
    }
}

/// The fields of the protobuf.
#[derive(Default)]
struct Entry<'a> {
    signature: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    /// Of version 1.
    value: &'a [u8],
    has_signature_v1: bool,
    validity_type: u64,
    validity: &'a [u8],
    sequence: u64,
    ttl: u64,
}

impl<'a> Entry<'a> {
    /// Of a field that is repeated the last counts, and one that is not known is passed over, as protobuf has it.
    fn decode(mut bytes: &'a [u8]) -> std::result::Result<Self, &'static str> {
        let mut entry = Self::default();
        let some = |bytes: &'a [u8]| (!bytes.is_empty()).then_some(bytes);
        while let Some(field) = take_field(&mut bytes)? {
            match field {
                (1, Value::Bytes(value)) => entry.value = value,
                (2, Value::Bytes(signature)) => entry.has_signature_v1 = !signature.is_empty(),
                (3, Value::Varint(kind)) => entry.validity_type = kind,
                (4, Value::Bytes(validity)) => entry.validity = validity,
                (5, Value::Varint(sequence)) => entry.sequence = sequence,
                (6, Value::Varint(ttl)) => entry.ttl = ttl,
                (7, Value::Bytes(key)) => entry.key = some(key),
                (8, Value::Bytes(signature)) => entry.signature = some(signature),
                (9, Value::Bytes(data)) => entry.data = some(data),
                (1..=9, _) => return Err("a field has another type than it should"),
                _ => {}
            }
        }
        Ok(entry)
    }

    /// Whether it says in its fields of version 1, where it has any, what is signed.
    fn agrees(&self, signed: &Signed<'_>) -> bool {
        if !self.has_signature_v1 && self.value.is_empty() {
            return true;
        }
        let Signed { value, validity, sequence, ttl } = *signed;
        (self.value, self.validity, self.validity_type) == (value, validity.as_bytes(), 0)
            && (self.sequence, self.ttl) == (sequence, ttl)
    }
}

/// What is signed.
struct Signed<'a> {
    value: &'a [u8],
    validity: &'a str,
    sequence: u64,
    ttl: u64,
}

impl<'a> Signed<'a> {
    fn of(data: &'a Ipld) -> std::result::Result<Self, &'static str> {
        let Ipld::Map(map) = data else { return Err("what is signed is no map") };
        let number = |name: &str| match map.get(name) {
            Some(Ipld::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let bytes = |name: &str| match map.get(name) {
            Some(Ipld::Bytes(bytes)) => Some(&bytes[..]),
            _ => None,
        };
        if number("ValidityType") != Some(0) {
            return Err("how long it is good is told in a way that is not known");
        }
        let validity = bytes("Validity").and_then(|validity| str::from_utf8(validity).ok());
        Ok(Self {
            value: bytes("Value").ok_or("what is signed has no value")?,
            validity: validity.ok_or("what is signed does not say how long it is good")?,
            sequence: number("Sequence").ok_or("what is signed has no sequence number")?,
            ttl: if map.contains_key("TTL") { number("TTL").ok_or("its time to live is no number")? } else { 0 },
        })
    }
}

/// A moment as RFC 3339 has it, in nanoseconds; `None` for one whose year has not four digits.
fn stamp(time: SystemTime) -> Option<String> {
    let Utc { year, month, day, hour, minute, second } = time.into();
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.subsec_nanos(),
        Err(before) => (1_000_000_000 - before.duration().subsec_nanos()) % 1_000_000_000,
    };
    (0..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"))
}

/// The moment of a time of RFC 3339; `None` if it is none.
fn moment(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok())?;
    let three = |text: &str, between: u8, first_len: usize| {
        let (first, rest) = text.split_at_checked(first_len)?;
        let (second, third) = (rest.get(1..3)?, rest.get(4..)?);
        let is_divided = rest.as_bytes().first() == Some(&between) && rest.as_bytes().get(3) == Some(&between);
        (is_divided && third.len() == 2).then_some((number(first)?, number(second)?, number(third)?))
    };
    let ((year, month, day), (hour, minute, second)) = (three(date, b'-', 4)?, three(time, b':', 2)?);
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let len = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, zone) = rest.split_at_checked(len)?;
            // Beyond nanoseconds nothing is kept.
            let kept: String = digits.chars().chain("000000000".chars()).take(9).collect();
            (if len == 0 { None } else { number(&kept) }?, zone)
        }
    };
    let ahead = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let (hours, minutes) =
                zone.split_once(':').filter(|(hours, minutes)| (hours.len(), minutes.len()) == (2, 2))?;
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            let ahead = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
            if sign == "-" { -ahead } else { ahead }
        }
        _ => return None,
    };
    let whole = of_unix_secs(Utc { year, month, day, hour, minute, second }.to_unix()? - ahead)?;
    whole.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        let base = of_unix_secs(1_577_934_245).expect("a time");
        for (text, nanos) in [
            ("2020-01-02T03:04:05Z", 0),
            ("2020-01-02T03:04:05.5Z", 500_000_000),
            ("2020-01-02t03:04:05.123456789z", 123_456_789),
            ("2020-01-02T03:04:05.1234567891Z", 123_456_789),
            ("2020-01-02T05:34:05+02:30", 0),
            ("2020-01-01T22:04:05.000000001-05:00", 1),
        ] {
            assert_eq!(moment(text), Some(base + Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "2020-01-02",
            "2020-01-02T03:04:05",
            "2020-01-02T03:04:05.Z",
            "2020-02-30T03:04:05Z",
            "2020-01-02T03:04:05+2:30",
            "2020-01-02T03:04:05+24:00",
            "2020-01-02T03:04:05Zx",
            "2020/01/02T03:04:05Z",
            "+020-01-02T03:04:05Z",
            "2020-01-02T03:04:0é",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_time_reads_back(secs in -62_000_000_000i64..250_000_000_000, nanos in 0..1_000_000_000u64) {
            let time = of_unix_secs(secs).expect("near") + Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(stamp(time).and_then(|text| moment(&text)), Some(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            moment(&text);
        }
    }
}
