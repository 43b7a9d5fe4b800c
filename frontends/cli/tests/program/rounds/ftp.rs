//! A client that uploads, moves and removes whole files over FTP: each call is durable when it is answered.

use std::{io::Cursor, net::SocketAddr, sync::Arc};

use muxfs::testing::fault::Dice;
use suppaftp::{FtpError, FtpStream, Status, types::FileType};

use super::{Expected, Lost, Round};

type Called<T> = Result<T, Lost>;

pub(super) struct FtpClient {
    dir: String,
    dice: Dice,
    expected: Expected<Arc<Vec<u8>>>,
}

/// What a call said; an answer that no working server gives fails the test.
fn called<T>(what: &str, result: Result<T, FtpError>) -> Called<T> {
    match result {
        Ok(value) => Ok(value),
        Err(FtpError::ConnectionError(_) | FtpError::BadResponse) => Err(Lost),
        Err(FtpError::UnexpectedResponse(response))
            if matches!(response.status, Status::NotAvailable | Status::TransferAborted) =>
        {
            Err(Lost)
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

impl FtpClient {
    pub(super) fn new(dir: String, seed: u64) -> Self {
        Self { dir, dice: Dice::new(seed), expected: Expected::new() }
    }

    /// Looks at what is there, and works until the server is gone.
    pub(super) fn run(&mut self, addr: SocketAddr, round: &Round) {
        let Ok(mut ftp) = self.connect(addr) else { return };
        let looked = self.look(&mut ftp);
        if looked.is_ok() {
            while self.step(&mut ftp).is_ok() {
                round.answered();
            }
        }
    }

    fn connect(&self, addr: SocketAddr) -> Called<FtpStream> {
        let mut ftp = called("connect", FtpStream::connect(addr))?;
        called("login", ftp.login("anyone", "x"))?;
        called("type", ftp.transfer_type(FileType::Binary))?;
        // There already, but in the first round.
        match ftp.mkdir(&self.dir) {
            Err(FtpError::UnexpectedResponse(response)) if response.status == Status::FileUnavailable => {}
            made => called("mkdir", made)?,
        }
        called("cwd", ftp.cwd(&self.dir))?;
        Ok(ftp)
    }

    fn look(&mut self, ftp: &mut FtpStream) -> Called<()> {
        let mut found = Vec::new();
        for name in called("nlst", ftp.nlst(None))? {
            let bytes = called("retr", ftp.retr_as_buffer(&name))?.into_inner();
            found.push((name, bytes));
        }
        found.sort();
        let is_found = |state: &super::State<Arc<Vec<u8>>>| {
            state.iter().map(|(name, bytes)| (name, &**bytes)).eq(found.iter().map(|(name, bytes)| (name, bytes)))
        };
        let lens = |files: &mut dyn Iterator<Item = (&String, usize)>| {
            files.map(|(name, len)| format!("{name} {len}")).collect::<Vec<_>>().join(", ")
        };
        self.expected.found(&self.dir, is_found, |states| {
            let states = states.iter().map(|state| lens(&mut state.iter().map(|(name, bytes)| (name, bytes.len()))));
            format!(
                "{}; may be:\n{}",
                lens(&mut found.iter().map(|(name, bytes)| (name, bytes.len()))),
                states.collect::<Vec<_>>().join("\n")
            )
        });
        Ok(())
    }

    fn step(&mut self, ftp: &mut FtpStream) -> Called<()> {
        let name = format!("f{}", self.dice.roll(8));
        let is_there = self.expected.now().contains_key(&name);
        match self.dice.roll(8) {
            0 if is_there => {
                self.expected.begin(|state| {
                    state.remove(&name);
                });
                called("dele", ftp.rm(&name))?;
            }
            1 if is_there => {
                let to = format!("f{}", self.dice.roll(8));
                self.expected.begin(|state| {
                    let bytes = state.remove(&name).expect("it is there");
                    state.insert(to.clone(), bytes);
                });
                called("rename", ftp.rename(&name, &to))?;
            }
            2 | 3 if is_there => {
                let bytes = called("retr", ftp.retr_as_buffer(&name))?.into_inner();
                assert!(bytes == **self.expected.now().get(&name).expect("it is there"), "{}/{name} differs", self.dir);
            }
            _ => {
                let len = if self.dice.roll(12) == 0 { 2_500_000 } else { self.dice.roll(20_000) };
                let bytes = Arc::new(self.dice.bytes(len));
                self.expected.begin(|state| {
                    state.insert(name.clone(), Arc::clone(&bytes));
                });
                called("stor", ftp.put_file(&name, &mut Cursor::new(&**bytes)))?;
            }
        }
        self.expected.settle();
        Ok(())
    }
}
