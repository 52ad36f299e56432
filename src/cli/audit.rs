//! `wardlink audit`: who did what, when, to which message; and whether the log of it is whole.
//!
//! Reads the log in its files, also while the site runs and while it does not; never changes it: what is accepted is
//! written beside it. For root and the user that the site runs as: nobody else may read the files.

mod filter;
mod follow;
mod line;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use serde::Deserialize;

use super::site::{SOCKET_DIRECTORY, SiteArgs};
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE};
use crate::app::account::AUDIT_DIR;
use crate::audit::event::Entry;
use crate::audit::read::{self, Broken, Verified};
use crate::audit::{AuditError, accepted, atna, ended, foreign, load_key, unread, witnesses};
use crate::config::part;
use crate::control::{Request, invoker};
use filter::Filter;

/// Says that nothing is known of the log (EX_UNAVAILABLE): a monitoring that looks for 1 is not told that it is broken.
const EXIT_NOT_LOOKED_AT: u8 = 69;
/// Is where the state is unless the configuration says otherwise.
const STATE_DIR: &str = "/var/lib/wardlink";

/// Shows who did what, when, to which message, and whether the log of it is whole.
///
/// It reads the files of the log, whether the site runs or not: for root and the user that the site runs as.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, and the log is whole; 1 it is broken; 64 bad arguments; 69 it could not be looked at; 77 only \
    root and the site's own user may."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The site's configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/wardlink/wardlink.yaml", global = true)]
    config: PathBuf,
    /// The directory of the log, such as a copy of one, in place of the configuration's
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "config", global = true)]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the last entries.
    Tail {
        /// So many
        #[arg(short = 'n', long = "lines", value_name = "COUNT", default_value_t = 20)]
        lines: usize,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Print JSON, a line each
        #[arg(long)]
        json: bool,
    },
    /// Find entries.
    Search {
        #[command(flatten)]
        filter: Filter,
        /// Print JSON, a line each
        #[arg(long)]
        json: bool,
    },
    /// Verify that nothing was changed, added, left out or cut off, and name the first entry where it was.
    Verify {
        /// Do not judge what is up to this entry: that it was changed or restored is known, and written down
        #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        after: u64,
    },
    /// Accept, as after a restore, that the log is another one than peers were told of: from the next start on the site
    /// is not degraded by that any more, and the log says so. Or that a peer's log is, at once.
    Accept {
        /// Up to this entry: the highest that a `peer-log` entry of the other site, or a `broken` one of this, names
        #[arg(value_name = "NUMBER", required_unless_present = "peer", conflicts_with = "peer")]
        through: Option<u64>,
        /// Of a log that is gone with its key
        #[arg(long, conflicts_with = "peer")]
        other_key: bool,
        /// Of this peer: that its log is another one than it told this site of before
        #[arg(long, value_name = "NAME")]
        peer: Option<String>,
    },
    /// Write entries, a line each: as JSON, as they are in the log, or as IHE ATNA has them.
    Export {
        #[command(flatten)]
        filter: Filter,
        /// The form: JSON, or the audit messages of DICOM in XML
        #[arg(long, value_enum, default_value_t = Form::Json)]
        format: Form,
    },
}

/// Is a form in which entries are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Json,
    Atna,
}

/// Says why a command ends without success.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {}: {source}; name the site's file with -c FILE, or the log with --dir", path.display())]
    Config { path: PathBuf, source: io::Error },
    #[error("{} does not say where the state is: {cause}", path.display())]
    BadConfig { path: PathBuf, cause: String },
    #[error("there is no log in {}: the site has not run yet, or has another state_dir", directory.display())]
    NoLog { directory: PathBuf },
    #[error("only root and the user that the site runs as may read {}: run this with sudo", directory.display())]
    NotPermitted { directory: PathBuf },
    #[error("{0}")]
    Gone(Broken),
    #[error("{0}")]
    Audit(#[from] AuditError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// What it prints says so.
    #[error("the log is not as it was written")]
    Broken,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::BadConfig { .. } | Self::Usage(_) => EXIT_USAGE,
            Self::NotPermitted { .. } => EXIT_NOT_PERMITTED,
            Self::NoLog { .. } | Self::Audit(_) | Self::Write(_) => EXIT_NOT_LOOKED_AT,
            Self::Gone(_) | Self::Broken => EXIT_FAILED,
        }
    }
}

