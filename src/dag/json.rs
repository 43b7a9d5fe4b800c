//! dag-json, strictly: every value has exactly one form, and what decodes encodes to the same bytes.
//!
//! Sits between [`Ipld`] and the blocks of a [`Dag`](super::Dag). Own code, because `serde_ipld_dagjson` accepts white
//! space, unsorted keys and base58 links, and drops keys beside `bytes`. What the parser below does not refuse by itself
//! (order, escapes, the spelling of numbers) falls when the value is encoded again and compared.
//! Spec: spec/linked-data.md #dag-json, <https://ipld.io/specs/codecs/dag-json/spec/>.

use std::{cmp::Ordering, collections::BTreeMap};

use multibase::Base;

use super::{
    DAG_BLOCK_LEN_MAX,
    ipld::{Budget, IPLD_DEPTH_MAX, Ipld},
};
use crate::{Cid, Error, ErrorKind, Result};

/// The key by which links and bytes are told from maps.
const RESERVED: &str = "/";
const BYTES: &str = "bytes";

/// Encodes a value: the only form it has in dag-json.
///
/// ```
/// use muxfs::dag::{Ipld, json};
/// let list = Ipld::List(vec![Ipld::Float(1.0), Ipld::Bytes(b"\x01\x02\x03"[..].into())]);
/// assert_eq!(json::encode(&list)?, br#"[1.0,{"/":{"bytes":"AQID"}}]"#);
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` for a number beyond -2^64 to 2^64-1, NaN and infinities, what is nested deeper than
/// [`IPLD_DEPTH_MAX`], and a map that would read as a link or as bytes.
pub fn encode(value: &Ipld) -> Result<Vec<u8>> {
    let mut out = String::new();
    write(value, 0, &mut out).map_err(|why| Error::new(ErrorKind::InvalidArgument, "json.encode").because(why))?;
    Ok(out.into_bytes())
}

/// Decodes a block of one value in its only form.
///
/// Never takes more memory than [`IPLD_LEN_MAX`](super::ipld::IPLD_LEN_MAX) says.
///
/// ```
/// use muxfs::dag::{Ipld, json};
/// assert_eq!(json::decode(b"[100]")?, Ipld::List(vec![Ipld::Integer(100)]));
/// assert!(json::decode(b"[ 100]").is_err(), "there is no white space");
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `Corrupt`, with the place and the reason; `TooLarge` past [`DAG_BLOCK_LEN_MAX`].
pub fn decode(block: &[u8]) -> Result<Ipld> {
    if block.len() > DAG_BLOCK_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "json.decode").because("a block has at most 2 MiB"));
    }
    let corrupt = |why: &str, at: usize| {
        Error::new(ErrorKind::Corrupt, "json.decode").because(format!("{why}, before byte {at}"))
    };
    let text = std::str::from_utf8(block).map_err(|error| corrupt("text is UTF-8", error.valid_up_to()))?;
    let mut parser = Parser { rest: text, budget: Budget::new() };
    let parsed = parser.value(0).and_then(|value| match parser.rest {
        "" => Ok(value),
        _ => Err("there is text after the value"),
    });
    let value = parsed.map_err(|why| corrupt(why, block.len() - parser.rest.len()))?;
    let mut again = String::new();
    write(&value, 0, &mut again).map_err(|why| corrupt(why, block.len()))?;
    if again.as_bytes() != block {
        let at = std::iter::zip(again.as_bytes(), block).take_while(|(a, b)| a == b).count();
        return Err(corrupt("not in its only form: check escapes, numbers and base64", at + 1));
    }
    Ok(value)
}

fn deeper(depth: usize) -> Result<usize, &'static str> {
    if depth < IPLD_DEPTH_MAX { Ok(depth + 1) } else { Err("nested too deep: 256 lists and maps at most") }
}

