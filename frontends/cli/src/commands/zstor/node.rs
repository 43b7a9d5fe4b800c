//! `zstor node`: adding, draining and removing nodes.
//!
//! The configuration file is the one list of nodes, so it is what is changed: by the edit that a person would make, with
//! their comments kept, and taken back if the server refuses it. What follows the server does. Spec: spec/cli.md #zstor,
//! spec/adr/0021.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use muxfs::{Error, ErrorKind, Prefix, Result};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use super::{Status, chosen_one, look};
use crate::{
    args,
    commands::{place, put::host},
    config::{Config, Mount, ZstorMount},
    control::Client,
    host_file::{Editing, Mode, replace},
    namespace::{Namespace as _, Place},
    output::{Output, count},
    vault::{VaultMount, VaultStore},
    zstor,
};

const OP: &str = "zstor.node";
/// Who waits looks so often how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The file that marks a directory as a node.
const MARK: &str = "muxfs-node";

/// Changes the nodes of a mount.
///
/// # Errors
/// `InvalidArgument` where there is no file to change, or it cannot be so; `NotEmpty` where a node has blocks; `Unavailable`
/// while another command changes it; those of the server, with the file as it was.
pub(crate) async fn change_nodes(
    mut config: Config,
    server: Option<Client>,
    args: args::ZstorNode,
    output: Output,
) -> Result<()> {
    let (args::ZstorNode::Add { mount, wait, .. }
    | args::ZstorNode::Drain { mount, wait, .. }
    | args::ZstorNode::Rm { mount, wait, .. }) = &args;
    let (chosen, wait) = (mount.as_deref().map(prefix_of).transpose()?, *wait);
    if let Some(server) = &server {
        // The one that it runs with, whatever this command was given.
        let file = server.config_file().await?;
        if let (Some(given), Some(file)) = (&config.source.file, &file)
            && given != file
        {
            let why = format!("the server runs with {}: give that one, or none", file.display());
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(given.display()).because(why));
        }
        config.source.file = file;
    }
    let Some(file) = config.source.file.clone() else { return Err(no_file()) };
    let file = fs::canonicalize(&file).map_err(|error| host(&file, error))?;
    let editing = Editing::begin(&file).await?;
    // As whoever changed it before left it.
    let config = Config::effective(config.source)?;
    if let Some(chosen) = chosen {
        let is_vault_on_nodes = |mount: &Mount| {
            mount.prefix() == chosen
                && matches!(mount, Mount::Vault(VaultMount { store: Some(VaultStore::Zstor(_)), .. }))
        };
        if config.mount.iter().any(is_vault_on_nodes) {
            let why = "its nodes are those of the store of a vault: change them in the configuration file, and restart the server";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(format!("/{chosen}")).because(why));
        }
    }
    let mounts = config.zstors().map(|mount| (mount.prefix.0, mount));
    let (prefix, mount) = chosen_one(mounts.collect(), chosen)?;
    let names: Vec<String> = zstor::nodes(&config.data, mount).into_iter().map(|node| node.name).collect();
    let before = fs::read_to_string(&file).map_err(|error| host(&file, error))?;
    let mut edit = Edit::new(&before, prefix, &config.data, mount)?;
    let number = |name: &str| {
        names.iter().position(|other| other == name).ok_or_else(|| {
            let why = format!("there is no node of that name; the nodes are {}", names.join(", "));
            Error::new(ErrorKind::InvalidArgument, OP).at(name).because(why)
        })
    };
    let mut marked = None;
    let done = match &args {
        args::ZstorNode::Add { place, name, group, password_file, .. } => {
            let node = NewNode::new(place, name.as_deref(), group.as_deref(), password_file.as_deref())?;
            let name = node.name();
            if names.contains(&name) {
                let why = "there is a node of that name: give it another, with --name";
                return Err(Error::new(ErrorKind::Exists, OP).at(name).because(why));
            }
            if node.dir.is_none() && server.is_none() {
                let why = "a namespace is marked by the server that takes it: start one first";
                return Err(Error::new(ErrorKind::Unavailable, OP).at(place).because(why));
            }
            edit.add(&node)?;
            if let Some(dir) = &node.dir {
                marked = mark(dir)?;
            }
            format!("{name} is a node of /{prefix}")
        }
        args::ZstorNode::Drain { name, undo, .. } => {
            edit.drain(number(name)?, !undo)?;
            let how = if *undo { "is used again" } else { "is being emptied: see muxfs zstor status" };
            format!("{name} {how}")
        }
        args::ZstorNode::Rm { name, lost, .. } => {
            let number = number(name)?;
            let looker = look(config.clone()).await?;
            let status = looker.status(Some(prefix)).await?;
            may_go(&status, name, *lost)?;
            edit.remove(number)?;
            format!("{name} is no node of /{prefix} any more")
        }
    };
    let write = |text: &str| replace(&file, text.as_bytes(), Mode::Kept).map_err(|error| host(&file, error));
    let changed = async {
        write(&edit.text())?;
        // Whatever it is that a start would refuse.
        let config = Config::effective(config.source.clone())?;
        if let Some(mount) = config.zstor(prefix) {
            zstor::check(&config.data, mount)?;
        }
        match &server {
            Some(server) => {
                let mut reloaded = server.reload().await?;
                reloaded.take_refused(Some(prefix)).map_or(Ok(Some(reloaded)), Err)
            }
            None => Ok(None),
        }
    };
    let reloaded = match changed.await {
        Ok(reloaded) => reloaded,
        Err(error) => {
            write(&before)?;
            if let Some(mark) = marked {
                // The server may have taken it before it found the fault.
                if fs::metadata(&mark).is_ok_and(|mark| mark.len() == 0) {
                    fs::remove_file(&mark).map_err(|error| host(&mark, error))?;
                }
            }
            return Err(error);
        }
    };
    drop(editing);
    output.result(done.as_bytes(), &serde_json::json!({ "done": done, "file": file }))?;
    if let Some(mut reloaded) = reloaded {
        if !reloaded.restart.is_empty() {
            let restart = reloaded.restart.join(", ");
            output.notice(&format!("these changes in {} take a restart of the server: {restart}", file.display()));
        }
        while let Some(error) = reloaded.take_refused(None) {
            output.notice(&format!("what {} says of another mount is not in effect: {error:#}", file.display()));
        }
    }
    match server {
        Some(server) if wait => until_settled(&server, prefix, output).await,
        Some(_) => Ok(()),
        None => {
            output.notice("no server runs: the next one moves what is to be moved");
            Ok(())
        }
    }
}

