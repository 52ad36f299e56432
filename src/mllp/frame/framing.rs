//! The bytes around a payload: what starts a frame, what ends it.
//!
//! Never a byte that stands in HL7 text by itself, and no two alike: a frame then ends where its sender ended it. HL7's
//! Minimal Lower Layer Protocol has `0B payload 1C 0D`; the field also has others (case 35 of the design of MLLP).

use super::{CR, FS, VT};

/// Is what starts and ends a frame; the end is one byte or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    start: u8,
    end: u8,
    last: Option<u8>,
}

impl Framing {
    /// Is that of MLLP.
    pub const MLLP: Self = Self { start: VT, end: FS, last: Some(CR) };

    /// Makes one; `None` where a byte stands in text or occurs twice: the first of the end and the start are control
    /// characters other than tab, LF and CR, and no byte is NUL or printable.
    pub fn new(start: u8, end: u8, last: Option<u8>) -> Option<Self> {
        let is_control = |byte: u8| (1..0x20).contains(&byte);
        let is_mark = |byte: u8| is_control(byte) && !matches!(byte, b'\t' | b'\n' | b'\r');
        let differ = start != end && last.is_none_or(|last| last != start && last != end);
        (is_mark(start) && is_mark(end) && last.is_none_or(is_control) && differ).then_some(Self { start, end, last })
    }

    /// Is what starts a frame.
    pub fn start(self) -> u8 {
        self.start
    }

    /// Is the first byte of what ends one.
    pub fn end(self) -> u8 {
        self.end
    }

    /// Is the second byte of what ends one, where there is one.
    pub fn last(self) -> Option<u8> {
        self.last
    }

    /// Returns what stands before a payload, and what behind it.
    pub fn around(self) -> ([u8; 1], Tail) {
        ([self.start], Tail { bytes: [self.end, self.last.unwrap_or(0)], is_long: self.last.is_some() })
    }

    /// Tells whether a payload can be wrapped: nothing in it ends the frame. One that came in another framing may not.
    pub fn fits(self, payload: &[u8]) -> bool {
        let (_, tail) = self.around();
        memchr::memmem::find(payload, tail.as_ref()).is_none()
    }

    /// Wraps a payload in a frame. Any payload that a [`super::Decoder`] reported is found again as it is.
    pub fn encode(self, payload: &[u8]) -> Vec<u8> {
        let (head, tail) = self.around();
        [&head[..], payload, tail.as_ref()].concat()
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::MLLP
    }
}

/// Is what stands behind a payload.
#[derive(Clone, Copy)]
pub struct Tail {
    bytes: [u8; 2],
    is_long: bool,
}

impl AsRef<[u8]> for Tail {
    fn as_ref(&self) -> &[u8] {
        let [end, _] = &self.bytes;
        if self.is_long { &self.bytes } else { std::slice::from_ref(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_35_a_payload_that_would_end_its_own_frame_does_not_fit() {
        let short = Framing::new(2, 3, None).unwrap_or_default();
        for (payload, in_mllp, in_short) in [
            (&b"MSH|a\rPID\r"[..], true, true),
            (b"MSH|a\x1c\rPID\r", false, true),
            (b"MSH|a\x03\r\x1c", true, false),
            (b"", true, true),
        ] {
            assert_eq!((Framing::MLLP.fits(payload), short.fits(payload)), (in_mllp, in_short));
        }
    }

    #[test]
    fn case_35_no_byte_of_a_frame_stands_in_text_or_occurs_twice() {
        assert_eq!(Framing::new(0x0b, 0x1c, Some(0x0d)), Some(Framing::MLLP));
        for (start, end, last) in [(2, 3, None), (2, 3, Some(b'\r')), (2, 3, Some(b'\n')), (0x1b, 0x1d, Some(0x1e))] {
            assert!(Framing::new(start, end, last).is_some(), "{start} {end} {last:?}");
        }
        for (start, end, last) in [
            (2, 2, None),
            (2, 3, Some(3)),
            (2, 3, Some(2)),
            (0, 3, None),
            (2, 0, None),
            (2, 3, Some(0)),
            (2, b'\r', None),
            (2, b'\r', Some(b'\n')),
            (b'\n', 3, None),
            (b'\t', 3, None),
            (b'M', 3, None),
            (2, 0x80, None),
            (2, 3, Some(b'|')),
        ] {
            assert_eq!(Framing::new(start, end, last), None, "{start} {end} {last:?}");
        }
        assert_eq!(Framing::new(2, 3, None).map(|framing| framing.encode(b"a")), Some(vec![2, b'a', 3]));
        assert_eq!(Framing::MLLP.encode(b"a"), [0x0b, b'a', 0x1c, 0x0d]);
    }
}
