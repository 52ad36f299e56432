//! What happens to the streams of a link when its TCP connection comes and goes.
//!
//! Pure. Both sides list their streams first on each new connection; each goes on where the other one is. It never
//! opens a stream again that may have carried a byte to a receiver.

use std::time::Instant;

use super::half::Violation;
use super::stream::Phase;
use super::streams::{Event, Side, Streams};
use super::wire::{Cause, RESUME_STREAMS_MAX, Record, StreamId, encode};

impl Streams {
    /// Notes a new connection. `resumed`: the other side still has the streams of the connection before.
    pub fn handle_connected(&mut self, resumed: bool) {
        self.connected = true;
        self.resumed = false;
        self.down = None;
        self.urgent.clear();
        self.listed.clear();
        if !resumed {
            self.forget_other_side();
        }
        self.list_streams();
        self.events.push_back(Event::Transmit);
    }

    /// Notes that there is no connection, and why.
    pub fn handle_disconnected(&mut self, cause: Cause, now: Instant) {
        self.connected = false;
        self.resumed = false;
        let since = self.down.map_or(now, |(since, _)| since);
        self.down = Some((since, cause));
        for key in self.turn.drain(..) {
            if let Some(stream) = self.streams.get_mut(&key) {
                stream.queued = false;
            }
        }
        if self.hold_for.is_zero() {
            self.fail_all(cause);
        }
        self.events.push_back(Event::Clock);
    }

    pub(super) fn list_streams(&mut self) {
        let streams: Vec<(StreamId, u64)> = self
            .streams
            .values()
            .filter(|stream| stream.failed.is_none() && stream.is_on_wire())
            .map(|stream| (stream.wire, stream.recv.received()))
            .collect();
        let lists = streams.chunks(RESUME_STREAMS_MAX).count().max(1);
        for number in 0..lists {
            let part = streams.chunks(RESUME_STREAMS_MAX).nth(number).unwrap_or(&[]).to_vec();
            let record =
                Record::Resume { last: number + 1 == lists, opened_through: self.opened_through, streams: part };
            encode(&record, &mut self.urgent);
        }
    }

    /// The other side was restarted or gave the streams up: only what cannot have carried a byte is opened again.
    pub(super) fn forget_other_side(&mut self) {
        for key in self.keys() {
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            match &mut stream.phase {
                Phase::Opening { on_wire, .. } if !*on_wire || stream.send.is_unsent() => {
                    *on_wire = false;
                    self.by_wire.remove(&stream.wire);
                }
                _ => {
                    self.by_wire.remove(&stream.wire); // nobody is left to be told
                    self.fail(key, Cause::Lost);
                }
            }
        }
    }

    /// Goes on where the other side says that it is.
    pub(super) fn resume(&mut self, opened_through: u64) {
        let listed = std::mem::take(&mut self.listed);
        self.resumed = true;
        for key in self.keys() {
            let Some(stream) = self.streams.get_mut(&key).filter(|stream| stream.failed.is_none()) else { continue };
            match (listed.get(&stream.wire), self.side) {
                _ if !stream.is_on_wire() => self.put_on_wire_if_due(key),
                (Some(received), side) => {
                    stream.owes_accept = side == Side::Far && matches!(stream.phase, Phase::Open);
                    stream.owes_credit = true;
                    stream.reset_told = false;
                    match stream.send.rewind(*received) {
                        Ok(()) => self.touch(key),
                        Err(Violation) => self.fail(key, Cause::Lost),
                    }
                }
                // It was announced, but the announcement never arrived.
                (None, Side::Near) if stream.wire > opened_through && matches!(stream.phase, Phase::Opening { .. }) => {
                    self.put_on_wire(key);
                }
                (None, Side::Near) => self.fail(key, Cause::Lost),
                (None, Side::Far) => self.fail(key, Cause::SenderGone),
            }
        }
        // What was queued before could not go yet.
        self.events.push_back(Event::Transmit);
    }

    pub(super) fn put_on_wire_if_due(&mut self, key: u64) {
        let paused = self
            .streams
            .get(&key)
            .is_some_and(|stream| matches!(stream.phase, Phase::Opening { retry_at: Some(_), .. }));
        if !paused {
            self.put_on_wire(key);
        }
    }
}
