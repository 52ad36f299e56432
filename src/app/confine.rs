//! Shuts the process in before it opens anything: files by Landlock, system calls by seccomp, whoever started it.
//!
//! It only ever takes away. What a kernel does not have is said in one line, and the site goes on: the systemd unit has its
//! own limits beside these. Threads and programs that are started later inherit them; so a thread must not exist yet.

mod calls;
mod rights;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::config::{self, Config, Delivery};
use crate::control;
use crate::forward::stored::store::make_first_key;
use crate::spool::register::Register;

/// Is the newest version of Landlock whose rights are asked for; an older kernel gives those that it has.
const NEWEST: ABI = ABI::V5;

/// Lists what the C library, the log and the look-up of names read.
const READ: [&str; 16] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc",
    "/sys",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/run/nscd",
    "/var/run/nscd",
];

/// Says that files are not shut in.
const NO_LANDLOCK: &str = "not shut in: this kernel has no Landlock";
/// Is where the kernel's settings of the network are; one is set for a default route.
const NETWORK_SETTINGS: &str = "/proc/sys/net";
/// Is the device that makes the interface.
const TUN: &str = "/dev/net/tun";

/// Is what the process may do from now on, as far as a new configuration may want more.
#[derive(Debug)]
pub struct Confined {
    /// Lists what may be read; everything where a command of alarms is to run.
    readable: Vec<PathBuf>,
    runs_command: bool,
}

impl Confined {
    /// Reads a configuration that is to be taken up: what is wrong with it comes first, for a restart with such a file
    /// ends the site; then what a restart would allow.
    ///
    /// # Errors
    /// It is wrong, or it wants what the running site may not do.
    pub fn load(&self, file: &Path) -> Result<Config, config::Errors> {
        let loaded = config::load_to_run(file);
        let Err(refused) = self.check(file) else { return loaded };
        match loaded {
            Ok(_) => Err(refused),
            Err(errors) => Err(errors.but_for(|issue| self.hides(file, &issue.message)).unwrap_or(refused)),
        }
    }

    /// Tells whether it is for the sandbox alone that something was found wrong.
    fn hides(&self, file: &Path, message: &str) -> bool {
        let denied = format!("cannot be read ({}", io::Error::from_raw_os_error(libc::EACCES));
        let is_hidden =
            |path: &PathBuf| !self.may_read(path) && message.contains(&format!("{} {denied}", path.display()));
        message.starts_with(&denied) || config::names(file).paths.iter().any(is_hidden)
    }

    fn may_read(&self, path: &Path) -> bool {
        self.readable.iter().any(|readable| path.starts_with(readable))
    }

    /// Says what a changed file wants that the running site may not do.
    ///
    /// # Errors
    /// Where it leads elsewhere than at the start, names a file that may not be opened, or a command and there was none.
    fn check(&self, file: &Path) -> Result<(), config::Errors> {
        let named = config::names(file);
        if named.command && !self.runs_command {
            return Err(named.restart("alarms.command", "may run no program"));
        }
        if fs::File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            && let Some(real) = fs::canonicalize(file).ok().filter(|real| !self.may_read(real))
        {
            return Err(named.restart(&real.display().to_string(), "may not open it"));
        }
        match named.paths.iter().find(|path| !self.may_read(path)) {
            Some(path) => Err(named.restart(&path.display().to_string(), "may not open it")),
            None => Ok(()),
        }
    }
}

/// Shuts this thread in, and all that it starts; says in the log what holds from now on.
pub fn confine(config: &Config, file: &Path) -> Confined {
    let named = config::names(file);
    let runs_command = named.command;
    let writable = writable(config);
    let readable = if runs_command { vec![PathBuf::from("/")] } else { readable(file, &named.paths) };
    let files = restrict_files(&writable, &readable, runs_command);
    let files = match files {
        Ok(RulesetStatus::FullyEnforced) => "shut in",
        Ok(RulesetStatus::PartiallyEnforced) => "shut in as far as this older kernel can",
        Ok(RulesetStatus::NotEnforced) => NO_LANDLOCK,
        Err(error) => {
            tracing::warn!(%error, "files cannot be shut in by Landlock");
            "not shut in"
        }
    };
    if let Err(error) = rights::give_up(files == NO_LANDLOCK) {
        tracing::warn!(%error, "capabilities cannot be given up");
    }
    let calls = match filter(runs_command).map(|filter| seccompiler::apply_filter(&filter)) {
        Ok(Ok(())) => "filtered",
        Ok(Err(error)) => {
            tracing::warn!(%error, "system calls cannot be filtered by seccomp");
            "not filtered"
        }
        Err(reason) => {
            tracing::warn!(reason, "system calls cannot be filtered by seccomp");
            "not filtered"
        }
    };
    let programs = if runs_command { "the command of alarms" } else { "none" };
    tracing::info!(files, calls, programs, "sandbox");
    Confined { readable, runs_command }
}

