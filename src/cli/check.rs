//! `wardlink check`: a plugin for monitoring, in the form of the Monitoring Plugins Development Guidelines.
//!
//! One line on standard output, exit code 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. The judgement is the site's own, as
//! /healthz gives it; limits on figures can only make it worse.

mod limits;
mod verdict;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::site::{SOCKET_DIRECTORY, SiteArgs};
use crate::control::Request;
use limits::Limit;
use verdict::{State, Verdict};

/// Judges a running site, or one of its forwards, as a monitoring plugin (Nagios, Icinga, Checkmk, Zabbix).
///
/// Prints one line with performance data and exits with 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN: it cannot be
/// told). What is degraded is a WARNING; what is down, or a site that does not run, is CRITICAL. Where nothing was sent
/// yet it is OK, and the line says so.
///
/// A limit is FIGURE=VALUE, such as queue_depth=1000 or oldest_queued_age=5m (units s, m, h, d); several are separated by
/// commas. Figures of a forward: queue_depth, parked, oldest_queued_age, oldest_unanswered_age, last_ack_age, connections.
/// Of a peer: handshake_age. A figure at or above its limit counts; an answer or handshake that never came has the age of
/// the site's start. A limit that nothing here can reach is refused.
#[derive(Debug, clap::Args)]
#[command(
    version,
    after_help = "Example: wardlink check --forward orders --warning oldest_queued_age=1m,parked=1 \
    --critical oldest_queued_age=15m"
)]
pub struct Args {
    #[command(flatten)]
    site: SiteArgs,
    /// Only this forward, with what it depends on
    #[arg(long, value_name = "NAME")]
    forward: Option<String>,
    /// WARNING from these figures on
    #[arg(short, long, value_name = "LIMITS", value_delimiter = ',', value_parser = limits::parse)]
    warning: Vec<Limit>,
    /// CRITICAL from these figures on
    #[arg(short = 'C', long, value_name = "LIMITS", value_delimiter = ',', value_parser = limits::parse)]
    critical: Vec<Limit>,
    /// Give up after so long, such as 5 or 5s
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = limits::time)]
    timeout: Duration,
    /// Taken as the guidelines have it; there is no more to say
    #[arg(short, long, action = clap::ArgAction::Count, hide = true)]
    verbose: u8,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    say(&judged(args, Path::new(SOCKET_DIRECTORY)))
}

/// Says that the arguments are wrong, as a plugin does: monitoring shows the first line of standard output only.
pub(super) fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let cause: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
    say(&Verdict::unknown(&cause.join(" ")))
}

fn say(verdict: &Verdict) -> ExitCode {
    // Where nobody reads the line, the exit code still tells.
    io::stdout().write_all(format!("{verdict}\n").as_bytes()).ok();
    ExitCode::from(verdict.state.exit_code())
}

fn judged(args: &Args, directory: &Path) -> Verdict {
    if let Some(fault) = limits::fault(&args.warning, &args.critical) {
        return Verdict::unknown(&fault);
    }
    match args.site.ask_within(Request::Status, directory, Some(args.timeout)) {
        Ok((_, answer)) => match serde_json::from_value(answer) {
            Ok(status) => {
                verdict::judge(&status, args.forward.as_deref(), &args.warning, &args.critical, SystemTime::now())
            }
            Err(error) => Verdict::unknown(&format!("this version does not understand the site's status: {error}")),
        },
        Err(error) if error.is_down() => Verdict::new(State::Critical, &error.to_string()),
        Err(error) => Verdict::unknown(&error.to_string()),
    }
}

#[cfg(test)]
mod tests;
