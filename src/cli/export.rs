//! `wardlink export`: writes the wg-quick file for a peer that runs plain WireGuard.
//!
//! Starts nothing and prints no secret: the peer's private key is not known here, and a preshared key is left for both
//! sites to share on a way of their own. Exit code 0, or 64 where the configuration or the peer's name is wrong.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::EXIT_USAGE;
use super::import::{name, write_out};
use crate::config::wg_quick::counterpart;
use crate::config::{self, Endpoint, Name};

/// Begins the lines that the peer has to complete.
const FILL_IN: &str = "# FILL IN: ";

/// Writes the wg-quick file for a peer that runs plain WireGuard.
///
/// What this site cannot know is marked FILL IN, in the file and on standard error: the peer's private key always.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of the peer in the configuration.
    #[arg(value_parser = name)]
    peer: Name,
    /// The configuration file of this site.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/wardlink/wardlink.yaml")]
    config: PathBuf,
    /// Where the peer reaches this site from outside. Default: tunnel.endpoint, where it is set.
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<Endpoint>,
    /// Writes into a new file of mode 0600 instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            say(&errors.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let Some(peer) = config.peer(&args.peer) else {
        let known: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        say(&format!("no peer is named {}; known: {}", args.peer, known.join(", ")));
        return ExitCode::from(EXIT_USAGE);
    };
    let text = counterpart(&config, peer, args.endpoint.as_ref().or(config.tunnel.endpoint.as_ref()));
    if let Err(error) = write_out(args.output.as_deref(), &text) {
        say(&format!("wardlink export: {error}"));
        return ExitCode::FAILURE;
    }
    for line in text.lines().filter_map(|line| line.strip_prefix(FILL_IN)) {
        say(&format!("to fill in at {}: {line}", args.peer));
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    // The exit code says it too, where standard error is closed.
    writeln!(io::stderr(), "{line}").ok();
}
