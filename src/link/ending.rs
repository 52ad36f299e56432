//! How the streams of a link end: closed, failed, let go of.
//!
//! Pure. It never lets one end give a stream up without telling the other, and never drops an answer that the receiver
//! gave before it left.

use super::half::{RecvHalf, SendHalf};
use super::stream::{Phase, Stream};
use super::streams::{Event, Side, Streams};
use super::wire::{Cause, Record};

impl Streams {
    /// Lets go of a stream; one that did not end by itself is reset, at the far side after what the receiver said.
    pub fn close(&mut self, key: u64, cause: Cause) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.failed.is_some() || stream.is_complete() || !stream.is_on_wire() {
            return self.remove(key);
        }
        let ended = stream.send.is_finished() && stream.recv.is_end_taken();
        // Once the receiver was connected, no cause says any more that nothing reached it.
        let is_past_refusal = self.side == Side::Far && matches!(stream.phase, Phase::Open) && cause.is_refusal();
        let cause = if is_past_refusal { Cause::ReceiverReset } else { cause };
        if ended || (stream.send.has_unacked() && self.side == Side::Far) {
            stream.detached = true; // until the last bytes are confirmed: the connection may break before they arrive
            stream.reset = (!ended).then_some(cause);
            return self.touch(key);
        }
        let wire = stream.wire;
        self.push_record(&Record::Reset { stream: wire, cause });
        self.remove(key);
    }

    /// Fails every stream.
    pub fn fail_all(&mut self, cause: Cause) {
        for key in self.keys() {
            self.fail(key, cause);
        }
    }

    /// Fails a stream and tells the other side, unless that side has no such stream.
    pub(super) fn fail(&mut self, key: u64, cause: Cause) {
        self.settle_waiting(key);
        let Some(stream) = self.streams.get_mut(&key).filter(|stream| stream.failed.is_none()) else { return };
        if matches!(stream.phase, Phase::Connecting) {
            stream.recv = RecvHalf::new(); // no receiver will read it
        }
        stream.failed = Some(cause);
        stream.send = SendHalf::new();
        let (wire, detached) = (stream.wire, stream.detached);
        if self.by_wire.remove(&wire).is_some() {
            self.push_record(&Record::Reset { stream: wire, cause });
        }
        if detached {
            self.streams.remove(&key);
        } else {
            self.events.push_back(Event::Wake(key));
        }
    }

    /// Removes a stream that both sides ended, or whose end was told, once nobody holds it.
    pub(super) fn reap(&mut self, key: u64) {
        let Some(stream) = self.streams.get(&key) else { return };
        let is_told = stream.reset_told && !stream.send.has_unacked();
        if stream.detached && (stream.is_complete() || stream.failed.is_some() || is_told) {
            self.remove(key);
        }
    }

    /// Lets go of what waits for a receiver that is not connected yet, or counts it no longer once it is.
    pub(super) fn settle_waiting(&mut self, key: u64) {
        let waits = |stream: &&mut Stream| matches!(stream.phase, Phase::Connecting) && stream.failed.is_none();
        if let Some(stream) = self.streams.get_mut(&key).filter(waits) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(stream.recv.kept_bytes());
        }
    }

    fn remove(&mut self, key: u64) {
        self.settle_waiting(key);
        if let Some(stream) = self.streams.remove(&key) {
            self.by_wire.remove(&stream.wire);
        }
    }
}
