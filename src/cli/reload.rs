//! `wardlink reload`: has the running site read its configuration again and take it up.
//!
//! It reads no configuration itself: the site reads the file that it was started with, and says what came of it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::site::{SOCKET_DIRECTORY, SiteArgs, SiteError, only_socket};
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE};
use crate::config;
use crate::control::{self, Reloaded, Request};

/// Has a running site read its configuration again.
///
/// Finds the site by its control socket: --socket, or the configuration's, or the only one in /run/wardlink. Needs root,
/// or the user that the site runs as. What did not change goes on undisturbed: sessions, connections, messages.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The site reads the file that it was started with. Where that file is wrong, or cannot be taken \
    up as a whole, nothing is changed.\n\n\
    Exit codes: 0 taken up, 64 the file is wrong (each line says where, what, and what to write instead), 1 it could \
    not be taken up or no site answered, 77 only root and the site's own user may.\n\n\
    SIGHUP does the same, and leaves the outcome to the log and to `wardlink status`."
)]
pub struct Args {
    #[command(flatten)]
    site: SiteArgs,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    let (code, text) = reload(args, Path::new(SOCKET_DIRECTORY));
    let written =
        if code == 0 { io::stdout().write_all(text.as_bytes()) } else { io::stderr().write_all(text.as_bytes()) };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_FAILED),
        _ => ExitCode::from(code),
    }
}

fn reload(args: &Args, directory: &Path) -> (u8, String) {
    let (socket, answer) = match args.site.ask(Request::Reload, directory) {
        Ok(answered) => answered,
        Err(error) => {
            return match &args.site.config {
                Some(config) if error.is_about_file() => (EXIT_USAGE, bad_file(config, &error, directory)),
                _ => (error.exit_code(), format!("wardlink: {error}\n")),
            };
        }
    };
    match serde_json::from_value(answer) {
        Ok(Reloaded::Done { changes }) => (0, format!("reloaded: {changes}\n")),
        Ok(Reloaded::BadFile { errors }) => (EXIT_USAGE, format!("{errors}\nwardlink: nothing was changed\n")),
        Ok(Reloaded::Failed { cause }) => (EXIT_FAILED, format!("wardlink: {cause}; nothing was changed\n")),
        Ok(Reloaded::NotPermitted) => {
            let text = "wardlink: only root and the user that the site runs as may change it: run this with sudo\n";
            (EXIT_NOT_PERMITTED, text.to_owned())
        }
        Err(error) => {
            let socket = socket.display();
            (
                EXIT_FAILED,
                format!("wardlink: the site behind {socket} gave an answer that is not understood: {error}\n"),
            )
        }
    }
}

/// Says what is wrong with a file that does not even name a site. The only site that runs here is asked all the same: where
/// it runs from this file, it notes that its reload failed.
fn bad_file(config: &Path, error: &SiteError, directory: &Path) -> String {
    let faults = match config::load(config) {
        Err(errors) => errors.to_string(),
        Ok(_) => error.to_string(),
    };
    let asked = only_socket(directory).ok().and_then(|socket| {
        let file = fs::canonicalize(config).ok()?;
        let answer = control::ask_for(&socket, Some(&file), Request::Reload, None).ok()?;
        serde_json::from_value(answer).ok()
    });
    let outcome = match asked {
        Some(Reloaded::BadFile { .. } | Reloaded::Failed { .. }) => "nothing was changed; the site noted it".to_owned(),
        // mended in the meantime
        Some(Reloaded::Done { changes }) => format!("the site found it mended meanwhile, and reloaded it: {changes}"),
        Some(Reloaded::NotPermitted) | None => "nothing was changed, and no running site was told".to_owned(),
    };
    format!("{faults}\nwardlink: {outcome}\n")
}

#[cfg(test)]
mod tests;
