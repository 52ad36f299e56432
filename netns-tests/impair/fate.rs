//! Decides what becomes of each packet of one direction. It touches no clock, socket or randomness: the time comes in
//! as an argument, chance from a seed. The model is a link behind a tail-drop queue, as netem's and tbf's (tc-netem(8),
//! tc-tbf(8)), except that jitter alone never reorders.

use std::ops::Range;
use std::time::Duration;

/// Is what a direction does to its packets; the default does nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Impairment {
    /// Is the probability that a packet, or a fragment of it, is lost.
    pub(crate) loss: f64,
    /// Is the time that every packet takes.
    pub(crate) delay: Duration,
    /// Is how much longer or shorter it takes at the most; the order stays.
    pub(crate) jitter: Duration,
    /// Is the probability that a packet is held back, so that others overtake it.
    pub(crate) reorder: f64,
    /// Is for how long it is held back.
    pub(crate) reorder_by: Duration,
    /// Is the probability that a packet arrives twice.
    pub(crate) duplicate: f64,
    /// Is the probability that one of its bits is flipped.
    pub(crate) corrupt: f64,
    /// Bounds what passes, with the queue in front of it.
    pub(crate) rate: Option<Rate>,
    /// Bounds the length of a packet.
    pub(crate) mtu: Option<Mtu>,
    /// Lists when nothing passes, counted from the start.
    pub(crate) cuts: Vec<Range<Duration>>,
}

/// Is a rate, and the queue of what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) bits_per_s: u64,
    pub(crate) queue_bytes: u64,
}

/// Is the longest packet that passes whole, with its IP header, and what becomes of a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mtu {
    /// It is dropped without a word, as by a router that sends no ICMP.
    Drop(u64),
    /// It passes in fragments, each of which may be lost.
    Fragment(u64),
}

/// Says why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Cut,
    TooLarge,
    Chance,
    QueueFull,
}

/// Is what becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost(Lost),
    Arrives {
        /// Is when, on the clock that the packet's own time was read from.
        at: Duration,
        /// Counts the copies: one or two.
        copies: usize,
        /// Is the bit to flip, modulo their number.
        flip: Option<u64>,
    },
}

/// Counts what became of the packets of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) cut: u64,
    pub(crate) too_large: u64,
    pub(crate) lost: u64,
    pub(crate) queue_full: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
}

/// Is one direction.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    impairment: Impairment,
    chance: [Chance; 6],
    /// Is when the last packet has left the queue.
    free_at: Duration,
    /// Is when the latest packet arrives that was not held back.
    latest_at: Duration,
    counts: Counts,
}

impl Way {
    /// Makes a direction; ways of other seeds have other fates.
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Self {
        let mut seeds = Chance(seed);
        let chance = std::array::from_fn(|_| Chance(seeds.next()));
        Self { impairment, chance, free_at: Duration::ZERO, latest_at: Duration::ZERO, counts: Counts::default() }
    }

    /// Does something else to the packets from now on; chance goes on where it was.
    pub(crate) fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Counts what has become of the packets.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Decides on a packet that comes at `now`; `packet_bytes` is its length with UDP and IP headers.
    pub(crate) fn handle_packet(&mut self, now: Duration, packet_bytes: u64) -> Fate {
        // one throw each for every packet: what one impairment does changes nothing for the others
        let [loss, jitter, reorder, duplicate, corrupt, flip] = self.chance.each_mut().map(Chance::next);
        let way = &self.impairment;
        self.counts.packets += 1;
        let fragments = match way.mtu {
            Some(Mtu::Drop(mtu)) if packet_bytes > mtu => return self.lose(Lost::TooLarge),
            Some(Mtu::Fragment(mtu)) => fragments(packet_bytes, mtu),
            _ => 1,
        };
        if way.cuts.iter().any(|cut| cut.contains(&now)) {
            return self.lose(Lost::Cut);
        }
        let arrives_whole = (1.0 - way.loss).powi(i32::try_from(fragments).unwrap_or(i32::MAX));
        if !hits(loss, arrives_whole) {
            return self.lose(Lost::Chance);
        }
        let Some(left_at) = self.leaves(now, packet_bytes) else { return self.lose(Lost::QueueFull) };
        let way = &self.impairment;
        let usual = (left_at + way.delay + 2 * scaled(way.jitter, jitter)).saturating_sub(way.jitter);
        let usual = usual.max(left_at).max(self.latest_at);
        let is_reordered = hits(reorder, way.reorder);
        let at = if is_reordered { usual + way.reorder_by } else { usual };
        if !is_reordered {
            self.latest_at = at;
        }
        let (copies, is_corrupted) = (1 + usize::from(hits(duplicate, way.duplicate)), hits(corrupt, way.corrupt));
        self.counts.reordered += u64::from(is_reordered);
        self.counts.duplicated += u64::from(copies > 1);
        self.counts.corrupted += u64::from(is_corrupted);
        Fate::Arrives { at, copies, flip: is_corrupted.then_some(flip) }
    }

    /// Puts a packet into the queue, if it has room; returns when its last bit leaves it.
    fn leaves(&mut self, now: Duration, packet_bytes: u64) -> Option<Duration> {
        let Some(rate) = self.impairment.rate else { return Some(now) };
        let starts = self.free_at.max(now);
        let waits_max = time_of(rate.queue_bytes, rate.bits_per_s);
        let leaves = starts + time_of(packet_bytes, rate.bits_per_s);
        // an empty queue takes any packet, however long
        if starts > now && leaves - now > waits_max {
            return None;
        }
        self.free_at = leaves;
        Some(leaves)
    }

    /// Counts a packet as lost.
    pub(crate) fn lose(&mut self, why: Lost) -> Fate {
        let count = match why {
            Lost::Cut => &mut self.counts.cut,
            Lost::TooLarge => &mut self.counts.too_large,
            Lost::Chance => &mut self.counts.lost,
            Lost::QueueFull => &mut self.counts.queue_full,
        };
        *count += 1;
        Fate::Lost(why)
    }
}

/// Is a SplitMix64 sequence.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns a number from 0 to below 1.
fn part(throw: u64) -> f64 {
    // the 53 bits that a double holds
    (throw >> 11) as f64 / (1_u64 << 53) as f64
}

fn hits(throw: u64, probability: f64) -> bool {
    part(throw) < probability
}

fn scaled(whole: Duration, throw: u64) -> Duration {
    whole.mul_f64(part(throw))
}

/// Counts the IPv4 fragments of a packet: all but the last carry a multiple of 8 bytes (RFC 791).
fn fragments(packet_bytes: u64, mtu: u64) -> u64 {
    const HEADER_BYTES: u64 = 20;
    if packet_bytes <= mtu {
        return 1;
    }
    let each = mtu.saturating_sub(HEADER_BYTES).max(8) / 8 * 8;
    packet_bytes.saturating_sub(HEADER_BYTES).div_ceil(each)
}

/// Returns how long so many bytes take at a rate.
fn time_of(bytes: u64, bits_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(bits_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
