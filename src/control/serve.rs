//! The running site's end of the control socket.
//!
//! Never blocks the site's own work: connections, their time and their bytes are bounded, and the lookup of groups, which
//! may ask a directory server, runs on a thread of its own. Credentials are those of SO_PEERCRED, unix(7).

use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream, unix::UCred};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::operator::operator;
use super::queue::{QueueAnswer, QueueRequest};
use super::{Answer, Asked, CHANGE_TIME_MAX, ControlError, READER_GROUP, REQUEST_BYTES_MAX, Reloaded, Request};
use crate::tunnel::places::{CONNECTIONS_OF_USER_MAX, Place, Places, may_change};

/// Limits a connection from its acceptance to its request: a command sends it at once.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);

/// Limits a connection from its answer to its last byte.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

/// Is the pause after a failed accept: it fails for want of file descriptors, and would spin.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Is an answer that takes its time.
type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Gives the site's answers.
#[derive(Clone)]
pub struct Answers {
    /// Is the file that the site runs from, as an absolute path; none: it runs from no file.
    pub file: Option<PathBuf>,
    /// Gives the status as JSON; called on each request, so it must not block.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Reads the configuration again and takes it up, for the user that is named.
    pub reload: Arc<dyn Fn(String) -> Later<Reloaded> + Send + Sync>,
    /// Does what is asked of a queue, for the user that is named; who asks may.
    pub queue: Arc<dyn Fn(QueueRequest, String) -> Later<QueueAnswer> + Send + Sync>,
}

/// Is the open control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the control socket was not removed");
        }
    }
}

/// Opens the control socket: makes its directory (0755), takes the place of a socket that nobody serves, and lets the
/// group wardlink in (0660), where that group exists; else the own user only (0600).
///
/// # Errors
/// Where another process serves the socket, something else has its path, or the file system refuses.
///
/// # Panics
/// Outside a tokio runtime.
pub fn bind(path: &Path) -> Result<ControlListener, ControlError> {
    if let Some(parent) = path.parent() {
        make_directory(parent).map_err(|source| ControlError::MakeDirectory { path: parent.to_owned(), source })?;
    }
    clear(path)?;
    let listener = UnixListener::bind(path).map_err(|source| ControlError::Bind { path: path.to_owned(), source })?;
    let listener = ControlListener { listener, path: path.to_owned() };
    let mode = if give_to_readers(path) { 0o660 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| ControlError::SetMode { path: path.to_owned(), source })?;
    Ok(listener)
}

