//! Opens a near spool: makes a new one, or verifies that the one there is whole.
//!
//! Never repairs, and never makes a new one where anything of an earlier one is left. What it verifies is what can be
//! read in a second of a million messages: the head, and the number and size of messages in each state. The content of
//! a message is verified when it is read.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::core::{Core, Keys, Live, Parts};
use super::database::{self, FORMAT, read};
use super::destinations::{Former, Meaning, number_of};
use super::messages::{Message, select_messages};
use super::{Destination, Wanted, tags};
use crate::mllp::trace::TraceKey;
use crate::spool::head::{Head, Tagged, Tally};
use crate::spool::key::SpoolKey;
use crate::spool::mark::Mark;
use crate::spool::queue::State;
use crate::spool::reserve::Reserve;
use crate::spool::rows::RowKey;
use crate::spool::seal::{self, Kind, Place, Sealer};
use crate::spool::{Damage, DigestKey, Sequence, SpoolError, large};

/// Names the database in a spool's directory.
pub(super) const DATABASE: &str = "spool.db";
/// Names the mark.
const MARK: &str = "mark";

/// Is the commit that makes a spool: before the next one the mark may be blank, or torn.
const FIRST_COMMIT: u64 = 1;

/// Separates what the key of the head is used for: the tags of rows.
const TAGS: u8 = 1;

/// Is what a spool is opened with, each time.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) directory: PathBuf,
    pub(super) key: SpoolKey,
    pub(super) wanted: Wanted,
    /// Says that pages of the database were found damaged: all are looked at before it is used again.
    pub(super) is_suspect: bool,
}

/// Opens a spool and begins an epoch, on a full disk with what is held in reserve. At a start, files that belong to no
/// message are removed; while the site runs, one may belong to a message that is on its way.
pub(super) fn open(way: &Way, is_start: bool) -> Result<Core, SpoolError> {
    let reserve = Reserve::of(way.directory.parent().unwrap_or(&way.directory));
    loop {
        match try_open(way, &reserve, is_start) {
            Err(SpoolError::Disk { .. }) if reserve.release() => {}
            opened => return opened,
        }
    }
}

fn try_open(way: &Way, reserve: &Reserve, is_start: bool) -> Result<Core, SpoolError> {
    let path = way.directory.join(DATABASE);
    let may_make = way.wanted.spool.is_none() && way.wanted.destination.is_some();
    if !database::is_there(&path)? {
        if !may_make {
            return Err(match path.exists() {
                true => SpoolError::Damaged { path, damage: Damage::Empty },
                false => SpoolError::Gone { path: way.directory.clone() },
            });
        }
        database::make_directory(&way.directory)?;
        refuse_remains(&way.directory)?;
    }
    let connection = database::connect(&path)?;
    if !has_tables(&connection, &path)? {
        if !may_make {
            return Err(SpoolError::Damaged { path, damage: Damage::Missing("identity") });
        }
        make(way, &path, &connection)?;
    }
    let mut core = verified(way, &path, connection, reserve, is_start)?;
    // Before the first commit of this start: none that follows may tear the only slot that can be read.
    core.mark.settle(&core.keys.meta, &core.keys.spool, core.live.head.generation)?;
    core.begin()?;
    database::index_decisions(&core.connection, &core.path)?;
    database::add_columns(&core.connection, &core.path)?;
    core.tag_from_now_on()?;
    core.begin_epoch()?;
    if let Some(destination) = &way.wanted.destination {
        core.live.destination = match number_of(&core.live.destinations, destination) {
            Some(number) => number,
            None => core.add_destination(destination)?,
        };
    }
    core.commit()?;
    core.follow_up()?;
    core.note_presence()?;
    core.look_for_room();
    Ok(core)
}

/// Tells whether there is a database in a spool's directory; what cannot be looked at may be one.
pub(super) fn is_at(directory: &Path) -> bool {
    database::is_there(&directory.join(DATABASE)).unwrap_or(true)
}

fn has_tables(connection: &Connection, path: &Path) -> Result<bool, SpoolError> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE name = 'meta'";
    let count: Result<i64, _> = connection.query_row(sql, [], |row| row.get(0));
    count.map(|count| count > 0).map_err(|source| database::failure("open the database", path, source))
}

