//! What to set for the receiver, and why: facts to keys of the configuration, and the YAML that has them.
//!
//! Names only keys that exist, never one for which there is no evidence. Touches nothing.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::facts::{Facts, Pipelined, Second};
use super::probes::AT_ONCE;

/// Is the least wait for an answer that is recommended, in seconds: the product's default for stored messages.
const ACK_TIMEOUT_SECONDS_MIN: u64 = 30;
/// Is the greatest that a configuration takes.
const ACK_TIMEOUT_SECONDS_MAX: u64 = 3600;
/// Is how many times the longest answer seen that wait should have: a receiver under load.
const ACK_TIMEOUT_FACTOR: u32 = 10;
/// Limits a line of the snippet, in characters.
const LINE_CHARS: usize = 110;

/// Says where a key belongs.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    /// The service, at the receiver's site.
    Service,
    /// The forward, at the sender's site.
    Forward,
}

/// Is one key to set.
#[derive(Serialize)]
pub(super) struct Setting {
    pub(super) place: Place,
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) because: String,
}

/// Is what there is to say of a receiver.
#[derive(Serialize)]
pub(super) struct Profile {
    /// Are the keys to set.
    pub(super) settings: Vec<Setting>,
    /// Says what no key can mend.
    pub(super) notes: Vec<String>,
}

impl Profile {
    /// Decides from what is known.
    pub(super) fn of(facts: &Facts) -> Self {
        let settings = [release(facts), connections(facts), ack(facts), ack_timeout(facts), probe(facts)];
        let settings = settings.into_iter().chain([in_doubt(facts), size(facts)]);
        Self { settings: settings.flatten().collect(), notes: notes(facts) }
    }

    /// Writes the service with its keys, each with its reason; what is the forward's is a comment there.
    pub(super) fn yaml(&self, target: &str) -> String {
        let mut text =
            String::from("services:\n  - name: receiver        # any name: the peers' forwards ask for it\n");
        // a JSON string is a YAML one
        let target = serde_json::Value::from(target);
        let _infallible =
            writeln!(text, "    target: {target}\n    allow_peers: []       # the peers that may deliver");
        for setting in self.settings.iter().filter(|setting| setting.place == Place::Service) {
            comment(&mut text, "    # ", &setting.because);
            let _infallible = writeln!(text, "    {}: {}", setting.key, setting.value);
        }
        for setting in self.settings.iter().filter(|setting| setting.place == Place::Forward) {
            comment(&mut text, "# ", &format!("In the forward, at the sender's site: {}", setting.because));
            let _infallible = writeln!(text, "#   {}: {}", setting.key, setting.value);
        }
        for note in &self.notes {
            comment(&mut text, "# ", note);
        }
        text
    }
}

/// Writes words as comment lines.
fn comment(text: &mut String, start: &str, words: &str) {
    let mut line = start.to_owned();
    for word in words.split(' ') {
        if line.len() > start.len() && line.len().saturating_add(word.len()) > LINE_CHARS {
            let _infallible = writeln!(text, "{}", line.trim_end());
            start.clone_into(&mut line);
        }
        line.push_str(word);
        line.push(' ');
    }
    let _infallible = writeln!(text, "{}", line.trim_end());
}

fn service(key: &'static str, value: impl Into<String>, because: impl Into<String>) -> Option<Setting> {
    Some(Setting { place: Place::Service, key, value: value.into(), because: because.into() })
}

fn release(facts: &Facts) -> Option<Setting> {
    let because = "It sends commit acknowledgements of MLLP Release 2, and awaits them for its answers.";
    (facts.quirks.transport > 0).then(|| service("mllp", "release2", because)).flatten()
}

fn connections(facts: &Facts) -> Option<Setting> {
    let because = match facts.second? {
        Second::Served => {
            let served = facts.at_once.filter(|served| *served < AT_ONCE)?.max(1);
            let because = format!("Of {AT_ONCE} connections at once {served} were served; more than that must wait.");
            return service("connections", served.to_string(), because);
        }
        Second::Waits => "A second connection was taken, but not served before the first was closed.",
        Second::Unserved => "A second connection was taken and not served, also when the first was closed.",
        Second::Refused => "A second connection was refused while the first was open.",
        Second::TakesOver => "A second connection ended the service of the first.",
    };
    service("connections", "1", because)
}

fn ack(facts: &Facts) -> Option<Setting> {
    if facts.takes_any {
        return None;
    }
    match facts.both {
        Some(both) if both.accept && !both.application => service(
            "ack",
            "accept",
            "A message that asked for both answers got the accept acknowledgement (CA, CE or CR) only: with \
             application it would wait for the other one in vain.",
        ),
        _ => service(
            "ack",
            "application",
            format!(
                "Its answer ({}) names its message: it settles a stored one.",
                facts.code.map_or("none", crate::mllp::ack::AckCode::code)
            ),
        ),
    }
}

