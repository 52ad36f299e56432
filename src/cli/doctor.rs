//! `wardlink doctor`: finds out how a test receiver behaves, and what to set for it.
//!
//! Never sends a byte before somebody has said that this is a test receiver, never a message that is not synthetic, never
//! shows a byte of an answer but its code. What it tries are the cases of the design of MLLP that do no harm there.
#![allow(clippy::print_stderr)]

mod facts;
mod messages;
mod probes;
mod profile;
mod talk;
#[cfg(test)]
mod tests;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{EXIT_FAILED, EXIT_USAGE, send};
use facts::SIZES;
use messages::Messages;
use probes::{Doctor, Line, Verdict};
use profile::Profile;

/// Is the widest name of a probe, in characters.
const NAME_CHARS: usize = 19;

/// Limits MSH-9 of the messages, in characters.
const TYPE_CHARS_MAX: usize = 30;

/// Finds out how a test receiver behaves, and prints what to set for it
///
/// Sends some fifty synthetic messages (MSH-11 is T), large ones among them, on several connections, one after the
/// other and at once: never at a receiver in production. Prints what was done, what came and what it means, then the
/// service for the configuration, with the reason for each key. It takes some ten seconds, a minute at most with the
/// default timeout.
///
/// The exit code is 0 with a profile, 1 if the receiver cannot be reached or does not answer, 64 for bad arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the receiver listens
    #[arg(value_name = "HOST:PORT")]
    pub to: String,
    /// Says that this is a test receiver; without it a terminal is asked
    #[arg(long)]
    pub test_receiver: bool,
    /// Waits so long for a connection, and for an answer; all takes at most some eleven times that
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = waiting)]
    pub timeout: Duration,
    /// Is the type of the messages, MSH-9
    #[arg(long = "type", value_name = "MSH-9", default_value = "ADT^A01", value_parser = message_type)]
    pub message_type: String,
    /// Sends no message above this size
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = size)]
    pub max_size: usize,
    /// Prints one JSON object
    #[arg(long)]
    pub json: bool,
}

fn waiting(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(600);
    if range.contains(&time) { Ok(time) } else { Err("from 100ms to 10m, such as 5s".to_owned()) }
}

fn message_type(text: &str) -> Result<String, &'static str> {
    let is_type = |c: char| c.is_ascii_alphanumeric() || c == '^' || c == '_';
    let fits = (3..=TYPE_CHARS_MAX).contains(&text.len()) && text.chars().all(is_type);
    if fits { Ok(text.to_owned()) } else { Err("a message type, such as ORU^R01 or ORM^O01^ORM_O01") }
}

fn size(text: &str) -> Result<usize, String> {
    let found = SIZES.iter().find(|(_, name)| *name == text);
    let names = || SIZES.map(|(_, name)| name).join(", ");
    found.map(|(bytes, _)| *bytes).ok_or_else(|| format!("one of {}", names()))
}

/// Is all that was found, for `--json`.
#[derive(Serialize)]
struct Report<'a> {
    receiver: &'a str,
    probes: &'a [Line],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    yaml: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    if let Err(reason) = send::check_address(&args.to) {
        eprintln!("wardlink doctor: {}: {reason}", args.to);
        return ExitCode::from(EXIT_USAGE);
    }
    eprintln!(
        "wardlink doctor: sends synthetic test messages to {}, on several connections, large ones among them: never do \
         that to a receiver in production",
        args.to
    );
    if !args.test_receiver && !is_confirmed() {
        eprintln!("wardlink doctor: nothing was sent; --test-receiver says that this is a test receiver");
        return ExitCode::from(EXIT_USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wardlink doctor: no runtime: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let mut lines = Vec::new();
    let mut report = |line: Line| {
        if !args.json {
            let Line { probe, did, came, means } = &line;
            say(&format!("{probe:<NAME_CHARS$} {did} -> {came} -> {means}"));
        }
        lines.push(line);
    };
    let messages = Messages::new(&args.message_type, seconds_now());
    let mut doctor = Doctor::new(&args.to, args.timeout, args.max_size, messages, &mut report);
    let verdict = runtime.block_on(doctor.run());
    let profile = matches!(verdict, Verdict::Profiled).then(|| Profile::of(&doctor.facts));
    conclude(args, &lines, verdict, profile)
}

fn conclude(args: &Args, lines: &[Line], verdict: Verdict, profile: Option<Profile>) -> ExitCode {
    let yaml = profile.as_ref().map(|profile| profile.yaml(&args.to));
    let error = match verdict {
        Verdict::Profiled => None,
        Verdict::Nothing { reason, advice } => {
            eprintln!("wardlink doctor: {}: {reason}; there is no profile. {advice}", args.to);
            Some(reason)
        }
    };
    let code = ExitCode::from(if error.is_some() { EXIT_FAILED } else { 0 });
    if args.json {
        let report = Report { receiver: &args.to, probes: lines, error, profile, yaml };
        // numbers, booleans and strings: nothing of it can fail
        say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else if let Some(yaml) = yaml {
        say(&format!("\n{yaml}"));
    }
    code
}

/// Asks whoever sits at the terminal; without one the answer is no.
fn is_confirmed() -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    eprint!("Is it a test receiver? [yes/no] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "yes")
}

/// Returns what makes this run's control ids differ from another's.
fn seconds_now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // the low bits differ from run to run: that is all that is wanted
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or_default()
}

/// Prints a line; a reader that is gone is no reason to stop.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
