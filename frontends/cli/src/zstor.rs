//! What a configuration says of `/zstor`, as its store takes it: nodes, key, room.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    Env, Error, ErrorKind, Result,
    block::{Erasure, ErasureNode, ErasureOptions, Nowhere, SegmentsOptions},
};
use muxfs_zstor::{Access, KeyRing, Node, OpenNode, Place, RootKey, ZdbPlace, Zstor, ZstorOptions, holds_data};
use zeroize::Zeroizing;

use crate::{
    config::{self, ZstorMount, ZstorNode},
    data_dir::private_dir,
    host_file::read_password,
    instance::{segments_options, space_of_disk},
    take_over, writer,
};

/// The file of the key.
pub(crate) fn key_file(data: &Path, mount: &ZstorMount) -> PathBuf {
    mount.key.clone().unwrap_or_else(|| data.join("zstor/key"))
}

/// The environment variable that may have the key instead.
fn key_variable(mount: &ZstorMount) -> String {
    format!("MUXFS_{}_KEY", mount.prefix.0.as_str().to_ascii_uppercase())
}

/// The nodes: those that are named, else k + m directories below the data directory.
pub(crate) fn nodes(data: &Path, mount: &ZstorMount) -> Vec<Node> {
    let Some(named) = &mount.nodes else {
        let node = |n: u16| Node {
            name: n.to_string(),
            group: None,
            is_drained: false,
            place: Place::Dir { path: data.join("zstor/nodes").join(n.to_string()), is_made: true },
        };
        return (0..u16::from(mount.data) + u16::from(mount.parity)).map(node).collect();
    };
    let node = |node: &ZstorNode| {
        let place = match (&node.zdb, &node.namespace, &node.s3) {
            (_, _, Some(bucket)) => Place::S3(bucket.node()),
            (Some(zdb), Some(namespace), None) => Place::Zdb(ZdbPlace {
                address: zdb.0.clone(),
                namespace: namespace.clone(),
                password: node.password.clone().map(|password| password.0),
                is_made: node.make,
            }),
            _ => Place::Dir { path: node.dir.clone().unwrap_or_default(), is_made: false },
        };
        let name = node.name.clone().unwrap_or_else(|| place.to_string());
        Node { name, group: node.group.clone(), place, is_drained: node.drain }
    };
    named.iter().map(node).collect()
}

/// The same with the passwords, and the keys of buckets, that are in files.
pub(crate) fn nodes_with_passwords(data: &Path, mount: &ZstorMount) -> Result<Vec<Node>> {
    let mut nodes = nodes(data, mount);
    for (node, named) in nodes.iter_mut().zip(mount.nodes.iter().flatten()) {
        if let (Place::Zdb(place), Some(file)) = (&mut node.place, &named.password_file) {
            place.password = Some(read_password(file, "zstor.password")?);
        }
        if let (Place::S3(place), Some(bucket)) = (&mut node.place, &named.s3) {
            *place = bucket.asked_by(data, mount.prefix.0)?;
        }
    }
    Ok(nodes)
}

fn options(data: &Path, mount: &ZstorMount, access: Access) -> Result<ZstorOptions> {
    let nodes = nodes_with_passwords(data, mount)?;
    // Nodes of one disk share what is to stay free on it.
    let device = |dir: &Path| dir.ancestors().find_map(|dir| fs::metadata(dir).ok()).map(|there| there.dev());
    let mut counts = BTreeMap::<_, u64>::new();
    for node in &nodes {
        if let Some(path) = node.place.dir() {
            *counts.entry(device(path)).or_default() += 1;
        }
    }
    let segments = move |dir: &Path| {
        let options = segments_options(&space_of_disk(dir.to_owned()), counts.get(&device(dir)).copied().unwrap_or(1));
        // A process has the indexes of all nodes in memory.
        SegmentsOptions { memory_count_max: options.memory_count_max / 4, ..options }
    };
    Ok(ZstorOptions {
        group_shards_max: mount.group_max,
        access,
        segments: Arc::new(segments),
        ..ZstorOptions::new(mount.data, mount.parity, nodes)
    })
}

/// Checks that shards can be placed as a mount says; looks at no node.
///
/// # Errors
/// `InvalidArgument` with the reason.
pub(crate) fn check(data: &Path, mount: &ZstorMount) -> Result<()> {
    let node = |node: Node| ErasureNode {
        group: node.group,
        is_drained: node.is_drained,
        ..ErasureNode::new(node.name, Nowhere)
    };
    let options = ErasureOptions {
        data_count: mount.data,
        parity_count: mount.parity,
        group_shards_max: mount.group_max,
        ..ErasureOptions::default()
    };
    Erasure::new(nodes(data, mount).into_iter().map(node), options).map(drop)
}

/// The keys of a mount, by the environment or their file; `None` if neither is there.
fn find_keys(data: &Path, mount: &ZstorMount) -> Result<Option<KeyRing>> {
    let variable = key_variable(mount);
    match std::env::var(&variable) {
        Ok(text) => KeyRing::parse(&Zeroizing::new(text)).map(Some).map_err(|error| error.at(variable)),
        Err(std::env::VarError::NotPresent) => KeyRing::load(&key_file(data, mount)),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::new(ErrorKind::BadKey, "zstor.key").at(variable).because("it is no key: it is not text"))
        }
    }
}

