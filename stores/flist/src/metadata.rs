//! What an flist says beside its files: pairs of text, and where its chunks are.

use muxfs::{Error, ErrorKind, Result};

use crate::{
    address::{Address, SourceUrl},
    chunk::hex,
    database::Database,
};

/// So many pairs are read, of so many bytes together.
const PAIR_COUNT_MAX: usize = 10_000;
const PAIRS_LEN_MAX: usize = 16 << 20;

/// The rows of a table of two columns `key` and `value`, in the order in which they were written.
pub(crate) fn pairs(database: &Database, table: &'static str) -> Result<Vec<(String, String)>> {
    let read = database.query(table, |connection| {
        let mut statement = connection.prepare_cached(&format!("SELECT key, value FROM {table} ORDER BY rowid"))?;
        let mut rows = statement.query([])?;
        let (mut pairs, mut len) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let text = |at: usize| {
                let bytes = row.get_ref(at)?.as_bytes_or_null()?.unwrap_or_default();
                Ok::<_, rusqlite::Error>(String::from_utf8_lossy(bytes).into_owned())
            };
            let (key, value) = (text(0)?, text(1)?);
            len += key.len() + value.len();
            if pairs.len() == PAIR_COUNT_MAX || len > PAIRS_LEN_MAX {
                return Ok(None);
            }
            pairs.push((key, value));
        }
        Ok(Some(pairs))
    })?;
    read.ok_or_else(|| {
        let why = format!("the table {table} has more than {PAIR_COUNT_MAX} rows or {PAIRS_LEN_MAX} bytes");
        Error::new(ErrorKind::TooLarge, "flist.metadata").at(database.name()).because(why)
    })
}

/// A source of chunks, and for which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The first byte of the ids that are there, from
    pub first: u8,
    /// to, with it.
    pub last: u8,
    /// Where they are, as it stands in the flist.
    pub url: String,
}

impl Route {
    /// The source that the text of `backend` in the metadata of an `.flist` means.
    ///
    /// # Errors
    /// `InvalidArgument` where it means none.
    pub fn of_backend(text: &str) -> Result<Self> {
        let url = backend_url(text)
            .map_err(|why| Error::new(ErrorKind::InvalidArgument, "flist.metadata").at("backend").because(why))?;
        Ok(Self { first: 0, last: 255, url })
    }
}

/// The address of the source that `backend` in the metadata of an `.flist` names.
pub(crate) fn backend_url(text: &str) -> std::result::Result<String, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let field = |name: &str| value.get(name).filter(|value| !value.is_null());
    let text = |name: &str| match field(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("its {name} is no text")),
    };
    let host = text("host")?.filter(|host| !host.is_empty()).ok_or("it names no host")?;
    let port = match field("port") {
        None => 9900,
        Some(port) => port.as_u64().filter(|port| (1..=65535).contains(port)).ok_or("its port is none")?,
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let user = text("password")?.map_or_else(String::new, |password| format!(":{}@", encoded(password)));
    let namespace = text("namespace")?.map_or_else(String::new, |namespace| format!("/{}", encoded(namespace)));
    Ok(format!("zdb://{user}{host}:{port}{namespace}"))
}

/// The other way: what `backend` is for the address of a 0-db server, `None` for another one.
pub(crate) fn backend_of(url: &str) -> Option<String> {
    let url: SourceUrl = url.parse().ok()?;
    let Address::Zdb { host, port, namespace, password } = &url.address else { return None };
    let mut value = serde_json::Map::new();
    value.insert("host".into(), host.as_str().into());
    value.insert("port".into(), (*port).into());
    if let Some(namespace) = namespace {
        value.insert("namespace".into(), namespace.as_str().into());
    }
    if let Some(password) = password {
        value.insert("password".into(), password.text().into());
    }
    Some(serde_json::Value::Object(value).to_string())
}

/// Text as it stands in an address.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let byte = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{}", hex(&[byte])) };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_an_address() {
        for (text, url) in [
            (r#"{"namespace": "flist2", "host": "127.0.0.1", "port": 19905}"#, "zdb://127.0.0.1:19905/flist2"),
            (r#"{"host": "hub.example"}"#, "zdb://hub.example:9900"),
            (r#"{"host": "::1", "namespace": null, "password": "a b/@"}"#, "zdb://:a%20b%2f%40@[::1]:9900"),
        ] {
            assert_eq!(backend_url(text).as_deref(), Ok(url));
        }
        for url in ["zdb://h:9900", "zdb://:a%20b%2f%40@[::1]:9901/ns", "zdb://h:1/a%20b"] {
            assert_eq!(backend_url(&backend_of(url).expect("a backend")).as_deref(), Ok(url));
        }
        assert_eq!(backend_of("dir:///srv"), None);
        for bad in ["", "[]", "{}", r#"{"host": 7}"#, r#"{"host": "a", "port": 0}"#, r#"{"host": "a", "port": "x"}"#] {
            backend_url(bad).expect_err(bad);
        }
    }
}