fn prefix_of(mount: &OsStr) -> Result<Prefix> {
    match mount.to_str() {
        Some(text) if !text.starts_with('/') => Prefix::new(text),
        _ => match place(mount)? {
            Place::Path(path) if path.parts.is_empty() => Ok(path.prefix),
            _ => Err(Error::new(ErrorKind::InvalidArgument, OP).because("name a mount, as /zstor")),
        },
    }
}

fn no_file() -> Error {
    let why = "the configuration file is the list of nodes, and there is none: write what holds now into one with `muxfs config > \
               FILE`, start the server with --config FILE, and try again";
    Error::new(ErrorKind::InvalidArgument, OP).because(why)
}

/// Whether a node may be removed.
fn may_go(status: &[Status], name: &str, is_lost: bool) -> Result<()> {
    let nodes = status.iter().flat_map(|status| &status.nodes);
    let Some(node) = nodes.into_iter().find(|node| node.name == name) else { return Ok(()) };
    let refuse = |why: String| Err(Error::new(ErrorKind::NotEmpty, OP).at(name).because(why));
    match (&node.lost, node.drained, node.blocks_left) {
        (Some(_), ..) if is_lost => Ok(()),
        (Some(why), ..) => {
            refuse(format!("it is lost ({why}): say --lost if it is not coming back, and what it had is made anew"))
        }
        (None, ..) if is_lost => refuse("it is not lost: drain it, and remove it when it is empty".into()),
        (None, false, _) => refuse(format!("it is in use: empty it first, with muxfs zstor node drain {name} --wait")),
        (None, true, Some(0)) => Ok(()),
        (None, true, Some(left)) => {
            refuse(format!("it has shards of {} blocks still: wait until it is empty", count(left)))
        }
        (None, true, None) => refuse("it does not tell what it has: try again".into()),
    }
}

