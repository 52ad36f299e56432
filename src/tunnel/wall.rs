//! Looks at the clocks, does what `clock` says, and keeps on disk how late the handshakes were.
//!
//! It never decides: `clock` does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::AbortHandle;

use super::change::Control;
use super::clock::{Clock, Event};
use super::{Shared, TunnelError};

/// The clocks are looked at this often: a step has an effect within a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time is kept on disk this often: a restart notices a clock that was set back by more, and no disk wears out.
const KEEP_EVERY: Duration = Duration::from_secs(300);
/// The file holds one number; more than this is not ours, in bytes.
const FILE_BYTES_MAX: u64 = 32;
/// Holds the latest time that a handshake carried, in seconds since 1970.
const FILE_NAME: &str = "clock";

/// Starts to follow the clock, and says where it is behind an earlier run.
pub(super) fn start(state_dir: &Path) -> Clock {
    let now = Instant::now();
    let clock = Clock::new(wall(), now, load(&state_dir.join(FILE_NAME)));
    if let Some(behind) = clock.behind(now) {
        let behind = text(behind);
        tracing::warn!(
            %behind,
            "the clock is behind what it was before this start: peers take this site's handshakes for replays until it \
             has caught up, or until they begin one themselves; set the clock"
        );
    }
    clock
}

/// Starts the task that looks at the clocks.
pub(super) fn spawn(shared: &Arc<Shared>, control: &Arc<Control>, state_dir: PathBuf) -> AbortHandle {
    tokio::spawn(watch(Arc::clone(shared), Arc::clone(control), state_dir)).abort_handle()
}

async fn watch(shared: Arc<Shared>, control: Arc<Control>, state_dir: PathBuf) {
    let mut kept: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let (event, stamped) = {
            let mut clock = shared.clock.lock().unwrap_or_else(PoisonError::into_inner);
            (clock.look(wall(), now), clock.stamped(now))
        };
        if let Some(event) = event {
            say(event);
        }
        if matches!(event, Some(Event::Forward(_))) {
            control.renew().await;
        }
        if event.is_some() || kept.is_none_or(|at| now.duration_since(at) >= KEEP_EVERY) {
            kept = Some(now);
            let path = state_dir.join(FILE_NAME);
            // The disk may be slow: messages must not wait for it.
            let stored = tokio::task::spawn_blocking(move || store(&path, stamped)).await;
            if let Ok(Err(error)) = stored {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a restart will not notice that the clock was set back");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn say(event: Event) {
    match event {
        Event::Forward(by) => {
            let by = text(by);
            tracing::warn!(%by, "the clock was set forward: handshakes carry the new time, sessions go on");
        }
        Event::Back(by) => {
            let by = text(by);
            tracing::warn!(
                %by,
                "the clock was set back: handshakes go on from the time before; after a restart peers take them for \
                 replays until the clock has caught up, or until they begin one themselves"
            );
        }
        Event::CaughtUp => tracing::info!("the clock is later than in any earlier run: peers accept handshakes"),
        Event::GivenUp => {
            tracing::warn!("the clock has not caught up with an earlier run for a day; that is forgotten")
        }
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Shows a duration in whole seconds, which is all that matters of a clock's step.
fn text(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

/// Reads the time of an earlier run; a file that is missing or damaged gives none.
fn load(path: &Path) -> Option<Duration> {
    let is_ours = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    let seconds = std::fs::read_to_string(path).ok().filter(|_| is_ours)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Replaces the file whole, so that a crash leaves the old or the new one.
fn store(path: &Path, stamped: Duration) -> Result<(), TunnelError> {
    let fresh = path.with_extension("new");
    let write = || -> io::Result<()> {
        std::fs::write(&fresh, format!("{}\n", stamped.as_secs()))?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(|source| TunnelError::Clock { path: path.to_owned(), source })
}
