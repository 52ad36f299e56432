//! `wardlink init`: makes a site: its private key, its address inside the tunnel, its configuration.
//!
//! Overwrites nothing, starts nothing, and leaves nothing where it fails. The address is made of the public key
//! (`config::card`), so that two sites never need to agree on one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ipnet::IpNet;
use nix::unistd::{Uid, User};

use super::change::{FileArgs, flag, quoted_path};
use super::import::{create, name};
use super::queue::{Told, say};
use super::{EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_USAGE, card, key};
use crate::config::card::{Card, address_of, is_elsewhere, is_private};
use crate::config::edit::scalar;
use crate::config::{self, Config, Endpoint, Name, SOCKET_PATH_BYTES_MAX, SecretKey};

/// Names the user that the service runs as, and its group.
const USER: &str = "wardlink";
/// Is the directory of the configuration unless `-c` says otherwise; only there the other defaults are this host's.
const DIRECTORY: &str = "/etc/wardlink";
/// Names the private key beside the configuration.
const PRIVATE_KEY: &str = "private.key";
/// Is the control socket from the directory of the configuration: alone in its own, which the site may write.
const CONTROL_SOCKET: &str = "run/control.sock";
/// Names the key of the spools beside the configuration.
pub(super) const SPOOL_KEY: &str = "spool.key";
/// Is the UDP port where no endpoint names one: WireGuard's usual one.
const LISTEN_PORT: u16 = 51820;
/// Limits what an interface has of the site's name, in bytes (IFNAMSIZ, less `wl-`).
const INTERFACE_NAME_BYTES: usize = 12;

/// Makes a site: its key, its address inside the tunnel, its configuration
///
/// Writes a commented configuration that passes check-config, with the private key beside it (mode 0600), and prints the
/// site's card. Nothing that exists is overwritten. As root, the key is given to the user wardlink, where there is one. With
/// another directory than /etc/wardlink all that the site keeps is there too, so that several can be tried on one host, each in
/// a network namespace of its own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  wardlink init --site north-hospital --endpoint north.example.org:51820 > north-hospital.card\n\n\
    Exit codes: 0 made, 64 bad arguments or it exists already, 1 it cannot be written, 77 not by this user."
)]
pub struct Args {
    /// The name of this installation: a-z, 0-9 and -
    #[arg(long, value_name = "NAME", value_parser = name)]
    site: Name,
    /// Where peers reach this site from outside, UDP; left out, this site calls them
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    endpoint: Option<Endpoint>,
    /// This site's address inside the tunnel, such as 10.98.0.1/32; by default one is made of the key, of IPv6
    #[arg(long, value_name = "PREFIX", value_parser = address)]
    address: Option<IpNet>,
    #[command(flatten)]
    file: FileArgs,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse()?;
    match is_elsewhere(&endpoint) {
        Ok(()) => Ok(endpoint),
        Err(why) => Err(format!("{why}: write where other hosts reach this one")),
    }
}

fn address(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
    let net: IpNet = net.map_err(|_| "write an address such as 10.98.0.1/32".to_owned())?;
    if is_private(net.addr()) {
        return Ok(net);
    }
    Err("no site takes a card with this address: write a private one, such as 10.98.0.1/32".to_owned())
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    match made(args) {
        Err(told) => say(&told),
        Ok((card, paths)) => {
            let code = card::print(&card);
            let flag = args.file.flag();
            let text = format!(
                "Made {} and {}.\nNext: send the line that begins with wardlink1: to the other site (`wardlink card{flag}` \
                 prints it again), and take that site's:\n    wardlink pair CARD{flag}\n",
                paths.config.display(),
                paths.key.display()
            );
            io::stderr().write_all(text.as_bytes()).ok();
            code
        }
    }
}

/// Is what is written.
struct Paths {
    directory: PathBuf,
    config: PathBuf,
    key: PathBuf,
}