/// Marks a directory as one that is to be a node; gives the mark if it was not there.
fn mark(dir: &Path) -> Result<Option<PathBuf>> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, OP).at(dir.display()).because(why.to_owned()));
    if !dir.is_dir() {
        return refuse("it is no directory that is there: make it, or mount its disk");
    }
    let mark = dir.join(MARK);
    match fs::metadata(&mark) {
        Ok(there) if there.len() == 0 => return Ok(None),
        Ok(_) => return refuse("it was a node before, of this or another store: empty it first"),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(host(&mark, error)),
        Err(_) => {}
    }
    if dir.join("blocks").exists() {
        return refuse("it has blocks of a store: empty it first");
    }
    fs::File::create_new(&mark).and_then(|file| file.sync_all()).map_err(|error| host(&mark, error))?;
    Ok(Some(mark))
}

/// Waits until every shard is where it belongs, and tells how far it is.
async fn until_settled(server: &Client, prefix: Prefix, output: Output) -> Result<()> {
    const PARTS: u64 = 1000;
    let bar = output.progress_from(0, PARTS);
    loop {
        let statuses = server.zstor_status(Some(prefix)).await?;
        let Some(status) = statuses.into_iter().next() else { return Ok(()) };
        let settling = status.settling;
        if settling.settled {
            return Ok(());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a bar"
        )]
        bar.set_bytes((settling.coverage * PARTS as f64) as u64);
        let why = settling.left.map_or_else(String::new, |why| format!(" ({why})"));
        bar.say(format!("/{prefix}: {:.0} %, {} blocks moved{why}", settling.coverage * 100.0, count(settling.moved)));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is to be a node.
struct NewNode {
    dir: Option<PathBuf>,
    zdb: Option<(String, String)>,
    password_file: Option<PathBuf>,
    given_name: Option<String>,
    group: Option<String>,
}

impl NewNode {
    fn new(place: &str, name: Option<&str>, group: Option<&str>, password_file: Option<&Path>) -> Result<Self> {
        let refuse = |why: &str| Error::new(ErrorKind::InvalidArgument, OP).at(place).because(why.to_owned());
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| host(path, error));
        let zdb = match place.strip_prefix("zdb://") {
            None => None,
            Some(rest) => {
                let (address, namespace) = rest
                    .rsplit_once('/')
                    .filter(|(address, namespace)| !address.is_empty() && !namespace.is_empty())
                    .ok_or_else(|| refuse("name the server and the namespace, as zdb://192.0.2.7:9900/muxfs"))?;
                Some((address.to_owned(), namespace.to_owned()))
            }
        };
        if zdb.is_none() && password_file.is_some() {
            return Err(refuse("a directory has no password"));
        }
        let dir = if zdb.is_none() { Some(absolute(Path::new(place))?) } else { None };
        let password_file = password_file.map(absolute).transpose()?;
        Ok(Self { dir, zdb, password_file, given_name: name.map(Into::into), group: group.map(Into::into) })
    }

    fn name(&self) -> String {
        let place = || match &self.zdb {
            Some((address, namespace)) => format!("{namespace} on {address}"),
            None => self.dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string()),
        };
        self.given_name.clone().unwrap_or_else(place)
    }

    /// Its keys in the configuration.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let text = |path: &PathBuf| path.display().to_string();
        let zdb = self
            .zdb
            .iter()
            .flat_map(|(address, namespace)| [("zdb", address.clone()), ("namespace", namespace.clone())]);
        let dir = self.dir.iter().map(|dir| ("dir", text(dir)));
        let password = self.password_file.iter().map(|file| ("password_file", text(file)));
        let name = self.given_name.iter().map(|name| ("name", name.clone()));
        let group = self.group.iter().map(|group| ("group", group.clone()));
        dir.chain(zdb).chain(password).chain(name).chain(group).collect()
    }
}

/// The text of a configuration, whose nodes change.
struct Edit {
    document: DocumentMut,
    /// Which of its mounts.
    at: usize,
}

