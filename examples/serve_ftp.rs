//! Serves a host directory over FTP, then uploads, resumes, lists and downloads as any client would.
//!
//! `cargo run --example serve_ftp`
//!
//! With an argument it serves that directory instead, on 127.0.0.1:2121, until Ctrl-C:
//! `cargo run --example serve_ftp -- DIR`, then `lftp ftp://127.0.0.1:2121`.

use std::{error::Error, path::Path, sync::Arc};

use muxfs_ftp::{Options, Server};
use muxfs_local::{LocalOptions, LocalVfs};
use suppaftp::{tokio::AsyncFtpStream, types::FileType};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let own = tempfile::tempdir()?;
    let handles = own.path().join("handles");
    if let Some(dir) = std::env::args_os().nth(1) {
        let server = serve(Path::new(&dir), &handles, Options::default()).await?;
        println!("serving on ftp://{}", server.local_addr());
        tokio::signal::ctrl_c().await?;
        server.shutdown().await;
        return Ok(());
    }
    let root = own.path().join("root");
    std::fs::create_dir(&root)?;
    let free_port = Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() };
    let server = serve(&root, &handles, free_port).await?;
    println!("serving {} on ftp://{}", root.display(), server.local_addr());

    let mut client = AsyncFtpStream::connect(server.local_addr()).await?;
    client.login("anybody", "any password").await?;
    client.transfer_type(FileType::Binary).await?;
    client.mkdir("notes").await?;
    client.cwd("notes").await?;
    client.put_file("hello.txt", &mut b"Hello, ".as_slice()).await?;
    let so_far = client.size("hello.txt").await?;
    client.resume_transfer(so_far).await?;
    client.put_file("hello.txt", &mut b"world".as_slice()).await?;
    for line in client.mlsd(None).await? {
        println!("listed: {line}");
    }
    let mut download = client.retr_as_stream("hello.txt").await?;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut download, &mut text).await?;
    download.finish().await?;
    assert_eq!(text, "Hello, world");
    assert_eq!(std::fs::read(root.join("notes/hello.txt"))?, b"Hello, world");
    client.quit().await?;
    server.shutdown().await;
    println!("downloaded: {text}");
    Ok(())
}

async fn serve(root: &Path, handles: &Path, options: Options) -> muxfs::Result<Server> {
    let vfs: Arc<LocalVfs> = LocalVfs::open(root, handles, LocalOptions::default())?;
    muxfs_ftp::serve(vfs, options).await
}
