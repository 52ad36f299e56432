//! What two sites know of each other's audit logs: each keeps the other's heads, and says which it keeps. Pure.
//!
//! Never believes a head of this site's own that this site did not give out: its proof is made with the key of the log. So
//! a peer can make up no entry of it; whoever writes the log anew cannot make the peer forget. That a peer keeps a head of
//! another key is named all the same, for who takes the log away takes its key too: so much a peer can feign.

mod ended;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::chain::Chain;
use ended::ENDED_MAX;
pub use ended::Ended;

/// Separates what the key of the account is used for: proofs. (`mllp::trace` has 1 and 2, `chain` 3.)
const PROOF: u8 = 4;
/// A head is kept of each hour, in seconds ...
const HOUR: u64 = 3600;
/// ... for a day, and of each ten days after it.
const DAY: u64 = 24 * HOUR;
const TEN_DAYS: u64 = 10 * DAY;
/// Bounds the heads that are kept of one peer: a day of hours, and more than the ten years that a log may be kept.
const KEPT_MAX: usize = 512;
/// Bounds what is kept of what a peer keeps: what one sends, twice.
const TOLD_MAX: usize = 1024;
/// Bounds what is remembered of what was said since the start: hours of ten peers' questions.
const ISSUED_MAX: usize = 16_384;
/// Is how many of the older heads are sent at once, beside the latest and that of the log which ended last ...
const SENT_AT_ONCE: usize = 3;
/// ... and how many of those that were the latest before a link.
const EVES_AT_ONCE: usize = 2;
/// Bounds the heads that are sent first because they were the latest before a link.
const EVES_MAX: usize = 32;
/// A head that goes back may have been said before the latest, and have come later by another link, for so many seconds:
/// longer than a link waits for an echo. What is another log says so again.
const LATE: u64 = 10;

/// Is how far a log goes: its last entry, the hash at it, and the proof that its site said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Is the entry.
    pub n: u64,
    /// Is the hash at it.
    pub chain: Chain,
    /// Is the begin of HMAC-SHA256(key, 4, entry, hash).
    pub proof: [u8; 16],
}

/// Is what one site says to the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heads {
    /// Is the head of its own log.
    pub own: Option<Head>,
    /// Are heads of the other's log that it keeps.
    pub kept: Vec<Head>,
}

/// Makes and judges proofs.
#[derive(Clone)]
pub struct ProofKey(Hmac<Sha256>);

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(hidden)")
    }
}

impl ProofKey {
    /// Takes the key of the account.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&[PROOF]);
        Self(mac)
    }

    fn mac(&self, n: u64, chain: &Chain) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&n.to_be_bytes());
        mac.update(&chain.0);
        mac
    }

    /// Says how far this site's log goes.
    pub fn head(&self, n: u64, chain: Chain) -> Head {
        let whole: [u8; 32] = self.mac(n, &chain).finalize().into_bytes().into();
        let mut proof = [0; 16];
        for (to, from) in proof.iter_mut().zip(whole) {
            *to = from;
        }
        Head { n, chain, proof }
    }

    /// Tells whether this site said so.
    pub fn is_own(&self, head: &Head) -> bool {
        self.mac(head.n, &head.chain).verify_truncated_left(&head.proof).is_ok()
    }
}

/// Is a head in a file: entry, hash and proof in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Line {
    n: u64,
    chain: String,
    proof: String,
}

impl From<&Head> for Line {
    fn from(head: &Head) -> Self {
        let proof = head.proof.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { n: head.n, chain: head.chain.to_string(), proof }
    }
}

impl Line {
    fn head(&self) -> Option<Head> {
        let chain = Chain::from_hex(self.chain.as_bytes())?;
        let mut proof = [0; 16];
        for (byte, pair) in proof.iter_mut().zip(self.proof.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Head { n: self.n, chain, proof })
    }
}

/// Is a head of a peer's log, with when it came, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    at: u64,
    #[serde(flatten)]
    head: Line,
}

/// Is what this start of the site said of its own log.
#[derive(Debug, Clone, Default)]
pub struct Issued {
    /// Is where the log ended at the start, once that is known.
    pub after: Option<u64>,
    /// Is what an operator accepted.
    pub accepted: Accepted,
    heads: BTreeMap<u64, Chain>,
}

