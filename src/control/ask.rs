//! The command's end of the control socket.
//!
//! Blocks its thread, for a bounded time: a command has nothing else to do. One request and one answer a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{ANSWER_BYTES_MAX, Answer, CHANGE_TIME_MAX, ControlError, Request};

/// Limits the wait for a site to take the request or go on with its answer: it answers from memory, within milliseconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Asks the site that serves this socket, and returns what it answers.
///
/// # Errors
/// Where no site answers, its answer is not understood, or it refuses.
pub fn ask(path: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    let connect = |source| ControlError::Connect { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(connect)?;
    let line = exchange(&stream, request).map_err(|source| ControlError::Exchange { path: path.to_owned(), source })?;
    let malformed = |source| ControlError::Malformed { path: path.to_owned(), source };
    match serde_json::from_str(&line).map_err(malformed)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(cause) => Err(ControlError::Refused { path: path.to_owned(), cause }),
    }
}

fn exchange(mut stream: &UnixStream, request: Request) -> io::Result<String> {
    let answer_time_max = match request {
        Request::Status => ANSWER_TIME_MAX,
        Request::Reload | Request::Queue(_) => CHANGE_TIME_MAX,
    };
    stream.set_read_timeout(Some(answer_time_max))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    let mut bytes = serde_json::to_vec(&request)?;
    bytes.push(b'\n');
    // A site that has no place for one more says so without reading, and what it said is still there.
    let written = stream.write_all(&bytes);
    let mut line = String::new();
    let read = BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line);
    if line.ends_with('\n') {
        return Ok(line);
    }
    written.and(read).and(Err(io::ErrorKind::UnexpectedEof.into()))
}
