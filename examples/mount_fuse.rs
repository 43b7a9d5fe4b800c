//! Mounts a file system on a directory of this machine, and changes it from both sides.
//!
//! Run: `cargo run --example mount_fuse`

#[cfg(target_os = "linux")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::Path;

    use muxfs::{
        Name,
        testing::{self, model::ModelFs},
        vfs::{NewNode, SetAttr, watch::Watch},
    };
    use muxfs_fuse::{Options, mount};

    if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        println!("SKIPPED: this user cannot open /dev/fuse");
        return Ok(());
    }
    // Any file system will do; one that others change too is watched, so that the kernel hears of it.
    let watch = Watch::new(ModelFs::new(testing::env()));
    let elsewhere = watch.view();

    let dir = tempfile::tempdir()?;
    let mounted = mount(&watch, dir.path(), Options::default()).await?;
    let below = |name: &str| -> Box<Path> { mounted.dir().join(name).into() };

    // Programs use it as any other directory. (Calls that block go to a thread of their own.)
    let hello = below("hello");
    let path = hello.clone();
    tokio::task::spawn_blocking(move || std::fs::write(path, "written by a program")).await??;
    let found = elsewhere.lookup(elsewhere.root(), &Name::new(b"hello")?).await?;
    assert_eq!(elsewhere.read(found.ino, 0, 100).await?, "written by a program");

    // What another frontend writes is seen by the next call, although the kernel had the old bytes in its cache.
    elsewhere.write(found.ino, 0, "changed from elsewhere".into(), false).await?;
    let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(hello)).await??;
    assert_eq!(text, "changed from elsewhere");
    let made = elsewhere.create(elsewhere.root(), &Name::new(b"new")?, NewNode::Dir, SetAttr::default()).await?;
    let new = below("new");
    assert!(tokio::task::spawn_blocking(move || new.is_dir()).await?);
    elsewhere.release(made.node.ino, 1);
    elsewhere.release(found.ino, 1);

    mounted.unmount().await?;
    println!("written, read and changed through {}", dir.path().display());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("SKIPPED: the FUSE frontend is for Linux");
}
