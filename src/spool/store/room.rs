//! Room on the disk of a near spool: its reserve, and the copies of delivered messages that go before a message is
//! refused.
//!
//! Never gives up what waits or is set aside. Copies go oldest first, in transactions that are small beside a step of the
//! reserve, so that it goes on where the disk is full; what they held is given back to the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use super::core::Core;
use super::database::{self, stored};
use super::messages::{Message, select_messages};
use crate::spool::SpoolError;
use crate::spool::queue::State;
use crate::spool::reserve::{ROOM_BYTES, free_bytes};

/// Is the room below which copies go, in bytes: twice the log, and what comes in between two looks.
const SHORT_BYTES: u64 = 32 << 20;
/// Bounds what one step shreds, in messages and in bytes: with what is zeroed and moved, the log of it is below a step of
/// the reserve.
const STEP_MESSAGES_MAX: usize = 512;
const STEP_BYTES_MAX: u64 = 1 << 20;
/// Is what one step gives back to the disk, in pages of 4 KiB.
const STEP_PAGES: u64 = 512;
/// Is the least time between two lines in the log about it: on a disk that stays short it goes on for ever.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

/// Remembers what was shredded early.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// Counts those that the log does not know of yet.
    untold: u64,
    told_at: Option<Instant>,
}

impl Core {
    /// Tells whether messages may be taken: what others let go of, or made again, is seen at once.
    pub(super) fn takes_messages(&mut self) -> bool {
        self.is_disk_full = !self.reserve.is_whole();
        !self.is_disk_full
    }

    /// Takes a step of the reserve; false where nothing is left of it.
    pub(super) fn take_reserve(&mut self) -> bool {
        self.is_disk_full = true;
        self.reserve.release()
    }

    /// Makes the reserve again where there is room.
    pub(super) fn look_for_room(&mut self) {
        self.is_disk_full = !self.reserve.make();
    }

    /// Does the same outside of a transaction, and writes the log back into what there is: that gives room as well.
    pub(super) fn make_room(&mut self) -> Result<bool, SpoolError> {
        let has_more = self.take_reserve();
        self.write_log_back()?;
        Ok(has_more)
    }

    /// Writes the log back as far as there is room.
    pub(super) fn write_log_back(&mut self) -> Result<(), SpoolError> {
        match self.checkpoint() {
            Err(SpoolError::Disk { .. }) => Ok(()),
            written => written,
        }
    }

    /// Looks at the disk, outside of a transaction: makes the reserve again, and lets copies go where room is short;
    /// returns whether there is more of that to do.
    pub(super) fn look_at_disk(&mut self) -> Result<bool, SpoolError> {
        if self.is_disk_full {
            self.look_for_room();
        }
        let mut has_more = false;
        if self.is_short(SHORT_BYTES)? {
            self.write_log_back()?;
            has_more = self.is_short(SHORT_BYTES)? && self.step()?;
        }
        if !has_more {
            self.tell_shedding();
        }
        Ok(has_more)
    }

    /// Makes room for messages of so many bytes outside of a transaction, as far as copies give it; returns whether
    /// there is.
    pub(super) fn shed_for(&mut self, bytes: u64) -> Result<bool, SpoolError> {
        if !self.has_copies() {
            return Ok(false);
        }
        while self.reserve.room_bytes().is_some_and(|room| room < ROOM_BYTES.saturating_add(bytes)) {
            if !self.step()? {
                break;
            }
        }
        self.look_for_room();
        Ok(!self.is_disk_full)
    }

    /// Tells whether less than that is free beside the whole reserve, or in the database for other messages.
    fn is_short(&self, bytes: u64) -> Result<bool, SpoolError> {
        let room = self.reserve.room_bytes();
        Ok(match room.filter(|room| *room < bytes) {
            // What cannot be given back is used for the next messages.
            Some(room) if !self.gives_back => room.saturating_add(self.unused_pages()? * database::PAGE_BYTES) < bytes,
            short => short.is_some(),
        })
    }

    fn has_copies(&self) -> bool {
        self.live.head.tally(State::Delivered).messages > 0
    }

    /// Does one step, whatever room there is.
    #[cfg(test)]
    pub(super) fn shed_a_step(&mut self) -> Result<bool, SpoolError> {
        self.step()
    }

    /// Makes room by one step, with what is held in reserve where there is none; false where nothing more can go.
    fn step(&mut self) -> Result<bool, SpoolError> {
        loop {
            match self.try_step() {
                Err(SpoolError::Disk { .. }) => {
                    self.roll_back()?;
                    if !self.make_room()? {
                        return Ok(false);
                    }
                }
                Err(error) => {
                    self.roll_back()?;
                    return Err(error);
                }
                Ok(false) => return self.roll_back().map(|()| false),
                Ok(true) => {
                    // What was shredded stays in the log no longer, and the file gets shorter only here.
                    return self.write_log_back().map(|()| true);
                }
            }
        }
    }

    fn try_step(&mut self) -> Result<bool, SpoolError> {
        self.begin()?;
        let is_room_left = self.gives_back && self.unused_pages()? >= STEP_PAGES;
        let shed = if is_room_left { 0 } else { self.shed()? };
        if shed == 0 && !is_room_left {
            return Ok(false);
        }
        self.give_back()?;
        self.commit()?;
        self.shedding.untold += shed;
        self.follow_up()?;
        Ok(true)
    }

    /// Shreds the oldest copies of delivered messages; returns how many.
    fn shed(&mut self) -> Result<u64, SpoolError> {
        if !self.has_copies() {
            return Ok(0);
        }
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = select_messages!("sequence > ?1 AND sequence <= ?2 AND state = 1 ORDER BY sequence LIMIT ?3");
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let through = self.live.head.retired_through;
        let values = [self.live.shed_through, through, STEP_MESSAGES_MAX as u64].map(stored);
        let rows = statement.query_map(values, Message::read).map_err(failed)?;
        let messages: Vec<Message> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        drop(statement);
        let (mut shed, mut bytes) = (0, 0_u64);
        for message in messages {
            if bytes >= STEP_BYTES_MAX {
                break;
            }
            if self.remove_if_over(&message, i64::MAX)? {
                shed += 1;
                bytes = bytes.saturating_add(message.bytes);
            }
            self.live.shed_through = message.sequence;
        }
        self.live.shredded_early += shed;
        Ok(shed)
    }

    fn unused_pages(&self) -> Result<u64, SpoolError> {
        let count = self.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0));
        count.map(database::read).map_err(|source| database::failure("count free pages", &self.path, source))
    }

    /// Moves what is at the end of the file to pages that are free, and cuts it off; part of a transaction.
    fn give_back(&self) -> Result<(), SpoolError> {
        if !self.gives_back {
            return Ok(());
        }
        let give_back = || {
            let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
            // Each row is a page.
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        give_back().map_err(|source| database::failure("give room back", &self.path, source))
    }

    /// Has the log say once, and at most once an hour, how many copies went.
    fn tell_shedding(&mut self) {
        let shedding = &mut self.shedding;
        if shedding.untold > 0 && shedding.told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            let forward = self.directory.file_name().map(Path::new).unwrap_or(&self.directory);
            tracing::warn!(
                forward = %forward.display(), messages = shedding.untold, free_bytes = free_bytes(&self.directory),
                "copies of delivered messages are shredded before keep_delivered is over, the oldest first: the spool's \
                 disk is short of room; give it a larger disk, or set a smaller keep_delivered"
            );
            (shedding.untold, shedding.told_at) = (0, Some(Instant::now()));
        }
    }
}
