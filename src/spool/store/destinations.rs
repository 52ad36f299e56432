//! Where the messages of a near spool go: numbers that are sealed with each message, and what each number means.
//!
//! Never sends a message elsewhere than its number says, and never changes what is said of one that has left the queue:
//! a move gives the number another meaning for what waits or is set aside, and keeps the former one for what is behind.

use std::collections::BTreeMap;

use rusqlite::params;

use super::Destination;
use super::core::{Core, now};
use super::database;
use super::messages::Message;
use super::outbox::{Entry, Happening};
use crate::spool::seal::Kind;
use crate::spool::{Sequence, SpoolError};

/// Is the length of a peer's key, in bytes.
const PEER_KEY_BYTES: usize = 32;
/// Ends a target in what is sealed where a former destination follows: no target has this byte.
const END: u8 = 0;

/// Is what a number meant before a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Former {
    /// Is the last message that was behind the queue then: it and those before it went there, or to an earlier one.
    through: Sequence,
    /// Is the event of the move.
    event: u64,
    destination: Destination,
}

/// Is what a number means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) destination: Destination,
    /// Lists what it meant before, the oldest first.
    pub(super) formers: Vec<Former>,
}

impl Core {
    /// Says where a message goes, or went; none where that was removed.
    pub(super) fn destination_of(&self, message: &Message) -> Option<&Destination> {
        let former = self.former_of(message).map(|former| &former.destination);
        former.or_else(|| self.live.destinations.get(&message.destination))
    }

    /// Finds where a message went whose number was moved after it.
    fn former_of(&self, message: &Message) -> Option<&Former> {
        let formers = self.live.formers.get(&message.destination).filter(|_| !message.state.is_held())?;
        formers.iter().find(|former| message.sequence <= former.through)
    }

    /// Tells whether a move that the outbox names was one of a message too.
    pub(super) fn was_moved_by(&self, event: u64, message: &Message) -> bool {
        self.former_of(message).is_none_or(|former| event < former.event)
    }

    /// Finds the number under which a message is queued again.
    pub(super) fn number_again(&mut self, message: &Message) -> Result<i64, SpoolError> {
        match self.former_of(message).map(|former| former.destination.clone()) {
            None => Ok(message.destination),
            Some(former) => match number_of(&self.live.destinations, &former) {
                Some(number) => Ok(number),
                None => self.add_destination(&former),
            },
        }
    }

    /// Sends what is queued or parked for a destination to another one; what was delivered stays as it was, and what is
    /// accepted from now on goes where it did. Returns how many are queued.
    pub(super) fn move_to(&mut self, from: &Destination, to: &Destination, by: &str) -> Result<u64, SpoolError> {
        let numbers = self.live.destinations.iter().filter(|(_, one)| *one == from).map(|(id, _)| *id);
        let numbers: Vec<i64> = numbers.collect();
        let moved = numbers.iter().filter_map(|id| self.live.waiting.get(id)).sum();
        if from == to {
            return Ok(moved);
        }
        let reason = format!("{moved} messages for {} to {}", from.target, to.target);
        self.note(&Entry::by(by, &reason, Happening::Moved, 0), now())?;
        let (through, event) = (self.live.head.retired_through, self.live.head.outbox_last);
        for id in &numbers {
            let mut formers = self.live.formers.remove(id).unwrap_or_default();
            formers.push(Former { through, event, destination: from.clone() });
            let meaning = Meaning { destination: to.clone(), formers };
            let sealed = self.sealed_meaning(*id, &meaning)?;
            let sql = "UPDATE destinations SET sealed = ?2 WHERE id = ?1";
            self.execute("move the queue", sql, params![id, sealed])?;
            self.live.destinations.insert(*id, meaning.destination);
            self.live.formers.insert(*id, meaning.formers);
        }
        if numbers.contains(&self.live.destination) {
            self.live.destination = self.add_destination(from)?;
        }
        Ok(moved)
    }

