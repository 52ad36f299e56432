//! Measures one persistent MLLP connection: sends a 500-byte message, waits for its ACK, again and again. It spends as
//! little as possible itself, so that what is measured is the way between sender and receiver.
//!
//! `mllp_latency receive ADDRESS` answers every frame; `mllp_latency send ADDRESS COUNT` prints the p50 and p99 of the
//! round trip in microseconds.

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Is the size of the payload, in bytes: a usual ORU.
const MESSAGE_BYTES: usize = 500;

/// Is how many messages warm the connection up, uncounted.
const WARM_UP: usize = 500;

/// Bounds the wait for a connection and for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

const ACK: &[u8] = b"\x0bMSH|^~\\&|LAB|S|HIS|N|20260101||ACK|1|P|2.5\rMSA|AA|1\r\x1c\r";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["receive", address] => receive(address),
        ["send", address, count] => match count.parse() {
            Ok(count) => send(address, count),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mllp_latency: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: mllp_latency receive ADDRESS | send ADDRESS COUNT");
    ExitCode::from(64)
}

fn receive(address: &str) -> io::Result<()> {
    for stream in TcpListener::bind(address)?.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || {
            // the end of the connection, whatever its reason, ends the answers
            while read_frame(&mut stream).is_ok() && stream.write_all(ACK).is_ok() {}
        });
    }
    Ok(())
}

fn send(address: &str, count: usize) -> io::Result<()> {
    let mut stream = connect(address)?;
    let mut frame = b"\x0bMSH|^~\\&|HIS|N|LAB|S|20260101||ORU^R01|1|P|2.5\rOBX|1|ST|".to_vec();
    frame.resize(MESSAGE_BYTES, b'A');
    frame.extend_from_slice(b"\r\x1c\r");
    let mut times = Vec::with_capacity(count);
    for number in 0..WARM_UP + count {
        let start = Instant::now();
        stream.write_all(&frame)?;
        read_frame(&mut stream)?;
        if number >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let microseconds =
        |permille: usize| times[(times.len() - 1) * permille / 1000].as_nanos() as f64 / 1000.0;
    println!("{:.1} {:.1}", microseconds(500), microseconds(990));
    Ok(())
}

/// Connects, and tries again while the other side starts.
fn connect(address: &str) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Reads until a frame has ended; one message is under way at a time, so nothing follows it.
fn read_frame(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut last = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        let Some(end) = buffer[..count].last() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let before = if count > 1 { buffer[count - 2] } else { last };
        if (before, *end) == (0x1c, b'\r') {
            return Ok(());
        }
        last = *end;
    }
}