fn ack_timeout(facts: &Facts) -> Option<Setting> {
    let seconds = facts.longest.saturating_mul(ACK_TIMEOUT_FACTOR).as_secs().saturating_add(1);
    let seconds = seconds.clamp(ACK_TIMEOUT_SECONDS_MIN, ACK_TIMEOUT_SECONDS_MAX);
    let loses = facts.pipelined.as_ref().is_some_and(Pipelined::loses);
    let mut because = format!(
        "An answer took {} (median), at most {}; so long without one is a fault, and the connection is closed.",
        shown(facts.median),
        shown(facts.longest)
    );
    if loses {
        because.push_str(" It loses messages that come together: without this their sender would wait for ever.");
    }
    service("ack_timeout", format!("{seconds}s"), because)
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn probe(facts: &Facts) -> Option<Setting> {
    match (facts.bare_harms?, facts.second?) {
        (true, _) => service("probe", "none", "After a connection without a message it did not serve the next one."),
        (false, Second::Served) => service(
            "probe",
            "tcp",
            "A connection without a message does it no harm: so health knows of it before the first message.",
        ),
        (false, _) => service("probe", "none", "A connection without a message would take its only place."),
    }
}

/// Where each message ends its connection, some will meet the end of the one before.
fn in_doubt(facts: &Facts) -> Option<Setting> {
    let because = "It closes after each answer: a message that meets the close is sent again, where hold would stop the \
                   queue.";
    (!facts.is_kept && !facts.takes_any).then(|| service("in_doubt", "resend", because)).flatten()
}

fn size(facts: &Facts) -> Option<Setting> {
    let (too_large, largest) = (facts.too_large?, facts.largest?);
    if let Some(code) = facts.refuses_large {
        let code = code.code();
        let because = format!(
            "{too_large} were answered {code}, {largest} were not: a larger message is then refused to its sender, instead \
             of being set aside on its way. Set it as near to the true limit as the receiver's manual tells."
        );
        return Some(Setting { place: Place::Forward, key: "max_message_size", value: largest.to_owned(), because });
    }
    let advice = if facts.is_perhaps_slow {
        "A longer --timeout tells whether that is too large for it, or only slow."
    } else {
        "Set it as near to the true limit as the receiver's manual tells."
    };
    let because = format!(
        "{too_large} were not answered, {largest} were: a larger message is then refused to its sender, instead of \
         holding the queue. {advice}"
    );
    Some(Setting { place: Place::Forward, key: "max_message_size", value: largest.to_owned(), because })
}

fn notes(facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |is_so: bool, text: &str| is_so.then(|| notes.push(text.to_owned()));
    note(
        facts.takes_any,
        "Its answers do not name their message: use delivery: transparent. Stored delivery would hold its queue at the \
         first message; with ack: none a message counts as delivered once the receiver's host has its bytes.",
    );
    note(
        facts.code.is_some_and(|code| !code.is_positive()),
        "It refused the test message: run it again with --type and a message type that it takes.",
    );
    note(
        !facts.is_kept,
        "One message a connection: stored delivery connects anew for each; its senders must do so too in transparent \
         delivery.",
    );
    note(
        facts.second == Some(Second::Served) && facts.at_once == Some(AT_ONCE),
        &format!(
            "{AT_ONCE} connections at once were served: connections may stay at its default unless the manual says less."
        ),
    );
    let pipelined = facts.pipelined.as_ref();
    let as_stored = if facts.takes_any { "" } else { ", as delivery: stored does" };
    note(
        pipelined.is_some_and(Pipelined::loses),
        &format!("Messages that come together are lost: their senders must wait for each answer{as_stored}."),
    );
    note(
        facts.quirks.repeated > 0,
        "It repeats answers: stored delivery drops and counts those (service_dropped_answers_total, kind late), and so does \
         connections: 1 (service_anomalies_total, kind answer_unmatched); in transparent delivery with more they reach the \
         sender as they are.",
    );
    note(facts.quirks.late > 0, "Some answers came when the next message was sent already.");
    note(facts.quirks.foreign > 0 && !facts.takes_any, "Some answers named another message than the one that waited.");
    note(facts.quirks.without_msa > 0 && !facts.takes_any, "Some frames came without an MSA beside the answers.");
    note(
        facts.quirks.transport > 0,
        "These probes committed none of its answers: it may have repeated them, and what is said above of repeated, late \
         and foreign answers may be due to that.",
    );
    note(
        facts.both.is_some_and(|both| !both.accept && !both.application),
        "Messages in enhanced mode (MSH-15, MSH-16) are not answered: their senders must leave both empty.",
    );
    note(
        !facts.untolerated.is_empty(),
        &format!(
            "Bytes behind a frame that it does not tolerate ({}): senders that write them {}.",
            facts.untolerated.join(", "),
            if facts.takes_any { "lose messages here" } else { "need delivery: stored" }
        ),
    );
    note(
        !facts.anomalies.is_empty(),
        &format!(
            "Its own answers deviate from MLLP ({}); that is tolerated and counted.",
            facts.anomalies.iter().copied().collect::<Vec<_>>().join(", ")
        ),
    );
    if let Some(after) = facts.idle_closed {
        note(true, &format!("It closes a silent connection after {:.1} s.", after.as_secs_f64()));
    }
    if let Some(probe) = facts.gone_at {
        note(true, &format!("It took no connections any more at \"{probe}\": what comes after is not known."));
    }
    notes
}
