//! Does what an operator asks of a queue: the spool does it, and the far site where a message may be there already.
//!
//! Never touches a message that was sent before the far site has given it up. Rules: design, delivery.md ("stored: between
//! the sites").

mod courier;

use std::time::{Duration, SystemTime};

use super::queue::{CONTENT_BYTES_MAX, Choice, ENTRIES_MAX, QueueAction, QueueAnswer, QueueEntry};
use crate::link::feed::supply::Bar;
use crate::link::feed::{Answer, CommandKind};
use crate::spool::queue::State;
use crate::spool::store::{self, DamagedMessage, Destination, Listed, Tail};
use crate::spool::{Divergence, FarView, Sequence, Spool, SpoolError, Verdict};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use courier::Courier;
use tokio::time::timeout;

/// Is the last time that RFC 3339 can write, 9999-12-31T23:59:59Z, since 1970.
const RFC3339_MAX: Duration = Duration::from_secs(253_402_300_799);
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
        QueueAction::List { from, max, state } => desk.list(from, max.min(ENTRIES_MAX), state).await,
        QueueAction::Show { sequence } => desk.show(sequence).await,
        QueueAction::Content { sequence, offset } => desk.content(sequence, offset, by).await,
        QueueAction::Retry { sequence } => desk.retry(sequence, by).await,
        QueueAction::Park { sequence } => desk.park(sequence, by).await,
        QueueAction::Release { sequence } => desk.release(sequence, by).await,
        QueueAction::Discard { sequence, reason } => desk.discard(sequence, &reason, by).await,
        QueueAction::Move { to: None } => desk.move_here(by).await,
        QueueAction::Move { to: Some(_) } => Err(desk.has_a_way()),
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
    async fn list(&self, from: Sequence, max: u32, state: Option<String>) -> Done {
        let state = match state {
            None => None,
            Some(word) => Some(named(&word).ok_or_else(|| format!("no message is ever {word}"))?),
        };
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let mut listed = self.spool.list(from, state, max.saturating_add(1)).await.map_err(failed)?;
        let next = listed.get(max).map(|more| more.sequence);
        listed.truncate(max);
        Ok(QueueAnswer::Entries { entries: listed.iter().map(|listed| self.entry(listed)).collect(), next })
    }

    /// Says what is known of a message, also that it is held.
    fn entry(&self, listed: &Listed) -> QueueEntry {
        let held = self.courier.held().filter(|(sequence, _)| *sequence == listed.sequence);
        let told = |(sequence, why)| format!("{why}; {}", decisions(self.forward, sequence));
        QueueEntry { held: held.map(told), ..entry(listed, self.tail().damaged.as_ref()) }
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
        let Tail { retired_through, depth, paused, stranded, .. } = self.tail();
        let first = match held {
            Some((held, _)) => held,
            None if depth == 0 => return Err("nothing waits: there is nothing to try again".to_owned()),
            None if stranded > 0 => {
                return Err(format!(
                    "{stranded} messages wait for another destination: see wardlink queue move {name}"
                ));
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
            Err(SpoolError::Sent { .. }) if matches!(self.courier, Courier::Nobody) => {
                self.spool.discard(sequence, true, by, reason).await.map_err(failed)?;
                return said(format!("message {sequence} is given up; it was sent, and the far site may deliver it"));
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

    async fn release(&self, sequence: Sequence, by: &str) -> Done {
        let only = "only one that is parked, or delivered and still kept, can be queued again";
        let again = self.spool.release(sequence, by).await.map_err(|error| self.refused(error, only))?;
        said(format!("message {sequence} is queued again as {again}"))
    }

    async fn move_here(&self, by: &str) -> Done {
        let Some(destination) = self.destination.clone() else { return Err(self.no_way()) };
        let moved = self.spool.move_to(destination.clone(), by).await.map_err(failed)?;
        self.courier.begin_again();
        said(format!("{moved} messages go to {} now", destination.target))
    }

    fn has_a_way(&self) -> String {
        let name = self.forward;
        format!("{name} is a forward with a way of its own: --to is for queues whose forward is not named any more")
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
            Answer::Unknown => {
                Err(format!("message {sequence} is on its way and not there yet: ask again in a moment"))
            }
        }
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

fn named(word: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| state.name() == word)
}

fn entry(listed: &Listed, damaged: Option<&DamagedMessage>) -> QueueEntry {
    let outcome = listed.outcome.as_ref();
    let damaged = damaged.filter(|damaged| damaged.sequence == listed.sequence).map(|damaged| &damaged.damage);
    let damaged = damaged.or(listed.fault.as_ref());
    QueueEntry {
        sequence: listed.sequence,
        state: listed.state.name().to_owned(),
        accepted: time(listed.accepted),
        bytes: listed.bytes,
        target: listed.target.clone(),
        sent: listed.may_be_sent,
        damaged: damaged.map(ToString::to_string),
        settled: listed.settled.map(time),
        verdict: outcome.and_then(|outcome| outcome.verdict).map(|verdict| what_became(verdict).to_owned()),
        code: outcome.and_then(|outcome| outcome.code).map(|code| code.code().to_owned()),
        attempts: outcome.map_or(0, |outcome| outcome.attempts),
        in_doubt: outcome.map_or(0, |outcome| outcome.in_doubt),
        held: None,
    }
}

fn what_became(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Rejected => "rejected by the receiver",
        Verdict::Failed => "failed at the receiver",
        Verdict::Withdrawn => "withdrawn by an operator",
        Verdict::DeliveredBefore => "delivered, before the far site's state was lost",
    }
}

/// Writes a time as RFC 3339 in UTC; what that cannot write becomes the nearest end.
fn time(time: SystemTime) -> String {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(RFC3339_MAX);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970).to_string()
}

#[cfg(test)]
mod tests;
