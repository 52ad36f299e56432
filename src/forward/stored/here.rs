//! Delivers the stored messages of a forward whose peer runs plain WireGuard: this site converses with the receiver.
//!
//! At least once, one at a time: there is nobody between the two sites who would know what arrived. It decides nothing;
//! `spool::delivery` does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::store::{Opened, Store};
use crate::config::{Name, ReceiverPolicy};
use crate::link::inside::Inside;
use crate::link::wire::{Cause, ReceiverState};
use crate::spool::Spool;
use crate::spool::delivery::course::Receiver;
use crate::spool::delivery::{Command, Conversation, Counter, Counts, Delivery, DeliveryState};
use crate::spool::store::Destination;
use crate::tls::Socket;

/// Messages that are read ahead of the receiver: the next one is there when the last is through.
const READ_MESSAGES: usize = 64;
/// The same in bytes; one message may exceed it alone.
const READ_BYTES: usize = 1 << 20;
/// Messages between the reader and the conversation.
const SOURCE_MAX: usize = 1;
/// Commands of operators on their way to the conversation.
const COMMANDS_MAX: usize = 16;
/// Outcomes of the conversation: the spool has them already.
const REPORTS_MAX: usize = 16;
/// A connection attempt inside the tunnel that takes longer is begun anew.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Unacknowledged bytes to a receiver end its connection after so long: it is gone, or the tunnel is.
const RECEIVER_TIMEOUT: Duration = Duration::from_secs(120);
/// A spool that could not be read is read again after so long.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Is the delivery of a forward by this site.
pub struct Here {
    to: SocketAddr,
    peer: Name,
    destination: Destination,
    inside: Inside,
    store: Arc<Store>,
    policy: watch::Sender<ReceiverPolicy>,
    state: watch::Sender<DeliveryState>,
    receiver: Mutex<(ReceiverState, SystemTime)>,
    counter: Arc<Counter>,
    commands: Mutex<mpsc::Sender<Command>>,
    stop: watch::Sender<bool>,
}

impl Here {
    /// Makes it; [`Here::run`] delivers.
    ///
    /// `destination`: the same address as messages are accepted for it.
    pub fn new(
        (to, destination): (SocketAddr, Destination),
        peer: Name,
        inside: Inside,
        store: Arc<Store>,
        policy: ReceiverPolicy,
    ) -> Arc<Self> {
        Arc::new(Self {
            to,
            peer,
            destination,
            inside,
            store,
            policy: watch::Sender::new(policy),
            state: watch::Sender::default(),
            receiver: Mutex::new((ReceiverState::Unknown, SystemTime::now())),
            counter: Arc::default(),
            commands: Mutex::new(mpsc::channel(1).0),
            stop: watch::Sender::new(false),
        })
    }

    /// Tells whether it delivers to this address of this peer.
    pub fn leads_to(&self, to: &Destination, peer: &Name) -> bool {
        self.destination == *to && self.peer == *peer
    }

