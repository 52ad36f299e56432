//! Posts one alarm: a request of HTTP/1.1 on a connection of its own, and of the answer no more than its status.
//!
//! Written here and not by a client library: `tls::Socket` is the one way to TLS, and one status line is all that is read.
//! It follows no redirect, keeps nothing, and names neither the path nor the answer's text. The rules are those of RFC 9112.

use std::io;
use std::time::Duration;

use super::super::outward::dial;
use crate::config::Webhook;
use crate::health::alarms::Event;
use crate::tls::Socket;

/// Bounds a request from the look-up to the status: one that takes longer is tried again.
const POST_WITHIN: Duration = Duration::from_secs(10);
/// Limits what is read of an answer, in bytes: a status line has some 30.
const STATUS_BYTES_MAX: usize = 1024;

/// Posts an alarm.
///
/// # Errors
/// Says why it is not known to have arrived.
pub(super) async fn post(to: &Webhook, event: &Event) -> Result<(), String> {
    match tokio::time::timeout(POST_WITHIN, exchange(to, event)).await {
        Ok(done) => done.map_err(|cause| format!("{}: {cause}", to.server)),
        Err(_) => Err(format!("{} did not answer within {POST_WITHIN:?}", to.server)),
    }
}

async fn exchange(to: &Webhook, event: &Event) -> Result<(), String> {
    // A name that is said to be this host must not lead beyond it in plain text.
    let tcp = dial(&to.server, to.tls.is_none()).await.map_err(|error| error.to_string())?;
    let socket = match &to.tls {
        None => Socket::plain(tcp),
        Some(tls) => Socket::connect(tcp, tls).await.map_err(|failure| failure.to_string())?,
    };
    let body = serde_json::to_string(event).map_err(|error| error.to_string())?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: wardlink/{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        to.path.expose(),
        to.authority,
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    write(&socket, (head + &body).as_bytes()).await.map_err(|error| error.to_string())?;
    let status = status(&socket).await.map_err(|error| error.to_string())?;
    match status {
        Some(200..=299) => Ok(()),
        Some(code @ 300..=399) => Err(format!("it answers {code}: write the URL that it leads to as alarms.webhook")),
        Some(code) => Err(format!("it answers {code}")),
        None => Err("it does not answer as HTTP does".to_owned()),
    }
}

async fn write(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match socket.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the status of the answer; none where there is no such line.
async fn status(socket: &Socket) -> io::Result<Option<u16>> {
    let (mut text, mut some) = (Vec::new(), [0; STATUS_BYTES_MAX]);
    while text.len() < STATUS_BYTES_MAX && !text.contains(&b'\n') {
        match socket.try_read(&mut some) {
            Ok(0) => break,
            Ok(bytes) => text.extend(some.iter().take(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable().await,
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    Ok(words.next().filter(|_| is_http).and_then(|code| code.parse().ok()))
}
