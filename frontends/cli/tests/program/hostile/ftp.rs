//! FTP: a path on a line of the control connection.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
};

use muxfs::{
    Cid,
    testing::hostile::{HostilePath, Sort},
};

use super::{Exception, Verdict, Wire, walked};

pub(super) struct Ftp {
    stream: BufReader<TcpStream>,
    dir: Cid,
}

impl Ftp {
    pub(super) fn new(addr: SocketAddr, dir: Cid) -> Self {
        let mut ftp = Self { stream: BufReader::new(TcpStream::connect(addr).expect("connected")), dir };
        assert_eq!(ftp.reply().0, 220);
        assert_eq!(ftp.say("USER", b"anyone").0, 331);
        assert_eq!(ftp.say("PASS", b"x").0, 230);
        ftp
    }

    fn ask(&mut self, verb: &str, path: &HostilePath) -> (u16, String) {
        let path: Vec<u8> = path.parts.iter().flat_map(|part| [b"/", &part[..]].concat()).collect();
        self.say(verb, &path)
    }

    fn say(&mut self, verb: &str, argument: &[u8]) -> (u16, String) {
        let mut line = [verb.as_bytes(), b" "].concat();
        for byte in argument {
            // Telnet's own byte is said twice.
            line.extend(std::iter::repeat_n(*byte, if *byte == 0xff { 2 } else { 1 }));
        }
        line.extend(b"\r\n");
        self.stream.get_mut().write_all(&line).expect("sent");
        self.reply()
    }

    fn reply(&mut self) -> (u16, String) {
        let mut all = String::new();
        loop {
            let mut line = Vec::new();
            assert_ne!(self.stream.read_until(b'\n', &mut line).expect("answered"), 0, "it hung up after {all}");
            let line = String::from_utf8_lossy(&line).into_owned();
            all.push_str(&line);
            if line.as_bytes().get(3) == Some(&b' ') && line.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
                return (line[..3].parse().expect("a code"), all);
            }
        }
    }
}

fn verdict((code, told): (u16, String)) -> Verdict {
    match code {
        550 => Verdict::NotFound,
        // One code for both: the words tell.
        500 | 553 if told.contains("too long") => Verdict::TooLong,
        553 => Verdict::Invalid,
        _ => panic!("no verdict: {told}"),
    }
}

impl Wire for Ftp {
    fn name(&self) -> &'static str {
        "FTP"
    }

    fn exception(&self, path: &HostilePath) -> Option<Exception> {
        if path.parts.iter().flatten().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return Some(Exception::Cannot("a line ends there"));
        }
        if path.parts.iter().flatten().any(|byte| *byte == b'/') {
            return Some(Exception::Cannot("a slash within a name is one between two"));
        }
        match path.sort {
            Sort::Dots => {
                let (found, _) = walked(path, &self.dir, false);
                Some(Exception::Says(found, "'..' goes back by name, and stops at the root"))
            }
            Sort::Kept => Some(Exception::Says(Verdict::Invalid, "names that are kept for uploads are refused")),
            _ => None,
        }
    }

    fn look(&mut self, path: &HostilePath) -> Verdict {
        match self.ask("MLST", path) {
            (250, told) if told.contains("type=dir;") => Verdict::Dir,
            (250, told) => {
                let size = told.split("size=").nth(1).and_then(|rest| rest.split(';').next()).expect("a size");
                Verdict::File(size.parse().expect("a number"))
            }
            refused => verdict(refused),
        }
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict {
        match self.ask("MKD", path) {
            (257, _) => Verdict::Made,
            refused => verdict(refused),
        }
    }

    fn remove_dir(&mut self, path: &HostilePath) {
        let (code, told) = self.ask("RMD", path);
        assert_eq!(code, 250, "{}: {told}", path.shown());
    }
}
