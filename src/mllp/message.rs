//! Reads MSH and MSA at the begin of a payload, as slices of its bytes.
//!
//! Never decodes a character set, never shows a field by Debug or Display. Of what only passes by, the begin is read, as
//! much as was kept of it ([`HEADER_BYTES_MAX`]); whoever has all of a message reads all of its header.
//! The format is HL7 v2.x chapter 2: segments end with CR (the field also sends LF and CRLF), the byte after "MSH" is
//! the field separator, MSH-2 lists the others.

#[cfg(test)]
mod tests;

/// Limits what is kept of a payload that passes by, to read its header, in bytes: an MSH has a few hundred.
pub const HEADER_BYTES_MAX: usize = 2048;
/// Limits the header of a message that is stored, up to the end of its MSH, in bytes: what is answered for it holds parts
/// of it, byte for byte, and HL7 has at most 199 in MSH-10. A longer one is refused.
pub const STORED_HEADER_BYTES_MAX: usize = 64 << 10;

/// Lists the queries whose type does not begin with Q: enhanced queries, master files, networks, orders, requests for
/// patient information, stored procedures, virtual tables.
const QUERIES: [&[u8]; 11] = [b"EQQ", b"MFQ", b"NMQ", b"OSQ", b"RQA", b"RQC", b"RQI", b"RQP", b"RQQ", b"SPQ", b"VQQ"];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Shows the MSH of a message; of a batch (FHS, BHS), that of its first message.
#[derive(Clone, Copy)]
pub struct Header<'a> {
    msh: Segment<'a>,
    behind: Segments<'a>,
}

impl<'a> Header<'a> {
    /// Finds the header of a payload in its first [`HEADER_BYTES_MAX`] bytes, for whoever kept no more of it; `None`
    /// where it has no MSH with a usable field separator.
    ///
    /// A field that the limit cuts reads as empty.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let head = payload.get(..HEADER_BYTES_MAX).unwrap_or(payload);
        Self::find(head, head.len() == HEADER_BYTES_MAX)
    }

    /// Finds the header of a payload, however long it is; `None` where it has no MSH with a usable field separator.
    pub fn parse_whole(payload: &'a [u8]) -> Option<Self> {
        Self::find(payload, false)
    }

    fn find(head: &'a [u8], is_cut: bool) -> Option<Self> {
        let bytes = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        let mut segments = Segments { rest: bytes, is_cut };
        let first = segments.next()?;
        let is_batch = matches!(first.bytes.get(..3), Some(b"FHS" | b"BHS"));
        let msh = if is_batch { segments.find(|segment| segment.is(b"MSH"))? } else { first };
        let separator = *msh.bytes.strip_prefix(b"MSH")?.first()?;
        let usable = !separator.is_ascii_alphanumeric() && separator != b' ';
        usable.then_some(Self { msh: Segment { separator, ..msh }, behind: segments })
    }

    /// Says whether the limit cut MSH: what it asks for, and by what it is named, may be in what is not there.
    pub fn is_cut(&self) -> bool {
        self.msh.is_cut
    }

    /// Counts the bytes of this payload up to the end of MSH.
    pub fn bytes_in(&self, payload: &[u8]) -> usize {
        payload.len().saturating_sub(self.behind.rest.len())
    }

    /// Returns the byte between fields, MSH-1.
    pub fn field_separator(&self) -> u8 {
        self.msh.separator
    }

    /// Returns the other separators, MSH-2: component, repetition, escape, subcomponent.
    pub fn encoding_characters(&self) -> &'a [u8] {
        self.field(2)
    }

    /// Returns the byte between components; `^` where MSH-2 is empty.
    pub fn component_separator(&self) -> u8 {
        self.encoding_characters().first().copied().unwrap_or(b'^')
    }

    /// Returns the sending application, MSH-3.
    pub fn sending_application(&self) -> &'a [u8] {
        self.field(3)
    }

    /// Returns the sending facility, MSH-4.
    pub fn sending_facility(&self) -> &'a [u8] {
        self.field(4)
    }

    /// Returns the receiving application, MSH-5.
    pub fn receiving_application(&self) -> &'a [u8] {
        self.field(5)
    }

    /// Returns the receiving facility, MSH-6.
    pub fn receiving_facility(&self) -> &'a [u8] {
        self.field(6)
    }

    /// Returns the message type, MSH-9, such as `ADT^A01^ADT_A01`.
    pub fn message_type(&self) -> &'a [u8] {
        self.field(9)
    }

    /// Returns the message control id, MSH-10; empty where it is missing.
    pub fn control_id(&self) -> &'a [u8] {
        self.field(10)
    }

    /// Returns the processing id, MSH-11.
    pub fn processing_id(&self) -> &'a [u8] {
        self.field(11)
    }

    /// Returns the version, MSH-12.
    pub fn version(&self) -> &'a [u8] {
        self.field(12)
    }

    /// Returns the character set, MSH-18.
    pub fn character_set(&self) -> &'a [u8] {
        self.field(18)
    }

    /// Returns which answers the sender asks for, MSH-15 and MSH-16.
    pub fn mode(&self) -> Mode {
        let accept = AckCondition::parse(self.field(15));
        let application = AckCondition::parse(self.field(16));
        match (accept, application) {
            (AckCondition::Absent, AckCondition::Absent) => Mode::Original,
            _ => Mode::Enhanced { accept, application },
        }
    }

    /// Says whether the message requires an answer that only an application can give: MSH-16 asks for one (an answer is
    /// never answered so), or it is a query.
    pub fn requires_application_answer(&self) -> bool {
        let is_asked = match self.mode() {
            Mode::Original => false,
            Mode::Enhanced { application, .. } => !matches!(application, AckCondition::Absent | AckCondition::Never),
        };
        (is_asked || self.is_query()) && self.msa().is_none()
    }

    /// Says whether the message is a query by its type, MSH-9.1 (HL7 v2.8.2 table 0076, chapters 5 and 11).
    fn is_query(&self) -> bool {
        let kind = self.kind();
        (kind.len() == 3 && kind.starts_with(b"Q") && kind != b"QCK") || QUERIES.contains(&kind)
    }

    /// Says whether the message is nothing but an answer, by its type.
    pub fn is_acknowledgement(&self) -> bool {
        [b"ACK", b"MCF"].iter().any(|kind| self.kind() == *kind)
    }

    /// Returns the first component of the message type.
    fn kind(&self) -> &'a [u8] {
        let separator = self.component_separator();
        self.message_type().split(|byte| *byte == separator).next().unwrap_or_default()
    }

    /// Finds the MSA segment: the message is an answer.
    pub fn msa(&self) -> Option<Acknowledgement<'a>> {
        let separator = self.msh.separator;
        let segment = self
            .behind
            .take_while(|segment| !segment.is(b"MSH"))
            .find(|segment| segment.is(b"MSA") && segment.bytes.get(3).is_none_or(|byte| *byte == separator))?;
        Some(Acknowledgement { msa: Segment { separator, ..segment } })
    }

    /// Says whether the message should be answered in the normal case.
    ///
    /// An answer is answered only where it asks for that itself (MSH-15); "on error only" is not the normal case.
    pub fn requires_answer(&self) -> bool {
        match (self.mode(), self.msa()) {
            (Mode::Original, answers) => answers.is_none(),
            (Mode::Enhanced { accept, .. }, Some(_)) => accept.is_due(true),
            (Mode::Enhanced { accept, application }, None) => accept.is_due(true) || application.is_due(true),
        }
    }

    /// MSH-1 is the separator itself, so the field after the first separator is MSH-2.
    fn field(&self, number: usize) -> &'a [u8] {
        self.msh.part(number.saturating_sub(1))
    }
}

