//! Forms of several parts (`multipart/form-data`, RFC 7578), as clients of a hub send them: one file, whose bytes pass
//! through as they come, and small fields.

/// The longest head of a part, in bytes.
const HEAD_LEN_MAX: usize = 16 << 10;
/// The most fields, and the longest of them all together, in bytes.
const FIELD_COUNT_MAX: usize = 64;
const FIELDS_LEN_MAX: usize = 1 << 20;

/// What is wrong with a form.
pub(super) type Fault = &'static str;

/// A form that is being read.
#[derive(Debug)]
pub(super) struct Form {
    /// What ends a part.
    delimiter: Vec<u8>,
    held: Vec<u8>,
    state: State,
    /// What the client calls the file, once it began.
    pub(super) file: Option<String>,
    /// What else it says, so far.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    fields_len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A delimiter has to come.
    Delimiter,
    Head,
    File,
    /// The last of the fields.
    Field,
    End,
}

impl Form {
    /// Reads the form of a content type.
    pub(super) fn new(content_type: &str) -> Result<Self, Fault> {
        let boundary = content_type
            .split_once(';')
            .filter(|(kind, _)| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
            .and_then(|(_, rest)| rest.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary=")))
            .map(|boundary| boundary.trim_matches('"'))
            .filter(|boundary| (1..=70).contains(&boundary.len()))
            .ok_or("it is no form with a file: multipart/form-data, with a boundary")?;
        Ok(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // Before the first part stands no line end.
            held: b"\r\n".to_vec(),
            state: State::Delimiter,
            file: None,
            fields: Vec::new(),
            fields_len: 0,
        })
    }

    /// Takes what came, and puts what of it is of the file behind `file`.
    pub(super) fn push(&mut self, piece: &[u8], file: &mut Vec<u8>) -> Result<(), Fault> {
        self.held.extend_from_slice(piece);
        while self.step(file)? {}
        Ok(())
    }

    /// Goes on by one part of a part; whether there may be more.
    fn step(&mut self, file: &mut Vec<u8>) -> Result<bool, Fault> {
        match self.state {
            State::End => {
                self.held.clear();
                Ok(false)
            }
            State::Delimiter => {
                // Behind it is a line end, or the end of all.
                let len = self.delimiter.len() + 2;
                if self.held.len() < len {
                    return Ok(false);
                }
                let found = self.held.get(..len).and_then(|held| held.strip_prefix(&*self.delimiter));
                self.state = match found {
                    Some(b"\r\n") => State::Head,
                    Some(b"--") => State::End,
                    Some(_) => return Err("behind its boundary stands something else"),
                    None => return Err("it does not begin with its boundary"),
                };
                self.held.drain(..len);
                Ok(true)
            }
            State::Head => {
                let Some(end) = find(&self.held, b"\r\n\r\n") else {
                    return if self.held.len() > HEAD_LEN_MAX {
                        Err("the head of a part is too long")
                    } else {
                        Ok(false)
                    };
                };
                let head = parameters(self.held.get(..end).unwrap_or_default())?;
                self.state = self.begin(head)?;
                self.held.drain(..end + 4);
                Ok(true)
            }
            State::File | State::Field => {
                let found = find(&self.held, &self.delimiter);
                // The end of it may be the beginning of the delimiter.
                let len = found.unwrap_or_else(|| (self.held.len() + 1).saturating_sub(self.delimiter.len()));
                let content = self.held.drain(..len);
                match self.fields.last_mut() {
                    Some((_, field)) if self.state == State::Field => {
                        self.fields_len += content.len();
                        field.extend(content);
                    }
                    _ => file.extend(content),
                }
                if self.fields_len > FIELDS_LEN_MAX {
                    return Err("its fields are too long");
                }
                if found.is_some() {
                    self.state = State::Delimiter;
                }
                Ok(found.is_some())
            }
        }
    }

    fn begin(&mut self, (name, file): (String, Option<String>)) -> Result<State, Fault> {
        if name == "file" {
            if self.file.is_some() {
                return Err("it has two files");
            }
            self.file = Some(file.filter(|file| !file.is_empty()).ok_or("its file has no name")?);
            return Ok(State::File);
        }
        if self.fields.len() == FIELD_COUNT_MAX {
            return Err("it has too many fields");
        }
        self.fields.push((name, Vec::new()));
        Ok(State::Field)
    }

    /// Whether it came whole.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.state == State::End { Ok(()) } else { Err("it was cut off") }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted.first()?;
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.iter().position(|byte| byte == first)?;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The name of a part, and of the file that it is, as its head tells.
fn parameters(head: &[u8]) -> Result<(String, Option<String>), Fault> {
    let head = std::str::from_utf8(head).map_err(|_| "the head of a part is no UTF-8")?;
    let line = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition").then(|| value.trim())
    });
    let quoted = |key: &str| {
        let value = line?.split(';').find_map(|parameter| parameter.trim().strip_prefix(key))?;
        Some(value.trim_matches('"').to_owned())
    };
    Ok((quoted("name=").ok_or("a part of it has no name")?, quoted("filename=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=\"xyz\"";

    fn read(bytes: &[u8], piece_len: usize) -> Result<(Form, Vec<u8>), Fault> {
        let (mut form, mut file) = (Form::new(TYPE)?, Vec::new());
        for piece in bytes.chunks(piece_len) {
            form.push(piece, &mut file)?;
        }
        form.end().map(|()| (form, file))
    }

    fn part(head: &str, data: &[u8]) -> Vec<u8> {
        [format!("--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes(), data, b"\r\n"].concat()
    }

    const FILE: &str = "name=\"file\"; filename=\"a.flist\"";

    #[test]
    fn the_file_is_found_however_it_comes() {
        for data in [&b""[..], b"x", b"\r\n--xy", b"\r\n--xy\r\n--xy\r\n", b"\r\r\r\n\r\n-", &[7; 1000]] {
            let (before, after) = (part("name=\"metadata-a\"", b"1"), part("name=\"metadata-b\"", b"\r\n2"));
            let whole = [&before[..], &part(FILE, data), &after, b"--xyz--\r\n"].concat();
            for piece_len in [1, 2, 3, 7, 100, 5000] {
                let (form, file) = read(&whole, piece_len).expect("whole");
                assert_eq!((form.file.as_deref(), &file[..]), (Some("a.flist"), data), "by {piece_len}");
                let fields = [("metadata-a".to_owned(), b"1".to_vec()), ("metadata-b".to_owned(), b"\r\n2".to_vec())];
                assert_eq!(form.fields, fields);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = [&part(FILE, b"some bytes")[..], b"--xyz--\r\n"].concat();
        for len in 0..good.len() - 2 {
            assert!(read(&good[..len], 5).is_err(), "cut at {len}");
        }
        for bad in [
            [&part("name=\"file\"", b"no name")[..], b"--xyz--"].concat(),
            [&part("filename=\"a\"", b"no name")[..], b"--xyz--"].concat(),
            [&part(FILE, b"one")[..], &part(FILE, b"two"), b"--xyz--"].concat(),
            [&part("name=\"x\"", b"x").repeat(65)[..], b"--xyz--"].concat(),
            [&part("name=\"x\"", &vec![0; 2 << 20])[..], b"--xyz--"].concat(),
            b"--xyz\r\n\r\nx\r\n--xyz--".to_vec(),
            b"--xyzz\r\n\r\nx\r\n--xyz--".to_vec(),
            vec![b'x'; 20_000],
            [&b"--xyz\r\n"[..], &vec![b'x'; 20_000]].concat(),
        ] {
            assert!(read(&bad, 1000).is_err(), "{}", bad[..bad.len().min(80)].escape_ascii());
        }
        for bad in
            ["text/plain", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"]
        {
            assert!(Form::new(bad).is_err(), "{bad}");
        }
    }
}
