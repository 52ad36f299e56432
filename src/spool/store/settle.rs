//! What becomes of messages: outcomes, the way of `retired_through`, and what is removed.
//!
//! Never removes a queued or parked message, and never a row above `retired_through`: that they are all there is how a
//! missing one is noticed.

use rusqlite::{OptionalExtension as _, params};

use super::SettledAs;
use super::core::{Core, day_of, millis_of, now, time_of};
use super::database::{self, stored};
use super::messages::{Message, select_messages};
use super::outbox::{Ending, Entry, Happening};
use crate::mllp::ack::AckCode;
use crate::spool::codes::{CODES, VERDICTS, number_of, with_number};
use crate::spool::queue::{Event, State};
use crate::spool::rows::{Cell, Table};
use crate::spool::seal::{Kind, Place, Sealer};
use crate::spool::{Damage, Digest, Outcome, Sequence, SpoolError, Verdict};

/// Bounds the rows that one look for what may be shredded reads, and the events it prunes: well below a millisecond
/// of the writer's time for each hundred.
const TIDY_ROWS_MAX: usize = 256;

impl Core {
    /// Settles messages; what is unknown or settled already is ignored, but for what is told of a message that an
    /// operator took out of the way meanwhile: that is kept with it. Returns what is retired then.
    pub(super) fn settle(&mut self, outcomes: &[Outcome]) -> Result<Sequence, SpoolError> {
        self.settle_at(outcomes, now())
    }

    /// Does the same at a given time of this site: the other one's clock may be days off, and what is delivered is kept
    /// from now on.
    pub(super) fn settle_at(&mut self, outcomes: &[Outcome], at: i64) -> Result<Sequence, SpoolError> {
        for outcome in outcomes {
            let Some(message) = self.find_message(outcome.sequence)? else {
                continue;
            };
            let is_decided = outcome.verdict == Verdict::Withdrawn && message.state != State::Delivered;
            match message.state.handle_event(Event::Settled(outcome.verdict)) {
                Some(state) => {
                    self.keep_outcome(&message, outcome)?;
                    self.change_state(&message, state, at)?;
                }
                None if is_decided && self.outcome(&message)?.is_none() => self.keep_outcome(&message, outcome)?,
                None => continue,
            }
            let entry = Entry {
                sequence: outcome.sequence,
                happening: Happening::Settled,
                bytes: message.bytes,
                ended: Some(Ending::from(outcome)),
                trace: None,
                detail: None,
            };
            self.note(&entry, millis_of(outcome.at))?;
        }
        self.advance()?;
        Ok(self.live.head.retired_through)
    }

