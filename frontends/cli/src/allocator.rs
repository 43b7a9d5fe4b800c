//! How the allocator of the system is set for a program that makes and frees blocks all the time.

/// How long a piece of memory is at least that is given back as soon as it is freed, in bytes: blocks and their shards are
/// shorter, and are made and freed thousands of times a second.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK_LEN: libc::c_int = 8 << 20;
/// How much freed memory an arena keeps at its end, in bytes, and all of them together.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_LEN_MAX: libc::c_int = 16 << 20;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_LEN_OF_ALL: libc::c_int = 64 << 20;

/// Has the allocator share its arenas among threads: glibc makes eight for each processor, and each keeps what was freed to
/// it, so that a server which reads and writes for hours comes to hold several times what it uses. And has them keep what
/// blocks need: else a fifth of the time that an erasure-coded write takes goes into pages that are given back and zeroed
/// again. `MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` say otherwise, or `GLIBC_TUNABLES` of all.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn tune() {
    if std::env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    let arena_count = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let arena_count = libc::c_int::try_from(arena_count).unwrap_or(libc::c_int::MAX);
    for (name, parameter, value) in [
        ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, arena_count),
        ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, GIVEN_BACK_LEN),
        ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, (KEPT_LEN_OF_ALL / arena_count).min(KEPT_LEN_MAX)),
    ] {
        if std::env::var_os(name).is_some() {
            continue;
        }
        #[expect(unsafe_code, reason = "the one way to say it from within")]
        // SAFETY: it takes two numbers and sets one of the allocator's; no other thread runs yet.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn tune() {}
