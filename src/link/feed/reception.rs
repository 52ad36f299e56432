//! The shell of the far end of stored messages: one for each forward of a peer, whatever connections come and go.
//!
//! It decides nothing; `far` does. It hands messages to the one conversation with the receiver, and tells outcomes only
//! as that conversation reports them, which is after they are written down.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::far::{Event, Far};
use super::station::Station;
use super::wire::{Fault, Record, decode};
use super::{Answer, Book, Command, CommandKind, Held, Taken};
use crate::config::Name;
use crate::link::FLUSH_WITHIN;
use crate::link::carry::DRAIN_WITHIN;
use crate::link::echo::{Echo, Voice};
use crate::link::session::{Ended, READ_BYTES, UNSENT_BYTES, WRITE_BYTES};
use crate::link::wire::{Cause, ReceiverNews, ReceiverState};
use crate::spool::{Divergence, Opening, Outcome, Sequence};

/// The end of the conversation with the receiver is looked for this often once it is to end.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// The pause after outcomes were told: those that come meanwhile go together. The first after a silence waits for nothing.
const TELL_PAUSE: Duration = Duration::from_millis(2);
/// Outcomes that are taken at once: a pause's worth of a fast receiver.
const OUTCOMES_MAX: usize = 1024;

/// Is the far end of a forward's stored messages.
pub struct Reception {
    service: Name,
    inner: Mutex<Inner>,
    book: Arc<dyn Book>,
    transmit: Notify,
    work: Notify,
    awake: Notify,
    /// Changes when a newer connection takes over.
    turn: watch::Sender<u64>,
    receiver: watch::Sender<ReceiverNews>,
    /// Is held by the connection that serves.
    serving: tokio::sync::Mutex<()>,
    voice: OnceLock<Voice>,
}

struct Inner {
    far: Far,
    messages: mpsc::Sender<Taken>,
    commands: mpsc::Sender<Command>,
    held: watch::Receiver<Option<Held>>,
    round_trip: Option<Duration>,
    pause: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    /// Ends with the conversation.
    is_over: bool,
    tasks: JoinSet<()>,
}

