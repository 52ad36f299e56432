//! How much the receiver takes: large messages, a bare connection, a second one, several at once, silence (the design's
//! cases 16, 17, 19, 24, 25 and 26).
//!
//! Never sends a message above what the arguments allow.

use std::time::Duration;

use tokio::time::Instant;

use super::{AT_ONCE, Came, Doctor, Gone, Line, Outcome, Talk, code_word, millis, not_kept};
use crate::cli::doctor::facts::{SIZES, Second};
use crate::mllp::ack::AckCode;

/// Is the silence that is tried: longer than the shortest timeout that receivers are known to have, 5 s.
const IDLE: Duration = Duration::from_secs(6);

impl Doctor<'_> {
    pub(super) async fn size(&mut self) -> Result<Line, Gone> {
        let (mut came, mut did) = (Vec::new(), Vec::new());
        let bytes_max = self.size_bytes_max;
        (self.facts.largest, self.facts.too_large, self.facts.is_perhaps_slow) = (None, None, false);
        self.facts.refuses_large = None;
        // Where it refuses every message of this type, that is not for its size.
        let takes_small = self.facts.code.is_some_and(AckCode::is_positive);
        for (bytes, text) in SIZES.into_iter().filter(|(bytes, _)| *bytes <= bytes_max) {
            let message = self.messages.of_bytes(bytes);
            let mut talk = self.open().await?;
            let outcome = self.exchange(&mut talk, &message, self.timeout).await;
            self.leave(talk).await;
            did.push(text);
            let Outcome::Answered { code, after } = outcome else {
                self.facts.too_large = Some(text);
                self.facts.is_perhaps_slow = matches!(outcome, Outcome::Silence);
                came.push(format!("{text}: {}", outcome.words()));
                break;
            };
            came.push(format!("{text}: {} after {}", code_word(code), millis(after)));
            if let Some(code) = code.filter(|code| takes_small && !code.is_positive()) {
                (self.facts.too_large, self.facts.refuses_large) = (Some(text), Some(code));
                break;
            }
            self.facts.largest = Some(text);
        }
        let means = match (self.facts.too_large, self.facts.largest) {
            (Some(too_large), Some(largest)) if self.facts.refuses_large.is_some() => {
                let code = code_word(self.facts.refuses_large);
                format!("accepted up to {largest}, {code} from {too_large}: its limit is between them")
            }
            (Some(too_large), _) if self.facts.is_perhaps_slow => {
                format!("{too_large} are too large for it, or take longer than {:?} (--timeout)", self.timeout)
            }
            (Some(too_large), Some(largest)) => format!("its limit is between {largest} and {too_large}"),
            (Some(_), None) => "even a message of some KiB is too large for it".to_owned(),
            (None, _) => "no limit up to there".to_owned(),
        };
        Ok(Line::new("size", &format!("messages of {}", did.join(", ")), came.join("; "), means))
    }

    pub(super) async fn bare_connection(&mut self) -> Result<Line, Gone> {
        drop(self.open().await?);
        let mut talk = self.open().await?;
        let message = self.messages.small();
        let outcome = self.exchange(&mut talk, &message, self.patience()).await;
        self.leave(talk).await;
        self.facts.bare_harms = Some(!outcome.is_answer());
        let means = if outcome.is_answer() {
            "a connection without a message does no harm"
        } else {
            "a connection without a message keeps it from serving the next: never probe it so"
        };
        let did = "a connection without a message, closed; then one message on another";
        Ok(Line::new("bare connection", did, outcome.words(), means))
    }

    pub(super) async fn second_connection(&mut self) -> Result<Line, Gone> {
        let mut first = self.open().await?;
        if self.facts.is_kept {
            let message = self.messages.small();
            self.exchange(&mut first, &message, self.patience()).await;
        }
        let (second, came) = match Talk::open(self.to, self.patience()).await {
            Err(error) => (Second::Refused, format!("the second is not taken: {error}")),
            Ok(mut talk) => {
                let judged = self.judge_second(&mut talk, &mut first).await;
                self.leave(talk).await;
                judged
            }
        };
        // what comes next must wait until its only place is free
        self.has_turned_away |= second == Second::Refused;
        self.leave(first).await;
        self.facts.second = Some(second);
        let did = "one message on a second connection while the first stays open";
        Ok(Line::new("second connection", did, came, second.means()))
    }

    async fn judge_second(&mut self, talk: &mut Talk, first: &mut Talk) -> (Second, String) {
        let message = self.messages.small();
        let outcome = self.exchange(talk, &message, self.patience()).await;
        let words = outcome.words();
        match outcome {
            Outcome::End(_) => (Second::Refused, words),
            Outcome::Answered { .. } => {
                let again = self.messages.small();
                if self.exchange(first, &again, self.patience()).await.is_answer() {
                    (Second::Served, words)
                } else {
                    (Second::TakesOver, format!("{words}; the first is not served any more"))
                }
            }
            Outcome::Silence => {
                first.shut().await;
                let late = self.answer(talk, &message, Instant::now(), self.patience()).await;
                if late.is_answer() {
                    (Second::Waits, format!("{words}, until the first was closed: then it was served"))
                } else {
                    (Second::Unserved, format!("{words}, also when the first was closed"))
                }
            }
        }
    }

    pub(super) async fn at_once(&mut self) -> Result<Line, Gone> {
        let name = "connections at once";
        if self.facts.second != Some(Second::Served) {
            return Ok(Line::new(name, "not tried", "it serves one connection", "does not apply"));
        }
        let mut talks = Vec::new();
        for _ in 0..AT_ONCE {
            if let Ok(talk) = Talk::open(self.to, self.patience()).await {
                talks.push((talk, self.messages.small()));
            }
        }
        let (mut since, patience) = (Instant::now(), self.patience());
        for (talk, message) in &mut talks {
            talk.write(&message.frame, patience).await;
        }
        // One that serves them one after the other takes that much longer for the last, and that is not how long an
        // answer takes.
        let (mut answered, longest) = (0_usize, self.facts.longest);
        for (talk, message) in &mut talks {
            let left = (since + patience).saturating_duration_since(Instant::now());
            let served = self.answer(talk, message, since, left).await.is_answer();
            answered = answered.saturating_add(usize::from(served));
            if served {
                since = Instant::now();
            }
        }
        self.facts.longest = longest;
        for (talk, _) in talks {
            self.leave(talk).await;
        }
        self.facts.at_once = Some(answered);
        let means = if answered == AT_ONCE { "it serves that many, and perhaps more" } else { "that is its limit" };
        let did = format!("one message on each of {AT_ONCE} connections at once");
        Ok(Line::new(name, &did, format!("{answered} answers"), means))
    }

    pub(super) async fn silence(&mut self) -> Result<Line, Gone> {
        let name = "silence";
        if !self.facts.is_kept {
            return Ok(not_kept(name));
        }
        let mut talk = self.open().await?;
        let message = self.messages.small();
        self.exchange(&mut talk, &message, self.patience()).await;
        let started = Instant::now();
        let ended = loop {
            match talk.next(started + IDLE).await {
                Came::Reply(reply) if started.elapsed() < IDLE => self.note(&reply),
                Came::End(_) => break Some(started.elapsed()),
                Came::Reply(_) | Came::Silence => break None,
            }
        };
        self.leave(talk).await;
        self.facts.idle_closed = ended;
        let (came, means) = match ended {
            Some(after) => (
                format!("it closed the connection after {:.1} s", after.as_secs_f64()),
                "after such a pause a sender must connect anew; stored delivery does",
            ),
            None => ("the connection stayed open".to_owned(), "a persistent connection lasts at least so long"),
        };
        Ok(Line::new(name, &format!("one message, then {} s of silence", IDLE.as_secs()), came, means))
    }
}
