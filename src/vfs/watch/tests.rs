//! Each change is heard by those who keep copies before it returns, and nobody waits for ever.

use std::{
    future::Future,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::testing::{self, model::ModelFs};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

async fn make(vfs: &Arc<dyn Vfs>, text: &str) -> Ino {
    vfs.create(vfs.root(), &name(text), NewNode::File, SetAttr::default()).await.expect("create").node.ino
}

/// Whether a future is ready now.
fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
    matches!(std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

fn watch() -> Watch {
    Watch::new(ModelFs::new(testing::env()))
}

fn all() -> Knows {
    Box::new(|_| true)
}

/// Takes the changes that wait.
async fn heard(changes: &Changes) -> Vec<Change> {
    let mut heard = Vec::new();
    while changes.first_waiting().is_some() {
        let (number, change) = changes.next().await;
        heard.push(change);
        changes.done(number);
    }
    heard
}

#[tokio::test]
async fn a_change_returns_when_the_others_have_seen_to_it() {
    let watch = watch();
    let (writer, (_view, changes)) = (watch.view(), watch.caching_view(all()));
    let root = writer.root();
    let a = name("a");
    let mut making = writer.create(root, &a, NewNode::File, SetAttr::default());
    assert!(!is_ready(&mut making), "nobody has heard yet");
    let (number, change) = changes.next().await;
    assert_eq!(change, Change::Name { dir: root, name: a.clone() });
    assert!(!is_ready(&mut making), "it is not done");
    changes.done(number);
    making.await.expect("done");
}

/// Every call that changes something is heard of, with each node that it is about.
#[tokio::test]
async fn each_kind_of_change_is_told() {
    let watch = watch();
    let vfs = watch.view();
    let (root, [a, b, c]) = (vfs.root(), ["a", "b", "c"].map(name));
    let (one, two) = (make(&vfs, "a").await, make(&vfs, "b").await);
    let (_view, changes) = watch.caching_view(all());
    let xattr = XattrName::new(b"user.x").expect("a good name");
    let place = |name| Place { dir: root, name, expect: None };
    let named = |name: &Name| Change::Name { dir: root, name: name.clone() };
    let work = async {
        let size = SetAttr { size: Some(10), ..SetAttr::default() };
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        vfs.setattr(one, size).await.map(drop)?;
        vfs.setattr(one, mode).await.map(drop)?;
        vfs.write(one, 0, "x".into(), false).await.map(drop)?;
        vfs.allocate(one, 0..10, false).await.map(drop)?;
        vfs.punch_hole(one, 0..10).await.map(drop)?;
        vfs.copy_range((one, 0), (two, 0), 5).await.map(drop)?;
        vfs.setxattr(one, &xattr, "v".into(), XattrMode::Set).await.map(drop)?;
        vfs.removexattr(one, &xattr).await.map(drop)?;
        vfs.link(one, root, &c).await.map(drop)?;
        vfs.rename(place(&c), place(&b), RenameMode::Replace).await.map(drop)?;
        vfs.remove(place(&a), RemoveKind::NonDir).await.map(drop)
    };
    let listen = async {
        let mut heard = Vec::new();
        loop {
            let (number, change) = changes.next().await;
            changes.done(number);
            heard.push(change);
            if heard.len() == 16 {
                return heard;
            }
        }
    };
    let (done, heard) = tokio::join!(work, listen);
    done.expect("all of it works");
    let content = |ino| Change::Node { ino, content: true };
    let attrs = |ino| Change::Node { ino, content: false };
    let expected = vec![
        content(one),
        attrs(one),
        content(one),
        content(one),
        content(one),
        content(two),
        attrs(one),
        attrs(one),
        named(&c),
        attrs(one),
        named(&c),
        named(&b),
        attrs(two),
        attrs(one),
        named(&a),
        attrs(one),
    ];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn a_view_is_not_told_of_what_it_did_nor_of_what_its_client_does_not_know() {
    let watch = watch();
    let writer = watch.view();
    let (known, unknown) = (make(&writer, "known").await, make(&writer, "unknown").await);
    let (own, changes) = watch.caching_view(Box::new(move |ino| ino == known));
    own.write(known, 0, "x".into(), false).await.expect("nobody is waited for");
    writer.write(unknown, 0, "x".into(), false).await.expect("nobody is waited for");
    assert_eq!(heard(&changes).await, []);
    let mut writing = writer.write(known, 0, "y".into(), false);
    assert!(!is_ready(&mut writing));
    assert_eq!(heard(&changes).await, [Change::Node { ino: known, content: true }]);
    writing.await.expect("done");
}

/// A change that fails, or is given up half way, may have been made all the same.
#[tokio::test]
async fn what_fails_is_told_without_waiting() {
    let watch = watch();
    let (writer, (_view, changes)) = (watch.view(), watch.caching_view(all()));
    let (root, absent) = (writer.root(), name("absent"));
    let place = Place { dir: root, name: &absent, expect: None };
    writer.remove(place, RemoveKind::NonDir).await.expect_err("there is none");
    assert_eq!(heard(&changes).await, [Change::Name { dir: root, name: absent.clone() }]);
    let mut making = writer.create(root, &absent, NewNode::Dir, SetAttr::default());
    assert!(!is_ready(&mut making));
    drop(making);
    assert_eq!(heard(&changes).await, [Change::Name { dir: root, name: absent }]);
}

/// A call that was given up while it waited for others left a lease behind that nobody knew of.
#[tokio::test]
async fn what_is_given_up_leases_nothing() {
    let model = ModelFs::new(testing::env());
    let watch = Watch::new(model.clone());
    let (writer, (_view, changes)) = (watch.view(), watch.caching_view(all()));
    let (root, a, b, c) = (writer.root(), name("a"), name("b"), name("c"));
    let mut making = writer.create(root, &a, NewNode::File, SetAttr::default());
    assert!(!is_ready(&mut making));
    heard(&changes).await;
    let file = making.await.expect("made").node.ino;
    assert_eq!(model.lease_count(), 1, "what is given is leased");
    let mut making = writer.create(root, &b, NewNode::File, SetAttr::default());
    let mut linking = writer.link(file, root, &c);
    assert!(!is_ready(&mut making) && !is_ready(&mut linking));
    drop((making, linking));
    assert_eq!(model.lease_count(), 1);
}

/// Two views whose clients lock a directory while they change it would wait for each other for ever.
#[tokio::test]
async fn two_caching_views_that_change_one_directory_do_not_wait_for_each_other() {
    let watch = watch();
    let ((one, of_one), (two, of_two)) = (watch.caching_view(all()), watch.caching_view(all()));
    let root = one.root();
    let (a, b) = (name("a"), name("b"));
    let mut by_one = one.create(root, &a, NewNode::File, SetAttr::default());
    assert!(!is_ready(&mut by_one));
    let mut by_two = two.create(root, &b, NewNode::File, SetAttr::default());
    assert!(is_ready(&mut by_two), "the first waits for what this call holds");
    by_one.await.expect("and what that one holds is needed now");
    assert_eq!(heard(&of_one).await, [Change::Name { dir: root, name: b.clone() }]);
    assert_eq!(heard(&of_two).await, [Change::Name { dir: root, name: a.clone() }]);
}

/// The client would move, in its cache, the node that had the name before.
#[tokio::test]
async fn a_name_that_was_given_away_unheard_is_not_moved_before_the_client_looks_again() {
    let watch = watch();
    let (writer, (view, changes)) = (watch.view(), watch.caching_view(all()));
    let root = writer.root();
    let [a, b, c, other] = ["a", "b", "c", "other"].map(name);
    let place = |name| Place { dir: root, name, expect: None };
    let named = |name: &Name| Change::Name { dir: root, name: name.clone() };
    let is_of_name = |change: &Change| matches!(change, Change::Name { .. });
    make(&view, "a").await;
    let given = make(&view, "other").await;
    let mut giving = writer.rename(place(&other), place(&a), RenameMode::Replace);
    assert!(!is_ready(&mut giving), "the client has not heard");
    for (from, to) in [(&a, &b), (&b, &a)] {
        let refused = view.rename(place(from), place(to), RenameMode::Replace).await;
        assert_eq!(refused.map(drop).expect_err("it goes by what was").kind(), ErrorKind::Stale);
    }
    let moved = view.rename(place(&a), place(&b), RenameMode::Replace).await.expect("it has looked again");
    assert_eq!(moved.node.ino, given);
    let told: Vec<Change> = heard(&changes).await.into_iter().filter(is_of_name).collect();
    assert_eq!(told, [named(&other), named(&a), named(&a), named(&b)], "for it may have changed since");
    giving.await.expect("renamed");
    view.rename(place(&b), place(&c), RenameMode::Replace).await.expect("all is heard");
    assert_eq!(heard(&changes).await, []);
}

#[tokio::test]
async fn one_that_is_gone_is_not_waited_for() {
    let watch = watch();
    let (writer, (_view, changes)) = (watch.view(), watch.caching_view(all()));
    let a = name("a");
    let mut making = writer.create(writer.root(), &a, NewNode::File, SetAttr::default());
    assert!(!is_ready(&mut making));
    drop(changes);
    making.await.expect("done");
    make(&writer, "b").await;
}

/// An answer that was looked for before a change must not be cached, whoever comes first.
#[tokio::test]
async fn an_answer_that_a_change_overtook_is_not_fresh() {
    let watch = watch();
    let (writer, (view, changes)) = (watch.view(), watch.caching_view(Box::new(|_| false)));
    let begun = changes.begin();
    assert!(changes.settle(begun, |fresh| fresh));
    let file = make(&view, "own").await;
    assert!(changes.settle(begun, |fresh| fresh), "what the client does itself it knows");
    // The client does not know the node yet, so it is not told of it: only the age tells.
    writer.write(file, 0, "x".into(), false).await.expect("written");
    assert!(!changes.settle(begun, |fresh| fresh));
    assert!(changes.settle(changes.begin(), |fresh| fresh));
}

#[tokio::test]
async fn a_view_that_stopped_costs_no_more_than_its_bound() {
    let watch = watch();
    let (writer, (_view, changes)) = (watch.view(), watch.caching_view(all()));
    let file = {
        let f = name("f");
        let mut making = writer.create(writer.root(), &f, NewNode::File, SetAttr::default());
        assert!(!is_ready(&mut making));
        heard(&changes).await;
        making.await.expect("made").node.ino
    };
    for number in 0..CHANGE_COUNT_MAX + 10 {
        // Two kinds by turns: the same one again is not put twice.
        let set = SetAttr { size: (number % 2 == 0).then_some(1), mode: Some(0o600), ..SetAttr::default() };
        assert!(!is_ready(&mut writer.setattr(file, set)));
    }
    let waiting = heard(&changes).await;
    assert!(waiting.len() < CHANGE_COUNT_MAX, "{}", waiting.len());
    assert!(waiting.contains(&Change::Everything));
}
