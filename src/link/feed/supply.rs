//! The shell of the near end of stored messages: reads the queue, moves records, has outcomes settled.
//!
//! It decides nothing; `near` does. It lives as long as its link, over any number of connections.

mod bar;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};

use super::near::{Event, Near};
use super::wire::{Fault, decode};
use super::{Answer, CommandKind, Held, Queue};
use crate::link::echo::{Echo, Voice};
use crate::link::session::{Ended, READ_BYTES, UNSENT_BYTES, WRITE_BYTES};
use crate::link::wire::{Cause, ReceiverNews, ReceiverState};
use crate::spool::{Divergence, FarView, Queued, Sequence};
pub use bar::Bar;

/// The pause after outcomes were settled: nobody waits for them, and senders wait for the same disk.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);
/// The pause after few messages were read: what comes meanwhile is read, sealed and sent together, for a fraction of the
/// processor time. The first message after a silence waits for nothing.
const READ_PAUSE: Duration = Duration::from_millis(2);
/// So many messages at once are worth a look into the store of their own.
const READ_FEW: usize = 64;
/// Commands that wait for their answer: an operator gives one at a time.
const COMMANDS_MAX: usize = 16;

/// Is what is known of the messages between the two sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupplyState {
    /// Says how the two sites differ, where they do: nothing is sent until an operator reconciles them.
    pub diverged: Option<Divergence>,
    /// Is how far the far site said last that it came.
    pub far: Option<FarView>,
    /// Is the message that waits for an operator at the far site.
    pub held: Option<Held>,
    /// Is the message that is larger than the far site takes; all others wait behind it.
    pub too_large: Option<Sequence>,
    /// Counts the messages that were sent and are not settled.
    pub in_flight: usize,
}

/// Is the near end of a forward's stored messages.
pub struct Supply {
    queue: Arc<dyn Queue>,
    inner: Mutex<Inner>,
    transmit: Notify,
    /// There may be something to read from the queue.
    read_on: Notify,
    settle: Notify,
    settled: Notify,
    awake: Notify,
    voice: OnceLock<Voice>,
}

struct Inner {
    near: Near,
    far: Option<FarView>,
    is_connected: bool,
    commands: HashMap<u32, oneshot::Sender<Answer>>,
    next_command: u32,
    /// Lists the messages that an operator decides about.
    barred: Vec<Sequence>,
    /// Counts what was barred or let go.
    bars: u64,
    receiver: (ReceiverNews, SystemTime),
    round_trip: Option<Duration>,
}

impl Supply {
    /// Makes the near end of a queue.
    pub fn new(queue: Arc<dyn Queue>) -> Arc<Self> {
        Arc::new(Self {
            queue,
            inner: Mutex::new(Inner {
                near: Near::default(),
                far: None,
                is_connected: false,
                commands: HashMap::new(),
                next_command: 1,
                barred: Vec::new(),
                bars: 0,
                receiver: (ReceiverState::Unknown.into(), SystemTime::now()),
                round_trip: None,
            }),
            transmit: Notify::new(),
            read_on: Notify::new(),
            settle: Notify::new(),
            settled: Notify::new(),
            awake: Notify::new(),
            voice: OnceLock::new(),
        })
    }