    /// Counts what is queued or parked by where it was accepted for.
    pub(super) fn held_for(&self) -> Result<Vec<(Destination, u64)>, SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = "SELECT destination, count(*) FROM messages WHERE state IN (0, 2) GROUP BY destination";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, database::read(row.get(1)?)))).map_err(failed)?;
        let counts: Vec<(i64, u64)> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        Ok(self.by_destination(counts))
    }

    /// Counts what is queued by where it was accepted for.
    pub(super) fn waiting(&self) -> Vec<(Destination, u64)> {
        self.by_destination(self.live.waiting.iter().map(|(id, count)| (*id, *count)))
    }

    /// Adds up counts by number: several numbers may be of one destination.
    fn by_destination(&self, counts: impl IntoIterator<Item = (i64, u64)>) -> Vec<(Destination, u64)> {
        let mut sums: Vec<(Destination, u64)> = Vec::new();
        for (id, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let Some(destination) = self.live.destinations.get(&id) else { continue };
            match sums.iter_mut().find(|(known, _)| known == destination) {
                Some((_, sum)) => *sum += count,
                None => sums.push((destination.clone(), count)),
            }
        }
        sums
    }

    fn sealed_meaning(&self, id: i64, meaning: &Meaning) -> Result<Vec<u8>, SpoolError> {
        self.keys.meta.seal(&self.place(Kind::Destination, [id.unsigned_abs(), 0, 0, 0]), &meaning.encode())
    }

    /// Keeps a destination that no message had before; part of a transaction. Returns its number.
    pub(super) fn add_destination(&mut self, destination: &Destination) -> Result<i64, SpoolError> {
        let id = self.live.last_destination.saturating_add(1);
        let sealed = self.sealed_meaning(id, &Meaning { destination: destination.clone(), formers: Vec::new() })?;
        let sql = "INSERT INTO destinations (id, sealed) VALUES (?1, ?2)";
        self.execute("keep a destination", sql, params![id, sealed])?;
        self.live.destinations.insert(id, destination.clone());
        self.live.last_destination = id;
        Ok(id)
    }
}

impl Meaning {
    /// Writes it as it is sealed.
    fn encode(&self) -> Vec<u8> {
        let mut plain = [&self.destination.peer_key[..], self.destination.target.as_bytes()].concat();
        for Former { through, event, destination } in &self.formers {
            plain.push(END);
            plain.extend_from_slice(&through.to_be_bytes());
            plain.extend_from_slice(&event.to_be_bytes());
            plain.extend_from_slice(&destination.peer_key);
            plain.extend_from_slice(destination.target.as_bytes());
        }
        plain
    }

    /// Reads what was sealed.
    pub(super) fn decode(plain: &[u8]) -> Option<Self> {
        let (destination, mut rest) = decode_destination(plain)?;
        let mut formers = Vec::new();
        while let Some(plain) = rest {
            let (through, plain) = plain.split_first_chunk()?;
            let (event, plain) = plain.split_first_chunk()?;
            let (destination, next) = decode_destination(plain)?;
            let (through, event) = (u64::from_be_bytes(*through), u64::from_be_bytes(*event));
            formers.push(Former { through, event, destination });
            rest = next;
        }
        Some(Self { destination, formers })
    }
}

/// Reads a destination, and returns what follows it.
fn decode_destination(plain: &[u8]) -> Option<(Destination, Option<&[u8]>)> {
    let (peer_key, plain) = plain.split_first_chunk::<PEER_KEY_BYTES>()?;
    let end = plain.iter().position(|byte| *byte == END);
    let (target, rest) = match end.and_then(|end| plain.split_at_checked(end)) {
        Some((target, rest)) => (target, rest.get(1..)),
        None => (plain, None),
    };
    Some((Destination { peer_key: *peer_key, target: String::from_utf8(target.to_vec()).ok()? }, rest))
}

/// Finds the number of a destination.
pub(super) fn number_of(destinations: &BTreeMap<i64, Destination>, wanted: &Destination) -> Option<i64> {
    destinations.iter().find_map(|(id, destination)| (destination == wanted).then_some(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_number_means_is_read_as_it_was_written() {
        let to = |target: &str| Destination { peer_key: [0; 32], target: target.to_owned() };
        let mut meaning = Meaning { destination: to("orders"), formers: Vec::new() };
        for through in 0..3 {
            let encoded = meaning.encode();
            assert_eq!(Meaning::decode(&encoded), Some(meaning.clone()));
            assert_eq!(Meaning::decode(&[&encoded[..], &[END]].concat()), None);
            meaning.formers.push(Former { through, event: through << 32, destination: to("10.0.0.1:2575") });
        }
    }
}
