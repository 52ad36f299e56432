//! Alarms of a running site: looks at its facts, keeps what is raised and what is to be told, and has it told.
//!
//! What starts or clears is on disk before anybody is told, so that a restart tells nothing twice and forgets
//! nothing; `health::alarms` decides what is an alarm.

mod command;
mod webhook;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::Parts;
use crate::config::Alarms as Config;
use crate::health::alarms::{AlarmFacts, Alarms, Course, EVENTS_WAITING_MAX, Event, Kept, Teller, latency_limits};
use crate::link::cause_chain;

/// Is the time between two looks: an alarm is a matter of minutes, and a look gathers all facts of the site.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Is how often the rhythm of feeds is kept where nothing else is: a crash forgets no more.
const KEEP_EVERY: Duration = Duration::from_secs(300);
/// Is the pause after the first failure to tell; it doubles each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Is the longest such pause: somebody is told this late, at the most, after the way is open again.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Is how often a command is run for one event: one that fails on it each time would call somebody for ever.
const COMMAND_RUNS_MAX: u32 = 3;
/// Is what is kept, in `state_dir`.
const FILE_NAME: &str = "alarms.json";
/// Limits that file: a larger one is not ours.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Is the site's alarms, and what wakes those who tell of them.
pub(super) struct Board {
    alarms: Mutex<Alarms>,
    path: PathBuf,
    changed: watch::Sender<()>,
    /// Is held by who writes the file; and from before something is to be told until that is in the file, by who looks: who
    /// tells takes nothing that is not.
    writing: tokio::sync::Mutex<()>,
}

impl Board {
    /// Goes on from what an earlier run kept.
    pub(super) fn new(state_dir: &Path, started: SystemTime) -> Self {
        let path = state_dir.join(FILE_NAME);
        let alarms = Mutex::new(Alarms::new(load(&path), started));
        Self { alarms, path, changed: watch::Sender::new(()), writing: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what is raised.
    pub(super) fn facts(&self) -> Vec<AlarmFacts> {
        self.lock().raised()
    }

    /// Returns what is to be told next, once it is in the file.
    async fn next(&self, teller: Teller) -> Option<Event> {
        let _writing = self.writing.lock().await;
        self.lock().news.next(teller)
    }

    /// Takes note that somebody was told; says whether that is in the file.
    async fn told(&self, teller: Teller, id: u64) -> bool {
        let writing = self.writing.lock().await;
        self.lock().news.told(teller, id);
        self.keep(&writing).await
    }

    /// Replaces the file, outside of the runtime's thread: the disk may be slow. One at a time, so that the last one has all.
    async fn keep(&self, _writing: &tokio::sync::MutexGuard<'_, ()>) -> bool {
        let (kept, path) = (self.lock().kept(), self.path.clone());
        let stored = tokio::task::spawn_blocking(move || store(&path, &kept)).await;
        if let Ok(Err(error)) = &stored {
            tracing::warn!(%error, path = %self.path.display(), "a restart may tell of alarms again");
        }
        matches!(stored, Ok(Ok(())))
    }
}

impl Parts {
    /// Looks at the site for ever.
    pub(super) async fn look_at_alarms(self: Arc<Self>) {
        let mut kept_at = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let config = self.now.get().config.alarms.clone();
            let latencies = latency_limits(&config.limits);
            self.now.get().forwards.iter().for_each(|forward| forward.tally().watch_latency(latencies));
            let facts = self.facts();
            let writing = self.alarms.writing.lock().await;
            let events = {
                let mut alarms = self.alarms.lock();
                let events = alarms.handle_look(&facts, &config.limits, Instant::now(), SystemTime::now());
                events.iter().for_each(|event| wait(&mut alarms, &config, event));
                events
            };
            if !events.is_empty() || kept_at.elapsed() >= KEEP_EVERY {
                kept_at = Instant::now();
                self.alarms.keep(&writing).await;
                events.iter().for_each(log);
                self.alarms.changed.send_replace(());
            }
        }
    }

    /// Posts what waits for the webhook, in order, for ever.
    pub(super) async fn tell_webhook(self: Arc<Self>) {
        self.tell(Teller::Webhook, |config, event, _| async move {
            let Some(to) = config.webhook else { return Some(Ok(())) };
            Some(webhook::post(&to, &event).await)
        })
        .await;
    }

    /// Runs the command for what waits for it, one after the other, for ever.
    pub(super) async fn tell_command(self: Arc<Self>) {
        self.tell(Teller::Command, |config, event, runs| async move {
            let Some(words) = config.command else { return Some(Ok(())) };
            match command::run(&words, &event).await {
                Err(cause) if runs >= COMMAND_RUNS_MAX => {
                    tracing::error!(%cause, runs, id = event.id, "the command of alarms failed: given up for this one");
                    None
                }
                told => Some(told),
            }
        })
        .await;
    }

    /// Tells one after the other; none: it is given up.
    async fn tell<F>(&self, teller: Teller, tell: impl Fn(Config, Event, u32) -> F)
    where
        F: Future<Output = Option<Result<(), String>>>,
    {
        let mut changed = self.alarms.changed.subscribe();
        let (mut pause, mut tries) = (RETRY_MIN, 0);
        loop {
            changed.borrow_and_update();
            let Some(event) = self.alarms.next(teller).await else {
                changed.changed().await.ok();
                continue;
            };
            let config = self.now.get().config.alarms.clone();
            let id = event.id;
            tries += 1;
            let told = tell(config, event, tries).await;
            if let Some(Err(cause)) = told {
                if tries == 1 {
                    let waiting = self.alarms.lock().news.waiting(teller);
                    tracing::warn!(%cause, waiting, "cannot tell of an alarm by the {}: tried again", word(teller));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                continue;
            }
            if tries > 1 && told.is_some() {
                tracing::info!(tries, "told of an alarm by the {}", word(teller));
            }
            (pause, tries) = (RETRY_MIN, 0);
            self.alarms.told(teller, id).await;
        }
    }
}

fn word(teller: Teller) -> &'static str {
    match teller {
        Teller::Webhook => "webhook",
        Teller::Command => "command",
    }
}

/// Has an event wait for those who are configured.
fn wait(alarms: &mut Alarms, config: &Config, event: &Event) {
    for (teller, is_there) in [(Teller::Webhook, config.webhook.is_some()), (Teller::Command, config.command.is_some())]
    {
        if is_there && alarms.news.push(teller, event.clone()) {
            let max = EVENTS_WAITING_MAX;
            tracing::error!(
                max,
                "the oldest alarm that waited for the {} is given up: it could not be told",
                word(teller)
            );
        }
    }
}

fn log(event: &Event) {
    let Event { alarm, of, cause, .. } = event;
    let alarm = alarm.as_str();
    match event.event {
        Course::Start => tracing::warn!(alarm, %of, %cause, "alarm starts"),
        Course::Clear => tracing::info!(alarm, %of, was = %cause, "alarm clears"),
    }
}

/// Reads what an earlier run kept; what is missing or damaged gives nothing.
fn load(path: &Path) -> Kept {
    let read = || -> io::Result<Kept> {
        let file = std::fs::metadata(path)?;
        if !file.is_file() || file.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("it is not a file of this program"));
        }
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    match read() {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
        Err(error) => {
            let cause = cause_chain(&error);
            tracing::warn!(%cause, path = %path.display(), "alarms begin anew: the file of the earlier ones cannot be read");
            Kept::default()
        }
    }
}

