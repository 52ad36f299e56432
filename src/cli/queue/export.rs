//! `wardlink queue export`: messages into files, one each.
//!
//! It never replaces a file, and nobody but its owner may read what it writes.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Desk, Told};
use crate::cli::site::SiteArgs;
use crate::control::queue::{ENTRIES_MAX, QueueAction, QueueAnswer, QueueEntry};

/// Lists the states in which a message has content.
const WITH_CONTENT: [&str; 3] = ["queued", "delivered", "parked"];

/// Writes messages into files: DIR/FORWARD-NUMBER.hl7, byte for byte as they came, and DIR/FORWARD.json, what is known of
/// each, such as who parked it and when.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The stored forward
    pub(super) forward: String,
    /// The directory; it is made where it is missing, for its owner only
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// The first message
    #[arg(long, value_name = "MESSAGE", default_value_t = 1)]
    pub(super) from: u64,
    /// Only those in this state [default: queued and parked]
    #[arg(long, value_parser = WITH_CONTENT)]
    pub(super) state: Option<String>,
}

pub(super) fn told(args: &Args, site: &SiteArgs, directory: &Path) -> Told {
    let desk = Desk { site, directory, forward: &args.forward };
    let states = match &args.state {
        Some(state) => vec![state.clone()],
        None => vec!["queued".to_owned(), "parked".to_owned()],
    };
    let mut written = Vec::new();
    let exported = make_directory(&args.out)
        .and_then(|()| states.iter().try_for_each(|state| export(&desk, args, state, &mut written)))
        .and_then(|()| list(args, &written));
    let count = written.len();
    match exported {
        Ok(()) => Told::new(0, format!("{count} messages are in {}\n", args.out.display())),
        Err(mut told) => {
            told.bytes.extend_from_slice(format!("{count} messages were written before that\n").as_bytes());
            told
        }
    }
}

fn make_directory(path: &Path) -> Result<(), Told> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Told::failed(format!("cannot make {} ({error})", path.display())))
}

fn export(desk: &Desk, args: &Args, state: &str, written: &mut Vec<QueueEntry>) -> Result<(), Told> {
    let mut from = Some(args.from);
    while let Some(first) = from {
        let action = QueueAction::List { from: first, max: ENTRIES_MAX, state: Some(state.to_owned()), all: false };
        let QueueAnswer::Entries { entries, next } = desk.ask(action)? else {
            return Err(Told::failed("the site gave an answer that does not belong to the question"));
        };
        for entry in entries {
            let path = args.out.join(format!("{}-{}.hl7", args.forward, entry.sequence));
            let content = desk.content(entry.sequence)?;
            write(&path, &content).map_err(|error| {
                Told::failed(format!("cannot write {} ({error}); write --out with an empty directory", path.display()))
            })?;
            written.push(entry);
        }
        from = next;
    }
    Ok(())
}

/// Writes what is known of the messages, where there are any.
fn list(args: &Args, entries: &[QueueEntry]) -> Result<(), Told> {
    if entries.is_empty() {
        return Ok(());
    }
    let path = args.out.join(format!("{}.json", args.forward));
    let text = serde_json::to_vec_pretty(entries).map_err(Told::failed)?;
    write(&path, &text).map_err(|error| Told::failed(format!("cannot write {} ({error})", path.display())))
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
