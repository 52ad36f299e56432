//! Does what an operator asks of a queue: the spool does it, and the far site where a message may be there already.
//!
//! Never touches a message that was sent before the far site has given it up. Rules: design, delivery.md ("stored: between
//! the sites").

mod courier;
mod entries;

use std::time::Duration;

use super::destinations::Destinations;
use super::queue::{CONTENT_BYTES_MAX, Choice, ENTRIES_MAX, QueueAction, QueueAnswer, QueueEntry};
use crate::link::feed::supply::Bar;
use crate::link::feed::{Answer, CommandKind};
use crate::spool::queue::State;
use crate::spool::store::{self, Destination, Listed, Tail};
use crate::spool::{Divergence, FarView, Sequence, Spool, SpoolError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use courier::Courier;
use entries::{entry, named, with_attempts};
use tokio::time::timeout;

/// Bounds the wait for the report on a withdrawn message: it follows the answer on the same link, a commit behind it.
const REPORT_WITHIN: Duration = Duration::from_millis(500);

/// Is a queue, and the way to who delivers its messages.
pub struct Desk<'a> {
    /// Names the forward.
    pub forward: &'a str,
    /// Is the spool.
    pub spool: &'a Spool,
    /// Is who delivers.
    pub courier: Courier<'a>,
    /// Is where messages go by the configuration; none: nowhere.
    pub destination: Option<Destination>,
    /// Is where they go now: what was accepted for elsewhere waits.
    pub way: Option<Destination>,
    /// Names destinations.
    pub known: &'a Destinations,
}

/// Does what is asked, and says what came of it.
pub async fn operate(desk: &Desk<'_>, action: QueueAction, by: &str) -> QueueAnswer {
    let needs_way = matches!(
        action,
        QueueAction::Retry { .. }
            | QueueAction::Release { .. }
            | QueueAction::Reconcile { .. }
            | QueueAction::Pause
            | QueueAction::Resume
    );
    if needs_way && matches!(desk.courier, Courier::Nobody) {
        return QueueAnswer::Failed { cause: desk.no_way() };
    }
    let done = match action {
        QueueAction::List { from, max, state, all } => desk.list(from, max.min(ENTRIES_MAX), (state, all)).await,
        QueueAction::Show { sequence } => desk.show(sequence).await,
        QueueAction::Content { sequence, offset } => desk.content(sequence, offset, by).await,
        QueueAction::Retry { sequence } => desk.retry(sequence, by).await,
        QueueAction::Park { sequence } => desk.park(sequence, by).await,
        QueueAction::Release { sequence } => desk.release(sequence, by).await,
        QueueAction::Discard { sequence, reason } => desk.discard(sequence, &reason, by).await,
        QueueAction::Move { to: None, from } => desk.move_here(from.as_deref(), by).await,
        // Which way a queue takes is not the queue's to say.
        QueueAction::Move { to: Some(_), .. } => Err(desk.no_way()),
        QueueAction::Reconcile { choice } => desk.reconcile(choice, by).await,
        QueueAction::Forget { .. } => Err(desk.in_use()),
        QueueAction::Pause => desk.pause(true, by).await,
        QueueAction::Resume => desk.pause(false, by).await,
    };
    done.unwrap_or_else(|cause| QueueAnswer::Failed { cause })
}

/// Says what was done, or why not.
type Done = Result<QueueAnswer, String>;

fn said(said: impl Into<String>) -> Done {
    Ok(QueueAnswer::Done { said: said.into() })
}

fn failed(error: SpoolError) -> String {
    error.to_string()
}

/// Says what an operator may do about a message that is held.
pub fn decisions(forward: &str, sequence: Sequence) -> String {
    let others = decisions_without_retry(forward, sequence);
    format!("wardlink queue retry {forward} {sequence}, {others}")
}

/// Says it of a message that cannot be tried again as it is.
pub fn decisions_without_retry(forward: &str, sequence: Sequence) -> String {
    format!("park {forward} {sequence}, or discard {forward} {sequence} --reason TEXT")
}

