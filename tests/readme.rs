//! The README's program: it is compiled and run here as the README shows it.

use std::sync::Arc;

use muxfs::{
    MuxFs, Prefix, Source,
    block::Mem,
    dag::{Dag, DagOptions},
    media::MemMedia,
    mux::Mount,
    pins::Pins,
};

#[tokio::test]
async fn the_library_snippet_of_the_readme_runs() -> muxfs::Result<()> {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("mem")?, dag, pins))?;

    let path = mux.put("/mem", Source::from(&b"hello world"[..])).await?;
    let file = mux.open(path).await?; // /mem/bafkrei…
    assert_eq!(file.read_at(0, 100).await?, "hello world");
    Ok(())
}

/// What runs above is what the README shows.
#[test]
fn the_readme_shows_this_program() {
    let lines = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    let readme = include_str!("../README.md");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a snippet");
    let here: Vec<String> = lines(include_str!("readme.rs"));
    let shown: Vec<String> = lines(shown);
    assert!(shown.len() > 5, "{shown:?}");
    for line in shown {
        assert!(here.contains(&line), "tests/readme.rs lacks this line of the README: {line}");
    }
}
