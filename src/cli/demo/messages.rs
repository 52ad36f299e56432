//! The demo's HL7 messages and the answers to them: synthetic, and the same in every run. Pure.
//!
//! No person, number or document in them exists. Format: HL7 v2.5, chapters 2 (MSH, MSA), 3 (ADT), 4 (ORM), 7 (ORU);
//! the character set is ISO 8859-1, in which a byte above 127 is a letter.

use base64::Engine as _;

/// Is the size of a usual embedded document, in bytes of base64.
const DOCUMENT_BYTES: usize = 50_000;

/// Is the size of a large embedded document, in bytes of base64.
const LARGE_DOCUMENT_BYTES: usize = 2_000_000;

/// Counts the messages of a run that carry a large document.
const LARGE_DOCUMENTS: usize = 4;

/// Starts the sequence that everything is drawn from.
const SEED: u64 = 0x0077_6172_646c_696e;

/// Says what a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An admission or an update of a patient.
    Admission,
    /// An order to the laboratory.
    Order,
    /// A result in numbers.
    Result,
    /// A result with a document of usual size.
    Document,
    /// A result with a large document.
    LargeDocument,
}

impl Kind {
    /// Lists every kind, from small to large.
    pub(super) const ALL: [Self; 5] = [Self::Admission, Self::Order, Self::Result, Self::Document, Self::LargeDocument];

    /// Names the kind as a person would.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Admission => "ADT admission",
            Self::Order => "ORM order",
            Self::Result => "ORU result",
            Self::Document => "ORU with a 50 KB document",
            Self::LargeDocument => "ORU with a 2 MB document",
        }
    }

    /// Says whether the hospital sends it to the lab; the lab sends the others to the hospital.
    pub(super) fn is_from_hospital(self) -> bool {
        match self {
            Self::Admission | Self::Order => true,
            Self::Result | Self::Document | Self::LargeDocument => false,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Admission => "ADT^A01^ADT_A01",
            Self::Order => "ORM^O01^ORM_O01",
            Self::Result | Self::Document | Self::LargeDocument => "ORU^R01^ORU_R01",
        }
    }
}

/// Holds a message and what its receiver answers.
pub(super) struct Message {
    /// Says what it is.
    pub(super) kind: Kind,
    /// Is the payload, without the framing.
    pub(super) payload: Vec<u8>,
    /// Is the payload of the answer: AA, and no other message's.
    pub(super) answer: Vec<u8>,
}

/// Makes so many messages, each with an MSH-10 of its own.
pub(super) fn generate(count: usize) -> Vec<Message> {
    let mut draw = Draw(SEED);
    (0..count).map(|index| message(index, kind(index, count), &mut draw)).collect()
}

/// Mixes the kinds; the large documents are spread evenly.
fn kind(index: usize, count: usize) -> Kind {
    let large = |nth: usize| (2 * nth + 1) * count / (2 * LARGE_DOCUMENTS);
    if (0..LARGE_DOCUMENTS).any(|nth| large(nth) == index) {
        return Kind::LargeDocument;
    }
    match index % 5 {
        0 | 4 => Kind::Admission,
        1 => Kind::Order,
        2 => Kind::Result,
        _ => Kind::Document,
    }
}

fn message(index: usize, kind: Kind, draw: &mut Draw) -> Message {
    let [id, answer_id] = ["WL", "AK"].map(|from| format!("{from}{index:06}{:012X}", draw.below(1 << 48)));
    let (from, to) = if kind.is_from_hospital() { ("HIS|HOSPITAL", "LIS|LAB") } else { ("LIS|LAB", "HIS|HOSPITAL") };
    let time = time(index);
    let mut payload = Vec::new();
    let code = kind.code();
    segment(&mut payload, &format!("MSH|^~\\&|{from}|{to}|{time}||{code}|{id}|P|2.5|||AL|NE||8859/1"));
    match kind {
        Kind::Admission => admission(&mut payload, &time, draw),
        Kind::Order => order(&mut payload, &time, draw),
        Kind::Result => result(&mut payload, &time, draw, 0),
        Kind::Document => result(&mut payload, &time, draw, DOCUMENT_BYTES),
        Kind::LargeDocument => result(&mut payload, &time, draw, LARGE_DOCUMENT_BYTES),
    }
    let mut answer = Vec::new();
    let trigger = code.split('^').nth(1).unwrap_or_default();
    segment(&mut answer, &format!("MSH|^~\\&|{to}|{from}|{time}||ACK^{trigger}^ACK|{answer_id}|P|2.5"));
    segment(&mut answer, &format!("MSA|AA|{id}"));
    Message { kind, payload, answer }
}

