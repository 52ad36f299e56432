//! The begin of a connection over TLS: its handshake, and what to say to who does not speak it.
//!
//! It reads no request.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tls::{Failure, Listener, Socket, Told};

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

/// Says what to do about who cannot be answered: at most once a minute for each cause.
#[derive(Debug, Default)]
pub(super) struct Advice(Told);

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
        if self.0.is_due(cause, Instant::now()) {
            tracing::warn!(%from, cause, "cannot answer who asks for health: {text}");
        }
    }
}