fn made(args: &Args) -> Result<(Card, Paths), Told> {
    let failed = |what: &str, error: &io::Error| cannot(what, &args.file.config, error);
    let config = std::path::absolute(&args.file.config).map_err(|error| failed("use", &error))?;
    let directory = config.parent().unwrap_or(Path::new("/")).to_owned();
    let paths = Paths { key: directory.join(PRIVATE_KEY), directory, config };
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    if is_there(&paths.config) {
        let flag = args.file.flag();
        let text = format!(
            "wardlink: {} exists already, and is left as it is; `wardlink card{flag}` prints the card of a site that is \
             there; for another site on this host name another directory: -c DIR/wardlink.yaml\n",
            paths.config.display()
        );
        return Err(Told::new(EXIT_USAGE, text));
    }
    if is_there(&paths.key) {
        let text = format!(
            "wardlink: {} exists already, and is left as it is: a key without a configuration, as an init that was killed \
             leaves it; where nobody needs it, remove it, and give this command again:\n    rm {}\n",
            paths.key.display(),
            quoted_path(&paths.key)
        );
        return Err(Told::new(EXIT_USAGE, text));
    }
    if args.address.is_none() && !has_ipv6() {
        let text = "wardlink: IPv6 is off on this host, so that the address that init makes of the key could not be used; \
                    name a private one that is free at both sites: --address 10.98.0.1/32\n";
        return Err(Told::new(EXIT_USAGE, text));
    }
    let secret = key::new_private_key().map_err(|error| failed("make a key for", &error))?;
    let text = yaml(args, &paths, &secret);
    // Before anything is written.
    let config = config::parse(&text, &paths.config, &|path: &Path| match path {
        path if path == paths.key => Ok(secret.clone()),
        path => Err(config::KeyFileError::Missing { path: path.to_owned() }),
    });
    let config: Config =
        config.map_err(|errors| Told::new(EXIT_USAGE, format!("{errors}\nwardlink: nothing was written\n")))?;
    let card = Card::of(&config, None).ok_or_else(|| Told::failed("the site has no address"))?;
    write(&paths, &text, &secret)?;
    Ok((card, paths))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Told {
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let (code, advice) = if is_denied { (EXIT_NOT_PERMITTED, ": run this with sudo") } else { (EXIT_FAILED, "") };
    Told::new(code, format!("wardlink: cannot {what} {} ({error}){advice}; nothing was made\n", path.display()))
}

/// Tells whether an interface that comes up gets IPv6.
fn has_ipv6() -> bool {
    let is_on = |which: &str| {
        let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"));
        setting.is_ok_and(|setting| setting.trim() == "0")
    };
    is_on("all") && is_on("default")
}

/// Writes both files, or none.
fn write(paths: &Paths, text: &str, secret: &SecretKey) -> Result<(), Told> {
    let (user, group) = service_user().unzip();
    let Paths { directory, config, key } = paths;
    let is_new = !directory.exists();
    let made = DirBuilder::new().recursive(true).mode(0o750).create(directory);
    made.map_err(|error| cannot("make", directory, &error))?;
    let mut secret = secret.to_base64();
    secret.push('\n');
    let written = if is_new { chown(directory, None, group) } else { Ok(()) }
        .map_err(|error| cannot("give", directory, &error))
        .and_then(|()| place(key, secret.as_bytes(), 0o600, (user, group)))
        .and_then(|()| {
            let placed = place(config, text.as_bytes(), 0o640, (None, group)).and_then(|()| {
                let synced = File::open(directory).and_then(|directory| directory.sync_all());
                synced
                    .map_err(|error| cannot("write", directory, &error))
                    .inspect_err(|_| drop(fs::remove_file(config)))
            });
            placed.inspect_err(|_| drop(fs::remove_file(key)))
        });
    written.inspect_err(|_| drop(is_new.then(|| fs::remove_dir(directory))))
}

/// Writes a file that is not there, or none.
fn place(path: &Path, bytes: &[u8], mode: u32, owner: (Option<u32>, Option<u32>)) -> Result<(), Told> {
    let mut file = create(path).map_err(|error| cannot("write", path, &error))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| chown(path, owner.0, owner.1))
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all());
    written.map_err(|error| cannot("write", path, &error)).inspect_err(|_| drop(fs::remove_file(path)))
}

