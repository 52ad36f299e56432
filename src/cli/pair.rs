//! `wardlink pair`: takes another site's card, so that it is a peer of this one; or removes a peer.
//!
//! Never takes a card that nobody has compared: it shows the words of the card that was read, and asks, or is given the
//! words that the other admin read out. What a card may not claim is judged in `config::card`.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use ipnet::IpNet;

use super::change::{Current, FileArgs, ReloadArgs, change};
use super::import::name;
use super::queue::{Told, say};
use super::service::is_known;
use super::{EXIT_FAILED, EXIT_USAGE, card as card_words};
use crate::config::card::{Admission, Admitted, CARD_BYTES_MAX, Card, Route, admit, ipv4_routes, ipv6_routes};
use crate::config::edit::{self, Entry, NotEdited, Value};
use crate::config::{Config, Delivery, Forward, Name, Peer, Target};

/// Is the port of MLLP (IANA: hl7).
const MLLP_PORT: u16 = 2575;
/// Is how often a site sends to a peer that it calls: below the patience of usual NATs.
const KEEPALIVE: &str = "25s";
/// Limits what is read of a card's file, in bytes: a card, and white space around and in it.
const FILE_BYTES_MAX: u64 = 2 * CARD_BYTES_MAX as u64;

/// Takes another site's card, so that it is a peer of this one
///
/// Shows the card and its fingerprint, eight words over all of it, and asks whether the other admin reads out the same on the
/// telephone (`wardlink card --fingerprint` there). Then the peer stands in the configuration, with the one address of its
/// card and no other; a running site takes it up without a restart. Both sites do this, in either order. A card of a peer
/// that is there already brings its entry up to date: endpoint, address, what it offers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  wardlink pair city-lab.card\n  wardlink pair - < city-lab.card\n  \
    wardlink pair city-lab.card --yes --fingerprint \"WORD WORD ...\"\n  wardlink pair --remove city-lab\n\n\
    Exit codes: 0 done, 64 the card is refused or an argument is wrong, 1 not confirmed or not taken up, 77 not by this \
    user. In every case but 0 nothing has changed.")]
pub struct Args {
    /// The card: a file, the line itself, or - for standard input
    #[arg(value_name = "CARD", required_unless_present = "remove")]
    card: Option<String>,
    #[command(flatten)]
    file: FileArgs,
    /// Names the peer here, otherwise than it names itself
    #[arg(long = "as", value_name = "NAME", value_parser = name)]
    name: Option<Name>,
    /// Says that a peer of this name has a new key
    #[arg(long)]
    new_key: bool,
    /// The words that the other admin read out, in quotes; a card with others is refused
    #[arg(long, value_name = "WORDS")]
    fingerprint: Option<String>,
    /// Does not ask; only with --fingerprint
    #[arg(long, requires = "fingerprint")]
    yes: bool,
    /// Removes this peer
    #[arg(long, value_name = "PEER", value_parser = name, conflicts_with_all = ["card", "name", "new_key", "fingerprint", "yes"])]
    remove: Option<Name>,
    #[command(flatten)]
    reload: ReloadArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let outcome = match (&args.remove, &args.card) {
        (Some(peer), _) => remove(args, peer),
        (None, Some(card)) => pair(args, card),
        (None, None) => Err(Told::new(EXIT_USAGE, "wardlink: name a CARD, or --remove PEER\n")),
    };
    say(&outcome.map_or_else(|told| told, |text| Told::new(0, text)))
}

fn refused(why: impl std::fmt::Display) -> Told {
    Told::new(EXIT_USAGE, format!("wardlink: {why}\nwardlink: nothing was changed\n"))
}

