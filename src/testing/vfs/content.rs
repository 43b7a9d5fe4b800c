//! Laws of the bytes of files.

use bytes::Bytes;

use super::{Bed, assert_frames, assert_kind, assert_moved, assert_same, at_once, content_of, unless_unsupported};
use crate::{
    ErrorKind,
    vfs::{Cookie, FILE_LEN_MAX, Ino, Listing, NewNode, READ_LEN_MAX, Seek, SetAttr},
};

async fn write(bed: &Bed, ino: Ino, offset: u64, data: impl Into<Bytes>) {
    bed.vfs.write(ino, offset, data.into(), false).await.expect("write");
}

async fn set_size(bed: &Bed, ino: Ino, size: u64) {
    bed.vfs.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() }).await.expect("setattr");
}

/// What was written is read, and each reply frames the change.
pub async fn writes_are_read_back(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let mut offset = 0;
    for len in [1, 511, 4096, 65_536, 100_001, 1 << 20] {
        let data = content_of(len);
        let before = bed.attr(file.ino()).await;
        let changed = bed.vfs.write(file.ino(), offset, data.clone(), false).await.expect("write");
        let after = bed.attr(file.ino()).await;
        assert_frames(&changed, &before, &after);
        assert_moved(&before, &after, true);
        assert_eq!(after.size, offset + len as u64);
        let read = bed.vfs.read(file.ino(), offset, u32::try_from(len).expect("it fits")).await.expect("read");
        assert!(read == data, "{len} bytes at {offset}");
        offset += len as u64;
    }
}

/// Later writes win where they overlap, and touch nothing else.
pub async fn writes_overlap(bed: &Bed) {
    let file = bed.file(bed.root(), "f", vec![0; 20_000]).await;
    let mut expected = vec![0; 20_000];
    for (number, (offset, len)) in
        [(0, 20_000), (4_000, 200), (4_095, 2), (8_192, 4_096), (1, 1), (19_999, 1), (10_000, 9_000)]
            .into_iter()
            .enumerate()
    {
        let byte = u8::try_from(number + 1).expect("few");
        write(bed, file.ino(), offset as u64, vec![byte; len]).await;
        expected[offset..offset + len].fill(byte);
        assert!(bed.read(file.ino()).await == expected, "{len} bytes at {offset}");
    }
}

/// The gap before a write past the end reads as zeros and takes no space.
pub async fn writes_past_the_end_leave_a_hole(bed: &Bed) {
    const AT: u64 = 64 << 20;
    let file = bed.file(bed.root(), "f", "begin").await;
    write(bed, file.ino(), AT, "end").await;
    let attr = bed.attr(file.ino()).await;
    assert_eq!(attr.size, AT + 3);
    assert!(attr.used < AT / 2, "a hole takes no space: {} bytes are used", attr.used);
    assert_eq!(bed.vfs.read(file.ino(), 0, 8).await.expect("read"), &b"begin\0\0\0"[..]);
    assert_eq!(bed.vfs.read(file.ino(), AT - 2, 10).await.expect("read"), &b"\0\0end"[..]);
    assert!(bed.vfs.read(file.ino(), AT / 2, 10_000).await.expect("read").iter().all(|byte| *byte == 0));
    let zeros = bed.vfs.read(file.ino(), 8, u32::MAX).await.expect("read").len();
    assert_eq!(zeros, READ_LEN_MAX as usize, "zeros take memory, so there is a most of them");
}

/// From data to hole and on to data all bytes that are no zeros are met, and the end is a hole.
pub async fn holes_and_data_are_found(bed: &Bed) {
    const AT: u64 = 8 << 20;
    let file = bed.file(bed.root(), "f", "begin").await;
    write(bed, file.ino(), AT, "middle").await;
    let size = 3 * AT;
    set_size(bed, file.ino(), size).await;
    let seek = async |offset, what| bed.vfs.seek(file.ino(), offset, what).await.expect("seek");
    let (mut at, mut found) = (0, Vec::new());
    while let Some(data) = seek(at, Seek::Data).await {
        assert!(data >= at && data < size, "{data} from {at}");
        assert_eq!(seek(data, Seek::Data).await, Some(data), "data is where it was found");
        let hole = seek(data, Seek::Hole).await.expect("the end is one");
        assert!(hole > data && hole <= size, "{hole} from {data}");
        found.push(data..hole);
        at = hole;
    }
    for bytes in [0..5, AT..AT + 6] {
        assert!(found.iter().any(|data| data.start <= bytes.start && bytes.end <= data.end), "{bytes:?} in {found:?}");
    }
    for offset in [size, size + 1, FILE_LEN_MAX, u64::MAX] {
        assert_eq!((seek(offset, Seek::Data).await, seek(offset, Seek::Hole).await), (None, None), "{offset}");
    }
    let empty = bed.file(bed.root(), "empty", "").await;
    assert_eq!(bed.vfs.seek(empty.ino(), 0, Seek::Hole).await.expect("seek"), None);
    assert_kind(bed.vfs.seek(bed.root(), 0, Seek::Data).await, ErrorKind::IsDir);
}

