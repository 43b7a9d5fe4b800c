//! One scenario table for every wire: what a client of NFS, FTP or anything else finds, it finds alike.
//!
//! A frontend writes a [`Client`] over a real client of its protocol and one line of [`wire_laws!`](crate::wire_laws),
//! and gets a test for each scenario of [`scenarios`]. The same scenarios run here through [`Direct`], without any wire:
//! red on the wire but green direct is the frontend's fault, red on both the file system's.
//!
//! ```
//! # use std::sync::Arc;
//! # use muxfs::{testing::wire::{Client, Direct}, vfs::Vfs};
//! /// Serves `vfs` and connects: here by nothing at all.
//! async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
//!     Direct::new(vfs)
//! }
//! muxfs::wire_laws!(direct, connect);
//! # fn main() {} // the macro looks for `connect` in the module around it
//! ```

mod direct;
pub mod scenarios;

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

pub use self::direct::Direct;
use super::model::ModelFs;
use crate::{
    ErrorKind, FileKind, Mount, Name, Prefix,
    block::Mem,
    cas_view::CasViewOptions,
    dag::{Dag, DagOptions},
    heads::MemHeads,
    media::MemMedia,
    pins::Pins,
    tree::{Tree, TreeOptions},
    vfs::{SetAttr, Vfs},
};

/// How long a server may take to give back what it leased for a client that is gone: only a server that never does
/// takes as long.
const AT_REST_WITHIN: Duration = Duration::from_secs(30);

/// Why a server refused.
///
/// Only what a server said: a client that lost its connection, or cannot make sense of a reply, panics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The reply names a kind.
    Kind(ErrorKind),
    /// The wire has one code for several kinds (FTP's 550); what it said.
    Unnamed(String),
}

/// What a client is told by a server.
pub type Answer<T> = Result<T, Refusal>;

/// What is known of a node over a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; of no meaning for a directory.
    pub size: u64,
    /// When the content last changed; wires tell it by the second at least.
    pub mtime: SystemTime,
}

/// What not every wire can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Names that are no UTF-8.
    BinaryNames,
    /// Names with a line feed or a carriage return.
    LineBreakNames,
    /// Overwriting bytes within a file.
    WriteWithin,
    /// Writing past the end of a file, which leaves zeros between.
    WritePastEnd,
    /// Changes that are on disk when their reply comes.
    Sync,
    /// Removing or replacing a directory only where it is empty, and what is no directory only as such.
    RemoveByKind,
}

/// A client of one server. Paths are absolute, of names between slashes, as bytes; the root of what is served is `/`.
#[async_trait]
pub trait Client: Debug + Send + Sync + 'static {
    /// Why the wire cannot do this; `None` where it can.
    fn cannot(&self, ability: Ability) -> Option<&'static str>;

    /// Another client of the same server, on a connection of its own.
    async fn another(&self) -> Arc<dyn Client>;

    /// Makes a directory.
    async fn mkdir(&self, path: &[u8]) -> Answer<()>;

    /// Makes a file of `data`, or replaces the content of the one that is there.
    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()>;

    /// Writes `data` at `offset` of a file that is there: at its end this appends.
    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()>;

    /// The whole file.
    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>>;

    /// At most `len` bytes from `offset`; short only at the end of the file, empty past it.
    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>>;

    /// The names in a directory, without "." and "..", in any order.
    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>>;

    /// What is known of a node.
    async fn stat(&self, path: &[u8]) -> Answer<Stat>;

    /// Moves a name, replacing what is there.
    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()>;

    /// Removes anything but a directory.
    async fn remove(&self, path: &[u8]) -> Answer<()>;

    /// Removes an empty directory.
    async fn rmdir(&self, path: &[u8]) -> Answer<()>;
}

/// Serves a file system and connects a client: what a frontend gives to [`wire_laws!`](crate::wire_laws).
pub type Connect = Box<dyn Fn(Arc<dyn Vfs>) -> Pin<Box<dyn Future<Output = Arc<dyn Client>> + Send>> + Send + Sync>;

/// What a scenario works with: a file system, a server of it, and a client of that.
#[expect(missing_debug_implementations, reason = "a function that connects shows nothing")]
pub struct Bed {
    /// The file system that is served.
    pub vfs: Arc<dyn Vfs>,
    /// The same, where it is the model.
    pub model: Option<Arc<ModelFs>>,
    /// A client of its server.
    pub client: Arc<dyn Client>,
    connect: Connect,
}

impl Bed {
    /// Serves a new model.
    pub async fn on_model(connect: Connect) -> Self {
        let model = ModelFs::new(super::env());
        let mut bed = Self::on(model.clone(), connect).await;
        bed.model = Some(model);
        bed
    }

    /// Serves `vfs`, its root open to everybody.
    pub async fn on(vfs: Arc<dyn Vfs>, connect: Connect) -> Self {
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        vfs.setattr(vfs.root(), open).await.expect("the root is opened to everybody");
        let client = connect(vfs.clone()).await;
        Self { vfs, model: None, client, connect }
    }

    /// Serves another file system the same way.
    pub async fn connect(&self, vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
        (self.connect)(vfs).await
    }

