//! Which alarms are raised: a condition that holds for long enough raises one, one that is gone for as long clears it. Pure.
//!
//! Never starts what is raised, never clears what is not; never looks at a clock.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use super::{AlarmFacts, Condition, Key, Level};

/// Is an alarm that starts or clears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) starts: bool,
    pub(super) at: SystemTime,
    pub(super) alarm: AlarmFacts,
}

/// Is what is raised, and what may soon turn.
#[derive(Debug, Default)]
pub(super) struct Board {
    raised: BTreeMap<Key, AlarmFacts>,
    /// Is what of it stays until something shows that it is over, each with the cause that was seen last.
    lasting: BTreeMap<Key, AlarmFacts>,
    /// Is since when what would turn an alarm has been seen without a gap.
    turning: BTreeMap<Key, (Instant, SystemTime)>,
}

impl Board {
    pub(super) fn new(raised: Vec<AlarmFacts>, lasting: Vec<AlarmFacts>) -> Self {
        let key = |one: &AlarmFacts| Key { kind: one.alarm, of: one.of.clone() };
        let by_key = |all: Vec<AlarmFacts>| all.into_iter().map(|one| (key(&one), one)).collect();
        Self { raised: by_key(raised), lasting: by_key(lasting), turning: BTreeMap::new() }
    }

    /// Lists what stays until something shows that it is over.
    pub(super) fn lasting(&self) -> Vec<AlarmFacts> {
        self.lasting.values().cloned().collect()
    }

    /// Lists what is raised.
    pub(super) fn raised(&self) -> Vec<AlarmFacts> {
        self.raised.values().cloned().collect()
    }

    /// Takes everything that is watched into account; what is watched no more clears at once.
    pub(super) fn handle_look(&mut self, conditions: &[Condition], at: Instant, now: SystemTime) -> Vec<Turn> {
        let is_watched = |key: &Key| conditions.iter().any(|one| one.key == *key);
        let gone: Vec<Key> = self.raised.keys().filter(|key| !is_watched(key)).cloned().collect();
        let mut turns: Vec<Turn> =
            gone.iter().filter_map(|key| self.clear(key, now, "is watched no more, by the configuration")).collect();
        self.turning.retain(|key, _| is_watched(key));
        for condition in conditions {
            let Condition { key, level, hold, .. } = condition;
            let is_turning = match (self.raised.contains_key(key), level) {
                (false, Level::Beyond(_)) | (true, Level::Within) => true,
                (true, Level::Unknown) => !self.lasting.contains_key(key),
                (false, Level::Between | Level::Unknown | Level::Within)
                | (true, Level::Between | Level::Beyond(_)) => false,
            };
            self.note_cause(condition);
            if !is_turning {
                self.turning.remove(key);
                continue;
            }
            let (first, since) = *self.turning.entry(key.clone()).or_insert((at, now));
            if at.saturating_duration_since(first) < *hold {
                continue;
            }
            self.turning.remove(key);
            turns.extend(match level {
                Level::Beyond(cause) => {
                    let turn = self.start(key, since, now, cause);
                    self.note_cause(condition);
                    Some(turn)
                }
                Level::Between | Level::Unknown | Level::Within => self.clear(key, now, ""),
            });
        }
        turns
    }

    /// Has what is raised say what is so now; of what is not known any more, what was seen last.
    fn note_cause(&mut self, Condition { key, level, lasts, .. }: &Condition) {
        let Some(raised) = self.raised.get_mut(key) else { return };
        match level {
            Level::Beyond(cause) => {
                raised.cause.clone_from(cause);
                if *lasts {
                    self.lasting.insert(key.clone(), raised.clone());
                }
            }
            Level::Unknown => {
                if let Some(seen) = self.lasting.get(key) {
                    raised.cause = format!("{}; nothing tells yet whether it still is so", seen.cause);
                }
            }
            Level::Between | Level::Within => {}
        }
    }

    fn start(&mut self, key: &Key, since: SystemTime, at: SystemTime, cause: &str) -> Turn {
        let alarm = AlarmFacts { alarm: key.kind, of: key.of.clone(), since, cause: cause.to_owned() };
        self.raised.insert(key.clone(), alarm.clone());
        Turn { starts: true, at, alarm }
    }