/// Runs the command; returns its exit code.
#[expect(clippy::print_stderr, reason = "what went wrong is the command's output")]
pub fn run(args: &Args) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match told(args, &mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that goes early (head) is no failure.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            out.flush().ok();
            if !matches!(failure, Failure::Broken) {
                eprintln!("wardlink: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn told(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let directory = match &args.dir {
        Some(directory) => directory.clone(),
        None => directory_of(&args.config)?,
    };
    let mut looked = look_in(&directory);
    if matches!(looked, Err(Failure::NoLog { .. }))
        && let Some(entry) = written_by_site(args)
    {
        // It may have begun meanwhile.
        looked = look_in(&directory).map_err(|failure| match failure {
            Failure::NoLog { .. } => Failure::Gone(Broken::GoneMeanwhile { entry }),
            failure => failure,
        });
    }
    match looked {
        Err(Failure::Gone(fault)) if matches!(args.command, Command::Verify { .. }) => return broken(&fault, out),
        looked => looked?,
    }
    match &args.command {
        Command::Tail { lines, follow, json } => {
            let last = last(&directory, *lines)?;
            last.iter().try_for_each(|(entry, line)| show(out, entry, line, *json))?;
            out.flush()?;
            if *follow { follow::follow(&directory, last.back().map(|(entry, _)| entry.n), *json, out) } else { Ok(()) }
        }
        Command::Search { filter, json } => search(&directory, filter, *json, out),
        Command::Export { filter, format: Form::Json } => search(&directory, filter, true, out),
        Command::Export { filter, format: Form::Atna } => {
            found(&directory, filter, |entry, _| match atna::xml(entry) {
                Some(xml) => Ok(writeln!(out, "{xml}")?),
                None => Ok(()),
            })
        }
        Command::Verify { after } => verify(&directory, *after, out),
        Command::Accept { peer: Some(peer), .. } => accept_of_peer(&directory, peer, out),
        Command::Accept { through, other_key, .. } => accept(&directory, through.unwrap_or(0), *other_key, out),
    }
}

/// Asks the site that runs from the configuration how far it wrote the log; none where it does not answer, or wrote
/// nothing.
fn written_by_site(args: &Args) -> Option<u64> {
    let config = args.dir.is_none().then(|| args.config.clone())?;
    let site = SiteArgs { config: Some(config), socket: None };
    let (_, status) = site.ask(Request::Status, Path::new(SOCKET_DIRECTORY)).ok()?;
    status.get("audit")?.get("last_entry")?.as_u64().filter(|entry| *entry > 0)
}

/// Is the part of a configuration that says where the state is.
#[derive(Deserialize)]
struct Place {
    state_dir: Option<PathBuf>,
}

fn directory_of(config: &Path) -> Result<PathBuf, Failure> {
    let path = || config.to_owned();
    let text = std::fs::read_to_string(config).map_err(|source| Failure::Config { path: path(), source })?;
    let place: Place = part(&text).map_err(|cause| Failure::BadConfig { path: path(), cause })?;
    Ok(place.state_dir.unwrap_or_else(|| STATE_DIR.into()).join(AUDIT_DIR))
}

/// Says at once what keeps somebody from reading the log.
fn look_in(directory: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(directory) {
        Ok(_) if read::segments(directory)?.is_empty() => match read::remains(directory) {
            Some(fault) => Err(Failure::Gone(fault)),
            None => Err(Failure::NoLog { directory: directory.to_owned() }),
        },
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::NoLog { directory: directory.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::NotPermitted { directory: directory.to_owned() })
        }
        Err(source) => Err(AuditError::File { doing: "read", path: directory.to_owned(), source }.into()),
    }
}

/// Reads the last entries, the oldest first.
fn last(directory: &Path, count: usize) -> Result<VecDeque<(Entry, Vec<u8>)>, Failure> {
    let mut found: VecDeque<(Entry, Vec<u8>)> = VecDeque::new();
    for segment in read::segments(directory)?.into_iter().rev() {
        let mut here = VecDeque::new();
        read::entries(&[segment], |entry, line| {
            here.push_back((entry, line.to_vec()));
            if here.len() > count {
                here.pop_front();
            }
            Ok::<(), AuditError>(())
        })?;
        here.append(&mut found);
        found = here;
        if found.len() >= count {
            break;
        }
    }
    found.drain(..found.len().saturating_sub(count));
    Ok(found)
}

fn show(out: &mut impl Write, entry: &Entry, line: &[u8], json: bool) -> Result<(), Failure> {
    if json {
        out.write_all(line)?;
        return Ok(out.write_all(b"\n")?);
    }
    Ok(writeln!(out, "{}", line::line(entry))?)
}

fn search(directory: &Path, filter: &Filter, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    found(directory, filter, |entry, line| show(out, entry, line, json))
}

