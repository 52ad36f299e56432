//! Senders and a receiver that keep account: numbered messages, each sent again until it is answered, as engines do, and
//! every arrival noted in order with what the receiver said to it. All messages are synthetic.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

use super::account::{Answer, Arrival, Number};
use crate::harness::mllp::{Frames, Sender, answer_to, control_id, framed, message};
use crate::harness::namespace::Namespace;
use crate::impair::fate::Chance;

/// Bounds the wait of a sender for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Is the pause of a sender before it connects again, or sends again what was refused.
const AGAIN_PAUSE: Duration = Duration::from_millis(20);

/// Says how many bytes a message has: most are small, some large, few above what the database itself keeps.
fn size_of(number: Number) -> usize {
    match number.count * 7 + number.sender as u64 {
        mixed if mixed % 509 == 0 => 1_200_000,
        mixed if mixed % 61 == 0 => 70_000,
        mixed if mixed % 13 == 0 => 5_000,
        _ => 300,
    }
}

/// Counts the fault that is under way.
pub(crate) type Run = Arc<AtomicUsize>;

fn payload(number: Number) -> Vec<u8> {
    message(&format!("F{}-{}", number.sender, number.count), size_of(number))
}

fn number_of(payload: &[u8]) -> Option<Number> {
    let id = std::str::from_utf8(control_id(payload)).ok()?;
    let (sender, count) = id.strip_prefix('F')?.split_once('-')?;
    Some(Number { sender: sender.parse().ok()?, count: count.parse().ok()? })
}

/// Is what the senders know.
#[derive(Clone, Default)]
pub(crate) struct Sent {
    pub(crate) acked: Vec<(Number, usize)>,
    pub(crate) resent: BTreeMap<Number, (u64, usize)>,
    /// Describes answers that are none to what was sent.
    pub(crate) wrong: Vec<String>,
    /// Counts negative answers.
    pub(crate) refused: u64,
    latest: BTreeMap<usize, Instant>,
}

/// Is a number of senders at work.
pub(crate) struct Senders {
    stop: Arc<AtomicBool>,
    /// Is held by each sender while a message of it is under way.
    gate: Arc<RwLock<()>>,
    sent: Arc<Mutex<Sent>>,
    count: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// Starts them inside a site.
    pub(crate) fn start(namespace: &Arc<Namespace>, to: SocketAddr, count: usize, pause: Duration, run: &Run) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Sent::default())));
        let gate = Arc::new(RwLock::new(()));
        let threads = (0..count)
            .map(|sender| {
                let (namespace, run) = (Arc::clone(namespace), Arc::clone(run));
                let (stop, sent, gate) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&gate));
                thread::spawn(move || {
                    let mut connection = None;
                    for count in 1.. {
                        let number = Number { sender, count };
                        let under_way = gate.read().unwrap();
                        if !get_through(&namespace, to, number, &mut connection, &stop, &sent, &run) {
                            return;
                        }
                        drop(under_way);
                        thread::sleep(pause);
                    }
                })
            })
            .collect();
        Self { stop, gate, sent, count, threads }
    }

    /// Returns what they know so far.
    pub(crate) fn sent(&self) -> Sent {
        self.sent.lock().unwrap().clone()
    }

    /// Waits until no message is under way; none is sent until what is returned is dropped.
    pub(crate) fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap()
    }

    /// Counts what was acknowledged so far.
    pub(crate) fn acked(&self) -> usize {
        self.sent.lock().unwrap().acked.len()
    }

    /// Tells whether each of them has had a positive answer since then.
    pub(crate) fn all_answered_since(&self, since: Instant) -> bool {
        let sent = self.sent.lock().unwrap();
        sent.latest.values().filter(|at| **at > since).count() == self.count
    }

    /// Stops them, each at once: what is under way then is not acknowledged. Returns what they know.
    pub(crate) fn stop(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a sender does not panic");
        }
        self.sent()
    }
}