    /// Says who knows what the two sites tell each other; the first one that is said stays.
    pub(in crate::link) fn set_voice(&self, voice: Voice) {
        self.voice.get_or_init(|| voice);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the messages between the two sites are.
    pub fn state(&self) -> SupplyState {
        let inner = self.lock();
        let near = &inner.near;
        SupplyState {
            diverged: near.divergence(),
            far: inner.far,
            held: near.held().cloned(),
            too_large: near.too_large(),
            in_flight: near.in_flight(),
        }
    }

    /// Returns what the far site said last of its receiver, and since when it says so.
    pub fn receiver(&self) -> (ReceiverNews, SystemTime) {
        self.lock().receiver.clone()
    }

    /// Returns the last round trip that was measured on the link.
    pub fn round_trip(&self) -> Option<Duration> {
        self.lock().round_trip
    }

    /// Has a message attempted again at once, although it is held or rests. Cancel-safe.
    ///
    /// # Errors
    /// The link is down or breaks, or too many commands wait.
    pub async fn retry(&self, sequence: Sequence) -> Result<Answer, Cause> {
        self.command(CommandKind::Retry, sequence).await
    }

    /// Takes a message out of the receiver's way. Nothing is sent from it on for as long as the bar lives: until then it
    /// is to be settled, if the answer is that the receiver does not get it, [`Answer::Withdrawn`] or
    /// [`Answer::Unknown`]. Cancel-safe: the far site may have withdrawn it all the same.
    ///
    /// # Errors
    /// The link is down or breaks, or too many commands wait: nothing is known of the message then.
    pub async fn withdraw(self: &Arc<Self>, sequence: Sequence) -> Result<(Answer, Bar), Cause> {
        let bar = Bar { supply: Arc::clone(self), from: sequence };
        {
            let mut inner = self.lock();
            inner.barred.push(sequence);
            inner.bar();
        }
        Ok((self.command(CommandKind::Withdraw, sequence).await?, bar))
    }

    async fn command(&self, kind: CommandKind, sequence: Sequence) -> Result<Answer, Cause> {
        let answered = {
            let mut inner = self.lock();
            inner.commands.retain(|_, waiting| !waiting.is_closed());
            if !inner.is_connected {
                return Err(Cause::LinkDown);
            }
            if inner.commands.len() >= COMMANDS_MAX {
                return Err(Cause::TooManyStreams);
            }
            let id = inner.next_command;
            inner.next_command = inner.next_command.wrapping_add(1);
            let (answer, answered) = oneshot::channel();
            inner.commands.insert(id, answer);
            inner.near.push_command(id, kind, sequence);
            answered
        };
        self.transmit.notify_one();
        answered.await.map_err(|_| Cause::LinkDown)
    }

    /// Says why the queue cannot be read now, if so: a link is of no use then.
    pub(in crate::link) fn queue_failure(&self) -> Option<String> {
        self.queue.tail().borrow().failed.clone()
    }

    /// Waits until the queue can be read, or fails for another reason; false where it was closed for good. Cancel-safe.
    pub(in crate::link) async fn failure_ended(&self, why: &str) -> bool {
        self.queue.tail().wait_for(|state| state.failed.as_deref() != Some(why)).await.is_ok()
    }

    /// Asks for an echo at once: the peer gave a sign of life.
    pub(in crate::link) fn wake(&self) {
        self.awake.notify_one();
    }

    /// Moves messages over a connection until it ends. Cancel-safe, as the connection is lost then.
    ///
    /// `early`: what was read beyond the greeting.
    pub(in crate::link) async fn run(&self, mut tcp: TcpStream, early: BytesMut) -> Ended {
        let opening = match self.queue.opening().await {
            Ok(opening) => opening,
            Err(error) => return Ended::Store(error),
        };
        // Without it the link carries all the same, only an echo waits longer.
        SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT_BYTES).ok();
        self.lock().near.handle_connected(opening);
        let _connected = Connected(self);
        let echo = Echo::new(self.voice.get());
        let ping = |token| {
            self.lock().near.push_ping(token, &echo.told());
            self.transmit.notify_one();
        };
        let (reader, writer) = tcp.split();
        tokio::select! {
            ended = self.read(reader, early, &echo) => ended,
            ended = self.write(writer) => ended,
            ended = self.read_queue() => ended,
            ended = self.settle() => ended,
            () = echo.ask(&self.awake, ping) => Ended::Silent,
        }
    }

