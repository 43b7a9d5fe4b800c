//! An FTP client: whole files by name.

use std::{io::Cursor, net::SocketAddr};

use muxfs::testing::linear::Role::{Change, Read};
use suppaftp::{FtpError, FtpResult, FtpStream, Status, types::FileType};

use super::{
    Client, Directory, Log,
    model::{NAMES, Name, Op},
};

pub(super) struct FtpClient {
    who: String,
    ftp: FtpStream,
}

impl FtpClient {
    pub(super) fn new(who: &str, addr: SocketAddr) -> Self {
        let mut ftp = FtpStream::connect(addr).expect("connected");
        ftp.login(who, "x").expect("loopback takes any name");
        ftp.transfer_type(FileType::Binary).expect("binary");
        Self { who: who.into(), ftp }
    }
}

/// What a command said; `None` where there is no such name.
fn absent<T>(result: FtpResult<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(FtpError::UnexpectedResponse(response)) if response.status == Status::FileUnavailable => None,
        Err(error) => panic!("{error}"),
    }
}

impl Client for FtpClient {
    fn who(&self) -> &str {
        &self.who
    }

    fn reaches(&self, _: &Directory) -> bool {
        true
    }

    fn work(&mut self, dir: &Directory, log: &mut Log) {
        self.ftp.cwd(&dir.path).expect("it is there");
        for _ in 0..log.count {
            let name = log.name();
            match log.dice.roll(12) {
                0..=2 => self.retr(name, log),
                3 => self.size(name, log),
                4 => self.list(log),
                5 => self.dele(name, log),
                6 => self.chmod(name, log),
                7 | 8 if !dir.has_links => self.rename(name, log),
                _ => self.stor(name, log),
            }
        }
    }

    fn look(&mut self, dir: &Directory, log: &mut Log) {
        self.ftp.cwd(&dir.path).expect("it is there");
        for name in 0..NAMES.len() {
            self.retr(name, log);
        }
        self.list(log);
    }
}

impl FtpClient {
    fn retr(&mut self, name: Name, log: &mut Log) {
        let span = log.begin();
        let bytes = absent(self.ftp.retr_as_buffer(NAMES[name]));
        let span = log.end(span);
        let Some(bytes) = bytes else { return log.told(span, Read, Op::Absent(name)) };
        // The name is looked up, then the file is read.
        let found = log.found(span, Read, name);
        log.told(span, Read, Op::Bytes(found, bytes.into_inner()));
    }

    fn size(&mut self, name: Name, log: &mut Log) {
        let span = log.begin();
        let len = absent(self.ftp.size(NAMES[name]));
        let span = log.end(span);
        let Some(len) = len else { return log.told(span, Read, Op::Absent(name)) };
        let found = log.found(span, Read, name);
        log.told(span, Read, Op::Len(found, len));
    }

    fn list(&mut self, log: &mut Log) {
        let span = log.begin();
        let names = self.ftp.nlst(None).expect("listed");
        let span = log.end(span);
        log.listed(span, Read, |name| names.iter().any(|listed| listed == name));
    }

    fn dele(&mut self, name: Name, log: &mut Log) {
        let span = log.begin();
        let removed = absent(self.ftp.rm(NAMES[name]));
        let span = log.end(span);
        match removed {
            Some(()) => log.told(span, Change, Op::Remove(name)),
            None => log.told(span, Read, Op::Absent(name)),
        }
    }

    fn chmod(&mut self, name: Name, log: &mut Log) {
        let mode = log.mode();
        let span = log.begin();
        let changed = absent(self.ftp.site(format!("CHMOD {mode:o} {}", NAMES[name])));
        let span = log.end(span);
        // Where it is absent it may have gone after it was found.
        if changed.is_some() {
            let found = log.found(span, Read, name);
            log.told(span, Change, Op::SetMode(found, mode));
        }
    }

    fn rename(&mut self, from: Name, log: &mut Log) {
        let to = log.other_than(from);
        let span = log.begin();
        let renamed = absent(self.ftp.rename(NAMES[from], NAMES[to]));
        let span = log.end(span);
        match renamed {
            Some(()) => log.told(span, Change, Op::Rename(from, to)),
            None => log.told(span, Read, Op::Absent(from)),
        }
    }

    /// The file has its name at one stroke.
    fn stor(&mut self, name: Name, log: &mut Log) {
        let (node, bytes) = (log.number(), log.body());
        let span = log.begin();
        self.ftp.put_file(NAMES[name], &mut Cursor::new(&bytes)).expect("stored");
        let span = log.end(span);
        log.told(span, Change, Op::Put(name, node, bytes));
    }
}