/// Sends a message until it has its answer; tells whether it has, or the sender was stopped.
fn get_through(
    namespace: &Namespace,
    to: SocketAddr,
    number: Number,
    connection: &mut Option<Sender>,
    stop: &AtomicBool,
    sent: &Mutex<Sent>,
    run: &Run,
) -> bool {
    let payload = payload(number);
    let mut attempts = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        if connection.is_none() {
            *connection = Sender::connect(namespace, to).ok();
        }
        let Some(sender) = connection else {
            thread::sleep(AGAIN_PAUSE);
            continue;
        };
        attempts += 1;
        let now = run.load(Ordering::Relaxed);
        if attempts > 1 {
            sent.lock().unwrap().resent.insert(number, (attempts - 1, now));
        }
        let answer = match sender.send(&payload) {
            Ok(()) => sender.answer(ANSWER_LIMIT).ok(),
            Err(_) => None,
        };
        let mut sent = sent.lock().unwrap();
        match answer.as_deref().map(|answer| verdict(answer, &payload)) {
            Some(Some(b"AA")) => {
                sent.acked.push((number, run.load(Ordering::Relaxed)));
                sent.latest.insert(number.sender, Instant::now());
                return true;
            }
            Some(Some(_)) => sent.refused += 1,
            Some(None) => {
                let text = String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned();
                sent.wrong.push(format!("to {number:?}: {text}"));
                *connection = None;
            }
            None => *connection = None,
        }
        drop(sent);
        thread::sleep(AGAIN_PAUSE);
    }
    false
}

/// Reads the code of an answer, where it is one to this message.
fn verdict<'a>(answer: &'a [u8], payload: &[u8]) -> Option<&'a [u8]> {
    let segment = answer.split(|byte| *byte == b'\r').find(|segment| segment.starts_with(b"MSA"))?;
    let mut fields = segment.split(|byte| *byte == b'|').skip(1);
    let code = fields.next()?;
    (fields.next()? == control_id(payload)).then_some(code)
}

/// Says what the receiver does with the next messages; each fault sets it, healing sets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It accepts them.
    Well,
    /// It accepts each so much later.
    Slow(Duration),
    /// It says AE to so many, and is then well.
    Fails(usize),
    /// It says AR to so many.
    Rejects(usize),
    /// It closes its connection instead of answering, so often.
    Closes(usize),
}

impl Mood {
    /// Returns the mood for this message, and becomes the one for the next.
    fn take(&mut self) -> Self {
        let now = *self;
        *self = match now {
            Self::Fails(0 | 1) | Self::Rejects(0 | 1) | Self::Closes(0 | 1) => Self::Well,
            Self::Fails(left) => Self::Fails(left - 1),
            Self::Rejects(left) => Self::Rejects(left - 1),
            Self::Closes(left) => Self::Closes(left - 1),
            Self::Well | Self::Slow(_) => now,
        };
        now
    }
}

struct Notes {
    arrivals: Mutex<Vec<(Arrival, Instant)>>,
    /// Is when a connection ended, by its number.
    ended: Mutex<BTreeMap<usize, Instant>>,
    spoiled: Mutex<Vec<String>>,
    mood: Mutex<Mood>,
    connections: AtomicUsize,
    run: Run,
}

