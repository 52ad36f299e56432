//! Reads what a direction shall do from words: `loss=1% delay=20ms jitter=5ms reorder=1% reorder_by=10ms duplicate=1%
//! corrupt=0.1% rate=10M queue=64k mtu=1280 (drops what is longer; fragments=1280 splits it) cut=10s..50s`.
//! `there:` or `back:` before a word means that direction only.

use std::ops::Range;
use std::time::Duration;

use super::fate::{Impairment, Mtu, Rate};

/// Is for how long a packet is held back that shall be overtaken, unless said otherwise.
const REORDER_BY: Duration = Duration::from_millis(10);

/// Is the room of the queue before a rate, in bytes, unless said otherwise: 40 full packets.
const QUEUE_BYTES: u64 = 60_000;

/// Is what both directions shall do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ways {
    pub(crate) there: Impairment,
    pub(crate) back: Impairment,
}

impl Ways {
    /// Reads words, separated by blanks.
    ///
    /// # Errors
    /// Names the word that means nothing.
    pub(crate) fn parse(words: &str) -> Result<Self, String> {
        let usual = || Impairment { reorder_by: REORDER_BY, ..Impairment::default() };
        let mut ways = Self { there: usual(), back: usual() };
        let mut queues = [QUEUE_BYTES; 2];
        for word in words.split_whitespace() {
            let (there, back, bare) = match (word.strip_prefix("there:"), word.strip_prefix("back:")) {
                (Some(bare), _) => (true, false, bare),
                (_, Some(bare)) => (false, true, bare),
                _ => (true, true, word),
            };
            let [queue_there, queue_back] = &mut queues;
            for (way, queue) in [(&mut ways.there, queue_there), (&mut ways.back, queue_back)]
                .into_iter()
                .zip([there, back])
                .filter_map(|(way, is_meant)| is_meant.then_some(way))
            {
                apply(bare, way, queue).ok_or_else(|| format!("`{word}` means nothing here"))?;
            }
        }
        for (way, queue) in [&mut ways.there, &mut ways.back].into_iter().zip(queues) {
            way.rate = way.rate.map(|rate| Rate { queue_bytes: queue, ..rate });
        }
        Ok(ways)
    }
}

fn apply(word: &str, way: &mut Impairment, queue_bytes: &mut u64) -> Option<()> {
    let (key, value) = word.split_once('=')?;
    match key {
        "loss" => way.loss = probability(value)?,
        "delay" => way.delay = humantime::parse_duration(value).ok()?,
        "jitter" => way.jitter = humantime::parse_duration(value).ok()?,
        "reorder" => way.reorder = probability(value)?,
        "reorder_by" => way.reorder_by = humantime::parse_duration(value).ok()?,
        "duplicate" => way.duplicate = probability(value)?,
        "corrupt" => way.corrupt = probability(value)?,
        "rate" => way.rate = Some(Rate { bits_per_s: number(value)?, queue_bytes: 0 }),
        "queue" => *queue_bytes = number(value)?,
        "mtu" => way.mtu = Some(Mtu::Drop(number(value)?)),
        "fragments" => way.mtu = Some(Mtu::Fragment(number(value)?)),
        "cut" => way.cuts.push(range(value)?),
        _ => return None,
    }
    Some(())
}

fn probability(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// Reads a number above zero with the suffixes k, M and G: powers of 1000.
fn number(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) if text.ends_with('M') => (digits, 1_000_000),
        Some(digits) => (digits, 1_000_000_000),
        None => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|number| *number > 0)
}

fn range(text: &str) -> Option<Range<Duration>> {
    let (from, to) = text.split_once("..")?;
    let (from, to) = (humantime::parse_duration(from).ok()?, humantime::parse_duration(to).ok()?);
    (from < to).then_some(from..to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let ways =
            Ways::parse("loss=1.5% there:delay=20ms back:rate=10M back:queue=64k mtu=1280 cut=1s..2s cut=3s..4s");
        let ways = ways.expect("they mean something");
        assert_eq!((ways.there.loss, ways.back.loss), (0.015, 0.015));
        assert_eq!((ways.there.delay, ways.back.delay), (Duration::from_millis(20), Duration::ZERO));
        assert_eq!(ways.back.rate, Some(Rate { bits_per_s: 10_000_000, queue_bytes: 64_000 }));
        assert_eq!((ways.there.rate, ways.there.mtu), (None, Some(Mtu::Drop(1280))));
        assert_eq!(ways.there.cuts.len(), 2);
        let usual = Ways::parse("fragments=1280 jitter=1ms reorder=1% reorder_by=2ms duplicate=1% corrupt=1% rate=1G");
        let usual = usual.expect("they mean something").there;
        assert_eq!(usual.rate, Some(Rate { bits_per_s: 1_000_000_000, queue_bytes: QUEUE_BYTES }));
        assert_eq!((usual.mtu, usual.reorder_by), (Some(Mtu::Fragment(1280)), Duration::from_millis(2)));
        assert_eq!([usual.reorder, usual.duplicate, usual.corrupt], [0.01; 3]);
    }

    #[test]
    fn what_means_nothing_is_named() {
        for word in ["loss", "loss=1", "loss=101%", "delay=5", "cut=2s..1s", "rate=0", "rate=1T", "up:loss=1%", "x=1"] {
            let error = Ways::parse(word).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
