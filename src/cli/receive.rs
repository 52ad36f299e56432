//! `wardlink receive`: an MLLP test receiver, one line a message.
//!
//! Never shows a message (its type, its size and the answer are shown), never promises durability: a positive answer
//! says that the bytes were written where `--out` said, without fsync. For tests, not for care.
#![allow(clippy::print_stderr)]

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::mllp::ack::{self, FrameKind, Stamp, Verdict};
use crate::mllp::frame::{self, Anomaly, END_SILENCE, FrameReader, Limits, Read, Violation};
use crate::mllp::message::Header;

/// Limits the connections at once: above any test with a few hundred senders, below the usual limit of open files.
const CONNECTIONS_MAX: usize = 512;

/// Is one read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Bounds the wait for the sender to close after the last answer, so that a reset does not destroy it.
const LINGER: Duration = Duration::from_secs(1);

/// Is the pause after an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const EXIT_USAGE: u8 = 64;
const EXIT_NOT_PERMITTED: u8 = 77;

/// Receives HL7 messages over MLLP and answers them
///
/// Each message is one line: number, type, bytes, answer. A message in enhanced mode gets the answers that its MSH-15
/// and MSH-16 ask for. Ends after --count messages, or on SIGINT or SIGTERM, with a summary.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes a free one, shown in the first line
    #[arg(value_name = "ADDR")]
    pub listen: SocketAddr,
    /// What to answer
    #[arg(long, value_enum, default_value_t = Ack::Accept)]
    pub ack: Ack,
    /// Writes each payload, its bytes untouched, to DIR/NNNNNN.hl7, after those that are there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Ends after the first message
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// Waits so long before each answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
}

/// Says what a message is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ack {
    /// Accepts (enhanced mode: CA, then AA)
    #[value(name = "AA")]
    Accept,
    /// Reports an error (enhanced mode: CE)
    #[value(name = "AE")]
    Error,
    /// Rejects (enhanced mode: CR)
    #[value(name = "AR")]
    Reject,
    /// Never answers
    #[value(name = "none")]
    None,
}