fn pair(args: &Args, source: &str) -> Result<String, Told> {
    let card = read(source)?;
    let judge = |config: &Config| {
        let admission = Admission { card: &card, name: args.name.as_ref(), may_change_key: args.new_key };
        let admitted = admit(admission, config, &routes());
        admitted.map_err(|refusal| refused(format!("the card of {} {refusal}", card.name)))
    };
    // Before anybody is asked; and again when nothing can change any more.
    judge(&Current::read(&args.file.config)?.config)?;
    confirm(args, &card)?;
    let (mut note, mut is_new, mut unused, mut queues) = ("", false, Vec::new(), Vec::new());
    let said = change(&args.file.config, &args.reload, |current| {
        let admitted = judge(&current.config)?;
        if card.endpoint.is_none() && current.config.tunnel.endpoint.is_none() {
            note = "note: neither the card nor this site's configuration (tunnel.endpoint) says where a site is reached; one of \
                    both must, else no tunnel comes up\n";
        }
        is_new = matches!(admitted, Admitted::New(_));
        let unused_here = services_unused(&card, args.name.as_ref().unwrap_or(&card.name), &current.config);
        unused = unused_here.into_iter().zip(free_ports(&current.config)).collect();
        queues = queues_held(&admitted, &card, &current.config);
        match admitted {
            Admitted::New(name) => edit::append(&current.text, "peers", &entry(&card, &name)),
            Admitted::Known(name) => updated(current, &card, &name),
        }
        .map_err(|error| not_edited(current, &error))
    })?;
    let (name, flag) = (args.name.as_ref().unwrap_or(&card.name), args.file.flag());
    let what = if is_new { "paired with" } else { "the card is taken of" };
    let mut text = format!("{what} {name}, {} inside the tunnel\n{said}\n", card.address);
    text.push_str(note);
    if !queues.is_empty() {
        text.push_str(&format!(
            "what {} took in for the key of before is held until you say where it goes: `wardlink status{flag}` says what \
             waits, and the `wardlink queue move` that sends it there\n",
            queues.join(", ")
        ));
    }
    text.push_str(&format!("{name} must take this site's card too, if it has not: `wardlink card{flag}` prints it\n"));
    for (service, port) in unused {
        text.push_str(&format!(
            "{name} offers {service}; to send there:\n    wardlink forward add {service} --listen 0.0.0.0:{port} --peer \
             {name} --service {service}{flag}\n"
        ));
    }
    Ok(text)
}

/// Names the stored forwards to a peer that has another key from now on.
fn queues_held(admitted: &Admitted, card: &Card, config: &Config) -> Vec<String> {
    let Admitted::Known(name) = admitted else { return Vec::new() };
    if config.peer(name).is_none_or(|peer| peer.public_key == card.key) {
        return Vec::new();
    }
    let is_stored = |forward: &&Forward| forward.peer == *name && matches!(forward.delivery, Delivery::Stored(_));
    config.forwards.iter().filter(is_stored).map(|forward| forward.name.to_string()).collect()
}

/// Lists ports from that of MLLP on that nothing of this configuration listens at.
fn free_ports(config: &Config) -> impl Iterator<Item = u16> {
    let others = [config.health_listen, config.agent_listen].into_iter().flatten();
    let taken: Vec<u16> =
        config.forwards.iter().map(|forward| forward.listen).chain(others).map(|at| at.port()).collect();
    (MLLP_PORT..=u16::MAX).filter(move |port| !taken.contains(port))
}

/// Lists what the card offers and no forward here leads to.
fn services_unused(card: &Card, peer: &Name, config: &Config) -> Vec<Name> {
    let is_used = |service: &Name| {
        let leads_there =
            |forward: &Forward| forward.peer == *peer && forward.target == Target::Service(service.clone());
        config.forwards.iter().any(leads_there)
    };
    card.services.iter().filter(|service| !is_used(service)).cloned().collect()
}

/// Reads a card from where the argument says.
fn read(source: &str) -> Result<Card, Told> {
    let is_line = source.trim_start().starts_with("wardlink") && source.contains(':');
    let (whence, text) = if is_line {
        ("the card", source.to_owned())
    } else {
        let mut bytes = Vec::new();
        let read = match source {
            "-" => io::stdin().lock().take(FILE_BYTES_MAX).read_to_end(&mut bytes),
            path => File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)),
        };
        let whence = if source == "-" { "standard input" } else { source };
        read.map_err(|error| {
            let whence = whence.escape_debug();
            refused(format!(
                "{whence} cannot be read ({error}); name the card's file, or give the line itself in quotes"
            ))
        })?;
        (whence, String::from_utf8_lossy(&bytes).into_owned())
    };
    text.parse().map_err(|error| refused(format!("{} {error}", whence.escape_debug())))
}

/// Has the words compared, by who is asked or by who has given them.
fn confirm(args: &Args, card: &Card) -> Result<(), Told> {
    let words = card.fingerprint();
    if let Some(given) = &args.fingerprint
        && !words.is(given)
    {
        return Err(refused(format!(
            "the words are not those of this card of {}: do not pair; a site that was changed since (a service was added, \
             say) has another card with other words: have it sent again as `wardlink card` prints it now, with its words read \
             out again; if they still differ, the card was changed on the way",
            card.name
        )));
    }
    if args.yes {
        return Ok(());
    }
    let mut shown = format!("Card of {}\n", card.name);
    if let Some(name) = args.name.as_ref().filter(|name| **name != card.name) {
        shown.push_str(&format!("  here       {name}\n"));
    }
    shown.push_str(&format!("  address    {}\n", card.address));
    match &card.endpoint {
        Some(endpoint) => shown.push_str(&format!("  endpoint   {endpoint}\n")),
        None => shown.push_str("  endpoint   none: it calls this site\n"),
    }
    shown.push_str(&format!("  offers     {}\n", card.offers().unwrap_or_else(|| "nothing yet".to_owned())));
    shown.push_str(&format!("  key        {}\n\n", card.key));
    shown.push_str(&format!(
        "Its fingerprint:\n\n{}\nCall {}, at a number that you know, and have these words read out there: `wardlink card \
         --fingerprint`\nprints them. Never take them from where the card came from.\nDo all eight words agree with what the \
         admin of {} reads out? [yes/no] ",
        card_words::shown(&words),
        card.name,
        card.name
    ));
    match ask(&shown) {
        Some(true) => Ok(()),
        Some(false) => Err(Told::new(
            EXIT_FAILED,
            "wardlink: not paired: nothing was changed; where all eight words agree, answer with the whole word yes\n",
        )),
        None => Err(refused(
            "there is no terminal to ask at whether the words of the card agree; give the words that the other admin read \
             out: --yes --fingerprint \"WORD WORD ...\"",
        )),
    }
}

