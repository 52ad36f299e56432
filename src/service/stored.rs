//! Stored messages of peers on their way to a service's receiver: one conversation for each forward of a peer.
//!
//! It never answers for the receiver, and never opens more connections to it than the configuration says, both
//! deliveries together.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Service;
use super::accounted::Accounted;
use super::slot::Slot;
use crate::config::{Name, ReceiverPolicy, Spool};
use crate::link::feed::station::Station;
use crate::link::feed::{Held, StoreError, Window};
use crate::link::wire::{Cause, ReceiverState};
use crate::mllp::ack::AckCode;
use crate::spool::delivery::course::{self, Receiver};
use crate::spool::delivery::{Conversation, Counter, Counts, DeliveryState};
use crate::spool::inbox::Inbox;
use crate::spool::key::SpoolKey;
use crate::spool::{ForwardId, Sequence, SpoolError};
use crate::tls::Socket;

/// Outcomes on their way to the link; it takes them at once.
const REPORTS_MAX: usize = 1024;
/// Commands of operators on their way to a conversation.
const COMMANDS_MAX: usize = 16;

/// Is a conversation about the stored messages of one forward of a peer.
#[derive(Clone)]
pub struct Talk {
    /// Names the peer.
    pub peer: Name,
    /// Tells how it is, and since when it is held.
    pub state: watch::Receiver<DeliveryState>,
    /// Is since when what is held is held.
    held_since: Arc<Mutex<Option<SystemTime>>>,
    /// Counts what passed.
    pub counter: Arc<Counter>,
}

/// Is every conversation about stored messages of a service.
#[derive(Default)]
pub(super) struct Talks {
    open: Vec<Talk>,
    /// Is what those that have ended counted.
    ended: Counts,
}

impl Talks {
    fn forget_ended(&mut self) {
        let Self { open, ended } = self;
        open.retain(|talk| {
            let is_open = talk.state.has_changed().is_ok();
            if !is_open {
                ended.add(&talk.counter.counts());
            }
            is_open
        });
    }
}

impl Talk {
    /// Says since when it is held; now, where it is not.
    pub fn held_since(&self) -> SystemTime {
        self.held_since.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(SystemTime::now)
    }
}

impl Service {
    /// Opens the station of a forward of a peer: its inbox below `directory`, and the conversation with the receiver.
    ///
    /// # Errors
    /// The inbox cannot be opened.
    pub async fn open_station(
        self: Arc<Self>,
        directory: PathBuf,
        spool: Option<Spool>,
        peer: Name,
        forward: ForwardId,
    ) -> Result<Station, StoreError> {
        let name = peer.clone();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let key = match spool {
                Some(spool) => Some(SpoolKey::load_or_create(spool.key.path(), false)),
                None => None,
            };
            // Without a spool of its own the site may have no key yet: the receiver's answers are then not kept.
            let key = match key {
                Some(Ok(key)) => Some(key),
                None | Some(Err(SpoolError::KeyMissing { .. })) => None,
                Some(Err(error)) => return Err(StoreError::from(error)),
            };
            Inbox::open(&directory, name.as_str(), forward, key.as_ref()).map_err(StoreError::from)
        });
        let inbox = opened.await??;
        let clerk = self.clerk_for(&peer);
        let ledger = Accounted::new(Arc::clone(&inbox), clerk, forward).await;
        let window = Window::default();
        let (messages, source) = mpsc::channel(usize::try_from(window.messages_max).unwrap_or(usize::MAX));
        let (reports, outcomes) = mpsc::channel(REPORTS_MAX);
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let state = watch::Sender::default();
        let counter = Arc::new(Counter::default());
        let talk = Talk { peer, state: state.subscribe(), held_since: Arc::default(), counter: Arc::clone(&counter) };
        let (held, held_now) = watch::channel(None);
        let (policy, policies) = watch::channel(self.config().stored);
        let (pause, paused) = watch::channel(false);
        let (stop, stops) = watch::channel(false);
        let dialer = Arc::clone(&self);
        let conversation = Conversation {
            source,
            ledger,
            dial: move || Arc::clone(&dialer).dial_for_stored(),
            policy: policies,
            commands: orders,
            reports,
            state,
            counter,
            paused,
            wanted: self.waiting.subscribe(),
            stop: stops,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(conversation.run());
        tasks.spawn(follow_policy(Arc::clone(&self), policy));
        tasks.spawn(follow_drain(self.drain.subscribe(), stop.clone()));
        tasks.spawn(follow(Arc::clone(&self), talk.clone(), held));
        let mut talks = self.talks.lock().unwrap_or_else(PoisonError::into_inner);
        talks.forget_ended();
        talks.open.push(talk);
        drop(talks);
        Ok(Station { book: inbox, messages, outcomes, commands, held: held_now, window, pause, stop, tasks })
    }

    /// Returns the conversations about stored messages that are open, and what all that there were have counted.
    pub fn talks(&self) -> (Vec<Talk>, Counts) {
        let mut talks = self.talks.lock().unwrap_or_else(PoisonError::into_inner);
        talks.forget_ended();
        let mut counts = talks.ended;
        talks.open.iter().for_each(|talk| counts.add(&talk.counter.counts()));
        (talks.open.clone(), counts)
    }

    /// Waits until no conversation about stored messages is open, after [`Service::retire`]. Cancel-safe.
    pub async fn talked_out(&self) {
        let talks = self.talks.lock().unwrap_or_else(PoisonError::into_inner).open.clone();
        for mut talk in talks {
            while talk.state.changed().await.is_ok() {}
        }
    }

    async fn dial_for_stored(self: Arc<Self>) -> Result<(Socket, Slot), &'static str> {
        let mut slot = self.slot().await.map_err(Cause::code)?;
        let is_down = |talk: &Talk| matches!(talk.state.borrow().receiver, Receiver::Down(_));
        let is_known_down = || self.talks.lock().unwrap_or_else(PoisonError::into_inner).open.iter().any(is_down);
        let socket = self.open(&mut slot, is_known_down).await.map_err(Cause::code)?;
        Ok((socket, slot))
    }
}

