//! Finds the running site that a command is for, and asks it.
//!
//! Needs no key: it reads the control socket, and of a configuration file only where that is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE};
use crate::config::part;
use crate::control::{self, ControlError, READER_GROUP, Request};

/// Is where sites put their control sockets unless they are told otherwise.
pub(super) const SOCKET_DIRECTORY: &str = "/run/wardlink";

/// Says which site is meant.
#[derive(Debug, clap::Args)]
pub(super) struct SiteArgs {
    /// The site's configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket", global = true)]
    pub(super) config: Option<PathBuf>,
    /// The site's control socket
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<PathBuf>,
}

impl SiteArgs {
    /// Asks the site, and returns its socket and what it answers; `directory` is where sockets are looked for.
    ///
    /// # Errors
    /// Says why there is no answer, and what to do.
    pub(super) fn ask(&self, request: Request, directory: &Path) -> Result<(PathBuf, serde_json::Value), SiteError> {
        self.ask_within(request, directory, None)
    }

    /// Does so, and waits for so long.
    pub(super) fn ask_within(
        &self,
        request: Request,
        directory: &Path,
        within: Option<Duration>,
    ) -> Result<(PathBuf, serde_json::Value), SiteError> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => return ask_named(config, request, directory, within),
            (None, None) => only_socket(directory)?,
        };
        let answer = control::ask_for(&socket, None, request, within)?;
        Ok((socket, answer))
    }
}

/// Asks the site that runs from a configuration file, and no other of its name; where it does not answer, says which name
/// that is and which sites there are.
fn ask_named(
    config: &Path,
    request: Request,
    directory: &Path,
    within: Option<Duration>,
) -> Result<(PathBuf, serde_json::Value), SiteError> {
    let place = place_of(config)?;
    let (site, socket) = (place.site.clone(), place.socket());
    let file = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    match control::ask_for(&socket, Some(&file), request, within) {
        Ok(answer) => Ok((socket, answer)),
        Err(ControlError::Connect { source, .. }) if is_absent(&source) => {
            let sockets = sockets_in(directory).unwrap_or_default();
            Err(SiteError::NotRunning { config: config.to_owned(), site, socket, sockets })
        }
        Err(ControlError::OtherFile { path: socket, runs }) => {
            Err(SiteError::OtherFile { config: file, site, socket, runs })
        }
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Reads where the control socket is.
#[cfg(test)]
pub(super) fn socket_of(config: &Path) -> Result<PathBuf, SiteError> {
    place_of(config).map(Place::socket)
}

/// Reads what names the site, and nothing else: the file's keys are not for those who may see the status.
fn place_of(config: &Path) -> Result<Place, SiteError> {
    let text =
        fs::read_to_string(config).map_err(|source| SiteError::ReadConfig { path: config.to_owned(), source })?;
    part(&text).map_err(|cause| SiteError::ParseConfig { path: config.to_owned(), cause })
}

/// Is the part of a configuration that says where the control socket is.
#[derive(Deserialize)]
struct Place {
    site: String,
    control: Option<PlaceControl>,
}

impl Place {
    fn socket(self) -> PathBuf {
        let default = || Path::new(SOCKET_DIRECTORY).join(format!("{}.sock", self.site));
        self.control.and_then(|control| control.socket).unwrap_or_else(default)
    }
}

#[derive(Deserialize)]
struct PlaceControl {
    socket: Option<PathBuf>,
}

fn sockets_in(directory: &Path) -> Result<Vec<PathBuf>, SiteError> {
    let mut sockets: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(SiteError::ReadDirectory { path: directory.to_owned(), source });
        }
    };
    sockets.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets.sort();
    Ok(sockets)
}

/// Finds the socket of the only site in a directory.
pub(super) fn only_socket(directory: &Path) -> Result<PathBuf, SiteError> {
    let sockets = sockets_in(directory)?;
    match sockets.as_slice() {
        [] => Err(SiteError::NoSocket { directory: directory.to_owned() }),
        [socket] => Ok(socket.clone()),
        _ => Err(SiteError::ManySockets { sockets }),
    }
}

