//! What only a local file system has: open files without a name, holes, swaps, attributes, special files.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{
        fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use muxfs::testing;
use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags, XattrFlags, copy_file_range,
        fallocate, getxattr, listxattr, mknodat, removexattr, renameat_with, setxattr, statvfs, statx, symlinkat,
        unlinkat,
    },
    io::Errno,
};

use super::{Bed, blocking, is_root, names_in};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_outlives_its_name() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    blocking(move || {
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        file.write_all(b"before").expect("written");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "another one").expect("made");
        file.write_all(b" and after").expect("still written");
        file.rewind().expect("at the start");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("still read");
        assert_eq!(text, "before and after");
        assert_eq!(file.metadata().expect("still there").nlink(), 0);
        assert_eq!(fs::read_to_string(&path).expect("the other"), "another one");
    })
    .await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_swapped_and_kept() {
    let Some(bed) = Bed::new().await else { return };
    let (a, b, c) = (bed.path("a"), bed.path("b"), bed.path("c"));
    blocking(move || {
        fs::write(&a, "was a").expect("made");
        fs::create_dir(&b).expect("made");
        fs::write(b.join("in"), "").expect("made");
        let rename = |from: &Path, to: &Path, flags| renameat_with(CWD, from, CWD, to, flags);
        rename(&a, &b, RenameFlags::EXCHANGE).expect("swapped");
        assert_eq!(fs::read_to_string(&b).expect("a file now"), "was a");
        assert_eq!(names_in(&a), ["in"]);
        assert_eq!(rename(&a, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
        rename(&a, &c, RenameFlags::NOREPLACE).expect("free");
        assert_eq!(rename(&b, &a, RenameFlags::EXCHANGE), Err(Errno::NOENT));
        assert_eq!(rename(&b, &a, RenameFlags::WHITEOUT), Err(Errno::INVAL));
        assert_eq!(fs::rename(&b, &c).expect_err("a directory").kind(), io::ErrorKind::IsADirectory);
    })
    .await;
    bed.end().await;
}

/// Data are found from hole to hole, ranges are zeroed and reserved, and copied without being read.
#[tokio::test(flavor = "multi_thread")]
async fn holes_are_made_and_found() {
    const AT: u64 = 8 << 20;
    let Some(bed) = Bed::new().await else { return };
    let (path, other) = (bed.path("f"), bed.path("g"));
    blocking(move || {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("made");
        file.write_all_at(&[1; 8192], 0).expect("written");
        file.write_all_at(b"end", AT).expect("written");
        assert!(file.metadata().expect("there").blocks() * 512 < AT / 2);
        let seek = |from| rustix::fs::seek(&file, from);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(0));
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(8192));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(8192)), Ok(AT));
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(AT)), Ok(AT + 3));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(AT + 3)), Err(Errno::NXIO));

        let byte = |at| {
            let mut byte = [9];
            file.read_exact_at(&mut byte, at).expect("read");
            byte[0]
        };
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096).expect("punched");
        assert_eq!((byte(0), byte(4096)), (0, 1));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(4096));
        fallocate(&file, FallocateFlags::ZERO_RANGE, 4096, 4096).expect("zeroed");
        assert_eq!(byte(4096), 0);
        fallocate(&file, FallocateFlags::KEEP_SIZE, AT, 1 << 20).expect("reserved");
        assert_eq!(file.metadata().expect("there").len(), AT + 3);
        fallocate(&file, FallocateFlags::empty(), AT, 1 << 20).expect("reserved");
        assert_eq!(file.metadata().expect("there").len(), AT + (1 << 20));
        assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));

        let copy = File::create(&other).expect("made");
        let (mut from, mut to) = (AT - 4, 0);
        assert_eq!(copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 1 << 20), Ok(1 << 20));
        assert_eq!(&fs::read(&other).expect("read")[..8], b"\0\0\0\0end\0");
    })
    .await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_kept_and_their_sizes_told() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    blocking(move || {
        fs::write(&path, "").expect("made");
        let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
        set("user.note", b"hello", XattrFlags::CREATE).expect("set");
        assert_eq!(set("user.note", b"", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(set("user.absent", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
        let acl: Vec<u8> = [1_u8, 4, 0x20].iter().flat_map(|tag| [*tag, 0, 6, 0, 255, 255, 255, 255]).collect();
        let acl = [&[2, 0, 0, 0], &acl[..]].concat();
        assert_eq!(set("system.posix_acl_access", &acl, XattrFlags::empty()), Err(Errno::OPNOTSUPP));
        // These were kept, as no disk's file system does, and a copy onto one then failed.
        for name in ["system.note", "other.note", "note"] {
            assert_eq!(set(name, b"", XattrFlags::empty()), Err(Errno::OPNOTSUPP), "{name}");
        }
        set("user.empty", b"", XattrFlags::empty()).expect("set");

        let mut room = [0; 100];
        let short: &mut [u8] = &mut [0; 4];
        assert_eq!(getxattr(&path, "user.note", &mut room), Ok(5));
        assert_eq!(&room[..5], b"hello");
        assert_eq!(getxattr(&path, "user.note", &mut *short), Err(Errno::RANGE));
        assert_eq!(getxattr(&path, "user.empty", &mut room), Ok(0));
        assert_eq!(getxattr(&path, "user.absent", &mut room), Err(Errno::NODATA));

        let listed = |room: &mut [u8]| listxattr(&path, room);
        assert_eq!(listed(short), Err(Errno::RANGE));
        let len = listed(&mut room).expect("listed");
        let mut names: Vec<_> = room[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        assert_eq!(names, [&b"user.empty"[..], b"user.note"]);
        assert_lengths_are_told(&path, &["user.note", "5", "21"]);
        removexattr(&path, "user.note").expect("removed");
        assert_eq!(removexattr(&path, "user.note"), Err(Errno::NODATA));
    })
    .await;
    bed.end().await;
}

/// Setuid and setgid go when another user writes. They went from the file, but the kernel went on believing the mode that
/// it knew: who asked for the mode alone was told the old one, and so was whoever ran the file.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_user_wrote_is_seen_without_setuid() {
    const NOBODY: u32 = 65_534;
    if !is_root() {
        return;
    }
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    blocking(move || {
        for flags in [OFlags::empty(), OFlags::DIRECT] {
            fs::write(&path, "#!/bin/true\n").expect("made");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("set");
            let mode = || statx(CWD, &path, AtFlags::empty(), StatxFlags::MODE).expect("there").stx_mode & 0o7777;
            assert_eq!(mode(), 0o6777);
            let flags = i32::try_from(flags.bits()).expect("flags of open(2)");
            let file = File::options().write(true).custom_flags(flags).open(&path).expect("opened");
            let wrote = Command::new("echo").arg("other").uid(NOBODY).gid(NOBODY).stdout(file).status();
            assert!(wrote.expect("started").success());
            assert_eq!(mode(), 0o777, "{flags:#o}");
        }
    })
    .await;
    bed.end().await;
}

/// Setgid of a file that its group cannot execute stayed whoever reserved space in it, and went whoever wrote.
#[tokio::test(flavor = "multi_thread")]
async fn setgid_goes_when_one_of_another_group_changes_a_file() {
    const NOBODY: u32 = 65_534;
    if !is_root() {
        return;
    }
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    blocking(move || {
        let mode = || statx(CWD, &path, AtFlags::empty(), StatxFlags::MODE).expect("there").stx_mode & 0o7777;
        let ways: [(&str, &[&str]); 3] = [
            ("fallocate", &["--length", "4096"]),
            ("fallocate", &["--punch-hole", "--length", "4096"]),
            ("truncate", &["--size", "1"]),
        ];
        for (program, args) in ways {
            for (gid, left) in [(NOBODY, 0o766), (0, 0o2766)] {
                fs::write(&path, "what is in it").expect("made");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o6766)).expect("set");
                assert_eq!(mode(), 0o6766);
                match Command::new(program).args(args).arg(&path).uid(NOBODY).gid(gid).status() {
                    Ok(status) => assert!(status.success(), "{program} {args:?}"),
                    Err(_) => return testing::skip("there are no fallocate and truncate, which change a file"),
                }
                assert_eq!(mode(), left, "{program} {args:?} as group {gid}");
            }
        }
        for (gid, left) in [(NOBODY, 0o766), (0, 0o2766)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6766)).expect("set");
            assert_eq!(mode(), 0o6766);
            let file = File::options().write(true).open(&path).expect("opened");
            let wrote = Command::new("echo").arg("other").uid(NOBODY).gid(gid).stdout(file).status();
            assert!(wrote.expect("started").success());
            assert_eq!(mode(), left, "written as group {gid}");
        }
    })
    .await;
    bed.end().await;
}

