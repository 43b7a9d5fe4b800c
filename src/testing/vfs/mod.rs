//! The laws of [`Vfs`]: what every file system by inode keeps, sentence by sentence of the trait's documents.
//!
//! Who writes one writes one line: [`vfs_laws!`](crate::vfs_laws) for one that can be changed,
//! [`vfs_read_laws!`](crate::vfs_read_laws) for one that holds the [`specimen`] and cannot. Each law is a test of its own.
//!
//! ```
//! # use std::sync::Arc;
//! # use muxfs::{testing::{self, model::ModelFs}, vfs::Vfs};
//! /// An empty file system, and whatever must outlive it.
//! async fn model() -> (Arc<dyn Vfs>, ()) {
//!     (ModelFs::new(testing::env()), ())
//! }
//! muxfs::vfs_laws!(model_keeps_the_laws, model());
//! ```

mod attributes;
mod content;
mod equivalence;
mod lifetime;
mod linking;
mod naming;
mod reading;
mod renaming;

use std::{future::Future, sync::Arc};

use bytes::Bytes;

pub use self::equivalence::{compare, compare_with};
use crate::{
    ErrorKind, Name, Result,
    vfs::{
        Attr, DirChanged, Ino, Lease, NewNode, Place, PreAttr, RemoveKind, SetAttr, Vfs,
        ext::{list, read_to_end},
    },
};

/// The laws, each an `async fn` of a [`Bed`].
pub mod laws {
    pub use super::{
        attributes::*, content::*, equivalence::behaves_like_the_model, lifetime::*, linking::*, naming::*, reading::*,
        renaming::*,
    };
}

/// The longest file that a law reads whole.
const FILE_LEN_MAX: u64 = 16 << 20;
/// The most entries that a law lists.
const ENTRY_COUNT_MAX: usize = 10_000;

/// A node of the [`specimen`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecimenNode {
    /// A directory.
    Dir,
    /// A file of these bytes.
    File(Bytes),
    /// A symlink to this target.
    Symlink(Bytes),
}

/// The tree that the laws of reading look at: paths of names between slashes, each after the one it is below.
///
/// A file system that cannot be changed is made of it before [`vfs_read_laws!`](crate::vfs_read_laws) looks.
pub fn specimen() -> Vec<(String, SpecimenNode)> {
    let file = |len: usize| SpecimenNode::File(content_of(len));
    let mut nodes = vec![
        ("dir".to_owned(), SpecimenNode::Dir),
        ("dir/deep".to_owned(), SpecimenNode::Dir),
        ("dir/deep/er".to_owned(), SpecimenNode::Dir),
        ("dir/deep/er/file".to_owned(), file(10)),
        ("empty".to_owned(), file(0)),
        ("empty dir".to_owned(), SpecimenNode::Dir),
        ("large".to_owned(), file(3_000_001)),
        ("link".to_owned(), SpecimenNode::Symlink("dir/../small".into())),
        ("many".to_owned(), SpecimenNode::Dir),
        ("nowhere".to_owned(), SpecimenNode::Symlink("/no/such place".into())),
        ("small".to_owned(), file(5)),
        ("\u{65e5}\u{672c} \u{1f980}".to_owned(), file(1)),
    ];
    nodes.extend((0..MANY).map(|number| (format!("many/f{number:03}"), file(number % 7))));
    nodes
}

/// How many entries the directory `many` of the specimen has.
const MANY: usize = 150;

/// Bytes of no pattern that a file system could guess, the same each time.
fn content_of(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from((i * i + i / 251 + i / 65_537) % 256).unwrap_or_default()).collect::<Vec<_>>().into()
}

/// Builds the specimen in a file system that can be changed.
///
/// # Errors
/// Those of [`Vfs::create`] and [`Vfs::write`].
pub async fn build_specimen(vfs: &Arc<dyn Vfs>) -> Result<()> {
    for (path, node) in specimen() {
        let names = path.split('/').map(|part| Name::new(part.as_bytes())).collect::<Result<Vec<_>>>()?;
        let Some((name, above)) = names.split_last() else { continue };
        let (dir, _) = crate::vfs::ext::walk(vfs, vfs.root(), above).await?;
        let (new, data) = match node {
            SpecimenNode::Dir => (NewNode::Dir, Bytes::new()),
            SpecimenNode::File(data) => (NewNode::File, data),
            SpecimenNode::Symlink(target) => (NewNode::Symlink(target), Bytes::new()),
        };
        let made = vfs.create(dir.ino(), name, new, SetAttr::default()).await?;
        let made = Lease::adopt(vfs.clone(), made.node.ino);
        if !data.is_empty() {
            vfs.write(made.ino(), 0, data, false).await?;
        }
    }
    Ok(())
}

