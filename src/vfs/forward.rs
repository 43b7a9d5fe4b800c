//! What a wrapper of a [`Vfs`](super::Vfs) passes on as it is: a line that names the calls.
//!
//! The calls are named, rather than all passed on that are not written: each is a decision of its wrapper. A new call of
//! the trait must neither slip past one that checks permissions nor fall to the trait's default, which refuses. So every
//! wrapper denies `clippy::missing_trait_methods`, and the tests here send every call of the trait through them.

/// Writes the named calls of a [`Vfs`](crate::vfs::Vfs) so that they go to a field: what a wrapper passes on as it is.
///
/// Stands in an `impl Vfs`, which should deny `clippy::missing_trait_methods`: then a call that is neither named nor
/// written is an error rather than the trait's default. Costs nothing when called, not even a future around the future.
///
/// ```
/// # #![allow(clippy::missing_trait_methods)]
/// use std::sync::Arc;
/// use muxfs::{Result, forward_vfs, testing::{self, model::ModelFs}, vfs::{Ino, Vfs}};
///
/// /// A file system whose disk spins only for what is asked for by name.
/// #[derive(Debug)]
/// struct Quiet {
///     vfs: Arc<dyn Vfs>,
/// }
///
/// #[async_trait::async_trait]
/// #[deny(clippy::missing_trait_methods)]
/// impl Vfs for Quiet {
///     forward_vfs!(vfs: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
///     forward_vfs!(vfs: resolve, retain, release, setattr, write, create, remove, rename, link, allocate, punch_hole);
///     forward_vfs!(vfs: copy_range, seek, getxattr, listxattr, setxattr, removexattr, sync_inode);
///
///     async fn sync(&self, ino: Ino) -> Result<()> {
///         if ino == self.root() { Ok(()) } else { self.vfs.sync(ino).await }
///     }
/// }
///
/// let quiet = Quiet { vfs: ModelFs::new(testing::env()) };
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(quiet.getattr(quiet.root()).await?.ino, quiet.root());
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[macro_export]
macro_rules! forward_vfs {
    ($to:ident: $($call:ident),+ $(,)?) => { $($crate::forward_vfs! { @ $call $to })+ };

    // ---- one line for each call of the trait, in its order

    (@ root $to:ident) => {
        fn root(&self) -> $crate::vfs::Ino {
            self.$to.root()
        }
    };
    (@ lookup $to:ident) => {
        $crate::forward_vfs! {
            @async lookup $to ['a] (dir: $crate::vfs::Ino, name: &'a $crate::Name)
                -> $crate::vfs::Attr
        }
    };
    (@ expect $to:ident) => {
        fn expect(&self, dir: $crate::vfs::Ino, names: &[$crate::Name]) {
            self.$to.expect(dir, names);
        }
    };
    (@ parent $to:ident) => {
        $crate::forward_vfs! { @async parent $to [] (dir: $crate::vfs::Ino) -> $crate::vfs::Attr }
    };
    (@ getattr $to:ident) => {
        $crate::forward_vfs! { @async getattr $to [] (ino: $crate::vfs::Ino) -> $crate::vfs::Attr }
    };
    (@ readdir $to:ident) => {
        $crate::forward_vfs! {
            @async readdir $to [] (
                dir: $crate::vfs::Ino,
                after: $crate::vfs::Cookie,
                count: usize,
                listing: $crate::vfs::Listing
            )
                -> $crate::vfs::DirPage
        }
    };
    (@ read $to:ident) => {
        $crate::forward_vfs! { @async read $to [] (ino: $crate::vfs::Ino, offset: u64, len: u32) -> ::bytes::Bytes }
    };
    (@ host_file $to:ident) => {
        $crate::forward_vfs! {
            @async host_file $to [] (ino: $crate::vfs::Ino) -> ::std::option::Option<::std::fs::File>
        }
    };
    (@ readlink $to:ident) => {
        $crate::forward_vfs! { @async readlink $to [] (ino: $crate::vfs::Ino) -> ::bytes::Bytes }
    };
    (@ statfs $to:ident) => {
        $crate::forward_vfs! { @async statfs $to [] (ino: $crate::vfs::Ino) -> $crate::vfs::FsStat }
    };
    (@ handle $to:ident) => {
        fn handle(&self, ino: $crate::vfs::Ino) -> $crate::Result<$crate::vfs::Handle> {
            self.$to.handle(ino)
        }
    };
    (@ resolve $to:ident) => {
        $crate::forward_vfs! { @async resolve $to ['a] (handle: &'a $crate::vfs::Handle) -> $crate::vfs::Attr }
    };
    (@ retain $to:ident) => {
        fn retain(&self, ino: $crate::vfs::Ino) {
            self.$to.retain(ino);
        }
    };
    (@ release $to:ident) => {
        fn release(&self, ino: $crate::vfs::Ino, count: u64) {
            self.$to.release(ino, count);
        }
    };
    (@ setattr $to:ident) => {
        $crate::forward_vfs! {
            @async setattr $to [] (ino: $crate::vfs::Ino, set: $crate::vfs::SetAttr)
                -> $crate::vfs::Changed
        }
    };
    (@ write $to:ident) => {
        $crate::forward_vfs! {
            @async write $to [] (ino: $crate::vfs::Ino, offset: u64, data: ::bytes::Bytes, clear_suid: bool)
                -> $crate::vfs::Changed
        }
    };
    (@ create $to:ident) => {
        $crate::forward_vfs! {
            @async create $to ['a] (
                dir: $crate::vfs::Ino,
                name: &'a $crate::Name,
                node: $crate::vfs::NewNode,
                set: $crate::vfs::SetAttr
            )
                -> $crate::vfs::DirChanged
        }
    };
    (@ remove $to:ident) => {
        $crate::forward_vfs! {
            @async remove $to ['a] (place: $crate::vfs::Place<'a>, kind: $crate::vfs::RemoveKind)
                -> $crate::vfs::DirChanged
        }
    };
    (@ rename $to:ident) => {
        $crate::forward_vfs! {
            @async rename $to ['a 'b] (
                from: $crate::vfs::Place<'a>,
                to: $crate::vfs::Place<'b>,
                mode: $crate::vfs::RenameMode
            )
                -> $crate::vfs::Renamed
        }
    };
    (@ link $to:ident) => {
        $crate::forward_vfs! {
            @async link $to ['a] (ino: $crate::vfs::Ino, dir: $crate::vfs::Ino, name: &'a $crate::Name)
                -> $crate::vfs::DirChanged
        }
    };
    (@ allocate $to:ident) => {
        $crate::forward_vfs! {
            @async allocate $to [] (ino: $crate::vfs::Ino, range: ::std::ops::Range<u64>, keep_size: bool)
                -> $crate::vfs::Changed
        }
    };
    (@ punch_hole $to:ident) => {
        $crate::forward_vfs! {
            @async punch_hole $to [] (ino: $crate::vfs::Ino, range: ::std::ops::Range<u64>)
                -> $crate::vfs::Changed
        }
    };
    (@ copy_range $to:ident) => {
        $crate::forward_vfs! {
            @async copy_range $to [] (from: ($crate::vfs::Ino, u64), to: ($crate::vfs::Ino, u64), len: u64)
                -> (u64, $crate::vfs::Changed)
        }
    };
    (@ seek $to:ident) => {
        $crate::forward_vfs! {
            @async seek $to [] (ino: $crate::vfs::Ino, offset: u64, what: $crate::vfs::Seek)
                -> ::std::option::Option<u64>
        }
    };
    (@ getxattr $to:ident) => {
        $crate::forward_vfs! {
            @async getxattr $to ['a] (ino: $crate::vfs::Ino, name: &'a $crate::vfs::XattrName)
                -> ::bytes::Bytes
        }
    };
    (@ listxattr $to:ident) => {
        $crate::forward_vfs! {
            @async listxattr $to [] (ino: $crate::vfs::Ino)
                -> ::std::vec::Vec<$crate::vfs::XattrName>
        }
    };
    (@ setxattr $to:ident) => {
        $crate::forward_vfs! {
            @async setxattr $to ['a] (
                ino: $crate::vfs::Ino,
                name: &'a $crate::vfs::XattrName,
                value: ::bytes::Bytes,
                mode: $crate::vfs::XattrMode
            )
                -> $crate::vfs::Changed
        }
    };
    (@ removexattr $to:ident) => {
        $crate::forward_vfs! {
            @async removexattr $to ['a] (ino: $crate::vfs::Ino, name: &'a $crate::vfs::XattrName)
                -> $crate::vfs::Changed
        }
    };
    (@ sync $to:ident) => {
        $crate::forward_vfs! { @async sync $to [] (ino: $crate::vfs::Ino) -> () }
    };
    (@ sync_inode $to:ident) => {
        $crate::forward_vfs! { @async sync_inode $to [] (ino: $crate::vfs::Ino) -> () }
    };

    // What `async_trait` makes of an `async fn`.
    (@async $call:ident $to:ident [$($life:lifetime)*] ($($arg:ident: $type:ty),*) -> $ok:ty) => {
        fn $call<'me, $($life,)* 'call>(
            &'me self,
            $($arg: $type),*
        ) -> ::std::pin::Pin<
            ::std::boxed::Box<dyn ::std::future::Future<Output = $crate::Result<$ok>> + ::std::marker::Send + 'call>,
        >
        where
            'me: 'call,
            $($life: 'call,)*
            Self: 'call,
        {
            self.$to.$call($($arg),*)
        }
    };
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        ops::Range,
        sync::{Arc, Mutex, PoisonError},
    };

    use async_trait::async_trait;
    use bytes::Bytes;

    use crate::{
        ErrorKind, Name, Result,
        testing::{self, model::ModelFs},
        vfs::{
            Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Handle, Ino, Lease, Listing, NewNode, Place,
            RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName, narrow, posix,
        },
    };

    /// Whose everything is.
    const OWNER: u32 = 1000;

    /// The model, which also tells the calls that reached it.
    #[derive(Debug)]
    struct Witness {
        fs: Arc<ModelFs>,
        calls: Mutex<Vec<&'static str>>,
    }

    impl Witness {
        fn note(&self, call: &'static str) -> &ModelFs {
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            &self.fs
        }

        fn take(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    macro_rules! witness {
        ($($call:ident($($arg:ident: $type:ty),*) -> $ok:ty;)*) => {
            #[async_trait]
            #[deny(clippy::missing_trait_methods)]
            impl Vfs for Witness {
                $(async fn $call(&self, $($arg: $type),*) -> Result<$ok> {
                    self.note(stringify!($call)).$call($($arg),*).await
                })*
                fn root(&self) -> Ino {
                    self.note("root").root()
                }
                fn expect(&self, dir: Ino, names: &[Name]) {
                    self.note("expect").expect(dir, names);
                }
                fn handle(&self, ino: Ino) -> Result<Handle> {
                    self.note("handle").handle(ino)
                }
                fn retain(&self, ino: Ino) {
                    self.note("retain").retain(ino);
                }
                fn release(&self, ino: Ino, count: u64) {
                    self.note("release").release(ino, count);
                }
            }
        };
    }

    witness! {
        lookup(dir: Ino, name: &Name) -> Attr;
        parent(dir: Ino) -> Attr;
        getattr(ino: Ino) -> Attr;
        readdir(dir: Ino, after: Cookie, count: usize, listing: Listing) -> DirPage;
        read(ino: Ino, offset: u64, len: u32) -> Bytes;
        host_file(ino: Ino) -> Option<File>;
        readlink(ino: Ino) -> Bytes;
        statfs(ino: Ino) -> FsStat;
        resolve(handle: &Handle) -> Attr;
        setattr(ino: Ino, set: SetAttr) -> Changed;
        write(ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Changed;
        create(dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> DirChanged;
        remove(place: Place<'_>, kind: RemoveKind) -> DirChanged;
        rename(from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Renamed;
        link(ino: Ino, dir: Ino, name: &Name) -> DirChanged;
        allocate(ino: Ino, range: Range<u64>, keep_size: bool) -> Changed;
        punch_hole(ino: Ino, range: Range<u64>) -> Changed;
        copy_range(from: (Ino, u64), to: (Ino, u64), len: u64) -> (u64, Changed);
        seek(ino: Ino, offset: u64, what: Seek) -> Option<u64>;
        getxattr(ino: Ino, name: &XattrName) -> Bytes;
        listxattr(ino: Ino) -> Vec<XattrName>;
        setxattr(ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Changed;
        removexattr(ino: Ino, name: &XattrName) -> Changed;
        sync(ino: Ino) -> ();
        sync_inode(ino: Ino) -> ();
    }

    /// The calls of the trait, as its source tells them: nothing else knows them all.
    fn calls_of_the_trait() -> Vec<&'static str> {
        let source = include_str!("mod.rs").split_once("pub trait Vfs").expect("it is there").1;
        let source = source.split_once("\n}\n").expect("it ends").0;
        let begins = source.lines().filter_map(|line| line.strip_prefix("    "));
        let names = begins.filter_map(|line| line.strip_prefix("async fn ").or(line.strip_prefix("fn ")));
        names.filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect()
    }

    /// Makes each call on a wrapper, and tells of each whether it reached the file system below, or what it said instead.
    async fn made(wrap: impl FnOnce(Arc<Witness>) -> Arc<dyn Vfs>) -> Vec<(&'static str, Result<bool, ErrorKind>)> {
        let fs = ModelFs::new(testing::env());
        let name = |text: &str| Name::new(text.as_bytes()).expect("a good name");
        let (file_name, link_name, other) = (name("file"), name("link"), name("other"));
        let below = Arc::new(Witness { fs: fs.clone(), calls: Mutex::default() });
        let root = fs.root();
        let owned = || SetAttr { uid: Some(OWNER), ..SetAttr::default() };
        fs.setattr(root, owned()).await.expect("setattr");
        let make = |name, node| fs.create(root, name, node, owned());
        let file = make(&file_name, NewNode::File).await.expect("create").node.ino;
        let link = make(&link_name, NewNode::Symlink("there".into())).await.expect("create").node.ino;
        let vfs = wrap(below.clone());
        let [xattr, old] = [b"user.a", b"user.b"].map(|name| XattrName::new(name).expect("a good name"));
        fs.setxattr(file, &old, "old".into(), XattrMode::Set).await.expect("setxattr");
        let place = |name| Place { dir: root, name, expect: None };
        let handle = fs.handle(file).expect("handle");
        let mut told = Vec::new();
        macro_rules! call {
            ($call:ident($($arg:expr),*)) => { call!(@ $call, vfs.$call($($arg),*).await.map(drop)) };
            (fn $call:ident($($arg:expr),*)) => { call!(@ $call, Ok(vfs.$call($($arg),*)).map(drop)) };
            (@ $call:ident, $result:expr) => {
                below.take();
                let result: Result<()> = $result;
                let reached = below.take().contains(&stringify!($call));
                told.push((stringify!($call), result.map(|()| reached).map_err(|error| error.kind())));
            };
        }
        call!(fn root());
        call!(lookup(root, &file_name));
        call!(fn expect(root, std::slice::from_ref(&file_name)));
        call!(parent(file));
        call!(getattr(file));
        call!(readdir(root, Cookie::START, 10, Listing::Names));
        call!(read(file, 0, 10));
        call!(host_file(file));
        call!(readlink(link));
        call!(statfs(file));
        call!(fn handle(file));
        call!(resolve(&handle));
        call!(fn retain(file));
        call!(fn release(file, 1));
        call!(setattr(file, SetAttr { mode: Some(0o600), ..SetAttr::default() }));
        call!(write(file, 0, "data".into(), false));
        call!(create(root, &other, NewNode::File, SetAttr::default()));
        call!(remove(place(&other), RemoveKind::NonDir));
        call!(rename(place(&link_name), place(&other), RenameMode::Replace));
        call!(link(file, root, &link_name));
        call!(allocate(file, 0..10, false));
        call!(punch_hole(file, 0..10));
        call!(copy_range((file, 0), (file, 10), 10));
        call!(seek(file, 0, Seek::Data));
        call!(setxattr(file, &xattr, "value".into(), XattrMode::Set));
        call!(getxattr(file, &old));
        call!(listxattr(file));
        call!(removexattr(file, &old));
        call!(sync(root));
        call!(sync_inode(root));
        told
    }

    /// A wrapper that does not name a call falls to the trait's default, which refuses, or does nothing: a wrapper in the
    /// tests of a tree did so with `sync_inode` for a while, and nobody saw it.
    #[tokio::test]
    async fn each_call_of_the_trait_reaches_what_is_wrapped() {
        let changes = [
            "setattr",
            "write",
            "create",
            "remove",
            "rename",
            "link",
            "allocate",
            "punch_hole",
            "copy_range",
            "setxattr",
            "removexattr",
        ];
        let as_caller =
            |uid| move |vfs: Arc<Witness>| posix::posix(vfs, posix::Caller { uid, gid: 0, groups: Vec::new() });
        let subtree = |vfs: Arc<Witness>| narrow::subtree(vfs.clone(), Lease::adopt(vfs.clone(), vfs.root()));
        let wrapped = [
            ("subtree", made(subtree).await),
            ("read-only view", made(|vfs| narrow::read_only_view(vfs)).await),
            ("posix for root", made(as_caller(0)).await),
            ("posix for the owner", made(as_caller(OWNER)).await),
        ];
        let mut all = calls_of_the_trait();
        all.sort_unstable();
        for (wrapper, told) in wrapped {
            let mut calls: Vec<_> = told.iter().map(|(call, _)| *call).collect();
            calls.sort_unstable();
            assert_eq!(calls, all, "the test makes each call of the trait");
            for (call, result) in told {
                let expected = match wrapper {
                    // Its root is its own.
                    "subtree" if call == "root" => Ok(false),
                    "read-only view" if changes.contains(&call) => Err(ErrorKind::ReadOnly),
                    _ => Ok(true),
                };
                assert_eq!(result, expected, "{wrapper}: {call}");
            }
        }
    }
}
