//! Which rows of a near spool are as they were written, by their tags.
//!
//! Never puts one right: what was changed stays, and shows as such, also after what is done with its message.

use std::path::Path;

use rusqlite::Connection;

use super::core::{Core, Keys};
use super::database::{self, read};
use super::messages::Message;
use super::outbox::Happening;
use crate::spool::head::{Head, Tagged};
use crate::spool::queue::State;
use crate::spool::rows::{Cell, RowKey, Table, Tag};
use crate::spool::{Damage, Epoch, Sequence, SpoolError, Verdict};

/// Is the damage of a message whose row was changed.
pub(super) const CHANGED_ROW: Damage = Damage::Tampered("row in the table of messages");

impl Core {
    /// Has all rows from now on bear tags, where an earlier version made the spool; part of a transaction.
    pub(super) fn tag_from_now_on(&mut self) -> Result<(), SpoolError> {
        if self.live.head.tagged.is_none() {
            self.live.head.tagged = Some(Tagged {
                messages_after: self.live.head.last,
                events_after: self.live.head.outbox_last,
                decisions: database::count_decisions(&self.connection, &self.path)?,
                epochs: self.epochs.len() as u64,
            });
        }
        Ok(())
    }

    /// Tells whether the rows of a message may be without a tag: an earlier version wrote them.
    pub(super) fn may_lack_tag(&self, sequence: Sequence) -> bool {
        may_lack_tag(&self.live.head, sequence)
    }

    /// Tells whether a row of the table of messages is as it was written.
    pub(super) fn is_whole(&self, message: &Message) -> bool {
        is_whole(&self.keys.rows, &self.live.head, message)
    }

    /// Makes the tag of a row of the table of messages.
    pub(super) fn tag_of_message(&self, message: &Message) -> Tag {
        tag_of_message(&self.keys.rows, message)
    }

    /// Takes note of rows of messages that somebody changed before the store was opened. What became of each must be
    /// written down elsewhere too: else one that was acknowledged is passed over, or one is sent that was set aside, where two
    /// exchanged their states.
    pub(super) fn explain(&mut self, changed: &[Message]) -> Result<(), SpoolError> {
        for message in changed {
            let is_explained = match message.state {
                State::Queued => true,
                State::Delivered => {
                    self.ended_as(message, |verdict| matches!(verdict, Verdict::Delivered | Verdict::DeliveredBefore))?
                }
                State::Parked => self.ended_as(message, |_| true)? || self.was_decided(message, Happening::Parked)?,
                State::Discarded => self.was_decided(message, Happening::Discarded)?,
                State::Released => self.was_decided(message, Happening::Released)?,
            };
            if !is_explained {
                return Err(self.damage(Damage::Tampered("table of messages")));
            }
        }
        if !changed.is_empty() {
            tracing::error!(
                path = %self.path.display(), rows = changed.len(),
                "somebody changed rows in the table of messages, though not what became of them: no file of a message and \
                 no key of a day is removed until a start finds none changed; restore the spool from a backup"
            );
        }
        Ok(())
    }

    fn ended_as(&mut self, message: &Message, is_it: impl Fn(Verdict) -> bool) -> Result<bool, SpoolError> {
        Ok(self.outcome(message)?.and_then(|outcome| outcome.verdict).is_some_and(is_it))
    }

    fn was_decided(&mut self, message: &Message, how: Happening) -> Result<bool, SpoolError> {
        let decisions = self.decisions(message)?;
        Ok(decisions.iter().any(|event| event.sequence == message.sequence && event.happening == how))
    }

    /// Has the log say that somebody changed a row, once as long as no other one is met.
    pub(super) fn tell_changed(&mut self, what: &'static str, number: u64, damage: &Damage) {
        if self.told_row != (what, number) {
            self.told_row = (what, number);
            tracing::error!(
                path = %self.path.display(), number,
                "what is kept of {what} {number} is damaged: {damage}; somebody changed the database, and what it says \
                 there is not shown"
            );
        }
    }
}

fn may_lack_tag(head: &Head, sequence: Sequence) -> bool {
    head.tagged.is_none_or(|tagged| sequence <= tagged.messages_after)
}

/// Tells whether a row of the table of messages is as it was written.
pub(super) fn is_whole(rows: &RowKey, head: &Head, message: &Message) -> bool {
    match message.tag {
        Some(tag) => tag == tag_of_message(rows, message),
        None => may_lack_tag(head, message.sequence),
    }
}

/// Makes the tag of a row of the table of messages. The digest has its own place in the chain of digests.
fn tag_of_message(rows: &RowKey, message: &Message) -> Tag {
    let numbers = [
        database::stored(message.sequence),
        message.state.code().into(),
        database::stored(message.bytes),
        message.accepted,
        message.day,
        message.destination,
        message.settled,
    ];
    let file = message.file.as_ref().map_or(Cell::Absent, |file| Cell::Bytes(file));
    rows.tag(Table::Messages, numbers.into_iter().map(Cell::Number).chain([file]))
}

/// Reads the epochs, oldest first, and verifies them.
pub(super) fn epochs(
    connection: &Connection,
    path: &Path,
    keys: &Keys,
    head: &Head,
) -> Result<Vec<(Sequence, Epoch)>, SpoolError> {
    let failed = |source| database::failure("read the epochs", path, source);
    let sql = match head.tagged {
        Some(_) => "SELECT first, epoch, tag FROM epochs ORDER BY number",
        None => "SELECT first, epoch, NULL FROM epochs ORDER BY number",
    };
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let (mut found, mut is_whole) = (Vec::new(), true);
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let (first, epoch): (i64, [u8; 16]) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        is_whole &= match (database::tag(row, 2).map_err(failed)?, head.tagged) {
            (Some(tag), _) => tag == tag_of_epoch(keys, first, &epoch),
            (None, Some(tagged)) => read(first) <= tagged.messages_after.saturating_add(1),
            (None, None) => true,
        };
        found.push((read(first), Epoch(epoch)));
    }
    is_whole &= head.tagged.is_none_or(|tagged| tagged.epochs == found.len() as u64);
    let damaged = || SpoolError::Damaged { path: path.to_owned(), damage: Damage::Tampered("table of epochs") };
    if is_whole { Ok(found) } else { Err(damaged()) }
}

/// Makes the tag of an epoch.
pub(super) fn tag_of_epoch(keys: &Keys, first: i64, epoch: &[u8; 16]) -> Tag {
    keys.rows.tag(Table::Epochs, [Cell::Number(first), Cell::Bytes(epoch)])
}