/// What a law works with: a file system, and short words for what laws do all the time.
#[derive(Debug)]
pub struct Bed {
    vfs: Arc<dyn Vfs>,
}

impl Bed {
    /// A bed for a law that looks at the specimen, which `vfs` holds.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// use muxfs::{testing::{self, model::ModelFs, vfs::{Bed, build_specimen}}, vfs::Vfs};
    /// let vfs: Arc<dyn Vfs> = ModelFs::new(testing::env());
    /// build_specimen(&vfs).await?;
    /// let bed = Bed::new(vfs);
    /// # drop(bed);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(vfs: Arc<dyn Vfs>) -> Self {
        Self { vfs }
    }

    /// A bed for a law that looks at the specimen, which is built in `vfs` first.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use muxfs::testing::{self, model::ModelFs, vfs::Bed};
    /// let bed = Bed::with_specimen(ModelFs::new(testing::env())).await;
    /// # drop(bed);
    /// # });
    /// ```
    ///
    /// # Panics
    /// Where it cannot be built.
    pub async fn with_specimen(vfs: Arc<dyn Vfs>) -> Self {
        build_specimen(&vfs).await.expect("the specimen is built");
        Self { vfs }
    }

    fn root(&self) -> Ino {
        self.vfs.root()
    }

    fn adopt(&self, attr: &Attr) -> Lease {
        Lease::adopt(self.vfs.clone(), attr.ino)
    }

    async fn create(&self, dir: Ino, text: &str, node: NewNode) -> Result<DirChanged> {
        let mode = if matches!(node, NewNode::Dir) { 0o755 } else { 0o644 };
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.vfs.create(dir, &name(text), node, set).await
    }

    async fn make(&self, dir: Ino, text: &str, node: NewNode) -> Lease {
        let made = self.create(dir, text, node).await.expect("create");
        self.adopt(&made.node)
    }

    async fn dir(&self, dir: Ino, text: &str) -> Lease {
        self.make(dir, text, NewNode::Dir).await
    }

    async fn file(&self, dir: Ino, text: &str, data: impl Into<Bytes>) -> Lease {
        let file = self.make(dir, text, NewNode::File).await;
        let data = data.into();
        if !data.is_empty() {
            self.vfs.write(file.ino(), 0, data, false).await.expect("write");
        }
        file
    }

    async fn find(&self, dir: Ino, text: &str) -> Result<Lease> {
        self.vfs.lookup(dir, &name(text)).await.map(|attr| self.adopt(&attr))
    }

    /// The node of a path of the specimen.
    async fn at(&self, path: &str) -> (Lease, Attr) {
        let names: Vec<Name> = path.split('/').filter(|part| !part.is_empty()).map(name).collect();
        crate::vfs::ext::walk(&self.vfs, self.root(), &names).await.expect("it is in the specimen")
    }

    async fn attr(&self, ino: Ino) -> Attr {
        self.vfs.getattr(ino).await.expect("getattr")
    }

    async fn read(&self, ino: Ino) -> Bytes {
        read_to_end(&*self.vfs, ino, FILE_LEN_MAX).await.expect("read")
    }

    /// The names in a directory, sorted.
    async fn names(&self, dir: Ino) -> Vec<String> {
        let entries = list(&*self.vfs, dir, ENTRY_COUNT_MAX).await.expect("list");
        let mut names: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
        names.sort();
        names
    }

    async fn unlink(&self, dir: Ino, text: &str) -> Result<DirChanged> {
        self.vfs.remove(place(dir, &name(text)), RemoveKind::NonDir).await
    }

    async fn rmdir(&self, dir: Ino, text: &str) -> Result<DirChanged> {
        self.vfs.remove(place(dir, &name(text)), RemoveKind::Dir).await
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn place(dir: Ino, name: &Name) -> Place<'_> {
    Place { dir, name, expect: None }
}

