//! `wardlink card`: prints this site's card, and the words by which two admins compare it.
//!
//! Changes nothing and prints no secret. The card goes to standard output, the words to standard error: they are to be
//! read out, and prove nothing where they travel with the card.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use super::change::{Current, FileArgs};
use super::queue::{Told, say};
use super::{EXIT_FAILED, EXIT_USAGE};
use crate::config::card::{Card, Fingerprint};

/// Prints this site's card, by which another site gets to know it
///
/// One line, to be sent to the other site by any way, as text or in a file: its name, public key, address inside the tunnel,
/// the endpoint where it is reached (tunnel.endpoint), its services, a checksum. There `wardlink pair CARD` takes it. The
/// fingerprint, eight words over the whole card, is printed to standard error: read it out to the other admin on the
/// telephone, and do not send it along.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  wardlink card > north-hospital.card\n\n\
    Exit codes: 0 printed, 64 the configuration is wrong or missing, 77 its key may not be read.")]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,
    /// Which of tunnel.address the card has, where there are several; the first one by default
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Prints the fingerprint instead, and no card
    #[arg(long)]
    fingerprint: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let card = match card(args) {
        Ok(card) => card,
        Err(told) => return say(&told),
    };
    let words = card.fingerprint();
    if args.fingerprint {
        return say(&Told::new(0, format!("{words}\n")));
    }
    print(&card)
}

fn card(args: &Args) -> Result<Card, Told> {
    let config = Current::read(&args.file.config)?.config;
    let own = || config.tunnel.addresses.iter().map(|own| own.addr().to_string()).collect::<Vec<_>>().join(", ");
    Card::of(&config, args.address).ok_or_else(|| {
        Told::new(EXIT_USAGE, format!("wardlink: --address names none of this site's own; those are {}\n", own()))
    })
}

/// Prints a card, and its words beside it.
pub(super) fn print(card: &Card) -> ExitCode {
    if let Err(error) = writeln!(io::stdout(), "{card}").and_then(|()| io::stdout().flush()) {
        let text = format!(
            "wardlink: the card was not written to standard output ({error}): `wardlink card` prints it again\n"
        );
        io::stderr().write_all(text.as_bytes()).ok();
        return ExitCode::from(EXIT_FAILED);
    }
    let words = shown(&card.fingerprint());
    let text = format!(
        "\nThe fingerprint of this card, to be read out to the other admin on the telephone, not to be sent along:\n\n{words}\n"
    );
    io::stderr().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}

/// Writes the words in two lines, indented, with columns.
pub(super) fn shown(words: &Fingerprint) -> String {
    let words = words.to_string();
    let words: Vec<&str> = words.split(' ').collect();
    words
        .chunks(words.len().div_ceil(2))
        .map(|line| {
            let line: Vec<String> = line.iter().map(|word| format!("{word:<9}")).collect();
            format!("    {}\n", line.join(" ").trim_end())
        })
        .collect()
}