impl Reception {
    /// Begins with a station; `unretired` lists the outcomes that its book has, `attempted` is its [`Book::attempted`].
    pub(in crate::link) fn new(
        service: Name,
        station: Station,
        unretired: &[Outcome],
        attempted: Option<Sequence>,
    ) -> Arc<Self> {
        let Station { book, messages, outcomes, commands, held, window, pause, stop, tasks } = station;
        let far = Far::new(window, unretired.iter().map(|outcome| outcome.sequence), attempted);
        let reception = Arc::new(Self {
            service,
            inner: Mutex::new(Inner {
                far,
                messages,
                commands,
                held,
                round_trip: None,
                pause,
                stop,
                is_over: false,
                tasks,
            }),
            book,
            transmit: Notify::new(),
            work: Notify::new(),
            voice: OnceLock::new(),
            awake: Notify::new(),
            turn: watch::Sender::new(0),
            receiver: watch::Sender::new(ReceiverState::Unknown.into()),
            serving: tokio::sync::Mutex::default(),
        });
        let weak = Arc::downgrade(&reception);
        reception.lock().tasks.spawn(async move {
            let mut outcomes = outcomes;
            let mut gathered = Vec::new();
            while outcomes.recv_many(&mut gathered, OUTCOMES_MAX).await > 0 {
                let Some(reception) = weak.upgrade() else { return };
                gathered.drain(..).for_each(|outcome| reception.lock().far.handle_outcome(outcome));
                reception.transmit.notify_one();
                reception.work.notify_one();
                drop(reception);
                tokio::time::sleep(TELL_PAUSE).await;
            }
            let Some(reception) = weak.upgrade() else { return };
            reception.lock().is_over = true;
            reception.work.notify_one();
        });
        reception
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the service that the messages are for.
    pub(in crate::link) fn service(&self) -> &Name {
        &self.service
    }

    /// Tells whether the conversation with the receiver has ended: nothing can come of this end any more.
    pub(in crate::link) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Tells whether messages wait for the receiver.
    pub fn has_messages(&self) -> bool {
        self.lock().far.has_messages()
    }

    /// Tells whether it has neither a connection nor messages.
    pub(in crate::link) fn is_idle(&self) -> bool {
        self.serving.try_lock().is_ok() && !self.has_messages()
    }

    /// Says how the two sites differ, where they do.
    pub fn divergence(&self) -> Option<Divergence> {
        self.lock().far.divergence()
    }

    /// Takes no connection any more, and has the conversation with the receiver end: at once where no attempt is under
    /// way, else with that attempt, within a bound. Cancel-safe.
    pub(in crate::link) async fn wind_down(&self) {
        self.lock().stop.send_replace(true);
        let deadline = Instant::now() + DRAIN_WITHIN;
        while !self.is_over() && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_STEP).await;
        }
    }

    /// Tells whether it winds down.
    pub(in crate::link) fn is_winding_down(&self) -> bool {
        *self.lock().stop.borrow()
    }

    /// Ends the conversation with the receiver; what it has not written down the near site sends again.
    pub(in crate::link) async fn close(&self) {
        self.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
        let mut tasks = {
            let mut inner = self.lock();
            inner.is_over = true;
            std::mem::take(&mut inner.tasks)
        };
        tasks.shutdown().await;
        let _let_go = self.serving.lock().await;
    }

    /// Takes over from an older connection: it ends with [`Ended::Replaced`].
    pub(in crate::link) fn take_over(&self) -> watch::Receiver<u64> {
        self.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
        self.turn.subscribe()
    }

    /// Moves messages over a connection until it ends, or `turn` changes. Cancel-safe, as the connection is lost then.
    ///
    /// `early`: what was read beyond the opening.
    pub(in crate::link) async fn run(
        &self,
        tcp: TcpStream,
        early: BytesMut,
        opening: Opening,
        turn: &mut watch::Receiver<u64>,
    ) -> Ended {
        tokio::select! {
            biased;
            _ = turn.changed() => Ended::Replaced,
            ended = self.serve(tcp, early, opening) => ended,
        }
    }

    async fn serve(&self, mut tcp: TcpStream, early: BytesMut, opening: Opening) -> Ended {
        // The older connection has let go when this is had: no two of them ever act on what is in hand.
        let _serving = self.serving.lock().await;
        SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT_BYTES).ok();
        let view = match self.book.view().await {
            Ok(view) => view,
            Err(error) => return Ended::Store(error),
        };
        self.lock().far.handle_opening(opening.clone(), view);
        let echo = Echo::new(self.voice.get());
        let ping = |token| {
            self.lock().far.push_ping(token, &echo.told());
            self.transmit.notify_one();
        };
        let (reader, writer) = tcp.split();
        // What an older connection left unsaid is reset by the opening; how things are is told from then on.
        let ended = tokio::select! {
            ended = self.read(reader, early, &opening, &echo) => ended,
            ended = self.write(writer) => ended,
            ended = self.keep_book() => ended,
            ended = self.tell() => ended,
            () = echo.ask(&self.awake, ping) => Ended::Silent,
        };
        self.lock().far.handle_disconnected();
        ended
    }

    /// Says who knows what the two sites tell each other; the first one that is said stays.
    pub(in crate::link) fn set_voice(&self, voice: Voice) {
        self.voice.get_or_init(|| voice);
    }

    /// Tells the near site how the receiver is, on this connection and those to come.
    pub(in crate::link) fn tell_receiver(&self, news: ReceiverNews) {
        self.receiver.send_replace(news);
    }

    /// Tells the near site on an open connection why it is closed.
    pub(in crate::link) async fn refuse(&self, cause: Cause) {
        self.lock().far.push_refusal(cause);
        self.transmit.notify_one();
        tokio::time::sleep(FLUSH_WITHIN).await;
    }

    async fn read(&self, mut reader: ReadHalf<'_>, early: BytesMut, opening: &Opening, echo: &Echo) -> Ended {
        let mut buffer = early;
        let mut answers = JoinSet::new();
        loop {
            if let Err(ended) = self.take_records(&mut buffer, opening, echo, &mut answers).await {
                return ended;
            }
            buffer.reserve(READ_BYTES);
            tokio::select! {
                read = reader.read_buf(&mut buffer) => match read {
                    Ok(0) => return Ended::Closed,
                    Ok(_) => {}
                    Err(error) => return Ended::Broken(error),
                },
                Some(answered) = answers.join_next() => {
                    if let Ok((id, Some(answer))) = answered {
                        self.lock().far.push_answer(id, answer);
                        self.transmit.notify_one();
                    }
                }
            }
        }
    }

    async fn take_records(
        &self,
        buffer: &mut BytesMut,
        opening: &Opening,
        echo: &Echo,
        answers: &mut JoinSet<(u32, Option<Answer>)>,
    ) -> Result<(), Ended> {
        let now = Instant::now();
        echo.hear(now);
        while let Some((record, record_bytes)) = decode(buffer).map_err(Fault::from)? {
            let event = self.lock().handle_record(record)?;
            echo.hear_record(buffer);
            buffer.advance(record_bytes);
            match event {
                None => {}
                Some(Event::Begin) => self.begin(opening).await?,
                Some(Event::Taken(taken)) => {
                    let sent = self.lock().messages.try_send(taken);
                    sent.map_err(|_| Ended::Store("the conversation with the receiver ended".into()))?;
                }
                Some(Event::Command(id, kind, sequence)) => {
                    let commands = self.lock().commands.clone();
                    answers.spawn(async move { (id, ask(commands, kind, sequence).await) });
                }
                Some(Event::Pong(token)) => {
                    if let Some(round_trip) = echo.answered(token, now) {
                        self.lock().round_trip = Some(round_trip);
                    }
                }
            }
        }
        self.transmit.notify_one();
        self.work.notify_one();
        Ok(())
    }

    /// Writes down from where this site goes on.
    async fn begin(&self, opening: &Opening) -> Result<(), Ended> {
        if self.lock().far.is_below_retired() {
            self.book.raise(opening.clone()).await.map_err(Ended::Store)?;
        }
        self.book.prune(opening.retired_through).await.map_err(Ended::Store)?;
        let view = self.book.view().await.map_err(Ended::Store)?;
        self.lock().far.handle_begun(view)?;
        Ok(())
    }

    async fn write(&self, mut writer: WriteHalf<'_>) -> Ended {
        let mut out = BytesMut::with_capacity(WRITE_BYTES * 2);
        loop {
            self.lock().far.poll_transmit(&mut out, WRITE_BYTES);
            if out.is_empty() {
                self.transmit.notified().await;
                continue;
            }
            self.work.notify_one(); // there may be room for more outcomes now
            if let Err(error) = writer.write_all(&out).await {
                return Ended::Broken(error);
            }
            out.clear();
        }
    }

    /// Forgets outcomes that are settled, and reads those that are to be told from what was written down.
    async fn keep_book(&self) -> Ended {
        loop {
            let (prune, list, is_over) = {
                let mut inner = self.lock();
                (inner.far.poll_prune(), inner.far.poll_list(), inner.is_over)
            };
            if is_over {
                return Ended::Store("the conversation with the receiver ended".into());
            }
            if let Some(through) = prune
                && let Err(error) = self.book.prune(through).await
            {
                return Ended::Store(error);
            }
            match list {
                Some(after) => match self.book.outcomes_after(after).await {
                    Ok(outcomes) => self.lock().far.handle_listed(outcomes),
                    Err(error) => return Ended::Store(error),
                },
                None if prune.is_some() => continue,
                None => self.work.notified().await,
            }
            self.transmit.notify_one();
        }
    }

    /// Tells how the receiver is and which message is held, at once and at each change.
    async fn tell(&self) -> Ended {
        let (mut held, mut states) = (self.lock().held.clone(), self.receiver.subscribe());
        held.mark_changed();
        states.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = states.changed() => {
                    let now = states.borrow_and_update().clone();
                    self.lock().far.push_receiver(now);
                }
                Ok(()) = held.changed() => {
                    let now = held.borrow_and_update().clone();
                    self.lock().far.push_held(now);
                }
                else => return std::future::pending().await,
            }
            self.transmit.notify_one();
        }
    }
}

impl Inner {
    fn handle_record(&mut self, record: Record<'_>) -> Result<Option<Event>, Fault> {
        let event = self.far.handle_record(record)?;
        let is_paused = self.far.is_paused();
        self.pause.send_if_modified(|was| std::mem::replace(was, is_paused) != is_paused);
        Ok(event)
    }
}

/// Asks the conversation; nothing, where that ends: then nothing is known of the message.
async fn ask(commands: mpsc::Sender<Command>, kind: CommandKind, sequence: Sequence) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    commands.send(Command { order: kind, sequence, reply: answer }).await.ok()?;
    // It was in hand: where it is not any more, its outcome is about to be told.
    let answer = answered.await.ok()?;
    Some(if answer == Answer::Unknown { Answer::Attempted } else { answer })
}
