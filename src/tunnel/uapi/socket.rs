//! The file of the socket that wg(8) looks for: bound for its owner alone, and never in anybody's place.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

/// Says why the socket is not there.
#[derive(Debug, Error)]
pub(super) enum SocketError {
    /// Its directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Another program serves an interface of this name.
    #[error(
        "another program serves an interface of this name, such as a site in another network namespace: `wg` shows that one; \
         name this one otherwise (tunnel.interface)"
    )]
    InUse,
    /// The path is something else's.
    #[error("it is no socket")]
    NotASocket,
    /// The system refuses.
    #[error("cannot {what}")]
    Refused { what: &'static str, source: io::Error },
}

/// Is the open socket; its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Binds it, in the place of one that nobody serves: under another name first, so that nobody gets in before the mode
    /// is set.
    ///
    /// # Errors
    /// Another program serves the path, or the system refuses.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let refused = |what| move |source| SocketError::Refused { what, source };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.map_err(|source| SocketError::Directory { path: directory.to_owned(), source })?;
        }
        examine(path)?;
        // wg(8) takes what ends in .sock for an interface.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        fs::remove_file(&fresh).or_else(is_missing).map_err(refused("remove what an earlier run left"))?;
        let listener = UnixListener::bind(&fresh).map_err(refused("bind it"))?;
        let named = fs::set_permissions(&fresh, Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&fresh))
            .and_then(|metadata| fs::rename(&fresh, path).map(|()| metadata.ino()));
        match named {
            Ok(inode) => Ok(Self { listener, path: path.to_owned(), inode }),
            Err(source) => {
                fs::remove_file(&fresh).ok();
                Err(SocketError::Refused { what: "give it its name", source })
            }
        }
    }

    /// Waits for a connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Makes sure that the path is free, or a socket that nobody serves.
fn examine(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Refused { what: "examine it", source }),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NotASocket),
        Ok(_) => {}
    }
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // A full queue is somebody's too.
        Ok(()) => Err(SocketError::InUse),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse),
        Err(source) => Err(SocketError::Refused { what: "examine it", source }),
    }
}

fn is_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests;
