//! `wardlink status`: what the running site says of itself, as tables or as JSON.
//!
//! Judges nothing itself and needs no key: it reads the control socket, and of a configuration file only where that is.

mod table;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

use crate::control::{self, ControlError, READER_GROUP, Request};

/// Is where sites put their control sockets unless they are told otherwise.
const SOCKET_DIRECTORY: &str = "/run/wardlink";

/// Is the exit code for a site that is not running or does not answer.
const EXIT_FAILED: u8 = 1;

/// Is the exit code for bad arguments or a bad configuration.
const EXIT_USAGE: u8 = 64;

/// Shows the peers, forwards and services of a running site, and what is wrong with them.
///
/// Finds the site by its control socket: --socket, or the configuration's, or the only one in /run/wardlink. Needs root
/// or membership of the group wardlink. Exits with 0 where the site answered, 1 where none did.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site's configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The site's control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, as /healthz gives it
    #[arg(long)]
    json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    match shown(args, Path::new(SOCKET_DIRECTORY)) {
        // A reader that goes early (head) is no failure.
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_FAILED),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            let text = format!("wardlink: {error}\n");
            io::stderr().write_all(text.as_bytes()).ok();
            ExitCode::from(error.exit_code())
        }
    }
}

fn shown(args: &Args, directory: &Path) -> Result<String, StatusError> {
    let socket = match (&args.socket, &args.config) {
        (Some(socket), _) => socket.clone(),
        (None, Some(config)) => socket_of(config)?,
        (None, None) => only_socket(directory)?,
    };
    let answer = control::ask(&socket, Request::Status)?;
    let understood = |source| StatusError::Malformed { socket: socket.clone(), source };
    if args.json {
        return serde_json::to_string_pretty(&answer).map(|text| text + "\n").map_err(understood);
    }
    Ok(table::render(&serde_json::from_value(answer).map_err(understood)?))
}

/// Reads where the control socket is, and nothing else: the file's keys are not for those who may see the status.
fn socket_of(config: &Path) -> Result<PathBuf, StatusError> {
    let text =
        fs::read_to_string(config).map_err(|source| StatusError::ReadConfig { path: config.to_owned(), source })?;
    let place: Place = serde_saphyr::from_str(&text)
        .map_err(|error| StatusError::ParseConfig { path: config.to_owned(), cause: error.to_string() })?;
    let default = || Path::new(SOCKET_DIRECTORY).join(format!("{}.sock", place.site));
    Ok(place.control.and_then(|control| control.socket).unwrap_or_else(default))
}

/// Is the part of a configuration that says where the control socket is.
#[derive(Deserialize)]
struct Place {
    site: String,
    control: Option<PlaceControl>,
}

#[derive(Deserialize)]
struct PlaceControl {
    socket: Option<PathBuf>,
}

fn only_socket(directory: &Path) -> Result<PathBuf, StatusError> {
    let mut sockets: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(StatusError::ReadDirectory { path: directory.to_owned(), source });
        }
    };
    sockets.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets.sort();
    match sockets.as_slice() {
        [] => Err(StatusError::NoSocket { directory: directory.to_owned() }),
        [socket] => Ok(socket.clone()),
        _ => Err(StatusError::ManySockets { sockets }),
    }
}

/// Says why there is no status to show, and what to do.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(
        "no site is running: {directory} has no control socket (start one with `wardlink run -c FILE`, \
             or give --socket PATH if its socket is elsewhere)"
    )]
    NoSocket { directory: PathBuf },
    #[error("several sites have a socket here, say which with --socket PATH:{}", list(.sockets))]
    ManySockets { sockets: Vec<PathBuf> },
    #[error("cannot list {path}: {source}")]
    ReadDirectory { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source} (give --socket PATH instead)")]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error("{path}: {cause} (`wardlink check-config -c {path}` says more)")]
    ParseConfig { path: PathBuf, cause: String },
    #[error("the site behind {socket} gave a status that this version does not understand: {source}")]
    Malformed { socket: PathBuf, source: serde_json::Error },
    #[error("{}", explain(.0))]
    Control(#[from] ControlError),
}

impl StatusError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::ManySockets { .. } | Self::ReadConfig { .. } | Self::ParseConfig { .. } => EXIT_USAGE,
            Self::NoSocket { .. } | Self::ReadDirectory { .. } | Self::Malformed { .. } | Self::Control(_) => {
                EXIT_FAILED
            }
        }
    }
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

#[cfg(test)]
mod tests;
