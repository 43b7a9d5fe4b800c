//! Each change that completed is seen by the next call, whichever frontend either came through. Spec: spec/coherence.md.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

use muxfs::vfs::{NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, XattrMode, XattrName};
use muxfs_fuse::{Options, mount};

use super::{Bed, blocking, name, names_in, unmounted, within_patience};

/// The kernel has names, absences, attributes, pages and listings in its caches, and believes none of them too long.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_frontend_changed_is_seen_by_the_next_call() {
    let Some(bed) = Bed::new().await else { return };
    let (root, vfs) = (bed.elsewhere.root(), bed.elsewhere.clone());
    let (dir, f, g) = (bed.mounted.dir().to_owned(), bed.path("f"), bed.path("g"));
    let lease = bed.make(root, "f", NewNode::File).await;
    let file = lease.ino();
    let place = |name| Place { dir: root, name, expect: None };
    let (f_name, g_name) = (name("f"), name("g"));
    for round in 0..50_u32 {
        // Into every cache.
        let paths = (dir.clone(), f.clone(), g.clone());
        blocking(move || {
            let (dir, f, g) = paths;
            fs::read(&f).expect("there");
            fs::metadata(&g).expect_err("not there");
            assert_eq!(names_in(&dir), ["f"]);
        })
        .await;
        let text = format!("round {round}, of another length each time: {}", "x".repeat(round as usize));
        vfs.write(file, 0, text.clone().into(), false).await.expect("written");
        let mode = 0o600 | (round % 8);
        vfs.setattr(file, SetAttr { mode: Some(mode), ..SetAttr::default() }).await.expect("set");
        let (path, expected) = (f.clone(), text.clone());
        blocking(move || {
            let attr = fs::metadata(&path).expect("there");
            assert_eq!((attr.len(), attr.mode() & 0o777), (expected.len() as u64, mode));
            assert_eq!(fs::read_to_string(&path).expect("read"), expected);
        })
        .await;
        vfs.rename(place(&f_name), place(&g_name), RenameMode::Replace).await.expect("renamed");
        let paths = (dir.clone(), f.clone(), g.clone());
        blocking(move || {
            let (dir, f, g) = paths;
            fs::metadata(&f).expect_err("it went");
            assert_eq!(fs::read_to_string(&g).expect("it came"), text);
            assert_eq!(names_in(&dir), ["g"]);
        })
        .await;
        vfs.link(file, root, &f_name).await.map(|_| vfs.release(file, 1)).expect("linked");
        let path = f.clone();
        assert_eq!(blocking(move || fs::metadata(path).expect("there").nlink()).await, 2);
        vfs.remove(place(&g_name), RemoveKind::NonDir).await.expect("removed");
    }
    let xattr = XattrName::new(b"user.a").expect("a good name");
    vfs.setxattr(file, &xattr, "v".into(), XattrMode::Set).await.expect("set");
    let path = f.clone();
    blocking(move || assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut [0; 9]), Ok(1))).await;
    drop((lease, vfs));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_changed_is_seen_by_another_frontend() {
    let Some(bed) = Bed::new().await else { return };
    for round in 0..50 {
        let (path, text) = (bed.path("f"), format!("round {round}"));
        let written = text.clone();
        blocking(move || fs::write(path, written).expect("written")).await;
        assert_eq!(bed.read("f").await, text.as_bytes());
    }
    bed.end().await;
}

/// A file that is open stays right too: its end, where another frontend appended, and its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_sees_what_another_frontend_wrote() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    let file = blocking(move || {
        let mut file = File::options().read(true).append(true).create(true).open(&path).expect("made");
        file.write_all(b"mine ").expect("written");
        file
    })
    .await;
    let file = Arc::new(file);
    let node = bed.elsewhere.lookup(bed.elsewhere.root(), &name("f")).await.expect("there").ino;
    bed.elsewhere.write(node, 5, "theirs ".into(), false).await.expect("written");
    let open = file.clone();
    blocking(move || {
        let mut bytes = [0; 12];
        open.read_exact_at(&mut bytes, 0).expect("all of it");
        assert_eq!(&bytes, b"mine theirs ");
    })
    .await;
    bed.elsewhere.write(node, 12, "again ".into(), false).await.expect("written");
    let open = file.clone();
    blocking(move || (&*open).write_all(b"mine").expect("appended behind what is there")).await;
    assert_eq!(bed.read("f").await, b"mine theirs again mine");
    let path = bed.path("f");
    blocking(move || assert_eq!(fs::read(path).expect("read"), b"mine theirs again mine")).await;
    drop(file);
    bed.elsewhere.release(node, 1);
    bed.end().await;
}

