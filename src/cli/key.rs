//! `wardlink key`: makes keys, as `wg genkey`, `wg pubkey` and `wg genpsk` do, byte for byte in the same form.
//!
//! Keeps no key and writes none but to standard output; buffers are wiped. The form: base64 of 32 bytes and a newline
//! (wg(8)); private keys are clamped (RFC 7748, 5).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use zeroize::Zeroizing;

use crate::config::SecretKey;

/// Limits what `pub` reads, in bytes: a key, and white space around it.
const INPUT_BYTES_MAX: u64 = 4096;
/// Says that the input is no key (sysexits.h, EX_USAGE).
const EXIT_BAD_INPUT: u8 = 64;

/// Makes keys, as `wg genkey`, `wg pubkey` and `wg genpsk` do.
///
/// A site's key pair:  (umask 077; wardlink key gen > private.key); wardlink key pub < private.key
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Command {
    /// Prints a new private key; keep it in a file that only its owner may read.
    Gen,
    /// Reads a private key from standard input and prints its public key, which the peer needs.
    Pub,
    /// Prints a new preshared key, for preshared_key_file at both sites.
    Psk,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let outcome = match args.command {
        Command::Gen => generate(clamp),
        Command::Pub => public_key(),
        Command::Psk => generate(|_| ()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            let is_input = error.kind() == io::ErrorKind::InvalidData;
            if is_input { ExitCode::from(EXIT_BAD_INPUT) } else { ExitCode::FAILURE }
        }
    }
}

fn complain(message: &str) {
    // The exit code says it too, where standard error is closed.
    writeln!(io::stderr(), "wardlink key: {message}").ok();
}

/// Makes bytes a Curve25519 private key (RFC 7748, 5).
fn clamp(bytes: &mut [u8; 32]) {
    let [first, .., last] = bytes;
    *first &= 248;
    *last = (*last & 127) | 64;
}

fn generate(finish: impl FnOnce(&mut [u8; 32])) -> io::Result<()> {
    if is_world_accessible_file()? {
        complain("warning: writing to a world accessible file; use: (umask 077; wardlink key ... > FILE)");
    }
    print(&random(finish)?.to_base64())
}

/// Makes a private key.
pub(super) fn new_private_key() -> io::Result<SecretKey> {
    random(clamp)
}

/// Makes a symmetric key.
pub(super) fn new_shared_key() -> io::Result<SecretKey> {
    random(|_| ())
}

fn random(finish: impl FnOnce(&mut [u8; 32])) -> io::Result<SecretKey> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| io::Error::other(error.to_string()))?;
    finish(&mut bytes);
    Ok(SecretKey::new(*bytes))
}

/// Whether standard output is a file that others than owner and group may use, as `wg` asks.
fn is_world_accessible_file() -> io::Result<bool> {
    let metadata = File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata()?;
    Ok(metadata.is_file() && metadata.mode() & 0o007 != 0)
}

fn public_key() -> io::Result<()> {
    // One allocation of full size: a growing buffer would leave copies behind.
    let mut input = Zeroizing::new(Vec::with_capacity(usize::try_from(INPUT_BYTES_MAX).unwrap_or_default()));
    io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut input)?;
    let key = std::str::from_utf8(&input).ok().and_then(|text| SecretKey::from_base64(text.trim_ascii()));
    let key = key.ok_or_else(|| {
        let message = "standard input is not a private key; give it the file that wardlink key gen has written";
        io::Error::new(io::ErrorKind::InvalidData, message)
    })?;
    print(&key.public_key().to_string())
}

fn print(key: &str) -> io::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(key.len() + 1));
    line.push_str(key);
    line.push('\n');
    // Unbuffered: standard output's own buffer would keep a copy.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stdout.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_clamped() {
        let mut bytes = [0xff; 32];
        clamp(&mut bytes);
        assert_eq!((bytes[0], bytes[31]), (0xf8, 0x7f));
        let mut bytes = [0; 32];
        clamp(&mut bytes);
        assert_eq!((bytes[0], bytes[31]), (0, 0x40));
    }
}
