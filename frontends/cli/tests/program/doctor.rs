//! `doctor`: says what is wrong and where, never panics, and changes not a byte.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use crate::{
    World,
    verify::{HARMS, copy, files, fill},
};

/// What the doctor says of one check, as `(level, place, found)`.
fn says(world: &World, args: &[&str]) -> Vec<serde_json::Value> {
    let output = world.run(&[&["--json", "doctor"], args].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    let found: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let is_bad = found.iter().any(|finding| finding["level"] == "error");
    assert_eq!(output.status.code(), Some(i32::from(is_bad)), "{found:?} {told}");
    for finding in &found {
        assert_eq!(
            finding["level"] == "ok",
            finding["advice"].is_null(),
            "what is bad comes with what to do: {finding}"
        );
    }
    found
}

fn is<'a>(
    found: &'a [serde_json::Value],
    check: &'a str,
    level: &'a str,
) -> impl Iterator<Item = &'a serde_json::Value> + 'a {
    found.iter().filter(move |finding| finding["check"] == check && finding["level"] == level)
}

/// Every file with its bytes, and its mode.
fn image(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    files(dir)
        .into_iter()
        .filter(|file| file.is_file())
        .map(|file| (file.clone(), fs::read(&file).expect("read")))
        .collect()
}

#[test]
fn a_well_directory_is_well_and_stays_as_it_is() {
    let world = World::new();
    let found = says(&world, &[]);
    assert!(found.iter().all(|finding| finding["check"] != "tree"), "there is nothing yet: {found:?}");
    assert!(!world.path("data").exists(), "it makes nothing");
    fill(&world);
    fs::write(world.path("x"), "since the commit").expect("written");
    world.ok(&["put", world.path("x").to_str().expect("UTF-8"), "/ipfs/late.txt"]);
    let before = image(&world.path("data"));
    let found = says(&world, &["--quiet"]);
    assert_eq!(is(&found, "tree", "error").count(), 0, "{found:?}");
    let found = says(&world, &[]);
    for check in ["config", "lock", "clock", "blocks", "index", "pins", "heads", "journal", "commits", "tree", "files"]
    {
        assert!(is(&found, check, "ok").count() > 0, "{check}: {found:#?}");
        assert_eq!(is(&found, check, "error").count() + is(&found, check, "warning").count(), 0, "{check}: {found:#?}");
    }
    assert!(image(&world.path("data")) == before, "not a byte changed");

    // The same with a server, which looks into what it has open.
    let server = world.serve(&[]);
    let found = says(&world, &[]);
    for check in ["lock", "blocks", "pins", "commits", "tree"] {
        assert!(is(&found, check, "ok").count() > 0, "{check}: {found:#?}");
        assert_eq!(is(&found, check, "error").count(), 0, "{check}: {found:#?}");
    }
    assert_eq!(is(&found, "tree", "ok").count(), 2, "/ipfs and /mem");
    drop(server);
}

#[test]
fn what_is_around_the_directory_is_looked_at() {
    let world = World::new();
    fill(&world);
    let open = world.path("data/mounts");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).expect("set");
    fs::write(world.path("data/mounts/ipfs/pins/notes.txt"), "mine").expect("written");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address");
    let config = world.path("muxfs.toml");
    fs::write(&config, format!("[nfs]\nlisten = \"{addr}\"\n[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n"))
        .expect("written");
    let args = ["--config", config.to_str().expect("UTF-8")];
    let found = says(&world, &args);
    let place = |check| is(&found, check, "warning").map(|finding| finding["place"].to_string()).collect::<Vec<_>>();
    assert!(place("ports").iter().any(|place| place.contains(&addr.to_string())), "{found:#?}");
    assert!(place("secrets").iter().any(|place| place.contains("mounts")), "{found:#?}");
    assert!(place("files").iter().any(|place| place.contains("notes.txt")), "{found:#?}");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    assert_eq!(is(&says(&world, &args), "secrets", "error").count(), 1);

    fs::write(&config, "[nfs]\nlissten = 7\n").expect("written");
    let found = says(&world, &args);
    assert!(found.len() == 1 && found[0]["found"].as_str().is_some_and(|found| found.contains("lissten")), "{found:?}");
}

/// What went is named.
#[test]
fn what_is_lost_is_named() {
    let world = World::new();
    fill(&world);
    let (data, whole) = (world.path("data"), world.path("whole"));
    copy(&data, &whole);
    let lose: [(&str, &str, &str); 4] = [
        ("mounts/ipfs/heads", "heads", "error"),
        ("mounts/ipfs/index", "index", "warning"),
        ("mounts/ipfs/blocks", "heads", "error"),
        ("mounts/ipfs/pins", "pins", "ok"),
    ];
    for (part, check, level) in lose {
        for as_well in [true, false] {
            fs::remove_dir_all(&data).expect("removed");
            copy(&whole, &data);
            fs::remove_dir_all(data.join(part)).expect("removed");
            if as_well {
                fs::create_dir(data.join(part)).expect("made");
            }
            let before = image(&data);
            let found = says(&world, &[]);
            let bad = found.iter().any(|finding| finding["level"] == "error");
            assert_eq!(bad, level == "error", "{part}: {found:#?}");
            assert!(level == "error" || is(&found, check, level).count() > 0, "{part}: {found:#?}");
            assert!(image(&data) == before, "{part}: not a byte changed");
        }
    }
}

/// A data directory that is damaged in any file, by a flip, a cut or a loss: nothing panics, and nothing changes.
#[test]
fn no_damage_makes_it_panic_or_write() {
    let world = World::new();
    fill(&world);
    let (data, whole) = (world.path("data"), world.path("whole"));
    copy(&data, &whole);
    let mut seen = 0;
    for file in files(&whole) {
        let name = file.strip_prefix(&whole).expect("below").to_owned();
        let len = fs::metadata(&file).expect("there").len();
        if len == 0 || name.starts_with("local") {
            continue;
        }
        for harm in HARMS {
            fs::remove_dir_all(&data).expect("removed");
            copy(&whole, &data);
            harm(&data.join(&name), len);
            let before = image(&data);
            let found = says(&world, &[]);
            seen += usize::from(found.iter().any(|finding| finding["level"] != "ok"));
            assert!(image(&data) == before, "{}: not a byte changed", name.display());
        }
    }
    assert!(seen > 10, "most of it is seen: {seen}");
}
