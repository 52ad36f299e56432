//! A sender and a receiver of HL7 v2 over MLLP Release 1, as the field has them: threads, sockets, no idea of a tunnel.
//! All messages are synthetic.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

use super::namespace::Namespace;

/// Is in every message, so that a capture or a log can be searched for it.
pub(crate) const MARKER: &str = "WLMARKER7Q";

/// Bounds the wait for an answer that is due.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Builds a message of about `bytes` bytes with its MSH-10.
pub(crate) fn message(id: &str, bytes: usize) -> Vec<u8> {
    let mut text = format!(
        "MSH|^~\\&|HIS|NORTH|LAB|SOUTH|20260101120000||ORU^R01|{id}|P|2.5\rPID|1||{MARKER}^^^N||SYNTHETIC^TEST\rOBX|1|ED|"
    )
    .into_bytes();
    let filler = bytes.saturating_sub(text.len() + 1);
    text.extend((0..filler).map(|n| b'A' + (n % 26) as u8));
    text.push(b'\r');
    text
}

/// Wraps a payload as MLLP does.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    [b"\x0b", payload, b"\x1c\r"].concat()
}

/// Returns the receiver's answer to a message, not framed: with the message's MSH-10 and a byte that is not UTF-8.
pub(crate) fn answer_to(payload: &[u8], code: &str) -> Vec<u8> {
    let id = control_id(payload);
    let head = b"MSH|^~\\&|LAB|SOUTH|HIS|NORTH|20260101120001||ACK^R01|A";
    let ack = format!("|P|2.5\rMSA|{code}|");
    [head, id, ack.as_bytes(), id, b"|angenommen \xfc\r"].concat()
}

/// Returns MSH-10.
pub(crate) fn control_id(payload: &[u8]) -> &[u8] {
    let header = payload.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let separator = header.get(3).copied().unwrap_or(b'|');
    header.split(|byte| *byte == separator).nth(9).unwrap_or_default()
}

/// Says what a receiver does with a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// Answers with this code.
    Answer(&'static str),
    /// Answers AA, so much later.
    AnswerAfter(Duration),
    /// Never answers.
    Silent,
    /// Closes the connection instead of answering.
    Close,
    /// Closes each connection at once, as one that has as many as it takes.
    TurnAway,
    /// Writes these pieces for a message, one after the other.
    Say(fn(&[u8]) -> Vec<Vec<u8>>),
    /// Never reads.
    Stall,
}

#[derive(Default)]
struct Seen {
    payloads: Mutex<Vec<Vec<u8>>>,
    raw: Mutex<Vec<u8>>,
    /// Are the open connections; those that ended are dropped as new ones come.
    streams: Mutex<Vec<Weak<TcpStream>>>,
    connections: AtomicUsize,
    ended: AtomicUsize,
    stop: AtomicBool,
}

/// Is a receiver that listens in a site.
pub(crate) struct Receiver {
    seen: Arc<Seen>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens at `at` and serves every connection in a thread of its own.
    pub(crate) fn start(namespace: &Namespace, at: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = namespace.listen(at).expect("the receiver's port is free");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let acceptor = thread::spawn(move || accept(&listener, &shared, behaviour));
        Self { seen, acceptor: Some(acceptor) }
    }

    /// Returns every payload so far, in the order of arrival.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        self.seen.payloads.lock().unwrap().clone()
    }

    /// Returns every byte so far.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.seen.raw.lock().unwrap().clone()
    }

    /// Returns how many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Returns how many connections are open.
    pub(crate) fn connections_open(&self) -> usize {
        self.connections() - self.seen.ended.load(Ordering::Relaxed)
    }

    /// Writes on the latest connection, unasked.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let streams = self.seen.streams.lock().unwrap();
        streams
            .last()
            .and_then(Weak::upgrade)
            .expect("a connection")
            .write_all_shared(bytes)
            .expect("the connection is open");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.seen.streams.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

trait WriteShared {
    fn write_all_shared(&self, bytes: &[u8]) -> io::Result<()>;
}

