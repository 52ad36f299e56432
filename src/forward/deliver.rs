//! The sender's connection: transparent delivery by the course that it began with.
//!
//! It never reads of a sender that is held more than the stream has room for, and never sends a byte twice. Rules: design,
//! delivery.md ("transparent").

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Course, Forward, Way, refuse};
use crate::config::{OnUnreachable, Transparent};
use crate::link::carry::{Ended, Leg, TcpLeg, Terms, carry};
use crate::link::wire::{Cause, ReceiverState};
use crate::mllp::frame::Limits;
use crate::tls::Socket;

/// A connection through the tunnel outlives the wire's cuts by this much more than the hold.
const TIMEOUT_BEYOND_HOLD: Duration = Duration::from_secs(30);
/// A connection attempt inside the tunnel that takes longer is begun anew.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The pause between attempts, the first time; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A sender who is refused waits this long at most for the answer whether its receiver can be reached.
const NAK_WITHIN: Duration = Duration::from_secs(3);

/// Serves one sender.
pub(super) struct Delivery<'a> {
    forward: &'a Forward,
    course: Course,
    terms: Transparent,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(forward: &'a Forward, course: Course, terms: Transparent) -> Self {
        Self { forward, course, terms }
    }

    async fn stopped(&self) {
        self.course.drain.subscribe().wait_for(|drain| *drain).await.ok();
    }

    /// Serves a sender until its connection ends, and says how.
    pub(super) async fn deliver(&self, sender: &TcpLeg, connection: u64) -> Ended {
        match (&self.course.way, self.terms.on_unreachable) {
            (Way::Stored(..), _) => Ended::Failed(Cause::Refused), // no course of transparent delivery has it
            (_, OnUnreachable::Nak) => self.deliver_or_refuse(sender, connection).await,
            (Way::Link(link), OnUnreachable::Hold | OnUnreachable::Close) => {
                let mut stream = match link.session().open() {
                    Ok(stream) => stream,
                    Err(cause) => return Ended::Failed(cause),
                };
                let ended = self.carry(sender, &stream, connection).await;
                stream.refuse(ended.cause());
                ended
            }
            (Way::Address(to), OnUnreachable::Hold) => {
                let connected = tokio::select! {
                    connected = self.connect_within_hold(*to, sender) => connected,
                    _ = self.stopped() => Err(Cause::Stopping),
                };
                match connected {
                    Ok(receiver) => self.carry_inside(sender, receiver, *to, connection).await,
                    Err(cause) => Ended::Failed(cause),
                }
            }
            (Way::Address(to), OnUnreachable::Close) => match self.connect(*to).await {
                Ok(receiver) => self.carry_inside(sender, receiver, *to, connection).await,
                Err(cause) => Ended::Failed(cause),
            },
        }
    }

    /// Carries over a connection inside the tunnel, for as long as its address is the peer's.
    async fn carry_inside(&self, sender: &TcpLeg, receiver: TcpLeg, to: SocketAddr, connection: u64) -> Ended {
        let owners = self.forward.inside.owners();
        let Some(tie) = owners.tie(receiver.tcp(), to.ip(), &self.course.config.peer) else {
            return Ended::Failed(Cause::ReceiverUnreachable);
        };
        let ended = tie.hold(Box::pin(self.carry(sender, &receiver, connection))).await;
        ended.unwrap_or(Ended::Failed(Cause::ReceiverReset))
    }

    async fn carry<R: Leg>(&self, sender: &TcpLeg, receiver: &R, connection: u64) -> Ended {
        let (config, stop) = (&self.course.config, self.course.drain.subscribe());
        let (idle_timeout, frame_timeout) = (config.idle_timeout, Some(config.frame_timeout));
        let (release, limits, clerk) = (config.dialect.release, self.limits(), self.forward.tally.clerk());
        let terms = Terms { release, limits, idle_timeout, frame_timeout, ack_timeout: None, stop, clerk };
        carry(sender, receiver, terms, &self.forward.tally, connection).await
    }

    fn limits(&self) -> Limits {
        let config = &self.course.config;
        Limits { frame_bytes_max: config.message_bytes_max, framing: config.dialect.framing, ..Limits::default() }
    }

    /// Connects inside the tunnel, again and again, until bytes of the sender have waited for `hold_for`.
    ///
    /// Nothing of the sender is read meanwhile: a sender that leaves takes its message with it.
    async fn connect_within_hold(&self, to: SocketAddr, sender: &TcpLeg) -> Result<TcpLeg, Cause> {
        let mut first_byte: Option<Instant> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let cause = match self.connect(to).await {
                Ok(receiver) => return Ok(receiver),
                Err(cause) => cause,
            };
            if first_byte.is_none() && tokio::time::timeout(Duration::ZERO, sender.readable()).await.is_ok() {
                first_byte = Some(Instant::now());
            }
            let is_closing = tokio::time::timeout(Duration::ZERO, sender.is_closing()).await.unwrap_or(false);
            if is_closing {
                return Err(Cause::SenderGone);
            }
            if first_byte.is_some_and(|at| at.elapsed() >= self.terms.hold_for) {
                return Err(cause);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect(&self, to: SocketAddr) -> Result<TcpLeg, Cause> {
        let user_timeout = self.terms.hold_for + TIMEOUT_BEYOND_HOLD;
        let inside = &self.forward.inside;
        let is_the_peers = inside.owners().is_at(&self.course.config.peer, to.ip());
        let connected = tokio::time::timeout(CONNECT_WITHIN, inside.connect(to, user_timeout));
        let result = match if is_the_peers { connected.await } else { Ok(Err(io::ErrorKind::HostUnreachable.into())) } {
            Ok(Ok(tcp)) => Ok(TcpLeg::receiver(Socket::plain(tcp))),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Cause::ReceiverRefuses),
            Ok(Err(_)) => Err(Cause::ReceiverUnreachable),
            Err(_) => Err(Cause::ReceiverSilent),
        };
        if let Err(cause) = &result {
            tracing::debug!(forward = %self.course.config.name, reason = cause.code(), "could not connect inside the tunnel");
        }
        let state = result.as_ref().map_or_else(|cause| ReceiverState::Down(*cause), |_| ReceiverState::Up);
        self.forward.note_receiver(to, state);
        result
    }

    /// Delivers where the receiver can be reached, refuses message by message where it cannot.
    async fn deliver_or_refuse(&self, sender: &TcpLeg, connection: u64) -> Ended {
        loop {
            let ended = match &self.course.way {
                Way::Stored(..) => return Ended::Failed(Cause::Refused), // as above
                Way::Link(link) => match link.session().open() {
                    Err(cause) => Err(cause),
                    Ok(mut stream) => match tokio::time::timeout(NAK_WITHIN, stream.opened()).await {
                        Ok(Ok(())) => {
                            let ended = self.carry(sender, &stream, connection).await;
                            stream.refuse(ended.cause());
                            return ended;
                        }
                        Ok(Err(cause)) => Err(cause),
                        Err(_) => Err(Cause::ReceiverSilent),
                    },
                },
                Way::Address(to) => match self.connect(*to).await {
                    Ok(receiver) => return self.carry_inside(sender, receiver, *to, connection).await,
                    Err(cause) => Err::<(), Cause>(cause),
                },
            };
            if ended.is_err() {
                let release = self.course.config.dialect.release;
                let refused = tokio::select! {
                    refused = refuse::refuse_messages(sender, release, self.limits(), &self.forward.tally) => refused,
                    _ = self.stopped() => Err(Ended::Failed(Cause::Stopping)),
                };
                if let Err(ended) = refused {
                    return ended;
                }
                // What the sender says next is worth a new attempt.
                tokio::select! {
                    () = sender.readable() => {}
                    _ = self.stopped() => return Ended::Failed(Cause::Stopping),
                }
            }
        }
    }
}
