//! `wardlink import`: turns a wg-quick file into the configuration of a site.
//!
//! Starts nothing, overwrites nothing, and prints no secret: keys go into files of mode 0600 where `--keys` says so, and
//! else it says which line belongs into which file. Exit code 0, or 64 with one line for each mistake on standard error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::EXIT_USAGE;
use crate::config::wg_quick::{self, KeyFile, Naming, Site};
use crate::config::{self, Name, SecretKey};

/// Limits the file, in bytes: as the configuration's own limit.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Holds the key files unless `--keys` says otherwise.
const KEYS: &str = "/etc/wardlink";
/// Bounds the mistakes that are told one by one: a file that is another one altogether has one on each line.
const MISTAKES_MAX: usize = 20;
/// Names the interface where the file's name gives none.
const INTERFACE: &str = "wl0";

/// Turns a wg-quick file into the configuration of a site.
///
/// Prints the YAML, which passes check-config once the key files are there. What wg-quick knows and wardlink does not
/// (DNS, PreUp, PostUp, ...) is named with its line, on standard error and in comments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The wg-quick file, such as /etc/wireguard/wg0.conf.
    file: PathBuf,
    /// Writes the keys into files of mode 0600 in this directory: private.key, and PEER.psk for each preshared key.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// The name of this installation. Default: the host's name.
    #[arg(long, value_name = "NAME", value_parser = name)]
    site: Option<Name>,
    /// Writes the YAML into a new file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Says why there is no site.
