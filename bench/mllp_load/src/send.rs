//! Many senders on one thread: each sends its next message when the answer to the last has come, and where the connection
//! is lost connects again and sends the same message again, as engines do. Or a connection for each message, or many that
//! are held open.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::{MESSAGE_BYTES, percentiles};

/// Bounds the wait for a connection, and for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is the pause before another attempt.
const AGAIN: Duration = Duration::from_millis(20);

/// Is where the number of a message stands in its frame.
const NUMBER_AT: usize = "\x0bMSH|^~\\&|HIS|N|LAB|S|20260101||ORU^R01|".len();

struct Sender {
    stream: TcpStream,
    frame: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    left: usize,
    next: usize,
    began: Instant,
}

/// Opens so many connections, exchanges a message on each, and keeps them until the process ends.
pub fn hold(address: &str, count: usize, first: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = Blocking::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut message = frame(first + number, MESSAGE_BYTES);
        message[NUMBER_AT + 15] = b'1';
        stream.write_all(&message)?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"\x1c\r") {
            match stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        held.push(stream);
    }
    println!("held");
    loop {
        thread::park();
    }
}

/// Sends `count` messages in all, by senders that are numbered from `first`; `fresh` on a connection each.
pub fn send(
    address: &str,
    count: usize,
    connections: usize,
    first: usize,
    bytes: usize,
    fresh: bool,
) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let mut poll = Poll::new()?;
    let mut senders = Vec::new();
    for number in 0..connections {
        let share = count / connections + usize::from(number < count % connections);
        let stream = connect(&poll, address, number)?;
        let frame = frame(first + number, bytes);
        let began = Instant::now();
        senders.push(Sender { stream, frame, written: 0, answer: Vec::new(), left: share, next: 1, began });
    }
    let (start, mut times, mut resends) = (Instant::now(), Vec::with_capacity(count), 0_usize);
    for sender in senders.iter_mut().filter(|sender| sender.left > 0) {
        sender.begin();
        sender.write()?;
    }
    let mut events = Events::with_capacity(connections.max(16));
    let mut open = senders.iter().filter(|sender| sender.left > 0).count();
    while open > 0 {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(io::Error::other(format!("{open} senders wait for an answer in vain")));
        }
        for event in &events {
            let number = event.token().0;
            let Some(sender) = senders.get_mut(number).filter(|sender| sender.left > 0) else { continue };
            match sender.turn(&mut times) {
                Ok(false) => {}
                Ok(true) if sender.left == 0 => open -= 1,
                Ok(true) => {
                    sender.begin();
                    if fresh {
                        sender.stream = start_connecting(&poll, address, number)?;
                    }
                    // what cannot be written now is written with the event that says so
                    let _ = sender.write();
                }
                Err(_) => {
                    thread::sleep(AGAIN);
                    sender.stream = connect(&poll, address, number)?;
                    (sender.written, resends) = (0, resends + 1);
                    sender.answer.clear();
                    // what cannot be written now is tried again with the event that says so
                    let _ = sender.write();
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let [p50, p99] = percentiles(&mut times);
    println!("{seconds:.6} {p50:.1} {p99:.1} {resends}");
    Ok(())
}

impl Sender {
    /// Moves on as far as the connection goes without waiting; tells whether its message was answered.
    fn turn(&mut self, times: &mut Vec<Duration>) -> io::Result<bool> {
        self.write()?;
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.answer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if !self.answer.ends_with(b"\x1c\r") {
                continue;
            }
            if !is_positive(&self.answer) {
                return Err(io::Error::other("it was refused"));
            }
            times.push(self.began.elapsed());
            self.answer.clear();
            (self.left, self.next) = (self.left - 1, self.next + 1);
            return Ok(true);
        }
    }

    fn begin(&mut self) {
        let mut number = self.next;
        for digit in self.frame[NUMBER_AT + 7..NUMBER_AT + 16].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        (self.written, self.began) = (0, Instant::now());
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.frame.len() {
            match self.stream.write(&self.frame[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_positive(answer: &[u8]) -> bool {
    answer.windows(7).any(|word| word == b"\rMSA|AA" || word == b"\rMSA|CA")
}

fn frame(sender: usize, bytes: usize) -> Vec<u8> {
    let text = format!("\x0bMSH|^~\\&|HIS|N|LAB|S|20260101||ORU^R01|{sender:06}-000000000|P|2.5\rOBX|1|ST|");
    let mut frame = text.into_bytes();
    frame.resize(bytes, b'A');
    frame.extend_from_slice(b"\r\x1c\r");
    frame
}

/// Connects, and tries again while the other side starts.
fn connect(poll: &Poll, address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match Blocking::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
                return Ok(stream);
            }
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(AGAIN),
        }
    }
}

/// Begins to connect; what is written waits for it.
fn start_connecting(poll: &Poll, address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}
