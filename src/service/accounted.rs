//! What becomes of the stored messages of peers, for the account: recorded once it is written down.
//!
//! Never waits for the account, and changes nothing of what is written down.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Clerk, Event, Position, Record};
use crate::mllp::ack::AckCode;
use crate::spool::inbox::Inbox;
use crate::spool::{Attempt, Finished, ForwardId, Ledger, Outcome, SpoolError, Verdict};

/// The account is waited for so long, once, where it is not open yet: just after a start.
const OPENS_WITHIN: Duration = Duration::from_secs(2);
/// Is the pause between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Is the inbox of a forward, with who records what is written down there.
pub(super) struct Accounted {
    inbox: Arc<Inbox>,
    clerk: Option<(Clerk, Arc<str>)>,
}

impl Accounted {
    /// Records what is written down there and was not recorded: the process was killed between.
    pub(super) async fn new(inbox: Arc<Inbox>, clerk: Option<Clerk>, forward: ForwardId) -> Arc<Self> {
        let source: Arc<str> = Arc::from(source_of("inbox", &forward.0));
        if let Some(clerk) = &clerk
            && let Some(after) = position(clerk, &source).await
            && let Ok(outcomes) = inbox.outcomes_after(after).await
        {
            outcomes.iter().for_each(|outcome| record(clerk, &source, outcome));
        }
        Arc::new(Self { inbox, clerk: clerk.map(|clerk| (clerk, source)) })
    }
}

async fn position(clerk: &Clerk, source: &str) -> Option<u64> {
    let looks = OPENS_WITHIN.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        let position = clerk.account().position(source);
        if position.is_some() || clerk.account().facts().failed.is_some() {
            return position;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

impl Ledger for Accounted {
    async fn commit(&self, finished: Option<Finished>, attempting: Option<Attempt>) -> Result<(), SpoolError> {
        let outcome = finished.as_ref().map(|finished| Outcome { answer: Vec::new(), ..finished.outcome.clone() });
        self.inbox.commit(finished, attempting).await?;
        if let Some(((clerk, source), outcome)) = self.clerk.as_ref().zip(outcome) {
            record(clerk, source, &outcome);
        }
        Ok(())
    }

    fn is_gone(&self, error: &SpoolError) -> bool {
        self.inbox.is_gone(error)
    }

    async fn interrupted(&self) -> Result<Option<Attempt>, SpoolError> {
        self.inbox.interrupted().await
    }
}

fn record(clerk: &Clerk, source: &Arc<str>, outcome: &Outcome) {
    clerk.record(Record {
        at: outcome.at,
        sequence: outcome.sequence,
        code: Some(outcome.code).filter(|code| *code != AckCode::Absent),
        attempts: outcome.attempts,
        in_doubt: outcome.in_doubt,
        position: Some(Position { source: Arc::clone(source), through: outcome.sequence }),
        ..clerk.now(settled(outcome.verdict))
    });
}

/// Says what an outcome is in the words of the log.
pub fn settled(verdict: Verdict) -> Event {
    match verdict {
        Verdict::Delivered | Verdict::DeliveredBefore => Event::Delivered,
        Verdict::Rejected | Verdict::Failed => Event::Rejected,
        Verdict::Withdrawn => Event::Withdrawn,
    }
}

/// Names where something is written as well: a spool, an inbox.
pub fn source_of(kind: &str, id: &[u8; 16]) -> String {
    let hex: String = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}:{hex}")
}
