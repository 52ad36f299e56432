//! Changes a site's configuration file, all or nothing: checked as `check-config` does, put in the old one's place, and
//! taken up by the site that runs.
//!
//! The file has its mode, owner and comments afterwards. What the running site refuses is put back. Two changes at once
//! wait for each other (flock on the directory).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::queue::Told;
use super::site::{SOCKET_DIRECTORY, SiteArgs, SiteError};
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE};
use crate::config::{self, Config, Errors, NOTHING_CHANGED, Peer, edit};
use crate::control::{Reloaded, Request};

/// Is a site's configuration unless `-c` says otherwise.
pub(super) const CONFIG: &str = "/etc/wardlink/wardlink.yaml";
/// Limits what is read of a configuration, in bytes: one more than it may have.
const READ_BYTES_MAX: u64 = (1 << 20) + 1;

const UNCHANGED: &str = "nothing is to be changed";

/// Names the configuration file.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// The configuration file of this site
    #[arg(short, long, value_name = "FILE", default_value = CONFIG, global = true)]
    pub(super) config: PathBuf,
}

impl FileArgs {
    /// Writes what a command must be given to mean this file too.
    pub(super) fn flag(&self) -> String {
        flag(&self.config)
    }
}

/// Writes what a command must be given to mean this file too: nothing for the default.
pub(super) fn flag(config: &Path) -> String {
    if config == Path::new(CONFIG) { String::new() } else { format!(" -c {}", quoted_path(config)) }
}

/// Writes a path as a shell takes it as one word.
pub(super) fn quoted_path(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Is a configuration file as it is.
pub(super) struct Current {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) config: Config,
}

impl Current {
    /// Reads and validates the file.
    pub(super) fn read(path: &Path) -> Result<Self, Told> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(READ_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| cannot_read(path, &error))?;
        let config = config::parse_beside(&text, path).map_err(|errors| {
            Told::new(EXIT_USAGE, format!("{errors}\nwardlink: mend this first; nothing was changed\n"))
        })?;
        Ok(Self { path: path.to_owned(), text, config })
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Told {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!(
                "wardlink: {path} does not exist; make a site with `wardlink init`, or name its file with -c\n"
            );
            Told::new(EXIT_USAGE, text)
        }
        io::ErrorKind::PermissionDenied => Told::new(
            EXIT_NOT_PERMITTED,
            format!("wardlink: {path} may not be read by this user: run this with sudo\n"),
        ),
        _ => {
            Told::new(EXIT_USAGE, format!("wardlink: {path} cannot be read ({error}); name the site's file with -c\n"))
        }
    }
}

/// Says how a change is taken up.
#[derive(Debug, clap::Args)]
pub(super) struct ReloadArgs {
    /// Changes the file only; a running site is told by `wardlink reload`, or takes it up when it is restarted
    #[arg(long)]
    pub(super) no_reload: bool,
}

/// Changes the file as `edit_text` says, and has a running site take it up; returns what came of that, one line.
///
/// # Errors
/// Nothing was changed: says why, and what to do.
pub(super) fn change(
    path: &Path,
    reload: &ReloadArgs,
    edit_text: impl FnOnce(&Current) -> Result<String, Told>,
) -> Result<String, Told> {
    let path = fs::canonicalize(path).map_err(|error| cannot_read(path, &error))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let lock = File::open(directory).and_then(|directory| directory.lock().map(|()| directory));
    let lock = lock.map_err(|error| cannot("lock", directory, &error))?;
    let mut current = Current::read(&path)?;
    let before = current.text.clone();
    current.text = with_newest_keys(&current);
    let text = edit_text(&current)?;
    if text == before {
        return match reload.no_reload {
            true => Ok(UNCHANGED.to_owned()),
            false => caught_up(&path),
        };
    }
    config::parse_beside(&text, &path).map_err(|errors| wrong(&errors, &path))?;
    let write = |text: &str| replace(&path, text, &lock).map_err(|error| cannot("write", &path, &error));
    write(&text)?;
    if reload.no_reload {
        return Ok(format!("{} is changed; `wardlink reload{}` has it taken up", path.display(), flag(&path)));
    }
    match take_up(&path) {
        Ok(taken_up) => Ok(taken_up.told(&path)),
        Err((code, why)) => {
            write(&before)?;
            // The site keeps in mind that a reload failed until one does not.
            take_up(&path).ok();
            let path = path.display();
            Err(Told::new(code, format!("wardlink: {why}\nwardlink: {path} is as it was: nothing was changed\n")))
        }
    }
}

/// Has a running site take up the file as it is: a command that was killed may have changed it, and told nobody.
fn caught_up(path: &Path) -> Result<String, Told> {
    match take_up(path) {
        Ok(TakenUp::Changed(changes)) => Ok(format!("{UNCHANGED} in {}; reloaded: {changes}", path.display())),
        Ok(TakenUp::Unchanged | TakenUp::NotRunning(_) | TakenUp::RunsElsewhere { .. }) => Ok(UNCHANGED.to_owned()),
        Err((code, why)) => Err(Told::new(code, format!("wardlink: {UNCHANGED} in {}, but {why}\n", path.display()))),
    }
}

