//! Sends the audit log to a repository of IHE ATNA, at its own pace and from its files: no message waits for it.
//!
//! Syslog has no answer, so that TCP is all that tells what arrived: an entry counts as taken once the connection has stood
//! for longer behind it than TCP lets bytes wait for their acknowledgement. How far that is survives a kill; what comes
//! behind it is sent again: at least once. The rules are those of RFC 5425 and RFC 6587, 3.4.1.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Parts;
use super::account::AUDIT_DIR;
use super::outward::dial;
use crate::audit::{Account, Cursor, Event, Piece, Record, Subject, atna, read_head};
use crate::config::{Atna, Config};
use crate::health::facts::{AtnaFacts, FailedAudit};
use crate::link::inside::tune;
use crate::tls::Socket;

/// Names, in the directory of the log, what says how far it was taken.
const FILE_NAME: &str = "atna";
/// Is how many entries are sent at once: some 200 KB.
const ENTRIES_MAX: usize = 128;
/// Is the time between two looks for what is new.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bounds the look-up, the connection and the handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Bounds the wait for what is sent at once: a repository that takes nothing for so long is none.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes that are not acknowledged for so long end the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// What was sent so long ago on a connection that stands is taken: half as long again as the above.
const TAKEN_AFTER: Duration = Duration::from_secs(15);
/// A connection that has stood for so long is one: a repository that refuses a certificate closes at once.
const STANDS_AFTER: Duration = Duration::from_secs(3);
/// Is the pause after the first failure; it doubles each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Is the longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Bounds what a repository says, which is nothing, in reads.
const READS_MAX: usize = 16;

/// Is what is known of the way to the repository.
#[derive(Debug, Default)]
pub(super) struct Export {
    facts: Mutex<Option<AtnaFacts>>,
    first: Mutex<First>,
}

/// Says behind which entry a repository begins of which nothing is kept.
#[derive(Debug, Default)]
enum First {
    /// No repository was named yet.
    #[default]
    Unknown,
    /// A reload named one: the log will say which entry that is.
    Told(oneshot::Receiver<u64>),
    Behind(u64),
}

impl Export {
    fn lock(&self) -> MutexGuard<'_, Option<AtnaFacts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_first(&self) -> MutexGuard<'_, First> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a repository that a reload named begin behind an entry, once its number is known.
    pub(super) fn begin_behind(&self, told: oneshot::Receiver<u64>) {
        *self.lock_first() = First::Told(told);
    }

    /// Returns behind which entry a repository begins; none where that is not known yet.
    async fn first(&self) -> Option<u64> {
        let first = std::mem::take(&mut *self.lock_first());
        let behind = match first {
            First::Unknown => return None,
            First::Told(told) => told.await.unwrap_or_default(),
            First::Behind(behind) => behind,
        };
        *self.lock_first() = First::Behind(behind);
        Some(behind)
    }

    /// Tells how it is; `last` is the last entry that is durable.
    pub(super) fn facts(&self, last: u64) -> Option<AtnaFacts> {
        let facts = self.lock().clone();
        facts.map(|facts| AtnaFacts { unsent: last.saturating_sub(facts.sent), ..facts })
    }

    fn note(&self, note: impl FnOnce(&mut AtnaFacts)) {
        if let Some(facts) = self.lock().as_mut() {
            note(facts);
        }
    }

    fn fail(&self, cause: String) {
        self.note(|facts| {
            facts.connected = false;
            facts.sent = facts.taken;
            match &mut facts.failed {
                Some(failed) => failed.cause = cause,
                none => {
                    tracing::warn!(server = %facts.server, %cause, "the audit log cannot be sent: it waits in its files");
                    *none = Some(FailedAudit { since: SystemTime::now(), cause });
                }
            }
        });
    }

    fn stands(&self) {
        self.note(|facts| {
            facts.connected = true;
            if facts.failed.take().is_some() {
                tracing::info!(server = %facts.server, "the audit log is sent again");
            }
        });
    }
}

/// Has what this start of the site records be the first that a new repository gets: what was before is for
/// `wardlink audit export`.
pub(super) fn begin(config: &Config) -> Export {
    let directory = config.state_dir.join(AUDIT_DIR);
    let first = match () {
        () if config.atna.is_none() => First::Unknown,
        // Where that is removed later, all is sent: twice is better than never.
        () if directory.join(FILE_NAME).exists() => First::Behind(0),
        () => {
            let last = read_head(&directory).ok().flatten().map_or(0, |(n, _)| n);
            let made = std::fs::create_dir_all(&directory).and_then(|()| keep(&directory, last));
            warn_unless(made);
            First::Behind(last)
        }
    };
    Export { facts: Mutex::default(), first: Mutex::new(first) }
}