    /// Whether the wire cannot do this; says so.
    pub fn skips(&self, ability: Ability) -> bool {
        let reason = self.client.cannot(ability);
        if let Some(reason) = reason {
            crate::testing::skip(format_args!("{ability:?}: {reason}"));
        }
        reason.is_some()
    }

    /// Ends the client; the server then gives every lease back.
    pub async fn end(self) {
        drop(self.client);
        if let Some(model) = self.model {
            let at_rest = async {
                while model.lease_count() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let ended = tokio::time::timeout(AT_REST_WITHIN, at_rest).await;
            assert!(ended.is_ok(), "{} leases were never given back", model.lease_count());
        }
    }
}

/// An empty working tree in memory, as a mount shows it: what `on` of [`wire_laws!`](crate::wire_laws) takes.
///
/// # Panics
/// Where it cannot be made.
pub async fn working_tree() -> (Arc<dyn Vfs>, ()) {
    let env = super::env();
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.expect("pins in memory"));
    let options = TreeOptions::new(Name::new(b"main").expect("a good name"), env);
    let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
    let prefix = Prefix::new("mem").expect("a good prefix");
    let mount = Mount::content(prefix, pins, tree.expect("a tree in memory"), CasViewOptions::default());
    (mount.vfs().clone(), ())
}

/// Runs every scenario over one wire, each as a test of its own.
///
/// `wire_laws!(name, connect)` makes a module `name` of tests. `connect` is an `async fn(Arc<dyn Vfs>) -> Arc<dyn
/// Client>` that serves a file system and connects; the server lives as long as its clients. The file system is the
/// model; `on: make` puts another one in its place, `make` being a future that gives an empty writable `Arc<dyn Vfs>`
/// and whatever must outlive it. A scenario that a frontend cannot pass is named with the reason, which the test prints:
/// `wire_laws!(name, connect, except: { a_scenario: "why" })`.
#[macro_export]
macro_rules! wire_laws {
    ($module:ident, $connect:expr $(, on: $make:expr)? $(, except: $except:tt)? $(,)?) => {
        $crate::wire_laws!(@module $module, $connect, [$($make)?], [$($except)?],
            files_of_any_length_come_back, a_large_file_comes_back, overwriting_leaves_nothing_of_the_old,
            ranges_are_cut_at_the_end, offsets_pass_four_gibibytes, appending_continues,
            writing_within_keeps_the_rest, writing_past_the_end_leaves_zeros, an_empty_directory_lists_nothing,
            a_listing_is_exact, a_thousand_entries_are_listed_once, names_come_back_as_given,
            binary_names_come_back_as_given, names_with_line_breaks_come_back_as_given, long_names_are_refused,
            what_is_not_there_is_not_found, what_is_in_the_way_is_named, the_wrong_kind_is_refused,
            a_directory_with_entries_stays, what_is_removed_is_gone, a_rename_moves, a_rename_replaces,
            a_rename_that_cannot_be_changes_nothing, directories_nest, dot_dot_leads_nowhere,
            clients_see_each_other, clients_work_at_once, stat_tells_kind_size_and_time,
            what_is_put_is_in_the_file_system, what_is_in_the_file_system_is_got, what_returned_is_durable,
            a_read_only_file_system_refuses_changes, a_failing_file_system_recovers);
    };
    (@module $module:ident, $connect:expr, [$($make:expr)?], [$({ $($except:ident: $reason:expr),* $(,)? })?],
        $($law:ident),* $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "a constructor may need nothing from outside")]
            use super::*;
            const EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
            async fn bed() -> ($crate::testing::wire::Bed, impl Sized) {
                let connect: $crate::testing::wire::Connect =
                    ::std::boxed::Box::new(|vfs| ::std::boxed::Box::pin(async move { $connect(vfs).await }));
                $crate::wire_laws!(@bed connect $(, $make)?)
            }
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    if let Some((law, reason)) = EXCEPTIONS.iter().find(|(law, _)| *law == stringify!($law)) {
                        $crate::testing::skip(format_args!("{}::{law}: {reason}", stringify!($module)));
                        return;
                    }
                    let (bed, _kept) = bed().await;
                    $crate::testing::wire::scenarios::$law(&bed).await;
                    bed.end().await;
                }
            )*
            #[test]
            fn exceptions_name_scenarios() {
                const LAWS: &[&str] = &[$(stringify!($law)),*];
                for (law, _) in EXCEPTIONS {
                    assert!(LAWS.contains(law), "{law} is no scenario");
                }
            }
        }
    };
    (@bed $connect:expr) => {
        ($crate::testing::wire::Bed::on_model($connect).await, ())
    };
    (@bed $connect:expr, $make:expr) => {{
        let (vfs, kept) = $make.await;
        ($crate::testing::wire::Bed::on(vfs, $connect).await, kept)
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unused_async, reason = "a wire takes time to connect; nothing here does")]
    async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
        Direct::new(vfs)
    }

    #[expect(clippy::unused_async, reason = "another file system may take time to open")]
    async fn model() -> (Arc<dyn Vfs>, ()) {
        (ModelFs::new(crate::testing::env()), ())
    }

    crate::wire_laws!(direct, connect);
    crate::wire_laws!(direct_on_another, connect, on: model());
    crate::wire_laws!(direct_on_a_working_tree, connect, on: working_tree());
}