/// Finds the user and group of the service, where files can be given to them.
pub(super) fn service_user() -> Option<(u32, u32)> {
    let is_root = Uid::effective().is_root();
    let user = is_root.then(|| User::from_name(USER).ok().flatten()).flatten()?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// Names a control socket that no other site has, whatever its name; where the path would be too long for one, none.
fn control(directory: &Path) -> String {
    let socket = directory.join(CONTROL_SOCKET).display().to_string();
    if socket.len() > SOCKET_PATH_BYTES_MAX {
        return String::new();
    }
    let socket = scalar(&socket);
    format!("\n# Where commands reach this site while it runs.\ncontrol:\n  socket: {socket}\n")
}

fn yaml(args: &Args, paths: &Paths, secret: &SecretKey) -> String {
    let quoted = |path: PathBuf| scalar(&path.display().to_string());
    let (site, key) = (&args.site, quoted(paths.key.clone()));
    let is_usual = paths.directory == Path::new(DIRECTORY);
    let (state_dir, interface, commands, control) = if is_usual {
        ("# state_dir: /var/lib/wardlink".to_owned(), "# interface: wl0".to_owned(), String::new(), String::new())
    } else {
        let name: String = site.as_str().chars().take(INTERFACE_NAME_BYTES).collect();
        // A path that is no single line would be more than a comment.
        let shown = flag(&paths.config);
        let commands = match shown.contains(char::is_control) {
            true => String::new(),
            false => format!("# All commands that are named here also need `{}`.\n", shown.trim_start()),
        };
        (
            format!("state_dir: {}", quoted(paths.directory.join("state"))),
            format!("interface: {}", scalar(&format!("wl-{name}"))),
            commands,
            control(&paths.directory),
        )
    };
    let listen_port = args.endpoint.as_ref().map_or(LISTEN_PORT, |endpoint| endpoint.port);
    let endpoint = match &args.endpoint {
        Some(endpoint) => format!("endpoint: {}", scalar(&endpoint.to_string())),
        None => "# endpoint: HOST:PORT".to_owned(),
    };
    let (address, how) = match args.address {
        Some(address) => (address, "this site inside the tunnel"),
        None => (IpNet::from(IpAddr::V6(address_of(&secret.public_key()))), "made of the public key"),
    };
    let address = format!("address: [{}]", scalar(&address.to_string()));
    let (private_key, listen_port) = (format!("private_key_file: {key}"), format!("listen_port: {listen_port}"));
    let (site_line, spool_key) = (format!("site: {}", scalar(site.as_str())), quoted(paths.directory.join(SPOOL_KEY)));
    format!(
        "# The site {site}, made by `wardlink init`. After a change: `wardlink check-config`, then `wardlink reload`.\n\
         # Every key, its meaning and its default: `wardlink check-config --schema`.\n{commands}\n\
         {site_line:<42} # what peers call this installation\n\
         {state_dir:<42} # what survives a restart; created 0700\n\n\
         tunnel:\n  \
         {interface:<40} # the TUN interface\n  \
         {private_key:<40} # mode 0600; it never leaves this host\n  \
         {listen_port:<40} # UDP: let it in at the firewall, where peers call this site\n  \
         {endpoint:<40} # where peers reach this site; on its card. Without it this site calls\n  \
         {address:<40} # {how}\n\n\
         # The sites at the other ends. `wardlink pair CARD` adds one.\npeers: []\n\n\
         # Ports where this site's senders connect.\n\
         # `wardlink forward add NAME --listen ADDRESS:PORT --peer PEER --service NAME` adds one.\nforwards: []\n\n\
         # Receivers that this site offers to its peers.\n\
         # `wardlink service add NAME --target HOST:PORT --allow-peer PEER` adds one.\nservices: []\n\n\
         # Seals what stored forwards keep; made with the first of them. Keep a copy apart from backups.\n\
         spool:\n  key_file: {spool_key}\n{control}"
    )
}
