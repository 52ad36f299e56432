//! The probes, one after the other: what is done to the receiver, what comes, and what that means.
//!
//! Never waits without a deadline, never opens more than [`AT_ONCE`] connections, never sends on a connection whose
//! state an earlier probe has spoiled. The cases are those of the design of MLLP; `first` has the first message,
//! `framing` what a connection and its frames may look like, `capacity` how much the receiver takes.

mod capacity;
mod first;
mod framing;
mod other;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::facts::Facts;
use super::messages::{Message, Messages};
use super::talk::{Came, End, Reply, Talk};
use crate::mllp::ack::AckCode;

/// Is how many connections are tried at once.
pub(super) const AT_ONCE: usize = 8;

/// Is how many messages measure the answer's time.
const TIMED: usize = 10;

/// Is what the wait for an answer has beside ten times the longest so far: a busy machine, a segment that is sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Is how long a receiver gets to close, or to say more, after its answer.
const AFTERTHOUGHT: Duration = Duration::from_millis(300);

/// Is how long a receiver that refuses connections may be away before it counts as gone.
const AWAY: Duration = Duration::from_secs(3);

/// Is how long a receiver that has turned a connection away gets to free the place of the one before, and then to turn
/// the next one away.
const SETTLING: Duration = Duration::from_millis(200);

/// Limits the frames that are looked at while one answer is awaited: a receiver that pours out frames ends no probe.
const FRAMES_MAX: usize = 256;

/// Is how many times `--timeout` all probes may take together: a minute for a timeout of 5 s.
const TIMEOUTS_MAX: u32 = 11;

/// Says why a probe was not done, or not to its end.
const TIME_IS_UP: &str = "the time is up; a longer --timeout gives more of it";

/// Is what one probe found.
#[derive(Serialize)]
pub(super) struct Line {
    /// Names the probe.
    pub(super) probe: &'static str,
    /// Says what was done.
    pub(super) did: String,
    /// Says what came of it.
    pub(super) came: String,
    /// Says what it means.
    pub(super) means: String,
}

impl Line {
    fn new(probe: &'static str, did: &str, came: impl Into<String>, means: impl Into<String>) -> Self {
        Self { probe, did: did.to_owned(), came: came.into(), means: means.into() }
    }
}

/// Is how the wait for an answer ended.
#[derive(Clone, Copy)]
enum Outcome {
    Answered { code: Option<AckCode>, after: Duration },
    Silence,
    End(End),
}

impl Outcome {
    fn is_answer(self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    fn words(self) -> String {
        match self {
            Self::Answered { code, after } => format!("{} after {}", code_word(code), millis(after)),
            Self::Silence => "no answer".to_owned(),
            Self::End(end) => format!("no answer, {}", end.words()),
        }
    }
}

fn code_word(code: Option<AckCode>) -> &'static str {
    code.map_or("a frame without MSA", AckCode::code)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Is the news that the receiver takes no connection any more.
struct Gone;

/// Lists the probes in their order: what others build on first, what may harm the receiver late.
const PROBES: [(&str, Probe); 13] = [
    ("connection", Probe::Kept),
    ("answer time", Probe::AnswerTime),
    ("pipelining", Probe::Pipelining),
    ("frame in pieces", Probe::Pieces),
    ("line end behind", Probe::Stray { name: "line end behind", byte: b'\n' }),
    ("NUL behind", Probe::Stray { name: "NUL behind", byte: 0 }),
    ("half-close", Probe::HalfClose),
    ("both answers", Probe::Both),
    ("bare connection", Probe::Bare),
    ("second connection", Probe::Second),
    ("connections at once", Probe::AtOnce),
    ("silence", Probe::Idle),
    ("size", Probe::Size),
];

#[derive(Clone, Copy)]
enum Probe {
    Kept,
    AnswerTime,
    Pipelining,
    Pieces,
    Stray { name: &'static str, byte: u8 },
    HalfClose,
    Both,
    Bare,
    Second,
    AtOnce,
    Idle,
    Size,
}

/// Says how the whole ended.
pub(super) enum Verdict {
    /// The receiver answers: there is a profile.
    Profiled,
    /// No connection, or no answer: there is none. Says why, and what to do.
    Nothing { reason: String, advice: &'static str },
}

/// Probes one receiver.
pub(super) struct Doctor<'a> {
    to: &'a str,
    timeout: Duration,
    size_bytes_max: usize,
    messages: Messages,
    sent: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
    /// Says that it has turned a connection away: perhaps only since the place of the one before was not free yet.
    has_turned_away: bool,
    report: &'a mut dyn FnMut(Line),
    /// Is what is known so far.
    pub(super) facts: Facts,
}

impl<'a> Doctor<'a> {
    /// Gets ready; `report` takes each line as it is found.
    pub(super) fn new(
        to: &'a str,
        timeout: Duration,
        size_bytes_max: usize,
        messages: Messages,
        report: &'a mut dyn FnMut(Line),
    ) -> Self {
        let (sent, answered, facts) = (Vec::new(), Vec::new(), Facts::default());
        let has_turned_away = false;
        Self { to, timeout, size_bytes_max, messages, sent, answered, has_turned_away, report, facts }
    }