/// Makes a new spool, whole or not at all.
fn make(way: &Way, path: &Path, connection: &Connection) -> Result<(), SpoolError> {
    refuse_remains(&way.directory)?;
    // Before the commit: a database with tables always has a mark.
    Mark::create(&way.directory.join(MARK))?;
    let failed = |source| database::failure("make the spool", path, source);
    let (spool, meta, digest) = (seal::random_id()?, seal::random_key()?, seal::random_key()?);
    let identity = [&spool[..], meta.as_slice(), digest.as_slice()].concat();
    let identity = Sealer::new(&way.key.sealing()).seal(&Place::new(Kind::Identity, &[0; 16], [0; 4]), &identity)?;
    let meta = Sealer::new(&meta);
    let head = Head::new(seal::random_id()?);
    let sealed_head = meta.seal(&Place::new(Kind::Head, &spool, [0; 4]), &head.encode())?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    database::make_tables(connection, path)?;
    let sql = "INSERT INTO meta (id, format, key_check, identity) VALUES (1, ?1, ?2, ?3)";
    connection.execute(sql, params![FORMAT, way.key.check(), identity]).map_err(failed)?;
    connection.execute("INSERT INTO head (id, sealed) VALUES (1, ?1)", [sealed_head]).map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)
}

/// A database that is empty or gone where its messages or its mark are left is no new spool.
fn refuse_remains(directory: &Path) -> Result<(), SpoolError> {
    let failed = |source| SpoolError::file("list", directory, source);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_marked = entry.file_name() == MARK && fs::read(entry.path()).map_err(failed)?.iter().any(|b| *b != 0);
        let is_content = entry.path().extension().is_some_and(|extension| extension == "sealed");
        if is_marked || is_content {
            let path = directory.join(DATABASE);
            return Err(SpoolError::Damaged { path, damage: Damage::Missing("database") });
        }
    }
    Ok(())
}

fn verified(
    way: &Way,
    path: &Path,
    connection: Connection,
    reserve: &Reserve,
    is_start: bool,
) -> Result<Core, SpoolError> {
    let damaged = |damage| SpoolError::Damaged { path: path.to_owned(), damage };
    let keys = unseal(way, path, &connection)?;
    if way.wanted.spool.is_some_and(|wanted| wanted.0 != keys.spool) {
        return Err(SpoolError::OtherSpool { path: way.directory.clone() });
    }
    if way.is_suspect {
        database::check_pages(&connection, path)?;
    }
    // All into the database: after an fsync that failed, nothing of the log may be relied upon.
    database::checkpoint(&connection, path)?;
    let sealed = blob(&connection, path, "SELECT sealed FROM head WHERE id = 1")?;
    let sealed = sealed.ok_or_else(|| damaged(Damage::Missing("head")))?;
    let head = keys.meta.open(&Place::new(Kind::Head, &keys.spool, [0; 4]), &sealed);
    let head = head.and_then(|plain| Head::decode(&plain)).ok_or_else(|| damaged(Damage::Tampered("head")))?;
    let mark = Mark::open(&way.directory.join(MARK))?;
    let expected = mark.read(&keys.meta, &keys.spool, head.generation <= FIRST_COMMIT)?;
    if head.generation < expected {
        return Err(damaged(Damage::RolledBack { found: head.generation, expected }));
    }
    let census = Census::take(&connection, path, &keys.rows, &head)?;
    census.compare(&head).map_err(damaged)?;
    // Not all of them are known.
    if census.changed.len() >= CHANGED_MAX {
        return Err(damaged(Damage::Tampered("table of messages")));
    }
    check_outbox(&connection, path, &head)?;
    tell_lost_keys(&connection, path, &census.days)?;
    // Whose a file is, and whose the key of a day, is what a changed row does not say.
    if is_start && census.changed.is_empty() {
        large::remove_orphans(&way.directory, &census.files)?;
    }
    let epochs = tags::epochs(&connection, path, &keys, &head)?;
    let (destinations, formers) = destinations(&connection, path, &keys)?;
    let last = destinations.keys().next_back().copied().unwrap_or(0);
    let last_destination = census.last_destination.max(last);
    let Census { days, waiting, oldest, changed, .. } = census;
    let live = Live {
        head,
        changed: changed.len() as u64,
        days,
        waiting,
        in_doubt: 0,
        shredded_early: 0,
        shed_through: 0,
        oldest,
        destinations,
        formers,
        last_destination,
        destination: 0,
    };
    let gives_back = database::gives_back(&connection, path)?;
    let (directory, path, limits) = (way.directory.clone(), path.to_owned(), way.wanted.limits.clone());
    let reserve = reserve.clone();
    let parts = Parts { directory, path, connection, keys, live, limits, epochs, mark, reserve, gives_back };
    let mut core = Core::from(parts);
    core.explain(&changed)?;
    Ok(core)
}

