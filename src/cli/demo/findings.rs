//! What the recordings show: which datagrams were on the wire, whether any piece of a message was, and the verdict.
//!
//! Shows counts only, never a captured byte.

use std::time::Duration;

use super::capture::Recording;
use super::frames::{self, Kind};
use super::needles::{Needles, PIECE_BYTES, Sightings};
use super::report::{grouped, megabytes, paragraph, say};
use super::sites::WIREGUARD_PORT;

/// Holds the two recordings of a run, and what is searched in them.
pub(super) struct Observed {
    wire: Recording,
    loopback: Recording,
    needles: Needles,
    messages: usize,
    on_wire: Sightings,
    on_loopback: Sightings,
    tally: Tally,
}

/// Counts the frames on the wire by what they are.
#[derive(Debug, Default)]
struct Tally {
    initiations: usize,
    responses: usize,
    cookies: usize,
    data: usize,
    neighbours: usize,
    others: usize,
}

impl Tally {
    fn count(&mut self, kind: Kind) {
        let counter = match kind {
            Kind::Initiation => &mut self.initiations,
            Kind::Response => &mut self.responses,
            Kind::Cookie => &mut self.cookies,
            Kind::Data => &mut self.data,
            Kind::Neighbour => &mut self.neighbours,
            Kind::Other => &mut self.others,
        };
        *counter += 1;
    }
}

impl Observed {
    /// Takes the recordings and the needles: so many messages, then their answers.
    pub(super) fn new(wire: Recording, loopback: Recording, needles: Needles, messages: usize) -> Self {
        let (on_wire, on_loopback) = (Sightings::default(), Sightings::default());
        Self { wire, loopback, needles, messages, on_wire, on_loopback, tally: Tally::default() }
    }

    /// Looks at every byte of both recordings. Blocks for some tenths of a second.
    pub(super) fn search(mut self) -> Self {
        for frame in &self.wire.frames {
            self.tally.count(frames::kind(frame, WIREGUARD_PORT));
            self.needles.search(frame, &mut self.on_wire);
        }
        for frame in &self.loopback.frames {
            self.needles.search(frame, &mut self.on_loopback);
        }
        self
    }

    /// Says what is not as promised.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.on_wire.blocks > 0 {
            complaints.push(format!("pieces of messages were seen on the wire, in {} frames", self.on_wire.frames));
        }
        if self.tally.others > 0 {
            complaints.push(format!("{} frames on the wire were neither WireGuard nor neighbours", self.tally.others));
        }
        if self.tally.initiations == 0 || self.tally.responses == 0 || self.tally.data == 0 {
            complaints.push("the wire carried no handshake, or no data".to_owned());
        }
        if !self.is_detector_proven() {
            complaints.push("the detector is not proven: it missed messages on the loopback".to_owned());
        }
        complaints
    }

    /// Says whether the detector saw what it must see: all messages, or most, where the recording has gaps.
    fn is_detector_proven(&self) -> bool {
        let seen = self.on_loopback.texts.len();
        let all = 2 * self.messages;
        seen == all || !self.loopback.is_complete() && seen > all / 2
    }

    /// Says what was on the wire, and on the loopback.
    pub(super) fn say(&self) {
        let tally = &self.tally;
        let [initiations, responses, cookies, data, neighbours, others] =
            [tally.initiations, tally.responses, tally.cookies, tally.data, tally.neighbours, tally.others]
                .map(grouped);
        paragraph(
            "Wire",
            &[
                format!("{}, {}.", size(&self.wire), completeness(&self.wire)),
                format!("WireGuard: {initiations} initiation, {responses} response, {cookies} cookie, {data} data."),
                format!("ARP and IPv6 neighbours: {neighbours}. Anything else: {others}."),
                format!("Pieces of messages or ACKs: {}.", pieces(&self.on_wire)),
            ],
        );
        let count = u32::try_from(self.messages).unwrap_or(u32::MAX);
        let messages = self.on_loopback.texts.iter().filter(|text| **text < count).count();
        let answers = self.on_loopback.texts.len() - messages;
        let [messages, answers, all] = [messages, answers, self.messages].map(grouped);
        let mut lines = vec![
            "the same search, in the same run, on the hospital's loopback, where plaintext belongs:".to_owned(),
            format!("it saw {messages} of {all} messages and {answers} of {all} ACKs."),
        ];
        if !self.loopback.is_complete() {
            lines.push(format!("({}, {}.)", size(&self.loopback), completeness(&self.loopback)));
        }
        paragraph("Detector", &lines);
    }
}

fn size(recording: &Recording) -> String {
    format!("{} frames recorded, {}", grouped(recording.frames.len()), megabytes(recording.bytes))
}

fn completeness(recording: &Recording) -> String {
    match recording.carried {
        Some(carried) if carried == recording.frames.len() => "every one that the interface counted".to_owned(),
        Some(carried) => format!("INCOMPLETE: the interface counted {}", grouped(carried)),
        None => "perhaps incomplete: the interface's count is not readable".to_owned(),
    }
}

fn pieces(sightings: &Sightings) -> String {
    match sightings.frames {
        0 => format!("none (any {PIECE_BYTES} bytes in a row would have been found)"),
        frames => format!("SEEN in {frames} frames, of {} messages or ACKs", sightings.texts.len()),
    }
}

/// Says in one line how it went, or line by line what failed; returns whether everything is as promised.
pub(super) fn say_verdict(complaints: &[String], observed: &Observed, messages: usize, took: Duration) -> bool {
    if complaints.is_empty() {
        let among = if observed.wire.is_complete() { "on the wire" } else { "in what was recorded of the wire" };
        let seconds = took.as_secs_f64();
        let messages = grouped(messages);
        say(&format!(
            "\nOK: {messages} messages delivered and acknowledged, no piece of any {among}; {seconds:.1} s.\n"
        ));
        return true;
    }
    say(&format!("\nFAILED: {}.\n", complaints.join("; ")));
    false
}
