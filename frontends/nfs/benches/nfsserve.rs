//! Serves a host directory through the crate nfsserve, for the benchmark that compares its loop with ours.
//!
//! Usage: `nfsserve DIR HANDLES`; prints the address it listens on and serves until standard input ends.

use std::{io::Read as _, path::Path, sync::Arc};

use muxfs::vfs::Vfs;
use muxfs_local::{LocalOptions, LocalVfs};
use muxfs_nfs::nfsserve_adapter::NfsserveAdapter;
use nfsserve::tcp::{NFSTcp as _, NFSTcpListener};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [dir, handles] = args.as_slice() else {
        println!("SKIPPED: nfsserve DIR HANDLES; benches/run getattr starts it");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let vfs: Arc<dyn Vfs> = LocalVfs::open(Path::new(dir), Path::new(handles), LocalOptions::default())?;
        let listener = NFSTcpListener::bind("127.0.0.1:0", NfsserveAdapter::new(vfs)).await?;
        println!("127.0.0.1:{}", listener.get_listen_port());
        tokio::spawn(async move { listener.handle_forever().await });
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        ended.await??;
        Ok(())
    })
}
