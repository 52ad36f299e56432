//! The commands, one file each, and what they share: arguments, exit codes.
//!
//! Exit codes: 0 success, 1 failed at run time, 64 bad arguments or configuration, 77 not permitted.

pub mod audit;
pub mod card;
mod change;
pub mod check;
pub mod check_config;
mod columns;
pub mod demo;
pub mod doctor;
pub mod export;
pub mod forward;
pub mod import;
pub mod init;
pub mod key;
pub mod pair;
pub mod queue;
pub mod receive;
pub mod reload;
pub mod rotate;
pub mod run;
pub mod send;
pub mod service;
mod site;
pub mod status;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// It failed at run time, or no site answers.
const EXIT_FAILED: u8 = 1;
/// Bad arguments or configuration (EX_USAGE of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// A capability is missing (EX_NOPERM of sysexits.h).
const EXIT_NOT_PERMITTED: u8 = 77;

/// Links two sites with a WireGuard tunnel and carries HL7 v2 messages (MLLP) through it.
///
/// A sender points at a local port, a receiver is reached at its own address, and neither knows that there is a
/// tunnel. Begin with `wardlink demo`; then, at each site, `init`, `pair`, `forward add` or `service add`, and `run`.
#[derive(Debug, Parser)]
#[command(name = "wardlink", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all on this machine: two sites, a real encrypted tunnel, HL7 messages through it.
    Demo(demo::Args),
    /// Make a site: its key, its address inside the tunnel, its configuration.
    Init(init::Args),
    /// Print this site's card, by which another site gets to know it.
    Card(card::Args),
    /// Take another site's card, so that it is a peer; or remove a peer.
    Pair(pair::Args),
    /// Give this site a new key; peers are told, and no connection ends.
    Rotate(rotate::Args),
    /// Add or remove a receiver that this site offers to its peers.
    Service(service::Args),
    /// Add or remove a port whose messages go to a peer; pause or resume a stored one.
    Forward(forward::Args),
    /// Make keys, as `wg genkey`, `wg pubkey` and `wg genpsk` do.
    Key(key::Args),
    /// Check a configuration file, and say what to write instead.
    CheckConfig(check_config::Args),
    /// Turn a wg-quick file into a site's configuration.
    Import(import::Args),
    /// Write the wg-quick file for a peer that runs plain WireGuard.
    Export(export::Args),
    /// Run the site in the foreground.
    Run(run::Args),
    /// Have the running site read its configuration again.
    Reload(reload::Args),
    /// Show peers, forwards and services as the running site sees them.
    Status(status::Args),
    /// Judge the site, or one forward, as a monitoring plugin.
    Check(check::Args),
    /// Look into the queue of a stored forward, and decide on what waits there.
    Queue(queue::Args),
    /// Show who did what, when, to which message, and verify the log of it.
    Audit(audit::Args),
    /// Send messages to an MLLP receiver and print each answer.
    Send(send::Args),
    /// Receive MLLP messages and answer them.
    Receive(receive::Args),
    /// Find out how a test receiver behaves, and what to set for it.
    Doctor(doctor::Args),
}

/// Describes the commands, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && std::env::args_os().nth(1).is_some_and(|word| word == "check") => {
            return check::refuse(&error);
        }
        Err(error) => {
            // Help and version are answers, not errors; neither can be told anywhere if printing fails.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Card(args) => card::run(&args),
        Command::Pair(args) => pair::run(&args),
        Command::Rotate(args) => rotate::run(&args),
        Command::Service(args) => service::run(&args),
        Command::Key(args) => key::run(args),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Queue(args) => queue::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Send(args) => send::run(args),
        Command::Receive(args) => receive::run(args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
