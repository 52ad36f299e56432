//! Who delivers the messages of a queue, and what an operator asks of it: the far site, or this one.
//!
//! Never waits longer than [`WORD_WITHIN`].

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::link::feed::supply::Bar;
use crate::link::feed::{Answer, CommandKind, Held};
use crate::link::outbound::Outbound;
use crate::link::wire::Cause;
use crate::mllp::ack::AckCode;
use crate::spool::delivery::course::{self, Order, Reply};
use crate::spool::delivery::{Command, DeliveryState};
use crate::spool::{Divergence, FarView, Sequence};

/// Bounds the wait for word on a message: of one that is being attempted it comes after the receiver's answer.
pub(super) const WORD_WITHIN: Duration = Duration::from_secs(45);

/// Says who delivers the messages of a queue.
pub enum Courier<'a> {
    /// The far site.
    Far(&'a Outbound),
    /// This site, to a receiver that it reaches by its address.
    Here {
        /// Takes orders.
        commands: &'a mpsc::Sender<Command>,
        /// Tells how the conversation with the receiver is.
        state: &'a watch::Receiver<DeliveryState>,
    },
    /// Nobody: no forward has the queue any more.
    Nobody,
}

/// Is what is known of the message that all others wait for.
pub(super) struct First {
    pub(super) sequence: Sequence,
    /// Says that an operator is to decide; else it is tried again.
    pub(super) is_held: bool,
    pub(super) why: String,
    pub(super) code: AckCode,
    pub(super) attempts: u32,
    pub(super) in_doubt: u32,
}

impl Courier<'_> {
    /// Returns the message that is held, and why.
    pub(super) fn held(&self) -> Option<(Sequence, String)> {
        let first = self.first().filter(|first| first.is_held)?;
        Some((first.sequence, first.why))
    }

    /// Tells of the first message that it is held, or that the receiver fails on it again and again.
    pub(super) fn first(&self) -> Option<First> {
        match self {
            Self::Far(link) => {
                let Held { sequence, reason, code, attempts, in_doubt, text } = link.supply()?.state().held?;
                let is_held = reason < Held::TRYING;
                let is_about_it = is_held || reason == Held::TRYING;
                is_about_it.then_some(First { sequence, is_held, why: text, code, attempts, in_doubt })
            }
            Self::Here { state, .. } => {
                let (held, trying) = (state.borrow().held, state.borrow().trying);
                let held = held.map(|held| {
                    let course::Held { sequence, code, attempts, in_doubt, .. } = held;
                    First { sequence, is_held: true, why: held.told(), code, attempts, in_doubt }
                });
                held.or_else(|| {
                    let course::Trying { sequence, code, attempts, in_doubt, .. } = trying?;
                    Some(First { sequence, is_held: false, why: trying?.told(), code, attempts, in_doubt })
                })
            }
            Self::Nobody => None,
        }
    }

    /// Says how the two sites differ, and how far the far one says that it came.
    pub(super) fn divergence(&self) -> Option<(Divergence, FarView)> {
        match self {
            Self::Far(link) => {
                let state = link.supply()?.state();
                state.diverged.zip(state.far)
            }
            Self::Here { .. } | Self::Nobody => None,
        }
    }

    /// Has the two sites compare their stories anew.
    pub(super) fn begin_again(&self) {
        match self {
            Self::Far(link) => link.begin_again(),
            Self::Here { .. } | Self::Nobody => {}
        }
    }

    /// Asks something of a message that may be sent. For as long as there is a bar and it lives, the message is not sent.
    pub(super) async fn ask(&self, kind: CommandKind, sequence: Sequence) -> Result<(Answer, Option<Bar>), String> {
        match timeout(WORD_WITHIN, self.asked(kind, sequence)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "there is no word on message {sequence} after {} s: look at it again",
                WORD_WITHIN.as_secs()
            )),
        }
    }

    async fn asked(&self, kind: CommandKind, sequence: Sequence) -> Result<(Answer, Option<Bar>), String> {
        match self {
            Self::Far(link) => {
                let supply = link.supply().ok_or("the forward's link carries no stored messages")?;
                if kind == CommandKind::Retry && supply.state().diverged.is_some() {
                    return Err(format!(
                        "message {sequence} waits because the two sites diverged: wardlink queue reconcile"
                    ));
                }
                let answered = match kind {
                    CommandKind::Retry => supply.retry(sequence).await.map(|answer| (answer, None)),
                    CommandKind::Withdraw => supply.withdraw(sequence).await.map(|(answer, bar)| (answer, Some(bar))),
                };
                answered.map_err(|cause| match cause {
                    Cause::LinkDown if kind == CommandKind::Retry => {
                        format!("the link to the far site is down: message {sequence} goes on as soon as it is up")
                    }
                    Cause::LinkDown => format!(
                        "message {sequence} may be at the far site, and the link to it is down: nothing was changed, ask \
                         again when it is up"
                    ),
                    cause => format!("the far site was not asked about message {sequence}: {cause}"),
                })
            }
            Self::Nobody => Err(format!("no forward is there any more to ask about message {sequence}")),
            Self::Here { commands, .. } => {
                let order = match kind {
                    CommandKind::Retry => Order::Retry,
                    CommandKind::Withdraw => Order::Withdraw,
                };
                let ended = |_| "the delivery to the receiver has ended: nothing was changed".to_owned();
                let (reply, answered) = oneshot::channel();
                commands.send(Command { order, sequence, reply }).await.map_err(|_| ended(()))?;
                let answer = match answered.await.map_err(|_| ended(()))? {
                    Reply::Withdrawn => Answer::Withdrawn,
                    Reply::Attempted => Answer::Attempted,
                    Reply::Unknown => Answer::Unknown,
                };
                Ok((answer, None))
            }
        }
    }
}
