//! `wardlink service`: adds or removes a receiver that this site offers to its peers, in the configuration.

use std::process::ExitCode;

use super::EXIT_USAGE;
use super::change::{Current, FileArgs, ReloadArgs, change};
use super::import::name;
use super::pair::not_edited;
use super::queue::{Told, say};
use crate::config::edit::{self, Entry, Value};
use crate::config::{Endpoint, Name};

/// Adds or removes a receiver that this site offers to its peers
///
/// The configuration file is edited, its comments stay; a running site takes it up without a restart. Where that fails,
/// nothing has changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wardlink service add results --target 192.168.10.40:6661 --allow-peer city-lab\n  \
    wardlink service remove results\n\n\
    Exit codes: 0 done, 64 an argument or the configuration is wrong, 1 not taken up, 77 not by this user."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Offer a receiver to peers.
    Add {
        /// The name of the service, by which peers' forwards ask for it
        #[arg(value_parser = name)]
        service: Name,
        /// Where the receiver listens
        #[arg(long, value_name = "HOST:PORT")]
        target: Endpoint,
        /// A peer that may deliver to it; may be given several times
        #[arg(long, value_name = "PEER", value_parser = name, required = true)]
        allow_peer: Vec<Name>,
        #[command(flatten)]
        reload: ReloadArgs,
    },
    /// Offer a receiver no more.
    Remove {
        /// The name of the service
        #[arg(value_parser = name)]
        service: Name,
        #[command(flatten)]
        reload: ReloadArgs,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    say(&told(args).map_or_else(|told| told, |text| Told::new(0, text)))
}

fn told(args: &Args) -> Result<String, Told> {
    let (path, flag) = (&args.file.config, args.file.flag());
    match &args.command {
        Command::Add { service, target, allow_peer, reload } => {
            let mut offered_to = String::new();
            let said = change(path, reload, |current| {
                if current.config.services.iter().any(|there| there.name == *service) {
                    return Err(refused(format!(
                        "service {service} is there already; change it in {}, then `wardlink reload{flag}`",
                        current.path.display()
                    )));
                }
                known(current, allow_peer, &flag)?;
                let mut peers: Vec<String> = Vec::new();
                for peer in allow_peer.iter().map(ToString::to_string) {
                    if !peers.contains(&peer) {
                        peers.push(peer);
                    }
                }
                offered_to = peers.join(", ");
                let keys = vec![
                    ("name", Value::text(service)),
                    ("target", Value::text(target)),
                    ("allow_peers", Value::List(peers)),
                ];
                let edited = edit::append(&current.text, "services", &Entry { keys, offers: None });
                edited.map_err(|error| not_edited(current, &error))
            })?;
            Ok(format!("service {service} is offered to {offered_to}\n{said}\n"))
        }
        Command::Remove { service, reload } => {
            let said = change(path, reload, |current| {
                let names = current.config.services.iter().map(|service| service.name.as_str());
                is_known("service", service, &names.collect::<Vec<_>>())?;
                let edited = edit::remove(&current.text, "services", service.as_str());
                edited.map_err(|error| not_edited(current, &error))
            })?;
            Ok(format!("service {service} is removed\n{said}\n"))
        }
    }
}

pub(super) fn refused(why: impl std::fmt::Display) -> Told {
    Told::new(EXIT_USAGE, format!("wardlink: {why}; nothing was changed\n"))
}

/// Refuses a name that nothing of that kind has.
pub(super) fn is_known(kind: &str, name: &Name, names: &[&str]) -> Result<(), Told> {
    if names.contains(&name.as_str()) {
        return Ok(());
    }
    let known =
        if names.is_empty() { format!("there is no {kind} yet") } else { format!("known: {}", names.join(", ")) };
    Err(refused(format!("no {kind} is named {name} here; {known}")))
}

/// Refuses peers that are not there, with the way to have them.
pub(super) fn known(current: &Current, peers: &[Name], flag: &str) -> Result<(), Told> {
    match peers.iter().find(|peer| current.config.peer(peer).is_none()) {
        None => Ok(()),
        Some(peer) => {
            let known: Vec<&str> = current.config.peers.iter().map(|peer| peer.name.as_str()).collect();
            let known =
                if known.is_empty() { "there is none yet".to_owned() } else { format!("known: {}", known.join(", ")) };
            Err(refused(format!(
                "no peer is named {peer} here ({known}); pair with it first: `wardlink pair CARD{flag}`"
            )))
        }
    }
}
