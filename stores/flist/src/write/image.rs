//! Images of containers: a docker-save archive, or an OCI layout as a directory or in an archive.
//!
//! ```text
//!   manifest.json, or index.json ---> a manifest ---> the layers, lowest first, each over those below
//!                                         '---> the configuration ---> entrypoint, environ, …
//! ```
//!
//! What has a SHA-256 for its name is held against it. Spec: spec/flist.md #images.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use muxfs::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    filler::Filler,
    io_failed,
    layer::put_layer,
    tar::{Tar, corrupt, damaged, names, unpacked},
};
use crate::chunk::hex;

/// The longest manifest or configuration, in bytes.
const JSON_LEN_MAX: u64 = 16 << 20;
/// The most files of an archive: some three of each layer.
const MEMBER_COUNT_MAX: usize = 1 << 16;
/// The most layers.
const LAYER_COUNT_MAX: usize = 1024;
/// An index may lead to another.
const INDEX_DEPTH_MAX: usize = 4;
const OP: &str = "flist.image";

/// The files of an image, by name.
pub(super) enum Blobs {
    Dir(PathBuf),
    /// An archive that is not packed: where the data of each of its files is, how long, and where links lead to.
    Tar {
        file: File,
        members: HashMap<Vec<u8>, Place>,
    },
}

/// Where something is in an archive.
#[derive(Clone)]
pub(super) enum Place {
    At { at: u64, len: u64 },
    Link(Vec<u8>),
}

impl Blobs {
    /// The files of an archive, which is unpacked into a file of `scratch` that has no name where it is packed; `None` where
    /// it is no image.
    pub(super) fn of_tar(path: &Path, scratch: &Path) -> Result<Option<Self>> {
        let failed = |error: io::Error| io_failed(&error).at(path.display());
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut magic = [0; 6];
        let have = file.read(&mut magic).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let is_packed = matches!(magic.get(..have), Some([0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0xfd, b'7', ..]));
        if !may_be_image(Tar::new(unpacked(&file, len)?))? {
            return Ok(None);
        }
        file.rewind().map_err(failed)?;
        if is_packed {
            let mut plain = tempfile::tempfile_in(scratch).map_err(|error| io_failed(&error))?;
            io::copy(&mut unpacked(&file, len)?, &mut plain).map_err(|error| damaged(&error))?;
            file = plain;
        }
        let mut tar = Tar::new(SeekSkip { file: &file, at: 0 });
        let mut members = HashMap::new();
        while let Some(member) = tar.next()? {
            if members.len() == MEMBER_COUNT_MAX {
                break;
            }
            let place = match member.kind {
                b'0' => Place::At { at: member.at, len: member.len },
                b'1' | b'2' => Place::Link(resolved(&member.path, &member.target, member.kind == b'1')),
                _ => continue,
            };
            members.insert(member.path.strip_prefix(b"./").unwrap_or(&member.path).to_vec(), place);
        }
        let is_oci = members.contains_key(&b"oci-layout"[..]);
        let blobs = Self::Tar { file, members };
        // Others may have a file of that name, too.
        let is_image =
            is_oci || blobs.json("manifest.json").is_ok_and(|found| found.is_some_and(|found| found.is_array()));
        Ok(is_image.then_some(blobs))
    }

