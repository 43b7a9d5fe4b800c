//! The FUSE frontend of MuxFS: any [`Vfs`](muxfs::vfs::Vfs) as a directory of this machine.
//!
//! ```text
//! kernel -> fuser's event loops -> kernel (one task for each request) -> Vfs
//!    ^                                                                    |
//!    +---- notify (a thread of its own) <---- vfs::watch <----------------+  what other frontends changed
//! ```
//! The kernel caches names, attributes and pages for as long as nobody else changes them: [`vfs::watch`](muxfs::vfs::watch)
//! tells of each change that comes through another frontend, and the call that made it returns when the kernel has been
//! told. So a warm tree costs no request at all, and yet what was written elsewhere is seen by the next call.
//!
//! Permissions are the kernel's to check (`default_permissions`): it knows all groups of the caller, which a request does
//! not carry. Locks are the kernel's too. Spec: spec/fuse.md.

#[cfg(target_os = "linux")]
mod attach;
#[cfg(target_os = "linux")]
mod attr;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod errno;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod listing;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
mod notify;
mod options;
#[cfg(target_os = "linux")]
mod passthrough;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod server;

#[cfg(not(target_os = "linux"))]
pub use crate::elsewhere::{Mounted, mount, unmount};
pub use crate::options::Options;
#[cfg(target_os = "linux")]
pub use crate::{
    errno::errno_of,
    kernel::{READ_AHEAD_LEN, WRITE_LEN_MAX},
    notify::TOLD_WITHIN,
    place::unmount,
    server::{IN_FLIGHT_LEN_MAX, Mounted, mount},
};