#[track_caller]
fn assert_kind<T>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("it succeeded instead of {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
    }
}

/// What a call gave, or `None` where the file system has no such call: the trait lets it.
#[track_caller]
fn unless_unsupported<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            crate::testing::skip(format_args!("the file system has no such call: {error}"));
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// What a call gave, or `None` where only a privileged process can make it.
#[track_caller]
fn unless_unprivileged<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if matches!(error.kind(), ErrorKind::NotPermitted | ErrorKind::Denied) => {
            crate::testing::skip(format_args!("the tests run without the privilege: {error}"));
            None
        }
        Err(error) => unless_unsupported(Err(error)),
    }
}

/// Asserts that a change began where the node was left and ended where it is now.
#[track_caller]
fn assert_frames(changed: &crate::vfs::Changed, before: &Attr, after: &Attr) {
    assert_eq!(changed.before, PreAttr::from(before), "before the change");
    assert_same(&changed.after, after);
}

/// Asserts that two looks at a node saw the same; `atime` and `used` move by themselves.
#[track_caller]
fn assert_same(one: &Attr, other: &Attr) {
    let seen = |attr: &Attr| (attr.ino, attr.fsid, attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev);
    assert_eq!(seen(one), seen(other));
    assert_eq!(PreAttr::from(one), PreAttr::from(other));
}

/// Asserts that something changed, and only content where `content` says so.
#[track_caller]
fn assert_moved(before: &Attr, after: &Attr, content: bool) {
    assert!(after.change > before.change, "change: {} after {}", after.change, before.change);
    assert!(after.ctime >= before.ctime, "ctime went back");
    if content {
        assert!(after.mtime >= before.mtime, "mtime went back");
    } else {
        assert_eq!(after.mtime, before.mtime, "mtime");
    }
}

/// Runs futures at the same time and gives what each gave, in order.
async fn at_once<F: Future<Output: Send + 'static> + Send + 'static>(
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("the task finished"));
    }
    results
}