impl Issued {
    /// Takes note of what is said.
    pub fn note(&mut self, head: &Head) {
        self.heads.insert(head.n, head.chain);
        if self.heads.len() > ISSUED_MAX {
            self.heads.pop_first();
        }
    }

    /// Tells whether a head that this site said is of another story than the log has: it is beyond where the log ended at
    /// the start, and was not said since. What is before that, `wardlink audit verify` compares.
    fn is_contradicted_by(&self, head: &Head) -> bool {
        let is_forgotten =
            self.heads.len() >= ISSUED_MAX && self.heads.keys().next().is_some_and(|first| head.n < *first);
        self.after.is_some_and(|after| head.n > after)
            && head.n > self.accepted.own
            && !is_forgotten
            && self.heads.get(&head.n) != Some(&head.chain)
    }

    /// Tells whether a head that this site said is to be compared with the files: it is of before the start.
    fn is_of_files(&self, head: &Head) -> bool {
        head.n > self.accepted.own && self.after.is_some_and(|after| head.n <= after)
    }
}

/// Is up to where an operator accepted that this log is another one than peers were told of; 0: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accepted {
    /// Is the last entry of this log's own key that is not judged.
    pub own: u64,
    /// Is the last entry of another key that is not.
    pub foreign: u64,
}

/// Is what this site knows together with one peer; the file has it as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// Are heads of the peer's log, oldest first; the last one is the latest.
    kept: Vec<Kept>,
    /// Are heads of this site's log that the peer keeps.
    told: BTreeSet<Line>,
    /// Is the furthest head that the peer keeps of a log of this site that another key made.
    foreign: Option<Line>,
    /// Are logs of the peer's that ended, and that no operator has accepted: the first ones, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ended: Vec<Ended>,
    /// Says which of the older heads are sent next.
    #[serde(skip)]
    next: usize,
    /// Tells that this site's log was found to be another one than the peer was told of, since the start.
    #[serde(skip)]
    is_accused: bool,
    /// Tells that the peer keeps a head of it that another key made, and that this was said since the start.
    #[serde(skip)]
    is_foreign: bool,
    /// Tells that the peer's head was taken on the links that are there: the next one takes the place of the latest.
    #[serde(skip)]
    is_going: bool,
    /// Are heads of the peer's log that were the latest when a link began: sent first.
    #[serde(skip)]
    eves: Vec<Head>,
    /// Are heads of this site's log to be compared with its files, and those that were since the start.
    #[serde(skip)]
    waiting: BTreeSet<Line>,
    #[serde(skip)]
    compared: BTreeSet<Line>,
    /// Tells that there is something to write.
    #[serde(skip)]
    pub(super) is_changed: bool,
}

/// Says what is wrong with a log, by what two sites know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The peer's log is shorter than it was, or another one.
    PeersLog(String),
    /// This site's log is shorter than it was, or was begun anew.
    OwnLog(String),
}

impl Known {
    /// Takes note that a link with the peer begins: its log may be another one than on the link before.
    pub fn begin(&mut self) {
        self.is_going = false;
    }

    /// Tells whether each head is one: a file that somebody touched may have anything.
    pub fn is_readable(&self) -> bool {
        let kept = self.kept.iter().map(|kept| &kept.head);
        let is_head = |line: &Line| line.head().is_some();
        kept.chain(&self.told).chain(&self.foreign).all(is_head) && self.ended.iter().all(|one| one.head().is_some())
    }

    /// Returns heads of the peer's log that this site keeps: the latest, that of the log which ended last, those that
    /// were the latest before a link, others in turn.
    pub fn poll_kept(&mut self) -> Vec<Head> {
        let mut sent: Vec<Head> = self.kept.last().and_then(|kept| kept.head.head()).into_iter().collect();
        sent.extend(self.ended.last().and_then(Ended::head));
        sent.extend(self.eves.drain(..EVES_AT_ONCE.min(self.eves.len())));
        let older = self.kept.len().saturating_sub(1);
        let count = older + self.ended.len();
        for _ in 0..SENT_AT_ONCE.min(count) {
            self.next = (self.next + 1) % count;
            sent.extend(match self.next.checked_sub(older) {
                Some(ended) => self.ended.get(ended).and_then(Ended::head),
                None => self.kept.get(self.next).and_then(|kept| kept.head.head()),
            });
        }
        sent
    }