/// Asks for the length of an attribute and of the list of names by giving no room, as no safe wrapper here does.
fn assert_lengths_are_told(path: &Path, expected: &[&str]) {
    const SCRIPT: &str = "\
import ctypes, sys
c, path, name = ctypes.CDLL(None), sys.argv[1].encode(), sys.argv[2].encode()
told = [c.getxattr(path, name, None, 0), c.listxattr(path, None, 0)]
sys.exit(told != [int(text) for text in sys.argv[3:]])";
    match Command::new("python3").args(["-c", SCRIPT]).arg(path).args(expected).status() {
        Ok(status) => assert!(status.success(), "{expected:?}"),
        Err(_) => testing::skip("there is no python3, which asks for lengths"),
    }
}

/// Pages that were read while a direct write to them was under way (`io_submit`) stayed in the kernel's cache as they were
/// before it, for who reads after it was done.
#[tokio::test(flavor = "multi_thread")]
async fn a_direct_write_that_is_done_is_read() {
    const SCRIPT: &str = "\
import ctypes, mmap, os, platform, struct, sys, threading
calls = {'x86_64': (206, 208, 209), 'aarch64': (0, 4, 2)}.get(platform.machine())
if not calls: sys.exit(77)
setup, getevents, submit = calls
libc, size, path = ctypes.CDLL(None, use_errno=True), 1 << 18, sys.argv[1]
def call(number, *args):
    done = libc.syscall(ctypes.c_long(number), *args)
    if done < 0: raise OSError(ctypes.get_errno(), 'the kernel refuses')
    return done
with open(path, 'wb') as made: made.write(bytes(size))
context, buffer, events = ctypes.c_ulong(0), mmap.mmap(-1, size), ctypes.create_string_buffer(32)
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
call(setup, 4, ctypes.byref(context))
direct, cached, ended = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY), threading.Event()
def read():
    while not ended.is_set(): os.pread(cached, size, 0)
