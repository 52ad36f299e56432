//! `wardlink forward`: pauses a stored forward, and resumes it.
//!
//! It changes no configuration: a pause outlives a restart, and ends by `resume` only.

use std::path::Path;
use std::process::ExitCode;

use super::queue::{Told, say};
use super::site::{SOCKET_DIRECTORY, SiteArgs};
use crate::control::queue::QueueAction;

/// Pauses a stored forward, or resumes it.
///
/// While it is paused, messages are still taken in, kept and acknowledged, as far as the queue has room; none goes on to
/// the receiver. A pause outlives a restart. Needs root, or the user that the site runs as.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
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

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    say(&told(args, Path::new(SOCKET_DIRECTORY)))
}

fn told(args: &Args, directory: &Path) -> Told {
    let (forward, action) = match &args.command {
        Command::Pause { forward } => (forward, QueueAction::Pause),
        Command::Resume { forward } => (forward, QueueAction::Resume),
    };
    super::queue::asked(&args.site, directory, forward, action, false)
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