    /// Lists the heads of this site's log that the peer keeps.
    pub fn told(&self) -> impl Iterator<Item = Head> {
        self.told.iter().filter_map(Line::head)
    }

    /// Returns the furthest head that the peer keeps of a log that another key made.
    pub fn foreign(&self, key: &ProofKey) -> Option<Head> {
        self.foreign.as_ref().and_then(Line::head).filter(|head| !key.is_own(head))
    }

    /// Takes in what the peer says, at a time in seconds since 1970; `issued` is what this start of the site said.
    pub fn handle_heads(&mut self, heads: &Heads, issued: &Issued, key: &ProofKey, now: u64) -> Vec<News> {
        let mut news = Vec::new();
        news.extend(heads.own.as_ref().and_then(|head| self.handle_peers(head, now)));
        let foreign = heads.kept.iter().filter(|head| !key.is_own(head)).max_by_key(|head| head.n);
        if let Some(head) = foreign.filter(|head| self.foreign(key).is_none_or(|known| known.n < head.n)) {
            self.foreign = Some(Line::from(head));
            self.is_changed = true;
        }
        if let Some(head) = foreign.filter(|head| head.n > issued.accepted.foreign)
            && !std::mem::replace(&mut self.is_foreign, true)
        {
            let text = format!("the peer knows one up to entry {} that another key made: it was begun anew", head.n);
            news.push(News::OwnLog(text));
        }
        for head in heads.kept.iter().filter(|head| key.is_own(head)) {
            self.is_changed |= self.told.insert(Line::from(head));
            if issued.is_contradicted_by(head) && !std::mem::replace(&mut self.is_accused, true) {
                let began = issued.after.unwrap_or_default();
                let text =
                    format!("it ended at entry {began} at the start, and the peer had been told of entry {}", head.n);
                news.push(News::OwnLog(text));
            }
            if issued.is_of_files(head) && self.waiting.len() < TOLD_MAX && !self.compared.contains(&Line::from(head)) {
                self.waiting.insert(Line::from(head));
            }
        }
        while self.told.len() > TOLD_MAX {
            self.told.pop_first();
        }
        news
    }

    /// Returns the last of the heads that wait to be compared with the files of this site's log.
    pub fn waiting(&self) -> Option<u64> {
        self.waiting.last().map(|line| line.n)
    }

    /// Takes those from an entry on; each is compared once in a start.
    pub fn take_waiting(&mut self, from: u64) -> Vec<Head> {
        let least = Line { n: from, chain: String::new(), proof: String::new() };
        let taken = self.waiting.split_off(&least);
        let heads = taken.iter().filter_map(Line::head).collect();
        if self.compared.len() > TOLD_MAX {
            self.compared.clear();
        }
        self.compared.extend(taken);
        heads
    }

    /// Takes in what the files have in place of heads that the peer keeps.
    pub fn handle_files(&mut self, heads: &[Head], found: &BTreeMap<u64, Chain>) -> Option<News> {
        let other = heads.iter().find(|head| found.get(&head.n) != Some(&head.chain))?;
        let text = match found.contains_key(&other.n) {
            true => format!("entry {} is not the one that the peer was told of", other.n),
            false => format!("entry {}, which the peer was told of, is gone", other.n),
        };
        (!std::mem::replace(&mut self.is_accused, true)).then_some(News::OwnLog(text))
    }

