//! An open `/dev/fuse` whose file system stands at a directory: by the kernel for root, else by the helper.
//!
//! The session is given the device alone and not the place. Who has only the path cannot take one mount away and leave
//! alone another that was put there since: a session that unmounted by path at its end would take its successor's. So
//! what unmounts is who asks for it, and at the end only a mount that nobody serves (see [`place`](crate::place)).

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount as kernel_mount},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::{getgid, getuid},
};

use crate::{
    options::Options,
    place::{DEVICE, helper},
};

/// Names the socket by which the helper hands the device over, by the number of its descriptor.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// Puts a new file system over `dir`, a full path; the kernel waits for whoever answers on the device.
///
/// When the last copy of the device is closed the mount stays, and answers ENOTCONN.
///
/// # Errors
/// Those of `mount(2)`; with what the helper says, where that mounts.
pub(crate) fn attach(dir: &Path, options: &Options) -> io::Result<OwnedFd> {
    match by_kernel(dir, options) {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => by_helper(dir, options),
        attached => attached,
    }
}

fn by_kernel(dir: &Path, options: &Options) -> io::Result<OwnedFd> {
    let root_mode = fs::metadata(dir)?.mode();
    let device: OwnedFd = OpenOptions::new().read(true).write(true).open(DEVICE)?.into();
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions,subtype=muxfs",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let flags = [
        (!options.dev, MountFlags::NODEV),
        (!options.suid, MountFlags::NOSUID),
        (options.read_only, MountFlags::RDONLY),
        (options.no_exec, MountFlags::NOEXEC),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).collect();
    kernel_mount(options.source.as_str(), dir, "fuse", flags, CString::new(data)?.as_c_str())?;
    Ok(device)
}

fn by_helper(dir: &Path, options: &Options) -> io::Result<OwnedFd> {
    let Some(helper) = helper() else { return Err(Errno::PERM.into()) };
    let mut words = format!("fsname={},subtype=muxfs,default_permissions", options.source);
    let switches = [
        (options.allow_other, ",allow_other"),
        (options.read_only, ",ro"),
        (options.dev, ",dev"),
        (options.suid, ",suid"),
        (options.no_exec, ",noexec"),
    ];
    words.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, word)| word));
    let (socket, theirs) = UnixStream::pair()?;
    // Standard input is the one descriptor that can be handed to a child without further ado.
    let child = Command::new(helper)
        .args(["-o", &words, "--"])
        .arg(dir)
        .env(HELPER_SOCKET, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let device = received(&socket);
    let told = child.wait_with_output()?.stderr;
    match device? {
        Some(device) => Ok(device),
        None => Err(io::Error::other(String::from_utf8_lossy(&told).trim().to_owned())),
    }
}

/// The descriptor that comes through a socket; `None` where the other side closes it without one.
fn received(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    message?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_hands_nothing_over_is_seen() {
        let (socket, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(received(&socket).expect("read").is_none());
        let (socket, mut theirs) = UnixStream::pair().expect("a pair");
        io::Write::write_all(&mut theirs, b"x").expect("written");
        assert!(received(&socket).expect("read").is_none());
    }
}
