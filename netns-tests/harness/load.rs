//! Load: senders with a persistent connection each that behave as engines do: one message at a time, wait for its ACK,
//! and where the connection is lost connect again and send the same message again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::mllp::{Lost, Receiver, Sender, answer_to, control_id, message};
use super::namespace::Namespace;
use super::until;

/// Is the pause of a sender between two messages.
const MESSAGE_PAUSE: Duration = Duration::from_millis(5);

/// Is the pause of a sender before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Bounds the wait for one answer: above any `hold_for` of the tests.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Bounds how long a stopped sender goes on to get its last message through.
const FINISH_LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Tally {
    acked: Vec<String>,
    wrong: Vec<String>,
    lost: usize,
    latest: Option<Instant>,
}

/// Is a number of senders at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<(Arc<Mutex<Tally>>, JoinHandle<()>)>,
}

/// Is what the senders saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// Lists the MSH-10 of each message that was acknowledged.
    pub(crate) acked: Vec<String>,
    /// Describes each answer that was not the receiver's own AA to the message sent.
    pub(crate) wrong: Vec<String>,
    /// Counts connections lost while a message was under way or refused.
    pub(crate) lost: usize,
}

impl Load {
    /// Starts `count` senders in a site.
    pub(crate) fn start(namespace: &Arc<Namespace>, to: SocketAddr, count: usize) -> Self {
        Self::patient(namespace, to, count, ANSWER_LIMIT)
    }

    /// Starts `count` senders that wait for an answer as long as `answer_limit`.
    pub(crate) fn patient(namespace: &Arc<Namespace>, to: SocketAddr, count: usize, answer_limit: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..count)
            .map(|number| {
                let tally = Arc::new(Mutex::new(Tally::default()));
                let (namespace, stop, shared) = (Arc::clone(namespace), Arc::clone(&stop), Arc::clone(&tally));
                let aim = Aim { to, answer_limit };
                let work = move || send_until_stopped(&namespace, aim, number, &stop, &shared);
                (tally, thread::spawn(work))
            })
            .collect();
        Self { stop, senders }
    }

    /// Waits until every sender has got an answer after `since`. Returns the time from `since` to then.
    #[track_caller]
    pub(crate) fn flows_again(&self, since: Instant, limit: Duration) -> Duration {
        let left = limit.saturating_sub(since.elapsed());
        until(left, "every sender has got an answer", || {
            let all = self.senders.iter().all(|(tally, _)| tally.lock().unwrap().latest.is_some_and(|at| at > since));
            all.then_some(())
        });
        since.elapsed()
    }

    /// Counts the messages acknowledged so far.
    pub(crate) fn acked(&self) -> usize {
        self.senders.iter().map(|(tally, _)| tally.lock().unwrap().acked.len()).sum()
    }

    /// Ends the load without waiting for anything: the senders stop when they find out.
    pub(crate) fn abandon(self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the load: each sender gets its last message through, then stops.
    pub(crate) fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = Report { acked: Vec::new(), wrong: Vec::new(), lost: 0 };
        for (tally, sender) in self.senders {
            sender.join().expect("a sender does not panic");
            let mut tally = tally.lock().unwrap();
            report.acked.append(&mut tally.acked);
            report.wrong.append(&mut tally.wrong);
            report.lost += tally.lost;
        }
        report
    }
}

impl Report {
    /// Asserts that there was traffic, no wrong answer, and that what was acknowledged is at the receiver, unchanged.
    #[track_caller]
    pub(crate) fn holds(&self, receivers: &[&Receiver]) {
        assert!(!self.acked.is_empty(), "there was no traffic");
        assert_eq!(self.wrong, Vec::<String>::new(), "wrong answers");
        let payloads: HashSet<Vec<u8>> = receivers.iter().flat_map(|receiver| receiver.payloads()).collect();
        for id in &self.acked {
            assert!(payloads.contains(&message(id, MESSAGE_BYTES)), "{id} was acknowledged and is not at the receiver");
        }
    }
}

/// Is the size of each message, as a usual ORU.
const MESSAGE_BYTES: usize = 500;

/// Says where a sender sends, and for how long it waits for an answer.
#[derive(Clone, Copy)]
struct Aim {
    to: SocketAddr,
    answer_limit: Duration,
}

fn send_until_stopped(namespace: &Namespace, aim: Aim, number: usize, stop: &AtomicBool, tally: &Mutex<Tally>) {
    let mut connection = None;
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let payload = message(&format!("L{number}-{count}"), MESSAGE_BYTES);
        let mut stopped = None;
        while !get_through(namespace, aim, &payload, &mut connection, tally) {
            if stop.load(Ordering::Relaxed) && stopped.get_or_insert_with(Instant::now).elapsed() > FINISH_LIMIT {
                return;
            }
            thread::sleep(RECONNECT_PAUSE);
        }
        thread::sleep(MESSAGE_PAUSE);
    }
}

/// Tries once to get a message through; tells whether it was answered.
fn get_through(
    namespace: &Namespace,
    aim: Aim,
    payload: &[u8],
    connection: &mut Option<Sender>,
    tally: &Mutex<Tally>,
) -> bool {
    let id = String::from_utf8_lossy(control_id(payload)).into_owned();
    if connection.is_none() {
        *connection = Sender::connect(namespace, aim.to).ok();
    }
    let answer = match connection {
        Some(sender) => sender.send(payload).map_err(|_| Lost::Closed).and_then(|()| sender.answer(aim.answer_limit)),
        None => Err(Lost::Closed),
    };
    let mut tally = tally.lock().unwrap();
    match answer {
        Ok(answer) if answer == answer_to(payload, "AA") => {
            tally.acked.push(id);
            tally.latest = Some(Instant::now());
            true
        }
        Ok(answer) => {
            tally.wrong.push(format!("to {id}: {}", String::from_utf8_lossy(&answer)));
            true
        }
        Err(_) => {
            tally.lost += 1;
            *connection = None;
            false
        }
    }
}
