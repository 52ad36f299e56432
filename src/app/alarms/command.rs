//! Runs a program for one alarm, without a shell: what it is about stands in its environment, and as JSON on its input.
//!
//! Bounded in time and in what is read of its output; whatever it started is ended with it. It gets an environment of its
//! own, nothing of this process's.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::health::alarms::Event;
use crate::health::facts::rfc3339_text;

/// Bounds a run: a page goes out in seconds.
const RUN_WITHIN: Duration = Duration::from_secs(30);
/// Limits what is read of its output, in bytes; the rest is read and forgotten.
const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// Is where it finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command for an alarm.
///
/// # Errors
/// Says how it failed.
pub(super) async fn run(words: &[String], event: &Event) -> Result<(), String> {
    let (Some(program), arguments) = (words.first(), words.get(1..).unwrap_or_default()) else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    for (name, value) in variables(event) {
        command.env(name, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let input = serde_json::to_vec(event).unwrap_or_default();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that reads nothing is none the worse.
            stdin.write_all(&input).await.ok();
        }
    };
    let work = async { tokio::join!(feed, drain(stdout), drain(stderr), child.wait()) };
    let Ok(((), output, errors, status)) = tokio::time::timeout(RUN_WITHIN, work).await else {
        // What it started holds its output, and goes with it.
        if let Some(group) = group {
            killpg(group, Signal::SIGKILL).ok();
        }
        return Err(format!("{program} took longer than {RUN_WITHIN:?} and was ended"));
    };
    tracing::debug!(program, output = %output.escape_debug(), errors = %errors.escape_debug(), "the command of alarms has run");
    judge(program, status)
}

fn judge(program: &str, status: io::Result<ExitStatus>) -> Result<(), String> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} ended with {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Says what an alarm is about, as the environment of its command.
fn variables(event: &Event) -> [(&'static str, String); 8] {
    [
        ("WARDLINK_ID", event.id.to_string()),
        ("WARDLINK_SITE", event.site.clone()),
        ("WARDLINK_EVENT", event.event.as_str().to_owned()),
        ("WARDLINK_ALARM", event.alarm.as_str().to_owned()),
        ("WARDLINK_OF", event.of.clone()),
        ("WARDLINK_SINCE", rfc3339_text(event.since)),
        ("WARDLINK_AT", rfc3339_text(event.at)),
        ("WARDLINK_CAUSE", event.cause.clone()),
    ]
}

/// Reads all of an output and keeps its begin.
async fn drain(from: Option<impl AsyncRead + Unpin>) -> String {
    let (mut kept, mut some) = (Vec::new(), [0; 1024]);
    if let Some(mut from) = from {
        while let Ok(bytes @ 1..) = from.read(&mut some).await {
            let room = OUTPUT_BYTES_MAX - kept.len().min(OUTPUT_BYTES_MAX);
            kept.extend(some.iter().take(bytes.min(room)));
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