impl Desk<'_> {
    async fn list(&self, from: Sequence, max: u32, (state, all): (Option<String>, bool)) -> Done {
        let state = match state {
            None => None,
            Some(word) => Some(named(&word).ok_or_else(|| format!("no message is ever {word}"))?),
        };
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let more = max.saturating_add(1);
        let listed = match state {
            None if !all => self.spool.list_held(from, more).await,
            state => self.spool.list(from, state, more).await,
        };
        let mut listed = listed.map_err(failed)?;
        let next = listed.get(max).map(|more| more.sequence);
        listed.truncate(max);
        Ok(QueueAnswer::Entries { entries: listed.iter().map(|listed| self.entry(listed)).collect(), next })
    }

    /// Says what is known of a message, also that it is held.
    fn entry(&self, listed: &Listed) -> QueueEntry {
        let destination = self.known.told(&listed.destination);
        let told = QueueEntry { destination, ..entry(listed, self.tail().damaged.as_ref()) };
        match self.courier.first().filter(|first| first.sequence == listed.sequence) {
            Some(first) => with_attempts(told, first, self.forward),
            None => told,
        }
    }

    /// Says why a message cannot be dealt with so, and what can be.
    fn refused(&self, error: SpoolError, only: &str) -> String {
        match error {
            SpoolError::NotAllowed { .. } => format!("{error}: {only}"),
            SpoolError::NotThere { .. } => {
                format!("{error}, or not any more: wardlink queue list {} shows those there are", self.forward)
            }
            other => failed(other),
        }
    }

    async fn show(&self, sequence: Sequence) -> Done {
        let listed = self.spool.show(sequence).await.map_err(|error| self.refused(error, ""))?;
        Ok(QueueAnswer::Entry { entry: self.entry(&listed) })
    }

    async fn content(&self, sequence: Sequence, offset: u64, by: &str) -> Done {
        let only = "its content is destroyed";
        let content = self.spool.payload(sequence, by).await.map_err(|error| self.refused(error, only))?;
        let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
        let part = rest.get(..CONTENT_BYTES_MAX).unwrap_or(rest);
        let total_bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Ok(QueueAnswer::Content { total_bytes, part: STANDARD.encode(part) })
    }

    /// Has the first message tried at once: one that is held, or that rests between two attempts.
    async fn retry(&self, wanted: Option<Sequence>, by: &str) -> Done {
        let (held, name) = (self.courier.held(), self.forward);
        let Tail { retired_through, depth, paused, first_for, .. } = self.tail();
        let first = match held {
            Some((held, _)) => held,
            None if depth == 0 => return Err("nothing waits: there is nothing to try again".to_owned()),
            None if first_for != self.way => {
                let sequence = retired_through.saturating_add(1);
                let to = first_for.map(|to| self.known.told(&to)).unwrap_or_default();
                return Err(format!("message {sequence} was accepted for {to}: see wardlink queue move {name}"));
            }
            None if paused => return Err(format!("{name} is paused: wardlink forward resume {name} lets it go on")),
            None => retired_through.saturating_add(1),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != first) {
            let why = format!("message {wanted} is not the one that the others wait for; that is message {first}");
            return Err(format!("{why}: wardlink queue retry {name} {first}"));
        }
        match self.courier.ask(CommandKind::Retry, first).await?.0 {
            Answer::Attempted => match self.spool.retried(first, by).await {
                Ok(()) => said(format!("message {first} is tried again")),
                Err(SpoolError::NotAllowed { state, .. }) => said(format!("message {first} is {state} by now")),
                Err(error) => Err(failed(error)),
            },
            Answer::Withdrawn | Answer::Unknown => {
                Err(format!("message {first} is not at the receiver's site now: see wardlink queue list {name}"))
            }
        }
    }

    async fn park(&self, sequence: Sequence, by: &str) -> Done {
        match self.spool.park(sequence, false, by).await {
            Err(SpoolError::Sent { .. }) if !self.can_ask(sequence).await => {
                self.spool.park_unasked(sequence, by).await.map_err(failed)?;
                return said(format!(
                    "message {sequence} is set aside; it may have been sent there before, and nobody here can ask: ask \
                     the receiver's people before you release it"
                ));
            }
            Err(SpoolError::Sent { .. }) => {
                let _bar = self.withdraw(sequence).await?;
                self.spool.park(sequence, true, by).await.map_err(failed)?;
            }
            done => done.map_err(|error| self.refused(error, "only one that is queued can be set aside"))?,
        }
        said(format!("message {sequence} is set aside; wardlink queue release {} {sequence} sends it", self.forward))
    }

    async fn discard(&self, sequence: Sequence, reason: &str, by: &str) -> Done {
        let before = self.spool.show(sequence).await;
        let is_copy = before.is_ok_and(|listed| listed.state == State::Delivered);
        match self.spool.discard(sequence, false, by, reason).await {
            Err(SpoolError::Sent { .. }) if !self.can_ask(sequence).await => {
                self.spool.discard_unasked(sequence, by, reason).await.map_err(failed)?;
                return said(format!(
                    "message {sequence} is given up; it may have been sent there before, and the receiver may have it"
                ));
            }
            Err(SpoolError::Sent { .. }) => {
                let _bar = self.withdraw(sequence).await?;
                self.spool.discard(sequence, true, by, reason).await.map_err(failed)?;
            }
            done => done.map_err(|error| {
                self.refused(
                    error,
                    "only one that is queued or parked can be given up, or the copy of one that is delivered",
                )
            })?,
        }
        said(match is_copy {
            true => format!("the copy of message {sequence}, which is delivered, is shredded"),
            false => format!("message {sequence} is given up"),
        })
    }

    /// Tells whether whoever delivers a message now is the one that it may have been sent to.
    async fn can_ask(&self, sequence: Sequence) -> bool {
        let listed = self.spool.show(sequence).await;
        listed.is_ok_and(|listed| self.way.as_ref() == Some(&listed.destination))
    }

    async fn release(&self, sequence: Sequence, by: &str) -> Done {
        let listed = self.spool.show(sequence).await.map_err(|error| self.refused(error, ""))?;
        if let Some(way) = self.way.as_ref().filter(|way| **way != listed.destination) {
            return Err(entries::is_for_elsewhere(&listed, way, self.forward, self.known));
        }
        let only = "only one that is parked, or delivered and still kept, can be queued again";
        let again = self.spool.release(sequence, by).await.map_err(|error| self.refused(error, only))?;
        said(format!("message {sequence} is queued again as {again}"))
    }

    async fn move_here(&self, from: Option<&str>, by: &str) -> Done {
        let Some(destination) = self.destination.clone() else { return Err(self.no_way()) };
        let held = self.spool.held_for().await.map_err(failed)?;
        let others: Vec<_> = held.into_iter().filter(|(to, _)| *to != destination).collect();
        let here = self.known.told(&destination);
        let from = match (from, others.as_slice()) {
            (Some(name), others) => self.known.find(name, others)?,
            (None, []) => return Err(format!("all that waits goes to {here} already")),
            (None, [(only, _)]) => only.clone(),
            (None, several) => {
                let several = self.known.listed(several);
                return Err(format!("which are to go to {here}? Say --from-destination and one of {several}"));
            }
        };
        let there = self.known.told(&from);
        let moved = self.spool.move_to(from, destination, by).await.map_err(failed)?;
        self.courier.begin_again();
        said(format!("{moved} messages that were accepted for {there} go to {here} now"))
    }

    fn no_way(&self) -> String {
        let name = self.forward;
        format!(
            "no stored forward is named {name} any more: name it again, or wardlink queue move {name} --to FORWARD sends \
             what waits on that one's way"
        )
    }

    fn in_use(&self) -> String {
        let name = self.forward;
        format!(
            "the queue of {name} is there and whole: discard or move what waits in it; only what is missing or \
                 damaged is forgotten"
        )
    }

    async fn pause(&self, is_paused: bool, by: &str) -> Done {
        self.spool.pause(is_paused, by).await.map_err(failed)?;
        let Tail { depth, .. } = self.tail();
        let name = self.forward;
        said(match is_paused {
            true => format!("{name} is paused with {depth} waiting; wardlink forward resume {name} ends it"),
            false => format!("{name} goes on with {depth} waiting"),
        })
    }

    /// Has the far site give a message up; what is returned keeps it from being sent meanwhile.
    async fn withdraw(&self, sequence: Sequence) -> Result<Option<Bar>, String> {
        let (answer, bar) = self.courier.ask(CommandKind::Withdraw, sequence).await?;
        match answer {
            Answer::Withdrawn => {
                self.is_reported(sequence).await;
                Ok(bar)
            }
            // It is not there, and cannot be sent any more.
            Answer::Unknown if self.tail().damaged.is_some_and(|damaged| damaged.sequence == sequence) => Ok(bar),
            Answer::Attempted => Err(format!(
                "message {sequence} was attempted already: what came of it will be told, wardlink queue show {} {sequence}",
                self.forward
            )),
            // It is not there, and cannot come while the bar lives.
            Answer::Unknown if bar.is_some() => Ok(bar),
            Answer::Unknown => Err(self.is_behind(sequence)),
        }
    }

    /// Says why a message that is read already cannot be taken out yet, and what to do.
    fn is_behind(&self, sequence: Sequence) -> String {
        let first = self.tail().retired_through.saturating_add(1);
        if first >= sequence {
            return format!("message {sequence} is on its way and not there yet: ask again in a moment");
        }
        let (held, name) = (self.courier.held(), self.forward);
        let why = match held.filter(|(held, _)| *held < sequence) {
            Some((held, why)) => format!("message {held}, which is held ({why}): {}", decisions(name, held)),
            None => format!("message {first}, which is being delivered: wait for its end, or park {name} {first}"),
        };
        format!("message {sequence} is next behind {why}; then ask again")
    }

    /// Waits until the far site has reported what became of a message that it has withdrawn: how often it was attempted
    /// belongs to what is decided about it. Of one that was not at the head there is no report yet.
    async fn is_reported(&self, sequence: Sequence) {
        let reported = async {
            let mut tail = self.spool.tail();
            loop {
                tail.borrow_and_update();
                let is_queued = self.spool.show(sequence).await.is_ok_and(|listed| listed.state == State::Queued);
                if !is_queued || tail.changed().await.is_err() {
                    return;
                }
            }
        };
        // What is reported later is kept with the message all the same.
        timeout(REPORT_WITHIN, reported).await.ok();
    }

    fn tail(&self) -> Tail {
        self.spool.tail().borrow().clone()
    }

    async fn reconcile(&self, choice: Option<Choice>, by: &str) -> Done {
        let Some((divergence, far)) = self.courier.divergence() else {
            return Err("the two sites agree, as far as they have spoken: there is nothing to reconcile".to_owned());
        };
        let choice = match choice {
            None => return said(self.stories(divergence, far)),
            Some(Choice::AcceptFar) => store::Choice::AcceptFar,
            Some(Choice::Resend) => store::Choice::Resend,
        };
        let done = self.spool.reconcile(choice, far, by).await.map_err(failed)?;
        self.courier.begin_again();
        said(format!(
            "reconciled: {} taken as delivered, {} set aside, {} queued",
            done.settled, done.parked, done.queued
        ))
    }

    /// Tells both sides' stories, and what each choice would do.
    fn stories(&self, divergence: Divergence, far: FarView) -> String {
        let Tail { last, retired_through, depth, .. } = self.tail();
        let far = match far {
            FarView::Fresh => "knows nothing of this queue".to_owned(),
            FarView::At { watermark, .. } => format!("has been through all messages up to {watermark}"),
        };
        let name = self.forward;
        format!(
            "{}\n\
             this site   has messages up to {last}, of which all up to {retired_through} are settled; {depth} wait\n\
             far site    {far}\n\n\
             wardlink queue reconcile {name} --accept-far\n    \
             believes the far site: what it says that it has is not sent, the rest is; where nobody can tell which\n    \
             messages it has, those from before this start are set aside (wardlink queue release sends them)\n\
             wardlink queue reconcile {name} --resend\n    \
             sends all {depth} that wait: the receiver may get messages a second time\n\
             a message that only the far site had is at the receiver, and in no list here: ask its sender",
            told(divergence)
        )
    }
}

/// Says how two sites differ.
pub fn told(divergence: Divergence) -> &'static str {
    match divergence {
        Divergence::FarAhead => "the far site is ahead of all that this one has: this one was restored from a backup",
        Divergence::UnknownEpoch => {
            "the far site names a start that this one never had: one was restored from a backup"
        }
        Divergence::OtherMessages => {
            "the same numbers are other messages at the far site: one was restored from a backup"
        }
    }
}

#[cfg(test)]
mod tests;
