//! One connection to a receiver that takes one (`connections: 1`), shared by any number of senders.
//!
//! Each whole message is taken in before its first byte goes out, one is outstanding, senders take turns, and each gets
//! the answers to its own. It never sends a message twice, never goes on with a connection on which a message was cut
//! off, and passes nothing on that answers no message. Rules: design, delivery.md ("stored: to the receiver") and mllp.md,
//! cases 24, 27 to 31 and 34.

mod line;
mod unasked;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use self::line::{Line, Place, keep, now};
use self::unasked::Outbox;
use super::Service;
use super::slot::SLOT_WITHIN;
use crate::audit::Clerk;
use crate::config::AckKind;
use crate::link::carry::{DRAIN_WITHIN, Leg, Turns};
use crate::link::streams::Moved;
use crate::link::tally::Tally;
use crate::link::wire::{Cause, ReceiverState};
use crate::mllp::ack::FrameKind;
use crate::mllp::dialect::Release;
use crate::mllp::exchange::Awaited;
use crate::mllp::frame::{Anomaly, END_SILENCE, FrameReader, Limits, Read};
use crate::mllp::message::{Header, Mode};
use crate::mllp::observe::Observation;
use crate::mllp::trace::Trace;

/// Bounds the bytes of messages that senders have begun and that are not sent yet, of all senders together, in bytes; the
/// forward at the near site bounds one message.
const HELD_BYTES_MAX: u64 = 256 << 20;
/// One read of a sender, in bytes; shared by all connections of a thread.
const READ_BYTES: usize = 16 << 10;
thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Is what all senders of a service share.
#[derive(Default)]
pub(super) struct Shared {
    place: Arc<Place>,
    held_bytes: AtomicU64,
}

impl Service {
    /// Tells whether its senders share one connection. In Release 2 both ends commit to each other, message by message,
    /// and to each other only: there a sender has the connection for as long as it is connected.
    pub(super) fn is_shared(&self) -> bool {
        let config = self.config();
        config.connections_max.get() == 1 && config.stored.dialect.release == Release::One
    }

    /// Sees to it that there is a connection.
    pub(super) async fn reach(&self) -> Result<(), Cause> {
        let mut place = match self.shared.place.try_lock() {
            Ok(place) => place,
            // It is in use.
            Err(_) if self.receiver().0 == ReceiverState::Up => return Ok(()),
            Err(_) => {
                let turn = tokio::time::timeout(SLOT_WITHIN, self.shared.place.lock()).await;
                turn.map_err(|_| Cause::ReceiverBusy)?
            }
        };
        self.line(&mut place).await.map(|_| ())
    }

    /// Returns the connection, a new one where there is none that can be used.
    async fn line<'l>(&self, place: &'l mut Option<Line>) -> Result<&'l mut Line, Cause> {
        let config = self.config();
        if place.as_mut().is_some_and(|line| !line.is_for(&config) || !line.is_usable()) {
            *place = None;
        }
        let line = match place.take() {
            Some(line) => line,
            None => {
                let (receiver, slot) = self.connect().await?;
                let receiver = Arc::new(receiver);
                let keeper = keep(
                    Arc::downgrade(&self.shared.place),
                    Arc::clone(&receiver),
                    self.waiting.subscribe(),
                    self.drain.subscribe(),
                );
                Line::new(config, receiver, slot, Arc::clone(&self.tally), tokio::spawn(keeper).abort_handle())
            }
        };
        Ok(place.insert(line))
    }

    /// Serves a sender until its connection ends, and says why.
    pub(super) async fn serve_shared<S: Leg>(&self, sender: &S, clerk: Option<Clerk>) -> Cause {
        let framing = self.config().stored.dialect.framing;
        let limits = Limits { frame_bytes_max: HELD_BYTES_MAX, framing, ..Limits::default() };
        let reader = FrameReader::new(limits);
        let drain = self.drain.subscribe();
        let mut sending = Sending {
            service: self,
            sender,
            reader,
            whole: VecDeque::new(),
            held_bytes: 0,
            has_ended: false,
            drain,
            clerk,
            outbox: Arc::default(),
        };
        sending.run().await.err().unwrap_or(Cause::SenderGone)
    }
}

/// Is a sender that is being served.
struct Sending<'a, S> {
    service: &'a Service,
    sender: &'a S,
    reader: FrameReader,
    /// Are whole messages that wait for their turn.
    whole: VecDeque<Vec<u8>>,
    held_bytes: u64,
    has_ended: bool,
    drain: watch::Receiver<bool>,
    clerk: Option<Clerk>,
    /// Takes answers that it has not asked for.
    outbox: Arc<Outbox>,
}

impl<S> Drop for Sending<'_, S> {
    fn drop(&mut self) {
        self.service.shared.held_bytes.fetch_sub(self.held_bytes, Ordering::Relaxed);
    }
}