/// Runs every law of [`Vfs`](crate::vfs::Vfs) over a file system that can be changed, each as a test of its own.
///
/// `vfs_laws!(name, make)` makes a module `name` of tests; `make` is a future that gives a new, empty `Arc<dyn Vfs>` and
/// whatever must outlive it. A law that a file system cannot keep is named with the reason, which the test prints:
/// `vfs_laws!(name, make, except: { a_law: "why" })`.
#[macro_export]
macro_rules! vfs_laws {
    ($module:ident, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::vfs_laws!(@module $module, with_specimen, $make, [$($except)?], [
            lookup_finds_each_name, lookup_of_no_name_is_not_found, lookup_in_a_file_is_not_dir,
            lookup_follows_no_symlink, parent_is_the_directory_above, numbers_are_distinct_and_stay,
            all_nodes_are_in_one_file_system, readdir_lists_each_name_once_at_any_page_size,
            readdir_gives_attributes_when_asked, cookies_are_distinct_and_in_range, readdir_resumes_after_any_entry,
            readdir_of_a_file_is_not_dir, cookies_that_were_never_given_are_refused, read_gives_the_bytes,
            read_of_what_is_no_file_is_refused, readlink_gives_the_target, statfs_answers_for_each_node,
            handles_are_short_and_stay, garbage_is_no_handle, attributes_make_sense, reads_at_once_see_the_same,
            a_retained_inode_answers, anything_can_be_synced,
        ], new, [
            create_makes_each_kind, create_makes_devices, create_applies_attributes, create_where_taken_is_refused,
            create_in_a_file_is_not_dir, targets_of_symlinks_are_bytes, targets_out_of_bounds_are_refused,
            names_are_bytes, of_many_creates_one_wins, remove_takes_a_name_away, remove_wants_the_right_kind,
            remove_of_a_directory_with_entries_is_refused, remove_checks_what_is_expected,
            a_removed_directory_is_empty_and_takes_nothing, names_coming_and_going_move_the_directory,
            readdir_meets_what_stays_exactly_once, readdir_survives_the_removal_of_all,
            link_gives_one_more_name, link_where_it_cannot_be_is_refused, links_share_everything,
            rename_moves_within_a_directory, rename_moves_to_another_directory, rename_replaces_a_file,
            rename_replaces_an_empty_directory, rename_over_what_is_in_the_way_is_refused,
            rename_into_itself_is_refused, rename_of_what_is_not_there_is_not_found,
            rename_of_two_names_of_one_inode_does_nothing, rename_onto_itself_does_nothing,
            rename_without_replacing, rename_exchanges_two_names, rename_exchanges_across_directories,
            rename_exchange_wants_both, rename_checks_what_is_expected, rename_moves_dot_dot,
            rename_into_a_removed_directory_is_not_found, renames_at_once_make_no_loop,
            writes_are_read_back, writes_overlap, writes_past_the_end_leave_a_hole, holes_and_data_are_found, writing_nothing_changes_nothing,
            writes_past_the_limit_are_refused, offsets_pass_four_gibibytes, write_to_what_is_no_file_is_refused,
            writes_at_once_all_land, cutting_off_and_growing_shows_zeros, sizes_out_of_bounds_are_refused,
            every_write_moves_the_change_counter, reading_changes_nothing, clear_suid_drops_both_bits,
            allocate_reserves, punch_hole_leaves_zeros, copy_range_copies, copy_range_refuses_overlaps,
            setattr_sets_what_is_given_and_nothing_else, setattr_keeps_times, setattr_now_is_not_the_past,
            setattr_of_nothing_changes_nothing, setattr_ignores_high_bits_of_the_mode,
            setattr_of_size_lets_mtime_win, setattr_sets_owners, xattrs_are_kept, xattr_modes_are_kept,
            xattrs_follow_the_inode,
            a_file_without_a_name_answers_while_leased, a_replaced_file_answers_while_leased,
            a_handle_of_what_is_gone_is_stale, a_handle_follows_a_rename, numbers_are_not_used_again,
            a_file_without_a_name_can_be_synced, behaves_like_the_model,
        ]);
    };
    (@module $module:ident, $bed:ident, $make:expr, [$({ $($except:ident: $reason:expr),* $(,)? })?],
        [$($read_law:ident),* $(,)?], $plain:ident, [$($law:ident),* $(,)?]) => {
        mod $module {
            #[allow(unused_imports, reason = "a constructor may need nothing from outside")]
            use super::*;
            const EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
            fn is_excepted(law: &str) -> bool {
                let reason = EXCEPTIONS.iter().find(|(excepted, _)| *excepted == law).map(|(_, reason)| reason);
                if let Some(reason) = reason {
                    $crate::testing::skip(format_args!("{}::{law}: {reason}", stringify!($module)));
                }
                reason.is_some()
            }
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $read_law() {
                    if !is_excepted(stringify!($read_law)) {
                        let (vfs, _kept) = $make.await;
                        let bed = $crate::vfs_laws!(@bed $bed vfs);
                        $crate::testing::vfs::laws::$read_law(&bed).await;
                    }
                }
            )*
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    if !is_excepted(stringify!($law)) {
                        let (vfs, _kept) = $make.await;
                        let bed = $crate::vfs_laws!(@bed $plain vfs);
                        $crate::testing::vfs::laws::$law(&bed).await;
                    }
                }
            )*
            #[test]
            fn exceptions_name_laws() {
                const LAWS: &[&str] = &[$(stringify!($read_law),)* $(stringify!($law)),*];
                for (law, _) in EXCEPTIONS {
                    assert!(LAWS.contains(law), "{law} is no law of a file system");
                }
            }
        }
    };
    (@bed with_specimen $vfs:ident) => {
        $crate::testing::vfs::Bed::with_specimen($vfs).await
    };
    (@bed new $vfs:ident) => {
        $crate::testing::vfs::Bed::new($vfs)
    };
}

