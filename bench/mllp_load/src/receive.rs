//! A receiver that accepts every message and keeps account: how many came, which of them twice, which of them late.
//!
//! A repeat is in doubt where it is the very last message again, on a new connection: its sender cannot have known the
//! answer. Every other repeat is a duplicate.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Is how often the account is printed at the most.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Account {
    /// Is the highest number of each sender.
    latest: HashMap<u32, u64>,
    /// Is the message that came last, and its connection.
    last: Option<(u32, u64, usize)>,
    messages: u64,
    in_doubt: u64,
    duplicated: u64,
    reordered: u64,
    missed: u64,
    connections: usize,
    first: Option<Instant>,
    time: Duration,
}

impl Account {
    fn note(&mut self, sender: u32, number: u64, connection: usize) {
        let latest = self.latest.entry(sender).or_insert(0);
        if number == *latest + 1 {
            self.messages += 1;
        } else if number > *latest {
            self.messages += 1;
            self.missed += number - *latest - 1;
        } else if self.last.is_some_and(|(s, n, c)| (s, n) == (sender, number) && c != connection) {
            self.in_doubt += 1;
        } else if number == *latest {
            self.duplicated += 1;
        } else {
            self.reordered += 1;
        }
        *latest = number.max(*latest);
        self.last = Some((sender, number, connection));
        self.time = self.first.get_or_insert_with(Instant::now).elapsed();
    }

    fn line(&self) -> String {
        let Self { messages, in_doubt, duplicated, reordered, missed, connections, time, .. } = self;
        format!(
            "{{\"messages\": {messages}, \"in_doubt\": {in_doubt}, \"duplicated\": {duplicated}, \"reordered\": {reordered}, \
             \"missed\": {missed}, \"connections\": {connections}, \"seconds\": {:.6}}}",
            time.as_secs_f64()
        )
    }
}

/// Listens, and never ends by itself.
pub fn receive(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let account = Arc::new(Mutex::new(Account::default()));
    let shared = Arc::clone(&account);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let account = Arc::clone(&shared);
            thread::spawn(move || {
                // the end of the connection, whatever its reason, ends the answers
                let _ = serve(stream, &account);
            });
        }
    });
    let mut printed = String::new();
    loop {
        thread::sleep(EVERY);
        let line = account.lock().map(|account| account.line()).unwrap_or_default();
        if line != printed {
            println!("{line}");
            printed = line;
        }
    }
}

fn serve(mut stream: TcpStream, account: &Mutex<Account>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let poisoned = || io::Error::other("another connection's thread ended");
    let connection = {
        let mut account = account.lock().map_err(|_| poisoned())?;
        account.connections += 1;
        account.connections
    };
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 16384]);
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        let mut searched = bytes.len().saturating_sub(1);
        bytes.extend_from_slice(&piece[..count]);
        if count == piece.len() {
            piece.resize((2 * count).min(1 << 18), 0);
        }
        while let Some(end) = memchr::memmem::find(&bytes[searched..], b"\x1c\r").map(|at| searched + at) {
            searched = 0;
            let id = field(&bytes[..end], 9);
            let (sender, number) = parse(id).ok_or_else(|| io::Error::other("a message of somebody else"))?;
            account.lock().map_err(|_| poisoned())?.note(sender, number, connection);
            let answer =
                [b"\x0bMSH|^~\\&|LAB|S|HIS|N|20260101||ACK|A", id, b"|P|2.5\rMSA|AA|", id, b"\r\x1c\r"].concat();
            stream.write_all(&answer)?;
            bytes.drain(..end + 2);
        }
    }
}

fn field(frame: &[u8], number: usize) -> &[u8] {
    let header = frame.split(|byte| *byte == b'\r').next().unwrap_or_default();
    header.split(|byte| *byte == b'|').nth(number).unwrap_or_default()
}

fn parse(id: &[u8]) -> Option<(u32, u64)> {
    let (sender, number) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some((sender.parse().ok()?, number.parse().ok()?))
}