    /// Clears one; its last cause stands in what is told, unless there is another.
    fn clear(&mut self, key: &Key, at: SystemTime, cause: &str) -> Option<Turn> {
        let mut alarm = self.raised.remove(key)?;
        // That nothing tells is over now.
        if let Some(seen) = self.lasting.remove(key)
            && alarm.cause.starts_with(&seen.cause)
        {
            alarm.cause = seen.cause;
        }
        if !cause.is_empty() {
            cause.clone_into(&mut alarm.cause);
        }
        Some(Turn { starts: false, at, alarm })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::Kind;
    use super::*;

    const HOLD: Duration = Duration::from_secs(60);

    fn condition(of: &str, level: Level) -> Condition {
        Condition { key: Key { kind: Kind::Down, of: of.to_owned() }, level, hold: HOLD, lasts: false }
    }

    fn beyond() -> Level {
        Level::Beyond("it is down".to_owned())
    }

    #[test]
    fn what_does_not_last_is_no_alarm_and_what_does_is_told_once() {
        let (mut board, start) = (Board::default(), Instant::now());
        let mut look = |seconds: u64, level: Level| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let turns = board.handle_look(&[condition("a", level)], start + Duration::from_secs(seconds), now);
            turns.into_iter().map(|turn| (turn.starts, turn.alarm.since)).collect::<Vec<_>>()
        };
        let since = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(look(0, beyond()), []);
        assert_eq!(look(59, beyond()), []);
        assert_eq!(look(60, Level::Between), [], "it did not last");
        assert_eq!(look(61, beyond()), []);
        assert_eq!(look(120, beyond()), []);
        assert_eq!(look(121, beyond()), [(true, since(61))]);
        assert_eq!(look(500, beyond()), [], "once");
        assert_eq!(look(501, Level::Within), []);
        assert_eq!(look(560, beyond()), [], "it was not gone for long");
        assert_eq!(look(561, Level::Within), []);
        assert_eq!(look(600, Level::Between), []);
        assert_eq!(look(601, Level::Within), []);
        assert_eq!(look(661, Level::Within), [(false, since(61))]);
        assert_eq!(look(999, Level::Within), []);
    }

    proptest! {
        /// Whatever comes, restarts and what is watched no more included: a start and a clear take turns, what is raised is
        /// what was told, and what lasts is told.
        #[test]
        fn a_start_and_a_clear_take_turns(
            looks in proptest::collection::vec((0_u8..4, 0_u8..4, 0_u64..90, any::<bool>()), 0..200),
        ) {
            let (mut board, mut at) = (Board::default(), Instant::now());
            let mut told: BTreeSet<String> = BTreeSet::new();
            let mut lasting: [Option<(bool, Instant)>; 2] = [None, None];
            for (first, second, pause, restarts) in looks {
                at += Duration::from_secs(pause);
                if restarts {
                    board = Board::new(board.raised(), board.lasting());
                    lasting = [None, None];
                }
                let mut conditions = Vec::new();
                for ((of, level), lasts) in [("a", first), ("b", second)].into_iter().zip(&mut lasting) {
                    let level = match level {
                        0 => { *lasts = None; continue },
                        1 => Level::Between,
                        2 => Level::Within,
                        _ => beyond(),
                    };
                    *lasts = match (&level, *lasts) {
                        (Level::Between, _) => None,
                        (level, Some((is_beyond, since))) if is_beyond == (*level == beyond()) => Some((is_beyond, since)),
                        (level, _) => Some((*level == beyond(), at)),
                    };
                    conditions.push(condition(of, level));
                }
                for turn in board.handle_look(&conditions, at, SystemTime::UNIX_EPOCH) {
                    let of = turn.alarm.of;
                    if turn.starts {
                        prop_assert!(told.insert(of.clone()), "{} started twice", of);
                    } else {
                        prop_assert!(told.remove(&of), "{} cleared and was not raised", of);
                    }
                }
                let raised: BTreeSet<String> = board.raised().into_iter().map(|one| one.of).collect();
                prop_assert_eq!(&raised, &told);
                for (of, lasts) in ["a", "b"].iter().zip(&lasting) {
                    if let Some((is_beyond, since)) = lasts && at - *since >= HOLD {
                        prop_assert_eq!(told.contains(*of), *is_beyond);
                    }
                }
            }
        }
    }
}
