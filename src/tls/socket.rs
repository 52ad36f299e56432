//! A local leg's socket: plain TCP, or TLS over it, behind the same calls.
//!
//! It never waits by itself but in its handshake and at the end of a direction, and holds no more than one write's and
//! one record's bytes. Bytes count as written when TCP has all of what they became.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::{Connection, ProtocolVersion};
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use super::failure::Failure;
use super::side::{Listener, Receiver};

/// A handshake that takes longer has failed: a peer that is there answers within a second.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A receiver that asked for a certificate says within this whether it takes the one that it was shown, or none. In TLS
/// 1.3 it does so after the handshake, and a message sent meanwhile would be in doubt. One that takes it may say nothing.
const VERDICT_WITHIN: Duration = Duration::from_millis(200);
/// A sender that was refused has so long to read why: closed at once, what it still sends would have TCP take that back.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// Is the first byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// Is a connection of a local leg.
pub struct Socket {
    tcp: TcpStream,
    session: Option<Box<Mutex<Session>>>,
}

/// Is the TLS of a connection.
struct Session {
    tls: Connection,
    /// Counts the bytes that were taken to be written and are not all with TCP: their writer comes again with them.
    owed: usize,
    /// Says that nothing can be read without more from TCP.
    is_drained: bool,
    /// Says that this direction has ended.
    is_finished: bool,
}

impl Socket {
    /// Takes a connection as it is.
    pub fn plain(tcp: TcpStream) -> Self {
        Self { tcp, session: None }
    }

    /// Shakes hands with a sender. Cancel-safe: a cancelled handshake leaves nothing.
    ///
    /// # Errors
    /// Says why the handshake failed; the sender was told, where it speaks TLS.
    pub async fn accept(tcp: TcpStream, listener: &Listener) -> Result<Self, Failure> {
        let tls = Connection::from(listener.connection().map_err(|error| Failure::of(&error))?);
        let shake = async {
            let mut first = [0];
            let first_bytes = tcp.peek(&mut first).await.map_err(|_| Failure::Gone)?;
            match first_bytes {
                0 => return Err(Failure::Gone),
                _ if first != [HANDSHAKE] => return Err(Failure::NotTls),
                _ => {}
            }
            let socket = Self::over(tcp, tls);
            match socket.shake().await {
                Ok(()) => Ok(socket),
                Err(failure) => {
                    tokio::time::timeout(LEAVE_WITHIN, socket.leave()).await.ok();
                    Err(failure)
                }
            }
        };
        tokio::time::timeout(HANDSHAKE_WITHIN, shake).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// Shakes hands with a receiver. Cancel-safe.
    ///
    /// # Errors
    /// As with [`Socket::accept`].
    pub async fn connect(tcp: TcpStream, receiver: &Receiver) -> Result<Self, Failure> {
        let (tls, asked) = receiver.connection().map_err(|error| Failure::of(&error))?;
        let socket = Self::over(tcp, tls.into());
        let shake = async {
            socket.shake().await?;
            if asked.load(Ordering::Relaxed) && socket.tells_late() {
                // No news is good news.
                if let Ok(heard) = tokio::time::timeout(VERDICT_WITHIN, socket.hear()).await {
                    heard?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(HANDSHAKE_WITHIN, shake).await.unwrap_or(Err(Failure::TimedOut))?;
        Ok(socket)
    }

    fn over(tcp: TcpStream, tls: Connection) -> Self {
        let session = Session { tls, owed: 0, is_drained: true, is_finished: false };
        Self { tcp, session: Some(Box::new(Mutex::new(session))) }
    }

    /// Returns the connection below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn session(&self) -> Option<MutexGuard<'_, Session>> {
        Some(self.session.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whether the other end judges a certificate after this end's handshake.
    fn tells_late(&self) -> bool {
        self.session().is_some_and(|session| session.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3))
    }

    async fn shake(&self) -> Result<(), Failure> {
        loop {
            let Some((result, is_shaking, wants_write, is_drained)) = self.session().map(|mut session| {
                let result = session.step(&self.tcp);
                (result, session.tls.is_handshaking(), session.tls.wants_write(), session.is_drained)
            }) else {
                return Ok(());
            };
            match result {
                Ok(0) => return if is_shaking { Err(Failure::Gone) } else { Ok(()) },
                // What came behind the handshake is taken in too, until there are bytes to read, or nothing more.
                Ok(_) if is_shaking || wants_write || is_drained => {}
                Ok(_) => return Ok(()),
                Err(error) if !is_passing(&error) => return Err(Failure::of_io(&error)),
                Err(_) if wants_write => {
                    self.tcp.ready(Interest::READABLE | Interest::WRITABLE).await.ok();
                }
                Err(_) if !is_shaking => return Ok(()),
                Err(_) => self.tcp.readable().await.map_err(|_| Failure::Other)?,
            }
        }
    }

    /// Takes in what the other end says first.
    async fn hear(&self) -> Result<(), Failure> {
        loop {
            let result = self.session().map(|mut session| session.step(&self.tcp));
            match result {
                Some(Err(error)) if is_passing(&error) => self.tcp.readable().await.map_err(|_| Failure::Other)?,
                Some(Err(error)) => {
                    return Err(match Failure::of_io(&error) {
                        Failure::Gone | Failure::Other => Failure::CertificateRefused,
                        failure => failure,
                    });
                }
                Some(Ok(0)) => return Err(Failure::CertificateRefused),
                Some(Ok(_)) | None => return Ok(()),
            }
        }
    }

    /// Reads and forgets until the other end leaves.
    async fn leave(&self) {
        SockRef::from(&self.tcp).shutdown(Shutdown::Write).ok();
        let mut forgotten = [0; 512];
        loop {
            match self.tcp.try_read(&mut forgotten) {
                Err(error) if is_passing(&error) => self.tcp.readable().await.unwrap_or_default(),
                Ok(bytes) if bytes > 0 => {}
                Err(_) | Ok(_) => return,
            }
        }
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// The connection is broken, or nothing is there now.
    pub fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self.session() {
            None => self.tcp.try_read(out),
            Some(mut session) => session.read(&self.tcp, out),
        }
    }

    /// Writes what can be written now, and counts it. What was blocked is to be offered again, as it was.
    ///
    /// # Errors
    /// The connection is broken, or nothing can be written now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.session() {
            None => self.tcp.try_write(bytes),
            Some(mut session) => session.write(&self.tcp, &[IoSlice::new(bytes)]),
        }
    }

    /// Does the same for bytes in parts.
    ///
    /// # Errors
    /// As with [`Socket::try_write`].
    pub fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.session() {
            None => self.tcp.try_write_vectored(parts),
            Some(mut session) => session.write(&self.tcp, parts),
        }
    }

    /// Waits until a read may succeed. Cancel-safe.
    pub async fn readable(&self) {
        if self.session().is_none_or(|session| session.is_drained) {
            self.tcp.readable().await.ok();
        }
    }

    /// Waits until a write may succeed. Cancel-safe.
    pub async fn writable(&self) {
        self.tcp.writable().await.ok();
    }

    /// Waits until one of both may succeed. Cancel-safe.
    ///
    /// # Errors
    /// The connection is broken; reading shows how.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        if self.session().is_some_and(|session| !session.is_drained) {
            return Ok(Ready::READABLE | Ready::WRITABLE);
        }
        self.tcp.ready(interest).await
    }

    /// Tells whether the other end's TCP sends no more. Cancel-safe.
    pub async fn is_closing(&self) -> bool {
        self.tcp.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed())
    }

    /// Ends the direction out of here, once what was written has gone. Cancel-safe.
    pub async fn finish(&self) {
        while self.try_finish().is_err_and(|error| is_passing(&error)) {
            self.writable().await;
        }
    }

    /// Does so where it can be done now.
    pub(super) fn try_finish(&self) -> io::Result<()> {
        if let Some(mut session) = self.session() {
            session.finish(&self.tcp).or_else(|error| if is_passing(&error) { Err(error) } else { Ok(()) })?;
        }
        // A connection that is gone already has no direction left to end.
        SockRef::from(&self.tcp).shutdown(Shutdown::Write).ok();
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Else the other end takes it for cut off by a stranger.
        if let Some(mut session) = self.session() {
            session.finish(&self.tcp).ok();
        }
    }
}

