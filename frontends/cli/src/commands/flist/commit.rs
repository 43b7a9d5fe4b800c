//! `flist commit`: an flist of an overlay. What is as below keeps the chunks that the flist below names for it; the rest is read.

use std::{ops::Deref, path::Path, process::ExitCode, sync::Arc};

use futures_util::TryStreamExt as _;
use muxfs::{Error, ErrorKind, Name, QfsPath, Result, overlay::Below};
use muxfs_flist::{
    Flist, Inode, flist_file, node_of_handle,
    write::{CreateOptions, Facts, Making, Tree, What, check_routes, format_of},
};

use super::{
    OP,
    make::{about, add_routes, options, print, routes, shown, stores, what},
    open,
};
use crate::{
    args::FlistMaking,
    config::{Config, FlistMount, Mount, OverlayMount},
    instance::flist_dir,
    namespace::{Kind, Namespace, Place, Stat},
    output::Output,
};

/// The overlay at a path, and the flists that it lies over one of.
fn mounts<'a>(config: &'a Config, path: &QfsPath) -> Result<(&'a OverlayMount, &'a FlistMount)> {
    let overlay = config.mount.iter().find_map(|mount| match mount {
        Mount::Overlay(overlay) if overlay.prefix.0 == path.prefix => Some(overlay),
        _ => None,
    });
    let flists = |overlay: &OverlayMount| {
        config.mount.iter().find_map(|mount| match mount {
            Mount::Flist(flists) if flists.prefix.0 == overlay.over.0.prefix => Some(flists),
            _ => None,
        })
    };
    let found = overlay.filter(|_| path.parts.is_empty()).and_then(|overlay| Some((overlay, flists(overlay)?)));
    found.ok_or_else(|| {
        let named: Vec<String> = config
            .mount
            .iter()
            .filter(|mount| matches!(mount, Mount::Overlay(_)))
            .map(|mount| format!("/{}", mount.prefix()))
            .collect();
        let named = if named.is_empty() { "there is none".into() } else { named.join(" ") };
        let why =
            format!("it is not the mount of an overlay ({named}): an flist of another path is made by flist export");
        Error::new(ErrorKind::InvalidArgument, OP).at(path).because(why)
    })
}

/// The flist below.
struct Lower {
    flist: Flist,
}

impl Lower {
    /// The one that an overlay lies over, and no other that has its name by now.
    fn open(flists: &FlistMount, config: &Config, over: &QfsPath, base: &Stat) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, OP).at(over).because(why));
        let file = match over.parts.first() {
            Some(name) => flist_file(&flist_dir(&config.data, flists.dir.as_deref()), name)?,
            None => None,
        };
        let Some(file) = file else { return refuse(ErrorKind::NotFound, "the flist that it lies over is not there") };
        let this = Self { flist: open(&file)? };
        if this.node(base)?.is_none() {
            return refuse(ErrorKind::Internal, "it does not say what it lies over");
        }
        Ok(this)
    }

    /// The node that something is as, in the flist; `None` for what was changed or is new.
    fn node(&self, stat: &Stat) -> Result<Option<Inode>> {
        let Some(below) = &stat.below else { return Ok(None) };
        let below = Below::decode(below)?;
        let gone = || {
            let why = "the flist that it lies over was replaced by another: put it back, and commit then";
            Error::new(ErrorKind::Stale, OP).because(why)
        };
        let (id, node) = node_of_handle(&below.handle)?.ok_or_else(gone)?;
        if id != self.flist.id() {
            return Err(gone());
        }
        self.flist.inode(node)?.ok_or_else(gone).map(Some)
    }
}

/// Makes an flist of an overlay and of the flist that it lies over.
pub(crate) async fn commit<T>(
    namespace: &Arc<T>,
    config: &Config,
    path: &QfsPath,
    (making, target): (&FlistMaking, &Path),
    output: Output,
) -> Result<ExitCode>
where
    T: Deref<Target = dyn Namespace> + Send + Sync + 'static,
{
    let (overlay, flists) = mounts(config, path)?;
    let root = namespace.stat(&Place::Path(path.clone())).await?;
    let lower = Lower::open(flists, config, &overlay.over.0, &root)?;
    let format = lower.flist.format();
    let options = CreateOptions { format: making.format.or(Some(format)), ..options(making) };
    // What the name says counts where nothing else does.
    let wanted = format_of(target, making.format).unwrap_or(format);
    if wanted != format {
        let why = format!("what it lies over is an .{format}, whose chunks cannot be told as those of an .{wanted}");
        return Err(Error::new(ErrorKind::InvalidArgument, OP).at(target.display()).because(why));
    }
    check_routes(format, &routes(making).unwrap_or_default())?;
    let stores = stores(making, Some(namespace)).await?;
    let mut facts = Facts::of(&lower.flist)?;
    add_routes(&mut facts, format, routes(making).unwrap_or_else(|| stores.routes()))
        .map_err(|error| error.at(target.display()))?;
    for (key, value) in &making.metadata {
        facts.set(key, value);
    }
    let work = async {
        let mut making = Making::begin(Tree::default(), stores, target, &options)?;
        making.put(&[], about(&root), What::Dir)?;
        let mut dirs = vec![(path.clone(), Vec::<Name>::new())];
        while let Some((dir, at)) = dirs.pop() {
            let place = Place::Path(dir.clone());
            let mut entries: Vec<Stat> = namespace.list(&place).try_collect().await?;
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            for stat in entries {
                let (path, at) = (dir.join(&stat.name), [&at[..], std::slice::from_ref(&stat.name)].concat());
                if let Some(inode) = lower.node(&stat).map_err(|error| error.at(&path))? {
                    making.reuse(&at, about(&stat), &lower.flist, &inode)?;
                    continue;
                }
                let what = what(&***namespace, &mut making, &stat, &path).await?;
                making.put(&at, about(&stat), what)?;
                if stat.kind == Kind::Dir {
                    dirs.push((path, at));
                }
            }
        }
        making.finish(facts).await
    };
    let report = shown(options.progress.clone(), work, output).await?;
    print(target, &report, output)
}
