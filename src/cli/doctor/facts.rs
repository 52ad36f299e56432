//! What is known of the receiver, and what it means in words. Touches nothing, decides no key: that is `profile`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mllp::ack::AckCode;

/// Lists the sizes that are tried, in bytes, with their names as a configuration writes them.
pub(super) const SIZES: [(usize, &str); 6] = [
    (16 << 10, "16KiB"),
    (64 << 10, "64KiB"),
    (256 << 10, "256KiB"),
    (1 << 20, "1MiB"),
    (4 << 20, "4MiB"),
    (16 << 20, "16MiB"),
];

/// Is what is known of a receiver.
#[derive(Default)]
pub(super) struct Facts {
    /// Is the code of the first answer.
    pub(super) code: Option<AckCode>,
    /// Says that no answer names its message: then any answer is taken for one.
    pub(super) takes_any: bool,
    /// Is the median time to an answer to a small message.
    pub(super) median: Duration,
    /// Is the longest time to any answer.
    pub(super) longest: Duration,
    /// Says whether a connection stays open for more than one message.
    pub(super) is_kept: bool,
    /// Is what came of several frames in one write.
    pub(super) pipelined: Option<Pipelined>,
    /// Names the bytes behind a frame that it does not tolerate.
    pub(super) untolerated: Vec<&'static str>,
    /// Is what came of a message that asks for both answers.
    pub(super) both: Option<Both>,
    /// Says whether a connection without a message keeps it from serving the next one.
    pub(super) bare_harms: Option<bool>,
    /// Is what it does with a second connection.
    pub(super) second: Option<Second>,
    /// Counts how many connections were served of those opened at once.
    pub(super) at_once: Option<usize>,
    /// Is after how much silence it closed a connection.
    pub(super) idle_closed: Option<Duration>,
    /// Is the largest size that was answered, and not refused for its size.
    pub(super) largest: Option<&'static str>,
    /// Is the least size that was not answered, or refused where smaller messages were not.
    pub(super) too_large: Option<&'static str>,
    /// Is the answer that refused that size.
    pub(super) refuses_large: Option<AckCode>,
    /// Says that to that size nothing came in time: it is too large, or takes longer.
    pub(super) is_perhaps_slow: bool,
    /// Counts the frames that answered nothing that was sent.
    pub(super) quirks: Quirks,
    /// Are the codes of what deviated from MLLP in its answers.
    pub(super) anomalies: BTreeSet<&'static str>,
    /// Names the probe at which it took no connections any more.
    pub(super) gone_at: Option<&'static str>,
}

impl Facts {
    /// Returns what came of the first message, and what it means.
    pub(super) fn first_answer(&self) -> (String, &'static str) {
        let word = self.code.map_or("a frame without MSA", AckCode::code);
        if self.takes_any {
            let came = format!("{word}, which does not name the message (MSA-2)");
            return (came, "stored delivery cannot tell whose answer that is");
        }
        let came = format!("{word} after {:.1} ms, MSA-2 is the message's", self.longest.as_secs_f64() * 1000.0);
        let is_positive = self.code.is_some_and(AckCode::is_positive);
        let refused = "it answers, but refuses this message: --type MSH-9 sends one of a type that it takes";
        (came, if is_positive { "it answers as it should" } else { refused })
    }
}

/// Counts frames that came and answered nothing that waited for one.
#[derive(Default)]
pub(super) struct Quirks {
    /// Answers to a message that was answered before.
    pub(super) repeated: u64,
    /// Answers that came when another message's was awaited already.
    pub(super) late: u64,
    /// Answers that name a message that was never sent.
    pub(super) foreign: u64,
    /// Frames without an MSA.
    pub(super) without_msa: u64,
    /// Commit acknowledgements of MLLP Release 2.
    pub(super) transport: u64,
    /// Is the last of these commit acknowledgements, or negative ones.
    pub(super) transport_code: Option<AckCode>,
    /// Is the code of the last of the others.
    pub(super) unmatched_code: Option<AckCode>,
}

