//! `wardlink demo`: two sites on this machine, HL7 through a real tunnel between them, and a look at the wire.
//!
//! Everything lives in this one process and in namespaces that end with it, so that nothing is left behind, however it
//! ends. It never touches the host's network, files or configuration.

mod capture;
mod confine;
mod findings;
mod frames;
mod messages;
mod mllp_peer;
mod needles;
mod place;
mod plan;
mod report;
mod sites;
mod story;
mod systems;
mod wire;

use std::cell::Cell;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::AppError;
use report::say;

/// Is the exit code for a demo that did not do what it promises.
const EXIT_FAILED: u8 = 1;

/// Is the exit code where the machine does not let this user build the sites.
const EXIT_NOT_PERMITTED: u8 = 77;

/// Is the exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// Is the exit code after SIGTERM.
const EXIT_TERMINATED: u8 = 143;

/// Ends a demo that hangs: it promises to take less than a minute.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(55);

/// Bounds the messages of one run: they are kept in memory, and so is what the wire carried (100 MB at the bound).
const MESSAGES_MAX: i64 = 2000;

/// Shows a real tunnel at work on this machine: no configuration, no leftovers.
///
/// Builds two sites, a hospital and a laboratory, in network namespaces of their own; sends synthetic HL7 messages both
/// ways through the encrypted tunnel between them; records the wire, and says whether any piece of a message was on it.
/// Needs root, or a kernel that lets users make namespaces. Exits with 0 where everything went as promised, 1 where it
/// did not, 77 where it is not permitted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many messages to send
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=MESSAGES_MAX))]
    messages: u32,
}

/// Runs the command; returns its exit code. To be called before the process has a second thread.
pub fn run(args: &Args) -> ExitCode {
    match played(args) {
        Ok(ended) => ended,
        Err(error) => {
            let text = format!("wardlink: {}\n", chain(&error));
            io::stderr().write_all(text.as_bytes()).ok();
            ExitCode::from(error.exit_code())
        }
    }
}

fn played(args: &Args) -> Result<ExitCode, DemoError> {
    let rights = confine::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| DemoError::System { what: "a runtime", source })?;
    let step = Cell::new("its beginning");
    let ended = runtime.block_on(async {
        let signals = |source| DemoError::System { what: "the signal handlers", source };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        tokio::select! {
            told = tokio::time::timeout(WHOLE_TIMEOUT, story::tell(args.messages, rights, &step)) => match told {
                Ok(held) => held.map(|held| if held { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }),
                Err(_) => Err(DemoError::TooLong { step: step.get() }),
            },
            _ = interrupt.recv() => Ok(interrupted(EXIT_INTERRUPTED)),
            _ = terminate.recv() => Ok(interrupted(EXIT_TERMINATED)),
        }
    });
    // The sites' threads may still drain; the process ends without them, and all namespaces with it.
    runtime.shutdown_background();
    ended
}

fn interrupted(code: u8) -> ExitCode {
    say("\nInterrupted: both sites are gone, and nothing is left behind.\n");
    ExitCode::from(code)
}