fn unseal(way: &Way, path: &Path, connection: &Connection) -> Result<Keys, SpoolError> {
    let damaged = |damage| SpoolError::Damaged { path: path.to_owned(), damage };
    let sql = "SELECT format, key_check, identity FROM meta WHERE id = 1";
    let meta = connection
        .query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?)));
    let meta = meta.optional().map_err(|source| database::failure("read the identity", path, source))?;
    let (format, check, identity) = meta.ok_or_else(|| damaged(Damage::Missing("identity")))?;
    if format != FORMAT {
        return Err(damaged(Damage::Format(format)));
    }
    if check != way.key.check() {
        return Err(SpoolError::OtherKey { path: path.to_owned() });
    }
    let master = Sealer::new(&way.key.sealing());
    let tampered = || damaged(Damage::Tampered("identity"));
    let plain = master.open(&Place::new(Kind::Identity, &[0; 16], [0; 4]), &identity).ok_or_else(tampered)?;
    let plain = zeroize::Zeroizing::new(plain);
    let (spool, rest) = plain.split_first_chunk::<16>().ok_or_else(tampered)?;
    let (meta, digest) = rest.split_first_chunk::<32>().ok_or_else(tampered)?;
    let digest = DigestKey(digest.try_into().map_err(|_| tampered())?);
    let trace = way.wanted.trace.clone().unwrap_or_else(|| TraceKey::new(&digest.0));
    let rows = RowKey::new(&seal::derive(meta, TAGS));
    Ok(Keys { spool: *spool, master, meta: Sealer::new(meta), digest, trace, rows })
}

fn blob(connection: &Connection, path: &Path, sql: &str) -> Result<Option<Vec<u8>>, SpoolError> {
    let found = connection.query_row(sql, [], |row| row.get(0)).optional();
    found.map_err(|source| database::failure("verify the spool", path, source))
}

/// Bounds the changed rows that are looked at one by one.
const CHANGED_MAX: usize = 10_000;

/// Is what is counted of all messages at a start.
struct Census {
    tallies: [Tally; State::ALL.len()],
    days: BTreeMap<i64, u64>,
    waiting: BTreeMap<i64, u64>,
    files: HashSet<[u8; 16]>,
    /// Is the highest number of a destination that a message names.
    last_destination: i64,
    oldest: Option<(i64, i64)>,
    last: Sequence,
    above_retired: u64,
    queued_below: bool,
    /// Are rows that somebody changed, the first ones.
    changed: Vec<Message>,
}

impl Census {
    /// Reads every row once, and keeps nothing of it but counts and the names of files.
    fn take(connection: &Connection, path: &Path, tags: &RowKey, head: &Head) -> Result<Self, SpoolError> {
        let failed = |source| database::failure("verify the spool", path, source);
        let mut census = Self {
            tallies: [Tally::default(); State::ALL.len()],
            days: BTreeMap::new(),
            waiting: BTreeMap::new(),
            files: HashSet::new(),
            last_destination: 0,
            oldest: None,
            last: head.retired_through,
            above_retired: 0,
            queued_below: false,
            changed: Vec::new(),
        };
        let all = select_messages!("1 ORDER BY sequence");
        // One that an earlier version made has no such column yet.
        let untagged = all.replacen(", tag", ", NULL", 1);
        let sql = if head.tagged.is_some() { all } else { &untagged };
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            // What is no row of a message is missing in the counts.
            let Ok(message) = Message::read(row) else { continue };
            census.count(&message, head.retired_through);
            if census.changed.len() < CHANGED_MAX && !tags::is_whole(tags, head, &message) {
                census.changed.push(message);
            }
        }
        Ok(census)
    }

    fn count(&mut self, message: &Message, retired_through: Sequence) {
        let Message { sequence, state, bytes, destination, .. } = *message;
        if let Some(tally) = self.tallies.get_mut(usize::from(state.code())) {
            tally.messages += 1;
            tally.bytes = tally.bytes.saturating_add(bytes);
        }
        if sequence > retired_through {
            self.above_retired += 1;
            self.last = sequence;
        }
        if state == State::Queued {
            self.queued_below |= sequence <= retired_through;
            *self.waiting.entry(destination).or_default() += 1;
            self.oldest.get_or_insert((message.accepted, destination));
        }
        if state.has_content() {
            *self.days.entry(message.day).or_default() += 1;
            self.files.extend(message.file);
            self.last_destination = self.last_destination.max(destination);
        }
    }

    /// Says what is not as the head says.
    fn compare(&self, head: &Head) -> Result<(), Damage> {
        for state in State::ALL {
            let (expected, found) = (head.tally(state), self.tallies.get(usize::from(state.code())).copied());
            let found = found.unwrap_or_default();
            if found.messages != expected.messages {
                let (expected, found) = (expected.messages, found.messages);
                return Err(Damage::Rows { state: state.name(), expected, found });
            }
            if found.bytes != expected.bytes {
                return Err(Damage::Tampered("table of messages"));
            }
        }
        let expected = head.last - head.retired_through;
        if self.above_retired != expected || self.last != head.last {
            return Err(Damage::Rows { state: "unretired", expected, found: self.above_retired });
        }
        if self.queued_below { Err(Damage::Tampered("table of messages")) } else { Ok(()) }
    }
}

