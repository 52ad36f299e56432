//! `wardlink forward`: adds or removes a port whose messages go to a peer; pauses a stored one, and resumes it.
//!
//! `add` and `remove` edit the configuration; a pause does not, it outlives a restart, and ends by `resume` only.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ipnet::IpNet;

use super::change::{CONFIG, Current, ReloadArgs, change, flag};
use super::import::{create, name};
use super::init::SPOOL_KEY;
use super::pair::not_edited;
use super::queue::{Told, say};
use super::service::{is_known, known, refused};
use super::site::{SOCKET_DIRECTORY, SiteArgs};
use super::{EXIT_FAILED, key};
use crate::config::edit::{self, Entry, Value};
use crate::config::{self, Delivery, Name};
use crate::control::queue::QueueAction;

/// Adds or removes a port whose messages go to a peer; pauses or resumes a stored one
///
/// `add` and `remove` edit the configuration file, its comments stay; a running site takes it up without a restart. While a
/// stored forward is paused, messages are still taken in, kept and acknowledged, as far as the queue has room; none goes on
/// to the receiver. A pause outlives a restart. Needs root, or the user that the site runs as.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wardlink forward add orders --listen 0.0.0.0:2575 --peer city-lab --service orders\n  \
    wardlink forward add results --listen 0.0.0.0:2576 --peer city-lab --service results --delivery stored\n  \
    wardlink forward remove orders"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Listen for senders, and carry what they send to a service of a peer.
    Add(Add),
    /// Listen no more.
    Remove {
        /// The forward
        #[arg(value_parser = name)]
        forward: Name,
        #[command(flatten)]
        reload: ReloadArgs,
    },
    /// Hand nothing on to the receiver until it is resumed.
    Pause {
        /// The stored forward
        forward: String,
    },
    /// Hand messages on again.
    Resume {
        /// The stored forward
        forward: String,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The name of the forward
    #[arg(value_parser = name)]
    forward: Name,
    /// Where senders connect, such as 0.0.0.0:2575 for every address of this host
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = config::listen_address)]
    listen: SocketAddr,
    /// The peer that receives
    #[arg(long, value_name = "PEER", value_parser = name)]
    peer: Name,
    /// The service at that peer, as its card names it
    #[arg(long, value_name = "NAME", value_parser = name)]
    service: Name,
    /// Who may connect, such as 192.168.10.0/24; may be given several times; anybody by default
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    allow_from: Vec<IpNet>,
    /// transparent: the receiver's own acknowledgements come back; stored: messages are kept, acknowledged here, and
    /// delivered in order
    #[arg(long, value_enum, default_value_t = HowDelivered::Transparent)]
    delivery: HowDelivered,
    #[command(flatten)]
    reload: ReloadArgs,
}

/// Reads an address or a network.
fn prefix(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
    net.map_err(|_| "write an address or a network, such as 192.168.10.40 or 192.168.10.0/24".to_owned())
}

/// Says how messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum HowDelivered {
    Transparent,
    Stored,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    say(&told(args, Path::new(SOCKET_DIRECTORY)))
}

fn told(args: &Args, directory: &Path) -> Told {
    let path = args.site.config.clone().unwrap_or_else(|| CONFIG.into());
    let edits = matches!(args.command, Command::Add(_) | Command::Remove { .. });
    if edits && args.site.socket.is_some() {
        return refused(
            "add and remove edit the configuration, and find the site by it: name it with -c FILE, not --socket",
        );
    }
    let (forward, action) = match &args.command {
        Command::Add(add) => return self::add(add, &path).map_or_else(|told| told, |text| Told::new(0, text)),
        Command::Remove { forward, reload } => {
            return remove(forward, &path, reload).map_or_else(|told| told, |text| Told::new(0, text));
        }
        Command::Pause { forward } => (forward, QueueAction::Pause),
        Command::Resume { forward } => (forward, QueueAction::Resume),
    };
    super::queue::asked(&args.site, directory, forward, action, false)
}