readers = [threading.Thread(target=read) for _ in range(2)]
for reader in readers: reader.start()
wrong = 0
for round in range(1, 200):
    buffer[:] = bytes([round]) * size
    request = ctypes.create_string_buffer(struct.pack('<QIIHhIQQqQII', 0, 0, 0, 1, 0, direct, address, size, 0, 0, 0, 0))
    pointer = ctypes.c_void_p(ctypes.addressof(request))
    call(submit, context, 1, ctypes.byref(pointer))
    call(getevents, context, 1, 1, events, None)
    wrong += os.pread(cached, size, 0) != bytes([round]) * size
ended.set()
for reader in readers: reader.join()
if wrong: sys.exit(f'{wrong} reads gave what was there before')";
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    blocking(move || match Command::new("python3").args(["-c", SCRIPT]).arg(&path).status() {
        Ok(status) if status.code() == Some(77) => testing::skip("the numbers of system calls are not known here"),
        Ok(status) => assert!(status.success()),
        Err(_) => testing::skip("there is no python3, which writes directly"),
    })
    .await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_node_is_made() {
    let Some(bed) = Bed::new().await else { return };
    let dir = bed.mounted.dir().to_owned();
    blocking(move || {
        let make = |name: &str, kind, dev| mknodat(CWD, dir.join(name), kind, Mode::from(0o640), dev);
        make("file", FileType::RegularFile, 0).expect("made");
        make("fifo", FileType::Fifo, 0).expect("made");
        make("socket", FileType::Socket, 0).expect("made");
        symlinkat("where/ever", CWD, dir.join("link")).expect("made");
        let kind = |name: &str| fs::symlink_metadata(dir.join(name)).expect("there").file_type();
        assert!(kind("file").is_file() && kind("fifo").is_fifo() && kind("socket").is_socket());
        assert_eq!(fs::read_link(dir.join("link")).expect("read"), Path::new("where/ever"));
        if is_root() {
            make("char", FileType::CharacterDevice, rustix::fs::makedev(259, 70_000)).expect("made");
            let attr = fs::symlink_metadata(dir.join("char")).expect("there");
            assert!(attr.file_type().is_char_device());
            assert_eq!((rustix::fs::major(attr.rdev()), rustix::fs::minor(attr.rdev())), (259, 70_000));
        }
        unlinkat(CWD, dir.join("socket"), AtFlags::empty()).expect("removed");
        assert!(statvfs(&dir).expect("told").f_blocks > 0);
    })
    .await;
    bed.end().await;
}