/// The file in which the key of a mount can be replaced: none where the environment has it, another mount has the same, or a vault is there.
fn changeable_key_file(data: &Path, mount: &ZstorMount, all: &[config::Mount]) -> Option<PathBuf> {
    let file = key_file(data, mount);
    let place = |file: &Path| fs::canonicalize(file).unwrap_or_else(|_absent| file.to_owned());
    let is_of_another = all.iter().filter(|other| other.prefix() != mount.prefix.0).any(|other| {
        let key = other.key_file(data);
        key.is_some_and(|key| place(&key) == place(&file))
    });
    let is_given = std::env::var_os(key_variable(mount)).is_some();
    // What is in a vault has its own keys, which are replaced by `vault rekey`.
    (!is_of_another && !is_given && !mount.has_vault).then_some(file)
}

fn no_key(data: &Path, mount: &ZstorMount) -> Error {
    let (file, local) = (key_file(data, mount), mount.local_dir(data));
    let nodes: Vec<String> = nodes(data, mount).into_iter().map(|node| node.place.to_string()).collect();
    let why = format!(
        "the key of /{} is missing, and without it everything there is lost: each name and each byte, on every node and in {}. \
         Bring the file back from where you keep a copy, or give the key in {}. To give up what is there and begin anew, move \
         away {} {}",
        mount.prefix.0,
        local.display(),
        key_variable(mount),
        local.display(),
        nodes.join(" ")
    );
    Error::new(ErrorKind::BadKey, "zstor.key").at(file.display()).because(why)
}

/// Whether there is a store, as far as can be told without its key.
pub(crate) async fn is_made(data: &Path, mount: &ZstorMount) -> bool {
    // Whoever cannot ask a server takes it to have something.
    let nodes = nodes_with_passwords(data, mount).unwrap_or_else(|_error| nodes(data, mount));
    holds_data(&nodes, &mount.local_dir(data), &crate::instance::env()).await
}

/// Opens the store of a mount; makes it, and its key, at the first start.
///
/// # Errors
/// `BadKey` if its key is missing or wrong; else those of [`KeyRing`] and [`Zstor::open`].
pub(crate) async fn open(data: &Path, mount: &ZstorMount, all: &[config::Mount], env: &Env) -> Result<Zstor> {
    let local = mount.local_dir(data);
    private_dir(&local)?;
    let has_buckets = nodes(data, mount).iter().any(|node| matches!(node.place, Place::S3(_)));
    if has_buckets {
        writer::known_or_drawn(&local, env)?;
    }
    let keys = match find_keys(data, mount)? {
        Some(keys) => keys,
        None if is_made(data, mount).await => return Err(no_key(data, mount)),
        None => {
            let file = key_file(data, mount);
            if mount.key.is_none() {
                private_dir(&data.join("zstor"))?;
            }
            let key = RootKey::make(&file, env)?;
            tracing::warn!(
                "a new key for /{} was made: {}. Keep a copy of it on another machine or on paper: without it nobody can read what is written there, not even you",
                mount.prefix.0,
                file.display()
            );
            key.into()
        }
    };
    let key_file = changeable_key_file(data, mount, all);
    let options = ZstorOptions { key_file, ..options(data, mount, Access::Write)? };
    let store = Zstor::open(&options, keys, &local, env).await?;
    if has_buckets {
        // Next time it would throw out whoever took over from this one.
        take_over::is_over(&local)?;
    }
    Ok(store)
}

/// Opens a store that is there, for who looks and changes nothing.
///
/// # Errors
/// As [`open`].
pub(crate) async fn look(data: &Path, mount: &ZstorMount, env: &Env) -> Result<Zstor> {
    let keys = find_keys(data, mount)?.ok_or_else(|| no_key(data, mount))?;
    Zstor::open(&options(data, mount, Access::Look)?, keys, &mount.local_dir(data), env).await
}

/// Opens what there is of a store, however many nodes are lost, for who asks how it does.
///
/// # Errors
/// As [`look`], except that no node has to be there.
pub(crate) async fn look_at_nodes(data: &Path, mount: &ZstorMount, env: &Env) -> Result<Zstor> {
    let keys = find_keys(data, mount)?.ok_or_else(|| no_key(data, mount))?;
    Zstor::look(&options(data, mount, Access::Look)?, keys, &mount.local_dir(data), env).await
}

/// What a store takes on its nodes, in bytes.
///
/// # Errors
/// Those of the nodes.
pub(crate) async fn len(store: &Zstor) -> Result<u64> {
    let mut len = 0;
    for node in store.nodes() {
        len += node.len().await?;
    }
    Ok(len)
}

/// What is dead of that on nodes that are there.
pub(crate) fn dead_len(store: &Zstor) -> u64 {
    let of_node = |node: &OpenNode| {
        let of_segments = node.segments().map_or(0, |segments| segments.stats().dead_len);
        of_segments + node.packs().map_or(0, |packs| packs.usage().dead_len)
    };
    store.nodes().iter().map(of_node).sum()
}

/// Gives the room of what is dead in buckets back; how many objects went.
///
/// # Errors
/// Those of the buckets; one that is away is asked the next time.
pub(crate) async fn compact_packs(store: &Zstor) -> Result<u64> {
    let mut deleted = 0;
    for packs in store.nodes().iter().filter_map(OpenNode::packs) {
        match packs.compact().await {
            Ok(done) => deleted += done.objects_deleted,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!("what is dead in a bucket gives its room back later: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}