    /// The bytes of a file, and how many they are; `None` where it is not there.
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + Send + '_>, u64)>> {
        // No part of it leads out.
        names(name.as_bytes())?;
        match self {
            Self::Dir(dir) => {
                let path = dir.join(name);
                let failed = |error: io::Error| io_failed(&error).at(path.display());
                match File::open(&path) {
                    Ok(file) => {
                        let len = file.metadata().map_err(failed)?.len();
                        Ok(Some((Box::new(file), len)))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed(error)),
                }
            }
            Self::Tar { file, members } => {
                let mut place = members.get(name.as_bytes());
                // A link to a link to a file: a loop ends, too.
                for _ in 0..3 {
                    match place {
                        None => return Ok(None),
                        Some(Place::Link(target)) => place = members.get(target),
                        Some(Place::At { at, len }) => {
                            return Ok(Some((Box::new(SeekSkip { file, at: *at }.take(*len)), *len)));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some((bytes, _)) = self.open(name)? else { return Ok(None) };
        let mut text = Vec::new();
        bytes.take(JSON_LEN_MAX + 1).read_to_end(&mut text).map_err(|error| damaged(&error).at(name))?;
        if text.len() as u64 > JSON_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP)
                .at(name)
                .because(format!("more than {JSON_LEN_MAX} bytes")));
        }
        check_digest(name, &Sha256::digest(&text)).map_err(|error| error.at(name))?;
        let value =
            serde_json::from_slice(&text).map_err(|error| corrupt(format!("it is no JSON: {error}")).at(name))?;
        Ok(Some(value))
    }

    fn json_there(&self, name: &str) -> Result<Value> {
        self.json(name)?.ok_or_else(|| corrupt("the image does not have it").at(name))
    }
}

/// Whether the first files of an archive are such as images have: of others not all has to be read to know.
fn may_be_image(mut tar: Tar<impl Read>) -> Result<bool> {
    for _ in 0..MEMBER_COUNT_MAX {
        let Some(member) = tar.next()? else { return Ok(false) };
        let path = member.path.strip_prefix(b"./").unwrap_or(&member.path);
        if matches!(path, b"manifest.json" | b"oci-layout") || path.starts_with(b"blobs/sha256/") {
            return Ok(true);
        }
        let ends = [&b".json"[..], b"/json", b"layer.tar", b".tar", b"/VERSION", b"repositories"];
        if member.kind == b'0' && !ends.iter().any(|end| path.ends_with(end)) {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Reads a file from a place, and jumps over what is skipped.
struct SeekSkip<'a> {
    file: &'a File,
    at: u64,
}

impl Read for SeekSkip<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let len = file.read(room)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// Where a link of an archive leads to, as a name in it.
fn resolved(path: &[u8], target: &[u8], is_whole: bool) -> Vec<u8> {
    let above = path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default();
    let whole = if is_whole { target.to_vec() } else { [above, b"/", target].concat() };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in whole.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        match part {
            b".." => parts.truncate(parts.len().saturating_sub(1)),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Holds a name that is a SHA-256 against it.
fn check_digest(name: &str, found: &[u8]) -> Result<()> {
    match name.strip_prefix("blobs/sha256/") {
        Some(digest) if hex(found) != digest => Err(corrupt("its bytes have another SHA-256 than its name")),
        _ => Ok(()),
    }
}

/// Hashes what is read.
struct Hashed<R> {
    bytes: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.read(room)?;
        self.hasher.update(room.get(..len).unwrap_or_default());
        Ok(len)
    }
}

/// What an image is made of.
struct Manifest {
    config: String,
    layers: Vec<String>,
}

/// Puts the layers of an image into the tree; what it says of itself.
///
/// # Errors
/// `Corrupt` for what is no image, or damaged; those of reading.
pub(super) fn fill(filler: &mut Filler, blobs: &Blobs) -> Result<Vec<(String, String)>> {
    let manifest = manifest(blobs)?;
    if manifest.layers.len() > LAYER_COUNT_MAX {
        let why = format!("it has {} layers, and {LAYER_COUNT_MAX} at most are read", manifest.layers.len());
        return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
    }
    for name in &manifest.layers {
        let (bytes, len) = blobs.open(name)?.ok_or_else(|| corrupt("the image does not have it").at(name))?;
        let mut hashed = Hashed { bytes, hasher: Sha256::new() };
        put_layer(filler, unpacked(&mut hashed, len)?).map_err(|error| error.at(format!("layer {name}")))?;
        // What is behind the end of the tar counts too.
        io::copy(&mut hashed, &mut io::sink()).map_err(|error| damaged(&error).at(name))?;
        check_digest(name, &hashed.hasher.finalize()).map_err(|error| error.at(name))?;
    }
    Ok(metadata(&blobs.json_there(&manifest.config)?))
}

/// The file of a digest `sha256:…`.
fn blob_name(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.filter(|digest| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digest.map(|digest| format!("blobs/sha256/{digest}")).ok_or_else(|| corrupt("a part of it has no SHA-256"))
}

fn manifest(blobs: &Blobs) -> Result<Manifest> {
    if let Some(found) = blobs.json("manifest.json")? {
        let images = found.as_array().map(Vec::as_slice).unwrap_or_default();
        let [image] = images else {
            let why = format!("it has {} images, and an flist is made of one", images.len());
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        };
        let text =
            |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| corrupt("manifest.json names no file"));
        let layers = image["Layers"].as_array().ok_or_else(|| corrupt("manifest.json names no layers"))?;
        return Ok(Manifest {
            config: text(&image["Config"])?,
            layers: layers.iter().map(text).collect::<Result<_>>()?,
        });
    }
    let mut found = blobs.json_there("index.json")?;
    for _ in 0..INDEX_DEPTH_MAX {
        if let Some(layers) = found["layers"].as_array() {
            let layers = layers.iter().map(blob_name).collect::<Result<_>>()?;
            return Ok(Manifest { config: blob_name(&found["config"])?, layers });
        }
        let images = found["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        found = blobs.json_there(&blob_name(of_this_machine(images)?)?)?;
    }
    Err(corrupt("its index leads to no manifest"))
}

/// The only image of an index, or that for this machine.
fn of_this_machine(images: &[Value]) -> Result<&Value> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |image: &&Value| {
        let platform = &image["platform"];
        platform["os"] == "linux" && platform["architecture"] == machine
    };
    match images {
        [image] => Ok(image),
        _ => images.iter().find(fits).ok_or_else(|| {
            let why = format!("it has {} images, and none is for linux/{machine}", images.len());
            Error::new(ErrorKind::InvalidArgument, OP).because(why)
        }),
    }
}

/// What a configuration says, as the keys of an flist.
fn metadata(image: &Value) -> Vec<(String, String)> {
    let config = &image["config"];
    let list = |name: &str| config[name].as_array().cloned().unwrap_or_default();
    let keys =
        |name: &str| -> Vec<&String> { config[name].as_object().map(|map| map.keys().collect()).unwrap_or_default() };
    let text = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
    let mut environ = Map::new();
    for pair in list("Env") {
        if let Some((key, value)) = pair.as_str().and_then(|pair| pair.split_once('=')) {
            environ.insert(key.into(), value.into());
        }
    }
    let start = [list("Entrypoint"), list("Cmd")].concat();
    let all = [
        ("entrypoint", if start.is_empty() { String::new() } else { json!(start).to_string() }),
        ("environ", if environ.is_empty() { String::new() } else { Value::Object(environ).to_string() }),
        ("port", if keys("ExposedPorts").is_empty() { String::new() } else { json!(keys("ExposedPorts")).to_string() }),
        ("volume", if keys("Volumes").is_empty() { String::new() } else { json!(keys("Volumes")).to_string() }),
        ("workdir", text("WorkingDir")),
        ("user", text("User")),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.into(), value)).collect()
}
