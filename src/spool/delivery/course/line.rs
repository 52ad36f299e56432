//! The connection to the receiver as the course sees it, and the pauses before another one.

use std::time::{Duration, Instant};

use crate::config::ReceiverPolicy;
use crate::mllp::control_ids::ControlIds;
use crate::mllp::dialect::Dialect;
use crate::mllp::exchange::Exchange;
use crate::mllp::frame::Limits;

/// Bounds a receiver's answer, in bytes: the field's are a few hundred, with an embedded report some hundred thousand.
const ANSWER_FRAME_BYTES_MAX: u64 = 1 << 20;

/// Tells what is known of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// Nothing yet.
    Unknown,
    /// It takes connections, and answered the last message that was sent.
    Up,
    /// It does not, for this reason: a stable code.
    Down(&'static str),
}

pub(super) enum Line {
    /// There is no connection; one may be opened.
    Down,
    /// None may be opened before this.
    Backoff { until: Instant },
    /// One is being opened.
    Dialing,
    /// One is open.
    Up(Box<Up>),
}

/// Is an open connection.
pub(super) struct Up {
    pub(super) exchange: Exchange,
    /// Is what the receiver spoke when it was opened.
    pub(super) dialect: Dialect,
    /// Tells whether a byte of a message was sent on it.
    pub(super) is_used: bool,
    pub(super) silence_at: Option<Instant>,
    /// Is until when it is had although somebody waits for one.
    pub(super) turn_until: Option<Instant>,
    pub(super) control_ids: ControlIds,
}

impl Line {
    pub(super) fn up(dialect: Dialect) -> Self {
        let limits = Limits { frame_bytes_max: ANSWER_FRAME_BYTES_MAX, framing: dialect.framing, ..Limits::default() };
        let exchange = Exchange::speaking(dialect.release, limits);
        let control_ids = ControlIds::default();
        Self::Up(Box::new(Up { exchange, dialect, is_used: false, silence_at: None, turn_until: None, control_ids }))
    }

    /// Tells whether one is open whose receiver has not committed the present message yet.
    pub(super) fn awaits_commit(&self) -> bool {
        matches!(self, Self::Up(up) if up.exchange.awaits_commit())
    }
}

impl Up {
    /// Returns how long what is awaited now may take.
    pub(super) fn patience(&self, policy: &ReceiverPolicy) -> Duration {
        let commit = self.dialect.release.commit().filter(|_| self.exchange.awaits_commit());
        commit.and_then(|commit| commit.timeout).unwrap_or(policy.ack_timeout)
    }

    /// Tells whether the next message may go over it, as far as the message is not asked.
    pub(super) fn is_fit(&self, policy: &ReceiverPolicy) -> bool {
        self.dialect == policy.dialect && !self.exchange.is_out_of_step()
    }
}

/// Makes pauses differ (SplitMix64), so that many senders do not come back at once.
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns something between half and all of a pause.
    pub(super) fn shorten(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = u32::try_from((mixed ^ (mixed >> 31)) >> 48).unwrap_or(0);
        let half = longest / 2;
        half + half.saturating_mul(part) / (1 << 16)
    }
}
