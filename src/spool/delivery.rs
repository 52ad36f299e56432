//! The one conversation with a receiver: stored messages over one connection, in order, one outstanding.
//!
//! It decides nothing; [`course`] does. It never sends a byte of a message before the ledger says that the attempt is
//! durable, and reports no outcome before that is. Rules: design, delivery.md ("stored: to the receiver").

mod counts;
pub mod course;
mod socket;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until};

pub use self::counts::{Counter, Counts};
use self::course::{Course, Held, Order, Receiver, Reply, Step, Trying};
pub use self::course::{Delivery, Reason};
use self::socket::{Connection, Moved};
use super::ledger::{Attempt, Finished, Ledger};
use super::{Outcome, Sequence, SpoolError, Verdict};
use crate::config::ReceiverPolicy;
use crate::tls::Socket;

/// A ledger that failed is tried again after so long: it is reopened and verified then.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);
/// The receiver's TCP is asked so often whether it has the whole message, where no answer is awaited.
const DRAIN_STEP: Duration = Duration::from_millis(2);
/// Counts messages that are taken ahead of their turn to find one that an operator wants out of the way: no fewer than a
/// link's window.
pub const WAITING_MAX: usize = 1 << 16;
/// Counts orders whose answer waits for the end of a message; with more the next one is told that the message is being
/// attempted.
const ORDERS_MAX: usize = 64;
/// Bounds what is read of a receiver before others have their turn, in reads of 4 KiB.
const READS_MAX: u8 = 16;

/// Is something that an operator asks of a message.
pub struct Command {
    /// Says what.
    pub order: Order,
    /// Is the message.
    pub sequence: Sequence,
    /// Takes the answer.
    pub reply: oneshot::Sender<Reply>,
}

/// Tells how the conversation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryState {
    /// Is what is known of the receiver.
    pub receiver: Receiver,
    /// Is the message that is held, if one is: everything behind it waits.
    pub held: Option<Held>,
    /// Is the message on which the receiver fails again and again, if there is one: everything behind it waits.
    pub trying: Option<Trying>,
    /// Says why nothing can be written down, if so: nothing is sent then.
    pub ledger_failed: Option<String>,
}

impl Default for DeliveryState {
    fn default() -> Self {
        Self { receiver: Receiver::Unknown, held: None, trying: None, ledger_failed: None }
    }
}

/// Is the conversation, before it begins. `dial` opens a connection with all its options set, and gives what is to be
/// kept as long as it is open (a place among those that the receiver takes); or a stable code that says why not.
pub struct Conversation<L, D> {
    /// Brings messages, in order. Where it is closed, the conversation ends after the last one.
    pub source: mpsc::Receiver<Delivery>,
    /// Is what is written down.
    pub ledger: Arc<L>,
    /// Opens connections.
    pub dial: D,
    /// Says how the receiver is treated.
    pub policy: watch::Receiver<ReceiverPolicy>,
    /// Brings what operators want.
    pub commands: mpsc::Receiver<Command>,
    /// Takes what became of messages, once it is durable. Whoever takes it must not wait for this conversation.
    pub reports: mpsc::Sender<Outcome>,
    /// Shows how it is.
    pub state: watch::Sender<DeliveryState>,
    /// Shows what was counted.
    pub counter: Arc<Counter>,
    /// Is true while no attempt is to begin.
    pub paused: watch::Receiver<bool>,
    /// Counts who waits for a connection to the receiver.
    pub wanted: watch::Receiver<u64>,
    /// Turns true when no attempt is to begin any more.
    pub stop: watch::Receiver<bool>,
}

type Dialing<P> = Pin<Box<dyn Future<Output = Result<(Socket, P), &'static str>> + Send>>;