    /// Does every probe that the receiver and the time allow.
    pub(super) async fn run(&mut self) -> Verdict {
        let deadline = Instant::now() + self.timeout.saturating_mul(TIMEOUTS_MAX);
        if let Err((reason, advice)) = self.first().await {
            return Verdict::Nothing { reason, advice };
        }
        let mut reason = None;
        for (name, probe) in PROBES {
            reason = reason.or((Instant::now() >= deadline).then_some(TIME_IS_UP));
            let line = match reason {
                Some(reason) => Line::new(name, "not tried", reason, "nothing is known of it"),
                None => match timeout_at(deadline, self.probe_twice(probe)).await {
                    Ok(Ok(line)) => line,
                    Ok(Err(Gone)) => {
                        self.facts.gone_at = Some(name);
                        reason = Some("the receiver takes no connections any more");
                        let means = "look at the receiver: this probe, or the one before, ended it";
                        Line::new(name, "a connection", "the receiver takes none any more", means)
                    }
                    Err(_) => Line::new(name, "not finished", TIME_IS_UP, "nothing more is known of it"),
                },
            };
            (self.report)(line);
        }
        Verdict::Profiled
    }

    /// Does a probe, and does it again with care where it met the first connection that was turned away.
    async fn probe_twice(&mut self, probe: Probe) -> Result<Line, Gone> {
        let was_careful = self.has_turned_away;
        let line = self.probe(probe).await?;
        if was_careful || !self.has_turned_away {
            return Ok(line);
        }
        sleep(SETTLING).await;
        self.probe(probe).await
    }

    async fn probe(&mut self, probe: Probe) -> Result<Line, Gone> {
        match probe {
            Probe::Kept => self.kept().await,
            Probe::AnswerTime => self.answer_time().await,
            Probe::Pipelining => self.pipelining().await,
            Probe::Pieces => self.pieces().await,
            Probe::Stray { name, byte } => self.stray(name, byte).await,
            Probe::HalfClose => self.half_close().await,
            Probe::Both => self.both_answers().await,
            Probe::Bare => self.bare_connection().await,
            Probe::Second => self.second_connection().await,
            Probe::AtOnce => self.at_once().await,
            Probe::Idle => self.silence().await,
            Probe::Size => self.size().await,
        }
    }

    async fn kept(&mut self) -> Result<Line, Gone> {
        let did = "two messages on one connection, one after the other";
        let mut talk = self.open().await?;
        let message = self.messages.small();
        let first = self.exchange(&mut talk, &message, self.patience()).await;
        let closed = self.afterthought(&mut talk).await;
        let second = match closed {
            Some(end) => Outcome::End(end),
            None => {
                let message = self.messages.small();
                self.exchange(&mut talk, &message, self.patience()).await
            }
        };
        self.leave(talk).await;
        self.facts.is_kept = first.is_answer() && second.is_answer();
        let came = format!("{}; then {}", first.words(), second.words());
        let means = if self.facts.is_kept {
            "it keeps a connection open: persistent"
        } else if closed == Some(End::Closed) {
            "it takes one message a connection, and closes"
        } else {
            "it does not serve a second message on a connection: one message each"
        };
        Ok(Line::new("connection", did, came, means))
    }

    async fn answer_time(&mut self) -> Result<Line, Gone> {
        let mut times = Vec::new();
        let repeated_before = self.facts.quirks.repeated;
        let mut talk = self.open().await?;
        for number in 0..TIMED {
            if number > 0 && !self.facts.is_kept {
                self.leave(talk).await;
                talk = self.open().await?;
            }
            let message = self.messages.small();
            if let Outcome::Answered { after, .. } = self.exchange(&mut talk, &message, self.patience()).await {
                times.push(after);
            }
        }
        self.leave(talk).await;
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let longest = times.last().copied().unwrap_or_default();
        self.facts.median = median;
        let mut came = format!("{} answers, median {}, longest {}", times.len(), millis(median), millis(longest));
        let repeated = self.facts.quirks.repeated.saturating_sub(repeated_before);
        if repeated > 0 {
            came = format!("{came}; and {repeated} answers came again");
        }
        let did = format!("{TIMED} messages, each after the answer to the one before");
        let means = if times.len() < TIMED {
            "it leaves messages unanswered: a sender must send them again"
        } else {
            "the wait for an answer (ack_timeout) is to be far above that"
        };
        Ok(Line::new("answer time", &did, came, means))
    }

