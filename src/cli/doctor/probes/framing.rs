//! What a connection and its frames may look like: several at once, cut in pieces, with bytes behind them, half-closed;
//! and which answers come (the design's cases 1, 2, 4, 5, 21, 28 and 31).
//!
//! Never puts into a frame what MLLP does not allow there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Came, Doctor, FRAMES_MAX, Gone, Line, Outcome, Talk, code_word, not_kept};
use crate::cli::doctor::facts::{Both, Pipelined};
use crate::cli::doctor::messages::{Asks, Message};
use crate::cli::doctor::talk::End;
use crate::mllp::ack::AckCode;

/// Is how many frames go in one write.
const PIPELINED: usize = 3;

/// Is the pause between two pieces of a frame: segments of their own, for TCP and for the receiver.
const PIECE_PAUSE: Duration = Duration::from_millis(50);

impl Doctor<'_> {
    pub(super) async fn pipelining(&mut self) -> Result<Line, Gone> {
        let (name, did) = ("pipelining", format!("{PIPELINED} messages in one write"));
        if !self.facts.is_kept {
            return Ok(not_kept(name));
        }
        let messages: Vec<Message> = (0..PIPELINED).map(|_| self.messages.small()).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.frame.iter().copied()).collect();
        let mut talk = self.open().await?;
        let repeated_before = self.facts.quirks.repeated;
        self.sent.extend(messages.iter().map(|message| message.control_id.clone().into_bytes()));
        talk.write(&stream, self.patience()).await;
        let (order, end, is_cut) = self.answers_to(&mut talk, &messages).await;
        self.afterthought(&mut talk).await;
        self.leave(talk).await;
        let pipelined = Pipelined {
            sent: PIPELINED,
            answered: order.len(),
            in_order: (!self.facts.takes_any).then(|| order.is_sorted()),
            repeated: self.facts.quirks.repeated.saturating_sub(repeated_before),
            is_cut,
        };
        let mut came = pipelined.words();
        if let Some(end) = end {
            came = format!("{came}; {}", end.words());
        }
        let means = pipelined.means();
        self.facts.pipelined = Some(pipelined);
        Ok(Line::new(name, &did, came, means))
    }

    /// Waits for the answers to several messages, for each as long as for one alone: a receiver answers one after the
    /// other. Returns which came, in their order, how it ended, and whether more came than is looked at. Where none names
    /// its message they are counted.
    async fn answers_to(&mut self, talk: &mut Talk, messages: &[Message]) -> (Vec<usize>, Option<End>, bool) {
        let mut deadline = Instant::now() + self.patience();
        let mut order = Vec::new();
        for _ in 0..FRAMES_MAX.saturating_mul(messages.len()) {
            if order.len() == messages.len() {
                return (order, None, false);
            }
            let had = order.len();
            let reply = match talk.next(deadline).await {
                Came::Reply(reply) => reply,
                Came::Silence => return (order, None, false),
                Came::End(end) => return (order, Some(end), false),
            };
            let due = messages.iter().position(|message| reply.control_id == message.control_id.as_bytes());
            match due.filter(|index| !order.contains(index)) {
                Some(index) => {
                    order.push(index);
                    self.answered.push(reply.control_id);
                }
                None => {
                    self.note(&reply);
                    if self.facts.takes_any && !reply.is_transport() {
                        order.push(order.len());
                    }
                }
            }
            if order.len() > had {
                deadline = Instant::now() + self.patience();
            }
        }
        (order, None, true)
    }

    pub(super) async fn pieces(&mut self) -> Result<Line, Gone> {
        let message = self.messages.small();
        let mut talk = self.open().await?;
        let patience = self.patience();
        let (head, end) = message.frame.split_at(message.frame.len().saturating_sub(2));
        let (start, rest) = head.split_at(head.len() / 2);
        let (fs, cr) = end.split_at(1);
        for piece in [start, rest, fs] {
            talk.write(piece, patience).await;
            sleep(PIECE_PAUSE).await;
        }
        let started = Instant::now();
        talk.write(cr, patience).await;
        let outcome = self.answer(&mut talk, &message, started, patience).await;
        self.leave(talk).await;
        let means = if outcome.is_answer() {
            "it reads a frame however the network cuts it"
        } else {
            "it loses frames that the network cuts: they must be sent again, which stored delivery does"
        };
        Ok(Line::new("frame in pieces", "one message in four pieces, its end cut in two", outcome.words(), means))
    }

    pub(super) async fn stray(&mut self, name: &'static str, byte: u8) -> Result<Line, Gone> {
        let (first, second) = (self.messages.small(), self.messages.small());
        let mut talk = self.open().await?;
        let (started, patience) = (Instant::now(), self.patience());
        talk.write(&[&first.frame[..], &[byte]].concat(), patience).await;
        let before = self.answer(&mut talk, &first, started, patience).await;
        let after = match before {
            Outcome::Answered { .. } | Outcome::Silence if self.facts.is_kept => {
                Some(self.exchange(&mut talk, &second, patience).await)
            }
            _ => None,
        };
        self.leave(talk).await;
        // an earlier try may have met no free place
        self.facts.untolerated.retain(|other| *other != name);
        let tolerated = before.is_answer() && after.is_none_or(Outcome::is_answer);
        let came = match after {
            Some(after) => format!("{}; then {}", before.words(), after.words()),
            None => before.words(),
        };
        let means = if tolerated {
            "tolerated"
        } else {
            self.facts.untolerated.push(name);
            "not tolerated: transparent delivery passes such bytes on, stored delivery leaves them out"
        };
        let did = if self.facts.is_kept {
            "one message with that byte behind its frame, then another"
        } else {
            "one message with that byte behind its frame"
        };
        Ok(Line::new(name, did, came, means))
    }

    pub(super) async fn half_close(&mut self) -> Result<Line, Gone> {
        let message = self.messages.small();
        let mut talk = self.open().await?;
        let (started, patience) = (Instant::now(), self.patience());
        talk.write(&message.frame, patience).await;
        talk.shut().await;
        let outcome = self.answer(&mut talk, &message, started, patience).await;
        self.leave(talk).await;
        let means = if outcome.is_answer() {
            "it still answers a sender that closes its own side after the message"
        } else {
            "a sender that closes its own side after the message gets no answer, here as without wardlink"
        };
        Ok(Line::new("half-close", "one message, then the end of what is sent", outcome.words(), means))
    }

    pub(super) async fn both_answers(&mut self) -> Result<Line, Gone> {
        let message = self.messages.asking(Asks::ForBoth);
        let mut talk = self.open().await?;
        let (started, patience) = (Instant::now(), self.patience());
        talk.write(&message.frame, patience).await;
        let (mut codes, mut both) = (Vec::new(), Both::default());
        while codes.len() < FRAMES_MAX && !both.application {
            let Outcome::Answered { code, .. } = self.answer(&mut talk, &message, started, patience).await else {
                break;
            };
            codes.push(code_word(code));
            match code {
                Some(AckCode::CommitAccept | AckCode::CommitError | AckCode::CommitReject) => both.accept = true,
                _ => both.application = true,
            }
        }
        self.leave(talk).await;
        let came = if codes.is_empty() { "no answer".to_owned() } else { codes.join(", then ") };
        let means = both.means();
        self.facts.both = Some(both);
        Ok(Line::new("both answers", "one message in enhanced mode, MSH-15 and MSH-16 AL", came, means))
    }
}