impl Session {
    fn read(&mut self, tcp: &TcpStream, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(out) {
                Ok(bytes) => {
                    self.is_drained = bytes < out.len();
                    return Ok(bytes);
                }
                // TCP ended and TLS did not: whether a frame is whole shows in the frame.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if !is_passing(&error) => return Err(error),
                Err(_) => self.is_drained = true,
            }
            self.take_in(tcp)?;
        }
    }

    /// Moves what the handshake has to move; 0 is the end of TCP.
    fn step(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        match self.flush(tcp) {
            Err(error) if !is_passing(&error) => return Err(error),
            Err(_) | Ok(()) => {}
        }
        self.take_in(tcp)
    }

    /// Takes in what TCP has.
    fn take_in(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        let bytes = self.tls.read_tls(&mut Tcp(tcp))?;
        match self.tls.process_new_packets() {
            Ok(state) => {
                self.is_drained = state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed();
                // What cannot be written now goes with what is written next.
                self.flush(tcp).ok();
                Ok(bytes)
            }
            Err(error) => {
                self.flush(tcp).ok(); // the alert, which is the last word
                self.is_finished = true;
                Err(io::Error::new(io::ErrorKind::InvalidData, Failure::of(&error)))
            }
        }
    }

    fn write(&mut self, tcp: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(tcp)?;
        if self.owed == 0 {
            self.owed = self.tls.writer().write_vectored(parts)?;
            self.flush(tcp)?;
        }
        Ok(std::mem::take(&mut self.owed))
    }

    fn finish(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.tls.send_close_notify();
        }
        self.flush(tcp)
    }

    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut Tcp(tcp))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// Is a TCP connection as the library reads and writes it.
struct Tcp<'a>(&'a TcpStream);

impl io::Read for Tcp<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(out)
    }
}

impl io::Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