/// Hands over how the receiver is to be treated, whenever that changes.
async fn follow_policy(service: Arc<Service>, policy: watch::Sender<ReceiverPolicy>) {
    let mut config = service.config.subscribe();
    loop {
        let now = config.borrow_and_update().stored;
        policy.send_if_modified(|policy| std::mem::replace(policy, now) != now);
        if config.changed().await.is_err() {
            return;
        }
    }
}

/// Ends a conversation with its service.
async fn follow_drain(mut drain: watch::Receiver<bool>, stop: watch::Sender<bool>) {
    if drain.wait_for(|drain| *drain).await.is_ok() {
        stop.send_replace(true);
    }
}

/// Tells the link which message is held, and the service how its receiver is.
async fn follow(service: Arc<Service>, talk: Talk, held: watch::Sender<Option<Held>>) {
    let mut state = talk.state.clone();
    loop {
        let now = state.borrow_and_update().clone();
        let told = told(&now);
        if held.send_if_modified(|held| std::mem::replace(held, told.clone()) != told) {
            let told = told.filter(Held::awaits_decision);
            let since = told.is_some().then(SystemTime::now);
            let was = std::mem::replace(&mut *talk.held_since.lock().unwrap_or_else(PoisonError::into_inner), since);
            let (service, peer) = (service.config().name.clone(), &talk.peer);
            match &told {
                Some(Held { sequence, text, .. }) => {
                    tracing::warn!(%service, %peer, sequence, reason = %text, "a queue of the peer is held until its site decides");
                }
                None if was.is_some() => tracing::info!(%service, %peer, "the queue of the peer goes on"),
                None => {}
            }
        }
        match now.receiver {
            Receiver::Unknown => {}
            Receiver::Up => service.note(ReceiverState::Up),
            Receiver::Down(code) => service.note(ReceiverState::Down(Cause::from_code(code))),
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Is what the near site is told of the first message.
fn told(now: &DeliveryState) -> Option<Held> {
    if let Some(held) = now.held {
        let course::Held { sequence, reason, code, attempts, in_doubt, .. } = held;
        return Some(Held { sequence, reason: reason as u8, code, attempts, in_doubt, text: held.told() });
    }
    if now.ledger_failed.is_some() {
        let text =
            "the other site cannot write down what becomes of messages: its status and its log say why".to_owned();
        // Whichever is first.
        let (sequence, reason, code) = (Sequence::MAX, Held::UNWRITTEN, AckCode::Absent);
        return Some(Held { sequence, reason, code, attempts: 0, in_doubt: 0, text });
    }
    now.trying.map(|trying| {
        let course::Trying { sequence, code, attempts, in_doubt, .. } = trying;
        Held { sequence, reason: Held::TRYING, code, attempts, in_doubt, text: trying.told() }
    })
}

#[cfg(test)]
mod tests;