fn add(add: &Add, path: &Path) -> Result<String, Told> {
    let Add { forward, listen, peer, service, .. } = add;
    let flag = flag(path);
    let mut made = None;
    let changed = change(path, &add.reload, |current| {
        if current.config.forwards.iter().any(|there| there.name == *forward) {
            return Err(refused(format!(
                "forward {forward} is there already; change it in {}, then `wardlink reload{flag}`",
                current.path.display()
            )));
        }
        known(current, std::slice::from_ref(peer), &flag)?;
        let mut keys = vec![("name", Value::text(forward)), ("listen", Value::text(listen))];
        if !add.allow_from.is_empty() {
            keys.push(("allow_from", Value::List(add.allow_from.iter().map(ToString::to_string).collect())));
        }
        keys.extend([("peer", Value::text(peer)), ("service", Value::text(service))]);
        let mut text = current.text.clone();
        if add.delivery == HowDelivered::Stored {
            keys.push(("delivery", Value::text("stored")));
            let (with_spool, key) = spool(current, text)?;
            (text, made) = (with_spool, key);
        }
        let edited = edit::append(&text, "forwards", &Entry { keys, offers: None });
        edited.map_err(|error| not_edited(current, &error))
    });
    let said = match changed {
        Ok(said) => said,
        Err(told) => {
            made.iter().for_each(|key| drop(fs::remove_file(key)));
            return Err(told);
        }
    };
    let mut text = format!("forward {forward} takes messages at {listen}, for {service} at {peer}\n{said}\n");
    if let Some(key) = made {
        text.push_str(&format!(
            "the key that seals what is kept is {} now: keep a copy apart from backups, without it nobody can read what waits\n",
            key.display()
        ));
    }
    Ok(text)
}

/// Sees to it that the file says where messages are kept, and that the key is there; returns the key that was made.
fn spool(current: &Current, text: String) -> Result<(String, Option<PathBuf>), Told> {
    let beside = current.path.with_file_name(SPOOL_KEY);
    let (text, key, dir) = match &current.config.spool {
        Some(spool) => (text, spool.key.clone().may_be_made().then(|| spool.key.path().to_owned()), Some(&spool.dir)),
        None => {
            let keys = [("key_file", Value::text(beside.display()))];
            let edited = edit::add_section(&text, "spool", &keys).map_err(|error| not_edited(current, &error))?;
            (edited, Some(beside), None)
        }
    };
    // A key is never made anew for messages that are there: what they were sealed with is wanted.
    let default = current.config.state_dir.join("spool");
    let is_used = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    match key.filter(|key| !key.exists() && !is_used(dir.unwrap_or(&default))) {
        None => Ok((text, None)),
        Some(key) => {
            make_key(&key, &current.path).map_err(|error| {
                let text = format!(
                    "wardlink: cannot make {} ({error}); make it yourself: (umask 077; wardlink key psk > {}); nothing was \
                     changed\n",
                    key.display(),
                    key.display()
                );
                Told::new(EXIT_FAILED, text)
            })?;
            Ok((text, Some(key)))
        }
    }
}

/// Makes a key that belongs to whom the private key beside the configuration belongs to: the site must read both.
fn make_key(key: &Path, config: &Path) -> std::io::Result<()> {
    let mut secret = key::new_shared_key()?.to_base64();
    secret.push('\n');
    let mut file = create(key)?;
    let made = file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
        let like = fs::metadata(config.with_file_name("private.key")).or_else(|_| file.metadata())?;
        let own = file.metadata()?;
        if (like.uid(), like.gid()) == (own.uid(), own.gid()) {
            return Ok(());
        }
        chown(key, Some(like.uid()), Some(like.gid()))
    });
    if made.is_err() {
        fs::remove_file(key).ok();
    }
    made
}

fn remove(forward: &Name, path: &Path, reload: &ReloadArgs) -> Result<String, Told> {
    let mut is_stored = false;
    let said = change(path, reload, |current| {
        let there = &current.config.forwards;
        is_known("forward", forward, &there.iter().map(|forward| forward.name.as_str()).collect::<Vec<_>>())?;
        is_stored = there.iter().any(|there| there.name == *forward && matches!(there.delivery, Delivery::Stored(_)));
        let edited = edit::remove(&current.text, "forwards", forward.as_str());
        edited.map_err(|error| not_edited(current, &error))
    })?;
    // A site that runs lets go of none whose queue holds anything.
    let queue = match is_stored && !said.starts_with("reloaded") {
        true => format!(
            "what its queue holds, if anything, stays there: `wardlink queue list {forward}{}` shows it when the site \
             runs\n",
            flag(path)
        ),
        false => String::new(),
    };
    Ok(format!("forward {forward} is removed\n{said}\n{queue}"))
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::site_that;
    use super::*;
    use crate::control::queue::QueueAnswer;

    #[tokio::test]
    async fn pause_and_resume_ask_for_what_they_say() {
        let pause: fn(String) -> Command = |forward| Command::Pause { forward };
        let resume: fn(String) -> Command = |forward| Command::Resume { forward };
        for (command, action) in [(pause, QueueAction::Pause), (resume, QueueAction::Resume)] {
            let (site, directory) = site_that(move |request| {
                assert_eq!((request.forward.as_str(), &request.action), ("orders", &action));
                QueueAnswer::Done { said: "so it is".into() }
            });
            let site_args = SiteArgs { config: None, socket: None };
            let args = Args { command: command("orders".into()), site: site_args };
            let said = tokio::task::spawn_blocking(move || told(&args, directory.path())).await.unwrap();
            assert_eq!((said.code, said.text()), (0, "so it is\n".into()));
            site.abort();
        }
    }
}
