//! A 0-db server in this process, with faults: what a client sees of one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sha1::{Digest as _, Sha1};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

const CHALLENGE: &str = "0011223344556677";

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(dead_code, reason = "each test that has this module uses some")]
pub(crate) enum Fault {
    #[default]
    None,
    /// It takes requests and replies to none.
    Hang,
    /// It replies with what is none.
    Garbage,
    /// It claims to send 8 MiB, sends little and closes.
    Cut,
    /// It gives another value than was put.
    Lie,
    /// It refuses every password and namespace.
    Deny,
    /// It has no room for any shard.
    Full,
}

#[derive(Debug, Default)]
struct Namespace {
    password: Option<String>,
    is_private: bool,
    /// Whether it gives the keys.
    is_sequential: bool,
    /// The keys in the order in which they were put, as a listing goes.
    places: BTreeMap<u64, Vec<u8>>,
    values: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    next: u64,
}

#[derive(Debug, Default)]
struct State {
    namespaces: BTreeMap<String, Namespace>,
    fault: Fault,
    /// All commands that came.
    commands: Vec<String>,
    connections: Vec<AbortHandle>,
}

/// A server that listens on loopback until it is dropped.
#[derive(Debug)]
pub(crate) struct Double {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: Option<AbortHandle>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop();
    }
}

#[allow(dead_code, reason = "each test that has this module uses some")]
impl Double {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut double =
            Self { address: listener.local_addr().expect("bound"), state: Arc::default(), listening: None };
        double.listen(listener);
        double
    }

    fn listen(&mut self, listener: TcpListener) {
        let state = self.state.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let of_connection = state.clone();
                let connection = tokio::spawn(async move {
                    // Ends when the client goes.
                    serve(stream, of_connection).await.ok();
                });
                state.lock().expect("a lock").connections.push(connection.abort_handle());
            }
        });
        self.listening = Some(listening.abort_handle());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a lock")
    }

    /// Ends, with all connections; what it has stays.
    pub(crate) fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
        for connection in self.state().connections.drain(..) {
            connection.abort();
        }
    }

    /// Listens again where it did.
    pub(crate) async fn restart(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.listen(listener);
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Has the namespace ask for another password.
    pub(crate) fn set_password(&self, namespace: &str, password: &str) {
        if let Some(namespace) = self.state().namespaces.get_mut(namespace) {
            namespace.password = Some(password.to_owned());
        }
    }

    /// Has the namespace as if it had never been written.
    pub(crate) fn empty(&self, namespace: &str) {
        if let Some(namespace) = self.state().namespaces.get_mut(namespace) {
            namespace.values.clear();
            namespace.places.clear();
        }
    }

    pub(crate) fn make(&self, namespace: &str) {
        self.state().namespaces.entry(namespace.into()).or_default();
    }

    /// Makes one that gives the keys itself, as numbers.
    pub(crate) fn make_sequential(&self, namespace: &str) {
        self.state().namespaces.entry(namespace.into()).or_default().is_sequential = true;
    }

    /// What is under a key.
    pub(crate) fn value(&self, namespace: &str, key: &[u8]) -> Option<Vec<u8>> {
        let state = self.state();
        state.namespaces.get(namespace)?.values.get(key).map(|(_, value)| value.clone())
    }

    /// Flips a bit of each value.
    pub(crate) fn damage(&self, namespace: &str) {
        let mut state = self.state();
        let values = state.namespaces.get_mut(namespace).map(|namespace| namespace.values.values_mut());
        for last in values.into_iter().flatten().filter_map(|(_, value)| value.last_mut()) {
            *last ^= 1;
        }
    }

    /// Has nothing under a key.
    pub(crate) fn remove(&self, namespace: &str, key: &[u8]) {
        if let Some(namespace) = self.state().namespaces.get_mut(namespace) {
            namespace.remove(key);
        }
    }

    pub(crate) fn set(&self, namespace: &str, key: &[u8], value: &[u8]) {
        self.state().namespaces.entry(namespace.into()).or_default().set(key, value);
    }

    /// How many values there are, without the heads.
    pub(crate) fn count(&self, namespace: &str) -> usize {
        let of = |namespace: &Namespace| namespace.values.keys().filter(|key| !is_head(key)).count();
        self.state().namespaces.get(namespace).map_or(0, of)
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }
}

impl Namespace {
    fn set(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.values.get(key).is_some_and(|(_, before)| before == value) {
            return false;
        }
        self.next += 1;
        if let Some((place, _)) = self.values.insert(key.to_vec(), (self.next, value.to_vec())) {
            self.places.remove(&place);
        }
        self.places.insert(self.next, key.to_vec());
        true
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.values.remove(key);
        removed.is_some_and(|(place, _)| self.places.remove(&place).is_some())
    }

    /// Puts a value under the next number.
    fn append(&mut self, value: &[u8]) -> [u8; 8] {
        let key = self.next.to_le_bytes();
        self.set(&key, value);
        key
    }
}

