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
use crate::spool::delivery::course::{Order, Reply};
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

impl Courier<'_> {
    /// Returns the message that is held, and why.
    pub(super) fn held(&self) -> Option<(Sequence, String)> {
        match self {
            Self::Far(link) => {
                let held = link.supply().and_then(|supply| supply.state().held).filter(Held::awaits_decision);
                held.map(|held| (held.sequence, held.text))
            }
            Self::Here { state, .. } => state.borrow().held.map(|held| (held.sequence, held.reason.told(held.code))),
            Self::Nobody => None,
        }
    }

    /// Returns the message on which the receiver fails again and again, and how.
    pub(super) fn trying(&self) -> Option<(Sequence, String)> {
        match self {
            Self::Far(link) => {
                let held = link.supply().and_then(|supply| supply.state().held);
                held.filter(|held| held.reason == Held::TRYING).map(|held| (held.sequence, held.text))
            }
            Self::Here { state, .. } => state.borrow().trying.map(|trying| (trying.sequence, trying.told())),
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