/// Shows the MSA of an answer.
#[derive(Clone, Copy)]
pub struct Acknowledgement<'a> {
    msa: Segment<'a>,
}

impl<'a> Acknowledgement<'a> {
    /// Returns the acknowledgement code, MSA-1.
    pub fn code(&self) -> &'a [u8] {
        self.msa.part(1)
    }

    /// Returns the control id of the message that is answered, MSA-2; empty where it is missing.
    pub fn control_id(&self) -> &'a [u8] {
        self.msa.part(2)
    }
}

/// Says which answers a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One answer, after processing.
    Original,
    /// An accept acknowledgement when the message is safely stored, an application acknowledgement after processing.
    Enhanced {
        /// Is MSH-15.
        accept: AckCondition,
        /// Is MSH-16.
        application: AckCondition,
    },
}

/// Says when an acknowledgement is due (HL7 table 0155).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCondition {
    /// Not said: never, if the other one is.
    Absent,
    /// AL.
    Always,
    /// NE.
    Never,
    /// ER.
    OnError,
    /// SU.
    OnSuccess,
    /// Not in the table; taken for always.
    Unknown,
}

impl AckCondition {
    fn parse(field: &[u8]) -> Self {
        match field {
            b"" | b"\"\"" => Self::Absent,
            b"AL" => Self::Always,
            b"NE" => Self::Never,
            b"ER" => Self::OnError,
            b"SU" => Self::OnSuccess,
            _ => Self::Unknown,
        }
    }

    /// Says whether the acknowledgement is due after success, or after an error.
    pub fn is_due(self, success: bool) -> bool {
        match self {
            Self::Always | Self::Unknown => true,
            Self::Absent | Self::Never => false,
            Self::OnError => !success,
            Self::OnSuccess => success,
        }
    }
}

#[derive(Clone, Copy)]
struct Segment<'a> {
    bytes: &'a [u8],
    separator: u8,
    is_cut: bool,
}

impl<'a> Segment<'a> {
    fn is(&self, name: &[u8]) -> bool {
        self.bytes.starts_with(name)
    }

    fn part(&self, index: usize) -> &'a [u8] {
        let mut parts = self.bytes.split(|byte| *byte == self.separator);
        let part = parts.nth(index).unwrap_or_default();
        let is_whole = !self.is_cut || parts.next().is_some();
        if is_whole { part } else { &[] }
    }
}

/// Walks the segments of a head; empty lines are none.
#[derive(Clone, Copy)]
struct Segments<'a> {
    rest: &'a [u8],
    is_cut: bool,
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let blank = self.rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let rest = self.rest.get(blank..).unwrap_or_default();
        let end = memchr::memchr2(b'\r', b'\n', rest);
        let (bytes, behind) = rest.split_at(end.unwrap_or(rest.len()));
        self.rest = behind;
        let is_cut = self.is_cut && end.is_none();
        (!bytes.is_empty()).then_some(Segment { bytes, separator: b'|', is_cut })
    }
}
