//! What becomes of the stored messages of peers, for the account: recorded once it is written down.
//!
//! Never waits for the account, and changes nothing of what is written down.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Clerk, Event, Position, Record};
use crate::mllp::ack::AckCode;
use crate::spool::inbox::Inbox;
use crate::spool::{Attempt, FarView, Finished, ForwardId, Ledger, Outcome, SpoolError, Verdict};

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
            let first = match outcomes.first() {
                Some(outcome) => Some(outcome.sequence),
                None => watermark(&inbox).await.map(|watermark| watermark.saturating_add(1)),
            };
            // What the near site had settled was removed before it could be recorded.
            let missing = first.map_or(0, |first| first.saturating_sub(after.saturating_add(1)));
            if after > 0 && missing > 0 {
                let detail = "what became of these messages was written down, and removed before it was recorded here: \
                              the other site's account has it";
                let position = Some(Position { source: Arc::clone(&source), through: after + missing });
                let record = Record { count: missing, detail: detail.to_owned(), position, ..clerk.now(Event::Lost) };
                clerk.record(record);
            }
            outcomes.iter().for_each(|outcome| record(clerk, &source, outcome));
        }
        Arc::new(Self { inbox, clerk: clerk.map(|clerk| (clerk, source)) })
    }
}

async fn watermark(inbox: &Inbox) -> Option<u64> {
    match inbox.view().await {
        Ok(FarView::At { watermark, .. }) => Some(watermark),
        Ok(FarView::Fresh) | Err(_) => None,
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::audit::read::{entries, segments};
    use crate::audit::{Account, AuditError, Limits, Subject};
    use crate::spool::{Digest, Epoch};

    const LIMITS: Limits = Limits { keep: Duration::from_secs(86_400), bytes_max: 1 << 30, segment_bytes: None };
    const FORWARD: ForwardId = ForwardId([7; 16]);

    fn finished(sequence: u64) -> Finished {
        let (verdict, code, at) = (Verdict::Delivered, AckCode::ApplicationAccept, UNIX_EPOCH);
        let outcome = Outcome { sequence, verdict, code, attempts: 1, in_doubt: 0, answer: Vec::new(), at };
        Finished { outcome, epoch: Epoch([1; 16]), digest: Digest([2; 32]) }
    }

    #[tokio::test]
    async fn nothing_is_recorded_twice_when_an_inbox_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(dir.path(), "north", FORWARD, None).unwrap();
        let log = dir.path().join("audit");
        let account = Account::start(&log, "south", LIMITS);
        for sequence in 1..=3 {
            let clerk = account.clerk(Subject { service: Some(format!("s{sequence}").into()), ..Subject::default() });
            let accounted = Accounted::new(Arc::clone(&inbox), Some(clerk), FORWARD).await;
            accounted.commit(Some(finished(sequence)), None).await.unwrap();
        }
        account.stop();
        let mut recorded = Vec::new();
        entries(&segments(&log).unwrap(), |entry, _| {
            recorded.extend(entry.sequence.zip(entry.service));
            Ok::<(), AuditError>(())
        })
        .unwrap();
        assert_eq!(recorded, [1, 2, 3].map(|sequence| (sequence, format!("s{sequence}"))));
    }

    #[tokio::test]
    async fn what_was_settled_before_it_was_recorded_is_said_to_be_missing() {
        for (settled, lost, delivered) in [(3, 2, vec![4, 5]), (5, 4, vec![]), (1, 0, vec![2, 3, 4, 5])] {
            let dir = tempfile::tempdir().unwrap();
            let inbox = Inbox::open(dir.path(), "north", FORWARD, None).unwrap();
            for sequence in 1..=5 {
                inbox.commit(Some(finished(sequence)), None).await.unwrap();
            }
            let log = dir.path().join("audit");
            let source: Arc<str> = Arc::from(source_of("inbox", &FORWARD.0));
            let account = Account::start(&log, "south", LIMITS);
            record(&account.clerk(Subject::default()), &source, &finished(1).outcome);
            account.stop();
            inbox.prune(settled).await.unwrap();
            let account = Account::start(&log, "south", LIMITS);
            Accounted::new(inbox, Some(account.clerk(Subject::default())), FORWARD).await;
            account.stop();
            let (mut counted, mut sequences) = (0, Vec::new());
            entries(&segments(&log).unwrap(), |entry, _| {
                counted += entry.count.filter(|_| entry.event == "lost").unwrap_or_default();
                sequences.extend(entry.sequence);
                Ok::<(), AuditError>(())
            })
            .unwrap();
            assert_eq!((counted, sequences), (lost, [vec![1], delivered].concat()), "{settled}");
        }
    }
}