fn admission(out: &mut Vec<u8>, time: &str, draw: &mut Draw) {
    segment(out, &format!("EVN|A01|{time}"));
    patient(out, draw);
    let (family, given) = (draw.pick(&FAMILY_NAMES), draw.pick(&GIVEN_NAMES));
    segment(out, &format!("NK1|1|{family}^{given}|SPO^Spouse^HL70063||^PRN^PH^^^^{}", draw.digits(9)));
    visit(out, draw);
    segment(out, &format!("AL1|1|DA|{}|MO|R{}", draw.pick(&ALLERGIES), draw.digits(3)));
}

fn order(out: &mut Vec<u8>, time: &str, draw: &mut Draw) {
    patient(out, draw);
    visit(out, draw);
    let (placer, test) = (draw.digits(10), draw.pick(&TESTS));
    segment(out, &format!("ORC|NW|{placer}^HIS|||IP||^^^{time}^^R||{time}|{}", draw.digits(5)));
    segment(out, &format!("OBR|1|{placer}^HIS||{test}|R|{time}|{time}||||||N\u{fc}chtern|||{}", draw.digits(5)));
    segment(out, &format!("NTE|1||{}", draw.pick(&NOTES)));
}

fn result(out: &mut Vec<u8>, time: &str, draw: &mut Draw, document_bytes: usize) {
    patient(out, draw);
    let (placer, filler) = (draw.digits(10), draw.digits(10));
    segment(out, &format!("OBR|1|{placer}^HIS|{filler}^LIS|{}|||{time}", draw.pick(&TESTS)));
    let values = 3 + draw.below(9);
    for number in 1..=values {
        let (test, value, unit) = (draw.pick(&TESTS), draw.below(9000), draw.pick(&UNITS));
        segment(out, &format!("OBX|{number}|NM|{test}||{}.{}|{unit}|1-9|N|||F", value / 10, value % 10));
    }
    if document_bytes > 0 {
        let report = format!("OBX|{}|ED|11502-2^Befund^LN||LIS^application^pdf^Base64^", values + 1);
        latin1(out, &report);
        document(out, draw, document_bytes);
        segment(out, "||||||F");
    }
    segment(out, &format!("NTE|1||{}", draw.pick(&NOTES)));
}

fn patient(out: &mut Vec<u8>, draw: &mut Draw) {
    let (number, family, given) = (draw.digits(9), draw.pick(&FAMILY_NAMES), draw.pick(&GIVEN_NAMES));
    let born = format!("{}{:02}{:02}", 1930 + draw.below(90), 1 + draw.below(12), 1 + draw.below(28));
    let (street, house, town) = (draw.pick(&STREETS), draw.below(200) + 1, draw.pick(&TOWNS));
    let sex = draw.pick(&["F", "M", "U"]);
    segment(out, &format!("PID|1||{number}^^^HOSPITAL^MR||{family}^{given}||{born}|{sex}|||{street} {house}^^{town}"));
}

fn visit(out: &mut Vec<u8>, draw: &mut Draw) {
    let (ward, room, doctor) = (draw.below(40), draw.below(500), draw.pick(&FAMILY_NAMES));
    let (doctor_id, visit) = (draw.digits(5), draw.digits(9));
    segment(out, &format!("PV1|1|I|S{ward}^{room}^1||||{doctor_id}^{doctor}|||||||||||{visit}"));
}

/// Writes what a PDF looks like in base64: its first bytes, then noise.
fn document(out: &mut Vec<u8>, draw: &mut Draw, base64_bytes: usize) {
    let mut bytes = b"%PDF-1.7\n".to_vec();
    while bytes.len() < base64_bytes / 4 * 3 {
        bytes.extend_from_slice(&draw.next().to_be_bytes());
    }
    out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(&bytes).as_bytes());
}

fn segment(out: &mut Vec<u8>, text: &str) {
    latin1(out, text);
    out.push(b'\r');
}

fn latin1(out: &mut Vec<u8>, text: &str) {
    out.extend(text.chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')));
}

/// Writes a time of a day that is as made up as the rest.
fn time(index: usize) -> String {
    format!("20260105{:02}{:02}{:02}", 6 + index / 3600 % 12, index / 60 % 60, index % 60)
}

/// Draws numbers from a SplitMix64 sequence: the same in every run, and never for a secret.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn digits(&mut self, count: u32) -> String {
        let width = usize::try_from(count).unwrap_or_default();
        format!("{:0width$}", self.below(10_u64.pow(count)))
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        let count = u64::try_from(choices.len()).unwrap_or(1);
        let index = usize::try_from(self.below(count)).unwrap_or_default();
        choices.get(index).copied().unwrap_or_default()
    }
}