    async fn read(&self, mut reader: ReadHalf<'_>, early: BytesMut, echo: &Echo) -> Ended {
        let mut buffer = early;
        loop {
            if let Err(ended) = self.take_records(&mut buffer, echo).await {
                return ended;
            }
            // The far site waits where more comes than can be settled.
            while self.lock().near.is_sated() {
                self.settled.notified().await;
                echo.hear(Instant::now());
            }
            buffer.reserve(READ_BYTES);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return Ended::Closed,
                Ok(_) => {}
                Err(error) => return Ended::Broken(error),
            }
        }
    }

    async fn take_records(&self, buffer: &mut BytesMut, echo: &Echo) -> Result<(), Ended> {
        let now = Instant::now();
        echo.hear(now);
        while let Some((record, record_bytes)) = decode(buffer).map_err(Fault::from)? {
            let event = self.lock().near.handle_record(record)?;
            echo.hear_record(buffer);
            buffer.advance(record_bytes);
            if let Some(event) = event {
                self.act(event, now, echo).await?;
            }
        }
        self.transmit.notify_one();
        self.read_on.notify_one();
        self.settle.notify_one();
        Ok(())
    }

    async fn act(&self, event: Event, now: Instant, echo: &Echo) -> Result<(), Ended> {
        match event {
            Event::Judge(view) => {
                let judgement = self.queue.judge(view).await.map_err(Ended::Store)?;
                let mut inner = self.lock();
                inner.far = Some(view);
                inner.near.handle_judgement(judgement);
                inner.is_connected = inner.near.divergence().is_none();
                self.read_on.notify_one();
            }
            Event::Receiver(news) => {
                let mut inner = self.lock();
                if inner.receiver.0 != news {
                    inner.receiver = (news, SystemTime::now());
                }
            }
            Event::Pong(token) => {
                if let Some(round_trip) = echo.answered(token, now) {
                    self.lock().round_trip = Some(round_trip);
                }
            }
            Event::Answer(id, answer) => {
                // Who asked may wait no longer.
                if let Some(waiting) = self.lock().commands.remove(&id) {
                    waiting.send(answer).ok();
                }
            }
            Event::Refused(cause) => return Err(Ended::Refused(cause)),
        }
        Ok(())
    }

    async fn write(&self, mut writer: WriteHalf<'_>) -> Ended {
        let mut out = BytesMut::with_capacity(WRITE_BYTES * 2);
        loop {
            self.lock().near.poll_transmit(&mut out, WRITE_BYTES);
            if out.is_empty() {
                self.transmit.notified().await;
                continue;
            }
            self.read_on.notify_one(); // little may be ahead now
            if let Err(error) = writer.write_all(&out).await {
                return Ended::Broken(error);
            }
            out.clear();
        }
    }

    /// Reads messages from the queue as they come and are wanted.
    async fn read_queue(&self) -> Ended {
        let mut tail = self.queue.tail();
        loop {
            let wanted = {
                let state = tail.borrow_and_update();
                if let Some(why) = &state.failed {
                    return Ended::Store(why.clone().into());
                }
                let mut inner = self.lock();
                inner.near.handle_retired(state.retired_through);
                inner.near.set_paused(state.paused);
                inner.near.poll_read().filter(|(from, ..)| *from <= state.last)
            };
            self.transmit.notify_one();
            if let Some((from, messages, bytes)) = wanted {
                let bars = self.lock().bars;
                let messages = match self.queue.read(from, messages, bytes).await {
                    Ok(messages) => messages,
                    Err(error) => return Ended::Store(error),
                };
                let few = messages.len() < READ_FEW;
                if self.take_read(messages, bars) {
                    self.transmit.notify_one();
                    if few {
                        tokio::time::sleep(READ_PAUSE).await;
                    }
                    continue;
                }
            }
            tokio::select! {
                changed = tail.changed() => if changed.is_err() {
                    return Ended::Store("the queue was closed".into());
                },
                () = self.read_on.notified() => {}
            }
        }
    }

    /// Takes in what was read; false where nothing was.
    fn take_read(&self, messages: Vec<Queued>, bars: u64) -> bool {
        let mut inner = self.lock();
        // Where it differs, an operator may have settled one of them meanwhile: it is read again.
        let has_some = !messages.is_empty() || inner.bars != bars;
        if inner.bars == bars {
            inner.near.handle_read(messages);
        }
        has_some
    }

    /// Has outcomes settled, all that came meanwhile at once.
    async fn settle(&self) -> Ended {
        loop {
            let batch = self.lock().near.poll_settlement(SystemTime::now());
            if batch.is_empty() {
                self.settle.notified().await;
                continue;
            }
            match self.queue.settle(batch).await {
                Ok(retired_through) => self.lock().near.handle_retired(retired_through),
                Err(error) => return Ended::Store(error),
            }
            self.settled.notify_one();
            self.transmit.notify_one();
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }
}

/// Ends what belongs to one connection with it.
struct Connected<'a>(&'a Supply);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.is_connected = false;
        inner.near.handle_disconnected();
        inner.commands.clear(); // whoever waits learns that the link is down
    }
}
