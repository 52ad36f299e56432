//! The connection that senders share: one message out, its answers back, and what it may be used for.
//!
//! It never sends a message twice, and tells of no answer that is not the present message's.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use super::super::slot::Slot;
use super::unasked::{Outbox, Unasked};
use crate::config;
use crate::link::carry::{Leg, TcpLeg, Turns};
use crate::link::streams::Moved;
use crate::link::tally::Tally;
use crate::link::wire::Cause;
use crate::mllp::ack::AckCode;
use crate::mllp::control_ids::ControlIds;
use crate::mllp::exchange::{Answer, Awaited, Exchange};
use crate::mllp::frame::{Anomaly, END_SILENCE, Framing, Limits};
use crate::mllp::observe::Observation;

/// Bounds a receiver's answer, in bytes.
const ANSWER_FRAME_BYTES_MAX: u64 = 1 << 20;
/// A frame up to this size goes out in one write, copied.
const COPY_BYTES_MAX: usize = 64 << 10;
/// Bounds what a receiver may say that nobody asked for while nobody has the turn, in reads of 4 KiB.
const UNASKED_READS_MAX: u8 = 64;

/// Is the place of the connection; who has the lock has the turn, in the order of asking.
pub(super) type Place = Mutex<Option<Line>>;

/// Is the connection.
pub(super) struct Line {
    /// Is the service as it was when this was opened.
    opened_for: Arc<config::Service>,
    receiver: Arc<TcpLeg>,
    exchange: Exchange,
    pub(super) control_ids: ControlIds,
    tally: Arc<Tally>,
    /// Knows who asked for no answer.
    pub(super) unasked: Unasked,
    /// Lists what the present message was answered.
    pub(super) codes: Vec<AckCode>,
    connection: u64,
    /// Is why it ends, as a stable code.
    code: &'static str,
    _slot: Slot,
    keeper: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.keeper.abort();
        self.tally.end(self.connection, self.code);
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Line {
    pub(super) fn new(
        opened_for: Arc<config::Service>,
        receiver: Arc<TcpLeg>,
        slot: Slot,
        tally: Arc<Tally>,
        keeper: AbortHandle,
    ) -> Self {
        let framing = opened_for.stored.dialect.framing;
        let limits = Limits { frame_bytes_max: ANSWER_FRAME_BYTES_MAX, framing, ..Limits::default() };
        let mut exchange = Exchange::new(limits);
        exchange.tell_of_others();
        Self {
            opened_for,
            receiver,
            exchange,
            unasked: Unasked::default(),
            control_ids: ControlIds::default(),
            connection: tally.begin(),
            tally,
            codes: Vec::new(),
            code: Cause::ReceiverReset.code(),
            _slot: slot,
            keeper,
        }
    }

    /// Tells whether one that is opened now would be to the same receiver, and met the same way.
    pub(super) fn is_for(&self, service: &config::Service) -> bool {
        let (was, is) = (&*self.opened_for, service);
        was.target == is.target && was.tls == is.tls && was.stored.dialect == is.stored.dialect
    }

    fn framing(&self) -> Framing {
        self.opened_for.stored.dialect.framing
    }

    /// Takes note of why it ends.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.code = cause.code();
    }