/// The keys of heads end in a byte of their own.
fn is_head(key: &[u8]) -> bool {
    key.last() == Some(&0xfe)
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

async fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<Vec<u8>>> {
    async fn number(stream: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().trim_start_matches(['*', '$']).parse().expect("a request as a client sends it"))
    }
    let mut parts = Vec::new();
    for _ in 0..number(stream).await? {
        let mut part = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut part).await?;
        part.truncate(part.len() - 2);
        parts.push(part);
    }
    Ok(parts)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let (mut stream, mut selected) = (BufReader::new(stream), None);
    loop {
        let parts = request(&mut stream).await?;
        let fault = state.lock().expect("a lock").fault;
        let reply = match fault {
            Fault::Hang => {
                tokio::time::sleep(Duration::MAX).await;
                continue;
            }
            Fault::Garbage => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            Fault::Cut => {
                stream.write_all(b"$8388608\r\nabc").await?;
                return Ok(());
            }
            _ => state.lock().expect("a lock").answer(&parts, &mut selected),
        };
        stream.write_all(&reply).await?;
    }
}

impl State {
    fn answer(&mut self, parts: &[Vec<u8>], selected: &mut Option<String>) -> Vec<u8> {
        let text = |at: usize| parts.get(at).map(|part| String::from_utf8_lossy(part).into_owned()).unwrap_or_default();
        let command = text(0);
        self.commands.push(command.clone());
        let error = |text: &str| format!("-{text}\r\n").into_bytes();
        let ok = || b"+OK\r\n".to_vec();
        let nil = || b"$-1\r\n".to_vec();
        match command.as_str() {
            "AUTH" => return format!("+{CHALLENGE}\r\n").into_bytes(),
            "NSNEW" => {
                self.namespaces.insert(text(1), Namespace::default());
                return ok();
            }
            "NSSET" => {
                let Some(namespace) = self.namespaces.get_mut(&text(1)) else { return error("Namespace not found") };
                match text(2).as_str() {
                    "password" => namespace.password = Some(text(3)),
                    _ => namespace.is_private = text(3) == "0",
                }
                return ok();
            }
            "NSINFO" => {
                let Some(namespace) = self.namespaces.get(&text(1)) else { return error("Namespace not found") };
                let len: usize = namespace.values.values().map(|(_, value)| value.len()).sum();
                let mode = if namespace.is_sequential { "sequential" } else { "userkey" };
                let info = format!(
                    "# namespace\nname: {}\nentries: {}\ndata_size_bytes: {len}\ndata_limits_bytes: 0\nindex_size_bytes: 0\nmode: {mode}\ndata_disk_freespace_bytes: 1000000000\n",
                    text(1),
                    namespace.values.len()
                );
                return bulk(info.as_bytes());
            }
            "SELECT" => {
                if self.fault == Fault::Deny {
                    return error("Access denied");
                }
                let Some(namespace) = self.namespaces.get(&text(1)) else { return error("Namespace not found") };
                if let Some(password) = &namespace.password {
                    let digest = Sha1::digest(format!("{CHALLENGE}:{password}").as_bytes());
                    let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
                    if text(2) != "SECURE" {
                        return error("Namespace protected and private");
                    }
                    if text(3) != hex {
                        return error("Access denied");
                    }
                }
                *selected = Some(text(1));
                return ok();
            }
            _ => {}
        }
        let (lies, is_full) = (self.fault == Fault::Lie, self.fault == Fault::Full);
        let selected = selected.as_deref().unwrap_or("default");
        let Some(namespace) = self.namespaces.get_mut(selected) else {
            return error("Your active namespace is not available anymore");
        };
        let key = parts.get(1).map(Vec::as_slice).unwrap_or_default();
        match command.as_str() {
            "SET" if key.len() > 255 => error("Key too large"),
            "SET" if is_full && !is_head(key) => error("No space left on this namespace"),
            "SET" if namespace.is_sequential && key.is_empty() => bulk(&namespace.append(&parts[2])),
            "SET" if namespace.is_sequential && !namespace.values.contains_key(key) => {
                error("Invalid key, only update authorized")
            }
            "SET" => {
                if namespace.set(key, &parts[2]) {
                    bulk(key)
                } else {
                    nil()
                }
            }
            "GET" => match namespace.values.get(key) {
                Some(_) if lies && key != b"muxfs-node" => bulk(b"something else"),
                Some((_, value)) => bulk(value),
                None => nil(),
            },
            "DEL" if namespace.remove(key) => ok(),
            "DEL" => error("Key not found"),
            "EXISTS" => format!(":{}\r\n", u8::from(namespace.values.contains_key(key))).into_bytes(),
            "LENGTH" => match namespace.values.get(key) {
                Some((_, value)) => format!(":{}\r\n", value.len()).into_bytes(),
                None => nil(),
            },
            "DBSIZE" => format!(":{}\r\n", namespace.values.len()).into_bytes(),
            "SCAN" => {
                let after = <[u8; 8]>::try_from(key).map_or(0, u64::from_le_bytes);
                let next: Vec<_> = namespace.places.range(after + 1..).take(7).collect();
                let Some((last, _)) = next.last() else { return error("No more data") };
                let mut reply = b"*2\r\n".to_vec();
                reply.extend(bulk(&last.to_le_bytes()));
                reply.extend(format!("*{}\r\n", next.len()).as_bytes());
                for (_, key) in next {
                    reply.extend(b"*3\r\n");
                    reply.extend(bulk(key));
                    reply.extend(b":1\r\n:1700000000\r\n");
                }
                reply
            }
            _ => error("Command not supported"),
        }
    }
}