impl<L: Ledger, D, F, P> Conversation<L, D>
where
    D: Fn() -> F,
    F: Future<Output = Result<(Socket, P), &'static str>> + Send + 'static,
{
    /// Delivers until it is stopped, its ledger is gone, or the source is closed and everything has its end. A dropped
    /// conversation leaves the message that is under way in doubt.
    pub async fn run(mut self) {
        let Some(interrupted) = self.read_ledger().await else { return };
        let policy = *self.policy.borrow_and_update();
        let course = Course::new(policy, interrupted, seed(), self.counter.counts());
        let mut running = Running { course, connection: None, dialing: None, replies: Vec::new(), report: None };
        running.run(&mut self).await;
        self.counter.set(running.course.counts());
    }

    /// Reads the present attempt; `None` where the conversation is stopped before that succeeds.
    async fn read_ledger(&mut self) -> Option<Option<Attempt>> {
        loop {
            match self.ledger.interrupted().await {
                Ok(attempt) => {
                    self.ledger_works();
                    return Some(attempt);
                }
                Err(error) => self.ledger_fails(&error)?,
            }
            self.pause().await?;
        }
    }

    /// Commits; `None` where the conversation is stopped before that succeeds.
    async fn commit(&mut self, finished: Option<Finished>, attempting: Option<Attempt>) -> Option<()> {
        loop {
            match self.ledger.commit(finished.clone(), attempting).await {
                Ok(()) => {
                    self.ledger_works();
                    return Some(());
                }
                Err(error) => self.ledger_fails(&error)?,
            }
            self.pause().await?;
        }
    }

    async fn pause(&mut self) -> Option<()> {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => None,
            () = sleep(LEDGER_PAUSE) => Some(()),
        }
    }

    /// Shows that it failed; `None` where it is gone for good.
    fn ledger_fails(&self, error: &SpoolError) -> Option<()> {
        let text = error.to_string();
        let changed = self.state.send_if_modified(|state| {
            let differs = state.ledger_failed.as_ref() != Some(&text);
            state.ledger_failed = Some(text);
            differs
        });
        if changed {
            tracing::error!(%error, "what became of messages cannot be written down; nothing is sent until it can");
        }
        (!self.ledger.is_gone(error)).then_some(())
    }

    fn ledger_works(&self) {
        self.state.send_if_modified(|state| state.ledger_failed.take().is_some());
    }
}

/// Is a conversation that has begun.
struct Running<P> {
    course: Course,
    connection: Option<(Connection, P)>,
    dialing: Option<Dialing<P>>,
    replies: Vec<(Sequence, oneshot::Sender<Reply>)>,
    report: Option<Outcome>,
}

impl<P> Running<P> {
    async fn run<L: Ledger, D, F>(&mut self, conversation: &mut Conversation<L, D>)
    where
        D: Fn() -> F,
        F: Future<Output = Result<(Socket, P), &'static str>> + Send + 'static,
    {
        loop {
            if self.course.wants_message()
                && let Ok(delivery) = conversation.source.try_recv()
            {
                self.course.handle_message(delivery);
            }
            self.course.handle_pause(*conversation.paused.borrow());
            self.course.handle_wanted(*conversation.wanted.borrow() > 0);
            self.reply();
            let step = self.course.poll_step(Instant::now(), SystemTime::now());
            if !self.course.has_line() {
                self.connection = None;
            }
            self.show(conversation);
            match step {
                Step::Commit { finished, attempting } => {
                    self.flush(&conversation.reports).await;
                    if conversation.commit(finished, attempting).await.is_none() {
                        return;
                    }
                    self.committed(&conversation.counter);
                }
                Step::Dial => self.dialing = Some(Box::pin((conversation.dial)())),
                Step::Send => self.send(),
                Step::Wait(until) => {
                    // Also what came while a message is held, or after its end.
                    conversation.counter.set(self.course.counts());
                    self.flush(&conversation.reports).await;
                    self.wait(until, conversation).await;
                }
                Step::End => return self.flush(&conversation.reports).await,
            }
        }
    }

    fn committed(&mut self, counter: &Counter) {
        // A connection that ended meanwhile, or an answer that nobody waits for, must not meet the next message.
        self.read();
        self.report = self.course.handle_committed();
        self.reply();
        let Some(outcome) = &self.report else { return };
        counter.set(self.course.counts());
        let reply = if outcome.verdict == Verdict::Withdrawn { Reply::Withdrawn } else { Reply::Attempted };
        for (_, waiting) in self.replies.extract_if(.., |(sequence, _)| *sequence == outcome.sequence) {
            // Whoever asked may be gone.
            waiting.send(reply).ok();
        }
    }

    /// Commits to the receiver what it answered, as far as that is written down (MLLP Release 2).
    fn reply(&mut self) {
        let replies = self.course.take_replies();
        if let Some((connection, _)) = self.connection.as_mut().filter(|_| !replies.is_empty()) {
            connection.say(&replies);
            self.write();
        }
    }

    /// Reports what is durable, after the next message was sent.
    async fn flush(&mut self, reports: &mpsc::Sender<Outcome>) {
        if let Some(outcome) = self.report.take() {
            // Where nobody takes it any more, it is told from the ledger at the next opening.
            reports.send(outcome).await.ok();
        }
    }

    fn show<L, D>(&self, conversation: &Conversation<L, D>) {
        let (receiver, held, trying) = (self.course.receiver(), self.course.held(), self.course.trying());
        conversation.state.send_if_modified(|state| {
            let changed = (state.receiver, state.held, state.trying) != (receiver, held, trying);
            (state.receiver, state.held, state.trying) = (receiver, held, trying);
            changed
        });
    }

