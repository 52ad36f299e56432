//! `wardlink send`: an MLLP test sender, one answer a line.
//!
//! Never shows a message, never takes another message's answer for an answer, never calls an unknown outcome a
//! success. It sends one message at a time on each connection, as HL7 senders do (HL7 v2 chapter 2, MLLP Release 1).
#![allow(clippy::print_stderr)]

mod file;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::mllp::exchange::{Answer, Dropped, Exchange};
use crate::mllp::frame::{END_SILENCE, Limits, Violation};
use file::Message;

/// Is one read, in bytes: an answer has a few hundred.
const READ_BYTES: usize = 16 * 1024;

/// Is the exit code for bad arguments and files that cannot be sent.
const EXIT_USAGE: u8 = 64;

/// Sends HL7 messages over MLLP and prints each answer
///
/// A file holds one message or several, raw or already framed. A raw file is cut before each MSH segment (a batch,
/// FHS or BHS, stays whole); its bytes are sent as they are. HL7 ends a segment with CR: many receivers cannot read a
/// file that was edited to end its lines with LF. --loose sends CR for every line end.
///
/// Each answer is one line: code, control id of the message, milliseconds. The exit code is 0 if every answer is
/// positive (AA, CA), 1 if one is not or is missing, 64 for bad arguments or files.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the receiver listens
    #[arg(value_name = "HOST:PORT")]
    pub to: String,
    /// What to send
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Sends everything so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Spreads the messages over so many connections at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Waits so long for a connection, and for an answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Opens a connection for each message
    #[arg(long)]
    pub per_connection: bool,
    /// Ends each segment with CR, however the file ends its lines
    #[arg(long)]
    pub loose: bool,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    if let Err(reason) = check_address(&args.to) {
        eprintln!("wardlink send: {}: {reason}", args.to);
        return ExitCode::from(EXIT_USAGE);
    }
    let mut messages = Vec::new();
    for path in &args.files {
        match file::load(path, args.loose) {
            Ok(loaded) => messages.extend(loaded),
            Err(error) => {
                eprintln!("wardlink send: {error}");
                return ExitCode::from(EXIT_USAGE);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wardlink send: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tally = runtime.block_on(send_all(Plan { args, messages, next: AtomicU64::new(0) }));
    eprintln!("{tally}");
    if tally.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says what is wrong with an argument that should be HOST:PORT.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("not HOST:PORT")?;
    match (host, port.parse::<u16>()) {
        ("", _) => Err("the host is missing"),
        (_, Err(_) | Ok(0)) => Err("the port is not a number from 1 to 65535"),
        (_, Ok(_)) => Ok(()),
    }
}

/// Is what there is to send; the connections take from it in turn.
struct Plan {
    args: Args,
    messages: Vec<Message>,
    next: AtomicU64,
}

impl Plan {
    fn total(&self) -> u64 {
        self.args.count.saturating_mul(self.messages.len() as u64)
    }

    fn take(&self) -> Option<&Message> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let index = number.checked_rem(self.messages.len() as u64)?;
        let index = usize::try_from(index).ok().filter(|_| number < self.total())?;
        self.messages.get(index)
    }
}

/// Counts what became of the messages.
#[derive(Debug, Default)]
struct Tally {
    planned: u64,
    positive: u64,
    negative: u64,
    unasked: u64,
    unknown: u64,
    dropped: u64,
}

impl Tally {
    fn is_success(&self) -> bool {
        self.positive.saturating_add(self.unasked) == self.planned
    }

    fn add(&mut self, other: &Self) {
        self.positive = self.positive.saturating_add(other.positive);
        self.negative = self.negative.saturating_add(other.negative);
        self.unasked = self.unasked.saturating_add(other.unasked);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.dropped = self.dropped.saturating_add(other.dropped);
    }

    fn count(&mut self, outcome: &Result<Outcome, Failure>) {
        let counter = match outcome {
            Ok(Outcome::Positive) => &mut self.positive,
            Ok(Outcome::Negative) => &mut self.negative,
            Ok(Outcome::Unasked) => &mut self.unasked,
            Err(_) => &mut self.unknown,
        };
        *counter = counter.saturating_add(1);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { planned, positive, negative, unasked, unknown, dropped } = self;
        let unsent = planned
            .saturating_sub(positive.saturating_add(*negative).saturating_add(*unasked))
            .saturating_sub(*unknown);
        write!(f, "{planned} messages: {positive} positive, {negative} negative, {unasked} without an answer due, ")?;
        write!(f, "{unknown} unknown, {unsent} not sent; {dropped} frames dropped that answered none of them")
    }
}

/// Is how an exchange ended that ended as it should.
enum Outcome {
    Positive,
    Negative,
    /// The message asks for no answer.
    Unasked,
}

/// Says why a message has no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no answer in time")]
    Timeout,
    #[error("connection closed before the answer")]
    Closed,
    #[error("connection lost: {0}")]
    Lost(#[source] std::io::Error),
    #[error("answer not readable: {0}")]
    Unreadable(#[source] Violation),
}

async fn send_all(plan: Plan) -> Tally {
    let mut tally = Tally { planned: plan.total(), ..Tally::default() };
    let plan = Arc::new(plan);
    let mut connections = JoinSet::new();
    for _ in 0..plan.args.connections {
        let plan = Arc::clone(&plan);
        connections.spawn(async move { send_in_turn(&plan).await });
    }
    for part in connections.join_all().await {
        tally.add(&part);
    }
    tally
}

/// Sends what is next until nothing is left or the receiver cannot be reached.
async fn send_in_turn(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Connection> = None;
    while let Some(message) = plan.take() {
        let reusable = kept.take().and_then(Connection::if_still_open);
        let mut connection = match reusable {
            Some(connection) => connection,
            None => match Connection::open(&plan.args).await {
                Ok(connection) => connection,
                Err(failure) => {
                    eprintln!("wardlink send: {}: {failure}", plan.args.to);
                    return tally;
                }
            },
        };
        let before = connection.exchange.dropped();
        let outcome = connection.carry(message, plan.args.timeout).await;
        let after = connection.exchange.dropped();
        tally.dropped = tally.dropped.saturating_add(frames(after).saturating_sub(frames(before)));
        tally.count(&outcome);
        match outcome {
            Ok(Outcome::Unasked) => say(&format!("sent {} no answer due", message.shown_id())),
            Ok(_) => {}
            Err(ref failure) => say(&format!("none {} {failure}", message.shown_id())),
        }
        // After a failure the connection goes, so that a late answer meets no other message.
        kept = Some(connection).filter(|_| outcome.is_ok() && !plan.args.per_connection);
    }
    tally
}

fn frames(dropped: Dropped) -> u64 {
    dropped.late.saturating_add(dropped.foreign).saturating_add(dropped.no_answer)
}

struct Connection {
    stream: TcpStream,
    exchange: Exchange,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(args: &Args) -> Result<Self, Failure> {
        let connected = timeout(args.timeout, TcpStream::connect(&args.to)).await;
        let stream = connected.map_err(|_| Failure::ConnectTimeout)?.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        Ok(Self { stream, exchange: Exchange::new(Limits::default()), buffer: vec![0; READ_BYTES] })
    }

    /// Finds out whether the receiver has closed the connection since the last answer, and reads what came late.
    fn if_still_open(mut self) -> Option<Self> {
        loop {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    self.exchange.handle_bytes(bytes, &mut |_| {}).ok()?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(self),
                Err(_) => return None,
            }
        }
    }

    async fn carry(&mut self, message: &Message, limit: Duration) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let deadline = started.checked_add(limit).ok_or(Failure::Timeout)?;
        self.exchange.begin(&message.payload, deadline);
        let mut outcome = Outcome::Unasked;
        let mut report = |answer: Answer| {
            let millis = started.elapsed().as_secs_f64() * 1000.0;
            say(&format!("{} {} {millis:.3} ms", answer.code.code(), message.shown_id()));
            let refused = matches!(outcome, Outcome::Negative) || !answer.code.is_positive();
            outcome = if refused { Outcome::Negative } else { Outcome::Positive };
        };
        let carried = timeout_at(deadline.into(), self.send_and_listen(&message.frame, &mut report)).await;
        carried.map_err(|_| Failure::Timeout)??;
        Ok(outcome)
    }

    async fn send_and_listen(&mut self, frame: &[u8], report: &mut (dyn FnMut(Answer) + Send)) -> Result<(), Failure> {
        self.stream.write_all(frame).await.map_err(Failure::Lost)?;
        while !self.exchange.is_done() {
            let reading = self.stream.read(&mut self.buffer);
            let read = if self.exchange.awaits_silence() {
                let Ok(read) = timeout(END_SILENCE, reading).await else {
                    self.exchange.handle_silence(report);
                    continue;
                };
                read
            } else {
                reading.await
            };
            match read.map_err(Failure::Lost)? {
                0 => {
                    self.exchange.handle_end_of_stream(report);
                    return if self.exchange.is_done() { Ok(()) } else { Err(Failure::Closed) };
                }
                length => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    self.exchange.handle_bytes(bytes, report).map_err(Failure::Unreadable)?;
                }
            }
        }
        Ok(())
    }
}

/// Prints a line; a reader that is gone (`| head`) is no reason to stop sending.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
