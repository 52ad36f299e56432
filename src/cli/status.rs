//! `wardlink status`: what the running site says of itself, as tables or as JSON.
//!
//! Judges nothing itself and needs no key.

mod alarm;
mod audit;
pub(super) mod rotation;
mod screen;
mod table;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::EXIT_FAILED;
use super::site::{SOCKET_DIRECTORY, SiteArgs, SiteError};
use crate::control::Request;
use screen::Screen;

/// Shows the peers, forwards and services of a running site, and what is wrong with them.
///
/// Finds the site by its control socket: --socket, or the configuration's, or the only one in /run/wardlink. Needs root
/// or membership of the group wardlink. Exits with 0 where the site answered, 1 where none did.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    site: SiteArgs,
    /// Print JSON, as /healthz gives it
    #[arg(long)]
    json: bool,
    /// Show it again every two seconds, until it is interrupted; on a terminal as much as fits, the worst first
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Is the pause between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    if args.watch {
        return watch(args);
    }
    match shown(args, Path::new(SOCKET_DIRECTORY), None) {
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

/// Shows it until nobody reads any more; a site that does not answer may be back the next time. On a terminal each look
/// takes the place of the one before, and fits; elsewhere it follows it.
fn watch(args: &Args) -> ExitCode {
    let terminal = env::var("TERM").ok();
    let is_screen = io::stdout().is_terminal() && screen::is_addressable(terminal.as_deref());
    loop {
        let screen = is_screen.then(|| Screen::of(io::stdout()));
        let text = match shown(args, Path::new(SOCKET_DIRECTORY), screen) {
            Ok(text) => text,
            Err(error) if error.exit_code() == EXIT_FAILED => format!("wardlink: {error}\n"),
            Err(error) => {
                io::stderr().write_all(format!("wardlink: {error}\n").as_bytes()).ok();
                return ExitCode::from(error.exit_code());
            }
        };
        let text = screen.map_or_else(|| format!("{text}\n"), |screen| screen.drawn(&text));
        let written = io::stdout().write_all(text.as_bytes());
        if let Err(error) = written.and_then(|()| io::stdout().flush()) {
            let code = if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { EXIT_FAILED };
            return ExitCode::from(code);
        }
        thread::sleep(WATCH_EVERY);
    }
}

/// Returns what is to be shown, whole or as much as a screen has room for.
fn shown(args: &Args, directory: &Path, screen: Option<Screen>) -> Result<String, StatusError> {
    let (socket, answer) = args.site.ask(Request::Status, directory)?;
    let understood = |source| StatusError::Malformed { socket: socket.clone(), source };
    if args.json {
        return serde_json::to_string_pretty(&answer).map(|text| text + "\n").map_err(understood);
    }
    let status = serde_json::from_value(answer).map_err(understood)?;
    Ok(match screen {
        Some(screen) => screen.shown(status),
        None => table::render(&status),
    })
}

/// Says why there is no status to show, and what to do.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("the site behind {socket} gave a status that this version does not understand: {source}")]
    Malformed { socket: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Site(#[from] SiteError),
}

impl StatusError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Malformed { .. } => EXIT_FAILED,
            Self::Site(error) => error.exit_code(),
        }
    }
}

#[cfg(test)]
mod tests;
