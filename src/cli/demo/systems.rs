//! The HL7 systems at the two sites: senders that wait for each answer, and receivers that give it.
//!
//! They speak plain MLLP over TCP on the loopback of their site, and know nothing of wardlink or the tunnel.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::messages::Message;
use super::mllp_peer::Connection;
use super::plan::{Flow, Ledger};

/// Is how long a sender waits for an answer; a real one waits so long too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Holds what a sender saw.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Lists the messages that got the right answer, and how long that took from the first byte out.
    pub(super) answered: Vec<(usize, Duration)>,
    /// Says what went wrong; a sender ends its connection there.
    pub(super) failures: Vec<String>,
}

/// Sends the messages of a flow, each after the answer to the one before.
pub(super) async fn send(to: SocketAddr, messages: Arc<[Message]>, flow: Flow) -> Sent {
    let mut sent = Sent::default();
    for numbers in flow.connections() {
        if let Err(error) = send_over_one(to, &messages, &numbers, &mut sent).await {
            sent.failures.push(format!("a sender's connection broke: {error}"));
        }
    }
    sent
}

async fn send_over_one(to: SocketAddr, messages: &[Message], numbers: &[usize], sent: &mut Sent) -> io::Result<()> {
    let mut connection = Connection::open(to).await?;
    for number in numbers {
        let Some(message) = messages.get(*number) else { continue };
        let begun = Instant::now();
        let exchange = async {
            connection.write_frame(&message.payload).await?;
            connection.read_frame().await
        };
        let overdue = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer to a message");
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(overdue)?? {
            // The answer is known to the byte: AA in MSA-1, this message's MSH-10 in MSA-2.
            Some(answer) if answer == message.answer => sent.answered.push((*number, begun.elapsed())),
            Some(_) => return Err(io::Error::other("an answer is not the receiver's to this message")),
            None => return Err(io::Error::other("closed before the answer")),
        }
    }
    Ok(())
}

/// Starts a receiver, whose tasks end with the runtime, and returns the ledger that it keeps.
///
/// # Errors
/// The address is taken.
pub(super) async fn receive(at: SocketAddr, messages: Arc<[Message]>) -> io::Result<Arc<Mutex<Ledger>>> {
    let listener = TcpListener::bind(at).await?;
    let receiver = Receiver::new(messages);
    let ledger = Arc::clone(&receiver.ledger);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let receiver = receiver.clone();
            tokio::task::spawn_local(async move {
                if let Ok(connection) = Connection::new(stream) {
                    // A sender that is cut off misses messages, which the ledger shows.
                    receiver.serve(connection).await.ok();
                }
            });
        }
    });
    Ok(ledger)
}

#[derive(Clone)]
struct Receiver {
    messages: Arc<[Message]>,
    hasher: RandomState,
    /// Finds a message by the hash of its payload.
    numbers: Arc<HashMap<u64, usize>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Receiver {
    fn new(messages: Arc<[Message]>) -> Self {
        let hasher = RandomState::new();
        let hashed = messages.iter().zip(0..).map(|(message, number)| (hasher.hash_one(&message.payload), number));
        let numbers = Arc::new(hashed.collect());
        Self { messages, hasher, numbers, ledger: Arc::default() }
    }

    async fn serve(&self, mut connection: Connection) -> io::Result<()> {
        let row = self.with_ledger(|ledger| {
            ledger.connections.push(Vec::new());
            ledger.connections.len() - 1
        });
        while let Some(payload) = connection.read_frame().await? {
            let Some((number, message)) = self.recognise(&payload) else {
                self.with_ledger(|ledger| ledger.strangers += 1);
                break;
            };
            self.with_ledger(|ledger| ledger.connections.get_mut(row).map(|row| row.push(number)));
            connection.write_frame(&message.answer).await?;
        }
        Ok(())
    }

    /// Finds the message whose payload this is, byte for byte.
    fn recognise(&self, payload: &Vec<u8>) -> Option<(usize, &Message)> {
        let number = *self.numbers.get(&self.hasher.hash_one(payload))?;
        let message = self.messages.get(number)?;
        (message.payload == *payload).then_some((number, message))
    }

    fn with_ledger<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::super::plan::{complaints, flows};
    use super::*;

    #[tokio::test]
    async fn a_message_is_answered_and_an_altered_one_is_a_stranger() {
        let messages: Arc<[Message]> = messages::generate(6).into();
        let at: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listener = TcpListener::bind(at).await.unwrap();
        let to = listener.local_addr().unwrap();
        let receiver = Receiver::new(Arc::clone(&messages));
        let serving = receiver.clone();
        let accept = async move {
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.unwrap();
                serving.serve(Connection::new(stream).unwrap()).await.unwrap();
            }
        };
        let flow = flows(&messages, true).remove(0);
        let send_all = async {
            let sent = send(to, Arc::clone(&messages), flow.clone()).await;
            let mut connection = Connection::open(to).await.unwrap();
            connection.write_frame(&messages[0].payload[1..]).await.unwrap();
            assert_eq!(connection.read_frame().await.unwrap(), None);
            sent
        };
        let ((), sent) = tokio::join!(accept, send_all);
        assert_eq!(sent.failures, Vec::<String>::new());
        assert_eq!(sent.answered.len(), flow.connections().concat().len());
        let ledger = receiver.ledger.lock().unwrap().clone();
        assert_eq!(complaints(&[flow], &ledger), ["1 messages arrived altered"]);
    }
}