/// Asks at the terminal; standard input may be the card. `None` where there is no terminal.
pub(super) fn ask(question: &str) -> Option<bool> {
    let mut answer = String::new();
    if io::stdin().is_terminal() {
        io::stderr().write_all(question.as_bytes()).ok()?;
        io::stdin().lock().read_line(&mut answer).ok()?;
    } else {
        let mut terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        terminal.write_all(question.as_bytes()).ok()?;
        BufReader::new(terminal).read_line(&mut answer).ok()?;
    }
    Some(answer.trim() == "yes")
}

/// Reads which networks this host reaches otherwise than by its tunnel; what it does not tell is none.
fn routes() -> Vec<Route> {
    let table = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4_routes(&table("/proc/net/route"));
    routes.extend(ipv6_routes(&table("/proc/net/ipv6_route")));
    let own = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|found| {
        let storage = found.address?;
        let v4 = storage.as_sockaddr_in().map(|address| std::net::IpAddr::V4(address.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|address| std::net::IpAddr::V6(address.ip())))?;
        Some(Route { net: IpNet::from(address), interface: found.interface_name, is_own: true })
    });
    routes.extend(own);
    routes
}

fn entry(card: &Card, name: &Name) -> Entry {
    let mut keys = vec![("name", Value::text(name)), ("public_key", Value::text(card.key))];
    if let Some(endpoint) = &card.endpoint {
        keys.push(("endpoint", Value::text(endpoint)));
    }
    keys.push(("allowed_ips", Value::List(vec![IpNet::from(card.address).to_string()])));
    if card.endpoint.is_some() {
        // Who calls keeps a NAT on the way open.
        keys.push(("persistent_keepalive", Value::text(KEEPALIVE)));
    }
    Entry { keys, offers: card.offers() }
}

/// Brings the entry of a peer up to date; what the card does not say stays.
fn updated(current: &Current, card: &Card, name: &Name) -> Result<String, NotEdited> {
    let peer: Option<&Peer> = current.config.peer(name);
    let set = |text: String, key: &str, value: &Value| edit::set(&text, "peers", name.as_str(), key, value);
    let mut text = current.text.clone();
    text = set(text, "public_key", &Value::text(card.key))?;
    if card.endpoint.is_some() && peer.is_some_and(|peer| peer.endpoint != card.endpoint) {
        let endpoint = card.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        text = set(text, "endpoint", &Value::Text(endpoint))?;
    }
    let host = IpNet::from(card.address);
    if !peer.is_some_and(|peer| peer.allowed_ips.contains(&host)) {
        text = set(text, "allowed_ips", &Value::List(vec![host.to_string()]))?;
    }
    Ok(edit::set_offers(&text, "peers", name.as_str(), card.offers().as_deref()))
}

/// Says that a file is not edited here, and what to write.
pub(super) fn not_edited(current: &Current, error: &NotEdited) -> Told {
    refused(format!("{}: {error}", current.path.display()))
}

fn remove(args: &Args, peer: &Name) -> Result<String, Told> {
    let flag = args.file.flag();
    let said = change(&args.file.config, &args.reload, |current| {
        let Config { peers, forwards, services, .. } = &current.config;
        is_known("peer", peer, &peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>())?;
        let uses = forwards.iter().filter(|forward| forward.peer == *peer);
        let mut first: Vec<String> =
            uses.map(|forward| format!("    wardlink forward remove {}{flag}", forward.name)).collect();
        for service in services.iter().filter(|service| service.allow_peers.contains(peer)) {
            first.push(match service.allow_peers.as_slice() {
                [_] => format!("    wardlink service remove {}{flag}", service.name),
                _ => format!(
                    "    take {peer} out of allow_peers of service {} in {}",
                    service.name,
                    current.path.display()
                ),
            });
        }
        if !first.is_empty() {
            return Err(refused(format!("peer {peer} is still in use; first:\n{}", first.join("\n"))));
        }
        edit::remove(&current.text, "peers", peer.as_str()).map_err(|error| not_edited(current, &error))
    })?;
    Ok(format!("peer {peer} is removed\n{said}\n"))
}
