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

use muxfs::{Error, ErrorKind, Name, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    filler::Filler,
    io_failed,
    layer::put_layer,
    tar::{Tar, Unpacking, corrupt, damaged, names, unpacked},
};
use crate::{chunk::hex, flist::scratch_failed};

/// The longest manifest or configuration, in bytes: registries take no longer ones.
const JSON_LEN_MAX: u64 = 4 << 20;
/// The most files of an archive: some three of each layer.
const MEMBER_COUNT_MAX: usize = 1 << 16;
/// The longest name of one, in bytes, and how long all are together.
const NAME_LEN_MAX: usize = 4096;
const NAMES_LEN_MAX: usize = 16 << 20;
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
    /// The files of an archive, which is unpacked into a file that has no name where it is packed; `None` where
    /// it is no image.
    pub(super) fn of_tar(path: &Path, unpacking: &Unpacking) -> Result<Option<Self>> {
        let scratch = &unpacking.scratch;
        let failed = |error: io::Error| io_failed(&error).at(path.display());
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut magic = [0; 6];
        let have = file.read(&mut magic).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let is_packed = matches!(magic.get(..have), Some([0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0xfd, b'7', ..]));
        if !may_be_image(Tar::new(unpacked(&file, len, unpacking)?))? {
            return Ok(None);
        }
        file.rewind().map_err(failed)?;
        if is_packed {
            let no_scratch = |error: &io::Error| scratch_failed(scratch, error);
            let mut plain = tempfile::tempfile_in(scratch).map_err(|error| no_scratch(&error))?;
            io::copy(&mut unpacked(&file, len, unpacking)?, &mut plain).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_scratch(&error),
                _ => damaged(&error),
            })?;
            file = plain;
        }
        let members = members(&mut Tar::new(SeekSkip { file: &file, at: 0 }))?;
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
        let parts = names(name.as_bytes())?;
        match self {
            Self::Dir(dir) => {
                let named = |error: Error| error.at(dir.join(name).display());
                let Some(file) = open_below(dir, &parts).map_err(named)? else { return Ok(None) };
                let len = file.metadata().map_err(|error| named(io_failed(&error)))?.len();
                Ok(Some((Box::new(file), len)))
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

    fn is_oci(&self) -> Result<bool> {
        Ok(self.open("oci-layout")?.is_some() && self.open("index.json")?.is_some())
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

/// Where the files of an archive are, as far as an image may name them, and has so many.
fn members(tar: &mut Tar<impl Read>) -> Result<HashMap<Vec<u8>, Place>> {
    let (mut members, mut len) = (HashMap::new(), 0);
    while let Some(member) = tar.next()? {
        if member.path.len() > NAME_LEN_MAX || member.target.len() > NAME_LEN_MAX {
            continue;
        }
        let place = match member.kind {
            b'0' => Place::At { at: member.at, len: member.len },
            b'1' | b'2' => Place::Link(resolved(&member.path, &member.target, member.kind == b'1')),
            _ => continue,
        };
        len += member.path.len() + if let Place::Link(target) = &place { target.len() } else { 0 };
        if members.len() == MEMBER_COUNT_MAX || len > NAMES_LEN_MAX {
            break;
        }
        members.insert(member.path.strip_prefix(b"./").unwrap_or(&member.path).to_vec(), place);
    }
    Ok(members)
}

/// Opens a file below a directory, through no symlink, and nothing that is no file; `None` where it is not there.
fn open_below(dir: &Path, names: &[Name]) -> Result<Option<File>> {
    let failed = |error: io::Error| io_failed(&error);
    let (flags, none) = (OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let mut at = File::open(dir).map_err(failed)?;
    for name in names {
        at = match openat(&at, name.as_bytes(), flags, none) {
            Ok(below) => below.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(corrupt("it is a symlink, and none in an image is followed")),
            Err(error) => return Err(failed(error.into())),
        };
    }
    if at.metadata().map_err(failed)?.is_file() { Ok(Some(at)) } else { Err(corrupt("it is no file")) }
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

/// The SHA-256 that a name is: that of a blob, of a configuration of Docker, `DIGEST.json`, and of a layer of Podman,
/// `DIGEST.tar`.
fn digest_of_name(name: &str) -> Option<&str> {
    let last = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    let digest = last.strip_suffix(".json").or_else(|| last.strip_suffix(".tar")).unwrap_or(last);
    is_digest(digest).then_some(digest)
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Holds a name that is a SHA-256 against it.
fn check_digest(name: &str, found: &[u8]) -> Result<()> {
    match digest_of_name(name) {
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

/// Puts the layers of an image, the one of a name where one is wanted, into the tree; what it says of itself.
///
/// # Errors
/// `Corrupt` for what is no image, or damaged; those of reading.
pub(super) fn fill(filler: &mut Filler, blobs: &Blobs, wanted: Option<&str>) -> Result<Vec<(String, String)>> {
    let manifest = manifest(blobs, wanted)?;
    if manifest.layers.len() > LAYER_COUNT_MAX {
        let why = format!("it has {} layers, and {LAYER_COUNT_MAX} at most are read", manifest.layers.len());
        return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
    }
    let config = blobs.json_there(&manifest.config)?;
    let digests = diff_ids(&config, manifest.layers.len()).map_err(|error| error.at(&manifest.config))?;
    for (name, digest) in manifest.layers.iter().zip(digests) {
        let (bytes, len) = blobs.open(name)?.ok_or_else(|| corrupt("the image does not have it").at(name))?;
        let (found, stored) = put_hashed(filler, bytes, len).map_err(|error| error.at(format!("layer {name}")))?;
        let is_right = is_digest(&digest) && found == digest;
        if !is_right {
            let why = format!("unpacked it has the SHA-256 {found}, and the image says {digest}");
            return Err(corrupt(why).at(format!("layer {name}")));
        }
        // One of Podman has the name of what is unpacked, whatever it is packed in.
        if name.starts_with("blobs/") {
            check_digest(name, &stored).map_err(|error| error.at(name))?;
        }
    }
    Ok(metadata(&config))
}

/// Puts a layer of so many bytes; the SHA-256 of what is unpacked in hex, and that of the bytes.
fn put_hashed(filler: &mut Filler, bytes: impl Read + Send, len: u64) -> Result<(String, Vec<u8>)> {
    let failed = |error: io::Error| damaged(&error);
    let mut stored = Hashed { bytes, hasher: Sha256::new() };
    let unpacking = filler.unpacking.clone();
    let plain = {
        let mut plain = Hashed { bytes: unpacked(&mut stored, len, &unpacking)?, hasher: Sha256::new() };
        put_layer(filler, &mut plain)?;
        // What is behind the end of the tar counts too, and behind that of its packing.
        io::copy(&mut plain, &mut io::sink()).map_err(failed)?;
        hex(&plain.hasher.finalize())
    };
    io::copy(&mut stored, &mut io::sink()).map_err(failed)?;
    Ok((plain, stored.hasher.finalize().to_vec()))
}

/// The SHA-256 of each layer as it is unpacked, which every configuration has.
fn diff_ids(config: &Value, layer_count: usize) -> Result<Vec<String>> {
    let found = config["rootfs"]["diff_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
    if found.len() != layer_count {
        let why = format!("it has the digests (diff_ids) of {} layers, and the image has {layer_count}", found.len());
        return Err(corrupt(why));
    }
    let digest = |id: &Value| id.as_str().and_then(|id| id.strip_prefix("sha256:")).map(str::to_owned);
    found.iter().map(|id| digest(id).ok_or_else(|| corrupt("a digest of a layer is no SHA-256"))).collect()
}

/// The file of a digest `sha256:…`.
fn blob_name(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.filter(|digest| is_digest(digest));
    digest.map(|digest| format!("blobs/sha256/{digest}")).ok_or_else(|| corrupt("a part of it has no SHA-256"))
}

/// The manifest of the image that is wanted: of an OCI layout from its index, also where it has what docker save writes, too.
fn manifest(blobs: &Blobs, wanted: Option<&str>) -> Result<Manifest> {
    if !blobs.is_oci()?
        && let Some(found) = blobs.json("manifest.json")?
    {
        return docker_manifest(&found, wanted);
    }
    let (mut found, mut wanted) = (blobs.json_there("index.json")?, wanted);
    for _ in 0..INDEX_DEPTH_MAX {
        if let Some(layers) = found["layers"].as_array() {
            let layers = layers.iter().map(blob_name).collect::<Result<_>>()?;
            return Ok(Manifest { config: blob_name(&found["config"])?, layers });
        }
        let images = found["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        // What an index leads to has no name of its own.
        found = blobs.json_there(&blob_name(chosen(images, wanted.take())?)?)?;
    }
    Err(corrupt("its index leads to no manifest"))
}

/// That of what docker save writes.
fn docker_manifest(found: &Value, wanted: Option<&str>) -> Result<Manifest> {
    let images = found.as_array().map(Vec::as_slice).unwrap_or_default();
    let tags = |image: &Value| -> Vec<String> {
        let tags = image["RepoTags"].as_array().map(Vec::as_slice).unwrap_or_default();
        tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
    };
    let fits: Vec<&Value> = images.iter().filter(|image| is_wanted(&tags(image), wanted)).collect();
    let [image] = fits[..] else { return Err(which(images.iter().flat_map(tags), images.len(), wanted)) };
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| corrupt("manifest.json names no file"));
    let layers = image["Layers"].as_array().ok_or_else(|| corrupt("manifest.json names no layers"))?;
    Ok(Manifest { config: text(&image["Config"])?, layers: layers.iter().map(text).collect::<Result<_>>()? })
}

/// Whether an image of these names is wanted, whole or by its tag.
fn is_wanted(names: &[String], wanted: Option<&str>) -> bool {
    let is = |name: &String, wanted: &str| {
        let is_end = |between| name.strip_suffix(wanted).is_some_and(|before| before.ends_with(between));
        name == wanted || is_end('/') || is_end(':') && !wanted.contains('/')
    };
    wanted.is_none_or(|wanted| names.iter().any(|name| is(name, wanted)))
}

/// Of several images, or none, an flist is not made.
fn which(names: impl Iterator<Item = String>, count: usize, wanted: Option<&str>) -> Error {
    let names: Vec<String> = names.take(20).map(|name| name.escape_debug().to_string()).collect();
    let names = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
    let (kind, why) = match wanted {
        Some(wanted) => {
            (ErrorKind::NotFound, format!("none or several of its {count} images are {wanted}: it has {names}"))
        }
        None => (
            ErrorKind::InvalidArgument,
            format!("it has {count} images, and an flist is made of one: name which of {names}"),
        ),
    };
    Error::new(kind, OP).because(why)
}

/// The image of an index that is wanted, and for this machine where some are for others.
fn chosen<'a>(images: &'a [Value], wanted: Option<&str>) -> Result<&'a Value> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let names = |image: &Value| -> Vec<String> {
        let name = |key: &str| image["annotations"][key].as_str().map(str::to_owned);
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"].into_iter().filter_map(name).collect()
    };
    let of_name: Vec<&Value> = images.iter().filter(|image| is_wanted(&names(image), wanted)).collect();
    let is_for_this = |image: &&&Value| {
        let platform = &image["platform"];
        platform["os"] == "linux" && platform["architecture"] == machine
    };
    let fits: Vec<&Value> = match of_name[..] {
        [image] => vec![image],
        // Where none is for any machine, their names alone tell them apart.
        _ if of_name.iter().all(|image| image["platform"].is_null()) => of_name.clone(),
        _ => of_name.iter().filter(is_for_this).copied().collect(),
    };
    match fits[..] {
        // The others are names of the same one.
        [image, ref more @ ..] if more.iter().all(|other| other["digest"] == image["digest"]) => Ok(image),
        [] if !of_name.is_empty() => {
            let why = format!("it has {} images, and none is for linux/{machine}", of_name.len());
            Err(Error::new(ErrorKind::InvalidArgument, OP).because(why))
        }
        _ => Err(which(images.iter().flat_map(names), images.len(), wanted)),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of names that are longer than anybody has them.
    #[test]
    fn names_of_an_archive_take_so_much_memory_and_no_more() {
        let mut tar = Vec::new();
        let header = |name: &[u8], kind: u8, len: usize| {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name);
            header[100..124].copy_from_slice(b"0000644\x000000000\x000000000\0");
            header[124..148].copy_from_slice(format!("{len:011o}\x0000000000000\0").as_bytes());
            header[148..156].fill(b' ');
            header[156] = kind;
            let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            header
        };
        for number in 0..10_000 {
            let len = if number % 2 == 0 { 4000 } else { 6000 };
            let mut name = format!("{number}/{}", "x".repeat(len)).into_bytes();
            tar.extend(header(b"long", b'L', name.len()));
            name.resize(name.len().next_multiple_of(512), 0);
            tar.extend(name);
            tar.extend(header(b"cut", b'0', 0));
        }
        let members = members(&mut Tar::new(&tar[..])).expect("read");
        let len: usize = members.keys().map(Vec::len).sum();
        assert!(len <= NAMES_LEN_MAX && len > NAMES_LEN_MAX / 2, "{len}");
        assert!(members.keys().all(|name| name.len() <= NAME_LEN_MAX));
    }

    #[test]
    fn an_image_is_named_whole_or_by_its_end() {
        let names = ["docker.io/library/alpine:3.20".to_owned(), "localhost:5000/x".to_owned()];
        for wanted in ["docker.io/library/alpine:3.20", "alpine:3.20", "3.20", "library/alpine:3.20", "x"] {
            assert!(is_wanted(&names, Some(wanted)), "{wanted}");
        }
        for other in ["alpine", "20", "5000/x", "pine:3.20", ""] {
            assert!(!is_wanted(&names, Some(other)), "{other}");
        }
        assert!(is_wanted(&names, None) && is_wanted(&[], None) && !is_wanted(&[], Some("x")));
    }
}
