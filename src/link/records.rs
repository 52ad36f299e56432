//! What each record of the other side does to the streams of a link.
//!
//! Pure. A record for a stream that is gone is ignored: it crossed the end of that stream on the wire.

use std::time::Instant;

use super::half::{RecvHalf, Violation};
use super::stream::{Phase, Stream};
use super::streams::{Event, LINK_BYTES_MAX, RETRY_MAX, STREAMS_MAX, Side, Streams};
use super::wire::{Cause, Record, Told, put_ping};

/// What was received is acknowledged at the latest after so many bytes, so that the other side need not keep them.
const ACK_BYTES: u64 = 16 << 10;
/// Answers to records that wait to be written, in bytes: the lists and resets of all streams at once fit twice. A peer
/// that asks on and reads nothing is cut off.
const URGENT_BYTES_MAX: usize = 1 << 20;

impl Streams {
    /// Takes in a record of a stream.
    ///
    /// # Errors
    /// The other side broke the rules; the connection is to be given up.
    pub fn handle_record(&mut self, record: Record<'_>, now: Instant) -> Result<(), Violation> {
        let result = match record {
            Record::Open(wire) => self.handle_open(wire),
            Record::Accept(wire) => {
                if self.side == Side::Far {
                    return Err(Violation);
                }
                if let Some((key, stream)) = self.on_wire(wire) {
                    stream.phase = Phase::Open;
                    self.events.push_back(Event::Wake(key));
                }
                Ok(())
            }
            Record::Data { stream, offset, ack, bytes } => {
                self.handle_incoming(stream, ack, |recv| recv.handle_data(offset, bytes))
            }
            Record::Fin { stream, offset, ack } => self.handle_incoming(stream, ack, |recv| recv.handle_fin(offset)),
            Record::Credit { stream, ack, limit } => self.handle_credit(stream, ack, limit),
            Record::Reset { stream, cause } => {
                self.handle_reset(stream, cause, now);
                Ok(())
            }
            Record::Resume { .. } if self.resumed => Err(Violation),
            Record::Resume { last, opened_through, streams } => {
                self.listed.extend(streams);
                if self.listed.len() > STREAMS_MAX {
                    return Err(Violation);
                }
                if last {
                    self.resume(opened_through);
                }
                Ok(())
            }
            Record::Hello(_) | Record::Welcome(_) | Record::Refuse(_) => Err(Violation),
            Record::Ping(token) => {
                self.push_record(&Record::Pong(token));
                Ok(())
            }
            Record::Pong(_) | Record::Receiver(_) => Ok(()),
        };
        if self.urgent.len() > URGENT_BYTES_MAX { Err(Violation) } else { result }
    }

    /// Asks for an echo, and tells what goes with that.
    pub(super) fn push_ping(&mut self, token: u64, told: &Told) {
        if self.connected {
            put_ping(token, told, &mut self.urgent);
            self.events.push_back(Event::Transmit);
        }
    }

    fn handle_open(&mut self, wire: u64) -> Result<(), Violation> {
        if self.side == Side::Near || wire <= self.opened_through {
            return Err(Violation);
        }
        self.opened_through = wire;
        if self.streams.len() >= STREAMS_MAX {
            self.push_record(&Record::Reset { stream: wire, cause: Cause::TooManyStreams });
            return Ok(());
        }
        self.streams.insert(wire, Stream::new(wire, Phase::Connecting));
        self.by_wire.insert(wire, wire);
        self.events.push_back(Event::Opened(wire));
        Ok(())
    }

    fn handle_incoming(
        &mut self,
        wire: u64,
        ack: u64,
        take: impl FnOnce(&mut RecvHalf) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let Some((key, stream)) = self.on_wire(wire) else { return Ok(()) };
        stream.handle_ack(ack)?;
        let before = stream.recv.kept_bytes();
        take(&mut stream.recv)?;
        if matches!(stream.phase, Phase::Connecting) {
            self.waiting_bytes += stream.recv.kept_bytes() - before;
            if self.waiting_bytes > LINK_BYTES_MAX {
                // Nothing reached the receiver: the near side keeps the bytes and tries again.
                self.fail(key, Cause::TooManyStreams);
                return Ok(());
            }
        }
        let Some(stream) = self.streams.get_mut(&key) else { return Ok(()) };
        if stream.recv.untold() >= ACK_BYTES {
            stream.owes_credit = true;
            self.touch(key);
        }
        self.events.push_back(Event::Wake(key));
        self.reap(key);
        Ok(())
    }

    fn handle_credit(&mut self, wire: u64, ack: u64, limit: u64) -> Result<(), Violation> {
        let Some((key, stream)) = self.on_wire(wire) else { return Ok(()) };
        let is_freed = stream.handle_ack(ack)?;
        if stream.send.handle_limit(limit) || is_freed {
            self.events.push_back(Event::Wake(key));
        }
        self.reap(key);
        Ok(())
    }

    fn handle_reset(&mut self, wire: u64, cause: Cause, now: Instant) {
        let holds = !self.hold_for.is_zero();
        let Some((key, stream)) = self.on_wire(wire) else { return };
        match &mut stream.phase {
            Phase::Opening { on_wire, refusal, retry_at, pause }
                if cause.is_refusal() && holds && !stream.send.is_finished() =>
            {
                (*on_wire, *refusal, *retry_at) = (false, Some(cause), Some(now + *pause));
                *pause = (*pause * 2).min(RETRY_MAX);
                self.by_wire.remove(&wire);
                self.events.push_back(Event::Clock);
            }
            _ => {
                // Who says it need not be told, but keeps the last bytes until they are confirmed.
                let ack = stream.recv.tell();
                self.by_wire.remove(&wire);
                self.push_record(&Record::Credit { stream: wire, ack, limit: 0 });
                self.fail(key, cause);
            }
        }
    }

    /// Finds a stream by its number on the wire; one that is gone is none, and what still comes for it is ignored.
    fn on_wire(&mut self, wire: u64) -> Option<(u64, &mut Stream)> {
        let key = *self.by_wire.get(&wire)?;
        let stream = self.streams.get_mut(&key)?;
        stream.failed.is_none().then_some((key, stream))
    }
}