    /// Says where it delivers.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Tells what is known of the receiver, and since when.
    pub fn receiver(&self) -> (ReceiverState, SystemTime) {
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the conversation is.
    pub fn state(&self) -> watch::Receiver<DeliveryState> {
        self.state.subscribe()
    }

    /// Takes what operators want.
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what was counted.
    pub fn counts(&self) -> Counts {
        self.counter.counts()
    }

    /// Treats the receiver so from now on.
    pub fn set_policy(&self, policy: ReceiverPolicy) {
        self.policy.send_if_modified(|now| std::mem::replace(now, policy) != policy);
    }

    /// Begins no attempt any more; [`Here::run`] returns after the end of the one that is under way.
    pub fn retire(&self) {
        self.stop.send_replace(true);
    }

    /// Delivers until it is retired.
    pub async fn run(self: Arc<Self>) {
        let (mut opened, mut stop) = (self.store.follow_opened(), self.stop.subscribe());
        loop {
            let now = opened.borrow_and_update().clone();
            let Opened::Open(spool) = now else {
                tokio::select! {
                    changed = opened.changed() => if changed.is_err() { return },
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                continue;
            };
            tokio::select! {
                () = Arc::clone(&self).converse(spool) => return,
                // It is closed, or opened anew: what was under way is in doubt.
                _ = opened.changed() => {}
            }
        }
    }

    async fn converse(self: Arc<Self>, spool: Arc<Spool>) {
        // Where it fails the spool says why, and what was handed out before counts as sent.
        spool.hand_anew(&self.destination).await.ok();
        let (messages, source) = mpsc::channel(SOURCE_MAX);
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = commands;
        let (pause, paused) = watch::channel(false);
        let dialer = Arc::clone(&self);
        let conversation = Conversation {
            source,
            ledger: Arc::clone(&spool),
            dial: move || Arc::clone(&dialer).dial(),
            policy: self.policy.subscribe(),
            commands: orders,
            reports,
            state: self.state.clone(),
            counter: Arc::clone(&self.counter),
            paused,
            wanted: watch::channel(0).1, // nobody else's place is taken
            stop: self.stop.subscribe(),
        };
        let report = async {
            while reported.recv().await.is_some() {
                self.store.note_settled();
            }
        };
        tokio::select! {
            () = conversation.run() => {}
            () = read_on(&spool, &self.destination, messages) => {}
            () = report => {}
            () = self.follow() => {}
            () = follow_pause(&spool, pause) => {}
        }
    }

    /// Notes how the receiver is, as the conversation tells.
    async fn follow(&self) {
        let mut state = self.state.subscribe();
        loop {
            let told = match state.borrow_and_update().receiver {
                Receiver::Unknown => ReceiverState::Unknown,
                Receiver::Up => ReceiverState::Up,
                Receiver::Down(code) => ReceiverState::Down(Cause::from_code(code)),
            };
            self.note_receiver(told);
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    fn note_receiver(&self, told: ReceiverState) {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        if receiver.0 != told {
            if let ReceiverState::Down(cause @ Cause::AnswersCommits) = told {
                tracing::warn!(peer = %self.peer, target = %self.to, %cause, "receiver is down");
            }
            *receiver = (told, SystemTime::now());
        }
    }

    async fn dial(self: Arc<Self>) -> Result<(Socket, JoinSet<()>), &'static str> {
        let connect = tokio::time::timeout(CONNECT_WITHIN, self.inside.connect(self.to, RECEIVER_TIMEOUT)).await;
        let tcp = match connect {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Err(Cause::ReceiverRefuses.code());
            }
            Ok(Err(_)) => return Err(Cause::ReceiverUnreachable.code()),
            Err(_) => return Err(Cause::ReceiverSilent.code()),
        };
        let owners = self.inside.owners();
        let tie = owners.tie(&tcp, self.to.ip(), &self.peer).ok_or(Cause::ReceiverUnreachable.code())?;
        let mut watch = JoinSet::new();
        watch.spawn(tie.cut_off());
        Ok((Socket::plain(tcp), watch))
    }
}

/// Has the conversation pause as the forward does.
async fn follow_pause(spool: &Spool, pause: watch::Sender<bool>) {
    let mut tail = spool.tail();
    loop {
        let is_paused = tail.borrow_and_update().paused;
        pause.send_if_modified(|was| std::mem::replace(was, is_paused) != is_paused);
        if tail.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Hands queued messages to the conversation, in order, up to the first that was accepted for elsewhere.
async fn read_on(spool: &Spool, to: &Destination, messages: mpsc::Sender<Delivery>) {
    let mut tail = spool.tail();
    let mut next = tail.borrow_and_update().retired_through.saturating_add(1);
    let mut told = None;
    loop {
        let found = match spool.read_for(to, next, READ_MESSAGES, READ_BYTES).await {
            Ok(found) => found,
            Err(error) => {
                let why = Some(error.to_string());
                if told != why {
                    tracing::warn!(%error, "cannot read the queue");
                }
                told = why;
                tokio::time::sleep(READ_AGAIN).await;
                continue;
            }
        };
        told = None;
        if found.is_empty() && tail.changed().await.is_err() {
            return std::future::pending().await;
        }
        for message in found {
            next = message.sequence.saturating_add(1);
            let (sequence, epoch, digest) = (message.sequence, message.epoch, message.digest);
            let delivery = Delivery { sequence, epoch, digest, in_doubt: false, payload: message.payload };
            if messages.send(delivery).await.is_err() {
                return std::future::pending().await;
            }
        }
        tail.borrow_and_update();
    }
}