    /// Takes in how far the peer's log goes. One that goes back is another log from there on: its heads are kept as
    /// well, and how far the one before went stands until an operator accepts it.
    fn handle_peers(&mut self, head: &Head, now: u64) -> Option<News> {
        let latest = self.kept.last().and_then(|kept| Some((kept.at, kept.head.head()?)));
        let is_other = |latest: &Head| head.n < latest.n || (head.n == latest.n && head.chain != latest.chain);
        let ended = latest.filter(|(_, latest)| is_other(latest));
        let is_late = |(at, latest): (u64, Head)| head.n < latest.n && now.abs_diff(at) < LATE;
        if ended.is_some_and(|ended| is_late(ended) || self.ended.len() >= ENDED_MAX) {
            return None;
        }
        let is_going = std::mem::replace(&mut self.is_going, true) && ended.is_none();
        let latest = latest.map(|(_, latest)| latest);
        let Some((_, ended)) = ended else {
            if latest.is_none_or(|latest| latest.n < head.n) {
                self.keep(head, latest, is_going, now);
            }
            return None;
        };
        let ended = Ended::new(now, &ended, head);
        let text = ended.to_string();
        self.ended.push(ended);
        self.keep(head, latest, is_going, now);
        Some(News::PeersLog(text))
    }

    /// Keeps a head as the latest.
    fn keep(&mut self, head: &Head, latest: Option<Head>, is_going: bool, now: u64) {
        self.is_changed = true;
        // The latest takes the place of the one before, unless that is the first of its hour.
        let hour = |at: u64| at / HOUR;
        if let (false, Some(last)) = (is_going, self.kept.last_mut()) {
            // What was the latest before the link, or before the log went back, may be what another log goes over: it
            // stays for a day from now on, and is given back at once.
            last.at = now;
            self.eves.extend(latest.filter(|_| self.eves.len() < EVES_MAX));
            self.kept.push(Kept { at: now, head: Line::from(head) });
            self.thin(now);
            return;
        }
        let before = self.kept.len().checked_sub(2).and_then(|place| self.kept.get(place)).map(|kept| hour(kept.at));
        if self.kept.last().is_some_and(|last| before == Some(hour(last.at))) {
            self.kept.pop();
        }
        self.kept.push(Kept { at: now, head: Line::from(head) });
        self.thin(now);
    }