/// Lists what the site reads: the system's, beside its configuration, and where the files lie that it names.
fn readable(file: &Path, named: &[PathBuf]) -> Vec<PathBuf> {
    let mut readable: Vec<PathBuf> = READ.iter().map(PathBuf::from).collect();
    let beside = file.parent().map(|beside| if beside.as_os_str().is_empty() { Path::new(".") } else { beside });
    readable.extend(beside.and_then(|beside| fs::canonicalize(beside).ok()));
    readable.extend(beside.map(Path::to_owned));
    // where it is a link into another directory
    readable.extend(fs::canonicalize(file).ok().map(|file| around(&file)));
    readable.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
    for path in named {
        readable.push(around(path));
        // what a link leads to, as with certificates that are renewed
        readable.extend(fs::canonicalize(path).ok().map(|path| around(&path)));
    }
    readable
}

/// Returns the directory that a path is, or lies in, so that what takes its place is found too; never the whole root.
fn around(path: &Path) -> PathBuf {
    let directory = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    if directory == Path::new("/") { path.to_owned() } else { directory.to_owned() }
}

/// Lists what the site writes: its state, its queues, its sockets.
fn writable(config: &Config) -> Vec<PathBuf> {
    // made here as the site makes them, so that nothing around them need be written; what fails the site says then
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).ok();
    config.control_socket.parent().map(control::make_directory);
    let uapi = config.tunnel.uapi_socket.as_ref().and_then(|socket| socket.parent());
    uapi.map(|directory| fs::DirBuilder::new().mode(0o700).create(directory));
    let sockets = std::iter::once(&config.control_socket).chain(&config.tunnel.uapi_socket);
    let mut writable: Vec<PathBuf> = sockets.filter_map(|socket| Some(socket.parent()?.to_owned())).collect();
    writable.push(config.state_dir.clone());
    if let Some(spool) = &config.spool {
        writable.push(spool.dir.clone());
        let register = Register::new(&config.state_dir);
        // What is known and not there may be a disk that is not mounted.
        if register.names().is_ok_and(|known| known.is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool.dir).ok();
        }
        // Now, so that the directory of the key, in which the private key and the configuration are, is not written later.
        if wants_key(config) {
            make_first_key(&spool.key, &spool.dir, &register).ok();
        }
    }
    writable
}

/// Tells whether messages are to be stored, and there is no key that seals them.
fn wants_key(config: &Config) -> bool {
    let stores = config.forwards.iter().any(|forward| matches!(forward.delivery, Delivery::Stored(_)));
    stores && config.spool.as_ref().is_some_and(|spool| spool.key.may_be_made() && !spool.key.path().exists())
}

/// Opens a path or, where it is to be made, what it will be made in.
fn open(path: &Path) -> Option<PathFd> {
    path.ancestors().find_map(|path| PathFd::new(path).ok())
}

