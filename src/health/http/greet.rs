//! The begin of a connection over TLS: its handshake, and what to say to who does not speak it.
//!
//! It reads no request.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tls::{Failure, Listener, Socket};

/// What is to be done about who cannot be answered is said this often, for each cause.
const ADVISE_EVERY: Duration = Duration::from_secs(60);

/// Is what plain HTTP is answered.
const SPEAKS_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 46\r\n\
                          Connection: close\r\n\r\nthis port speaks TLS: ask for it with https://\n";

/// Shakes hands; plain HTTP gets an answer that says what this port speaks.
///
/// Cancel-safe: a cancelled handshake leaves nothing.
pub(super) async fn greet(mut tcp: TcpStream, tls: &Listener) -> Result<Socket, Failure> {
    let mut first = [0];
    if tcp.peek(&mut first).await.is_ok_and(|bytes| bytes == 1) && first.iter().all(u8::is_ascii_uppercase) {
        // Who has gone meanwhile needs no answer.
        refuse(&mut tcp).await.ok();
        return Err(Failure::NotTls);
    }
    Socket::accept(tcp, tls).await
}

/// Answers; what was asked is read first, and what comes behind it, else its sender's TCP throws the answer away.
async fn refuse(tcp: &mut TcpStream) -> io::Result<()> {
    let mut some = [0; 2048];
    if tcp.read(&mut some).await? > 0 {
        tcp.write_all(SPEAKS_TLS.as_bytes()).await?;
        tcp.shutdown().await?;
        while tcp.read(&mut some).await? > 0 {}
    }
    Ok(())
}

/// Remembers when it was last said what to do about who cannot be answered, by cause.
#[derive(Debug, Default)]
pub(super) struct Advice(Mutex<BTreeMap<&'static str, Instant>>);

impl Advice {
    /// Says why a handshake failed, where that is a matter of how it is set up.
    pub(super) fn of_handshake(&self, from: SocketAddr, failure: Failure) {
        let text = match failure {
            Failure::Gone | Failure::TimedOut => return,
            Failure::NotTls => "it does not speak TLS: have it ask with https://",
            Failure::NotTrusted => "its certificate was not issued by one in health.tls.client_ca_file",
            Failure::Expired => "its certificate has expired or is not valid yet",
            Failure::CertificateRequired => "it shows no certificate, which health.tls.client_ca_file requires",
            Failure::CertificateRefused | Failure::WrongName => {
                "it does not accept this site's certificate: make its issuer known there, and ask by the name that it is for"
            }
            Failure::TooOld => "it speaks nothing newer than TLS 1.1",
            Failure::Other => "the handshake failed; look at what it says itself",
        };
        self.say(from, failure.code(), text);
    }

    /// Says that a token was wrong.
    pub(super) fn of_token(&self, from: SocketAddr) {
        self.say(from, "wrong_token", "its token is not the one in health.token_file");
    }

    fn say(&self, from: SocketAddr, cause: &'static str, text: &str) {
        if self.is_due(cause, Instant::now()) {
            tracing::warn!(%from, cause, "cannot answer who asks for health: {text}");
        }
    }

    fn is_due(&self, cause: &'static str, now: Instant) -> bool {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = given.get(cause).is_none_or(|at| now.saturating_duration_since(*at) >= ADVISE_EVERY);
        if is_due {
            given.insert(cause, now);
        }
        is_due
    }
}
