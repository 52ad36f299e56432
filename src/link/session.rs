//! The shell around a link's streams: locks them, wakes who waits, moves records over a TCP connection.
//!
//! It decides nothing; `streams` does. One session lives as long as its streams, over any number of connections.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};

use super::echo::{Echo, Voice};
use super::feed::StoreError;
use super::feed::wire::Fault;
use super::stream_end::StreamEnd;
use super::streams::{Event, Side, Streams};
use super::wire::{Cause, ReceiverNews, ReceiverState, Record, WireError, decode};

/// Records that are gathered for one write, in bytes.
pub(super) const WRITE_BYTES: usize = 64 << 10;
/// Room for one read, in bytes: the largest record and more.
pub(super) const READ_BYTES: usize = 128 << 10;
/// What the kernel may hold unsent of a link, in bytes: beyond it a small message would wait behind large ones.
pub(super) const UNSENT_BYTES: u32 = 128 << 10;
/// Time is looked at this finely while streams wait.
const CLOCK_STEP: Duration = Duration::from_millis(10);

/// Says why a connection of the link ended.
#[derive(Debug, Error)]
pub enum Ended {
    /// The other side closed it.
    #[error("the other site closed the link")]
    Closed,
    /// TCP failed.
    #[error("the link broke")]
    Broken(#[source] io::Error),
    /// The other side is silent.
    #[error("the other site does not answer on the link")]
    Silent,
    /// The other side sent what is no record.
    #[error("the other site sent what is no link record")]
    Wire(#[from] WireError),
    /// The other side broke the rules of offsets or credit.
    #[error("the other site broke the rules of the link")]
    Violation,
    /// The other side broke the rules of stored records.
    #[error("the other site broke the rules of stored messages")]
    Rules(#[from] Fault),
    /// The other side goes on no longer, and says why.
    #[error("{0}")]
    Refused(Cause),
    /// What this side keeps of the messages failed.
    #[error("this site cannot keep what it must of the messages")]
    Store(#[source] StoreError),
    /// A newer connection carries the streams on.
    #[error("a newer connection took over")]
    Replaced,
    /// Its far address belongs to another peer now.
    #[error("the address of the other site belongs to another peer now")]
    Moved,
}

impl Ended {
    /// Returns the kind of failure.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Refused(cause) => *cause,
            Self::Store(_) => Cause::StoreFailed,
            Self::Closed
            | Self::Broken(_)
            | Self::Silent
            | Self::Wire(_)
            | Self::Violation
            | Self::Rules(_)
            | Self::Replaced
            | Self::Moved => Cause::LinkDown,
        }
    }
}

/// Is one end of a link.
pub struct Session {
    inner: Mutex<Inner>,
    transmit: Notify,
    clock: Notify,
    awake: Notify,
    arrivals: Option<mpsc::Sender<StreamEnd>>,
    voice: OnceLock<Voice>,
}

struct Inner {
    streams: Streams,
    signals: HashMap<u64, Arc<Signals>>,
    round_trip: Option<Duration>,
    receiver: (ReceiverNews, SystemTime),
    /// Numbers the connections: what an older one still does is void.
    connection: u64,
}

/// Wakes the two directions of a stream.
#[derive(Default)]
pub(super) struct Signals {
    pub(super) readable: Notify,
    pub(super) writable: Notify,
}

impl Session {
    /// Makes the near end.
    pub fn near(hold_for: Duration) -> Arc<Self> {
        Self::new(Side::Near, hold_for, None)
    }

    /// Makes the far end; streams that the near end opens are sent to `arrivals`.
    pub fn far(linger: Duration, arrivals: mpsc::Sender<StreamEnd>) -> Arc<Self> {
        Self::new(Side::Far, linger, Some(arrivals))
    }

    fn new(side: Side, hold_for: Duration, arrivals: Option<mpsc::Sender<StreamEnd>>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                streams: Streams::new(side, hold_for, Instant::now()),
                signals: HashMap::new(),
                round_trip: None,
                receiver: (ReceiverState::Unknown.into(), SystemTime::now()),
                connection: 0,
            }),
            transmit: Notify::new(),
            clock: Notify::new(),
            awake: Notify::new(),
            arrivals,
            voice: OnceLock::new(),
        })
    }

    /// Says who knows what the two sites tell each other; the first one that is said stays.
    pub(super) fn set_voice(&self, voice: Voice) {
        self.voice.get_or_init(|| voice);
    }

    /// Opens a stream to the receiver (near end).
    ///
    /// # Errors
    /// There are too many, or the link is down and the forward does not hold.
    pub fn open(self: &Arc<Self>) -> Result<StreamEnd, Cause> {
        let key = self.with(Streams::open)?;
        Ok(self.end(key))
    }

    /// Returns the handle of a stream.
    fn end(self: &Arc<Self>, key: u64) -> StreamEnd {
        let signals = Arc::new(Signals::default());
        self.lock().signals.insert(key, Arc::clone(&signals));
        StreamEnd::new(Arc::clone(self), key, signals)
    }

    /// Acts on the streams, then wakes whom it concerns.
    pub(super) fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut Streams) -> T) -> T {
        let mut opened = Vec::new();
        let mut inner = self.lock();
        let result = act(&mut inner.streams);
        while let Some(event) = inner.streams.poll_event() {
            match event {
                Event::Wake(key) => {
                    if let Some(signals) = inner.signals.get(&key) {
                        signals.readable.notify_one();
                        signals.writable.notify_one();
                    }
                }
                Event::Transmit => self.transmit.notify_one(),
                Event::Clock => self.clock.notify_one(),
                Event::Opened(key) => opened.push(key),
            }
        }
        drop(inner);
        for key in opened {
            let end = self.end(key);
            // A full queue of arrivals drops the handle, which resets the stream.
            let refused = self.arrivals.as_ref().and_then(|arrivals| arrivals.try_send(end).err());
            if let Some(mpsc::error::TrySendError::Full(mut end) | mpsc::error::TrySendError::Closed(mut end)) = refused
            {
                end.refuse(Cause::TooManyStreams);
            }
        }
        result
    }

    pub(super) fn forget(self: &Arc<Self>, key: u64, cause: Cause) {
        self.with(|streams| streams.close(key, cause));
        self.lock().signals.remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the streams.
    pub fn count(&self) -> usize {
        self.lock().streams.count()
    }

    /// Tells whether it has neither a connection nor streams.
    pub fn is_idle(&self) -> bool {
        self.lock().streams.is_idle()
    }

    /// Counts the streams that wait for a receiver that cannot be reached.
    pub fn held(&self) -> usize {
        self.lock().streams.held()
    }

    /// Returns the last round trip that was measured on the link.
    pub fn round_trip(&self) -> Option<Duration> {
        self.lock().round_trip
    }

    /// Returns what the far site said last of its receiver, and since when it says so.
    pub fn receiver(&self) -> (ReceiverNews, SystemTime) {
        self.lock().receiver.clone()
    }

    fn note_receiver(&self, news: ReceiverNews) {
        let mut inner = self.lock();
        if inner.receiver.0 != news {
            inner.receiver = (news, SystemTime::now());
        }
    }

    /// Tells the near site how the receiver is.
    pub fn tell_receiver(self: &Arc<Self>, news: ReceiverNews) {
        self.with(|streams| streams.push_record(&Record::Receiver(news)));
    }

    /// Fails every stream.
    pub fn fail_all(self: &Arc<Self>, cause: Cause) {
        self.with(|streams| streams.fail_all(cause));
    }

    /// Changes how long streams outlive their connection.
    pub fn set_hold_for(self: &Arc<Self>, hold_for: Duration) {
        self.with(|streams| streams.set_hold_for(hold_for));
    }

    /// Waits until there is no stream, for so long at the most. Cancel-safe.
    pub async fn drained(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(CLOCK_STEP).await;
        }
    }

    /// Asks for an echo at once: the peer gave a sign of life.
    pub fn wake(&self) {
        self.awake.notify_one();
    }

    /// Notes that there is no connection.
    pub fn disconnected(self: &Arc<Self>, cause: Cause) {
        self.with(|streams| streams.handle_disconnected(cause, Instant::now()));
    }

    /// Lets time pass for the streams, for ever. Cancel-safe.
    pub async fn run_clock(self: &Arc<Self>) {
        loop {
            let deadline = self.lock().streams.next_deadline();
            let changed = self.clock.notified();
            match deadline {
                None => changed.await,
                Some(deadline) => {
                    let earliest = Instant::now() + CLOCK_STEP;
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.max(earliest).into()) => {}
                        () = changed => {}
                    }
                }
            }
            self.with(|streams| streams.handle_time(Instant::now()));
        }
    }

    /// Moves records over a connection until it ends; the streams stay. Cancel-safe, as the connection is lost then.
    ///
    /// `early`: what was read beyond the greeting. `resumed`: the other side still has the streams.
    pub async fn run(self: &Arc<Self>, mut tcp: TcpStream, early: BytesMut, resumed: bool) -> Ended {
        let connection = {
            let mut inner = self.lock();
            inner.connection += 1;
            inner.connection
        };
        // Without it the link carries all the same, only less fairly.
        SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT_BYTES).ok();
        self.with(|streams| streams.handle_connected(resumed));
        let echo = Echo::new(self.voice.get());
        let ping = |token| {
            let told = echo.told();
            self.with(|streams| {
                streams.handle_idle();
                streams.push_ping(token, &told);
            });
        };
        let (reader, writer) = tcp.split();
        let ended = tokio::select! {
            ended = self.read(connection, reader, early, &echo) => ended,
            ended = self.write(connection, writer) => ended,
            () = echo.ask(&self.awake, ping) => Ended::Silent,
        };
        // However the older one ended: it must not take the newer one's streams down.
        if self.is_replaced(connection) { Ended::Replaced } else { ended }
    }

    fn is_replaced(&self, connection: u64) -> bool {
        self.lock().connection != connection
    }

    async fn read(self: &Arc<Self>, connection: u64, mut reader: ReadHalf<'_>, early: BytesMut, echo: &Echo) -> Ended {
        let mut buffer = early;
        loop {
            if self.is_replaced(connection) {
                return Ended::Replaced;
            }
            if let Err(ended) = self.take_records(&mut buffer, echo) {
                return ended;
            }
            buffer.reserve(READ_BYTES);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return Ended::Closed,
                Ok(_) => {}
                Err(error) => return Ended::Broken(error),
            }
        }
    }

    fn take_records(self: &Arc<Self>, buffer: &mut BytesMut, echo: &Echo) -> Result<(), Ended> {
        let now = Instant::now();
        echo.hear(now);
        while let Some((record, record_bytes)) = decode(buffer)? {
            echo.hear_record(buffer);
            match record {
                Record::Pong(token) => {
                    if let Some(round_trip) = echo.answered(token, now) {
                        self.lock().round_trip = Some(round_trip);
                    }
                }
                Record::Receiver(news) => self.note_receiver(news),
                record => {
                    self.with(|streams| streams.handle_record(record, now)).map_err(|_| Ended::Violation)?;
                }
            }
            buffer.advance(record_bytes);
        }
        Ok(())
    }

    async fn write(self: &Arc<Self>, connection: u64, mut writer: WriteHalf<'_>) -> Ended {
        let mut out = BytesMut::with_capacity(WRITE_BYTES * 2);
        loop {
            if self.is_replaced(connection) {
                self.transmit.notify_one(); // the wake-up was meant for the newer one
                return Ended::Replaced;
            }
            self.with(|streams| streams.poll_transmit(&mut out, WRITE_BYTES));
            if out.is_empty() {
                self.transmit.notified().await;
            } else if let Err(error) = writer.write_all(&out).await {
                return Ended::Broken(error);
            }
            out.clear();
        }
    }
}

#[cfg(test)]
mod tests;
