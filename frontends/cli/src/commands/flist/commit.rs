//! `flist commit`: an flist of an overlay. What is as below keeps the chunks that the flist below names for it; the rest is read,
//! and all of it where the format is to be another.

use std::{
    fs, io,
    ops::Deref,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use muxfs::{Error, ErrorKind, Name, QfsPath, Result, overlay::Below};
use muxfs_flist::{
    Flist, FlistId, Inode, flist_file, kept_file, node_of_handle,
    write::{CreateOptions, Facts, Making, Tree, check_routes, format_of},
};

use super::{
    OP,
    make::{add_routes, check_stores_are_not_in, options, print, routes, shown, stores},
    open,
    walk::{self, about},
};
use crate::{
    args::FlistMaking,
    commands::put::host,
    config::{Config, FlistMount, Mount, OverlayMount},
    instance::{flist_dir, kept_flists_dir},
    namespace::{Namespace, Place, Stat},
    output::Output,
};

/// Every overlay, with the flists that it lies over one of.
fn overlays(config: &Config) -> impl Iterator<Item = (&OverlayMount, &FlistMount)> {
    config.mount.iter().filter_map(|mount| {
        let Mount::Overlay(overlay) = mount else { return None };
        let flists = config.mount.iter().find_map(|mount| match mount {
            Mount::Flist(flists) if flists.prefix.0 == overlay.over.0.prefix => Some(flists),
            _ => None,
        });
        Some((overlay, flists?))
    })
}

/// The overlay at a path, and the flists that it lies over one of.
fn mounts<'a>(config: &'a Config, path: &QfsPath) -> Result<(&'a OverlayMount, &'a FlistMount)> {
    let found = overlays(config).find(|(overlay, _)| overlay.prefix.0 == path.prefix && path.parts.is_empty());
    found.ok_or_else(|| {
        let named: Vec<String> = overlays(config).map(|(overlay, _)| format!("/{}", overlay.prefix.0)).collect();
        let named = if named.is_empty() { "there is none".into() } else { named.join(" ") };
        let why =
            format!("it is not the mount of an overlay ({named}): an flist of another path is made by flist export");
        Error::new(ErrorKind::InvalidArgument, OP).at(path).because(why)
    })
}

/// The files that the flist of an overlay may be in: that of its name, or, where there are by now two of one name, either.
fn files(config: &Config, overlay: &OverlayMount, flists: &FlistMount) -> Result<Vec<PathBuf>> {
    let dir = flist_dir(&config.data, flists.dir.as_deref());
    let parts = &overlay.over.0.parts;
    // In a repository, or deeper, in a tag.
    let (first, last) = if flists.repositories { (1, 3) } else { (0, 0) };
    for (name, above) in (first..=last).filter_map(|at| parts.get(..=at)).filter_map(<[Name]>::split_last) {
        let with = |extension: &str| Name::new(&[name.as_bytes(), extension.as_bytes()].concat());
        let names = [Some(name.clone()), with(".flist").ok(), with(".fl").ok()].into_iter().flatten();
        let found = names.map(|name| flist_file(&dir, &[above, &[name]].concat()));
        let found: Vec<PathBuf> = found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Refuses to put an flist in the place of one that an overlay lies over and has not kept: what that did not take over would be gone.
async fn refuse_below(namespace: &dyn Namespace, config: &Config, target: &Path) -> Result<()> {
    let there = match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(|error| host(target, error))?,
    };
    for (overlay, flists) in overlays(config) {
        for file in files(config, overlay, flists)? {
            let is_same = fs::metadata(&file).is_ok_and(|it| (it.dev(), it.ino()) == (there.dev(), there.ino()));
            if !is_same {
                continue;
            }
            let root = QfsPath { prefix: overlay.prefix.0, parts: Vec::new() };
            let id = base(&namespace.stat(&Place::Path(root)).await?)?;
            if id.and_then(|id| kept_file(&kept_flists_dir(&config.data, overlay.prefix.0), id)).is_none() {
                let why = format!(
                    "/{} lies over it and did not keep it, and would lose all that was not changed: give the new flist a name of its own",
                    overlay.prefix.0
                );
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(target.display()).because(why));
            }
        }
    }
    Ok(())
}

