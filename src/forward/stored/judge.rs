//! What becomes of a frame that a sender hands to a stored forward, by its header. Pure.
//!
//! It invents no answer: what only an application could answer is refused. Rules: design, delivery.md ("stored: intake"),
//! and mllp.md, cases 9, 10 and 33; HL7 v2 chapter 2 (acknowledgement modes).

use crate::config::ApplicationAck;
use crate::mllp::ack::{AckCode, FrameKind, stored_code};
use crate::mllp::frame::Anomaly;
use crate::mllp::message::{Header, Mode, STORED_HEADER_BYTES_MAX};

/// Says what becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is stored, then answered with this code, if an answer is due.
    Store(Option<AckCode>),
    /// It is refused: nobody could give the answer that it requires.
    Refuse,
    /// It is passed over: a control frame, or a mere acknowledgement in original mode. That one is never answered, by no
    /// refusal either, so that nobody waits; and nobody behind a stored forward has asked for it.
    Ignore(Option<Anomaly>),
    /// It cannot be answered, so that its sender would send it for ever: the connection is to end.
    Unreadable(Anomaly),
}

/// Judges a payload.
pub(super) fn judge(payload: &[u8], application_ack: ApplicationAck) -> Fate {
    match FrameKind::of(payload) {
        // The decoder has reported it.
        FrameKind::Empty => return Fate::Ignore(None),
        FrameKind::Transport(_) | FrameKind::Control => return Fate::Ignore(Some(Anomaly::ControlFrame)),
        FrameKind::Message => {}
    }
    let Some(header) = Header::parse_whole(payload) else { return Fate::Unreadable(Anomaly::NoHeader) };
    if header.bytes_in(payload) > STORED_HEADER_BYTES_MAX {
        return Fate::Unreadable(Anomaly::HeaderTooLong);
    }
    if header.mode() == Mode::Original && header.is_acknowledgement() {
        return Fate::Ignore(Some(Anomaly::AnswerUnmatched));
    }
    match application_ack {
        ApplicationAck::Refuse if header.requires_application_answer() => Fate::Refuse,
        ApplicationAck::Refuse | ApplicationAck::Discard => Fate::Store(stored_code(&header)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(kind: &str, accept: &str, application: &str, behind: &str) -> Fate {
        let message = format!("MSH|^~\\&|A|B|C|D|2026||{kind}|7|P|2.5|||{accept}|{application}\r{behind}");
        judge(message.as_bytes(), ApplicationAck::Refuse)
    }

    const AA: Fate = Fate::Store(Some(AckCode::ApplicationAccept));
    const CA: Fate = Fate::Store(Some(AckCode::CommitAccept));
    const SILENT: Fate = Fate::Store(None);

    #[test]
    fn the_answer_is_what_the_message_asks_for() {
        assert_eq!(fate("ORU^R01", "", "", ""), AA);
        for (accept, expected) in [("AL", CA), ("SU", CA), ("NE", SILENT), ("ER", SILENT)] {
            assert_eq!(fate("ORU^R01", accept, "", ""), expected, "{accept}");
            assert_eq!(fate("ORU^R01", accept, "NE", ""), expected, "{accept}");
        }
        assert_eq!(fate("ORU^R01", "", "NE", ""), SILENT);
    }

    #[test]
    fn what_only_an_application_could_answer_is_refused_unless_its_owner_does_without() {
        for application in ["AL", "SU", "ER"] {
            assert_eq!(fate("ORU^R01", "AL", application, ""), Fate::Refuse, "{application}");
        }
        for query in ["QRY^A19", "QBP^Q11^QBP_Q11", "QBP", "VQQ^Q07", "RQI^I01", "OSQ^Q06"] {
            assert_eq!(fate(query, "", "", ""), Fate::Refuse, "{query}");
        }
        for other in ["QCK^Q02", "ORM^O01", "RQ", "", "ADT^A01"] {
            assert_eq!(fate(other, "", "", ""), AA, "{other}");
        }
        let query = b"MSH|^~\\&|A|B|C|D|2026||QRY^A19|7|P|2.5|||AL|AL\r";
        assert_eq!(judge(query, ApplicationAck::Discard), CA, "never the application's answer");
    }

    #[test]
    fn an_acknowledgement_is_never_acknowledged() {
        assert_eq!(fate("ACK^R01", "", "", "MSA|AA|7\r"), Fate::Ignore(Some(Anomaly::AnswerUnmatched)));
        assert_eq!(fate("MCF^Q02", "", "", "MSA|AA|7\r"), Fate::Ignore(Some(Anomaly::AnswerUnmatched)));
        // One that is on its own way, and asks for what it needs.
        assert_eq!(fate("ACK^R01", "AL", "NE", "MSA|AA|7\r"), CA);
        assert_eq!(fate("ACK^R01", "NE", "NE", "MSA|AA|7\r"), SILENT);
    }

    #[test]
    fn a_response_that_is_sent_by_itself_is_a_message_of_its_own() {
        for kind in ["ORR^O02", "RSP^K11", "ORU^R01", "RRA^O18", ""] {
            assert_eq!(fate(kind, "", "", "MSA|AA|7\r"), AA, "{kind}");
        }
        assert_eq!(fate("ORR^O02", "AL", "AL", "MSA|AA|7\r"), CA);
        assert_eq!(fate("ORR^O02", "NE", "AL", "MSA|AA|7\r"), SILENT);
    }

    #[test]
    fn case_9_and_10_what_is_no_message_is_passed_over() {
        let judge = |payload: &[u8]| judge(payload, ApplicationAck::Refuse);
        for control in [b"\x06", b"\x15", b"\x04"] {
            assert_eq!(judge(control), Fate::Ignore(Some(Anomaly::ControlFrame)));
        }
        assert_eq!(judge(b""), Fate::Ignore(None));
        assert_eq!(judge(b"PID|1||4711\r"), Fate::Unreadable(Anomaly::NoHeader));
        assert_eq!(judge(b"MSH"), Fate::Unreadable(Anomaly::NoHeader));
    }

    #[test]
    fn case_12_15_and_33_the_header_is_found() {
        let judge = |payload: &[u8]| judge(payload, ApplicationAck::Refuse);
        assert_eq!(judge(b"\xef\xbb\xbfMSH|^~\\&|A|B|C|D|2026||ORU|7|P|2.5\n"), AA);
        assert_eq!(judge(b"FHS|^~\\&\rBHS|^~\\&\rMSH|^~\\&|A|B|C|D|2026||ORU|7|P|2.5\rMSH|^~\\&|A\r"), AA);
    }
}