/// Setuid goes when a file changes hands or is written by another than root; a setgid directory hands its group down.
#[tokio::test(flavor = "multi_thread")]
async fn setuid_and_setgid_mean_what_they_say() {
    let Some(bed) = Bed::new().await else { return };
    let (dir, path) = (bed.path("d"), bed.path("f"));
    blocking(move || {
        if !is_root() {
            return;
        }
        fs::write(&path, "x").expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
        let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        set_mode(&path, 0o6755);
        File::options().append(true).open(&path).expect("open").write_all(b"y").expect("written");
        assert_eq!(mode(&path), 0o6755, "root may keep it");
        chown(&path, Some(7), Some(8)).expect("given away");
        assert_eq!(mode(&path), 0o755);

        fs::create_dir(&dir).expect("made");
        chown(&dir, None, Some(42)).expect("given away");
        set_mode(&dir, 0o2775);
        fs::write(dir.join("f"), "").expect("made");
        fs::create_dir(dir.join("sub")).expect("made");
        assert_eq!(fs::metadata(dir.join("f")).expect("there").gid(), 42);
        let sub = fs::metadata(dir.join("sub")).expect("there");
        assert_eq!((sub.gid(), sub.mode() & 0o2000), (42, 0o2000));
    })
    .await;
    bed.end().await;
}

/// Entries that stay are met exactly once, whatever comes and goes meanwhile, and the directory shrinks to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_big_directory_is_listed_while_it_changes() {
    const COUNT: usize = 3000;
    let Some(bed) = Bed::new().await else { return };
    let dir = bed.path("d");
    blocking(move || {
        fs::create_dir(&dir).expect("made");
        for number in 0..COUNT {
            File::create(dir.join(format!("stays{number:04}"))).expect("made");
            File::create(dir.join(format!("goes{number:04}"))).expect("made");
        }
        let mut stayed = 0;
        for (index, entry) in fs::read_dir(&dir).expect("listed").enumerate() {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            stayed += usize::from(name.starts_with("stays"));
            if name.starts_with("goes") {
                fs::remove_file(dir.join(&name)).expect("removed");
            }
            if index % 10 == 0 {
                File::create(dir.join(format!("comes{index:05}"))).expect("made");
            }
        }
        assert_eq!(stayed, COUNT);
        let names = names_in(&dir);
        assert_eq!(names.iter().filter(|name| name.starts_with("stays")).count(), COUNT);
        fs::remove_dir_all(&dir).expect("removed");
    })
    .await;
    bed.end().await;
}

/// What is written through a map is in the file, and what is appended ends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_in_any_way() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    let long: Vec<u8> = (0..3_000_001_u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
    let expected = long.clone();
    blocking(move || {
        fs::write(&path, &long).expect("written");
        let mut file = File::options().append(true).read(true).open(&path).expect("open");
        file.write_all(b"end").expect("appended");
        file.sync_all().expect("durable");
        file.seek(SeekFrom::Start(3_000_000)).expect("there");
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("read");
        assert_eq!(&rest[1..], b"end");
        file.set_len(10).expect("cut");
        assert_eq!(fs::read(&path).expect("read"), &long[..10]);
    })
    .await;
    assert_eq!(bed.read("f").await, &expected[..10]);
    bed.end().await;
}
