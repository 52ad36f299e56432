//! The cases that a sender makes, as bytes: what goes out step by step, and which answers are due.

use crate::harness::mllp::{Frames, MARKER, framed, message};

/// Is one case of the design's table, as a sender makes it.
pub(super) struct Wire {
    /// Is its number there.
    pub(super) number: u8,
    /// Are the connections, each with its steps; a step is sent, then its answers are awaited.
    pub(super) connections: Vec<Vec<Step>>,
    /// Says that all connections are open before the first step.
    pub(super) at_once: bool,
}

/// Is what a sender does before it waits.
pub(super) struct Step {
    /// Are the writes, with a pause between two.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Are the control ids whose answers are due.
    pub(super) due: Vec<String>,
    /// Says that the sender closes its own side behind it.
    pub(super) is_last: bool,
}

impl Wire {
    fn new(number: u8, steps: Vec<Step>) -> Self {
        Self { number, connections: vec![steps], at_once: false }
    }

    /// Returns the control ids of all messages, in order.
    pub(super) fn ids(&self) -> Vec<String> {
        self.connections.iter().flatten().flat_map(|step| step.due.clone()).collect()
    }

    /// Returns the answers that are due, as `AA 7`, in order.
    pub(super) fn answers(&self) -> Vec<String> {
        let code = if self.number == 31 { "CA" } else { "AA" };
        self.ids().iter().map(|id| format!("{code} {id}")).collect()
    }

    /// Returns the payloads of the frames that hold a message and end as they should.
    pub(super) fn payloads(&self) -> Vec<Vec<u8>> {
        let mut frames = Frames::default();
        for step in self.connections.iter().flatten() {
            frames.push(&step.pieces.concat());
        }
        // a frame without its CR runs into the next one here
        let whole = |payload: &Vec<u8>| payload.len() > 1 && self.number != 3;
        std::iter::from_fn(|| frames.next()).filter(whole).collect()
    }
}

fn step(pieces: &[&[u8]], due: &[&str]) -> Step {
    let due = due.iter().map(|id| (*id).to_owned()).collect();
    Step { pieces: pieces.iter().map(|piece| piece.to_vec()).collect(), due, is_last: false }
}

/// Writes a message with its own words behind the header.
fn with(id: &str, rest: &[u8]) -> Vec<u8> {
    [format!("MSH|^~\\&|HIS|NORTH|LAB|SOUTH|20260101120000||ORU^R01|{id}|P|2.5").as_bytes(), rest].concat()
}

fn small(id: &str) -> Vec<u8> {
    message(id, 300)
}

/// Makes the cases; each message of a run has a control id of its own, which begins with `run`.
pub(super) fn all(run: &str) -> Vec<Wire> {
    let id = |case: u8, n: u8| format!("{run}{case}x{n}");
    let frame = |case, n| framed(&small(&id(case, n)));
    let one = |case: u8, payload: Vec<u8>| Wire::new(case, vec![step(&[&framed(&payload)], &[&id(case, 1)])]);
    // bytes before, between or behind, and another message to see whether it still understands
    let around = |case: u8, before: &[u8], behind: &[u8]| {
        let first = step(&[&[before, &frame(case, 1), behind].concat()], &[&id(case, 1)]);
        Wire::new(case, vec![first, step(&[&frame(case, 2)], &[&id(case, 2)])])
    };
    let trickled = frame(18, 1);
    let cut = frame(2, 1);
    let mut half_closed = step(&[&frame(21, 1)], &[&id(21, 1)]);
    half_closed.is_last = true;
    let open = frame(3, 1);
    let patient = format!("\rPID|1||{MARKER}\r");
    let batch = [
        b"FHS|^~\\&|HIS|NORTH\rBHS|^~\\&|HIS|NORTH\r".to_vec(),
        with(&id(33, 1), patient.as_bytes()),
        b"BTS|1\rFTS|1\r".to_vec(),
    ];
    let other = String::from_utf8_lossy(&small(&id(34, 1))).replace('|', "#");
    vec![
        Wire::new(1, vec![step(&[&[frame(1, 1), frame(1, 2)].concat()], &[&id(1, 1), &id(1, 2)])]),
        Wire::new(2, vec![step(&[&cut[..cut.len() - 1], b"\r"], &[&id(2, 1)])]),
        Wire::new(3, vec![step(&[&[&open[..open.len() - 1], &frame(3, 2)].concat()], &[&id(3, 1), &id(3, 2)])]),
        around(4, b"", b"\n"),
        around(5, b"", b"\0"),
        around(6, b"junk", b""),
        one(7, with(&id(7, 1), b"\rNTE|1||one\x1ctwo\r")),
        one(8, with(&id(8, 1), b"\rNTE|1||one\x0btwo\r")),
        around(9, b"\x0b\x04\x1c\r", b""),
        around(10, b"\x0b\x1c\r", b""),
        one(11, with(&id(11, 1), b"\rPID|1||TEST")),
        one(12, with(&id(12, 1), b"\nPID|1||TEST\n")),
        one(13, with(&id(13, 1), b"\rPID|1||TEST||M\xfcller^J\xf6rg\r")),
        one(15, [b"\xef\xbb\xbf".to_vec(), small(&id(15, 1))].concat()),
        one(16, message(&id(16, 1), 1 << 20)),
        Wire::new(
            18,
            vec![Step { pieces: trickled.chunks(3).map(<[u8]>::to_vec).collect(), ..step(&[], &[&id(18, 1)]) }],
        ),
        Wire::new(21, vec![half_closed]),
        Wire {
            connections: (1..4).map(|n| vec![step(&[&frame(23, n)], &[&id(23, n)])]).collect(),
            ..Wire::new(23, Vec::new())
        },
        Wire {
            connections: (1..4).map(|n| vec![step(&[&frame(24, n)], &[&id(24, n)])]).collect(),
            at_once: true,
            ..Wire::new(24, Vec::new())
        },
        Wire::new(28, (1..4).map(|n| step(&[&frame(28, n)], &[&id(28, n)])).collect()),
        one(31, with(&id(31, 1), b"|||AL|NE\rPID|1||TEST\r")),
        one(33, batch.concat()),
        one(34, other.into_bytes()),
    ]
}