/// A write of no bytes moves nothing, not even the end.
pub async fn writing_nothing_changes_nothing(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "data").await;
    let before = bed.attr(file.ino()).await;
    for offset in [0, 4, 1000] {
        bed.vfs.write(file.ino(), offset, Bytes::new(), false).await.expect("write");
        assert_same(&bed.attr(file.ino()).await, &before);
    }
}

/// Past the longest file a write is `TooLarge`, and writes nothing.
pub async fn writes_past_the_limit_are_refused(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "data").await;
    let before = bed.attr(file.ino()).await;
    for offset in [FILE_LEN_MAX - 1, FILE_LEN_MAX, FILE_LEN_MAX + 1, u64::MAX - 1, u64::MAX] {
        let written = bed.vfs.write(file.ino(), offset, Bytes::from_static(b"xx"), false).await;
        assert_kind(written, ErrorKind::TooLarge);
    }
    assert_same(&bed.attr(file.ino()).await, &before);
    assert_eq!(bed.read(file.ino()).await, "data");
}

/// An offset past 4 GiB is that offset.
pub async fn offsets_pass_four_gibibytes(bed: &Bed) {
    const AT: u64 = (5 << 30) + 7;
    let file = bed.file(bed.root(), "f", "begin").await;
    write(bed, file.ino(), AT, "here").await;
    assert_eq!(bed.attr(file.ino()).await.size, AT + 4);
    assert_eq!(bed.vfs.read(file.ino(), AT - 1, 100).await.expect("read"), &b"\0here"[..]);
    assert_eq!(bed.vfs.read(file.ino(), AT & 0xffff_ffff, 4).await.expect("read"), &[0; 4][..]);
    assert_eq!(bed.vfs.read(file.ino(), 0, 5).await.expect("read"), &b"begin"[..]);
    set_size(bed, file.ino(), AT + 2).await;
    assert_eq!(bed.vfs.read(file.ino(), AT, 100).await.expect("read"), &b"he"[..]);
}

/// A directory is `IsDir`, and anything else without bytes `InvalidArgument`.
pub async fn write_to_what_is_no_file_is_refused(bed: &Bed) {
    let dir = bed.dir(bed.root(), "d").await;
    assert_kind(bed.vfs.write(dir.ino(), 0, Bytes::from_static(b"x"), false).await, ErrorKind::IsDir);
    for node in [NewNode::Symlink("x".into()), NewNode::Fifo, NewNode::Socket] {
        let text = format!("{:?}", node.kind());
        let node = bed.make(bed.root(), &text, node).await;
        let written = bed.vfs.write(node.ino(), 0, Bytes::from_static(b"x"), false).await;
        assert_kind(written, ErrorKind::InvalidArgument);
    }
}

/// Writers of different ranges at the same time lose nothing.
pub async fn writes_at_once_all_land(bed: &Bed) {
    const LEN: usize = 5_000;
    let file = bed.file(bed.root(), "f", "").await;
    let writers = (0..16u8).map(|number| {
        let (vfs, file) = (bed.vfs.clone(), file.clone());
        async move {
            let offset = u64::from(number) * LEN as u64;
            vfs.write(file.ino(), offset, Bytes::from(vec![number + 1; LEN]), false).await.expect("write");
        }
    });
    at_once(writers).await;
    let expected: Vec<u8> = (0..16u8).flat_map(|number| vec![number + 1; LEN]).collect();
    assert!(bed.read(file.ino()).await == expected);
}

