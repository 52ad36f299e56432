//! `wardlink queue`: what waits in a stored forward's queue, and what an operator decides about it.
//!
//! It prints nothing of a message's content but where root asks for that, and decides nothing itself.

mod export;
mod table;
#[cfg(test)]
pub(super) mod tests;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::site::{SOCKET_DIRECTORY, SiteArgs};
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED};
use crate::control::Request;
use crate::control::queue::{Choice, ENTRIES_MAX, QueueAction, QueueAnswer, QueueRequest, REASON_BYTES_MAX};

/// Looks into the queue of a stored forward, and decides on what waits there.
///
/// Finds the site by its control socket: --socket, or the configuration's, or the only one in /run/wardlink. Root and
/// the user that the site runs as may do all of it; the members of the group wardlink may list and show.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 it could not be done or no site answered, 64 bad arguments, 77 only root \
    and the site's own user may."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    site: SiteArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the messages that wait or are parked, by number: when they came, where they stand, what was answered.
    List {
        /// The stored forward
        forward: String,
        /// The first message
        #[arg(long, value_name = "MESSAGE", default_value_t = 1)]
        from: u64,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        max: u32,
        /// Only those in this state
        #[arg(long, value_parser = STATES)]
        state: Option<String>,
        /// All, also those that are delivered, discarded or released
        #[arg(long, conflicts_with = "state")]
        all: bool,
    },
    /// Show what is known of a message.
    Show {
        #[command(flatten)]
        of: Message,
        /// Print its content instead, byte for byte: patient data, for root only, and written down
        #[arg(long, conflicts_with = "json")]
        payload: bool,
    },
    /// Try again at once the message that all others wait for: one that is held, or rests until its next attempt.
    Retry {
        /// The stored forward
        forward: String,
        /// The message, to be sure that it is this one
        message: Option<u64>,
    },
    /// Set a message aside: it is kept, and the others go on.
    Park(Message),
    /// Queue a message again that is set aside or was delivered, as a new one at the end.
    Release(Message),
    /// Give a message up: its content is destroyed, and why is kept.
    Discard {
        #[command(flatten)]
        of: Message,
        /// Why; no patient's name
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// Send what waits for another destination to the one that is configured now, or the queue on another forward's way.
    Move {
        /// The stored forward
        forward: String,
        /// The queue takes the way of this stored forward: what was accepted for there goes, in order, and the first
        /// that was not holds it. Its own name takes it back
        #[arg(long, value_name = "FORWARD")]
        to: Option<String>,
        /// What was accepted for this one goes elsewhere now, as SERVICE@PEER: `wardlink queue show` names it
        #[arg(long = "from-destination", value_name = "DESTINATION")]
        from: Option<String>,
    },
    /// Show how the two sites differ after one was restored from a backup, and decide which story holds.
    Reconcile {
        /// The stored forward
        forward: String,
        /// Believe the far site: what it says that it has is not sent again
        #[arg(long, conflicts_with = "resend")]
        accept_far: bool,
        /// Send all that is not settled here, though the far site may have had it
        #[arg(long)]
        resend: bool,
    },
    /// Give up a queue that is missing or damaged: what is left of it is set aside, and a new one takes its place.
    Forget {
        /// The stored forward
        forward: String,
        /// Why; no patient's name
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
    /// Write messages into files, one each: patient data, for root only, and written down.
    Export(export::Args),
}

/// Lists the states of a message.
const STATES: [&str; 5] = ["queued", "delivered", "parked", "discarded", "released"];

/// Names a message.
#[derive(Debug, clap::Args)]
struct Message {
    /// The stored forward
    forward: String,
    /// The message's number, as `wardlink queue list` shows it
    message: u64,
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > REASON_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("write one line of 1 to {REASON_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

/// Is what is printed, and the exit code.
pub(super) struct Told {
    pub(super) code: u8,
    pub(super) bytes: Vec<u8>,
}

impl Told {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, bytes: text.into().into_bytes() }
    }

    pub(super) fn failed(why: impl std::fmt::Display) -> Self {
        Self::new(EXIT_FAILED, format!("wardlink: {why}\n"))
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    say(&told(args, Path::new(SOCKET_DIRECTORY)))
}

/// Prints what is told, errors to where errors go.
pub(super) fn say(told: &Told) -> ExitCode {
    let written =
        if told.code == 0 { io::stdout().write_all(&told.bytes) } else { io::stderr().write_all(&told.bytes) };
    match written {
        // A reader that goes early (head) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("wardlink: the answer was not written to standard output ({error})\n");
            io::stderr().write_all(text.as_bytes()).ok();
            ExitCode::from(EXIT_FAILED)
        }
        _ => ExitCode::from(told.code),
    }
}

fn told(args: &Args, directory: &Path) -> Told {
    let ask = |forward: &str, action| asked(&args.site, directory, forward, action, args.json);
    match &args.command {
        Command::List { forward, from, max, state, all } => {
            let (max, state) = ((*max).min(ENTRIES_MAX), state.clone());
            ask(forward, QueueAction::List { from: *from, max, state, all: *all })
        }
        Command::Show { of, payload: true } => {
            let desk = Desk { site: &args.site, directory, forward: &of.forward };
            desk.content(of.message).map_or_else(|told| told, |bytes| Told { code: 0, bytes })
        }
        Command::Show { of, payload: false } => ask(&of.forward, QueueAction::Show { sequence: of.message }),
        Command::Retry { forward, message } => ask(forward, QueueAction::Retry { sequence: *message }),
        Command::Park(of) => ask(&of.forward, QueueAction::Park { sequence: of.message }),
        Command::Release(of) => ask(&of.forward, QueueAction::Release { sequence: of.message }),
        Command::Discard { of, reason } => {
            ask(&of.forward, QueueAction::Discard { sequence: of.message, reason: reason.clone() })
        }
        Command::Move { forward, to, from } => ask(forward, QueueAction::Move { to: to.clone(), from: from.clone() }),
        Command::Reconcile { forward, accept_far, resend } => {
            let choice = match (accept_far, resend) {
                (true, _) => Some(Choice::AcceptFar),
                (false, true) => Some(Choice::Resend),
                (false, false) => None,
            };
            ask(forward, QueueAction::Reconcile { choice })
        }
        Command::Forget { forward, reason } => ask(forward, QueueAction::Forget { reason: reason.clone() }),
        Command::Export(export) => export::told(export, &args.site, directory),
    }
}

/// Asks a site, and puts its answer into words.
pub(super) fn asked(site: &SiteArgs, directory: &Path, forward: &str, action: QueueAction, json: bool) -> Told {
    let desk = Desk { site, directory, forward };
    let flags = match &action {
        QueueAction::List { all: true, .. } => " --all".to_owned(),
        QueueAction::List { state: Some(state), .. } => format!(" --state {state}"),
        _ => String::new(),
    };
    match desk.ask(action) {
        Err(told) => told,
        Ok(answer) if json => match serde_json::to_string_pretty(&answer) {
            Ok(text) => Told::new(0, text + "\n"),
            Err(error) => Told::failed(error),
        },
        Ok(QueueAnswer::Entries { entries, next }) => Told::new(0, table::list((forward, &flags), &entries, next)),
        Ok(QueueAnswer::Entry { entry }) => Told::new(0, table::entry(&entry)),
        Ok(QueueAnswer::Done { said }) => Told::new(0, said + "\n"),
        Ok(_) => Told::failed("the site gave an answer that does not belong to the question"),
    }
}

/// Is where the queue of a forward is asked.
struct Desk<'a> {
    site: &'a SiteArgs,
    directory: &'a Path,
    forward: &'a str,
}

