//! Takes the whole test process out of the host: own mounts, own network, and where it is not root an own user
//! namespace. All state lives in a tmpfs of that mount namespace, so that the kernel removes it with the last process.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Is where the sites' directories are: inside the tmpfs that this process mounts over /run.
pub(crate) const STATE: &str = "/run/wardlink-netns";

/// Isolates this process. Must be called before any thread is started.
pub(crate) fn enter() -> Result<(), String> {
    let private = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !uid.is_root() || unshare(private).is_err() {
        unshare(private | CloneFlags::CLONE_NEWUSER)
            .map_err(|error| format!("neither root nor an unprivileged user namespace is to be had ({error})"))?;
        map_to_root(uid.as_raw(), gid.as_raw())
            .map_err(|error| format!("the user namespace cannot be mapped: {error}"))?;
    }
    mounts().map_err(|error| format!("no private mounts: {error}"))?;
    fs::create_dir_all(STATE).map_err(|error| format!("{STATE}: {error}"))?;
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/net/tun: {error}")),
    }
}

fn map_to_root(uid: u32, gid: u32) -> std::io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn mounts() -> nix::Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    tmpfs("/run")?;
    if Path::new("/var/run").canonicalize().is_ok_and(|path| path != Path::new("/run")) {
        tmpfs("/var/run")?;
    }
    Ok(())
}

/// Mounts an empty tmpfs.
pub(crate) fn tmpfs(target: &str) -> nix::Result<()> {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
}