impl Ack {
    fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Accept => Some(Verdict::Accept),
            Self::Error => Some(Verdict::Error),
            Self::Reject => Some(Verdict::Reject),
            Self::None => None,
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    if let Some(dir) = &args.out
        && let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(dir)
    {
        eprintln!("wardlink receive: {}: {error}", dir.display());
        return ExitCode::from(EXIT_USAGE);
    }
    let listen = args.listen;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(receive(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!(
                "wardlink receive: {listen}: {error}: a port below 1024 needs CAP_NET_BIND_SERVICE (run as root)"
            );
            ExitCode::from(EXIT_NOT_PERMITTED)
        }
        Err(error) => {
            eprintln!("wardlink receive: {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Is what all connections share.
struct Shared {
    args: Args,
    count_max: Option<u64>,
    first_number: u64,
    messages: AtomicU64,
    done: AtomicU64,
    payload_bytes: AtomicU64,
    connections: AtomicU64,
    all_done: Notify,
}

async fn receive(args: Args) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen).await?;
    say(&format!("listening on {}", listener.local_addr()?));
    let shared = Arc::new(Shared {
        count_max: if args.once { Some(1) } else { args.count },
        first_number: first_number(args.out.as_deref())?,
        args,
        messages: AtomicU64::new(0),
        done: AtomicU64::new(0),
        payload_bytes: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        all_done: Notify::new(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, from)) => {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(serve(Arc::clone(&shared), stream, from));
                }
                Err(error) => {
                    eprintln!("wardlink receive: accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = shared.all_done.notified() => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    let messages = shared.messages.load(Ordering::Relaxed);
    let bytes = shared.payload_bytes.load(Ordering::Relaxed);
    let count = shared.connections.load(Ordering::Relaxed);
    say(&format!("received {messages} messages, {bytes} bytes, on {count} connections"));
    Ok(())
}

/// Says why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("connection lost: {0}")]
    Lost(#[source] std::io::Error),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("{path}: {source}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    if let Err(failure) = shared.follow(stream).await {
        eprintln!("wardlink receive: {from}: {failure}");
    }
}

impl Shared {
    /// Takes what one sender sends, until it closes.
    async fn follow(&self, mut stream: TcpStream) -> Result<(), Failure> {
        stream.set_nodelay(true).map_err(Failure::Lost)?;
        let mut reader = FrameReader::new(Limits::default());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let mut reads = Vec::new();
            let mut sink = |read| reads.push(read);
            let reading = stream.read(&mut buffer);
            let silence = if reader.awaits_silence() { END_SILENCE } else { Duration::MAX };
            let mut followed = Ok(());
            let is_end = match timeout(silence, reading).await {
                Err(_) => {
                    reader.handle_silence(&mut sink);
                    false
                }
                Ok(read) => {
                    let length = read.map_err(Failure::Lost)?;
                    followed = reader.handle_bytes(buffer.get(..length).unwrap_or_default(), &mut sink);
                    if length == 0 {
                        reader.handle_end_of_stream(&mut sink);
                    }
                    length == 0
                }
            };
            for read in reads {
                match read {
                    Read::Payload(payload) => self.take(&payload, &mut stream).await?,
                    Read::Anomaly(anomaly) => report(anomaly),
                }
            }
            followed?;
            if is_end {
                return Ok(());
            }
        }
    }

    /// Counts a message, and ends the command after the last one that was asked for.
    async fn take(&self, payload: &[u8], stream: &mut TcpStream) -> Result<(), Failure> {
        match FrameKind::of(payload) {
            FrameKind::Message => {}
            FrameKind::Control => {
                report(Anomaly::ControlFrame);
                return Ok(());
            }
            FrameKind::Empty | FrameKind::Transport(_) => return Ok(()),
        }
        // What comes after the last one is neither kept nor answered.
        let next = |taken: u64| self.count_max.is_none_or(|max| taken < max).then(|| taken.saturating_add(1));
        let Ok(before) = self.messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) else {
            return Ok(());
        };
        let taken = self.keep_and_answer(payload, self.first_number.saturating_add(before), stream).await;
        let done = self.done.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.count_max == Some(done) {
            // Both may fail where the sender is gone already; the answer is out.
            stream.shutdown().await.ok();
            timeout(LINGER, tokio::io::copy(stream, &mut tokio::io::sink())).await.ok();
            self.all_done.notify_one();
        }
        taken
    }

    async fn keep_and_answer(&self, payload: &[u8], number: u64, stream: &mut TcpStream) -> Result<(), Failure> {
        if let Some(dir) = &self.args.out {
            write_new(dir, number, payload)?;
        }
        self.payload_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        // Even a sleep of nothing takes the timer's next millisecond.
        if !self.args.delay.is_zero() {
            sleep(self.args.delay).await;
        }
        let (shown, answers) = self.answers(payload, number);
        for answer in &answers {
            stream.write_all(&frame::encode(answer)).await.map_err(Failure::Lost)?;
        }
        say(&format!("{number:06} {shown}"));
        Ok(())
    }

    /// Returns what to show of a message, and what to answer.
    fn answers(&self, payload: &[u8], number: u64) -> (String, Vec<Vec<u8>>) {
        let Some(header) = Header::parse_whole(payload) else {
            report(Anomaly::NoHeader);
            return (format!("- {} bytes -", payload.len()), Vec::new());
        };
        let codes = self.args.ack.verdict().map(|verdict| ack::codes_due(&header, verdict)).unwrap_or_default();
        let control_id = format!("WL{number}");
        let timestamp = timestamp_now();
        let stamp = Stamp { control_id: control_id.as_bytes(), timestamp: timestamp.as_bytes() };
        let answers = codes.iter().map(|code| ack::answer(&header, *code, stamp)).collect();
        let kind = match header.message_type() {
            b"" => "-".to_owned(),
            kind => kind.escape_ascii().to_string(),
        };
        let shown: Vec<&str> = codes.iter().map(|code| code.code()).collect();
        let shown = if shown.is_empty() { "-".to_owned() } else { shown.join(" ") };
        (format!("{kind} {} bytes {shown}", payload.len()), answers)
    }
}

/// Returns the number after the highest one in the directory.
fn first_number(dir: Option<&Path>) -> std::io::Result<u64> {
    let Some(dir) = dir else { return Ok(1) };
    let mut highest = 0;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".hl7")?.parse::<u64>().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest.saturating_add(1))
}

/// Writes a payload to a file of its own, readable by the owner only; never over one that is there.
fn write_new(dir: &Path, number: u64, payload: &[u8]) -> Result<(), Failure> {
    let path = dir.join(format!("{number:06}.hl7"));
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = opened.and_then(|mut file| file.write_all(payload));
    written.map_err(|source| Failure::Write { path, source })
}

/// Returns the time as HL7 writes it, in UTC.
fn timestamp_now() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let digits: String = now.chars().filter(char::is_ascii_digit).collect();
    digits + "+0000"
}

fn report(anomaly: Anomaly) {
    eprintln!("wardlink receive: {}", anomaly.code());
}

/// Prints a line; a reader that is gone (`| head`) is no reason to stop receiving.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