/// What was written to a file while the kernel was just being given it was never seen there: word of it came before the
/// kernel had the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_is_written_while_it_is_found_has_its_length() {
    const ROUNDS: usize = 200;
    const FILES: usize = 16;
    let Some(bed) = Bed::new().await else { return };
    let (vfs, root) = (bed.elsewhere.clone(), bed.elsewhere.root());
    for round in 0..ROUNDS {
        let files: Vec<_> = (0..FILES).map(|index| format!("{round}.{index}")).collect();
        let found = files.iter().map(|file| {
            let (bed, vfs, path) = (&bed, &vfs, bed.path(file));
            async move {
                let node = bed.make(root, file, NewNode::File).await;
                let look = path.clone();
                let found = blocking(move || fs::metadata(look).expect("there"));
                let written = vfs.write(node.ino(), 0, "theirs".into(), false);
                let (_, written) = tokio::join!(found, written);
                written.expect("written");
                blocking(move || fs::metadata(path).expect("there").len()).await
            }
        });
        let lens = futures_util::future::join_all(found).await;
        assert_eq!(lens, [6; FILES], "round {round}");
    }
    drop(vfs);
    bed.end().await;
}

/// A program moved a name that another frontend gave to another file at that moment: the kernel moved the file that it
/// knew, which the file system had not, and the new name led there for as long as it was cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_that_is_moved_while_it_is_given_away_leads_to_what_was_moved() {
    const ROUNDS: usize = 300;
    let Some(bed) = Bed::new().await else { return };
    let (vfs, root) = (bed.elsewhere.clone(), bed.elsewhere.root());
    let [a, b, other] = ["a", "b", "other"].map(name);
    let place = |name| Place { dir: root, name, expect: None };
    for round in 0..ROUNDS {
        drop(bed.make(root, "a", NewNode::File).await);
        drop(bed.make(root, "other", NewNode::File).await);
        let (from, to) = (bed.path("a"), bed.path("b"));
        let moved = blocking(move || {
            fs::metadata(&from).expect("there, and the kernel knows");
            fs::rename(from, to)
        });
        let given = vfs.rename(place(&other), place(&a), RenameMode::Replace);
        let (moved, given) = tokio::join!(moved, given);
        moved.expect("it has one file or the other");
        given.expect("renamed");
        let path = bed.path("b");
        let seen = blocking(move || fs::metadata(path).expect("moved here").ino()).await;
        let is = vfs.lookup(root, &b).await.expect("moved here").ino;
        vfs.release(is, 1);
        assert_eq!(seen, is.0.get(), "round {round}");
        vfs.remove(place(&b), RemoveKind::NonDir).await.expect("removed");
        vfs.remove(place(&a), RemoveKind::NonDir).await.ok();
    }
    drop(vfs);
    bed.end().await;
}

/// The file system is replaced below all views, as a checkout does.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_everything_is_seen() {
    let Some(bed) = Bed::new().await else { return };
    let (root, path) = (bed.fs.root(), bed.path("new/in"));
    let looked = path.clone();
    blocking(move || fs::metadata(looked).expect_err("not there")).await;
    // Past all views.
    let made = bed.fs.create(root, &name("new"), NewNode::Dir, SetAttr::default()).await.expect("made").node.ino;
    let inner = bed.fs.create(made, &name("in"), NewNode::File, SetAttr::default()).await.expect("made").node.ino;
    bed.fs.release(inner, 1);
    bed.fs.release(made, 1);
    within_patience(bed.watch.everything_changed()).await;
    blocking(move || fs::metadata(path).expect("there")).await;
    bed.end().await;
}

/// Two mounts of one file system, with programs in both that change the same directory and the same file at once: the
/// kernels' locks must not make them wait for each other. What each did last is then seen in both.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_mounts_change_the_same_names_at_once() {
    const ROUNDS: usize = 150;
    let Some(bed) = Bed::new().await else { return };
    let second_dir = tempfile::tempdir().expect("a directory");
    let second = mount(&bed.watch, second_dir.path(), Options::default()).await.expect("mounted");
    let mut workers = Vec::new();
    for (worker, dir) in [bed.mounted.dir(), second.dir(), bed.mounted.dir(), second.dir()].into_iter().enumerate() {
        let dir = dir.to_owned();
        workers.push(tokio::spawn(blocking(move || {
            let shared = dir.join("shared");
            for round in 0..ROUNDS {
                let own = dir.join(format!("w{worker}"));
                fs::write(&own, format!("{round}")).expect("written");
                let file = File::options().create(true).append(true).open(&shared).expect("open");
                file.write_all_at(b"x", 0).expect("written");
                drop(file);
                assert_eq!(fs::read_to_string(&own).expect("read"), format!("{round}"));
                fs::rename(&own, dir.join(format!("v{worker}"))).expect("renamed");
            }
        })));
    }
    // And through a third frontend.
    for round in 0..ROUNDS {
        let third = format!("third{round}");
        let made = bed.make(bed.elsewhere.root(), &third, NewNode::File);
        drop(within_patience(made).await);
    }
    for worker in workers {
        within_patience(worker).await.expect("no panic");
    }
    let (one, two) = (bed.mounted.dir().to_owned(), second.dir().to_owned());
    blocking(move || {
        let names = names_in(&one);
        assert_eq!(names.len(), ROUNDS + 5);
        assert_eq!(names, names_in(&two));
        let mut text = String::new();
        File::open(two.join("v0")).expect("there").read_to_string(&mut text).expect("read");
        assert_eq!(text, format!("{}", ROUNDS - 1));
    })
    .await;
    unmounted(&second).await;
    bed.end().await;
}
