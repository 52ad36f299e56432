//! The command's end of the control socket.
//!
//! Blocks its thread, for a bounded time: a command has nothing else to do. One request and one answer a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{ANSWER_BYTES_MAX, Answer, Asked, CHANGE_TIME_MAX, ControlError, Request};

/// Limits the wait for a site to take the request, and for its whole answer: it answers from memory, within milliseconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Asks the site that serves this socket, and returns what it answers.
///
/// # Errors
/// Where no site answers, its answer is not understood, or it refuses.
pub fn ask(path: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    ask_for(path, None, request, None)
}

/// Asks it where it runs from this file (in its canonical form), and no other site; waits for so long, if not as long as
/// what is asked may take.
///
/// # Errors
/// As [`ask`], and where the site runs from another file.
pub fn ask_for(
    path: &Path,
    file: Option<&Path>,
    request: Request,
    within: Option<Duration>,
) -> Result<serde_json::Value, ControlError> {
    let within = within.unwrap_or(match request {
        Request::Status => ANSWER_TIME_MAX,
        Request::Reload | Request::Queue(_) => CHANGE_TIME_MAX,
    });
    let until = Instant::now() + within;
    let late = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {} s", within.as_secs_f64()))
        }
        _ => source,
    };
    let connect = |source| ControlError::Connect { path: path.to_owned(), source };
    let stream = connected(path, within.min(ANSWER_TIME_MAX)).map_err(|source| match source.kind() {
        // it is there, and takes nobody
        io::ErrorKind::WouldBlock => ControlError::Exchange { path: path.to_owned(), source: late(source) },
        _ => connect(source),
    })?;
    let asked = Asked { file: file.map(|file| file.to_string_lossy().into_owned()), request };
    let exchanged = exchange(&stream, &asked, until);
    let line = exchanged.map_err(|source| ControlError::Exchange { path: path.to_owned(), source: late(source) })?;
    let malformed = |source| ControlError::Malformed { path: path.to_owned(), source };
    match serde_json::from_str(&line).map_err(malformed)? {
        Answer::Ok(value) => Ok(value),
        Answer::OtherFile(runs) => Err(ControlError::OtherFile { path: path.to_owned(), runs: runs.into() }),
        Answer::Error(cause) => Err(ControlError::Refused { path: path.to_owned(), cause }),
    }
}

/// Connects; where more wait already than the socket's queue has room for, not for ever.
fn connected(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(within))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn exchange(mut stream: &UnixStream, asked: &Asked, until: Instant) -> io::Result<String> {
    let mut bytes = serde_json::to_vec(asked)?;
    bytes.push(b'\n');
    // A site that has no place for one more says so without reading, and what it said is still there.
    let written = stream.write_all(&bytes);
    let mut line = String::new();
    let read = BufReader::new(Timed { stream, until }.take(ANSWER_BYTES_MAX)).read_line(&mut line);
    if line.ends_with('\n') {
        return Ok(line);
    }
    written.and(read).and(Err(io::ErrorKind::UnexpectedEof.into()))
}

/// Reads until a time, however little comes at once.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_is_not_waited_for_longer_than_what_does_not_come() {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        let trickle = std::thread::spawn(move || {
            for _ in 0..100 {
                there.write_all(b" ").ok();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let mut timed = Timed { stream: &here, until: Instant::now() + Duration::from_millis(200) };
        let mut answer = Vec::new();
        let error = timed.read_to_end(&mut answer).expect_err("there is no end");
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
        assert!(!answer.is_empty(), "something came");
        drop(here);
        trickle.join().expect("no panic");
    }

    #[test]
    fn a_site_that_hangs_is_given_up_in_time() {
        let directory = tempfile::TempDir::new().expect("directory");
        let path = directory.path().join("site.sock");
        let hung = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        hung.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
        hung.listen(0).expect("listens");
        let within = Duration::from_millis(100);
        // the first waits in the queue for an answer, and the next find it full
        for _ in 0..3 {
            let error = ask_for(&path, None, Request::Status, Some(within)).expect_err("nobody answers");
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(matches!(error, ControlError::Exchange { .. }), "{error}");
            assert_eq!(source, "nothing within 0.1 s");
        }
    }
}