    fn send(&mut self) {
        if let Some((connection, _)) = &mut self.connection {
            connection.begin();
        }
        self.write();
    }

    /// Writes what the connection takes of the message now.
    fn write(&mut self) {
        let Some((connection, _)) = &mut self.connection else { return };
        loop {
            match connection.write(self.course.payload()) {
                Moved::Some(_) => self.course.handle_progress(Instant::now()),
                Moved::All => return self.course.handle_sent(Instant::now()),
                Moved::Blocked => return,
                Moved::End => return self.course.handle_closed(Instant::now()),
            }
        }
    }

    /// Reads what the receiver sent; says whether that was all.
    fn read(&mut self) -> bool {
        let Some((connection, _)) = &mut self.connection else { return true };
        for _ in 0..READS_MAX {
            match connection.read() {
                Moved::Some(bytes) => self.course.handle_bytes(bytes, Instant::now()),
                Moved::Blocked | Moved::All => return true,
                Moved::End => {
                    self.course.handle_closed(Instant::now());
                    return true;
                }
            }
        }
        // What comes without a pause, and was not asked for, answers nothing.
        if !self.course.is_under_way() {
            self.course.handle_closed(Instant::now());
        }
        false
    }

    /// Waits for the next event, and takes it.
    async fn wait<L, D>(&mut self, until: Option<Instant>, conversation: &mut Conversation<L, D>) {
        let Conversation { source, commands, policy, paused, wanted, stop, .. } = conversation;
        let awaits_drain = self.course.awaits_drain() && self.connection.as_ref().is_some_and(|(c, _)| c.is_written());
        let until = if awaits_drain { Some(Instant::now() + DRAIN_STEP) } else { until };
        let (is_stopped, is_wanted) = (*stop.borrow(), self.course.is_wanted());
        let mut is_all = true;
        tokio::select! {
            biased;
            dialed = dialed(self.dialing.as_mut()) => {
                self.dialing = None;
                match dialed {
                    Ok((socket, place)) => {
                        self.connection = Some((Connection::new(socket, self.course.framing()), place));
                        self.course.handle_dialed();
                    }
                    Err(code) => self.course.handle_dial_failed(code, Instant::now()),
                }
            }
            delivery = source.recv(), if self.course.wants_message() => match delivery {
                Some(delivery) => self.course.handle_message(delivery),
                None => self.course.handle_source_closed(),
            },
            Some(command) = commands.recv() => self.take_command(command, source),
            Ok(()) = policy.changed() => {
                let policy = *policy.borrow_and_update();
                self.course.handle_policy(policy, Instant::now());
            }
            Ok(()) = paused.changed() => {}
            Ok(_) = wanted.wait_for(|wanted| *wanted > 0), if !is_wanted => {}
            Ok(_) = stop.wait_for(|stop| *stop), if !is_stopped => {}
            readiness = ready(self.connection.as_ref()) => {
                is_all = self.read();
                if readiness.is_writable {
                    self.write();
                }
            }
            () = at(until) => self.look_for_drain(),
        }
        if *stop.borrow() {
            self.course.handle_stop();
        }
        if !is_all {
            // All others share the thread with it.
            tokio::task::yield_now().await;
        }
    }

    fn look_for_drain(&mut self) {
        if self.course.awaits_drain() && self.connection.as_ref().is_some_and(|(connection, _)| connection.is_drained())
        {
            self.course.handle_drained();
        }
    }

    fn take_command(&mut self, command: Command, source: &mut mpsc::Receiver<Delivery>) {
        let Command { order, sequence, reply } = command;
        // What was sent before the command is here, or in the source.
        while self.course.messages() < WAITING_MAX
            && let Ok(delivery) = source.try_recv()
        {
            self.course.handle_message(delivery);
        }
        let answer = match self.course.handle_order(order, sequence) {
            None if self.replies.len() < ORDERS_MAX => return self.replies.push((sequence, reply)),
            None => Reply::Attempted,
            Some(answer) => answer,
        };
        // Whoever asked may be gone.
        reply.send(answer).ok();
    }
}

async fn ready<P>(connection: Option<&(Connection, P)>) -> socket::Readiness {
    match connection {
        Some((connection, _)) => connection.ready().await,
        None => std::future::pending().await,
    }
}

async fn dialed<P>(dialing: Option<&mut Dialing<P>>) -> Result<(Socket, P), &'static str> {
    match dialing {
        Some(dialing) => dialing.await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns something that differs; the pauses of a site without randomness are those of another one, no worse.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok();
    u64::from_ne_bytes(bytes)
}