/// What was cut off does not come back: growing shows zeros.
pub async fn cutting_off_and_growing_shows_zeros(bed: &Bed) {
    let file = bed.file(bed.root(), "f", vec![b'x'; 10_000]).await;
    let before = bed.attr(file.ino()).await;
    let set = SetAttr { size: Some(5_001), ..SetAttr::default() };
    let changed = bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    let after = bed.attr(file.ino()).await;
    assert_frames(&changed, &before, &after);
    assert_moved(&before, &after, true);
    assert!(bed.read(file.ino()).await == vec![b'x'; 5_001]);
    set_size(bed, file.ino(), 9_000).await;
    let expected = [vec![b'x'; 5_001], vec![0; 3_999]].concat();
    assert!(bed.read(file.ino()).await == expected);
    set_size(bed, file.ino(), 0).await;
    write(bed, file.ino(), 3, "y").await;
    assert_eq!(bed.read(file.ino()).await, &b"\0\0\0y"[..]);
}

/// A size is of a file, and no longer than the longest.
pub async fn sizes_out_of_bounds_are_refused(bed: &Bed) {
    let (file, dir) = (bed.file(bed.root(), "f", "data").await, bed.dir(bed.root(), "d").await);
    let link = bed.make(bed.root(), "l", NewNode::Symlink("f".into())).await;
    let set = |size| SetAttr { size: Some(size), mode: Some(0o600), ..SetAttr::default() };
    let before = bed.attr(file.ino()).await;
    for size in [FILE_LEN_MAX + 1, u64::MAX] {
        assert_kind(bed.vfs.setattr(file.ino(), set(size)).await, ErrorKind::TooLarge);
    }
    assert_same(&bed.attr(file.ino()).await, &before);
    assert_kind(bed.vfs.setattr(dir.ino(), set(0)).await, ErrorKind::IsDir);
    assert_eq!(bed.attr(dir.ino()).await.mode, 0o755, "nothing is set where not all can be");
    assert_kind(bed.vfs.setattr(link.ino(), set(0)).await, ErrorKind::InvalidArgument);
}

/// `change` grows with every write, also within one tick of the clock.
pub async fn every_write_moves_the_change_counter(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let mut last = bed.attr(file.ino()).await.change;
    for round in 0..50u8 {
        let changed = bed.vfs.write(file.ino(), 0, Bytes::from(vec![round]), false).await.expect("write");
        assert_eq!(changed.before.change, last, "round {round}");
        assert!(changed.after.change > last, "round {round}");
        last = changed.after.change;
    }
}

/// Reading, listing and looking up move neither `mtime`, `ctime` nor `change`.
pub async fn reading_changes_nothing(bed: &Bed) {
    let dir = bed.dir(bed.root(), "d").await;
    let file = bed.file(dir.ino(), "f", "data").await;
    let (before, above) = (bed.attr(file.ino()).await, bed.attr(dir.ino()).await);
    bed.read(file.ino()).await;
    drop(bed.find(dir.ino(), "f").await.expect("lookup"));
    bed.vfs.readdir(dir.ino(), Cookie::START, 10, Listing::Names).await.expect("readdir");
    bed.vfs.sync(file.ino()).await.expect("sync");
    assert_same(&bed.attr(file.ino()).await, &before);
    assert_same(&bed.attr(dir.ino()).await, &above);
}

/// `clear_suid` drops setuid and setgid with the write, and no write does without it.
pub async fn clear_suid_drops_both_bits(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let set = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
    bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    if bed.attr(file.ino()).await.mode != 0o6755 {
        crate::testing::skip("the tests run without the privilege to set setgid");
        return;
    }
    let changed = bed.vfs.write(file.ino(), 0, Bytes::from_static(b"x"), true).await.expect("write");
    assert_eq!((changed.after.mode, changed.after.size), (0o755, 1));
    assert_eq!(bed.attr(file.ino()).await.mode, 0o755);
}

/// Reserved space reads as zeros, takes space, and is the file's to its end unless it keeps its size.
pub async fn allocate_reserves(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "data").await;
    let Some(changed) = unless_unsupported(bed.vfs.allocate(file.ino(), 0..100_000, true).await) else { return };
    assert_eq!(changed.after.size, 4);
    assert!(bed.attr(file.ino()).await.used >= 98_304, "it takes space");
    let changed = bed.vfs.allocate(file.ino(), 50_000..200_000, false).await.expect("allocate");
    assert_eq!(changed.after.size, 200_000);
    assert!(bed.read(file.ino()).await == [&b"data"[..], &vec![0; 199_996]].concat());
    assert_kind(bed.vfs.allocate(file.ino(), 7..7, false).await, ErrorKind::InvalidArgument);
    assert_kind(bed.vfs.allocate(file.ino(), 0..FILE_LEN_MAX + 1, false).await, ErrorKind::TooLarge);
    let dir = bed.dir(bed.root(), "d").await;
    assert_kind(bed.vfs.allocate(dir.ino(), 0..1, false).await, ErrorKind::IsDir);
}