impl Desk<'_> {
    /// Asks; what was not done is in words already.
    fn ask(&self, action: QueueAction) -> Result<QueueAnswer, Told> {
        let request = Request::Queue(QueueRequest { forward: self.forward.to_owned(), action });
        let (socket, answer) = self
            .site
            .ask(request, self.directory)
            .map_err(|error| Told::new(error.exit_code(), format!("wardlink: {error}\n")))?;
        match serde_json::from_value(answer) {
            Ok(QueueAnswer::Failed { cause }) => Err(Told::failed(cause)),
            Ok(QueueAnswer::NotPermitted) => {
                let text = "wardlink: only root and the user that the site runs as may do this; members of the group \
                            wardlink may list and show: run this with sudo\n";
                Err(Told::new(EXIT_NOT_PERMITTED, text))
            }
            Ok(answer) => Ok(answer),
            Err(error) => {
                let socket = socket.display();
                Err(Told::failed(format!("the site behind {socket} gave an answer that is not understood: {error}")))
            }
        }
    }

    /// Fetches the content of a message.
    fn content(&self, sequence: u64) -> Result<Vec<u8>, Told> {
        let mut content = Vec::new();
        loop {
            let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let (total_bytes, part) = match self.ask(QueueAction::Content { sequence, offset })? {
                QueueAnswer::Content { total_bytes, part } => (total_bytes, STANDARD.decode(part)),
                _ => return Err(Told::failed("the site gave an answer that does not belong to the question")),
            };
            let part = part.map_err(|error| Told::failed(format!("the content came damaged: {error}")))?;
            content.extend_from_slice(&part);
            if u64::try_from(content.len()).is_ok_and(|bytes| bytes >= total_bytes) {
                return Ok(content);
            }
            if part.is_empty() {
                return Err(Told::failed("the site ended the content early: ask again"));
            }
        }
    }
}
