//! One stream of a link: its phase, its two directions, what it owes to the wire.
//!
//! Pure. It decides nothing about other streams or the connection; `streams` does.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::half::{RecvHalf, SendHalf, Transmit, Violation};
use super::streams::Side;
use super::wire::{Cause, DATA_BYTES_MAX, Record, StreamId, encode};

pub(super) enum Phase {
    Opening { on_wire: bool, refusal: Option<Cause>, retry_at: Option<Instant>, pause: Duration },
    Connecting,
    Open,
}

pub(super) struct Stream {
    pub(super) wire: StreamId,
    pub(super) phase: Phase,
    pub(super) first_byte: Option<Instant>,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    pub(super) queued: bool,
    pub(super) owes_accept: bool,
    pub(super) owes_credit: bool,
    pub(super) failed: Option<Cause>,
    /// Is why the stream is reset as soon as the last bytes went; it stays until they are confirmed.
    pub(super) reset: Option<Cause>,
    pub(super) reset_told: bool,
    pub(super) detached: bool,
}

impl Stream {
    pub(super) fn new(wire: StreamId, phase: Phase) -> Self {
        Self {
            wire,
            phase,
            first_byte: None,
            send: SendHalf::new(),
            recv: RecvHalf::new(),
            queued: false,
            owes_accept: false,
            owes_credit: false,
            failed: None,
            reset: None,
            reset_told: false,
            detached: false,
        }
    }

    pub(super) fn is_on_wire(&self) -> bool {
        !matches!(self.phase, Phase::Opening { on_wire: false, .. })
    }

    /// Tells whether bytes of the sender wait here: for a receiver that cannot be reached, or for a link that is down.
    /// Only the near side holds.
    pub(super) fn is_held(&self, side: Side, connected: bool) -> bool {
        match &self.phase {
            Phase::Opening { refusal, .. } => refusal.is_some() || !connected,
            Phase::Open => side == Side::Near && !connected && self.send.has_unacked(),
            Phase::Connecting => false,
        }
    }

    /// Frees what the other side has; not before the receiver is connected, so that all can be sent again.
    /// Tells whether that made room where there was none.
    pub(super) fn handle_ack(&mut self, ack: u64) -> Result<bool, Violation> {
        match self.phase {
            Phase::Opening { .. } => Ok(false),
            Phase::Connecting | Phase::Open => self.send.handle_ack(ack),
        }
    }

    /// Says when the bytes that wait for a receiver have waited long enough.
    pub(super) fn hold_deadline(&self, hold_for: Duration) -> Option<Instant> {
        let opening = matches!(self.phase, Phase::Opening { .. });
        self.first_byte.filter(|_| opening && !hold_for.is_zero()).map(|since| since + hold_for)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.send.is_acked() && self.recv.is_end_taken() && self.recv.untold() == 0
    }

    /// Appends this stream's records, one DATA at the most, and tells whether there is more.
    pub(super) fn transmit(&mut self, window: u64, out: &mut BytesMut) -> bool {
        if self.failed.is_some() || !self.is_on_wire() {
            return false;
        }
        if std::mem::take(&mut self.owes_accept) {
            encode(&Record::Accept(self.wire), out);
        }
        if std::mem::take(&mut self.owes_credit) {
            let limit = self.recv.grant(window);
            encode(&Record::Credit { stream: self.wire, ack: self.recv.tell(), limit }, out);
        }
        match self.send.poll_transmit(DATA_BYTES_MAX) {
            Some(Transmit::Data { offset, bytes }) => {
                let ack = self.recv.tell();
                encode(&Record::Data { stream: self.wire, offset, ack, bytes }, out);
            }
            Some(Transmit::Fin { offset }) => {
                let ack = self.recv.tell();
                encode(&Record::Fin { stream: self.wire, offset, ack }, out);
            }
            None => {}
        }
        let has_more = self.send.has_to_send();
        if let Some(cause) = self.reset.filter(|_| !has_more && !self.reset_told) {
            encode(&Record::Reset { stream: self.wire, cause }, out);
            self.reset_told = true;
        }
        has_more
    }
}
