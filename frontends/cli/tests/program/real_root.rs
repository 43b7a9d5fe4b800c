//! Goal: a root that flists are made of, mounted, is the same to programs that know nothing of it.
//! Method: what this machine needs to start a shell and Python, and whatever else `MUXFS_FLIST_ROOT` names, as a root; flists of both
//! formats of it, mounted over FUSE; rsync, which has to find no difference in content, modes, owners, times, symlinks and attributes; and programs
//! in it, started with it as their root. Neither format has hard links, so rsync is not asked about those.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{
    Mount,
    mounting::{mountable, text},
};

/// What is started; that which is not here is left out.
const PROGRAMS: [&str; 6] =
    ["/bin/sh", "/bin/true", "/usr/bin/env", "/bin/ls", "/usr/bin/sha256sum", "/usr/bin/python3"];

fn run(program: &str, args: &[&str]) -> Option<Output> {
    Command::new(program).args(args).output().ok()
}

/// The file that a path of this machine leads to, and every library that it is linked with.
fn with_libraries(program: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([program.to_owned()]);
    found.extend(fs::canonicalize(program).ok());
    let listed = run("ldd", &[text(program)]).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let words: Vec<PathBuf> = listed
        .iter()
        .flat_map(|text| text.split_whitespace())
        .filter(|word| word.starts_with('/'))
        .map(Into::into)
        .collect();
    for path in words {
        found.extend(fs::canonicalize(&path).ok());
        found.insert(path);
    }
    found
}

/// Copies paths of this machine into a root, with the symlinks that lead to them.
fn root_of(root: &Path, paths: &BTreeSet<PathBuf>) {
    fs::create_dir(root).expect("made");
    for top in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(top)) {
            let target = target.strip_prefix("/").unwrap_or(&target);
            fs::create_dir_all(root.join(target)).expect("made");
            std::os::unix::fs::symlink(target, root.join(top)).expect("linked");
        }
    }
    for path in paths {
        let target = root.join(path.strip_prefix("/").expect("whole"));
        // Where the directory is a symlink of the root it leads into the root.
        let above = target.parent().expect("below the root");
        if fs::symlink_metadata(above).is_err() {
            fs::create_dir_all(above).expect("made");
        }
        let copied = run("cp", &["-a", text(path), text(above)]).expect("cp runs");
        assert!(copied.status.success(), "{copied:?}");
    }
}

/// What rsync would have to change to make the one like the other.
fn differences(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (format!("{}/", text(from)), format!("{}/", text(to)));
    let output = run("rsync", &["-naAXc", "--numeric-ids", "--delete", "--itemize-changes", &from, &to])?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn python_library() -> Option<PathBuf> {
    let python = fs::canonicalize("/usr/bin/python3").ok()?;
    let library = Path::new("/usr/lib").join(python.file_name()?);
    library.join("json").is_dir().then_some(library)
}

#[test]
fn programs_run_in_a_mounted_root() {
    if !rustix::process::geteuid().is_root() {
        muxfs::testing::skip("chroot is root's");
        return;
    }
    if run("rsync", &["--version"]).is_none() {
        muxfs::testing::skip("rsync is not here to compare with");
        return;
    }
    let Some((world, dir)) = mountable() else { return };
    let programs: Vec<&Path> = PROGRAMS.iter().map(Path::new).filter(|path| path.exists()).collect();
    let mut paths: BTreeSet<PathBuf> = programs.iter().flat_map(|program| with_libraries(program)).collect();
    // All of Python takes a while: without it its start is not tried.
    let more = std::env::var_os("MUXFS_FLIST_ROOT");
    if more.is_some() {
        paths.extend(python_library());
    }
    paths.extend(more.iter().flat_map(std::env::split_paths));
    let root = world.path("rootfs");
    root_of(&root, &paths);
    let (flists, chunks) = (world.path("flists"), format!("dir://{}", text(&world.path("chunks"))));
    fs::create_dir(&flists).expect("made");
    for name in ["one.fl", "two.flist"] {
        world.ok(&["flist", "create", text(&root), "-o", text(&flists.join(name)), "--store", &chunks]);
    }
    let config = format!(
        "[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\ndir = \"{}\"\nsources = [\"{chunks}\"]\n",
        text(&flists)
    );
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    let _mount = Mount(&world, &dir);
    world.ok(&["mount", "/flist", text(&dir)]);
    for name in ["one", "two"] {
        let mounted = dir.join(name);
        let differs = differences(&root, &mounted).expect("it is here");
        assert!(differs.is_empty(), "{name} differs:\n{differs}");
        runs(&mounted, &programs, more.is_some());
    }
    // A difference is found where there is one.
    fs::write(root.join("bin/another"), "x").expect("written");
    assert!(differences(&root, &dir.join("one")).expect("it is here").contains("another"));
    world.ok(&["umount", "-l", text(&dir)]);
}

fn runs(root: &Path, programs: &[&Path], with_python: bool) {
    let chroot = |args: &[&str]| {
        let output = run("chroot", &[&[text(root)], args].concat()).expect("chroot runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    chroot(&["/bin/true"]);
    assert_eq!(chroot(&["/bin/sh", "-c", "echo $((6 * 7))"]), "42\n");
    assert!(chroot(&["/bin/ls", "/"]).contains("usr"));
    for program in programs {
        let here = run("sha256sum", &[text(program)]).expect("it runs");
        assert_eq!(chroot(&["/usr/bin/sha256sum", text(program)]), String::from_utf8_lossy(&here.stdout));
    }
    if with_python && python_library().is_some() {
        let told = chroot(&["/usr/bin/python3", "-c", "import json; print(json.dumps([1, None]))"]);
        assert_eq!(told, "[1, null]\n");
    }
}