/// The nodes of a mount, in either way to write them.
enum Listed<'a> {
    Inline(&'a mut Array),
    Tables(&'a mut ArrayOfTables),
}

impl Edit {
    /// Reads a text; writes down what it leaves to the defaults, the mounts and the nodes.
    fn new(text: &str, prefix: Prefix, data: &Path, mount: &ZstorMount) -> Result<Self> {
        let parse = |text: &str| -> Result<DocumentMut> {
            text.parse().map_err(|error| Error::new(ErrorKind::InvalidArgument, OP).because(error))
        };
        let mut document = parse(text)?;
        if document.get("mount").is_none() {
            #[derive(serde::Serialize)]
            struct Mounts {
                mount: Vec<Mount>,
            }
            let mounts = toml::to_string(&Mounts { mount: Config::default().mount });
            let mounts = mounts.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?;
            document = parse(&format!("{}\n\n{mounts}", text.trim_end()))?;
        }
        let Some(mounts) = document.get_mut("mount").and_then(Item::as_array_of_tables_mut) else {
            return Err(by_hand("its mounts are not written as [[mount]]"));
        };
        let text_of = |table: &Table, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
        let is_it = |table: &Table| {
            text_of(table, "kind").as_deref() == Some("zstor")
                && text_of(table, "prefix").is_some_and(|text| text.trim_start_matches('/') == prefix.as_str())
        };
        let Some(at) = mounts.iter().position(is_it) else { return Err(by_hand("its mount is not there")) };
        if let Some(table) = mounts.get_mut(at).filter(|table| table.get("nodes").is_none()) {
            let mut nodes = Array::new();
            for node in zstor::nodes(data, mount) {
                let dir = node.place.to_string();
                push(&mut nodes, &[("dir", dir), ("name", node.name)]);
            }
            table.insert("nodes", Item::Value(Value::Array(nodes)));
        }
        Ok(Self { document, at })
    }

    fn nodes(&mut self) -> Result<Listed<'_>> {
        let mounts = self.document.get_mut("mount").and_then(Item::as_array_of_tables_mut);
        let nodes = mounts.and_then(|mounts| mounts.get_mut(self.at)).and_then(|mount| mount.get_mut("nodes"));
        match nodes {
            Some(Item::Value(Value::Array(nodes))) => Ok(Listed::Inline(nodes)),
            Some(Item::ArrayOfTables(nodes)) => Ok(Listed::Tables(nodes)),
            _ => Err(by_hand("its nodes are not a list")),
        }
    }

    fn add(&mut self, node: &NewNode) -> Result<()> {
        match self.nodes()? {
            Listed::Inline(nodes) => push(nodes, &node.keys()),
            Listed::Tables(nodes) => {
                let mut table = Table::new();
                for (key, text) in node.keys() {
                    table.insert(key, Item::Value(text.into()));
                }
                nodes.push(table);
            }
        }
        Ok(())
    }

    fn drain(&mut self, number: usize, is_drained: bool) -> Result<()> {
        let changed = match self.nodes()? {
            Listed::Inline(nodes) => nodes.get_mut(number).and_then(Value::as_inline_table_mut).map(|table| {
                if is_drained {
                    table.insert("drain", true.into());
                    table.fmt();
                } else {
                    table.remove("drain");
                }
            }),
            Listed::Tables(nodes) => nodes.get_mut(number).map(|table| {
                if is_drained {
                    table.insert("drain", Item::Value(true.into()));
                } else {
                    table.remove("drain");
                }
            }),
        };
        changed.ok_or_else(|| by_hand("its nodes are not tables"))
    }

    fn remove(&mut self, number: usize) -> Result<()> {
        match self.nodes()? {
            Listed::Inline(nodes) if number < nodes.len() => drop(nodes.remove(number)),
            Listed::Tables(nodes) if number < nodes.len() => drop(nodes.remove(number)),
            _ => return Err(by_hand("its nodes are others than were read")),
        }
        Ok(())
    }

    fn text(&self) -> String {
        self.document.to_string()
    }
}