/// Runs the laws of reading over a file system that cannot be changed, each as a test of its own.
///
/// As [`vfs_laws!`](crate::vfs_laws), but `make` gives a file system whose root holds the
/// [`specimen`](crate::testing::vfs::specimen).
#[macro_export]
macro_rules! vfs_read_laws {
    ($module:ident, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::vfs_laws!(@module $module, new, $make, [$($except)?], [
            lookup_finds_each_name, lookup_of_no_name_is_not_found, lookup_in_a_file_is_not_dir,
            lookup_follows_no_symlink, parent_is_the_directory_above, numbers_are_distinct_and_stay,
            all_nodes_are_in_one_file_system, readdir_lists_each_name_once_at_any_page_size,
            readdir_gives_attributes_when_asked, cookies_are_distinct_and_in_range, readdir_resumes_after_any_entry,
            readdir_of_a_file_is_not_dir, cookies_that_were_never_given_are_refused, read_gives_the_bytes,
            read_of_what_is_no_file_is_refused, readlink_gives_the_target, statfs_answers_for_each_node,
            handles_are_short_and_stay, garbage_is_no_handle, attributes_make_sense, reads_at_once_see_the_same,
            a_retained_inode_answers, anything_can_be_synced, changes_are_refused,
        ], new, []);
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Prefix,
        testing::{self, model::ModelFs},
        vfs::{
            narrow::{read_only_view, subtree},
            posix::{Caller, posix},
            union::UnionVfs,
        },
    };

    /// Outlives a law, and then finds that every lease was given back.
    struct Balanced(Arc<ModelFs>);

    impl Drop for Balanced {
        fn drop(&mut self) {
            // A law that failed shows its own panic.
            if !std::thread::panicking() {
                assert_eq!(self.0.lease_count(), 0, "leases were never given back");
            }
        }
    }

    fn new_model() -> (Arc<ModelFs>, Balanced) {
        let model = ModelFs::new(testing::env());
        (model.clone(), Balanced(model))
    }

    fn model() -> std::future::Ready<(Arc<dyn Vfs>, Balanced)> {
        let (model, kept) = new_model();
        std::future::ready((model, kept))
    }

    fn model_of_root() -> std::future::Ready<(Arc<dyn Vfs>, Balanced)> {
        let root = Caller { uid: 0, gid: 0, groups: Vec::new() };
        let (model, kept) = new_model();
        std::future::ready((posix(model, root), kept))
    }

    /// A caller who owns the root may do all that the laws do, but for what they skip aloud.
    async fn model_of_an_owner() -> (Arc<dyn Vfs>, Balanced) {
        let (model, kept) = new_model();
        let set = SetAttr { uid: Some(1000), gid: Some(1000), ..SetAttr::default() };
        model.setattr(model.root(), set).await.expect("setattr");
        (posix(model, Caller { uid: 1000, gid: 1000, groups: Vec::new() }), kept)
    }

    async fn part_of_a_model() -> (Arc<dyn Vfs>, Balanced) {
        let (model, kept) = new_model();
        let made = model.create(model.root(), &name("top"), NewNode::Dir, SetAttr::default()).await.expect("create");
        (subtree(model.clone(), Lease::adopt(model, made.node.ino)), kept)
    }

    async fn mount_of_a_union() -> (Arc<dyn Vfs>, Balanced) {
        let (model, kept) = new_model();
        let env = testing::env();
        let [prefix, other] = ["mem", "other"].map(|text| Prefix::new(text).expect("a good prefix"));
        let mounts: Vec<(Prefix, u8, Arc<dyn Vfs>)> = vec![(other, 3, ModelFs::new(env.clone())), (prefix, 255, model)];
        let union = Arc::new(UnionVfs::new(mounts, &env).expect("union"));
        let root = union.lookup(union.root(), &name("mem")).await.expect("lookup");
        (subtree(union.clone(), Lease::adopt(union, root.ino)), kept)
    }

    async fn view_that_only_reads() -> (Arc<dyn Vfs>, Balanced) {
        let (model, kept) = new_model();
        let vfs: Arc<dyn Vfs> = model;
        build_specimen(&vfs).await.expect("the specimen is built");
        (read_only_view(vfs), kept)
    }

    crate::vfs_laws!(of_the_model, model());
    crate::vfs_laws!(of_posix_for_root, model_of_root());
    crate::vfs_laws!(of_posix_for_an_owner, model_of_an_owner(), except: {
        behaves_like_the_model: "what is checked first refuses first: where two kinds are right it gives the other one",
    });
    crate::vfs_laws!(of_a_subtree, part_of_a_model());
    crate::vfs_laws!(of_a_union, mount_of_a_union());
    crate::vfs_read_laws!(of_a_read_only_view, view_that_only_reads());
}
