//! `wardlink rotate`: gives this site a new key; the old one counts until every peer knows the new one.
//!
//! Overwrites no key, and removes one only when no configuration names it any more. What a crash leaves is the old
//! configuration with a key file beside it that nobody names, or the new one; the next run removes such files
//! (`leftovers`). Which peers know the new key is the running
//! site's to find out (`tunnel::keys`).

mod leftovers;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::change::{Current, FileArgs, ReloadArgs, catch_up, change};
use super::pair::{ask, not_edited};
use super::queue::{Told, say};
use super::site::{SOCKET_DIRECTORY, SiteArgs, SiteError};
use super::status::rotation::Rotation;
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE, card, key};
use crate::config::card::Card;
use crate::config::{OldKey, edit};
use crate::control::Request;

/// Is how often the running site is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);
const SECTION: &str = "tunnel";
const KEY: &str = "private_key_file";
const OLD_KEY: &str = "old_private_key_file";

/// Gives this site a new key; peers are told, and no connection ends
///
/// The new key is written beside the old one, and the configuration names both. The running site answers to both, tells the
/// new one to each peer inside the tunnel, and lets go of the old one when every peer uses the new one: this command waits
/// for that, and removes the old key then. A peer that is down is told when it is back; `wardlink status` names who is waited
/// for, and `wardlink rotate --finish` removes the old key later. A peer that runs plain WireGuard cannot be told: its admin
/// takes the new key from the new card (`wardlink card`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  wardlink rotate\n  wardlink rotate --finish\n  wardlink rotate --compromised\n\n\
    Exit codes: 0 done (peers may be waited for: it says so), 64 it is refused, 1 it failed, 77 not by this user. In every \
    case but 0 nothing has changed.")]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,
    /// Removes the old key, when every peer uses the new one
    #[arg(long, conflicts_with = "compromised")]
    finish: bool,
    /// Removes it although peers do not use the new one: they must be paired again
    #[arg(long, requires = "finish", conflicts_with = "compromised")]
    cut_off: bool,
    /// Drops the old key at once, because others may know it: every peer must be paired again
    #[arg(long)]
    compromised: bool,
    /// Does not ask whether the old key is to go at once
    #[arg(long, requires = "compromised")]
    yes: bool,
    /// How long to wait for the peers
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    wait: Duration,
    #[command(flatten)]
    reload: ReloadArgs,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a time, such as 30s or 5m".to_owned())
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let outcome = match (args.finish, args.compromised) {
        (true, _) => finish(args),
        (false, true) => return compromised(args),
        (false, false) => rotate(args),
    };
    say(&outcome.map_or_else(|told| told, |text| Told::new(0, text)))
}

