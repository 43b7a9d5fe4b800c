//! Serves a host directory over NFS.
//!
//! `cargo run --example serve_nfs -- DIR` serves DIR until Ctrl-C and says how to mount it. Without DIR it serves a
//! temporary directory, asks the server whether it is there, as a client's `mount` does first, and ends.

use std::{error::Error, path::Path, sync::Arc};

use muxfs::vfs::Vfs;
use muxfs_local::{LocalOptions, LocalVfs};
use muxfs_nfs::{Options, Server, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let handles = scratch.path().join("handles");
    if let Some(dir) = std::env::args_os().nth(1) {
        let server = start(Path::new(&dir), &handles)?;
        let port = server.local_addr().port();
        println!("sudo mount -t nfs -o vers=3,tcp,nolock,port={port},mountport={port} localhost:/ /mnt");
        tokio::signal::ctrl_c().await?;
        server.shutdown().await;
        return Ok(());
    }
    let dir = scratch.path().join("files");
    std::fs::create_dir(&dir)?;
    let server = start(&dir, &handles)?;
    ping(&server).await?;
    println!("the NFS server at {} is there", server.local_addr());
    server.shutdown().await;
    Ok(())
}

fn start(dir: &Path, handles: &Path) -> muxfs::Result<Server> {
    let vfs: Arc<dyn Vfs> = LocalVfs::open(dir, handles, LocalOptions::default())?;
    // Port 0 takes a free one; the rest of the defaults is right for loopback.
    serve(vfs, Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() })
}

/// Calls the procedure NULL of NFS version 3.
async fn ping(server: &Server) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(server.local_addr()).await?;
    // Record mark; xid 7, CALL, RPC 2; NFS, version 3, NULL; no credentials, no verifier.
    for word in [0x8000_0028, 7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0] {
        stream.write_u32(word).await?;
    }
    let mut reply = [0; 7];
    for word in &mut reply {
        *word = stream.read_u32().await?;
    }
    // Record mark; xid 7, REPLY, accepted; no verifier; success.
    if reply != [0x8000_0018, 7, 1, 0, 0, 0, 0] {
        return Err(format!("the server said {reply:x?}").into());
    }
    Ok(())
}
