//! Whether the other side of a connection is still there: asks for an echo, and measures how long it takes. With each
//! question goes how far the audit logs are, and this site's new key where the peer may not know it.
//!
//! It never ends a connection on which anything was heard in time. Rules: design, delivery.md ("The link").

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::wire::{Told, told_in};
use crate::audit::Clerk;
use crate::config::Name;
use crate::tunnel::keys::KeyNews;

/// A link on which nothing came for so long is asked for an echo.
const PING_AFTER: Duration = Duration::from_secs(5);
/// A link that does not echo within this is given up; what it carries waits for the next one.
const ECHO_WITHIN: Duration = Duration::from_secs(5);
/// The same after a sign of life of the peer: its host answers now, or the connection is stale.
const ECHO_WITHIN_AWAKE: Duration = Duration::from_secs(1);

/// Knows what the two sites of a link tell each other beside what the link carries.
#[derive(Debug, Clone, Default)]
pub(super) struct Voice {
    /// Is of their audit logs.
    pub(super) clerk: Option<Clerk>,
    /// Is of their keys, and names the peer.
    pub(super) keys: Option<(KeyNews, Name)>,
}

/// Is what was asked and heard on one connection.
pub(super) struct Echo {
    heard: Mutex<Heard>,
    voice: Voice,
}

struct Heard {
    heard: Instant,
    asked: Option<Instant>,
    token: u64,
}

impl Echo {
    /// Begins with a connection.
    pub(super) fn new(voice: Option<&Voice>) -> Self {
        let heard = Mutex::new(Heard { heard: Instant::now(), asked: None, token: 0 });
        let voice = voice.cloned().unwrap_or_default();
        voice.clerk.iter().for_each(Clerk::begin_heads);
        Self { heard, voice }
    }

    /// Returns what goes with a question.
    pub(super) fn told(&self) -> Told {
        let heads = self.voice.clerk.as_ref().map(Clerk::heads).unwrap_or_default();
        Told { heads, new_key: self.voice.keys.as_ref().and_then(|(news, peer)| news.announcement(peer)) }
    }

    /// Takes in a record, where it says something of the audit logs or of the peer's key.
    pub(super) fn hear_record(&self, record: &[u8]) {
        let Some(told) = told_in(record) else { return };
        if let Some(clerk) = &self.voice.clerk {
            clerk.hear_heads(&told.heads);
        }
        if let (Some((news, peer)), Some(key)) = (&self.voice.keys, told.new_key) {
            news.hear(peer, key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something came.
    pub(super) fn hear(&self, now: Instant) {
        self.lock().heard = now;
    }

    /// Takes in an echo and returns the round trip, unless it is not of the last question.
    pub(super) fn answered(&self, token: u64, now: Instant) -> Option<Duration> {
        let mut heard = self.lock();
        let asked = heard.asked.filter(|_| token == heard.token)?;
        heard.asked = None;
        Some(now.duration_since(asked))
    }

    /// Asks by `ping` where nothing came for long, or the peer woke; returns where no echo comes. Cancel-safe.
    pub(super) async fn ask(&self, awake: &Notify, mut ping: impl FnMut(u64)) {
        let mut due = Instant::now(); // measures the round trip once at the start
        loop {
            let within = tokio::select! {
                () = tokio::time::sleep_until(due.into()) => ECHO_WITHIN,
                () = awake.notified() => ECHO_WITHIN_AWAKE,
            };
            let asked = Instant::now();
            let token = {
                let mut heard = self.lock();
                heard.token += 1;
                heard.asked = Some(asked);
                heard.token
            };
            ping(token);
            await_echo(awake, asked + within).await;
            let heard = self.lock().heard;
            if heard < asked {
                return;
            }
            due = heard.max(asked) + PING_AFTER;
        }
    }
}

/// Waits until an echo is overdue; a sign of life of the peer meanwhile brings that nearer.
async fn await_echo(awake: &Notify, mut until: Instant) {
    while Instant::now() < until {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => return,
            () = awake.notified() => until = until.min(Instant::now() + ECHO_WITHIN_AWAKE),
        }
    }
}