fn warn_unless(kept: io::Result<()>) {
    if let Err(error) = kept {
        tracing::warn!(%error, "cannot keep how far the audit log is sent: a restart may send more of it");
    }
}

impl Parts {
    /// Sends for ever, wherever the configuration says.
    pub(super) async fn export_audit(self: Arc<Self>) {
        let mut pause = RETRY_MIN;
        loop {
            let running = self.now.get();
            let Some(to) = running.config.atna.clone() else {
                *self.atna.lock() = None;
                sleep(LOOK_EVERY).await;
                continue;
            };
            let directory = running.config.state_dir.join(AUDIT_DIR);
            let Some(after) = self.begins_behind(&directory).await else {
                sleep(LOOK_EVERY).await;
                continue;
            };
            {
                let mut facts = self.atna.lock();
                let before = facts.take();
                let (lost, failed) = before.map_or((0, None), |before| (before.lost, before.failed));
                let server = to.server.to_string();
                *facts =
                    Some(AtnaFacts { server, connected: false, sent: after, taken: after, unsent: 0, lost, failed });
            }
            let begun = Instant::now();
            match self.session(&to, directory, after).await {
                Ok(()) => pause = RETRY_MIN,
                Err(cause) => {
                    self.atna.fail(cause);
                    if begun.elapsed() >= CONNECT_WITHIN + STANDS_AFTER {
                        pause = RETRY_MIN;
                    }
                    let is_another = timeout(pause, until(|| self.is_another(&to))).await.is_ok();
                    pause = if is_another { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
                }
            }
        }
    }

    /// Returns the last entry that the repository has, or is not to get; none while that is not known.
    async fn begins_behind(&self, directory: &Path) -> Option<u64> {
        if directory.join(FILE_NAME).exists() {
            return Some(kept(directory, self.last_durable(0).await));
        }
        let first = self.atna.first().await?;
        // What it begins behind is durable first: a log that ends before it is another one.
        self.last_durable(first).await;
        let directory = directory.to_owned();
        let stored = tokio::task::spawn_blocking(move || keep(&directory, first)).await;
        stored.into_iter().for_each(warn_unless);
        Some(first)
    }

    fn is_another(&self, than: &Atna) -> bool {
        self.now.get().config.atna.as_ref() != Some(than)
    }

    /// Returns the last durable entry, once that is so far.
    async fn last_durable(&self, least: u64) -> u64 {
        loop {
            match self.account.facts().synced {
                Some((last, _)) if last >= least => return last,
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Sends on one connection until the configuration differs.
    async fn session(&self, to: &Atna, directory: PathBuf, after: u64) -> Result<(), String> {
        let connected = tokio::select! {
            connected = timeout(CONNECT_WITHIN, connect(to)) => connected,
            () = until(|| self.is_another(to)) => return Ok(()),
        };
        let mut socket = connected.map_err(|_| format!("it did not answer within {CONNECT_WITHIN:?}"))??;
        let begun = Instant::now();
        let mut cursor = Cursor::new(&directory, after);
        let mut sent: VecDeque<(u64, Instant)> = VecDeque::new();
        loop {
            if self.is_another(to) {
                return Ok(());
            }
            if is_closed(&socket) {
                return Err("it closed the connection".to_owned());
            }
            if begun.elapsed() >= STANDS_AFTER {
                self.atna.stands();
            }
            self.take(&directory, &mut sent).await;
            let through = self.last_durable(0).await;
            if cursor.after() >= through {
                tokio::select! {
                    () = sleep(LOOK_EVERY) => {}
                    () = socket.readable() => sleep(LOOK_EVERY / 10).await,
                }
                continue;
            }
            let (next, piece) = read(cursor, through).await?;
            cursor = next;
            self.note_missing(piece.missing);
            let mut bytes = Vec::new();
            piece.entries.iter().for_each(|entry| atna::frame(entry, std::process::id(), &mut bytes));
            if piece.entries.is_empty() {
                sleep(LOOK_EVERY).await;
            }
            let written = timeout(WRITE_WITHIN, socket.write_all(&bytes)).await;
            written.map_err(|_| format!("it took nothing for {WRITE_WITHIN:?}"))?.map_err(|error| error.to_string())?;
            sent.push_back((cursor.after(), Instant::now()));
            self.atna.note(|facts| facts.sent = cursor.after());
        }
    }

    /// Notes what is taken by now.
    async fn take(&self, directory: &Path, sent: &mut VecDeque<(u64, Instant)>) {
        let taken = sent.iter().take_while(|(_, at)| at.elapsed() >= TAKEN_AFTER).count();
        let Some((last, _)) = sent.drain(..taken).next_back() else { return };
        let directory = directory.to_owned();
        let stored = tokio::task::spawn_blocking(move || keep(&directory, last)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(%error, "cannot keep how far the audit log is sent: a restart sends more of it again");
        }
        self.atna.note(|facts| facts.taken = last);
    }

    /// Says in the log itself what the repository never gets.
    fn note_missing(&self, missing: u64) {
        if missing == 0 {
            return;
        }
        let detail = "removed in time (audit.keep, audit.max_size) before the audit repository had them".to_owned();
        let record = Record::new(SystemTime::now(), Event::Lost, Subject::default());
        tracing::error!(entries = missing, "entries of the audit log were removed before they could be sent");
        self.account.record(Record { count: missing, detail, ..record });
        self.atna.note(|facts| facts.lost += missing);
    }
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(LOOK_EVERY).await;
    }
}

async fn connect(to: &Atna) -> Result<Socket, String> {
    let tcp = dial(&to.server, false).await.map_err(|error| error.to_string())?;
    tune(&tcp, UNACKNOWLEDGED_MAX).map_err(|error| error.to_string())?;
    match &to.tls {
        None => Ok(Socket::plain(tcp)),
        Some(tls) => Socket::connect(tcp, tls).await.map_err(|failure| failure.to_string()),
    }
}

/// Reads the log outside of the runtime's thread: its disk may be slow.
async fn read(mut cursor: Cursor, through: u64) -> Result<(Cursor, Piece), String> {
    let read = tokio::task::spawn_blocking(move || {
        let piece = cursor.read(through, ENTRIES_MAX);
        (cursor, piece)
    });
    let (cursor, piece) = read.await.map_err(|error| error.to_string())?;
    Ok((cursor, piece.map_err(|error| error.to_string())?))
}

/// Tells whether the repository has ended the connection; what it says is forgotten.
fn is_closed(socket: &Socket) -> bool {
    let mut some = [0; 256];
    for _ in 0..READS_MAX {
        match socket.try_read(&mut some) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
    false
}

/// Returns how far the log was taken. Of a log that ends before that, or where it cannot be told, all is sent: twice is better
/// than never.
fn kept(directory: &Path, last: u64) -> u64 {
    let text = std::fs::read_to_string(directory.join(FILE_NAME)).unwrap_or_default();
    text.trim_end().parse().ok().filter(|after| *after <= last).unwrap_or(0)
}

fn keep(directory: &Path, taken: u64) -> io::Result<()> {
    let draft = directory.join("atna.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "{taken}")?;
    file.sync_data()?;
    std::fs::rename(&draft, directory.join(FILE_NAME))
}

/// Tells how the log is sent.
pub(super) fn facts(export: &Export, account: &Account) -> Option<AtnaFacts> {
    export.facts(account.facts().synced.map_or(0, |(last, _)| last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_was_taken_is_kept_and_what_is_odd_there_sends_more() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kept(directory.path(), 9), 0);
        keep(directory.path(), 7).unwrap();
        assert_eq!((kept(directory.path(), 9), kept(directory.path(), 7), kept(directory.path(), 6)), (7, 7, 0));
        std::fs::write(directory.path().join(FILE_NAME), "x").unwrap();
        assert_eq!(kept(directory.path(), 9), 0);
    }

    #[test]
    fn a_failure_is_said_with_its_begin_and_what_was_sent_counts_no_more() {
        let export = Export::default();
        export.fail("nobody is asked".into());
        assert!(export.facts(9).is_none());
        let facts = AtnaFacts {
            server: "audit.example:6514".into(),
            connected: true,
            sent: 8,
            taken: 5,
            unsent: 0,
            lost: 0,
            failed: None,
        };
        *export.lock() = Some(facts);
        assert_eq!(export.facts(9).unwrap().unsent, 1);
        export.fail("it closed the connection".into());
        let since = export.facts(9).unwrap().failed.unwrap().since;
        export.fail("refused".into());
        let facts = export.facts(9).unwrap();
        let failed = facts.failed.unwrap();
        assert_eq!((facts.unsent, facts.connected, failed.since, failed.cause.as_str()), (4, false, since, "refused"));
        export.stands();
        assert!(export.facts(9).unwrap().failed.is_none());
    }
}
