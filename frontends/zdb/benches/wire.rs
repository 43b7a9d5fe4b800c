//! SET and GET over one connection, of values of several lengths, and 64 SETs in one packet: of any server of the protocol.
//!
//! `cargo bench -p muxfs-zdb-serve --bench wire -- LABEL ADDRESS` prints a line for each figure, as `benches/run zdb` compares
//! them. Keys are new in each run; values are random and differ.

use std::{
    env,
    io::{Read, Result, Write},
    net::TcpStream,
    time::{Duration, Instant, SystemTime},
};

/// The lengths of values, in bytes, and what they are called.
const LENS: [(usize, &str); 4] = [(128, "128B"), (4 << 10, "4KiB"), (512 << 10, "512KiB"), (2 << 20, "2MiB")];
/// How many requests are in one packet.
const PIPELINE: usize = 64;
/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(1500);
/// What a figure writes at most, in bytes.
const WRITTEN_MAX: usize = 512 << 20;

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    read: usize,
}

impl Client {
    fn connect(addr: &str) -> Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4 << 20], filled: 0, read: 0 })
    }

    fn more(&mut self) -> Result<()> {
        if self.read > 0 {
            self.buffer.copy_within(self.read..self.filled, 0);
            self.filled -= self.read;
            self.read = 0;
        }
        let len = self.stream.read(&mut self.buffer[self.filled..])?;
        assert!(len > 0, "the server closed the connection");
        self.filled += len;
        Ok(())
    }

    /// Reads a bulk string; how long it is.
    fn bulk(&mut self) -> Result<usize> {
        let end = loop {
            let held = &self.buffer[self.read..self.filled];
            match held.iter().position(|byte| *byte == b'\n') {
                Some(end) => break end,
                None => self.more()?,
            }
        };
        let line = String::from_utf8_lossy(&self.buffer[self.read..self.read + end]).into_owned();
        let len: usize =
            line.trim_end().strip_prefix('$').and_then(|len| len.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        self.read += end + 1;
        while self.filled - self.read < len + 2 {
            self.more()?;
        }
        self.read += len + 2;
        if self.read == self.filled {
            (self.read, self.filled) = (0, 0);
        }
        Ok(len)
    }
}

fn request(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend(*word);
        out.extend(b"\r\n");
    }
}

/// Random bytes that nobody can shrink (xorshift).
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend(seed.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[allow(clippy::cast_precision_loss, reason = "counts of a second or two")]
fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [label, addr] = &arguments[..] else {
        eprintln!("LABEL ADDRESS");
        return Ok(());
    };
    let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut client = Client::connect(addr)?;
    let mut sent = Vec::new();
    for (len, name) in LENS {
        let key = |n: usize| format!("{run}-{name}-{n}");
        let mut value = noise(len, 0x9e37_79b9_7f4a_7c15 ^ len as u64);
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < TIME && count * len < WRITTEN_MAX {
            value[..8].copy_from_slice(&(count as u64).to_le_bytes());
            sent.clear();
            request(&[b"SET", key(count).as_bytes(), &value], &mut sent);
            client.stream.write_all(&sent)?;
            client.bulk()?;
            count += 1;
        }
        println!("{label} set {name} {:.1} /s", rate(count, begun));
        let (begun, mut got) = (Instant::now(), 0_usize);
        while begun.elapsed() < TIME {
            sent.clear();
            // In an order of its own.
            request(&[b"GET", key(got.wrapping_mul(7919) % count).as_bytes()], &mut sent);
            client.stream.write_all(&sent)?;
            assert_eq!(client.bulk()?, len);
            got += 1;
        }
        println!("{label} get {name} {:.1} /s", rate(got, begun));
    }
    let value = noise(128, 1);
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < TIME {
        sent.clear();
        for n in count..count + PIPELINE {
            request(&[b"SET", format!("{run}-p-{n}").as_bytes(), &value], &mut sent);
        }
        client.stream.write_all(&sent)?;
        for _ in 0..PIPELINE {
            client.bulk()?;
        }
        count += PIPELINE;
    }
    println!("{label} set 64x128B {:.1} /s", rate(count, begun));
    Ok(())
}
