//! What senders and receivers speak: the release of MLLP, how commits are awaited, the bytes around a message.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::Findings;
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged};
use crate::mllp::dialect::{Commit, Dialect, Release};
use crate::mllp::frame::Framing;

/// Is the shortest wait for a commit: below, a disk that is busy looks like a loss.
const COMMIT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Is the longest one, and the longest pause before the same is sent again: a message that waits longer is held up.
const COMMIT_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Limits how often the same is sent again.
const COMMIT_RETRIES_MAX: u32 = 100;

/// Says who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Senders: what they commit is answers, which need not be awaited.
    Senders,
    /// A receiver.
    Receiver,
}

/// Is what a file says of it, wherever it stands.
pub(super) struct Keys<'a> {
    pub(super) mllp: Option<&'a Text>,
    pub(super) commit: Option<&'a Spanned<raw::Commit>>,
    pub(super) framing: Option<&'a Spanned<raw::Framing>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of_forward(raw: &'a raw::Forward) -> Self {
        Self { mllp: raw.mllp.as_ref(), commit: raw.commit.as_ref(), framing: raw.framing.as_ref() }
    }

    pub(super) fn of_receiver(raw: &'a raw::ForwardReceiver) -> Self {
        Self { mllp: raw.mllp.as_ref(), commit: raw.commit.as_ref(), framing: raw.framing.as_ref() }
    }

    pub(super) fn of_service(raw: &'a raw::Service) -> Self {
        Self { mllp: raw.mllp.as_ref(), commit: raw.commit.as_ref(), framing: raw.framing.as_ref() }
    }

    /// Reads what is spoken.
    pub(super) fn read(&self, who: Who, findings: &mut Findings) -> Option<Dialect> {
        let is_release_2 = findings.optional(self.mllp, false, release);
        let commit = match self.commit {
            None => Some(Commit::default()),
            Some(raw) => commit(&raw.value, who, findings),
        };
        if let (Some(false), Some(raw)) = (is_release_2, self.commit) {
            findings.value(raw.referenced, "counts for mllp: release2; write that, or leave it out");
        }
        let framing = match self.framing {
            None => Some(Framing::MLLP),
            Some(raw) => framing(raw, findings),
        };
        let release = if is_release_2? { Release::Two(commit?) } else { Release::One };
        Some(Dialect { framing: framing?, release })
    }
}

/// Reads whether it is Release 2.
fn release(text: &str) -> Judged<bool> {
    value::choice(text, &[("release1", false), ("release2", true)])
}

fn commit(raw: &raw::Commit, who: Who, findings: &mut Findings) -> Option<Commit> {
    let default = Commit::default();
    let wait = |text: &str| match text {
        "off" if who == Who::Senders => Ok(None),
        _ => value::duration(text, COMMIT_TIMEOUT_MIN..=COMMIT_TIMEOUT_MAX).map(Some),
    };
    let timeout = findings.optional(raw.timeout.as_ref(), default.timeout, wait);
    let retries = |text: &str| value::number(text, 0..=COMMIT_RETRIES_MAX);
    let retries = findings.optional(raw.retries.as_ref(), default.retries, retries);
    let pause = |text: &str| value::duration(text, Duration::ZERO..=COMMIT_TIMEOUT_MAX);
    let pause = findings.optional(raw.pause.as_ref(), default.pause, pause);
    Some(Commit { timeout: timeout?, retries: retries?, pause: pause? })
}

fn framing(raw: &Spanned<raw::Framing>, findings: &mut Findings) -> Option<Framing> {
    let at = raw.referenced;
    let start =
        findings.required(at, "start", "the byte before a message, such as 0x0B", raw.value.start.as_ref(), byte);
    if raw.value.end.is_none() {
        findings.missing(at, "end", "the one or two bytes behind a message, such as [0x1C, 0x0D]");
    }
    let end = raw.value.end.as_ref()?;
    let (start, bytes) = (start?.value, findings.list(&end.value, byte));
    let (first, last) = match bytes.as_slice() {
        _ if bytes.len() < end.value.len() => return None,
        [first] => (first.value, None),
        [first, last] => (first.value, Some(last.value)),
        _ => {
            findings.value(end.referenced, "is not one byte or two; write such as [0x1C, 0x0D]");
            return None;
        }
    };
    let framing = Framing::new(start, first, last);
    if framing.is_none() {
        let message = "has a byte twice, or one that stands in messages (tab, LF, CR) as the start or the first of the \
                       end; write other ones";
        findings.value(at, message);
    }
    framing
}

/// Reads a control character.
fn byte(text: &str) -> Judged<u8> {
    value::number(text, 1..=0x1F).map(|byte| u8::try_from(byte).unwrap_or(u8::MAX))
}