/// Which flist an overlay lies over, by what its root is; `None` where it has not begun.
fn base(root: &Stat) -> Result<Option<FlistId>> {
    let Some(below) = &root.below else { return Ok(None) };
    Ok(node_of_handle(&Below::decode(below)?.handle)?.map(|(id, _)| id))
}

/// The flist below.
struct Lower {
    flist: Flist,
}

impl Lower {
    /// The one that an overlay lies over, and no other that has its name by now.
    fn open(config: &Config, (overlay, flists): (&OverlayMount, &FlistMount), root: &Stat) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, OP).at(&overlay.over.0).because(why));
        let Some(id) = base(root)? else {
            return refuse(
                ErrorKind::NotFound,
                "the overlay has not begun: the flist that it is to lie over is not there",
            );
        };
        let mut opened = None;
        for file in files(config, overlay, flists)? {
            match open(&file) {
                Ok(flist) if flist.id() == id => return Ok(Self { flist }),
                other => opened = Some(opened.unwrap_or(other)),
            }
        }
        if let Some(file) = kept_file(&kept_flists_dir(&config.data, overlay.prefix.0), id) {
            return open(&file).map(|flist| Self { flist });
        }
        match opened {
            None => refuse(ErrorKind::NotFound, "the flist that it lies over is not there"),
            Some(Ok(_)) => Err(replaced().at(&overlay.over.0)),
            Some(Err(error)) => Err(error),
        }
    }

    /// The node that something is as, in the flist; `None` for what was changed or is new.
    fn node(&self, stat: &Stat) -> Result<Option<Inode>> {
        let Some(below) = &stat.below else { return Ok(None) };
        let below = Below::decode(below)?;
        let (id, node) = node_of_handle(&below.handle)?.ok_or_else(replaced)?;
        if id != self.flist.id() {
            return Err(replaced());
        }
        self.flist.inode(node)?.ok_or_else(replaced).map(Some)
    }
}

fn replaced() -> Error {
    let why = "the flist that it lies over was replaced by another: put it back, and commit then";
    Error::new(ErrorKind::Stale, OP).because(why)
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
    let mounts = mounts(config, path)?;
    refuse_below(&***namespace, config, target).await?;
    check_stores_are_not_in(path, making)?;
    let root = namespace.stat(&Place::Path(path.clone())).await?;
    let lower = Lower::open(config, mounts, &root)?;
    // What the name says counts where nothing else does.
    let format = format_of(target, making.format).unwrap_or(lower.flist.format());
    let keeps_chunks = format == lower.flist.format();
    if !keeps_chunks {
        output.notice(&format!("all files are read: chunks of an .{} are none of an .{format}", lower.flist.format()));
    }
    let options = CreateOptions { format: Some(format), ..options(making) };
    check_routes(format, &routes(making).unwrap_or_default())?;
    let stores = stores(making, Some(namespace)).await?;
    let mut facts = Facts::of(&lower.flist)?;
    if !keeps_chunks {
        // Where the chunks of the other are.
        facts.routes.clear();
        facts.remove("backend");
    }
    add_routes(&mut facts, format, routes(making).unwrap_or_else(|| stores.routes()))
        .map_err(|error| error.at(target.display()))?;
    for (key, value) in &making.metadata {
        facts.set(key, value);
    }
    let work = async {
        let mut making = Making::begin(Tree::default(), stores, target, &options)?;
        let as_below = |making: &mut Making, stat: &Stat, at: &[Name]| {
            let Some(inode) = keeps_chunks.then(|| lower.node(stat)).transpose()?.flatten() else { return Ok(false) };
            making.reuse(at, about(stat), &lower.flist, &inode).map(|()| true)
        };
        walk::fill(&***namespace, &mut making, (path, &root), &options.progress, as_below).await?;
        making.finish(facts).await
    };
    let report = shown(options.progress.clone(), work, output).await?;
    print(target, &report, output)
}