/// Does something with each entry that a filter lets pass.
fn found(
    directory: &Path,
    filter: &Filter,
    mut each: impl FnMut(&Entry, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut matcher = filter.matcher(SystemTime::now(), || load_key(directory))?;
    let mut segments = read::segments(directory)?;
    segments.retain(|segment| matcher.may_be_in(&segment.path));
    read::entries(&segments, |entry, line| if matcher.matches(&entry) { each(&entry, line) } else { Ok(()) })
}

fn broken(fault: &Broken, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "broken: {fault}")?;
    Err(Failure::Broken)
}

fn accept(directory: &Path, through: u64, other_key: bool, out: &mut impl Write) -> Result<(), Failure> {
    let key = load_key(directory)?;
    let (mut accepted, _) = accepted::load(directory, key.expose());
    let known = match other_key {
        true => foreign(directory, key.expose()).into_iter().map(|(_, n)| n).max(),
        false => witnesses(directory, key.expose()).into_iter().map(|witness| witness.n).max(),
    };
    let known = known.unwrap_or_default();
    if through > known {
        return Err(Failure::Usage(format!(
            "no peer has told this site so far of such a log beyond entry {known}: name that one, or one before it"
        )));
    }
    *(if other_key { &mut accepted.foreign } else { &mut accepted.own }) = through;
    accepted::store(directory, key.expose(), accepted, &invoker())?;
    Ok(writeln!(out, "accepted up to entry {through}: it counts from the next start on (systemctl restart wardlink)")?)
}

fn accept_of_peer(directory: &Path, peer: &str, out: &mut impl Write) -> Result<(), Failure> {
    let ended = ended(directory, peer);
    if ended.is_empty() {
        return Err(Failure::Usage(format!(
            "there is nothing to accept: no log of a peer `{peer}` has ended that this site wrote down \
             (`wardlink audit search --event peer-log` says what was found)"
        )));
    }
    accepted::store_of_peer(directory, peer, &ended, &invoker())?;
    ended.iter().try_for_each(|one| writeln!(out, "accepted: the log of {peer}: {one}"))?;
    Ok(writeln!(out, "it counts within seconds where the site runs, else from its start on")?)
}

fn verify(directory: &Path, after: u64, out: &mut impl Write) -> Result<(), Failure> {
    let key = load_key(directory)?;
    let (accepted, _) = accepted::load(directory, key.expose());
    let mut witnesses = witnesses(directory, key.expose());
    witnesses.retain(|witness| witness.n > accepted.own);
    let Verified { first, last, fault, .. } = read::verify_after(directory, key.expose(), &witnesses, after)?;
    if let Some(fault) = fault {
        return broken(&fault, out);
    }
    let of_others = foreign(directory, key.expose());
    if let Some((name, n)) = of_others.iter().find(|(_, n)| *n > accepted.foreign.max(after)) {
        writeln!(out, "broken: {name} knows a log up to entry {n} that another key made: it was begun anew")?;
        return Err(Failure::Broken);
    }
    match unread(directory).into_iter().next() {
        Some(error @ AuditError::Peer { .. }) => {
            writeln!(out, "broken: {error}; what the peer tells a running site takes its place")?;
            return Err(Failure::Broken);
        }
        Some(error) => return Err(error.into()),
        None => {}
    }
    let (last, chain) = last.unwrap_or((0, crate::audit::Chain::NONE));
    if after > last {
        return Err(Failure::Usage(format!(
            "there is no entry {after}: the log ends at entry {last}; write --after {last} at the most"
        )));
    }
    let before = if first > 1 { " (those before were removed in time: audit.keep, audit.max_size)" } else { "" };
    match after {
        0 => writeln!(out, "whole: entries {first} to {last}{before}")?,
        _ if after == last => {
            writeln!(out, "whole: nothing is after entry {after}, and what is up to it is not judged")?
        }
        _ => writeln!(out, "whole: entries {} to {last}; what is up to entry {after} is not judged", after + 1)?,
    }
    writeln!(out, "the hash at entry {last} is {chain}")?;
    let mut known: Vec<_> = witnesses.into_iter().map(|witness| (witness.name, witness.n)).collect();
    known.sort();
    known.reverse();
    if known.is_empty() {
        writeln!(out, "no peer confirms it: none has told this site so far of a log that this log's key made")?;
    }
    known.dedup_by(|next, latest| next.0 == latest.0);
    for (name, n) in known.into_iter().rev() {
        writeln!(out, "{name} knows it up to entry {n}, as it is")?;
    }
    Ok(())
}
