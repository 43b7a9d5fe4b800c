//! `ls` and `stat`.

use std::fmt::Write as _;

use futures_util::TryStreamExt as _;
use muxfs::{Result, calendar::Utc};

use crate::{
    namespace::{Kind, Namespace, Place, Stat},
    output::Output,
};

/// Lists a directory, one entry a line, sorted by name.
pub(crate) async fn ls(namespace: &dyn Namespace, place: &Place, long: bool, output: Output) -> Result<()> {
    if output.json {
        // As they come: a machine can sort, and need not wait.
        let mut entries = namespace.list(place);
        while let Some(entry) = entries.try_next().await? {
            output.result(b"", &entry)?;
        }
        return Ok(());
    }
    let mut entries: Vec<Stat> = namespace.list(place).try_collect().await?;
    if !matches!(place, Place::Root) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let width = entries.iter().map(|entry| entry.size.to_string().len()).max().unwrap_or(1);
    for entry in &entries {
        let mut line = Vec::new();
        if long {
            let cid = entry.cid.map_or_else(|| "-".into(), |cid| cid.to_string());
            let time = entry.mtime.map_or_else(|| "-".into(), utc);
            let head = format!("{} {:>width$} {time:>20} {cid} ", mode(entry), entry.size);
            line.extend_from_slice(head.as_bytes());
        }
        line.extend_from_slice(&shown(entry.name.as_bytes()));
        if let (true, Some(target)) = (long, &entry.target) {
            line.extend_from_slice(b" -> ");
            line.extend_from_slice(&shown(target));
        }
        output.result(&line, entry)?;
    }
    Ok(())
}

/// Prints what is known of a path, one property a line.
pub(crate) async fn stat(namespace: &dyn Namespace, place: &Place, output: Output) -> Result<()> {
    let stat = namespace.stat(place).await?;
    let mut lines = format!("kind   {:?}\nsize   {}\nmode   {} {:04o}", stat.kind, stat.size, mode(&stat), stat.mode);
    if let (Some(uid), Some(gid)) = (stat.uid, stat.gid) {
        _ = write!(lines, "\nowner  {uid}:{gid}");
    }
    if let Some(mtime) = stat.mtime {
        _ = write!(lines, "\nmtime  {}", utc(mtime));
    }
    if let Some(cid) = stat.cid {
        _ = write!(lines, "\ncid    {cid}");
    }
    if let Some(target) = &stat.target {
        _ = write!(lines, "\ntarget {}", String::from_utf8_lossy(&shown(target)));
    }
    output.result(lines.as_bytes(), &stat)
}

/// A name or a target without what could drive a terminal.
pub(super) fn shown(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect()
}

/// `drwxr-xr-x`, as ls does.
pub(super) fn mode(stat: &Stat) -> String {
    let kind = match stat.kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = stat.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, stat.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A time as `2026-01-31T23:59:59Z`.
pub(super) fn utc((seconds, _nanos): (i64, u32)) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of_unix(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use muxfs::Name;

    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc((seconds, 0)), text);
        }
    }

    #[test]
    fn modes() {
        let stat = |kind, bits| Stat {
            name: Name::new(b"x").expect("good"),
            kind,
            size: 0,
            mode: bits,
            uid: None,
            gid: None,
            mtime: None,
            cid: None,
            target: None,
            rdev: None,
            below: None,
        };
        for (kind, bits, text) in [
            (Kind::File, 0o644, "-rw-r--r--"),
            (Kind::Dir, 0o1777, "drwxrwxrwt"),
            (Kind::File, 0o4755, "-rwsr-xr-x"),
            (Kind::File, 0o2644, "-rw-r-Sr--"),
        ] {
            assert_eq!(mode(&stat(kind, bits)), text);
        }
    }
}