    /// Lets go of what is older than a day, but for the first of each ten days.
    fn thin(&mut self, now: u64) {
        let mut before = None;
        self.kept.retain(|kept| {
            let is_first = before.replace(kept.at / TEN_DAYS) != Some(kept.at / TEN_DAYS);
            is_first || now.saturating_sub(kept.at) < DAY
        });
        // Of too many, the oldest of the last day go: those of years are few.
        let surplus = self.kept.len().saturating_sub(KEPT_MAX);
        let day = self.kept.partition_point(|kept| now.saturating_sub(kept.at) >= DAY);
        let first = day.min(self.kept.len() - surplus);
        self.kept.drain(first..first + surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    impl Known {
        /// Has what is kept of the peer be older.
        pub(in crate::audit) fn age(&mut self, seconds: u64) {
            self.kept.iter_mut().for_each(|kept| kept.at -= seconds);
        }
    }

    fn key() -> ProofKey {
        ProofKey::new(&[7; 32])
    }

    fn heads(n: u64) -> Heads {
        Heads { own: Some(key().head(n, Chain([u8::try_from(n % 250).unwrap(); 32]))), kept: Vec::new() }
    }

    #[test]
    fn what_a_peer_keeps_is_believed_only_where_this_site_said_it() {
        let mut known = Known::default();
        let mut issued = Issued { after: Some(5), ..Issued::default() };
        issued.note(&key().head(7, Chain([7; 32])));
        let (said, made_up) = (key().head(4, Chain([4; 32])), ProofKey::new(&[8; 32]).head(9, Chain([9; 32])));
        let heads = Heads { own: None, kept: vec![said, made_up] };
        let news = known.handle_heads(&heads, &issued, &key(), NOW);
        let text = "the peer knows one up to entry 9 that another key made: it was begun anew";
        assert_eq!(news, [News::OwnLog(text.to_owned())], "a log that is gone with its key shows");
        assert_eq!(known.handle_heads(&heads, &issued, &key(), NOW), [], "once");
        assert_eq!(known.told().collect::<Vec<_>>(), [said]);
        let ahead = Heads { own: None, kept: vec![key().head(7, Chain([7; 32])), key().head(8, Chain([8; 32]))] };
        let news = known.handle_heads(&ahead, &issued, &key(), NOW);
        let text = "it ended at entry 5 at the start, and the peer had been told of entry 8";
        assert_eq!(news, [News::OwnLog(text.to_owned())]);
        assert_eq!(known.handle_heads(&ahead, &issued, &key(), NOW), [], "once");
    }

    #[test]
    fn a_peers_log_that_is_shorter_or_another_one_is_named_once_and_what_was_is_kept() {
        let mut known = Known::default();
        for n in [3, 7, 7, 9] {
            assert_eq!(known.handle_heads(&heads(n), &Issued::default(), &key(), NOW), []);
        }
        let news = known.handle_heads(&heads(4), &Issued::default(), &key(), NOW + 10);
        assert!(matches!(&news[..], [News::PeersLog(text)] if text.contains("went on to entry 9")), "{news:?}");
        assert_eq!(known.handle_heads(&heads(5), &Issued::default(), &key(), NOW + 20), []);
        let sent: Vec<u64> = known.poll_kept().iter().map(|head| head.n).collect();
        assert_eq!(sent[..2], [5, 9], "both have their witness");
        let other = Heads { own: Some(key().head(5, Chain([1; 32]))), kept: Vec::new() };
        let news = known.handle_heads(&other, &Issued::default(), &key(), NOW + 21);
        assert_eq!(news, [News::PeersLog("entry 5 is another one than it was".to_owned())]);
        assert_eq!(known.handle_heads(&heads(10), &Issued::default(), &key(), NOW + 40), []);
        assert_eq!(known.poll_kept()[0].n, 10);
        // also where it has gone further by now, and over a restart
        let mut known: Known = serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap();
        assert_eq!(known.standing(), Some((NOW + 10, "entry 5 is another one than it was".to_owned())));
        let accepted = known.ended().to_vec();
        assert_eq!((known.accept(&accepted).len(), known.standing()), (2, None));
        let news = known.handle_heads(&heads(6), &Issued::default(), &key(), NOW + 60);
        assert_eq!((news.len(), known.accept(&accepted).len(), known.ended().len()), (1, 0, 1), "not what comes later");
    }

    #[test]
    fn a_head_that_comes_late_by_another_link_is_no_other_log() {
        let mut known = Known::default();
        for (n, seconds) in [(3, 0), (9, 60), (8, 62), (9, 65), (12, 66)] {
            let news = known.handle_heads(&heads(n), &Issued::default(), &key(), NOW + seconds);
            assert_eq!((news, known.standing()), (vec![], None), "{n}");
        }
        assert_eq!(known.poll_kept()[0].n, 12);
        for (seconds, count) in [(70, 0), (75, 0), (76, 1), (81, 0)] {
            let news = known.handle_heads(&heads(10), &Issued::default(), &key(), NOW + seconds);
            assert_eq!(news.len(), count, "said again it is one");
        }
    }

    #[test]
    fn a_peer_that_tells_now_this_and_now_that_fills_nothing_and_hides_nothing() {
        let mut known = Known::default();
        let mut said = 0;
        for (n, seconds) in [99, 5].into_iter().chain((0..1000).map(|n| n % 2 * 20)).zip((0..).step_by(20)) {
            said += known.handle_heads(&heads(n), &Issued::default(), &key(), NOW + seconds).len();
        }
        assert_eq!((said, known.ended().len()), (ENDED_MAX, ENDED_MAX));
        let sent: BTreeSet<u64> = (0..40).flat_map(|_| known.poll_kept()).map(|head| head.n).collect();
        assert!(sent.contains(&99), "{sent:?}");
    }

    #[test]
    fn of_years_a_few_heads_are_kept_and_all_are_sent_in_turn() {
        let mut known = Known::default();
        for n in 1..20_000 {
            known.handle_heads(&heads(n), &Issued::default(), &key(), NOW + n * 1800);
        }
        let kept = known.kept.len();
        assert!((40..120).contains(&kept), "{kept}");
        let sent: BTreeSet<u64> = (0..kept).flat_map(|_| known.poll_kept()).map(|head| head.n).collect();
        assert_eq!(sent.len(), kept);
        assert!(known.is_changed);
        let text = serde_json::to_string(&known).unwrap();
        let again: Known = serde_json::from_str(&text).unwrap();
        assert_eq!((again.kept, again.told), (known.kept, known.told));
    }
}
