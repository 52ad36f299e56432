//! Takes the process out of the host: a user namespace where it is not root, and a mount namespace with a filesystem of
//! its own for everything that the sites write.
//!
//! Never mounts or writes anything that the host sees. Format of uid_map, gid_map and setgroups: user_namespaces(7).

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::DemoError;

/// Is hidden, for this process only, by a filesystem in memory: what programs keep only while they run goes there.
pub(super) const PRIVATE_DIRECTORY: &str = "/run";

/// Limits that filesystem: sockets and remembered endpoints need a few KiB.
const PRIVATE_OPTIONS: &str = "size=16m,mode=0755";

/// Says by which right the namespaces were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// The user is root.
    Root,
    /// Anybody, in a user namespace of the process's own.
    UserNamespace,
}

/// Confines the process, which must have one thread only.
///
/// # Errors
/// The machine does not let this user, or has no TUN device.
pub(super) fn enter() -> Result<Rights, DemoError> {
    check_tun_device()?;
    // A container's root often may not: it may still be allowed a user namespace.
    let rights = if Uid::effective().is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        Rights::Root
    } else {
        enter_user_namespace()?;
        Rights::UserNamespace
    };
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(|errno| DemoError::refused("keep mounts private", errno))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), PRIVATE_DIRECTORY, Some("tmpfs"), flags, Some(PRIVATE_OPTIONS))
        .map_err(|errno| DemoError::refused("mount a private filesystem", errno))?;
    Ok(rights)
}

fn check_tun_device() -> Result<(), DemoError> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => Err(DemoError::TunDenied { source }),
        Err(source) => Err(DemoError::NoTunDevice { source }),
    }
}

fn enter_user_namespace() -> Result<(), DemoError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| DemoError::refused("make a user namespace", errno))?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    // An unprivileged process may map its group only once it can no longer change the others.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

fn write(path: &str, text: &str) -> Result<(), DemoError> {
    fs::write(Path::new(path), text).map_err(|source| {
        let errno = source.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        DemoError::refused("become root of a user namespace", errno)
    })
}