    /// Tells whether a message may be sent on it; what the receiver said meanwhile answers none. One that does not stop
    /// saying something is let go.
    pub(super) fn is_usable(&mut self) -> bool {
        for _ in 0..UNASKED_READS_MAX {
            match self.take_answers(&mut Vec::new(), now(), None) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    /// Reads once; says whether something came. What the sender that has the turn is to have goes to `out`, in order.
    fn take_answers(&mut self, out: &mut Vec<u8>, begun: Instant, turn: Option<&Arc<Outbox>>) -> Result<bool, Cause> {
        let mut piece = [0; 4096];
        match self.receiver.try_read(&mut piece) {
            Moved::Bytes(count) => {
                let bytes = piece.get(..count).unwrap_or_default();
                let followed = self.follow(out, begun, turn, |exchange, sink| exchange.handle_bytes(bytes, sink));
                followed.map_err(|_| Cause::ReceiverReset)?;
            }
            Moved::Blocked => return Ok(false),
            Moved::End => {
                self.follow(out, begun, turn, |exchange, sink| exchange.handle_end_of_stream(sink));
                if turn.is_none() || !self.exchange.is_done() {
                    return Err(Cause::ReceiverReset);
                }
            }
            Moved::Failed(cause) => return Err(cause),
        }
        Ok(true)
    }

    /// Has the exchange take what the receiver said, and sees to its answers.
    fn follow<T>(
        &mut self,
        out: &mut Vec<u8>,
        begun: Instant,
        turn: Option<&Arc<Outbox>>,
        take: impl FnOnce(&mut Exchange, &mut dyn FnMut(Answer)) -> T,
    ) -> T {
        let (framing, at, before) = (self.framing(), now(), self.exchange.dropped());
        let Self { exchange, unasked, codes, tally, .. } = self;
        let mut handed_over = 0;
        let taken = take(exchange, &mut |answer| {
            let frame = framing.encode(&answer.payload);
            if answer.is_own {
                let latency = Some(at.saturating_duration_since(begun));
                tally.count(Observation::Ack { code: answer.code, latency }, at);
                codes.push(answer.code);
                out.extend_from_slice(&frame);
            } else if unasked.hand_over(&answer.payload, &frame, turn.map(|turn| (turn, &mut *out))) {
                tally.count(Observation::Ack { code: answer.code, latency: None }, at);
                handed_over += 1;
            }
        });
        let dropped = exchange.dropped();
        let is_more =
            [(dropped.late, before.late), (dropped.foreign, before.foreign), (dropped.no_answer, before.no_answer)];
        let dropped = is_more.iter().map(|(after, before)| after.saturating_sub(*before)).sum::<u64>();
        for _ in handed_over..dropped {
            tally.count(Observation::Anomaly(Anomaly::AnswerUnmatched), at);
        }
        taken
    }

    /// Sends a message and awaits its answers, each handed to the sender as far as it takes them; returns the rest. What
    /// the receiver says of earlier messages of this sender, which asked for no answer, is among them, in the same order.
    pub(super) async fn converse<S: Leg>(
        &mut self,
        payload: &[u8],
        awaited: Awaited,
        ack_timeout: Duration,
        (sender, outbox): (&S, &Arc<Outbox>),
    ) -> Result<Vec<u8>, Cause> {
        let begun = now();
        self.codes.clear();
        self.exchange.begin_awaiting(payload, begun + ack_timeout, awaited);
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        self.tally.count(Observation::Message { bytes }, begun);
        self.tally.waits(self.connection, 1, Some(begun));
        if payload.len() <= COPY_BYTES_MAX {
            self.write(&self.framing().encode(payload), ack_timeout).await?;
        } else {
            let (head, tail) = self.framing().around();
            for part in [&head[..], payload, tail.as_ref()] {
                self.write(part, ack_timeout).await?;
            }
        }
        let sent = now();
        let mut left = outbox.take();
        let mut deadline = sent + ack_timeout;
        let mut turns = Turns::default();
        while !self.exchange.is_done() {
            let had = self.codes.len();
            if !self.take_answers(&mut left, sent, Some(outbox))? {
                self.wait(deadline, &mut left, sent, outbox).await?;
                turns.waited();
            } else if now() >= deadline {
                // what came was no answer to this one
                return Err(Cause::AckTimeout);
            } else {
                turns.moved().await;
            }
            if self.codes.len() > had {
                deadline = now() + ack_timeout;
            }
            if !left.is_empty()
                && let Moved::Bytes(written) = sender.try_write(&left)
            {
                left.drain(..written);
            }
        }
        self.tally.waits(self.connection, 0, None);
        Ok(left)
    }

    async fn write(&self, mut bytes: &[u8], within: Duration) -> Result<(), Cause> {
        while !bytes.is_empty() {
            match self.receiver.try_write(bytes) {
                Moved::Bytes(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Moved::Blocked => {
                    tokio::time::timeout(within, self.receiver.writable()).await.map_err(|_| Cause::AckTimeout)?;
                }
                Moved::End => return Err(Cause::ReceiverReset),
                Moved::Failed(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    async fn wait(
        &mut self,
        deadline: Instant,
        out: &mut Vec<u8>,
        sent: Instant,
        turn: &Arc<Outbox>,
    ) -> Result<(), Cause> {
        let awaits_silence = self.exchange.awaits_silence();
        tokio::select! {
            () = self.receiver.readable() => Ok(()),
            () = tokio::time::sleep(END_SILENCE), if awaits_silence => {
                self.follow(out, sent, Some(turn), Exchange::handle_silence);
                Ok(())
            }
            () = tokio::time::sleep_until(deadline.into()) => Err(Cause::AckTimeout),
        }
    }
}

/// Watches the connection while nobody has the turn: it goes where the receiver ends it, where somebody else waits for
/// its place, and with the service.
pub(super) async fn keep(
    place: Weak<Place>,
    receiver: Arc<TcpLeg>,
    mut waiting: watch::Receiver<u64>,
    mut drain: watch::Receiver<bool>,
) {
    loop {
        let is_over = tokio::select! {
            () = receiver.readable() => false,
            waited = waiting.wait_for(|waiting| *waiting > 0) => waited.is_err(),
            _ = drain.wait_for(|drain| *drain) => true,
        };
        let Some(place) = place.upgrade() else { return };
        let mut place = place.lock().await;
        let Some(line) = place.as_mut().filter(|line| Arc::ptr_eq(&line.receiver, &receiver)) else { return };
        if is_over || *waiting.borrow() > 0 || !line.is_usable() {
            line.code = "finished";
            *place = None;
            return;
        }
    }
}