    /// Keeps how a message ended; the answer only where it can be sealed.
    pub(super) fn keep_outcome(&mut self, message: &Message, outcome: &Outcome) -> Result<(), SpoolError> {
        let place = self.answer_place(message);
        let answer = match self.answer_sealer(message)? {
            Some(sealer) if !outcome.answer.is_empty() => sealer.seal(&place, &outcome.answer)?,
            _ => Vec::new(),
        };
        let sql = "INSERT OR REPLACE INTO outcomes (sequence, verdict, code, attempts, in_doubt, at, answer, tag)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let row = [
            Cell::Number(stored(outcome.sequence)),
            Cell::Number(number_of(&VERDICTS, &outcome.verdict)),
            Cell::Number(number_of(&CODES, &outcome.code)),
            Cell::Number(outcome.attempts.into()),
            Cell::Number(outcome.in_doubt.into()),
            Cell::Number(millis_of(outcome.at)),
            Cell::Bytes(&answer),
        ];
        let tag = self.keys.rows.tag(Table::Outcomes, row);
        let [sequence, verdict, code, attempts, in_doubt, at, answer] = row;
        let values = params![sequence, verdict, code, attempts, in_doubt, at, answer, tag];
        self.live.in_doubt += u64::from(outcome.in_doubt > 0);
        self.execute("keep an outcome", sql, values)
    }

    /// Returns what seals the answer to a message; none where the key of its day is destroyed or damaged.
    fn answer_sealer(&mut self, message: &Message) -> Result<Option<&Sealer>, SpoolError> {
        match self.day_sealer(message.day) {
            Err(SpoolError::Damaged { damage: Damage::Tampered(_), .. }) => Ok(None),
            sealer => sealer,
        }
    }

    fn answer_place(&self, message: &Message) -> Place {
        self.place(Kind::Answer, [message.sequence, message.day.unsigned_abs(), 0, 0])
    }

    /// Reads how a message ended; its answer is missing where it was shredded or damaged. What was changed by somebody
    /// without the key tells nothing.
    pub(super) fn outcome(&mut self, message: &Message) -> Result<Option<SettledAs>, SpoolError> {
        Ok(self.find_outcome(message)?.and_then(Result::ok))
    }

    /// Does the same, and tells what was changed from what is not there.
    pub(super) fn find_outcome(&mut self, message: &Message) -> Result<Option<Result<SettledAs, Damage>>, SpoolError> {
        let sql =
            "SELECT sequence, verdict, code, attempts, in_doubt, at, answer, tag FROM outcomes WHERE sequence = ?1";
        let rows = &self.keys.rows;
        let may_lack = self.may_lack_tag(message.sequence);
        let found = self.connection.prepare_cached(sql).and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let cells = (0..7).map(|at| database::cell(row, at)).collect::<rusqlite::Result<Vec<_>>>()?;
                let is_whole = database::tag(row, 7)?.map_or(may_lack, |tag| tag == rows.tag(Table::Outcomes, cells));
                if !is_whole {
                    return Ok(None);
                }
                let settled = SettledAs {
                    verdict: with_number(&VERDICTS, row.get(1)?),
                    code: with_number(&CODES, row.get(2)?),
                    attempts: row.get(3)?,
                    in_doubt: row.get(4)?,
                    at: time_of(row.get(5)?),
                    answer: Vec::new(),
                };
                Ok(Some((settled, row.get::<_, Vec<u8>>(6)?)))
            };
            statement.query_row([stored(message.sequence)], read).optional()
        });
        let found = found.map_err(|source| database::failure("read an outcome", &self.path, source))?;
        let (mut settled, answer) = match found {
            None => return Ok(None),
            Some(None) => return Ok(Some(Err(Damage::Tampered("outcome")))),
            Some(Some(found)) => found,
        };
        let place = self.answer_place(message);
        if let Some(sealer) = self.answer_sealer(message)?.filter(|_| !answer.is_empty()) {
            settled.answer = sealer.open(&place, &answer).unwrap_or_default();
        }
        Ok(Some(Ok(settled)))
    }

    /// Moves a message to another state; content that the state does not keep goes at once.
    pub(super) fn change_state(&mut self, message: &Message, to: State, at: i64) -> Result<(), SpoolError> {
        let after = Message { state: to, settled: at, ..message.clone() };
        // A row that somebody else changed is not made one that was not.
        let tag = if self.is_whole(message) { Some(self.tag_of_message(&after)) } else { message.tag };
        let sql = "UPDATE messages SET state = ?2, settled = ?3, tag = ?4 WHERE sequence = ?1";
        self.execute("change a message", sql, params![stored(message.sequence), to.code(), at, tag])?;
        self.live.head.leave(message.state, message.bytes);
        self.live.head.enter(to, message.bytes);
        // Where the transaction fails it is found again.
        self.damaged.take_if(|damaged| damaged.sequence == message.sequence);
        if message.state == State::Queued {
            self.count_waiting(message.destination, false);
        }
        if !to.has_content() && message.state.has_content() {
            self.shred_content(message)?;
        }
        if message.state == State::Delivered && to == State::Discarded {
            self.shred_answer(message)?;
            self.shreds_now = true;
        }
        Ok(())
    }

    /// Keeps an outcome without the answer, which names the patient as well.
    fn shred_answer(&mut self, message: &Message) -> Result<(), SpoolError> {
        let Some(kept) = self.outcome(message)? else {
            let sql = "UPDATE outcomes SET answer = zeroblob(0) WHERE sequence = ?1";
            return self.execute("shred an answer", sql, [stored(message.sequence)]);
        };
        let counted = self.live.in_doubt;
        let outcome = Outcome {
            sequence: message.sequence,
            verdict: kept.verdict.unwrap_or(Verdict::Delivered),
            code: kept.code.unwrap_or(AckCode::Absent),
            attempts: kept.attempts,
            in_doubt: kept.in_doubt,
            answer: Vec::new(),
            at: kept.at,
        };
        self.keep_outcome(message, &outcome)?;
        self.live.in_doubt = counted;
        Ok(())
    }

    fn shred_content(&mut self, message: &Message) -> Result<(), SpoolError> {
        let sql = "DELETE FROM contents WHERE sequence = ?1";
        self.execute("shred a message", sql, [stored(message.sequence)])?;
        self.count_content(message.day, false);
        // Whose file it is, is what a changed row does not say; one that is left goes at a start that finds no such row.
        if self.is_whole(message) {
            self.doomed.extend(message.file);
        }
        Ok(())
    }

    /// Retires what nothing queued stands before any more.
    pub(super) fn advance(&mut self) -> Result<(), SpoolError> {
        let before = self.live.head.retired_through;
        self.walk(before)?;
        if self.limits.keep_delivered.is_zero() {
            let through = self.live.head.retired_through;
            for message in self.messages_between(before, through, usize::MAX)? {
                self.remove_if_over(&message, i64::MAX)?;
            }
        }
        Ok(())
    }

    /// Does the same after an operator's decision about a message, which may have been retired long ago.
    pub(super) fn advance_past(&mut self, sequence: Sequence) -> Result<(), SpoolError> {
        self.advance()?;
        if self.limits.keep_delivered.is_zero()
            && let Some(message) = self.find_message(sequence)?
        {
            self.remove_if_over(&message, i64::MAX)?;
        }
        Ok(())
    }

    /// Walks from what is retired to the first queued message.
    fn walk(&mut self, before: Sequence) -> Result<(), SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql =
            "SELECT sequence, state, digest, accepted, destination FROM messages WHERE sequence > ?1 ORDER BY sequence";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query([stored(before)]).map_err(failed)?;
        let (mut through, mut digest, mut oldest) = (before, None, None);
        while let Some(row) = rows.next().map_err(failed)? {
            if row.get::<_, u8>(1).map_err(failed)? == State::Queued.code() {
                oldest = Some((row.get(3).map_err(failed)?, row.get(4).map_err(failed)?));
                break;
            }
            through = database::read(row.get(0).map_err(failed)?);
            digest = Some(row.get(2).map_err(failed)?);
        }
        drop(rows);
        drop(statement);
        self.live.oldest = oldest;
        if let Some(digest) = digest {
            self.live.head.retired_through = through;
            self.live.head.retired_digest = Digest(digest);
        }
        Ok(())
    }

    /// Lists messages above `after` and up to `through`.
    pub(super) fn messages_between(
        &self,
        after: Sequence,
        through: Sequence,
        messages_max: usize,
    ) -> Result<Vec<Message>, SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = select_messages!("sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3");
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let limit = i64::try_from(messages_max).unwrap_or(i64::MAX);
        let rows = statement.query_map([stored(after), stored(through), limit], Message::read).map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// Removes a message for good if it is done and was settled before `before`; returns whether it did.
    pub(super) fn remove_if_over(&mut self, message: &Message, before: i64) -> Result<bool, SpoolError> {
        if message.state.is_held() || message.settled >= before || message.sequence > self.live.head.retired_through {
            return Ok(false);
        }
        if !self.is_whole(message) {
            // The time by which it would go is what somebody wrote there. The start has told of it.
            return Ok(false);
        }
        if message.state.has_content() {
            self.shred_content(message)?;
        }
        let key = stored(message.sequence);
        self.execute("remove an outcome", "DELETE FROM outcomes WHERE sequence = ?1", [key])?;
        self.execute("remove a message", "DELETE FROM messages WHERE sequence = ?1", [key])?;
        self.live.head.leave(message.state, message.bytes);
        Ok(true)
    }

    /// Looks at some messages, and shreds what was kept long enough; returns whether anything was changed, and whether
    /// keys were destroyed. The next look goes on where this one ended.
    pub(super) fn tidy(&mut self) -> Result<Tidied, SpoolError> {
        let keep = i64::try_from(self.limits.keep_delivered.as_millis()).unwrap_or(i64::MAX);
        let before = now().saturating_sub(keep);
        let through = self.live.head.retired_through;
        let messages = self.messages_between(self.tidy_cursor, through, TIDY_ROWS_MAX)?;
        let is_end = messages.len() < TIDY_ROWS_MAX;
        self.tidy_cursor = messages.last().filter(|_| !is_end).map_or(0, |message| message.sequence);
        let mut changed = false;
        for message in &messages {
            changed |= self.remove_if_over(message, before)?;
        }
        changed |= self.prune_outbox(before, TIDY_ROWS_MAX as u64)? > 0;
        let today = day_of(now());
        // Whose day it is, is what a changed row does not say.
        let is_told = self.live.changed == 0;
        let is_over = |(day, count): &(&i64, &u64)| is_told && **day < today && **count == 0;
        let empty: Vec<i64> = self.live.days.iter().filter(is_over).map(|(day, _)| *day).collect();
        for day in &empty {
            self.destroy_day_key(*day)?;
            self.live.days.remove(day);
        }
        Ok(Tidied { changed: changed || !empty.is_empty(), destroyed: !empty.is_empty(), is_end })
    }
}

/// Says what a look for what may be shredded did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tidied {
    /// Something was removed.
    pub(super) changed: bool,
    /// A key was destroyed: the log has to be emptied of it.
    pub(super) destroyed: bool,
    /// All messages were looked at.
    pub(super) is_end: bool,
}