/// A punched range reads as zeros; the size stays, and so does what is around it.
pub async fn punch_hole_leaves_zeros(bed: &Bed) {
    let file = bed.file(bed.root(), "f", vec![b'x'; 100_000]).await;
    let before = bed.attr(file.ino()).await;
    let Some(changed) = unless_unsupported(bed.vfs.punch_hole(file.ino(), 10_000..90_001).await) else { return };
    let after = bed.attr(file.ino()).await;
    assert_frames(&changed, &before, &after);
    assert_moved(&before, &after, true);
    assert_eq!(after.size, 100_000);
    let expected = [vec![b'x'; 10_000], vec![0; 80_001], vec![b'x'; 9_999]].concat();
    assert!(bed.read(file.ino()).await == expected);
    bed.vfs.punch_hole(file.ino(), 99_000..1_000_000).await.expect("past the end");
    assert_eq!(bed.attr(file.ino()).await.size, 100_000);
    assert_kind(bed.vfs.punch_hole(file.ino(), 5..5).await, ErrorKind::InvalidArgument);
}

/// Copied bytes are those of the source, as far as it goes; the target grows as it must.
pub async fn copy_range_copies(bed: &Bed) {
    let data = content_of(50_000);
    let source = bed.file(bed.root(), "source", data.clone()).await;
    let target = bed.file(bed.root(), "target", vec![b'x'; 1_000]).await;
    let before = bed.attr(target.ino()).await;
    let copied = bed.vfs.copy_range((source.ino(), 100), (target.ino(), 500), 10_000).await;
    let Some((count, changed)) = unless_unsupported(copied) else { return };
    assert_eq!((count, changed.after.size), (10_000, 10_500));
    assert_moved(&before, &bed.attr(target.ino()).await, true);
    assert!(bed.read(target.ino()).await == [&[b'x'; 500][..], &data[100..10_100]].concat());
    let (count, _) = bed.vfs.copy_range((source.ino(), 49_000), (target.ino(), 0), u64::MAX).await.expect("copy");
    assert_eq!(count, 1_000, "short at the end of the source");
    let same = bed.attr(target.ino()).await;
    let (count, _) = bed.vfs.copy_range((source.ino(), 50_000), (target.ino(), 0), 10).await.expect("copy");
    assert_eq!(count, 0);
    assert_same(&bed.attr(target.ino()).await, &same);
    let (count, _) = bed.vfs.copy_range((source.ino(), 0), (source.ino(), 50_000), 50_000).await.expect("within");
    assert_eq!(count, 50_000);
    assert!(bed.read(source.ino()).await == [&data[..], &data[..]].concat());
}

/// Ranges of one file that overlap are refused, and nothing is copied.
pub async fn copy_range_refuses_overlaps(bed: &Bed) {
    let (file, other) = (bed.file(bed.root(), "f", content_of(10_000)).await, bed.file(bed.root(), "g", "x").await);
    if unless_unsupported(bed.vfs.copy_range((other.ino(), 0), (other.ino(), 1), 1).await).is_none() {
        return;
    }
    for (from, to) in [(0, 0), (0, 999), (999, 0), (500, 1_000)] {
        let copied = bed.vfs.copy_range((file.ino(), from), (file.ino(), to), 1_000).await;
        assert_kind(copied, ErrorKind::InvalidArgument);
    }
    assert!(bed.read(file.ino()).await == content_of(10_000));
    let dir = bed.dir(bed.root(), "d").await;
    assert_kind(bed.vfs.copy_range((dir.ino(), 0), (file.ino(), 0), 1).await, ErrorKind::IsDir);
    assert_kind(bed.vfs.copy_range((file.ino(), 0), (dir.ino(), 0), 1).await, ErrorKind::IsDir);
    let past = bed.vfs.copy_range((file.ino(), 0), (other.ino(), FILE_LEN_MAX), 1).await;
    assert_kind(past, ErrorKind::TooLarge);
}