impl<S: Leg> Sending<'_, S> {
    async fn run(&mut self) -> Result<(), Cause> {
        let mut turns = Turns::default();
        loop {
            write_all(self.sender, &self.outbox.take()).await?;
            while let Some(payload) = self.whole.pop_front() {
                let left = self.deliver(&payload).await?;
                drop(payload);
                self.hold()?;
                write_all(self.sender, &left).await?;
            }
            if self.has_ended {
                self.sender.finish().await;
                return Ok(());
            }
            if self.read()? {
                turns.moved().await;
            } else {
                self.wait().await?;
                turns.waited();
            }
        }
    }

    /// Reads once; says whether something came.
    fn read(&mut self) -> Result<bool, Cause> {
        let Self { service, sender, reader, whole, .. } = self;
        let mut sink = |read| take(read, whole, &service.tally);
        let moved = SCRATCH.with_borrow_mut(|scratch| {
            let moved = sender.try_read(scratch);
            if let Moved::Bytes(count) = moved {
                let followed = reader.handle_bytes(scratch.get(..count).unwrap_or_default(), &mut sink);
                followed.map_err(|_| Cause::Refused)?;
            }
            Ok::<_, Cause>(moved)
        })?;
        match moved {
            Moved::Bytes(_) => {}
            Moved::End => {
                reader.handle_end_of_stream(&mut sink);
                self.has_ended = true;
            }
            Moved::Blocked => return Ok(false),
            Moved::Failed(cause) => return Err(cause),
        }
        self.hold()?;
        Ok(true)
    }

    /// Takes note of what is held for this sender.
    fn hold(&mut self) -> Result<(), Cause> {
        let bytes = self.whole.iter().map(Vec::len).sum::<usize>().saturating_add(self.reader.held_bytes());
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = std::mem::replace(&mut self.held_bytes, bytes);
        let all = &self.service.shared.held_bytes;
        let held_bytes =
            all.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed).wrapping_add(bytes).wrapping_sub(before);
        if bytes > before && held_bytes > HELD_BYTES_MAX { Err(Cause::Refused) } else { Ok(()) }
    }

    /// Waits for bytes, for the silence that ends a frame, or for the end of the service.
    async fn wait(&mut self) -> Result<(), Cause> {
        let is_told = *self.drain.borrow();
        if is_told && self.reader.is_between_frames() {
            return Err(Cause::Stopping);
        }
        let awaits_silence = self.reader.awaits_silence();
        tokio::select! {
            () = self.sender.readable() => {}
            () = tokio::time::sleep(END_SILENCE), if awaits_silence => {
                let Self { service, reader, whole, .. } = self;
                reader.handle_silence(&mut |read| take(read, whole, &service.tally));
            }
            () = tokio::time::sleep(DRAIN_WITHIN), if is_told => return Err(Cause::Stopping),
            () = self.outbox.filled() => {}
            _ = self.drain.wait_for(|drain| *drain), if !is_told => {}
        }
        Ok(())
    }

    /// Waits for the turn, sends a message, and hands its answers to the sender; returns what that did not take yet.
    async fn deliver(&mut self, payload: &[u8]) -> Result<Vec<u8>, Cause> {
        let service = self.service;
        let mut place = service.shared.place.lock().await;
        // Who left meanwhile will send it again.
        if !self.has_ended {
            self.read()?;
        }
        let header = Header::parse_whole(payload);
        let control_id = header.as_ref().map_or(&[][..], Header::control_id);
        if !service.line(&mut place).await?.control_ids.take(control_id) {
            // Its answer could be taken for an earlier one's.
            *place = None;
            service.line(&mut place).await?.control_ids.take(control_id);
        }
        // Where this is cut off, the connection goes with it.
        let Some(mut line) = place.take() else { return Err(Cause::ReceiverReset) };
        let config = service.config();
        let awaited = if config.stored.ack == AckKind::None { Awaited::Nothing } else { Awaited::AsAsked };
        let trace = self.clerk.as_ref().and_then(|clerk| clerk.passed(payload));
        if awaited == Awaited::AsAsked && header.as_ref().is_some_and(asks_for_nothing) {
            line.unasked.note(control_id, &self.outbox);
        }
        let conversed = line.converse(payload, awaited, config.stored.ack_timeout, (self.sender, &self.outbox)).await;
        let codes = std::mem::take(&mut line.codes);
        if let Some((clerk, trace)) = self.clerk.as_ref().zip(trace) {
            let answered = |code| Observation::Answered { code, trace: Trace::of_control_id(trace.control_id) };
            codes.into_iter().for_each(|code| clerk.observe(answered(code)));
        }
        match conversed {
            Ok(left) => {
                *place = Some(line);
                Ok(left)
            }
            Err(cause) => {
                line.fail(cause);
                Err(cause)
            }
        }
    }
}

/// Tells whether a message says that it wants no answer. A receiver may give one all the same, and its sender await it.
fn asks_for_nothing(header: &Header<'_>) -> bool {
    matches!(header.mode(), Mode::Enhanced { accept, application } if !accept.is_due(true) && !application.is_due(true))
}

/// Takes what a sender's reader found.
fn take(read: Read, whole: &mut VecDeque<Vec<u8>>, tally: &Tally) {
    match read {
        Read::Anomaly(anomaly) => tally.count(Observation::Anomaly(anomaly), now()),
        Read::Payload(payload) => match FrameKind::of(&payload) {
            FrameKind::Message => whole.push_back(payload),
            FrameKind::Empty => {}
            FrameKind::Transport(_) | FrameKind::Control => {
                tally.count(Observation::Anomaly(Anomaly::ControlFrame), now());
            }
        },
    }
}

async fn write_all<S: Leg>(sender: &S, mut bytes: &[u8]) -> Result<(), Cause> {
    while !bytes.is_empty() {
        match sender.try_write(bytes) {
            Moved::Bytes(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Moved::Blocked => sender.writable().await,
            Moved::End => return Err(Cause::SenderGone),
            Moved::Failed(cause) => return Err(cause),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
