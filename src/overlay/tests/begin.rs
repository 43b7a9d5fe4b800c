//! Where an overlay begins, and that it does so once: whatever is checked out, and whenever what is below is there.

use futures_util::{StreamExt as _, stream};

use super::*;
use crate::{
    dag::{Entry, UnixfsMeta},
    overlay::BELOW_SNAPSHOT,
    tree::Checked,
};

/// A checkout took the attribute away that says what a tree lies over: one with files was refused at the next start, and one
/// without was laid over what is below again.
#[tokio::test]
async fn a_checkout_is_the_same_after_a_restart() {
    let (ground, fs) = built().await;
    let below = describe(&*fs).await.expect("described");
    for target in ["the first", "nothing", "something", BELOW_SNAPSHOT] {
        let ground = Ground { lower: ground.lower.clone(), ..Ground::over(fs.clone()) };
        let overlay = ground.open().await;
        let base = overlay.base().await.expect("told").expect("it lies over something");
        overlay.remove(place(overlay.root(), &name("c")), RemoveKind::NonDir).await.expect("removed");
        make(&*overlay, overlay.root(), "mine", NewNode::File, content(10)).await;
        let mine = describe(&*overlay).await.expect("described");
        let stood = overlay.tree().commit("").await.expect("committed");
        let dag = overlay.tree().dag().clone();
        let cid = match target {
            "the first" => overlay.tree().history().await.expect("kept").last().expect("one").0,
            "nothing" => dag.put_dir(stream::empty().boxed()).await.expect("put").cid,
            "something" => {
                let link = dag.import(&b"other"[..], UnixfsMeta::default()).await.expect("put");
                dag.put_dir(stream::iter([Ok(Entry { name: name("other"), link })]).boxed()).await.expect("put").cid
            }
            named => overlay.tree().head().1.snapshots[named],
        };
        overlay.tree().checkout(&cid).await.expect("checked out");
        let found = describe(&*overlay).await.expect("described");
        match target {
            "something" => assert!(found.starts_with("/other") && found.lines().count() == 1, "{found}"),
            BELOW_SNAPSHOT => assert_eq!(found, below),
            _ => assert_eq!(found, "", "{target}"),
        }
        drop(overlay);
        let overlay = ground.open().await;
        assert_eq!(describe(&*overlay).await.expect("described"), found, "{target}, after a restart");
        assert_eq!(overlay.base().await.expect("told"), Some(base), "{target}");
        // And the way back.
        overlay.tree().checkout(&stood).await.expect("checked out");
        assert_eq!(describe(&*overlay).await.expect("described"), mine, "{target}");
        let mut checked = overlay.tree().check();
        while let Some(checked) = checked.next().await {
            if let Checked::Fault(error) = checked {
                panic!("{target}: {error:#}");
            }
        }
    }
}

/// What it is to lie over may come later: nothing is shown or changed before, and nobody has to start it again.
#[tokio::test]
async fn it_begins_when_what_is_below_is_there() {
    let fs = ModelFs::new(testing::env());
    let ground = Ground::over(fs.clone());
    let options = || TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
    let tree = async || {
        let tree = Tree::open(ground.dag.clone(), ground.journal.clone(), ground.heads.clone(), options()).await;
        tree.expect("it opens")
    };
    let path = vec![name("later"), name("b")];
    let overlay = Overlay::new(tree().await, ground.lower.clone()).over(path.clone());
    let (root, text) = (overlay.root(), name("a"));
    let owner = SetAttr { uid: Some(1), ..SetAttr::default() };
    let refused = [
        overlay.ready().await,
        overlay.lookup(root, &text).await.map(drop),
        overlay.readdir(root, Cookie::START, 10, Listing::Names).await.map(drop),
        overlay.create(root, &text, NewNode::File, SetAttr::default()).await.map(drop),
        overlay.setattr(root, owner).await.map(drop),
    ];
    for (call, done) in refused.into_iter().enumerate() {
        let error = done.expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "call {call}: {error:#}");
    }
    overlay.getattr(root).await.expect("who lists the mounts looks at it");
    overlay.tree().commit("a note makes a commit in any case").await.expect("committed");
    let later = make(&*fs, fs.root(), "later", NewNode::Dir, Bytes::new()).await;
    build(&*fs, later).await;
    assert_eq!(list(&overlay, root, 10).await.expect("it is there").len(), 3);
    assert!(overlay.base().await.expect("told").is_some());
    overlay.sync(root).await.expect("synced");
    drop(overlay);
    // For good, also while it is away.
    let overlay = Overlay::new(tree().await, ground.lower.clone()).over(path);
    fs.fail(Some(ErrorKind::NotFound));
    overlay.ready().await.expect("it has begun");
    assert_eq!(list(&overlay, root, 10).await.expect("they came").len(), 3);
}

/// An overlay that stopped between beginning and naming what is below had no way back to it, for good.
#[tokio::test]
async fn what_is_below_is_named_where_that_was_missed() {
    let (ground, fs) = built().await;
    let below = describe(&*fs).await.expect("described");
    let overlay = ground.open().await;
    let unname = async |overlay: &Overlay| {
        assert!(overlay.tree().remove_snapshot(BELOW_SNAPSHOT).await.expect("removed"), "there was none");
        overlay.sync(overlay.root()).await.expect("synced");
    };
    unname(&overlay).await;
    drop(overlay);
    let overlay = ground.open().await;
    overlay.remove(place(overlay.root(), &name("c")), RemoveKind::NonDir).await.expect("removed");
    let cid = overlay.tree().head().1.snapshots[BELOW_SNAPSHOT];
    overlay.tree().checkout(&cid).await.expect("checked out");
    assert_eq!(describe(&*overlay).await.expect("described"), below);
    // Once something came nobody knows any more.
    unname(&overlay).await;
    drop(overlay);
    let overlay = ground.open().await;
    assert!(!overlay.tree().head().1.snapshots.contains_key(BELOW_SNAPSHOT), "it would be something else");
}

/// A tree that has files and lies over nothing is shown as it is.
#[tokio::test]
async fn a_tree_with_files_of_its_own_is_laid_over_nothing() {
    let (ground, _) = built().await;
    let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
    let tree = Tree::open(ground.dag.clone(), ground.journal.clone(), ground.heads.clone(), options).await;
    let tree = tree.expect("it opens");
    make(&tree, tree.root(), "mine", NewNode::File, content(3)).await;
    let overlay = Overlay::new(tree, ground.lower.clone()).over(Vec::new());
    overlay.ready().await.expect("it is as it is");
    let names: Vec<Name> =
        list(&overlay, overlay.root(), 10).await.expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [name("mine")]);
    assert_eq!(overlay.base().await.expect("told"), None);
    let error = overlay.begin(ground.lower.root()).await.expect_err("it has files");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
