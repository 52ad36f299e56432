//! One connection to the receiver under test: writes bytes, and takes what comes until a deadline.
//!
//! Never trusts what comes: answers are bounded, and reduced to code and control id. The frames are MLLP Release 1.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::mllp::ack::{AckCode, FrameKind};
use crate::mllp::frame::{Anomaly, END_SILENCE, FrameReader, Limits, Read, Violation};
use crate::mllp::message::Header;

/// Is one read, in bytes: an answer has a few hundred.
const READ_BYTES: usize = 16 * 1024;

/// Limits one answer, in bytes: an acknowledgement has a few hundred, a response to a query some thousands.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Bounds the wait for the receiver to close its side after this one has closed.
const FAREWELL: Duration = Duration::from_millis(200);

/// Is why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The receiver closed it.
    Closed,
    /// The receiver reset it, or the network did.
    Lost,
    /// What came is not MLLP, or too much.
    Unreadable(Violation),
}

impl End {
    /// Says it in the words of a report.
    pub(super) fn words(self) -> String {
        match self {
            Self::Closed => "it closed the connection".to_owned(),
            Self::Lost => "it reset the connection".to_owned(),
            Self::Unreadable(violation) => format!("what came cannot be read: {violation}"),
        }
    }
}

/// Is a frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// Is MSA-1, or what a control frame says; `None` for a frame without either.
    pub(super) code: Option<AckCode>,
    /// Is MSA-2, empty where there is none.
    pub(super) control_id: Vec<u8>,
}

impl Reply {
    /// Says whether it is a commit acknowledgement of MLLP Release 2, or its negative.
    pub(super) fn is_transport(&self) -> bool {
        matches!(self.code, Some(AckCode::TransportAck | AckCode::TransportNak))
    }
}

/// Is what happened next.
pub(super) enum Came {
    Reply(Reply),
    /// Nothing until the deadline.
    Silence,
    End(End),
}

/// Is a connection.
pub(super) struct Talk {
    stream: TcpStream,
    reader: FrameReader,
    buffer: Vec<u8>,
    waiting: VecDeque<Reply>,
    end: Option<End>,
    is_heard: bool,
    anomalies: BTreeSet<&'static str>,
}

impl Talk {
    /// Connects, within `limit`.
    pub(super) async fn open(to: &str, limit: Duration) -> std::io::Result<Self> {
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        let stream = timeout(limit, TcpStream::connect(to)).await.map_err(|_| late())??;
        stream.set_nodelay(true)?;
        let limits = Limits { frame_bytes_max: ANSWER_BYTES_MAX, ..Limits::default() };
        Ok(Self {
            stream,
            reader: FrameReader::new(limits),
            buffer: vec![0; READ_BYTES],
            waiting: VecDeque::new(),
            end: None,
            is_heard: false,
            anomalies: BTreeSet::new(),
        })
    }

    /// Writes, within `limit`; what becomes of it is told by [`Self::next`].
    pub(super) async fn write(&mut self, bytes: &[u8], limit: Duration) {
        // a receiver that closes may have answered before: the reading tells
        timeout(limit, self.stream.write_all(bytes)).await.ok();
    }

    /// Says that nothing more is sent.
    pub(super) async fn shut(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// Waits for the next frame, until the deadline.
    pub(super) async fn next(&mut self, deadline: Instant) -> Came {
        loop {
            if let Some(reply) = self.waiting.pop_front() {
                return Came::Reply(reply);
            }
            if let Some(end) = self.end {
                return Came::End(end);
            }
            let reading = self.stream.read(&mut self.buffer);
            if self.reader.awaits_silence() {
                match timeout(END_SILENCE, reading).await {
                    Ok(read) => self.take(read),
                    Err(_) => self.collect(|reader, sink| {
                        reader.handle_silence(sink);
                        Ok(())
                    }),
                }
            } else {
                match timeout_at(deadline, reading).await {
                    Ok(read) => self.take(read),
                    Err(_) => return Came::Silence,
                }
            }
        }
    }

    /// Returns the codes of what deviated from MLLP in what came.
    pub(super) fn anomalies(&self) -> &BTreeSet<&'static str> {
        &self.anomalies
    }

    /// Says whether the receiver ended it without a byte.
    pub(super) fn is_turned_away(&self) -> bool {
        !self.is_heard && matches!(self.end, Some(End::Closed | End::Lost))
    }

    /// Closes, so that a receiver that serves one connection at a time is free for the next.
    pub(super) async fn farewell(mut self) {
        self.shut().await;
        let deadline = Instant::now() + FAREWELL;
        // each turn takes at least one read, and the deadline ends a receiver that never stops
        while Instant::now() < deadline && !matches!(self.next(deadline).await, Came::End(_) | Came::Silence) {}
    }

    fn take(&mut self, read: std::io::Result<usize>) {
        match read {
            Ok(0) => {
                self.collect(|reader, sink| {
                    reader.handle_end_of_stream(sink);
                    Ok(())
                });
                self.end = Some(End::Closed);
            }
            Ok(length) => {
                self.is_heard = true;
                let bytes = self.buffer.get(..length).unwrap_or_default().to_vec();
                self.collect(|reader, sink| reader.handle_bytes(&bytes, sink));
            }
            Err(_) => self.end = Some(End::Lost),
        }
    }

    fn collect(&mut self, feed: impl FnOnce(&mut FrameReader, &mut dyn FnMut(Read)) -> Result<(), Violation>) {
        let Self { reader, waiting, anomalies, .. } = self;
        let fed = feed(reader, &mut |read| match read {
            Read::Payload(payload) => waiting.push_back(reply(&payload)),
            // Told by the frame itself.
            Read::Anomaly(Anomaly::EmptyFrame) => {}
            Read::Anomaly(anomaly) => {
                anomalies.insert(anomaly.code());
            }
        });
        if let Err(violation) = fed {
            self.end = Some(End::Unreadable(violation));
        }
    }
}

fn reply(payload: &[u8]) -> Reply {
    if let FrameKind::Transport(code) = FrameKind::of(payload) {
        return Reply { code: Some(code), control_id: Vec::new() };
    }
    let msa = Header::parse_whole(payload).and_then(|header| header.msa());
    match msa {
        Some(msa) => Reply { code: Some(AckCode::parse(msa.code())), control_id: msa.control_id().to_vec() },
        None => Reply { code: None, control_id: Vec::new() },
    }
}