/// Is a receiver with a memory that outlives it.
pub(crate) struct Recorder {
    notes: Arc<Notes>,
    namespace: Arc<Namespace>,
    at: SocketAddr,
    listening: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Recorder {
    /// Listens inside a site.
    pub(crate) fn start(namespace: &Arc<Namespace>, at: SocketAddr, run: &Run) -> Self {
        let notes = Notes {
            arrivals: Mutex::default(),
            ended: Mutex::default(),
            spoiled: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            connections: AtomicUsize::new(0),
            run: Arc::clone(run),
        };
        let mut recorder = Self { notes: Arc::new(notes), namespace: Arc::clone(namespace), at, listening: None };
        recorder.up();
        recorder
    }

    /// Starts the receiver again, if it is down.
    pub(crate) fn up(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let listener = self.namespace.listen(self.at).expect("the receiver's port is free");
        let (stop, notes) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.notes));
        let stopped = Arc::clone(&stop);
        self.listening = Some((stop, thread::spawn(move || accept(&listener, &notes, &stopped))));
    }

    /// Kills the receiver, with its connections.
    pub(crate) fn down(&mut self) {
        if let Some((stop, thread)) = self.listening.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("the receiver does not panic");
        }
    }

    /// Changes what it does with the next messages.
    pub(crate) fn set(&self, mood: Mood) {
        *self.notes.mood.lock().unwrap() = mood;
    }

    /// Counts what has come so far.
    pub(crate) fn count(&self) -> usize {
        self.notes.arrivals.lock().unwrap().len()
    }

    /// Returns what has come so far.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        let ended = self.notes.ended.lock().unwrap();
        let arrivals = self.notes.arrivals.lock().unwrap();
        let open_for = |(arrival, at): &(Arrival, Instant)| {
            let open_for = ended.get(&arrival.connection).map(|end| end.saturating_duration_since(*at));
            Arrival { open_for, ..*arrival }
        };
        arrivals.iter().map(open_for).collect()
    }

    /// Describes what has come and is none of the messages that are sent.
    pub(crate) fn spoiled(&self) -> Vec<String> {
        self.notes.spoiled.lock().unwrap().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.down();
    }
}

fn accept(listener: &TcpListener, notes: &Arc<Notes>, stop: &Arc<AtomicBool>) {
    let mut serving: Vec<(Arc<TcpStream>, JoinHandle<()>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(10_u8)).unwrap_or(0) == 0 {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let stream = Arc::new(stream);
        let (theirs, notes, stop) = (Arc::clone(&stream), Arc::clone(notes), Arc::clone(stop));
        serving.retain(|(_, thread)| !thread.is_finished());
        let thread = thread::spawn(move || {
            let connection = notes.connections.fetch_add(1, Ordering::Relaxed);
            // an error is the end of the connection: nothing to do for a receiver
            let _ = serve(&theirs, connection, &notes, &stop);
            let _ = theirs.shutdown(Shutdown::Both);
            notes.ended.lock().unwrap().insert(connection, Instant::now());
        });
        serving.push((stream, thread));
    }
    for (stream, thread) in serving {
        let _ = stream.shutdown(Shutdown::Both);
        thread.join().expect("the receiver does not panic");
    }
}

fn serve(mut stream: &TcpStream, connection: usize, notes: &Notes, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frames = Frames::default();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        frames.push(&piece[..count]);
        while let Some(read) = frames.next() {
            let Some(message) = number_of(&read).filter(|number| payload(*number) == read) else {
                let head = String::from_utf8_lossy(&read[..read.len().min(100)]).into_owned();
                notes.spoiled.lock().unwrap().push(head);
                return Ok(());
            };
            let run = notes.run.load(Ordering::Relaxed);
            let arrival = Arrival { message, connection, answer: Answer::None, open_for: None, run };
            let at = {
                let mut arrivals = notes.arrivals.lock().unwrap();
                arrivals.push((arrival, Instant::now()));
                arrivals.len() - 1
            };
            let mood = notes.mood.lock().unwrap().take();
            let (code, answer) = match mood {
                Mood::Closes(_) => return Ok(()),
                Mood::Fails(_) => ("AE", Answer::Failed),
                Mood::Rejects(_) => ("AR", Answer::Rejected),
                Mood::Slow(pause) => {
                    thread::sleep(pause);
                    ("AA", Answer::Accepted)
                }
                Mood::Well => ("AA", Answer::Accepted),
            };
            stream.write_all(&framed(&answer_to(&read, code)))?;
            notes.arrivals.lock().unwrap()[at] = (Arrival { answer, ..arrival }, Instant::now());
        }
    }
}

/// Draws a number below `bound`.
pub(crate) fn below(chance: &mut Chance, bound: u64) -> u64 {
    chance.next() % bound.max(1)
}