    /// Connects, also to a receiver that is away for a moment, or whose only place is not free yet.
    async fn open(&mut self) -> Result<Talk, Gone> {
        let deadline = Instant::now() + AWAY;
        loop {
            if self.has_turned_away {
                sleep(SETTLING).await;
            }
            match Talk::open(self.to, self.timeout).await {
                Ok(talk) if !self.has_turned_away => return Ok(talk),
                Ok(mut talk) => {
                    self.pause(&mut talk, SETTLING).await;
                    if !talk.is_turned_away() {
                        return Ok(talk);
                    }
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            if Instant::now() >= deadline {
                return Err(Gone);
            }
        }
    }

    /// Ends a connection, and keeps what was seen on it.
    async fn leave(&mut self, talk: Talk) {
        self.facts.anomalies.extend(talk.anomalies().iter().copied());
        self.has_turned_away |= talk.is_turned_away();
        talk.farewell().await;
    }

    /// Returns how long an answer is waited for, now that it is known how long they take.
    fn patience(&self) -> Duration {
        self.timeout.min(self.facts.longest.saturating_mul(10).saturating_add(PATIENCE))
    }

    /// Sends a message and waits for its own answer.
    async fn exchange(&mut self, talk: &mut Talk, message: &Message, limit: Duration) -> Outcome {
        let started = Instant::now();
        talk.write(&message.frame, limit).await;
        self.answer(talk, message, started, limit).await
    }

    /// Waits for the answer to a message that was sent; what else comes is noted as a quirk.
    async fn answer(&mut self, talk: &mut Talk, message: &Message, started: Instant, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        self.sent.push(message.control_id.clone().into_bytes());
        for _ in 0..FRAMES_MAX {
            match talk.next(deadline).await {
                Came::Reply(reply) if self.is_own(&reply, message) => {
                    let after = started.elapsed();
                    self.facts.longest = self.facts.longest.max(after);
                    return Outcome::Answered { code: reply.code, after };
                }
                Came::Reply(_) => {}
                Came::Silence => return Outcome::Silence,
                Came::End(end) => return Outcome::End(end),
            }
        }
        Outcome::Silence
    }

    fn is_own(&mut self, reply: &Reply, message: &Message) -> bool {
        if reply.control_id == message.control_id.as_bytes() {
            self.answered.push(reply.control_id.clone());
            return true;
        }
        self.note(reply);
        self.facts.takes_any && !reply.is_transport()
    }

    /// Counts a frame that is no answer to what waits for one.
    fn note(&mut self, reply: &Reply) {
        let quirks = &mut self.facts.quirks;
        let counter = if reply.is_transport() {
            &mut quirks.transport
        } else if reply.code.is_none() {
            &mut quirks.without_msa
        } else if self.answered.contains(&reply.control_id) {
            &mut quirks.repeated
        } else if self.sent.contains(&reply.control_id) {
            &mut quirks.late
        } else {
            &mut quirks.foreign
        };
        *counter = counter.saturating_add(1);
        let last = if reply.is_transport() { &mut quirks.transport_code } else { &mut quirks.unmatched_code };
        *last = reply.code;
    }

    /// Waits a moment for a close, or for more than was due; returns the end, if it came.
    async fn afterthought(&mut self, talk: &mut Talk) -> Option<End> {
        self.pause(talk, AFTERTHOUGHT).await
    }

    /// Awaits nothing for so long; returns the end, if it came.
    async fn pause(&mut self, talk: &mut Talk, limit: Duration) -> Option<End> {
        let deadline = Instant::now() + limit;
        for _ in 0..FRAMES_MAX {
            match talk.next(deadline).await {
                Came::Reply(reply) => self.note(&reply),
                Came::Silence => return None,
                Came::End(end) => return Some(end),
            }
        }
        None
    }
}

/// Is the line of a probe that needs a connection that stays open.
fn not_kept(probe: &'static str) -> Line {
    Line::new(probe, "not tried", "it takes one message a connection", "does not apply")
}
