//! `wardlink check-config`: validates a configuration file and says everything that is wrong with it.
//!
//! Opens no socket and changes nothing. Exit code 0, or 64 with one line for each mistake on standard error.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{self, Config};

/// Says that the configuration is bad (sysexits.h, EX_USAGE).
const EXIT_BAD_CONFIG: u8 = 64;

/// Validates a configuration file.
///
/// Prints one line and exits 0 where the file is right. Else exits 64 and prints, for each mistake, file:line:column, the
/// path of the key, what is wrong and what to write instead. Key files are read too; nothing is started or changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to validate.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/wardlink/wardlink.yaml")]
    config: PathBuf,
    /// Prints the JSON Schema of configurations instead, for editors.
    #[arg(long)]
    schema: bool,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    if args.schema {
        return say(&config::schema());
    }
    match config::load(&args.config) {
        Ok(config) => say(&format!("{}: ok: {}", args.config.display(), summary(&config))),
        Err(errors) => {
            // The exit code says it too, where standard error is closed.
            writeln!(io::stderr(), "{errors}").ok();
            ExitCode::from(EXIT_BAD_CONFIG)
        }
    }
}

fn say(line: &str) -> ExitCode {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Counts what a site has: `site north-hospital, 1 peer, 1 forward, 1 service`.
fn summary(config: &Config) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "site {}, {}, {}, {}",
        config.site,
        count(config.peers.len(), "peer"),
        count(config.forwards.len(), "forward"),
        count(config.services.len(), "service")
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::SecretKey;

    #[test]
    fn counts_what_a_site_has() {
        let text = "site: lab\ntunnel: {private_key_file: k, address: [10.98.0.1]}\n\
                    services: [{name: a, target: 'h:1'}, {name: b, target: 'h:2'}]\n";
        let config = config::parse(text, Path::new("lab.yaml"), &|_: &Path| Ok(SecretKey::new([1; 32]))).unwrap();
        assert_eq!(summary(&config), "site lab, 0 peers, 0 forwards, 2 services");
    }
}
