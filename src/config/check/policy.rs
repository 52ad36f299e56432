//! How a receiver is treated when stored messages are delivered to it: the keys of a service, and of a stored forward to
//! an address.

use std::time::Duration;

use super::Findings;
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged};
use crate::config::{AckKind, InDoubt, Otherwise, ReceiverPolicy};

/// Is the longest wait for an answer: beyond, a sender has given up long ago.
pub(super) const ACK_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Is the shortest.
pub(super) const ACK_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Limits the retries of a message: with pauses of a minute, most of a day.
const RETRIES_MAX: u32 = 1000;
/// Is the shortest pause before a retry: below, it is no pause for the receiver.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Is the longest first pause.
const RETRY_MIN_MAX: Duration = Duration::from_secs(3600);
/// Is the longest pause: who repairs a receiver should see the next attempt on the same day.
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Shows the keys of a policy, wherever they are written.
pub(super) struct Keys<'a> {
    ack: Option<&'a Text>,
    ack_timeout: Option<&'a Text>,
    retries: Option<&'a Text>,
    retry_min: Option<&'a Text>,
    retry_max: Option<&'a Text>,
    after_retries: Option<&'a Text>,
    on_reject: Option<&'a Text>,
    in_doubt: Option<&'a Text>,
}

/// Takes the keys out of a forward or a service.
macro_rules! keys_of {
    ($raw:expr) => {
        Keys {
            ack: $raw.ack.as_ref(),
            ack_timeout: $raw.ack_timeout.as_ref(),
            retries: $raw.retries.as_ref(),
            retry_min: $raw.retry_min.as_ref(),
            retry_max: $raw.retry_max.as_ref(),
            after_retries: $raw.after_retries.as_ref(),
            on_reject: $raw.on_reject.as_ref(),
            in_doubt: $raw.in_doubt.as_ref(),
        }
    };
}

impl<'a> Keys<'a> {
    pub(super) fn of_forward(raw: &'a raw::Forward) -> Self {
        keys_of!(raw)
    }

    pub(super) fn of_service(raw: &'a raw::Service) -> Self {
        keys_of!(raw)
    }

    /// Lists the keys that are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &'a Text> {
        let first = [self.ack, self.ack_timeout, self.retries, self.retry_min];
        let rest = [self.retry_max, self.after_retries, self.on_reject, self.in_doubt];
        first.into_iter().chain(rest).flatten()
    }

    /// Reads the policy.
    pub(super) fn read(&self, findings: &mut Findings) -> Option<ReceiverPolicy> {
        let default = ReceiverPolicy::default();
        let ack = [("application", AckKind::Application), ("accept", AckKind::Accept), ("none", AckKind::None)];
        let ack = findings.optional(self.ack, default.ack, |text| value::choice(text, &ack));
        let timeout = |text: &str| value::duration(text, ACK_TIMEOUT_MIN..=ACK_TIMEOUT_MAX);
        let ack_timeout = findings.optional(self.ack_timeout, default.ack_timeout, timeout);
        let retries = |text: &str| value::number(text, 0..=RETRIES_MAX);
        let retries = findings.optional(self.retries, default.retries, retries);
        let pauses = self.pauses(&default, findings);
        let after_retries = findings.optional(self.after_retries, default.after_retries, otherwise);
        let on_reject = findings.optional(self.on_reject, default.on_reject, otherwise);
        let in_doubt = [("resend", InDoubt::Resend), ("hold", InDoubt::Hold)];
        let in_doubt = findings.optional(self.in_doubt, default.in_doubt, |text| value::choice(text, &in_doubt));
        let (backoff_min, backoff_max) = pauses?;
        Some(ReceiverPolicy {
            ack: ack?,
            ack_timeout: ack_timeout?,
            retries: retries?,
            backoff_min,
            backoff_max,
            after_retries: after_retries?,
            on_reject: on_reject?,
            in_doubt: in_doubt?,
            in_doubt_max: default.in_doubt_max,
            dialect: default.dialect,
        })
    }

    /// Reads the least and the longest pause. One that is written moves the default of the other out of its way.
    fn pauses(&self, default: &ReceiverPolicy, findings: &mut Findings) -> Option<(Duration, Duration)> {
        let least = |text: &str| value::duration(text, RETRY_MIN..=RETRY_MIN_MAX);
        let longest = |text: &str| value::duration(text, RETRY_MIN..=RETRY_MAX);
        let min = self.retry_min.map(|text| findings.read(text, least));
        let max = self.retry_max.map(|text| findings.read(text, longest));
        match (min, max) {
            (None, None) => Some((default.backoff_min, default.backoff_max)),
            (Some(min), None) => min.map(|min| (min.value, default.backoff_max.max(min.value))),
            (None, Some(max)) => max.map(|max| (default.backoff_min.min(max.value), max.value)),
            (Some(min), Some(max)) => {
                let (min, max) = (min?, max?);
                if max.value < min.value {
                    let message =
                        format!("is shorter than retry_min{}; write a longer one, or leave it out", min.line());
                    findings.value(max.at, message);
                }
                Some((min.value, max.value))
            }
        }
    }
}

fn otherwise(text: &str) -> Judged<Otherwise> {
    value::choice(text, &[("hold", Otherwise::Hold), ("park", Otherwise::Park)])
}