/// Says why a site does not answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum SiteError {
    #[error(
        "no site is running: {directory} has no control socket (start one with `wardlink run -c FILE`, \
             or give --socket PATH if its socket is elsewhere)"
    )]
    NoSocket { directory: PathBuf },
    #[error("several sites have a socket here, say which with --socket PATH:{}", list(.sockets))]
    ManySockets { sockets: Vec<PathBuf> },
    #[error(
        "no site {site} is running: {config} says `site: {site}`, and nobody answers at {socket} (start it with \
         `wardlink run -c FILE` or `systemctl start wardlink`){}", renamed(.sockets)
    )]
    NotRunning { config: PathBuf, site: String, socket: PathBuf, sockets: Vec<PathBuf> },
    #[error(
        "the site of {config} does not run: another site {site} answers at {socket}, and runs from {runs}; nothing was \
         asked of it (for that one write -c {runs} or --socket {socket}; for both on one host give this file a \
         `control.socket` of its own, and run it in another network namespace)"
    )]
    OtherFile { config: PathBuf, site: String, socket: PathBuf, runs: PathBuf },
    #[error("cannot list {path}: {source}")]
    ReadDirectory { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source} (give --socket PATH instead)")]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(
        "{path}: {cause} (`wardlink check-config -c {path}` says more; a site that runs meanwhile is asked with --socket \
         PATH)"
    )]
    ParseConfig { path: PathBuf, cause: String },
    #[error("{}", explain(.0))]
    Control(#[from] ControlError),
}

impl SiteError {
    /// Tells whether the site does not run or does not answer; all else is about the question, not the site.
    pub(super) fn is_down(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::NotRunning { .. } | Self::OtherFile { .. } => true,
            Self::Control(_) => self.exit_code() == EXIT_FAILED,
            Self::ManySockets { .. }
            | Self::ReadDirectory { .. }
            | Self::ReadConfig { .. }
            | Self::ParseConfig { .. } => false,
        }
    }

    /// Tells whether the configuration file does not even say which site is meant.
    pub(super) fn is_about_file(&self) -> bool {
        matches!(self, Self::ReadConfig { .. } | Self::ParseConfig { .. }) && self.exit_code() == EXIT_USAGE
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::ReadDirectory { source, .. }
            | Self::ReadConfig { source, .. }
            | Self::Control(ControlError::Connect { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                EXIT_NOT_PERMITTED
            }
            Self::ManySockets { .. } | Self::OtherFile { .. } | Self::ReadConfig { .. } | Self::ParseConfig { .. } => {
                EXIT_USAGE
            }
            Self::NoSocket { .. } | Self::NotRunning { .. } | Self::ReadDirectory { .. } | Self::Control(_) => {
                EXIT_FAILED
            }
        }
    }
}

/// Says what may be behind it where other sites run.
fn renamed(sockets: &[PathBuf]) -> String {
    if sockets.is_empty() {
        return String::new();
    }
    let sockets = list(sockets);
    format!("; a running site keeps its name until it is restarted, these have a socket here (--socket PATH):{sockets}")
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("\n  {}", path.display())).collect()
}

/// Adds what to do to what went wrong.
fn explain(error: &ControlError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    let advice = match error {
        ControlError::Connect { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => {
                format!(" (run this as root, or as a member of the group {READER_GROUP}; a new member logs in again)")
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                " (the site is not running: start it with `wardlink run -c FILE` or `systemctl start wardlink`)"
                    .to_owned()
            }
            _ => String::new(),
        },
        ControlError::Exchange { .. } => " (its process hangs or just stopped: see its log)".to_owned(),
        _ => String::new(),
    };
    format!("{error}{cause}{advice}")
}