const FAMILY_NAMES: [&str; 10] = [
    "M\u{fc}ller",
    "Garc\u{ed}a",
    "S\u{f8}rensen",
    "Bj\u{f6}rk",
    "L\u{e9}vesque",
    "N\u{fa}\u{f1}ez",
    "Gro\u{df}",
    "Smith",
    "Okafor",
    "Tanaka",
];
const GIVEN_NAMES: [&str; 10] =
    ["J\u{fc}rgen", "Zo\u{eb}", "Bj\u{f8}rn", "Ren\u{e9}", "\u{c5}sa", "Fran\u{e7}oise", "Anna", "John", "Mei", "Ola"];
const STREETS: [&str; 6] = [
    "H\u{f6}henstra\u{df}e",
    "Rue de la Fl\u{e8}che",
    "Calle Espa\u{f1}a",
    "Vik\u{e5}sveien",
    "Main Street",
    "Kirkegata",
];
const TOWNS: [&str; 6] = [
    "Z\u{fc}rich^^8001^CH",
    "Gen\u{e8}ve^^1201^CH",
    "M\u{e1}laga^^29001^ES",
    "\u{c5}lesund^^6003^NO",
    "Leeds^^LS1^GB",
    "K\u{f8}ge^^4600^DK",
];
const ALLERGIES: [&str; 4] = ["7980^Penicillin", "1191^Aspirin", "2670^Codein", "9449^N\u{fc}sse"];
const TESTS: [&str; 8] = [
    "2345-7^Glucose^LN",
    "718-7^H\u{e4}moglobin^LN",
    "2951-2^Natrium^LN",
    "2823-3^Kalium^LN",
    "2160-0^Kreatinin^LN",
    "6690-2^Leukozyten^LN",
    "777-3^Thrombozyten^LN",
    "1742-6^ALT^LN",
];
const UNITS: [&str; 5] = ["mmol/L", "g/dL", "\u{b5}mol/L", "10*9/L", "U/L"];
const NOTES: [&str; 5] = [
    "Bitte um R\u{fc}ckruf",
    "Probe h\u{e9}molys\u{e9}e",
    "Repetir ma\u{f1}ana",
    "Temperatur 38,5 \u{b0}C",
    "No remarks",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn field(segment: &[u8], number: usize) -> Vec<u8> {
        segment.split(|byte| *byte == b'|').nth(number).unwrap_or_default().to_vec()
    }

    fn segments(payload: &[u8]) -> Vec<&[u8]> {
        payload.split(|byte| *byte == b'\r').collect()
    }

    #[test]
    fn the_same_messages_in_every_run() {
        let (first, second) = (generate(40), generate(40));
        assert!(first.iter().zip(&second).all(|(a, b)| a.payload == b.payload && a.answer == b.answer));
    }

    #[test]
    fn every_control_id_is_its_own_and_the_answer_names_it() {
        let messages = generate(300);
        let mut ids = HashSet::new();
        for message in &messages {
            let (header, answer) = (segments(&message.payload)[0], segments(&message.answer));
            let id = field(header, 9);
            assert_eq!(id.len(), 20, "the most that HL7 v2.5 allows");
            assert_eq!(field(answer[1], 1), b"AA");
            assert_eq!(field(answer[1], 2), id);
            assert!(ids.insert(id), "used twice");
        }
    }

    #[test]
    fn all_kinds_are_there_with_their_sizes_and_latin_1() {
        let messages = generate(300);
        let of = |kind| messages.iter().filter(move |message| message.kind == kind);
        assert_eq!(of(Kind::LargeDocument).count(), LARGE_DOCUMENTS);
        assert!(of(Kind::LargeDocument).all(|message| message.payload.len() > LARGE_DOCUMENT_BYTES));
        assert!(of(Kind::Document).count() >= 50);
        assert!(of(Kind::Document).all(|message| (DOCUMENT_BYTES..60_000).contains(&message.payload.len())));
        for kind in [Kind::Admission, Kind::Order, Kind::Result] {
            assert!(of(kind).count() >= 50);
            assert!(of(kind).all(|message| (150..2000).contains(&message.payload.len())));
        }
        let latin1 = messages.iter().filter(|message| std::str::from_utf8(&message.payload).is_err());
        assert!(latin1.count() > 200);
    }

    #[test]
    fn nothing_in_a_message_is_framing() {
        for message in generate(30) {
            assert!(!message.payload.iter().chain(&message.answer).any(|byte| [0x0b, 0x1c, 0].contains(byte)));
        }
    }

    #[test]
    fn one_message_is_enough() {
        assert_eq!(generate(1).len(), 1);
    }
}
