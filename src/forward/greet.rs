//! The begin of a sender's connection: its handshake, where the forward speaks TLS, and what to do about who fails there.
//!
//! It reads no byte of a message.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::SENDER_TIMEOUT;
use super::stored::NO_MESSAGES;
use crate::config;
use crate::link::carry::TcpLeg;
use crate::link::inside::tune;
use crate::link::wire::Cause;
use crate::mllp::exchange::ANSWERS_COMMITS;
use crate::mllp::frame::{Anomaly, Violation};
use crate::tls::{Failure, Listener, Socket, Told};

/// Makes a leg of a sender's connection, with a handshake where there is TLS; a stable code where it cannot.
pub(super) async fn greet(
    tls: Option<&Listener>,
    tcp: TcpStream,
    mut drain: watch::Receiver<bool>,
) -> Result<TcpLeg, &'static str> {
    tune(&tcp, SENDER_TIMEOUT).map_err(|_| Cause::SenderGone.code())?;
    let Some(tls) = tls else { return Ok(TcpLeg::sender(Socket::plain(tcp))) };
    tokio::select! {
        shaken = Socket::accept(tcp, tls) => shaken.map(TcpLeg::sender).map_err(Failure::code),
        _ = drain.wait_for(|drain| *drain) => Err(Cause::Stopping.code()),
    }
}

/// Says what to do about senders.
#[derive(Default)]
pub(super) struct Advice(Told);

impl Advice {
    /// Says what to do about a sender that speaks otherwise than is meant: at most once a minute for each cause.
    pub(super) fn give(&self, config: &config::Forward, from: SocketAddr, code: &'static str, is_greeted: bool) {
        let Some(advice) = advice(code, is_greeted) else { return };
        if self.0.is_due(code, Instant::now()) {
            tracing::warn!(forward = %config.name, %from, cause = code, "cannot serve a sender: {advice}");
        }
    }
}

/// Says what to do about a sender whose connection ended for this reason, where that is a matter of how it speaks: one of a
/// handshake that failed after its own was done is its receiver's.
fn advice(code: &'static str, is_greeted: bool) -> Option<&'static str> {
    if code == Violation::Tls.code() {
        return Some("it speaks TLS and the forward does not; give the forward tls:, or turn TLS off there");
    }
    if code == ANSWERS_COMMITS {
        return Some(
            "it goes on with frames that answer nothing; where it speaks MLLP Release 1 it answers commits, leave mllp: \
             release2 out of the forward; where it speaks Release 2 it repeats its own, look at the sender",
        );
    }
    if code == NO_MESSAGES {
        return Some("it sends frames without a message, and without a pause; find out what it is");
    }
    if let Some(told) = not_to_be_taken(code) {
        return Some(told);
    }
    // Who left is often a check whether the port is open.
    let is_told = |failure: &Failure| !is_greeted && failure.code() == code && *failure != Failure::Gone;
    Failure::ALL.into_iter().find(is_told).map(Failure::of_sender)
}

/// Says what is wrong with a message that ended its sender's connection for what it is, by the connection's stable code, and
/// what to do.
pub fn not_to_be_taken(code: &str) -> Option<&'static str> {
    if code == Violation::FrameTooLarge.code() {
        return Some("it is larger than max_message_size; raise that, as far as the receiver takes such messages");
    }
    if code == Violation::WideText.code() {
        return Some(
            "it is UTF-16 or UTF-32, which MLLP cannot frame; have its sender write UTF-8 or one byte a character",
        );
    }
    let is_header = code == Anomaly::HeaderTooLong.code();
    is_header.then_some("its header (MSH) is longer than 64 KiB; look at its sender")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tally::ENDS_BY_MESSAGE;

    #[test]
    fn advice_is_given_for_each_cause_that_has_one() {
        assert!(["finished", "tls_gone", "http"].into_iter().all(|code| advice(code, false).is_none()));
        assert!(
            ["tls_not_trusted", "tls_expired"].into_iter().all(|code| advice(code, true).is_none()),
            "a receiver's"
        );
        assert!(
            ENDS_BY_MESSAGE.into_iter().all(|code| advice(code, true).is_some() && not_to_be_taken(code).is_some())
        );
        let told = [advice("answers_commits", true).unwrap().to_owned(), Cause::AnswersCommits.to_string()];
        assert!(told.iter().all(|told| told.contains("where it speaks Release 2 it repeats its own")), "{told:?}");
        assert!(["tls", "answers_commits"].into_iter().all(|code| advice(code, true).is_some()));
        assert!(["tls_not_spoken", "tls_too_old"].into_iter().all(|code| advice(code, false).is_some()));
    }
}