/// Makes a missing directory 0755 whatever the umask is: readers must get to the socket. One that exists is left as it is.
///
/// # Errors
/// Where the file system refuses.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Removes a socket that an earlier run left, and nothing else.
fn clear(path: &Path) -> Result<(), ControlError> {
    let replace = |source| ControlError::ReplaceStale { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(replace(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(replace)?;
    socket.set_nonblocking(true).map_err(replace)?;
    match socket.connect(&SockAddr::unix(path).map_err(replace)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(replace),
        // A full queue (EAGAIN) is somebody's too.
        Ok(()) => Err(ControlError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ControlError::InUse { path: path.to_owned() }),
        Err(error) => Err(replace(error)),
    }
}

/// Gives the socket to the readers' group; says whether that worked.
fn give_to_readers(path: &Path) -> bool {
    let Some(group) = reader_group() else {
        return false;
    };
    if fs::metadata(path).is_ok_and(|metadata| metadata.gid() == group.as_raw()) {
        return true;
    }
    match chown(path, None, Some(group)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "group {READER_GROUP} cannot be given the control socket");
            false
        }
    }
}

fn reader_group() -> Option<Gid> {
    Group::from_name(READER_GROUP).ok().flatten().map(|group| group.gid)
}

/// Serves the control socket until `stop` becomes true (or its sender is gone), then removes its file.
///
/// Failures of single connections are logged, and accepting is retried for ever. Cancel-safe: dropping the future closes
/// every connection.
pub async fn serve(listener: ControlListener, answers: Answers, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Places::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Whether there is a place for it or not: what waits in the kernel's queue keeps everybody out.
            accepted = listener.listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a control connection ended unexpectedly");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => match admit(stream, &places) {
                Ok(Some((stream, credentials, place))) => {
                    connections.spawn(connection(stream, credentials, place, answers.clone()));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a control connection failed"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}

/// Gives a connection a place among those of its user; where there is none, says so and closes it.
fn admit(stream: UnixStream, places: &Arc<Places>) -> io::Result<Option<(UnixStream, UCred, Place)>> {
    let credentials = stream.peer_cred()?;
    if let Some(place) = places.take(Uid::from_raw(credentials.uid())) {
        return Ok(Some((stream, credentials, place)));
    }
    let uid = credentials.uid();
    tracing::debug!(uid, "a control connection too many");
    let cause = format!(
        "too many connections are open already, {CONNECTIONS_OF_USER_MAX} of user {uid} or all that are for readers; \
         try again in a few seconds"
    );
    // One line always fits into a fresh socket's buffer, so that this does not wait.
    stream.into_std()?.write_all(&line(&Answer::Error(cause))?)?;
    Ok(None)
}

async fn connection(stream: UnixStream, credentials: UCred, place: Place, answers: Answers) {
    match exchange(stream, credentials, &answers).await {
        Ok(()) => {}
        Err(error) => tracing::debug!(%error, "a control connection failed"),
    }
    drop(place);
}

async fn exchange(stream: UnixStream, credentials: UCred, answers: &Answers) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut asked = String::new();
    timeout(REQUEST_TIME_MAX, BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut asked)).await??;
    let answer = timeout(CHANGE_TIME_MAX, answer(&asked, credentials, answers)).await?;
    timeout(WRITE_TIME_MAX, writer.write_all(&line(&answer)?)).await?
}

/// Writes an answer as its line.
fn line(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(answer)?;
    bytes.push(b'\n');
    Ok(bytes)
}

async fn answer(line: &str, credentials: UCred, answers: &Answers) -> Answer {
    if !line.ends_with('\n') {
        return Answer::Error(format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes"));
    }
    let Ok(Asked { file, request }) = serde_json::from_str(line) else {
        return Answer::Error("this version knows no such command".to_owned());
    };
    let (uid, gid) = (Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
    let other = match file {
        Some(file) => other_file(&file, answers.file.as_deref()).await,
        None => None,
    };
    match request {
        Request::Status if !is_reader(uid, gid).await => {
            Answer::Error(format!("only root and members of the group {READER_GROUP} may ask"))
        }
        Request::Status => other.unwrap_or_else(|| Answer::Ok((answers.status)())),
        Request::Reload => {
            let reloaded = match (may_change(uid), other) {
                (false, _) => Reloaded::NotPermitted,
                (true, Some(other)) => return other,
                (true, None) => (answers.reload)(operator(&credentials).await).await,
            };
            Answer::Ok(serde_json::to_value(reloaded).unwrap_or_default())
        }
        Request::Queue(request) => {
            let may = if request.action.is_for_root() { may_change(uid) } else { is_reader(uid, gid).await };
            let answered = match (may, other) {
                (false, _) => QueueAnswer::NotPermitted,
                (true, Some(other)) => return other,
                (true, None) => (answers.queue)(request, operator(&credentials).await).await,
            };
            Answer::Ok(serde_json::to_value(answered).unwrap_or_default())
        }
    }
}

/// Says which file the site runs from, where that is not the one that is meant.
async fn other_file(meant: &str, runs: Option<&Path>) -> Option<Answer> {
    let Some(runs) = runs else { return Some(Answer::OtherFile("no file".to_owned())) };
    // Now, not at the start: what a link leads to is what the next reload reads.
    let runs = tokio::fs::canonicalize(runs).await.unwrap_or_else(|_| runs.to_owned());
    let runs = runs.to_string_lossy();
    (runs != meant).then(|| Answer::OtherFile(runs.into_owned()))
}

pub(super) async fn is_reader(uid: Uid, gid: Gid) -> bool {
    if may_change(uid) {
        return true;
    }
    spawn_blocking(move || is_group_reader(uid, gid)).await.unwrap_or(false)
}

/// Says whether the user is in the readers' group, by its process or by the user database.
fn is_group_reader(uid: Uid, gid: Gid) -> bool {
    let Some(readers) = reader_group() else {
        return false;
    };
    let listed = || {
        let user = User::from_uid(uid).ok().flatten()?;
        let name = CString::new(user.name).ok()?;
        Some(getgrouplist(&name, user.gid).ok()?.contains(&readers))
    };
    gid == readers || listed().unwrap_or(false)
}
