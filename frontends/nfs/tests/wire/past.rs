//! The history of each directory of a working tree, as NFS clients meet it: under handles that outlive a restart.

use std::{collections::BTreeSet, sync::Arc};

use muxfs::{
    Mount, Name, Prefix,
    block::Mem,
    cas_view::CasViewOptions,
    dag::{Dag, DagOptions},
    heads::MemHeads,
    media::MemMedia,
    pins::Pins,
    testing,
    tree::{Tree, TreeOptions},
};
use muxfs_nfs::{Server, serve};

use crate::{
    listings::all,
    raw::{Args, Client, INVAL, NOENT, OK, ROFS, STALE, options},
};

const LOOKUP: u32 = 3;
const RMDIR: u32 = 13;
const RENAME: u32 = 14;
const LINK: u32 = 15;
const MKDIR: u32 = 9;
const CREATE: u32 = 8;

/// What outlives the server.
#[derive(Default)]
struct Disk {
    blocks: Arc<Mem>,
    journal: Arc<MemMedia>,
    heads: Arc<MemHeads>,
}

impl Disk {
    async fn serve(&self) -> (Tree, Server, Client) {
        let (env, dag) = (testing::env(), Dag::new(self.blocks.clone(), DagOptions::default()));
        let head = Name::new(b"main").unwrap();
        let tree_options = TreeOptions { auto_commit: None, ..TreeOptions::new(head, env.clone()) };
        let tree = Tree::open(dag, self.journal.clone(), self.heads.clone(), tree_options).await.unwrap();
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.unwrap());
        let mount = Mount::content(Prefix::new("mem").unwrap(), pins, tree.clone(), CasViewOptions::default());
        let server = serve(mount.vfs().clone(), options()).unwrap();
        let client = Client::connect(server.local_addr()).await;
        (tree, server, client)
    }
}

async fn walk(client: &mut Client, from: &[u8], path: &str) -> Result<Vec<u8>, u32> {
    let mut at = from.to_vec();
    for name in path.split('/') {
        at = client.lookup(&at, name.as_bytes()).await?;
    }
    Ok(at)
}

#[tokio::test]
async fn each_directory_has_its_history_over_a_restart() {
    let disk = Disk::default();
    let (tree, server, mut client) = disk.serve().await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o755).await;
    let file = client.create(&dir, b"file", 0o644).await;
    assert_eq!(client.write(&file, 0, 2, b"then").await.0, OK);
    tree.snapshot("then").await.unwrap();
    assert_eq!(client.write(&file, 0, 2, b"now!").await.0, OK);

    let list = walk(&mut client, &dir, ".history").await.unwrap();
    for plus in [false, true] {
        assert_eq!(all(&mut client, plus, &dir, 4096).await, [&b"."[..], b"..", b"file"], "hidden");
        let listed = all(&mut client, plus, &list, 4096).await;
        assert!(listed.contains(&b"then".to_vec()) && listed.len() >= 4, "a name, and the time it was made");
    }
    let then = walk(&mut client, &list, "then").await.unwrap();
    let old = walk(&mut client, &then, "file").await.unwrap();
    assert_eq!(client.read(&old, 0, 9).await.unwrap().0, b"then");
    // Up again, and one number for one thing.
    assert_eq!(walk(&mut client, &old, "..").await.unwrap_err(), 20, "a file");
    for (from, above) in [(&then, &list), (&list, &dir)] {
        assert_eq!(walk(&mut client, from, "..").await.unwrap(), *above);
    }
    let of_root = walk(&mut client, &root, ".history/then/dir/file").await.unwrap();
    assert_ne!(of_root, old);
    let mut numbers = BTreeSet::new();
    for handle in [&root, &dir, &file, &list, &then, &old, &of_root] {
        let attr = client.getattr(handle).await.unwrap();
        assert!(numbers.insert(attr.fileid), "one number for one thing");
    }

    // The same handles, to a server that never gave them.
    let list_attr = client.getattr(&list).await.unwrap();
    drop((server, client));
    tree.close().await.unwrap();
    let (_tree, _server, mut client) = disk.serve().await;
    assert_eq!(client.read(&old, 0, 9).await.unwrap().0, b"then");
    assert_eq!(client.getattr(&list).await.unwrap().fileid, list_attr.fileid);
    assert_eq!(client.lookup(&list, b"then").await.unwrap(), then);
    assert_eq!(client.lookup(&then, b"..").await.unwrap(), list);
    assert!(all(&mut client, true, &list, 512).await.contains(&b"then".to_vec()));
}

#[tokio::test]
async fn the_name_is_refused_and_hinders_nobody() {
    let disk = Disk::default();
    let (tree, _server, mut client) = disk.serve().await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o755).await;
    let file = client.create(&root, b"file", 0o644).await;
    tree.snapshot("then").await.unwrap();
    let name = |dir: &[u8], name: &[u8]| Args::new().opaque(dir).opaque(name);
    let both = |args: Args, other: Args| Args([args.0, other.0].concat());
    let link = both(Args::new().opaque(&file), name(&dir, b".history"));
    let calls = [
        (MKDIR, name(&dir, b".history").sattr(None, None), INVAL),
        (CREATE, name(&dir, b".history").u32(0).sattr(None, None), INVAL),
        (LINK, link, INVAL),
        (RENAME, both(name(&root, b"file"), name(&dir, b".history")), INVAL),
        (RENAME, both(name(&dir, b".history"), name(&root, b"new")), ROFS),
        (RMDIR, name(&dir, b".history"), ROFS),
    ];
    for (procedure, args, status) in calls {
        assert_eq!(client.nfs(procedure, args).await.0, status, "procedure {procedure}");
    }
    let list = walk(&mut client, &dir, ".history").await.unwrap();
    let then = walk(&mut client, &list, "then").await.unwrap();
    assert_eq!(client.nfs(MKDIR, name(&then, b"new").sattr(None, None)).await.0, ROFS);
    assert_eq!(client.nfs(LOOKUP, name(&then, b".history")).await.0, NOENT, "there is one in the present");
    // Its directory goes, and the list with it; what it led to is still what it was.
    assert_eq!(client.nfs(RMDIR, name(&root, b"dir")).await.0, OK);
    assert_eq!(client.getattr(&list).await.unwrap_err(), STALE);
    client.getattr(&then).await.unwrap();
}