fn check_outbox(connection: &Connection, path: &Path, head: &Head) -> Result<(), SpoolError> {
    let sql = "SELECT coalesce((SELECT min(id) FROM outbox), 0), coalesce((SELECT max(id) FROM outbox), 0)";
    let ends = connection.query_row(sql, [], |row| Ok((read(row.get(0)?), read(row.get(1)?))));
    let (first, last) = ends.map_err(|source| database::failure("verify the outbox", path, source))?;
    let events = if last == 0 { 0 } else { last - first + 1 };
    let damaged = |damage| Err(SpoolError::Damaged { path: path.to_owned(), damage });
    if (events, last) != (head.outbox_events, if head.outbox_events == 0 { 0 } else { head.outbox_last }) {
        return damaged(Damage::Tampered("outbox"));
    }
    // They have an index; to look for others would be to read a million.
    if let Some(Tagged { decisions: expected, .. }) = head.tagged {
        let found = database::count_decisions(connection, path)?;
        if found != expected {
            return damaged(Damage::Decisions { expected, found });
        }
    }
    Ok(())
}

/// Has the log say which messages cannot be opened for the lack of their day's key: a queued one holds the feed when it
/// is read, and a copy would be missed only when somebody asks for it.
fn tell_lost_keys(connection: &Connection, path: &Path, days: &BTreeMap<i64, u64>) -> Result<(), SpoolError> {
    let failed = |source| database::failure("read the keys", path, source);
    let mut statement = connection.prepare("SELECT day FROM days").map_err(failed)?;
    let known = statement.query_map([], |row| row.get(0)).map_err(failed)?;
    let known: HashSet<i64> = known.collect::<rusqlite::Result<_>>().map_err(failed)?;
    let lost = days.iter().filter(|(day, _)| !known.contains(day));
    let (days, messages) = lost.fold((0, 0), |(days, messages), (_, count)| (days + 1, messages + count));
    if messages > 0 {
        tracing::error!(
            path = %path.display(), days, messages,
            "the keys of days are missing: what was accepted on them cannot be opened; restore the spool from a backup"
        );
    }
    Ok(())
}

/// Is what the numbers of destinations mean, and what they meant.
type Meanings = (BTreeMap<i64, Destination>, BTreeMap<i64, Vec<Former>>);

fn destinations(connection: &Connection, path: &Path, keys: &Keys) -> Result<Meanings, SpoolError> {
    let failed = |source| database::failure("read the destinations", path, source);
    let mut statement = connection.prepare("SELECT id, sealed FROM destinations").map_err(failed)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    let (mut destinations, mut formers) = (BTreeMap::new(), BTreeMap::new());
    for row in rows {
        let (id, sealed): (i64, Vec<u8>) = row.map_err(failed)?;
        let plain = keys.meta.open(&Place::new(Kind::Destination, &keys.spool, [id.unsigned_abs(), 0, 0, 0]), &sealed);
        let meaning = plain.and_then(|plain| Meaning::decode(&plain)).ok_or_else(|| SpoolError::Damaged {
            path: path.to_owned(),
            damage: Damage::Tampered("table of destinations"),
        })?;
        destinations.insert(id, meaning.destination);
        formers.insert(id, meaning.formers);
    }
    Ok((destinations, formers))
}