/// Says why the demo cannot be given.
#[derive(Debug, Error)]
enum DemoError {
    /// The kernel does not let this user.
    #[error("not permitted to {what}")]
    NotPermitted { what: &'static str, source: Errno },
    /// The kernel has no TUN.
    #[error("cannot open /dev/net/tun (load the kernel module with `modprobe tun`)")]
    NoTunDevice { source: io::Error },
    /// The TUN device is closed to this user.
    #[error("not permitted to open /dev/net/tun (run as root, or let users open it with `chmod 0666 /dev/net/tun`)")]
    TunDenied { source: io::Error },
    /// A namespace or a mount cannot be made, for another reason.
    #[error("cannot {what}")]
    Namespace { what: &'static str, source: Errno },
    /// The system refuses something plain.
    #[error("cannot get {what}")]
    System { what: &'static str, source: io::Error },
    /// The wire between the sites cannot be laid.
    #[error("cannot set up {what}")]
    Wire { what: &'static str, source: Box<rtnetlink::Error> },
    /// There is no randomness for the keys.
    #[error("the system gives no random bytes")]
    Random,
    /// A site does not start.
    #[error("the site {site} does not start")]
    Site { site: &'static str, source: AppError },
    /// A site ended, which it must not.
    #[error("the site {site} failed")]
    SiteFailed { site: &'static str, source: AppError },
    /// A site ended without an error, which it must not either.
    #[error("the site {site} ended by itself")]
    SiteEnded { site: &'static str },
    /// A thread ended before its time.
    #[error("the thread {thread} ended unexpectedly")]
    ThreadEnded { thread: &'static str },
    /// It hangs.
    #[error(
        "not done after {} seconds, still busy with {step}; on a slow or busy machine that may be all: try again, or \
         with fewer messages (--messages 50)",
        WHOLE_TIMEOUT.as_secs()
    )]
    TooLong { step: &'static str },
}

impl DemoError {
    /// Tells a refused permission from another errno.
    fn refused(what: &'static str, source: Errno) -> Self {
        use Errno::{EACCES, ENOSPC, EPERM};
        match source {
            // ENOSPC: user.max_user_namespaces is 0.
            EPERM | EACCES | ENOSPC => Self::NotPermitted { what, source },
            _ => Self::Namespace { what, source },
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NotPermitted { .. } | Self::NoTunDevice { .. } | Self::TunDenied { .. } => EXIT_NOT_PERMITTED,
            Self::Namespace { .. }
            | Self::System { .. }
            | Self::Wire { .. }
            | Self::Random
            | Self::Site { .. }
            | Self::SiteFailed { .. }
            | Self::SiteEnded { .. }
            | Self::ThreadEnded { .. }
            | Self::TooLong { .. } => EXIT_FAILED,
        }
    }
}

/// Writes an error with its sources, and what to do about it.
fn chain(error: &DemoError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        // A transparent error repeats its source.
        if !text.ends_with(&error.to_string()) {
            text = format!("{text}: {error}");
        }
        source = error.source();
    }
    if matches!(error, DemoError::NotPermitted { .. }) {
        text.push_str(WAYS_TO_PERMIT);
    }
    text
}

/// Says how to let the demo build its namespaces, the plainest way first.
const WAYS_TO_PERMIT: &str = "

The demo builds two sites in network namespaces, which this machine does not let this user do. Any of these helps:
  sudo wardlink demo
  sudo sysctl user.max_user_namespaces=10000             where it is 0
  sudo sysctl kernel.unprivileged_userns_clone=1         on Debian, where the setting exists
  sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0       on Ubuntu 23.10 and later
  docker run --privileged …                              in a container";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_way_out_and_exits_77() {
        for errno in [Errno::EPERM, Errno::EACCES, Errno::ENOSPC] {
            let error = DemoError::refused("make a user namespace", errno);
            assert_eq!(error.exit_code(), EXIT_NOT_PERMITTED);
            let text = chain(&error);
            assert!(
                text.contains("sudo wardlink demo") && text.contains("apparmor_restrict_unprivileged_userns"),
                "{text}"
            );
        }
        let error = DemoError::refused("make a user namespace", Errno::EINVAL);
        assert_eq!(error.exit_code(), EXIT_FAILED);
        assert!(!chain(&error).contains("sudo"));
    }

    #[test]
    fn a_demo_that_takes_too_long_says_what_it_was_doing() {
        let text = chain(&DemoError::TooLong { step: "the messages" });
        assert!(text.contains("55 seconds, still busy with the messages") && text.contains("busy machine"), "{text}");
    }

    #[test]
    fn a_missing_tun_device_names_the_module() {
        let error = DemoError::NoTunDevice { source: io::ErrorKind::NotFound.into() };
        assert_eq!(error.exit_code(), EXIT_NOT_PERMITTED);
        assert!(chain(&error).contains("modprobe tun"));
    }
}