impl WriteShared for TcpStream {
    fn write_all_shared(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self;
        stream.write_all(bytes)
    }
}

fn accept(listener: &TcpListener, seen: &Arc<Seen>, behaviour: Behaviour) {
    while !seen.stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(20_u8)).unwrap_or(0) == 0 {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        let mut streams = seen.streams.lock().unwrap();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        drop(streams);
        let seen = Arc::clone(seen);
        thread::spawn(move || {
            // an error is the sender's or the tunnel's end of the connection: nothing to do for a receiver
            let _ = serve(&stream, &seen, behaviour);
            let _ = stream.shutdown(Shutdown::Both);
            seen.ended.fetch_add(1, Ordering::Relaxed);
        });
    }
}

fn serve(mut stream: &TcpStream, seen: &Seen, behaviour: Behaviour) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frames = Frames::default();
    let mut piece = vec![0; 64 * 1024];
    if matches!(behaviour, Behaviour::TurnAway) {
        return Ok(());
    }
    while matches!(behaviour, Behaviour::Stall) && !seen.stop.load(Ordering::Relaxed) {
        thread::sleep(super::POLL_PAUSE);
    }
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        seen.raw.lock().unwrap().extend_from_slice(&piece[..count]);
        frames.push(&piece[..count]);
        while let Some(payload) = frames.next() {
            let answer = answer_to(&payload, "AA");
            seen.payloads.lock().unwrap().push(payload.clone());
            match behaviour {
                Behaviour::Answer(code) => stream.write_all(&framed(&answer_to(&payload, code)))?,
                Behaviour::AnswerAfter(pause) => {
                    thread::sleep(pause);
                    stream.write_all(&framed(&answer))?;
                }
                Behaviour::Say(pieces) => {
                    for piece in pieces(&payload) {
                        stream.write_all(&piece)?;
                        thread::sleep(super::POLL_PAUSE);
                    }
                }
                Behaviour::Close | Behaviour::TurnAway => return Ok(()),
                Behaviour::Silent | Behaviour::Stall => {}
            }
        }
    }
}

/// Cuts a stream of bytes into payloads.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    searched: usize,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let from = self.searched.saturating_sub(1);
        let Some(end) = memchr::memmem::find(&self.bytes[from..], b"\x1c\r").map(|at| from + at) else {
            self.searched = self.bytes.len();
            return None;
        };
        let start = memchr::memchr(0x0b, &self.bytes[..end]).expect("a frame begins with VT") + 1;
        let payload = self.bytes[start..end].to_vec();
        self.bytes.drain(..end + 2);
        self.searched = 0;
        Some(payload)
    }
}

/// Says why an answer did not come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The connection was closed or reset.
    Closed,
    /// Nothing came in time; the connection is still open.
    Late,
}

/// Is a sender's connection.
pub(crate) struct Sender {
    pub(crate) stream: TcpStream,
    frames: Frames,
}

impl Sender {
    /// Connects from inside a site.
    pub(crate) fn connect(namespace: &Namespace, to: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(namespace.connect(to)?))
    }

    /// Speaks MLLP over an open connection.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, frames: Frames::default() }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&framed(payload))
    }

    /// Waits for the next answer's payload, at most `limit`.
    pub(crate) fn answer(&mut self, limit: Duration) -> Result<Vec<u8>, Lost> {
        let deadline = Instant::now() + limit;
        let mut piece = [0; 4096];
        loop {
            if let Some(payload) = self.frames.next() {
                return Ok(payload);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Lost::Late);
            }
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Lost::Closed),
                Ok(count) => self.frames.push(&piece[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Lost::Closed),
            }
        }
    }

    /// Sends a message and asserts that the receiver's own AA comes back, byte for byte.
    #[track_caller]
    pub(crate) fn exchange(&mut self, payload: &[u8]) {
        self.send(payload).expect("the connection is open");
        let answer = self.answer(ANSWER_LIMIT);
        assert_eq!(answer.as_deref(), Ok(&answer_to(payload, "AA")[..]), "the receiver's own answer");
    }
}