enum Failure {
    /// The wg-quick file is at fault: one line each.
    Input(Vec<String>),
    /// The system is.
    System(String),
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    match import(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Input(lines)) => {
            lines.iter().for_each(|line| say(line));
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::System(message)) => {
            say(&format!("wardlink import: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // The exit code says it too, where standard error is closed.
    writeln!(io::stderr(), "{line}").ok();
}

fn import(args: &Args) -> Result<(), Failure> {
    let source = args.file.display().to_string();
    let text = read(&args.file).map_err(|error| Failure::Input(vec![format!("{source}: cannot be read ({error})")]))?;
    if text.contains('\0') {
        return Err(Failure::Input(vec![format!("{source}: is no text; a wg-quick file is")]));
    }
    let file = wg_quick::parse(&text).map_err(|mistakes| told(&source, &mistakes))?;
    let interface = args.file.file_name().and_then(|name| wg_quick::interface_of(name.to_str()?));
    let keys = match &args.keys {
        Some(directory) => absolute(directory)?,
        None => KEYS.to_owned(),
    };
    let site_name = args.site.clone().or_else(host_name).or_else(|| Name::new("site"));
    let Some(site_name) = site_name else { return Ok(()) };
    let interface = interface.unwrap_or_else(|| INTERFACE.to_owned());
    let naming = Naming { site: &site_name, interface: &interface, keys: &keys, source: &source };
    let site = wg_quick::site(&file, naming);
    check(&site, &file, &text, &source)?;
    for (line, note) in &site.notes {
        say(&format!("{source}:{line}: {note}"));
    }
    // Keys are written where all the rest can be.
    if let Some(path) = &args.output {
        write_out(Some(path), &site.yaml).map_err(Failure::System)?;
    }
    let placed = place_keys(&site, args.keys.as_deref(), &source);
    match &args.output {
        Some(path) if placed.is_err() => drop(fs::remove_file(path)),
        None if placed.is_ok() => write_out(None, &site.yaml).map_err(Failure::System)?,
        _ => {}
    }
    placed
}

/// Says each mistake, as far as they are few.
fn told(source: &str, mistakes: &[wg_quick::Mistake]) -> Failure {
    let mut lines: Vec<String> =
        mistakes.iter().take(MISTAKES_MAX).map(|mistake| format!("{source}:{mistake}")).collect();
    if let Some(more) = mistakes.len().checked_sub(MISTAKES_MAX).filter(|more| *more > 0) {
        lines.push(format!("{source}: and {more} more"));
    }
    Failure::Input(lines)
}

/// Reads the whole file into a buffer that is wiped; what is no UTF-8 is replaced, it can only be in comments.
fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let bytes_expected = file.metadata()?.len().min(FILE_BYTES_MAX) + 2;
    // One allocation of full size: a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(bytes_expected).unwrap_or_default()));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(io::Error::other(format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Says what check-config would: nothing is written that it refuses. Lines of the YAML, which nobody sees, are not named,
/// but those of the file that they come from.
fn check(site: &Site, file: &wg_quick::File, text: &str, source: &str) -> Result<(), Failure> {
    let stand_in = SecretKey::new([1; 32]);
    let read_key = |path: &Path| {
        let found = site.keys.iter().find(|file| Path::new(&file.path) == path);
        Ok(found.and_then(|file| file.key.clone()).unwrap_or_else(|| stand_in.clone()))
    };
    let checked = config::parse(&site.yaml, Path::new(source), &read_key);
    checked.map(|_| ()).map_err(|errors| {
        let line = |issue: &config::Issue| {
            let section = section(&issue.path).and_then(|index| file.peers.get(index)).map(|peer| peer.line);
            let place = line_of(text, section, &issue.path).or(section);
            let place = place.map(|line| format!(":{line}")).unwrap_or_default();
            format!("{source}{place}: as a site: {}: {}", issue.path, without_line(&issue.message))
        };
        Failure::Input(errors.issues().iter().map(line).collect())
    })
}

/// Returns the place of the peer in the list that a path begins with: 1 of `peers[1].endpoint`.
fn section(path: &str) -> Option<usize> {
    path.strip_prefix("peers[")?.split_once(']')?.0.parse().ok()
}

/// Finds the line that a key of the configuration comes from: the first one in the section that begins with that line, or
/// in all of the file.
fn line_of(text: &str, section: Option<usize>, path: &str) -> Option<usize> {
    let key = path.rsplit('.').next()?.split('[').next()?.replace('_', "");
    let is_it = |line: &str| line.split_once('=').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(&key));
    let mut lines = text.lines().enumerate().skip(section.unwrap_or(0));
    let found = lines.find(|(_, line)| is_it(line) || section.is_some() && line.trim_start().starts_with('['));
    found.filter(|(_, line)| is_it(line)).map(|(index, _)| index + 1)
}

/// Takes a place such as ` (line 17)` out of a message.
fn without_line(message: &str) -> String {
    let found = message.split_once(" (line ").and_then(|(before, rest)| {
        let (number, after) = rest.split_once(')')?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{before}{after}"))
    });
    found.unwrap_or_else(|| message.to_owned())
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::System(format!("cannot use {} ({error})", path.display()));
    let path = std::path::absolute(path).map_err(failed)?;
    match path.to_str() {
        Some(text) => Ok(text.trim_end_matches('/').to_owned()),
        None => Err(Failure::System(format!("{} is not UTF-8", path.display()))),
    }
}

/// Writes the key files, or says where they belong.
fn place_keys(site: &Site, directory: Option<&Path>, source: &str) -> Result<(), Failure> {
    let write = directory.is_some();
    if let Some(directory) = directory {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| Failure::System(format!("cannot make {} ({error})", directory.display())))?;
    }
    // All or none: an existing key is never touched.
    if let Some(taken) = site.keys.iter().find(|file| write && file.key.is_some() && Path::new(&file.path).exists()) {
        return Err(Failure::System(format!("{} exists already; remove it, or name another --keys DIR", taken.path)));
    }
    for KeyFile { path, line, key, what } in &site.keys {
        match (key, line) {
            (Some(key), _) if write => {
                let mut text = Zeroizing::new(String::with_capacity(64));
                text.push_str(&key.to_base64());
                text.push('\n');
                let written = create(Path::new(path)).and_then(|mut file| file.write_all(text.as_bytes()));
                written.map_err(|error| Failure::System(format!("cannot write {path} ({error})")))?;
                say(&format!("{source}: {what} is in {path} now"));
            }
            (Some(_), Some(line)) => {
                say(&format!(
                    "{source}:{line}: {what} belongs into {path}, mode 0600; with --keys DIR it is written there"
                ));
            }
            _ => say(&format!("{source}: has no {what}; put it into {path}, mode 0600")),
        }
    }
    Ok(())
}

/// Creates a file that only its owner may read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes text into a new file, or to standard output.
pub(super) fn write_out(path: Option<&Path>, text: &str) -> Result<(), String> {
    let (written, where_to) = match path {
        Some(path) => (create(path).and_then(|mut file| file.write_all(text.as_bytes())), path.display().to_string()),
        None => (io::stdout().lock().write_all(text.as_bytes()), "standard output".to_owned()),
    };
    written.map_err(|error| format!("cannot write {where_to} ({error})"))
}

fn host_name() -> Option<Name> {
    wg_quick::name_of(&fs::read_to_string("/proc/sys/kernel/hostname").ok()?)
}

/// Reads a name from the command line.
pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).ok_or_else(|| "write 1 to 63 characters of a-z, 0-9 and -".to_owned())
}
