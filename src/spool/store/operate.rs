//! What operators do with a spool: look, set aside, release, discard, pause.
//!
//! Never does so without a note in the outbox, in the same transaction. What may be at the far site is not touched
//! before it was withdrawn there.

use rusqlite::params;

use super::core::{Core, now, time_of};
use super::database::{self, stored};
use super::messages::{Content, Message, NO_DESTINATION, select_messages};
use super::outbox::{Ending, Entry, Happening};
use super::tags::CHANGED_ROW;
use super::{DamagedMessage, Destination, Listed};
use crate::mllp::ack::AckCode;
use crate::spool::queue::{Event, State};
use crate::spool::{Damage, Digest, Outcome, Sequence, SpoolError, Verdict};

impl Core {
    /// Lists messages that wait or are parked, from `from` on.
    pub(super) fn list_held(&mut self, from: Sequence, messages_max: usize) -> Result<Vec<Listed>, SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = select_messages!("sequence >= ?1 AND state IN (0, 2) ORDER BY sequence LIMIT ?2");
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let limit = i64::try_from(messages_max).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![stored(from), limit], Message::read).map_err(failed)?;
        let messages: Vec<Message> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        drop(statement);
        messages.iter().map(|message| self.listed(message)).collect()
    }

    /// Lists messages of one state or all, from `from` on.
    pub(super) fn list(
        &mut self,
        from: Sequence,
        state: Option<State>,
        messages_max: usize,
    ) -> Result<Vec<Listed>, SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = select_messages!("sequence >= ?1 AND (?2 IS NULL OR state = ?2) ORDER BY sequence LIMIT ?3");
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let limit = i64::try_from(messages_max).unwrap_or(i64::MAX);
        let values = params![stored(from), state.map(State::code), limit];
        let rows = statement.query_map(values, Message::read).map_err(failed)?;
        let messages: Vec<Message> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        drop(statement);
        messages.iter().map(|message| self.listed(message)).collect()
    }

    /// Describes one message.
    pub(super) fn show(&mut self, sequence: Sequence) -> Result<Listed, SpoolError> {
        let message = self.message(sequence)?;
        self.listed(&message)
    }

    fn listed(&mut self, message: &Message) -> Result<Listed, SpoolError> {
        // Every number of a destination was sealed with it; one that was changed is damage when the content is opened.
        let unknown = || Destination { peer_key: [0; 32], target: String::new() };
        let destination = self.destination_of(message).cloned().unwrap_or_else(unknown);
        let (outcome, row_fault) = match self.find_outcome(message)? {
            Some(Err(damage)) => (None, Some(damage)),
            outcome => (outcome.and_then(Result::ok), None),
        };
        let row_fault = if self.is_whole(message) { row_fault } else { Some(CHANGED_ROW) };
        if let Some(damage) = &row_fault {
            self.tell_changed("message", message.sequence, damage);
        }
        let lacks_destination = self.lacks_destination(message);
        let fault = match self.day_sealer(message.day) {
            _ if row_fault.is_some() => row_fault,
            _ if !message.state.has_content() => None,
            _ if lacks_destination => Some(NO_DESTINATION),
            Ok(None) => Some(Damage::Missing("key of a day")),
            Err(SpoolError::Damaged { damage, .. }) if damage != Damage::Database => Some(damage),
            Err(error) => return Err(error),
            Ok(Some(_)) if message.state == State::Delivered && outcome.is_none() => Some(Damage::Missing("outcome")),
            Ok(Some(_)) => None,
        };
        Ok(Listed {
            sequence: message.sequence,
            state: message.state,
            bytes: message.bytes,
            accepted: (fault != Some(CHANGED_ROW)).then(|| time_of(message.accepted)),
            settled: (message.settled > 0 && fault != Some(CHANGED_ROW)).then(|| time_of(message.settled)),
            destination,
            may_be_sent: self.may_be_sent(message) || self.is_attempted(message),
            outcome,
            fault,
            decisions: self.decisions(message)?,
        })
    }

    /// Opens the content of a message for an operator, and notes that.
    pub(super) fn view(&mut self, sequence: Sequence, by: &str) -> Result<Content, SpoolError> {
        let message = self.message(sequence)?;
        let content = self.content(&message)?;
        self.note(&Entry { bytes: message.bytes, ..Entry::by(by, "", Happening::Viewed, sequence) }, now())?;
        Ok(content)
    }

    /// Sets a queued message aside.
    pub(super) fn park(&mut self, sequence: Sequence, is_withdrawn: bool, by: &str) -> Result<(), SpoolError> {
        self.decide(sequence, Event::Park, is_withdrawn, (by, ""))
    }

    /// Gives a message up.
    pub(super) fn discard(
        &mut self,
        sequence: Sequence,
        is_withdrawn: bool,
        by: &str,
        reason: &str,
    ) -> Result<(), SpoolError> {
        self.decide(sequence, Event::Discard, is_withdrawn, (by, reason))
    }

    /// Does as `event` says with a message that nobody can be asked about: where it may have been sent, that the receiver
    /// may have it is kept with it.
    pub(super) fn decide_unasked(
        &mut self,
        sequence: Sequence,
        event: Event,
        (by, reason): (&str, &str),
    ) -> Result<(), SpoolError> {
        let message = self.message(sequence)?;
        let is_known = self.live.head.attempting.is_some_and(|attempt| attempt.sequence == sequence);
        if self.may_be_sent(&message) && !is_known && self.outcome(&message)?.is_none() {
            let (verdict, code, at) = (Verdict::Withdrawn, AckCode::Absent, time_of(now()));
            self.keep_outcome(
                &message,
                &Outcome { sequence, verdict, code, attempts: 1, in_doubt: 1, answer: Vec::new(), at },
            )?;
        }
        self.decide(sequence, event, true, (by, reason))
    }

    fn decide(
        &mut self,
        sequence: Sequence,
        event: Event,
        is_withdrawn: bool,
        (by, reason): (&str, &str),
    ) -> Result<(), SpoolError> {
        let message = self.message(sequence)?;
        if self.may_be_sent(&message) && !is_withdrawn {
            return Err(SpoolError::Sent { sequence });
        }
        self.keep_attempts(&message)?;
        let ended = self.outcome(&message)?.and_then(|outcome| Ending::of(&outcome));
        let is_parked_so = message.state == State::Parked
            && is_withdrawn
            && ended.is_some_and(|ended| ended.verdict == Verdict::Withdrawn);
        let damage = self.damaged.as_ref().filter(|damaged| damaged.sequence == sequence);
        let reason = match damage {
            Some(damaged) if reason.is_empty() => format!("it is damaged: {}", damaged.damage),
            Some(damaged) => format!("{reason} (it is damaged: {})", damaged.damage),
            None => reason.to_owned(),
        };
        if matches!(damage, Some(DamagedMessage { damage: Damage::Unlinked(_), .. })) {
            self.link_again(&message)?;
        }
        match message.state.handle_event(event) {
            Some(state) => self.change_state(&message, state, now())?,
            // The report that it was withdrawn came first.
            None if event == Event::Park && is_parked_so => {}
            None => return Err(SpoolError::NotAllowed { sequence, state: message.state.name() }),
        }
        let happening = if event == Event::Park { Happening::Parked } else { Happening::Discarded };
        let entry = Entry { bytes: message.bytes, ended, ..Entry::by(by, &reason, happening, sequence) };
        self.note(&entry, now())?;
        self.advance_past(sequence)
    }

    /// Puts right the digest of a message that is taken out of the way, where what follows says that it is this one that
    /// was changed: what is behind it then follows from it again.
    fn link_again(&mut self, message: &Message) -> Result<(), SpoolError> {
        let Some(base) = self.digest_at(message.sequence.saturating_sub(1))? else { return Ok(()) };
        let Some(digest) = self.digest_from(&base, message)? else { return Ok(()) };
        let next = message.sequence + 1;
        let is_this = if message.sequence == self.live.head.last {
            digest == self.live.head.digest
        } else {
            match self.find_message(next)? {
                Some(next) => self.digest_from(&digest, &next)? == Some(Digest(next.digest)),
                None => false,
            }
        };
        if is_this {
            let sql = "UPDATE messages SET digest = ?2 WHERE sequence = ?1";
            self.execute("put a digest right", sql, params![stored(message.sequence), digest.0])?;
        }
        Ok(())
    }

    /// Computes the running digest at a message; none where its content cannot be read.
    fn digest_from(&mut self, base: &Digest, message: &Message) -> Result<Option<Digest>, SpoolError> {
        let payload = match self.content(message) {
            Ok(Content::InFile(large)) => large.read(&self.directory),
            Ok(Content::Here(payload)) => Ok(payload),
            Err(error) => Err(error),
        };
        match payload {
            Ok(payload) => Ok(Some(self.keys.digest.following(base, message.sequence, &payload))),
            Err(error) if error.is_failure() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Keeps how often a message was attempted that is taken out of the way, where this spool is the ledger of its
    /// receiver and no outcome tells.
    fn keep_attempts(&mut self, message: &Message) -> Result<(), SpoolError> {
        let attempt = self.live.head.attempting.filter(|attempt| attempt.sequence == message.sequence);
        let Some(attempt) = attempt.filter(|_| message.state == State::Queued) else { return Ok(()) };
        self.live.head.attempting = None;
        let outcome = Outcome {
            sequence: message.sequence,
            verdict: Verdict::Withdrawn,
            code: AckCode::Absent,
            attempts: attempt.number,
            in_doubt: attempt.in_doubt.saturating_add(u32::from(attempt.under_way)),
            answer: Vec::new(),
            at: time_of(now()),
        };
        self.keep_outcome(message, &outcome)
    }

    /// Queues a message again under a new number, which is returned: one that was set aside, or delivered and kept.
    pub(super) fn release(&mut self, sequence: Sequence, by: &str) -> Result<Sequence, SpoolError> {
        let message = self.message(sequence)?;
        let state = message.state.handle_event(Event::Release);
        let state = state.ok_or(SpoolError::NotAllowed { sequence, state: message.state.name() })?;
        let again = self.append_again(&message)?;
        if state != message.state {
            self.change_state(&message, state, now())?;
        }
        let reason = format!("queued again as {again}");
        self.note(&Entry { bytes: message.bytes, ..Entry::by(by, &reason, Happening::Released, sequence) }, now())?;
        self.advance_past(sequence)?;
        Ok(again)
    }

    /// Notes that an operator had a message tried at once.
    pub(super) fn retried(&mut self, sequence: Sequence, by: &str) -> Result<(), SpoolError> {
        let message = self.message(sequence)?;
        if message.state != State::Queued {
            return Err(SpoolError::NotAllowed { sequence, state: message.state.name() });
        }
        self.note(&Entry::by(by, "", Happening::Retried, sequence), now())
    }

    /// Pauses the forward or lets it go on, also over restarts.
    pub(super) fn pause(&mut self, is_paused: bool, by: &str) -> Result<(), SpoolError> {
        if self.live.head.is_paused == is_paused {
            return Ok(());
        }
        self.live.head.is_paused = is_paused;
        let happening = if is_paused { Happening::Paused } else { Happening::Resumed };
        self.note(&Entry::by(by, "", happening, 0), now())
    }
}