fn refused(why: impl std::fmt::Display) -> Told {
    Told::new(EXIT_USAGE, format!("wardlink: {why}\nwardlink: nothing was changed\n"))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Told {
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let (code, advice) = if is_denied { (EXIT_NOT_PERMITTED, ": run this with sudo") } else { (EXIT_FAILED, "") };
    Told::new(code, format!("wardlink: cannot {what} {} ({error}){advice}; nothing was changed\n", path.display()))
}

fn rotate(args: &Args) -> Result<String, Told> {
    if let Some(changes) = goes_on(args)? {
        return follow(args, &format!("{changes}\n"));
    }
    let flag = args.file.flag();
    let judge = |current: &Current| match current.config.tunnel.old_private_key {
        OldKey::None | OldKey::Retired => Ok(()),
        OldKey::Counts(_) => Err(refused(format!(
            "a change of this site's key is under way, and waits for {}; first:\n    wardlink rotate --finish{flag}",
            waited_for(current)
        ))),
    };
    let said = replace_key(args, judge, true)?;
    let text = format!("this site has a new key beside the old one\n{said}\n");
    if args.reload.no_reload { Ok(text) } else { follow(args, &text) }
}

/// Has the running site take up a change of the key that it was not told of: the command that made it was killed. Says
/// what that is; nothing where there is no such change, whatever else the file holds that the site does not run.
fn goes_on(args: &Args) -> Result<Option<String>, Told> {
    let path = &args.file.config;
    match Current::read(path)?.config.tunnel.old_private_key {
        OldKey::None | OldKey::Retired => Ok(None),
        // That change is this one.
        OldKey::Counts(_) if matches!(seen(args, Duration::ZERO), Seen::Rotation(one) if !one.is_done) => Ok(None),
        OldKey::Counts(_) => Ok(catch_up(path, &args.reload)?.map(|changes| {
            format!(
                "a change of this site's key was begun, and the running site had not been told: it is now ({changes})"
            )
        })),
    }
}

/// Says what was done, waits for the peers, and removes the old key where all use the new one; returns how far it came.
fn follow(args: &Args, done: &str) -> Result<String, Told> {
    let flag = args.file.flag();
    // Before the wait: who ends this command meanwhile must know that the key is another one.
    let wait = humantime::format_duration(args.wait);
    let said =
        format!("{done}waits for the peers, {wait} at the most; they are told also when this command is ended\n");
    io::stdout().write_all(said.as_bytes()).and_then(|()| io::stdout().flush()).ok();
    let mut text = String::new();
    match seen(args, args.wait) {
        Seen::Nothing => text.push_str(
            "the site that runs changes no key any more: another command has ended it; `wardlink card` prints its card of \
             now\n",
        ),
        Seen::Rotation(rotation) if rotation.is_done => text.push_str(&finish(args)?),
        Seen::Rotation(rotation) => {
            rotation.lines().iter().for_each(|line| text.push_str(&format!("{line}\n")));
            text.push_str(&format!(
                "`wardlink status{flag}` says how far it is; when every peer uses the new key:\n    wardlink rotate --finish{flag}\n"
            ));
        }
        Seen::NotRunning => text.push_str("the peers are told when the site runs\n"),
    }
    Ok(text)
}

/// Tells whether no other key is in use than the one that the file names: the site has that alone, or does not run.
fn uses_named_key(current: &Current) -> bool {
    let site = SiteArgs { config: Some(current.path.clone()), socket: None };
    let named = current.config.tunnel.private_key.public_key().to_string();
    match site.ask(Request::Status, Path::new(SOCKET_DIRECTORY)) {
        Ok((_, answer)) => answer.get("rotation").is_none() && answer.get("public_key") == Some(&named.into()),
        Err(error) => matches!(error, SiteError::NotRunning { .. }),
    }
}

/// Names the peers that do not use the new key.
fn waited_for(current: &Current) -> String {
    let peers = current.config.peers.iter().filter(|peer| !peer.knows_new_key);
    let names: Vec<&str> = peers.map(|peer| peer.name.as_str()).collect();
    if names.is_empty() { "nobody: the site that runs says so as soon as it does".to_owned() } else { names.join(", ") }
}

/// Is what the running site says of a change of its key.
enum Seen {
    NotRunning,
    /// There is none.
    Nothing,
    Rotation(Rotation),
}

/// Asks the running site until no peer is waited for any more, or for so long; once at the least.
fn seen(args: &Args, within: Duration) -> Seen {
    let Ok(config) = fs::canonicalize(&args.file.config) else { return Seen::NotRunning };
    let site = SiteArgs { config: Some(config), socket: None };
    let until = Instant::now() + within;
    loop {
        let Ok((_, mut answer)) = site.ask(Request::Status, Path::new(SOCKET_DIRECTORY)) else {
            return Seen::NotRunning;
        };
        let rotation = answer.get_mut("rotation").map(serde_json::Value::take);
        match rotation.map(serde_json::from_value::<Rotation>) {
            Some(Ok(rotation)) if rotation.is_done || Instant::now() >= until => return Seen::Rotation(rotation),
            Some(Ok(_)) => thread::sleep(ASK_EVERY),
            Some(Err(_)) | None => return Seen::Nothing,
        }
    }
}

/// Makes a key and has the configuration name it, all or nothing; the old one is named beside it where it is kept, and is
/// removed otherwise.
fn replace_key(args: &Args, judge: impl FnOnce(&Current) -> Result<(), Told>, keeps_old: bool) -> Result<String, Told> {
    let (mut made, mut unnamed) = (None, Vec::new());
    let changed = change(&args.file.config, &args.reload, |current| {
        judge(current)?;
        let directory = current.path.parent().unwrap_or(Path::new("/")).to_owned();
        let named = edit::key_of(&current.text, SECTION, KEY).unwrap_or_default();
        let older = edit::key_of(&current.text, SECTION, OLD_KEY);
        let noted = [&named].into_iter().chain(&older).map(|path| directory.join(path));
        for path in noted {
            leftovers::note_file(&current.path, &path).map_err(|error| cannot("note the key beside", &path, &error))?;
        }
        let new = make_key(&current.path, &directory, &named)?;
        made = Some(directory.join(&new));
        unnamed = older.iter().chain((!keeps_old).then_some(&named)).map(|path| directory.join(path)).collect();
        let text = edit::set_key(&current.text, SECTION, KEY, &new, KEY);
        let text = text.and_then(|text| match keeps_old {
            true => edit::set_key(&text, SECTION, OLD_KEY, &named, KEY),
            false => edit::remove_key(&text, SECTION, OLD_KEY),
        });
        text.map_err(|error| not_edited(current, &error))
    });
    match changed {
        Ok(said) => {
            let removed = removed(&unnamed);
            Ok(said + &removed + &leftovers::sweep(&args.file.config, !args.reload.no_reload))
        }
        Err(told) => {
            // Unless the file could not be put back: then it names the new key.
            let is_named = |path: &Path| names(&args.file.config, path);
            made.filter(|path| !is_named(path)).into_iter().for_each(|path| drop(fs::remove_file(path)));
            leftovers::sweep(&args.file.config, false);
            Err(told)
        }
    }
}

/// Tells whether a configuration names a file as its key; one that cannot be read may.
fn names(config: &Path, file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(config) else { return true };
    let directory = fs::canonicalize(config).ok().and_then(|path| Some(path.parent()?.to_owned()));
    let key = edit::key_of(&text, SECTION, KEY);
    key.zip(directory).is_none_or(|(key, directory)| directory.join(key) == file)
}

/// Removes key files that no configuration names any more, and says so.
fn removed(paths: &[PathBuf]) -> String {
    let remove = |path: &PathBuf| match fs::remove_file(path) {
        Ok(()) => format!("\nremoved {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("\n{} could not be removed ({error}): remove it", path.display()),
    };
    paths.iter().map(remove).collect()
}

/// Writes a new key beside the one that is named, with its mode and owner; returns its name in the same form.
fn make_key(config: &Path, directory: &Path, named: &str) -> Result<String, Told> {
    let old = directory.join(named);
    let like = fs::metadata(&old).map_err(|error| cannot("read", &old, &error))?;
    let secret = key::new_private_key().map_err(|error| cannot("make a key beside", &old, &error))?;
    for number in 2.. {
        let name = numbered(named, number);
        let path = directory.join(&name);
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        leftovers::note(config, &path, secret.public_key()).map_err(|error| cannot("write beside", &path, &error))?;
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(cannot("write", &path, &error)),
        };
        let made = file.metadata().and_then(|made| {
            if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
            file.write_all(secret.to_base64().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            File::open(path.parent().unwrap_or(directory))?.sync_all()
        });
        return match made {
            Ok(()) => Ok(name),
            Err(error) => {
                fs::remove_file(&path).ok();
                Err(cannot("write", &path, &error))
            }
        };
    }
    Err(refused("there is no name left for a key"))
}

/// Returns the name of a key file with a number: `private.key`, `private-2.key`, `private-3.key`.
fn numbered(named: &str, number: u32) -> String {
    let at = named.rfind('/').map_or(0, |slash| slash + 1);
    let (directory, file) = named.split_at(at);
    let (stem, extension) = file.rfind('.').filter(|dot| *dot > 0).map_or((file, ""), |dot| file.split_at(dot));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let stem = stem.rsplit_once('-').filter(|(_, digits)| is_number(digits)).map_or(stem, |(stem, _)| stem);
    format!("{directory}{stem}-{number}{extension}")
}

fn finish(args: &Args) -> Result<String, Told> {
    let mut told = String::new();
    let path = &args.file.config;
    let current = Current::read(path)?;
    if edit::key_of(&current.text, SECTION, OLD_KEY).is_none() {
        if matches!(seen(args, Duration::ZERO), Seen::Rotation(_))
            && let Some(changes) = catch_up(path, &args.reload)?
        {
            let swept = leftovers::sweep(path, true);
            return Ok(format!(
                "the old key was gone, and the running site had not been told: it is now ({changes}){swept}\n"
            ));
        }
        let swept = leftovers::sweep(path, !args.reload.no_reload && uses_named_key(&current));
        if !swept.is_empty() {
            return Ok(format!("no change of this site's key is under way{swept}\n"));
        }
    }
    if let Some(changes) = goes_on(args)? {
        told = format!("{changes}\n");
        seen(args, args.wait);
    }
    let mut old = None;
    let said = change(&args.file.config, &args.reload, |current| {
        let Some(named) = edit::key_of(&current.text, SECTION, OLD_KEY) else {
            return Err(refused("no change of this site's key is under way: there is nothing to finish"));
        };
        if current.config.tunnel.old_private_key.counting().is_some() && !args.cut_off {
            return Err(refused(format!(
                "{told}the old key counts yet, for {}; a peer that is gone for good, or will be paired again with the new card, may \
                 be cut off: --finish --cut-off",
                waited_for(current)
            )));
        }
        old = current.path.parent().map(|directory| directory.join(named));
        edit::remove_key(&current.text, SECTION, OLD_KEY).map_err(|error| not_edited(current, &error))
    })?;
    let removed = removed(old.as_slice()) + &leftovers::sweep(path, !args.reload.no_reload);
    Ok(format!("{told}the old key of this site is gone\n{said}{removed}\n"))
}

/// Asks whether every session is to end.
fn confirm(args: &Args) -> Result<(), Told> {
    let peers = Current::read(&args.file.config)?.config.peers;
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let question = format!(
        "This ends every session now, and nothing passes until each peer has taken this site's new card, by telephone: \
         {}.\nA key that nobody else knows is changed without that: `wardlink rotate`.\nDrop the old key? [yes/no] ",
        if names.is_empty() { "there is none".to_owned() } else { names.join(", ") }
    );
    match if args.yes { Some(true) } else { ask(&question) } {
        Some(true) => Ok(()),
        Some(false) => Err(Told::new(
            EXIT_FAILED,
            "wardlink: nothing was changed; to drop the key, answer with the whole word yes\n",
        )),
        None => Err(refused("there is no terminal to ask at whether every session is to end; say so: --yes")),
    }
}

fn compromised(args: &Args) -> ExitCode {
    match confirm(args)
        .and_then(|()| replace_key(args, |_| Ok(()), false))
        .and_then(|said| Ok((said, Current::read(&args.file.config)?)))
    {
        Err(told) => say(&told),
        Ok((said, current)) => {
            let names: Vec<&str> = current.config.peers.iter().map(|peer| peer.name.as_str()).collect();
            let mut text = format!("The old key of this site is gone; whoever has it does not get in here.\n{said}\n");
            if !names.is_empty() {
                text += &format!(
                    "Every peer must be paired again ({}): send this card, and have each admin take it, after the words \
                     were compared:\n    wardlink pair CARD --new-key\nUntil then whoever has the old key gets in there in \
                     this site's place: call them now.\n\n",
                    names.join(", ")
                );
            }
            io::stderr().write_all(text.as_bytes()).ok();
            Card::of(&current.config, None).map_or_else(|| ExitCode::from(EXIT_FAILED), |card| card::print(&card))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_has_the_next_name_beside_the_old_one() {
        for (named, number, expected) in [
            ("private.key", 2, "private-2.key"),
            ("/etc/wardlink/private-2.key", 3, "/etc/wardlink/private-3.key"),
            ("keys/key", 2, "keys/key-2"),
            ("a.b/site-north.key", 2, "a.b/site-north-2.key"),
            (".key", 2, ".key-2"),
        ] {
            assert_eq!(numbered(named, number), expected);
        }
    }
}