/// Replaces the file whole, so that a crash leaves the old or the new one.
fn store(path: &Path, kept: &Kept) -> io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(kept)?)?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> Event {
        let text = format!(
            r#"{{"id":{id},"site":"a","event":"start","alarm":"down","of":"forward a","since":"2026-01-01T00:00:00Z",
                "at":"2026-01-01T00:00:00Z","cause":"{}"}}"#,
            "c".repeat(200)
        );
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn nobody_is_told_what_is_not_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let board = Board::new(directory.path(), SystemTime::now());
        let writing = board.writing.lock().await;
        board.lock().news.push(Teller::Webhook, event(1));
        let early = tokio::time::timeout(Duration::from_millis(50), board.next(Teller::Webhook)).await;
        assert!(early.is_err(), "it waits for who writes");
        assert!(board.keep(&writing).await);
        drop(writing);
        assert_eq!(board.next(Teller::Webhook).await.map(|event| event.id), Some(1));
    }

    /// A file of which one part is from one state and one from another, or none, is what writers at once would leave.
    #[tokio::test]
    async fn who_is_told_at_once_leaves_the_file_as_the_last_one_had_it() {
        let directory = tempfile::tempdir().unwrap();
        let board = Arc::new(Board::new(directory.path(), SystemTime::now()));
        for id in 1..=200 {
            board.lock().news.push(Teller::Webhook, event(id));
            board.lock().news.push(Teller::Command, event(id));
        }
        let telling = [Teller::Webhook, Teller::Command].map(|teller| {
            let board = Arc::clone(&board);
            tokio::spawn(async move {
                while let Some(event) = board.next(teller).await {
                    assert!(board.told(teller, event.id).await, "it is in the file");
                    let kept = std::fs::read(&board.path).unwrap();
                    serde_json::from_slice::<Kept>(&kept).unwrap();
                }
            })
        });
        for one in telling {
            one.await.unwrap();
        }
        assert!(!board.path.with_extension("new").exists(), "what was written took its place");
        let kept: Kept = serde_json::from_slice(&std::fs::read(&board.path).unwrap()).unwrap();
        assert_eq!(kept, board.lock().kept());
    }
}
