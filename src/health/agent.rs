//! HAProxy's agent-check: one word a connection, `up` or `down #cause`, for a forward by its name or for the whole site.
//!
//! Only answers. Each connection lives for a bounded time, and their number is bounded, as with HTTP. The protocol is that
//! of HAProxy (configuration manual, `agent-check`): an ASCII line; what `agent-send` sends names the forward.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::facts::{SiteFacts, rfc3339_text};
use super::http::Source;
use super::state::{Report, Status, Verdict, assess};

/// Limits the connections at once: as many as with HTTP; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Limits a connection from its acceptance to its last byte: HAProxy gives up after some seconds.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(2);
/// Is the wait for a name: a check without `agent-send` says nothing, and must not wait long.
const NAME_WITHIN: Duration = Duration::from_millis(100);
/// Limits the line with the name, in bytes: a name has 63 at the most.
const NAME_BYTES_MAX: usize = 128;
/// Limits an answer, in bytes: HAProxy reads one buffer and shows the first words.
const ANSWER_BYTES_MAX: usize = 200;
/// Is the pause after a failed accept: it fails for want of file descriptors, and would spin.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` for ever. Cancel-safe: a connection that is being answered ends by itself, and soon.
pub async fn serve(listener: TcpListener, source: Source) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match accept(&listener, &slots).await {
            Ok((stream, slot)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    if timeout(CONNECTION_TIME_MAX, answer(stream, &source)).await.is_err() {
                        tracing::debug!("an agent check took too long and was closed");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an agent check");
                sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}

/// Accepts the next connection once a slot is free.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn answer(mut stream: TcpStream, source: &Source) {
    let mut line = Vec::new();
    // Who says nothing asks for the whole site.
    timeout(NAME_WITHIN, read_line(&stream, &mut line)).await.ok();
    let facts = source();
    let text = judge(&facts, &line, SystemTime::now());
    // One that does not take its answer asks again.
    if stream.write_all(text.as_bytes()).await.is_ok() {
        stream.shutdown().await.ok();
    }
}

/// Reads up to the end of a line, of the connection, or of what a name can have.
async fn read_line(stream: &TcpStream, line: &mut Vec<u8>) {
    let mut some = [0; NAME_BYTES_MAX];
    while line.len() < NAME_BYTES_MAX && !line.contains(&b'\n') {
        match stream.try_read(&mut some) {
            Ok(0) => return,
            Ok(bytes) => line.extend(some.iter().take(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stream.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Says `up`, or `down` and why, of the forward that a line names, or of the site where it names none.
fn judge(facts: &SiteFacts, line: &[u8], now: SystemTime) -> String {
    let report = assess(facts, now);
    let name = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default());
    let down = match name.trim() {
        "" => site(&report),
        name => match report.forwards.iter().find(|entry| entry.facts.name == name) {
            Some(entry) if entry.verdict.status == Status::Down => Some(told(&entry.verdict)),
            Some(_) => None,
            None => Some("no forward has the name in agent-send".to_owned()),
        },
    };
    match down {
        None => "up\n".to_owned(),
        Some(cause) => {
            let cause: String = cause.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
            let mut text = format!("down #{cause}");
            text.truncate(ANSWER_BYTES_MAX - 1);
            text.push('\n');
            text
        }
    }
}

/// Says why the site is down: any part of it is.
fn site(report: &Report<'_>) -> Option<String> {
    if let Some(cause) = report.unready.first() {
        return Some(cause.clone());
    }
    let down = |verdict: &Verdict| (verdict.status == Status::Down).then(|| told(verdict));
    let forwards =
        report.forwards.iter().filter_map(|entry| Some(format!("{}: {}", entry.facts.name, down(&entry.verdict)?)));
    let services =
        report.services.iter().filter_map(|entry| Some(format!("{}: {}", entry.facts.name, down(&entry.verdict)?)));
    let peers = report.peers.iter().filter_map(|entry| down(&entry.verdict));
    peers.chain(forwards).chain(services).next()
}

/// Writes a cause with since when, where it does not say so itself.
fn told(verdict: &Verdict) -> String {
    let cause = verdict.cause.clone().unwrap_or_default();
    if cause.contains(" since ") { cause } else { format!("{cause} (since {})", rfc3339_text(verdict.since)) }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::super::facts::{Link, Receiver};
    use super::super::fixture::{NOW, ago, site};
    use super::*;

    fn broken() -> SiteFacts {
        let mut facts = site();
        let cause = format!("192.168.10.40:6661 refuses \u{e4} connections{}", "!".repeat(300));
        facts.forwards[0].receiver = Receiver::Down { since: ago(60), cause };
        facts
    }

    #[test]
    fn a_forward_is_asked_by_its_name_and_the_site_without_one() {
        let facts = broken();
        for (line, starts) in [
            ("orders\n", "down #receiver 192.168.10.40:6661 refuses ? connections"),
            ("orders\r\nmore", "down #receiver"),
            ("orders", "down #receiver"),
            ("images\n", "up\n"),
            ("image\n", "down #no forward has the name in agent-send\n"),
            ("", "down #orders: receiver"),
            ("\n", "down #orders: receiver"),
        ] {
            let answer = judge(&facts, line.as_bytes(), *NOW);
            assert!(answer.starts_with(starts), "{line:?}: {answer}");
            assert!(answer.len() <= ANSWER_BYTES_MAX && answer.is_ascii() && answer.ends_with('\n'), "{answer}");
            assert_eq!(answer.lines().count(), 1, "{answer}");
        }
        let mut down = site();
        let cause = "service orders is not known at city-lab".to_owned();
        down.forwards[0].link = Link::Down { since: ago(60), cause };
        let said = format!("not known at city-lab (since {})\n", rfc3339_text(ago(60)));
        assert!(judge(&down, b"orders\n", *NOW).ends_with(&said), "{}", judge(&down, b"orders\n", *NOW));
        assert_eq!(judge(&site(), b"", *NOW), "up\n");
        assert_eq!(judge(&facts, &[0xff; 128], *NOW), "down #no forward has the name in agent-send\n");
    }

    #[test]
    fn what_works_and_should_be_looked_at_is_up() {
        let mut facts = site();
        facts.forwards[0].link = Link::New;
        assert_eq!(judge(&facts, b"orders\n", *NOW), "up\n");
    }

    #[tokio::test]
    async fn who_says_nothing_or_never_ends_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source: Source = Arc::new(broken);
        tokio::spawn(serve(listener, source));
        let endless = [b'x'; NAME_BYTES_MAX];
        for (said, starts) in
            [(&b""[..], "down #orders"), (b"images\n", "up"), (b"ima", "down #no"), (&endless, "down #no")]
        {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let mut answer = vec![0; 64];
            let bytes = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..bytes]).into_owned();
            assert!(answer.starts_with(starts), "{answer}");
        }
    }
}