/// Does that for a command that then asks the running site; says what the site had not known.
///
/// # Errors
/// It does not take the file up: says why.
pub(super) fn catch_up(path: &Path, reload: &ReloadArgs) -> Result<Option<String>, Told> {
    if reload.no_reload {
        return Ok(None);
    }
    let path = fs::canonicalize(path).map_err(|error| cannot_read(path, &error))?;
    match take_up(&path) {
        Ok(TakenUp::Changed(changes)) => Ok(Some(changes)),
        Ok(TakenUp::Unchanged | TakenUp::NotRunning(_) | TakenUp::RunsElsewhere { .. }) => Ok(None),
        Err((code, why)) => Err(Told::new(code, format!("wardlink: {why}\nwardlink: nothing was changed\n"))),
    }
}

/// Writes the keys that peers have moved to into the text, which then says what the state does; where the text is not edited
/// here, it stays as it is.
fn with_newest_keys(current: &Current) -> String {
    let set = |text: String, peer: &Peer| {
        let key = edit::Value::text(peer.public_key);
        edit::set(&text, "peers", peer.name.as_str(), "public_key", &key).unwrap_or(text)
    };
    current.config.peers.iter().fold(current.text.clone(), set)
}

/// Says what is wrong with what the file would become; its lines are not there, so that they are not named.
fn wrong(errors: &Errors, path: &Path) -> Told {
    let mut text = String::new();
    for issue in errors.issues() {
        text.push_str(&format!("wardlink: {}: {}\n", issue.path, issue.message));
    }
    Told::new(EXIT_USAGE, format!("{text}wardlink: {} is as it was: nothing was changed\n", path.display()))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Told {
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let (code, advice) = if is_denied { (EXIT_NOT_PERMITTED, ": run this with sudo") } else { (EXIT_FAILED, "") };
    Told::new(code, format!("wardlink: cannot {what} {} ({error}){advice}; nothing was changed\n", path.display()))
}

/// Puts a text in the place of a file, with its mode and owner.
fn replace(path: &Path, text: &str, directory: &File) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // One name, under the lock of the directory: what an earlier change left there is nobody's.
    let new = path.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_like(&new, text, path).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        fs::remove_file(&new).ok();
    }
    written?;
    directory.sync_all()
}

fn write_like(new: &Path, text: &str, old: &Path) -> io::Result<()> {
    let old = fs::metadata(old)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Is what came of a reload.
enum TakenUp {
    /// The site ran this already.
    Unchanged,
    /// It runs this from now on: says what differs.
    Changed(String),
    /// It does not run.
    NotRunning(String),
    /// It does not run, and one of the same name does, from another file.
    RunsElsewhere { site: String, runs: PathBuf },
}

impl TakenUp {
    fn told(&self, path: &Path) -> String {
        match self {
            Self::Unchanged => format!("reloaded: {NOTHING_CHANGED}"),
            Self::Changed(changes) => format!("reloaded: {changes}"),
            Self::NotRunning(site) => {
                format!("site {site} does not run: `wardlink run{}` starts it with this", flag(path))
            }
            Self::RunsElsewhere { site, runs } => {
                let (path, flag, runs) = (path.display(), flag(path), runs.display());
                format!(
                    "{path} is changed, and nothing was reloaded: it does not run; the site {site} that runs here runs from \
                     {runs}: `wardlink run{flag}` starts this one, with a `control.socket` of its own"
                )
            }
        }
    }
}

/// Has the site that runs take the file up; one that does not run is no failure.
fn take_up(path: &Path) -> Result<TakenUp, (u8, String)> {
    let site = SiteArgs { config: Some(path.to_owned()), socket: None };
    let answer = match site.ask(Request::Reload, Path::new(SOCKET_DIRECTORY)) {
        Ok((_, answer)) => answer,
        Err(SiteError::NotRunning { site, .. }) => return Ok(TakenUp::NotRunning(site)),
        Err(SiteError::OtherFile { site, runs, .. }) => return Ok(TakenUp::RunsElsewhere { site, runs }),
        Err(error) => return Err((error.exit_code(), error.to_string())),
    };
    match serde_json::from_value(answer) {
        Ok(Reloaded::Done { changes }) if changes == NOTHING_CHANGED => Ok(TakenUp::Unchanged),
        Ok(Reloaded::Done { changes }) => Ok(TakenUp::Changed(changes)),
        Ok(Reloaded::BadFile { errors }) => Err((EXIT_USAGE, format!("the running site refuses it: {errors}"))),
        Ok(Reloaded::Failed { cause }) => {
            let cause = format!(
                "the running site does not take it up: {cause}; with --no-reload the file is changed all the same"
            );
            Err((EXIT_FAILED, cause))
        }
        Ok(Reloaded::NotPermitted) => {
            let text = "only root and the user that the site runs as may change it: run this with sudo";
            Err((EXIT_NOT_PERMITTED, text.to_owned()))
        }
        Err(error) => Err((EXIT_FAILED, format!("the running site gave an answer that is not understood: {error}"))),
    }
}