fn restrict_files(
    writable: &[PathBuf],
    readable: &[PathBuf],
    runs_command: bool,
) -> Result<RulesetStatus, landlock::RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let read = if runs_command { read | AccessFs::Execute } else { read };
    let write = all & !BitFlags::from(AccessFs::Execute);
    let mut rules: Vec<(PathFd, BitFlags<AccessFs>)> = Vec::new();
    // a rule for what is no directory may not have rights of one
    let mut allow = |path: Option<PathFd>, is_file: bool, rights: BitFlags<AccessFs>| {
        let rights = if is_file { rights & AccessFs::from_file(NEWEST) } else { rights };
        rules.extend(path.map(|path| (path, rights)));
    };
    for path in readable {
        allow(PathFd::new(path).ok(), !path.is_dir(), read);
    }
    for path in writable {
        allow(open(path), false, write);
    }
    if runs_command {
        allow(PathFd::new("/tmp").ok(), false, write);
    }
    allow(PathFd::new(NETWORK_SETTINGS).ok(), false, read | AccessFs::WriteFile | AccessFs::Truncate);
    allow(PathFd::new("/dev/null").ok(), true, read | AccessFs::WriteFile);
    allow(PathFd::new(TUN).ok(), true, read | AccessFs::WriteFile | AccessFs::IoctlDev);
    let rules = rules.into_iter().map(|(path, rights)| Ok::<_, landlock::RulesetError>(PathBeneath::new(path, rights)));
    let ruleset = Ruleset::default().handle_access(all)?.create()?.add_rules(rules)?;
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Makes the filter; what is not listed is refused with EPERM, as by the unit.
fn filter(runs_command: bool) -> Result<BpfProgram, &'static str> {
    let here = std::env::consts::ARCH.try_into().map_err(|_| "not on this kind of processor")?;
    let run: &[i64] = if runs_command { &calls::RUN } else { &[] };
    let listed = calls::EVERYWHERE.iter().chain(calls::HERE).chain(run);
    let mut rules: BTreeMap<_, _> = listed.map(|call| (*call, Vec::new())).collect();
    rules.extend(calls::by_argument().map_err(|_| "the filter cannot be made")?);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, here);
    filter.and_then(TryInto::try_into).map_err(|_| "the filter cannot be made")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;
    use std::thread;

    use super::*;

    /// Says whether this kernel has Landlock.
    fn has_landlock() -> bool {
        fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|text| text.contains("landlock"))
    }

    /// Makes a directory outside of /tmp.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    fn site(directory: &Path, more: &str) -> PathBuf {
        let file = directory.join("etc/wardlink.yaml");
        fs::create_dir_all(directory.join("etc")).unwrap();
        let at = directory.display();
        let text = format!(
            "site: a\nstate_dir: {at}/state\ntunnel: {{private_key_file: private.key, address: [10.98.0.1]}}\n\
             control: {{socket: {at}/run/a.sock}}\n{more}"
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn load(file: &Path) -> Config {
        let text = fs::read_to_string(file).unwrap();
        config::parse(&text, file, &|_: &Path| Ok(config::SecretKey::new([1; 32]))).unwrap()
    }

    /// Does something in a thread that is shut in; this process stays as it is.
    fn confined<T: Send + 'static>(file: &Path, act: impl FnOnce(Confined) -> T + Send + 'static) -> T {
        let (config, file) = (load(file), file.to_owned());
        thread::spawn(move || act(confine(&config, &file))).join().unwrap()
    }

    #[test]
    fn nothing_runs_and_nothing_is_written_but_what_is_the_sites() {
        let directory = directory();
        let (at, file) = (directory.path().to_owned(), site(directory.path(), ""));
        fs::write(at.join("secret"), "of somebody else").unwrap();
        let (run, inside, outside, read) = confined(&file, move |_| {
            let run = Command::new("/bin/true").status().map(|_| ()).map_err(|error| error.kind());
            let write = |path: &str| fs::write(at.join(path), "x").map_err(|error| error.kind());
            let read = fs::read(at.join("secret")).map_err(|error| error.kind());
            (run, write("state/x"), write("etc/x"), read)
        });
        assert_eq!(run, Err(io::ErrorKind::PermissionDenied));
        assert_eq!(inside, Ok(()));
        if has_landlock() {
            assert_eq!((outside, read), (Err(io::ErrorKind::PermissionDenied), Err(io::ErrorKind::PermissionDenied)));
        }
    }

    #[test]
    fn neither_the_configuration_nor_a_key_beside_it_is_written_also_where_the_spools_key_is_to_be_made() {
        let directory = directory();
        let at = directory.path().to_owned();
        let key = at.join("etc/spool.key");
        let spool = format!("spool: {{key_file: {}, dir: {}/spool}}\n", key.display(), at.display());
        let forward = "peers: [{name: lab, public_key: \"Bw0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0=\", \
             allowed_ips: [10.98.0.2/32]}]\nforwards: [{name: orders, listen: \"127.0.0.1:2575\", peer: lab, service: lab, \
             delivery: stored}]\n";
        let written = |more: &str| {
            let file = site(directory.path(), &format!("{spool}{more}"));
            let at = at.clone();
            let stored = load(&site(directory.path(), &format!("{spool}{forward}")));
            site(directory.path(), &format!("{spool}{more}"));
            confined(&file, move |confined| {
                let write = |path: &str| fs::write(at.join(path), "x").is_ok();
                drop(confined);
                // as a reload that begins the first queue does
                let spool = stored.spool.as_ref().unwrap();
                let made = make_first_key(&spool.key, &spool.dir, &Register::new(&stored.state_dir));
                let made = made.map_err(|error| error.to_string());
                (write("etc/wardlink.yaml") || write("etc/private.key"), made)
            })
        };
        // where nothing is stored, no key is made, and a reload that stores says what to do
        let (writes, made) = written("");
        if has_landlock() {
            let told = made.unwrap_err();
            assert!(told.contains("wardlink key psk") && told.contains("wardlink reload"), "{told}");
            assert!(!writes && !key.exists());
        }
        let (writes, made) = written(forward);
        assert!(!writes || !has_landlock());
        assert!(made.is_ok() && key.exists());
    }

    #[test]
    fn no_raw_socket_no_foreign_family_no_code_that_is_written_and_no_file_with_another_users_rights() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let directory = directory();
        let (at, file) = (directory.path().to_owned(), site(directory.path(), ""));
        let (sockets, status, modes) = confined(&file, move |_| {
            let open = |family, kind| socket(family, kind, SockFlag::empty(), None).map(drop);
            let sockets = [
                open(AddressFamily::Inet, SockType::Stream),
                open(AddressFamily::Inet6, SockType::Datagram),
                open(AddressFamily::Unix, SockType::Stream),
                open(AddressFamily::Netlink, SockType::Raw),
                open(AddressFamily::Inet, SockType::Raw),
                open(AddressFamily::Packet, SockType::Datagram),
                open(AddressFamily::Vsock, SockType::Stream),
            ];
            let path = at.join("state/x");
            fs::write(&path, "x").unwrap();
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).is_ok();
            (
                sockets,
                fs::read_to_string("/proc/thread-self/status").unwrap(),
                [mode(0o644), mode(0o4755), mode(0o2755)],
            )
        });
        let refused = Err(nix::errno::Errno::EPERM);
        assert_eq!(sockets, [Ok(()), Ok(()), Ok(()), Ok(()), refused, refused, refused]);
        assert_eq!(modes, [true, false, false]);
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:"] {
            let value = status.lines().find_map(|line| line.strip_prefix(set)).unwrap().trim();
            let held = u64::from_str_radix(value, 16).unwrap();
            let is_root = nix::unistd::Uid::effective().is_root();
            assert!(held & !rights::KEPT.bits() == 0 || !is_root || !has_landlock(), "{set} {value}");
        }
    }

    #[test]
    fn a_command_of_alarms_runs_and_writes_nowhere_else() {
        let directory = directory();
        let file = site(directory.path(), "alarms: {command: [/bin/true]}\n");
        let at = directory.path().to_owned();
        let (run, outside) = confined(&file, move |_| {
            let touch = Command::new("touch").arg(at.join("etc/x")).output().unwrap().status.success();
            (Command::new("/bin/true").status().unwrap().success(), touch)
        });
        assert!(run);
        assert!(!outside || !has_landlock());
    }

    #[test]
    fn a_configuration_that_is_a_link_into_another_directory_is_read_again_and_one_that_leads_away_says_so() {
        let directory = directory();
        let (at, file) = (directory.path().to_owned(), site(directory.path(), ""));
        fs::create_dir_all(at.join("real/elsewhere")).unwrap();
        fs::create_dir(at.join("away")).unwrap();
        fs::rename(&file, at.join("real/wardlink.yaml")).unwrap();
        fs::copy(at.join("real/wardlink.yaml"), at.join("away/wardlink.yaml")).unwrap();
        std::os::unix::fs::symlink("../real/wardlink.yaml", &file).unwrap();
        let asked = file.clone();
        let (go, gone) = std::sync::mpsc::channel();
        let (say, said) = std::sync::mpsc::channel();
        // who changes the link is not shut in
        let site = thread::spawn(move || {
            confined(&file, move |confined| {
                let check = || (fs::read(&asked).is_ok(), confined.check(&asked).map_err(|errors| errors.to_string()));
                let there = check();
                say.send(()).unwrap();
                gone.recv().unwrap();
                (there, check())
            })
        });
        said.recv().unwrap();
        let file = at.join("etc/wardlink.yaml");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("../away/wardlink.yaml", &file).unwrap();
        go.send(()).unwrap();
        let (there, (is_read, away)) = site.join().unwrap();
        assert_eq!(there, (true, Ok(())));
        if has_landlock() {
            let away = away.unwrap_err();
            assert!(!is_read && away.contains("away/wardlink.yaml") && away.contains("restart"), "{away}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_before_what_a_restart_would_allow() {
        let directory = directory();
        let file = site(directory.path(), "");
        fs::write(directory.path().join("etc/private.key"), config::SecretKey::new([1; 32]).to_base64()).unwrap();
        fs::set_permissions(directory.path().join("etc/private.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let next = directory.path().join("etc/next.yaml");
        let away = directory.path().join("away.key");
        fs::write(&away, "of another place").unwrap();
        fs::set_permissions(&away, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let peer = format!(
            "peers: [{{name: lab, public_key: \"Bw0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0=\", \
             allowed_ips: [10.98.0.2/32], preshared_key_file: {}}}]\n",
            away.display()
        );
        let ask = |more: &str| {
            fs::write(&next, format!("{text}{more}")).unwrap();
            let next = next.clone();
            confined(&file, move |confined| confined.load(&next).map(drop).map_err(|errors| errors.to_string()))
        };
        assert_eq!(ask(""), Ok(()));
        let wrong = ask("alarms: {command: 5}\n").unwrap_err();
        assert!(wrong.contains("is not a list") && !wrong.contains("restart"), "{wrong}");
        let right = ask("alarms: {command: [/bin/true]}\n").unwrap_err();
        assert!(right.contains("may run no program") && right.contains("restart"), "{right}");
        if has_landlock() {
            let hidden = ask(&peer).unwrap_err();
            assert!(hidden.contains("may not open it") && hidden.contains("restart"), "{hidden}");
            let both = ask(&format!("{peer}alarms: {{command: 5}}\n")).unwrap_err();
            assert!(
                both.contains("is not a list") && !both.contains("restart") && !both.contains("away.key"),
                "{both}"
            );
        }
    }

    #[test]
    fn what_a_reload_may_not_open_needs_a_restart() {
        let directory = directory();
        let file = site(directory.path(), "");
        let elsewhere = directory.path().join("elsewhere/lab.psk").display().to_string();
        let asked = file.clone();
        let at = directory.path().to_owned();
        let answers = confined(&file, move |confined| {
            // written by somebody else, whom nothing shuts in: the site only reads it
            let ask = |more: &str| {
                let (at, more) = (at.clone(), more.to_owned());
                fs::write(at.join("state/next.yaml"), format!("x: {more}\n")).unwrap();
                confined.check(&at.join("state/next.yaml")).map_err(|errors| errors.to_string())
            };
            let same = confined.check(&asked).map_err(|errors| errors.to_string());
            [same, ask("/etc/wardlink/lab.psk"), ask(&elsewhere), ask("1\nalarms: {command: [/bin/true]}")]
        });
        let [same, beside, elsewhere, command] = answers;
        assert_eq!((same, beside), (Ok(()), Ok(())));
        let elsewhere = elsewhere.unwrap_err();
        assert!(elsewhere.contains("elsewhere/lab.psk") && elsewhere.contains("restart"), "{elsewhere}");
        assert!(command.clone().unwrap_err().contains("alarms.command"), "{command:?}");
    }
}