impl Quirks {
    /// Says what came where no answer did, and what to do then; `None` where no commit acknowledgement did either.
    pub(super) fn only_transport(&self) -> Option<(&'static str, &'static str)> {
        match self.transport_code? {
            AckCode::TransportNak => Some((
                "a NAK (0B 15 1C 0D): it speaks MLLP Release 2, and refuses this message",
                "Set mllp: release2 at its service; --type MSH-9 sends a message of a type that it takes.",
            )),
            _ => Some((
                "a commit (0B 06 1C 0D) and no answer: it speaks MLLP Release 2",
                "Set mllp: release2 at its service, and ack: none if it never answers by design.",
            )),
        }
    }

    /// Says whether something came that could be an answer.
    pub(super) fn has_unmatched(&self) -> bool {
        self.foreign > 0 || self.without_msa > 0
    }
}

/// Is what came of several frames in one write.
pub(super) struct Pipelined {
    pub(super) sent: usize,
    pub(super) answered: usize,
    /// Is their order; `None` where they name no message and are only counted.
    pub(super) in_order: Option<bool>,
    pub(super) repeated: u64,
    /// Says that more came than is looked at.
    pub(super) is_cut: bool,
}

impl Pipelined {
    /// Says whether messages were lost, as far as can be told.
    pub(super) fn loses(&self) -> bool {
        self.answered < self.sent && !self.is_cut
    }

    /// Says what came.
    pub(super) fn words(&self) -> String {
        let Self { sent, answered, in_order, repeated, .. } = self;
        let order = match in_order {
            Some(true) => "in order",
            Some(false) => "not in order",
            None => "by number: none names its message",
        };
        let again = if *repeated > 0 { format!(", and {repeated} came again") } else { String::new() };
        format!("{answered} of {sent} answered, {order}{again}")
    }

    /// Says what it means.
    pub(super) fn means(&self) -> &'static str {
        if self.loses() {
            match self.in_order {
                Some(_) => {
                    "it loses messages that come together: a sender must wait for each answer, as stored delivery does"
                }
                None => "it loses messages that come together: a sender must wait for each answer",
            }
        } else if self.repeated > 0 || self.is_cut {
            "it answers more than once: a sender that counts answers goes wrong; stored delivery drops what is repeated"
        } else if self.in_order == Some(false) {
            "a sender must match answers by MSA-2, as stored delivery does"
        } else {
            "a sender need not wait for each answer"
        }
    }
}

/// Says which answers came to a message that asked for an accept acknowledgement and an application's.
#[derive(Default, Clone, Copy)]
pub(super) struct Both {
    pub(super) accept: bool,
    pub(super) application: bool,
}

impl Both {
    /// Says what it means.
    pub(super) fn means(self) -> &'static str {
        match (self.accept, self.application) {
            (true, true) => "it gives both answers, as asked",
            (true, false) => "it gives the accept acknowledgement only: ack: application would wait in vain",
            (false, true) => "it ignores MSH-15 and gives one answer, an application's: that settles a message",
            (false, false) => "it does not answer in enhanced mode: its senders must leave MSH-15 and MSH-16 empty",
        }
    }
}

/// Says what it does with a second connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Second {
    /// It serves both.
    Served,
    /// It serves the second once the first is closed.
    Waits,
    /// It takes the second and never serves it.
    Unserved,
    /// It refuses or closes the second.
    Refused,
    /// It serves the second, and the first no more.
    TakesOver,
}

impl Second {
    /// Says what it means.
    pub(super) fn means(self) -> &'static str {
        match self {
            Self::Served => "it serves several connections",
            Self::Waits => "it serves one connection at a time; others wait unseen in its backlog",
            Self::Unserved => "it serves one connection, and loses what comes on a second",
            Self::Refused => "it takes one connection at a time",
            Self::TakesOver => "a new connection ends the service of the one before",
        }
    }
}