/// Adds a node on a line of its own.
fn push(nodes: &mut Array, keys: &[(&'static str, String)]) {
    let mut table = InlineTable::new();
    for (key, text) in keys {
        table.insert(*key, text.as_str().into());
    }
    let mut value = Value::InlineTable(table);
    value.decor_mut().set_prefix("\n    ");
    nodes.push_formatted(value);
    nodes.set_trailing_comma(true);
    if !nodes.trailing().as_str().is_some_and(|trailing| trailing.contains('\n')) {
        nodes.set_trailing("\n");
    }
}

fn by_hand(why: &str) -> Error {
    let why =
        format!("the configuration file has to be changed by hand, as {why}: see spec/config.md, then muxfs reload");
    Error::new(ErrorKind::InvalidArgument, OP).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# ours
[scrub]
every = "7d" # weekly

[[mount]]
kind = "zstor"
prefix = "zstor"
data = 2
parity = 1
nodes = [
    { dir = "/a" }, # the old one
    { dir = "/b", name = "b" },
    { dir = "/c" },
]
"#;

    fn edit(text: &str) -> Edit {
        let config = Config::parse(text).expect("a configuration");
        let mount = config.zstors().next().expect("one");
        Edit::new(text, Prefix::new("zstor").expect("a prefix"), Path::new("/d"), mount).expect("it can")
    }

    fn node() -> NewNode {
        NewNode::new("/e f", Some("e"), Some("rack 1"), None).expect("a node")
    }

    #[test]
    fn an_edit_keeps_all_else() {
        let mut edit = edit(TEXT);
        edit.add(&node()).expect("added");
        edit.drain(1, true).expect("drained");
        let text = edit.text();
        assert_eq!(
            text,
            TEXT.replace(r#"{ dir = "/b", name = "b" },"#, r#"{ dir = "/b", name = "b", drain = true },"#).replace(
                "{ dir = \"/c\" },\n",
                "{ dir = \"/c\" },\n    { dir = \"/e f\", name = \"e\", group = \"rack 1\" },\n"
            )
        );
        edit.drain(1, false).expect("used again");
        edit.remove(3).expect("removed");
        let (again, before) = (Config::parse(&edit.text()).expect("parses"), Config::parse(TEXT).expect("parses"));
        assert_eq!(again.to_text().expect("text"), before.to_text().expect("text"));
        assert!(edit.text().contains("# the old one") && edit.text().contains("# weekly"));
    }

    #[test]
    fn tables_of_nodes_are_edited_too() {
        let text = "[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\n\n[[mount.nodes]]\ndir = \"/a\"\n\n[[mount.nodes]]\ndir = \"/b\"\n";
        let mut edit = edit(text);
        edit.add(&node()).expect("added");
        edit.drain(0, true).expect("drained");
        edit.remove(1).expect("removed");
        let config = Config::parse(&edit.text()).expect("parses");
        let Some(Mount::Zstor(mount)) = config.mount.first() else { panic!("{config:?}") };
        let nodes = mount.nodes.as_ref().expect("nodes");
        assert_eq!(nodes.len(), 2);
        assert!(nodes[0].drain && nodes[1].name.as_deref() == Some("e"));
    }

    /// The default nodes, and mounts, are written down under the names that they have.
    #[test]
    fn what_was_left_to_the_defaults_is_written_down() {
        let mut edit = edit("[scrub]\nevery = \"7d\"\n");
        edit.add(&node()).expect("added");
        let config = Config::parse(&edit.text()).expect("parses");
        assert_eq!(config.mount.len(), 4);
        let Some(Mount::Zstor(mount)) = config.mount.last() else { panic!("{config:?}") };
        let nodes = zstor::nodes(Path::new("/d"), mount);
        assert_eq!(nodes.len(), 7);
        assert_eq!((nodes[5].name.as_str(), nodes[5].place.to_string().as_str()), ("5", "/d/zstor/nodes/5"));
    }

    #[test]
    fn places_are_told_apart() {
        let zdb = NewNode::new("zdb://127.0.0.1:9900/ns", None, None, None).expect("a node");
        assert_eq!(zdb.name(), "ns on 127.0.0.1:9900");
        for bad in ["zdb://127.0.0.1:9900", "zdb:///ns", "zdb://127.0.0.1:9900/"] {
            assert!(NewNode::new(bad, None, None, None).is_err(), "{bad}");
        }
        assert!(NewNode::new("/a", None, None, Some(Path::new("p"))).is_err());
    }
}