fn write(value: &Ipld, depth: usize, out: &mut String) -> Result<(), &'static str> {
    match value {
        Ipld::Null => out.push_str("null"),
        Ipld::Bool(true) => out.push_str("true"),
        Ipld::Bool(false) => out.push_str("false"),
        Ipld::Integer(number) => {
            if !(-(1 << 64)..1 << 64).contains(number) {
                return Err("a number is from -2^64 to 2^64-1");
            }
            out.push_str(&number.to_string());
        }
        Ipld::Float(float) if float.is_finite() => write_float(*float, out),
        Ipld::Float(_) => return Err("a float is neither NaN nor infinite"),
        Ipld::String(text) => write_text(text, out),
        Ipld::Bytes(bytes) => {
            deeper(deeper(depth)?)?; // As its text is nested.
            out.push_str(r#"{"/":{"bytes":""#);
            out.push_str(&Base::Base64.encode(bytes));
            out.push_str(r#""}}"#);
        }
        Ipld::Link(cid) => {
            deeper(depth)?;
            out.push_str(r#"{"/":""#);
            out.push_str(&cid.to_string());
            out.push_str(r#""}"#);
        }
        Ipld::List(values) => {
            let depth = deeper(depth)?;
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, depth, out)?;
            }
            out.push(']');
        }
        Ipld::Map(values) => {
            let depth = deeper(depth)?;
            if reads_otherwise(values) {
                return Err("a map whose first key is / reads as a link or as bytes");
            }
            out.push('{');
            for (index, (key, value)) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(value, depth, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// Whether a map's first key is `/` and its value would make it a link (text) or bytes (a map that begins with text
/// under `bytes`).
fn reads_otherwise(values: &BTreeMap<String, Ipld>) -> bool {
    match values.first_key_value() {
        Some((key, Ipld::String(_))) => key == RESERVED,
        Some((key, Ipld::Map(inner))) => {
            key == RESERVED
                && inner.first_key_value().is_some_and(|(key, value)| key == BYTES && matches!(value, Ipld::String(_)))
        }
        _ => false,
    }
}

/// The shortest digits that read as the same float, laid out as in ECMAScript, as the JavaScript codec does, and always
/// with a point or an exponent: `1.0`, `1e+21`, `8.5e-8`.
fn write_float(float: f64, out: &mut String) {
    let shortest = format!("{float:e}"); // A sign, a digit, perhaps a point and digits, e, the exponent.
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = digits.strip_prefix('-').inspect(|_| out.push('-')).unwrap_or(digits).replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let after = i32::try_from(digits.len()).unwrap_or(i32::MAX) - 1 - exponent; // Digits after the point.
    let cut = usize::try_from(exponent + 1).unwrap_or(0);
    match (exponent, digits.split_at_checked(cut)) {
        (-6..=-1, _) => out.extend(["0.", &zeros(-1 - exponent), &digits]),
        (0..=20, Some((whole, rest))) if after > 0 => out.extend([whole, ".", rest]),
        (0..=20, _) => out.extend([&digits, zeros(-after).as_str(), ".0"]),
        _ => {
            let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
            out.extend([first, if rest.is_empty() { "" } else { "." }, rest]);
            out.extend(["e", if exponent < 0 { "" } else { "+" }, &exponent.to_string()]);
        }
    }
}

/// With the escapes that JSON wants and no others.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => out.extend(["\\u00", &Base::Base16Lower.encode([char as u8])]),
            _ => out.push(char),
        }
    }
    out.push('"');
}

/// What is not yet parsed; every reading takes from its front or fails.
struct Parser<'a> {
    rest: &'a str,
    budget: Budget,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Ipld, &'static str> {
        self.budget.value()?;
        match self.rest.as_bytes().first() {
            Some(b'n') => self.expect("null").map(|()| Ipld::Null),
            Some(b't') => self.expect("true").map(|()| Ipld::Bool(true)),
            Some(b'f') => self.expect("false").map(|()| Ipld::Bool(false)),
            Some(b'"') => Ok(Ipld::String(self.text()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'[') => self.list(deeper(depth)?),
            Some(b'{') => self.map(deeper(depth)?),
            Some(b' ' | b'\t' | b'\n' | b'\r') => Err("there is no white space"),
            Some(_) => Err("a value is expected"),
            None => Err("the end comes too early"),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Ipld, &'static str> {
        self.expect("[")?;
        let mut values = Vec::new();
        if self.takes("]") {
            return Ok(Ipld::List(values));
        }
        self.budget.list()?;
        loop {
            values.push(self.value(depth)?);
            if self.takes("]") {
                return Ok(Ipld::List(values));
            }
            self.expect(",")?;
        }
    }

    fn map(&mut self, depth: usize) -> Result<Ipld, &'static str> {
        self.expect("{")?;
        let mut values = BTreeMap::<String, Ipld>::new();
        if self.takes("}") {
            return Ok(Ipld::Map(values));
        }
        loop {
            let key = self.text()?;
            match values.last_key_value().map(|(last, _)| last.cmp(&key)) {
                Some(Ordering::Equal) => return Err("a key stands twice"),
                Some(Ordering::Greater) => return Err("keys are sorted by their bytes"),
                Some(Ordering::Less) | None => {}
            }
            self.expect(":")?;
            self.budget.entry(values.len(), key.len())?;
            let value = self.value(depth)?;
            values.insert(key, value);
            if self.takes("}") {
                return self.special(values);
            }
            self.expect(",")?;
        }
    }

    /// Makes a map the link or the bytes that it stands for, if it does.
    fn special(&mut self, values: BTreeMap<String, Ipld>) -> Result<Ipld, &'static str> {
        if !reads_otherwise(&values) {
            return Ok(Ipld::Map(values));
        }
        match values.get(RESERVED) {
            _ if values.len() > 1 => Err("nothing stands beside a link or bytes"),
            Some(Ipld::String(text)) => {
                let cid: Cid = text.parse().map_err(|_| "a link is not a CID that is allowed")?;
                self.budget.content(size_of::<Cid>())?;
                Ok(Ipld::from(cid))
            }
            Some(Ipld::Map(inner)) if inner.len() == 1 => match inner.get(BYTES) {
                Some(Ipld::String(text)) => Base::Base64
                    .decode(text)
                    .map(|bytes| Ipld::Bytes(bytes.into()))
                    .map_err(|_| "bytes are base64 without padding"),
                _ => Err("bytes are text in base64"),
            },
            _ => Err("nothing stands beside bytes"),
        }
    }

    fn number(&mut self) -> Result<Ipld, &'static str> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let len = self.rest.bytes().take_while(is_part).count();
        let (text, rest) = self.rest.split_at_checked(len).ok_or("a number is expected")?;
        let value = if text.contains(['.', 'e', 'E']) {
            // The forms of Rust's parser that are none of JSON's fall when the value is encoded again.
            let float: f64 = text.parse().map_err(|_| "not a number")?;
            if !float.is_finite() {
                return Err("a float is out of range");
            }
            Ipld::Float(float)
        } else {
            let number: i128 = text.parse().map_err(|_| "not a number from -2^64 to 2^64-1")?;
            Ipld::Integer(number)
        };
        self.rest = rest;
        Ok(value)
    }

    fn text(&mut self) -> Result<String, &'static str> {
        self.expect("\"")?;
        let mut text = String::new();
        loop {
            let plain = self.rest.bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
            let (before, rest) = self.rest.split_at_checked(plain).ok_or("text is UTF-8")?;
            text.push_str(before);
            self.rest = rest;
            if self.takes("\"") {
                self.budget.content(text.len())?;
                return Ok(text);
            }
            self.expect("\\").map_err(|_| "text ends with a quote and holds no control characters")?;
            text.push(self.escape()?);
        }
    }

    /// What follows a backslash. Pairs of surrogates are no form of any text, so they are not put together.
    fn escape(&mut self) -> Result<char, &'static str> {
        let mut chars = self.rest.chars();
        let char = match chars.next() {
            Some('"') => '"',
            Some('\\') => '\\',
            Some('b') => '\u{8}',
            Some('t') => '\t',
            Some('n') => '\n',
            Some('f') => '\u{c}',
            Some('r') => '\r',
            Some('u') => {
                let digits = chars.as_str().get(..4).ok_or("an escape has four digits")?;
                let code = u32::from_str_radix(digits, 16).map_err(|_| "an escape has four digits")?;
                chars.nth(3);
                char::from_u32(code).ok_or("a surrogate is no character")?
            }
            _ => return Err("an escape that is not needed"),
        };
        self.rest = chars.as_str();
        Ok(char)
    }

    fn takes(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, word: &'static str) -> Result<(), &'static str> {
        if self.takes(word) {
            return Ok(());
        }
        Err(match (self.rest.as_bytes().first(), word) {
            (None, _) => "the end comes too early",
            (Some(b' ' | b'\t' | b'\n' | b'\r'), _) => "there is no white space",
            (_, "\"") => "a key in quotes is expected",
            (_, ":") => "a colon is expected",
            (_, "null" | "true" | "false") => "a value is expected",
            _ => "a comma or a closing bracket is expected",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dag::ipld::tests::any_ipld;

    fn why(text: &[u8]) -> String {
        let error = decode(text).expect_err(&String::from_utf8_lossy(text));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        format!("{error:#}")
    }

    #[test]
    fn each_rule_refuses() {
        let v0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
        let cases = [
            ("", "too early"),
            ("nul", "a value is expected"),
            ("nulll", "after the value"),
            (" 1", "white space"),
            ("1\n", "after the value"),
            ("[1, 2]", "white space"),
            ("[1,]", "a value is expected"),
            ("[1", "too early"),
            (r#"{"a": 1}"#, "white space"),
            (r#"{"a":1,}"#, "a key in quotes"),
            ("{a:1}", "a key in quotes"),
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"{"b":1,"a":2}"#, "sorted"),
            (r#"{"aa":1,"b":2,"a":3}"#, "sorted"),
            (r#"{"a":1}x"#, "after the value"),
            ("NaN", "a value is expected"),
            ("Infinity", "a value is expected"),
            ("1e999", "out of range"),
            ("-1e999", "out of range"),
            ("-0", "only form"),
            ("01", "only form"),
            ("+1", "a value is expected"),
            ("1.", "only form"),
            ("-.5", "only form"),
            ("1.50", "only form"),
            ("1E5", "only form"),
            ("1e5", "only form"),
            ("1e21", "only form"),
            ("0.0000001", "only form"),
            ("1-1", "not a number"),
            ("-", "not a number"),
            ("18446744073709551616", "from -2^64"),
            ("-18446744073709551617", "from -2^64"),
            ("99999999999999999999999999999999999999999", "from -2^64"),
            ("\"a", "ends with a quote"),
            ("\"a\tb\"", "control characters"),
            (r#""\/""#, "not needed"),
            (r#""\x61""#, "not needed"),
            (r#""\u0061""#, "only form"),
            (r#""\u000a""#, "only form"),
            (r#""\u001F""#, "only form"),
            (r#""\ud800""#, "surrogate"),
            (r#""\ud83d\ude00""#, "surrogate"),
            (r#""\u+041""#, "only form"),
            (r#""\u00""#, "four digits"),
            (r#"{"/":"nope"}"#, "not a CID"),
            (r#"{"/":""}"#, "not a CID"),
            (r#"{"/":"zdj7WbTaiJT1fgatdet9Ei9iDB5hdCxkbVyhyh8YTUnXMiwYi"}"#, "only form"),
            (r#"{"/":"bafkqaaa","a":1}"#, "beside"),
            (r#"{"/":{"bytes":"AQID","x":1}}"#, "beside"),
            (r#"{"/":{"bytes":"AQID"},"b":1}"#, "beside"),
            (r#"{"/":{"bytes":"AQI="}}"#, "base64"),
            (r#"{"/":{"bytes":"A_-"}}"#, "base64"),
            (r#"{"/":{"bytes":"AQJ"}}"#, "base64"),
        ];
        for (text, reason) in cases {
            let given = why(text.as_bytes());
            assert!(given.contains(reason), "{text}: {given}");
        }
        assert!(why(b"\"\xff\"").contains("UTF-8"));
        assert!(why(b"\"\xed\xa0\x80\"").contains("UTF-8"));
        assert!(why(format!(r#"{{"/":"z{v0}"}}"#).as_bytes()).contains("not a CID"));
        assert_eq!(
            decode(format!(r#"{{"/":"{v0}"}}"#).as_bytes()).expect("a link"),
            Ipld::from(v0.parse::<Cid>().expect("v0"))
        );
    }

    /// What looks reserved and is not.
    #[test]
    fn maps_that_are_maps() {
        for text in [
            r#"{"/":true}"#,
            r#"{"/":1,"a":2}"#,
            r#"{"/":null}"#,
            r#"{"/":{"bytes":1}}"#,
            r#"{"/":{"a":1,"bytes":"AQID"}}"#,
            r#"{"":1,"/":"bafkqaaa"}"#,
            r#"{"!":1,"/":{"bytes":"AQID"}}"#,
            r#"{"/":{"/":"bafkqaaa"}}"#,
            r#"{"/":{"/":{"bytes":"AQID"}}}"#,
            r#"{"bytes":"AQID"}"#,
        ] {
            let value = decode(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert!(matches!(value, Ipld::Map(_)), "{text}");
        }
    }

    #[test]
    fn maps_that_have_no_form() {
        let map = |key: &str, value| Ipld::Map([(key.to_owned(), value)].into());
        for value in [map("/", Ipld::from("bafkqaaa")), map("/", map("bytes", Ipld::from("AQID")))] {
            assert_eq!(encode(&value).expect_err("no form").kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn floats_are_shortest() {
        for (float, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-100.0, "-100.0"),
            (0.5, "0.5"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (8.940_696_716_308_594e-8, "8.940696716308594e-8"),
            (82_497.637_120_861_87, "82497.63712086187"),
            (1e20, "100000000000000000000.0"),
            (123_456_789_012_345_680_000.0, "123456789012345680000.0"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(String::from_utf8(encode(&Ipld::Float(float)).expect("finite")).expect("text"), text);
            let Ipld::Float(again) = decode(text.as_bytes()).expect(text) else { panic!("{text} is a float") };
            assert_eq!(again.to_bits(), float.to_bits(), "{text}");
        }
    }

    #[test]
    fn depth_and_memory_are_bounded() {
        let nested = |count| ["[".repeat(count), "]".repeat(count)].concat();
        decode(nested(IPLD_DEPTH_MAX).as_bytes()).expect("as deep as may be");
        assert!(why(nested(IPLD_DEPTH_MAX + 1).as_bytes()).contains("too deep"));
        let bytes = |depth| (0..depth).fold(Ipld::Bytes(bytes::Bytes::new()), |inner, _| Ipld::List(vec![inner]));
        decode(&encode(&bytes(IPLD_DEPTH_MAX - 2)).expect("as deep")).expect("as deep as may be");
        assert_eq!(encode(&bytes(IPLD_DEPTH_MAX - 1)).expect_err("too deep").kind(), ErrorKind::InvalidArgument);
        assert!(why("[".repeat(1 << 20).as_bytes()).contains("too deep"));
        assert!(why(format!("[{}0]", r#"{"":0},"#.repeat(250_000)).as_bytes()).contains("memory"));
        assert_eq!(decode(&vec![b'1'; DAG_BLOCK_LEN_MAX + 1]).expect_err("long").kind(), ErrorKind::TooLarge);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(value in any_ipld()) {
            if let Ok(text) = encode(&value) {
                prop_assert_eq!(decode(&text).expect("its text"), value);
            }
        }

        #[test]
        fn what_decodes_encodes_to_the_same(text in r#"[\[\]{}",:/0-9.eE+a-z\\ -]{0,40}"#) {
            if let Ok(value) = decode(text.as_bytes()) {
                prop_assert_eq!(encode(&value).expect("decoded"), text.into_bytes());
            }
        }

        #[test]
        fn damaged_texts_too(value in any_ipld(), at in any::<proptest::sample::Index>(), to in any::<u8>()) {
            let Ok(mut text) = encode(&value) else { return Ok(()) };
            let at = at.index(text.len());
            text[at] = to;
            if let Ok(value) = decode(&text) {
                prop_assert_eq!(encode(&value).expect("decoded"), text);
            }
        }
    }
}
