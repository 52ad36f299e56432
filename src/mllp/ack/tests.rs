//! Tests of the answers.

use proptest::prelude::*;

use super::*;
use crate::mllp::frame::{FrameReader, Limits, Read, encode};

const ACKNOWLEDGEMENT: &[u8] = b"MSH|^~\\&|SA|SF|RA|RF|t||ACK^A01|ID-1|P|2.5\rMSA|AA|1\r";
const STAMP: Stamp<'_> = Stamp { control_id: b"W1", timestamp: b"20240131235959+0000" };

fn with_mode(accept: &str, application: &str, rest: &str) -> Vec<u8> {
    let msh = format!("MSH|^~\\&|SA|SF|RA|RF|t||ADT^A01^ADT_A01|ID-1|P|2.5|||{accept}|{application}");
    format!("{msh}||8859/1\r{rest}").into_bytes()
}

fn codes(accept: &str, application: &str, verdict: Verdict) -> Vec<&'static str> {
    let message = with_mode(accept, application, "");
    codes_due(&Header::parse(&message).unwrap(), verdict).into_iter().map(AckCode::code).collect()
}

#[test]
fn codes_are_read_and_only_aa_and_ca_are_positive() {
    for code in ["AA", "AE", "AR", "CA", "CE", "CR"] {
        assert_eq!(AckCode::parse(code.as_bytes()).code(), code);
        assert_eq!(AckCode::parse(code.as_bytes()).is_positive(), code.ends_with('A'));
    }
    for field in [&b""[..], b"aa", b"AAA", b"AA ", b"OK"] {
        assert!(!AckCode::parse(field).is_positive());
    }
}

#[test]
fn release_2_commit_frames_are_recognised() {
    assert_eq!(FrameKind::of(b"\x06"), FrameKind::Transport(AckCode::TransportAck));
    assert_eq!(FrameKind::of(b"\x15"), FrameKind::Transport(AckCode::TransportNak));
    assert!(!AckCode::TransportAck.is_positive());
}

#[test]
fn case_9_and_10_control_and_empty_frames_are_no_messages() {
    assert_eq!(FrameKind::of(b"\x04"), FrameKind::Control);
    assert_eq!(FrameKind::of(b""), FrameKind::Empty);
    assert_eq!(FrameKind::of(b"M"), FrameKind::Message);
    for garbage in [&b"\x06\x06"[..], b"\x15\x06", b"\x06\0\r\n"] {
        assert_eq!(FrameKind::of(garbage), FrameKind::Control, "no commit, and no message either");
    }
    assert_eq!(FrameKind::of(b"\x06M"), FrameKind::Message);
    assert_eq!(FrameKind::of(b"\x06\x06\x06\x06\x06"), FrameKind::Message);
}

#[test]
fn an_answer_mirrors_the_message() {
    let message = with_mode("", "", "");
    let payload = answer(&Header::parse(&message).unwrap(), AckCode::ApplicationAccept, STAMP);
    let expected = b"MSH|^~\\&|RA|RF|SA|SF|20240131235959+0000||ACK^A01^ACK|W1|P|2.5||||||8859/1\rMSA|AA|ID-1\r";
    assert_eq!(payload.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn the_type_of_an_answer_follows_the_message() {
    for (kind, expected) in [("ADT", "ACK"), ("ADT^A01", "ACK^A01"), ("ADT^A01^ADT_A01", "ACK^A01^ACK"), ("", "ACK")] {
        let message = format!("MSH|^~\\&|||||||{kind}|1");
        let payload = answer(&Header::parse(message.as_bytes()).unwrap(), AckCode::ApplicationError, STAMP);
        assert_eq!(Header::parse(&payload).unwrap().message_type(), expected.as_bytes());
    }
}

#[test]
fn case_34_a_control_id_is_echoed_as_it_is() {
    for id in [&b""[..], b"\xfc \x83\x5c", b"A^B&C", b"\x0bX", b"X\x1c"] {
        let message = [b"MSH#^~\\&#a#b#c#d#t##ADT^A01#", id, b"#P#2.3\r"].concat();
        let payload = answer(&Header::parse(&message).unwrap(), AckCode::ApplicationAccept, STAMP);
        let header = Header::parse(&payload).unwrap();
        assert_eq!(header.msa().unwrap().control_id(), id);
        assert_eq!(header.msa().unwrap().code(), b"AA");
        assert_eq!(header.version(), b"2.3");
    }
}

#[test]
fn a_refusal_says_ar_or_cr_and_207() {
    for (accept, application, expected) in [("", "", "AR"), ("AL", "AL", "CR"), ("ER", "NE", "CR"), ("NE", "AL", "AR")]
    {
        let message = with_mode(accept, application, "");
        let (refused, payload) = refusal(&Header::parse(&message).unwrap(), STAMP, UNREACHABLE_TEXT).unwrap();
        assert_eq!(refused.code(), expected);
        assert_eq!(Header::parse(&payload).unwrap().msa().unwrap().code(), expected.as_bytes());
        assert!(payload.ends_with(&[b"\rERR|||207|E||||", UNREACHABLE_TEXT, b"\r"].concat()));
    }
}

#[test]
fn nothing_is_refused_that_asks_for_no_answer() {
    for message in [with_mode("NE", "NE", ""), with_mode("SU", "NE", ""), ACKNOWLEDGEMENT.to_vec()] {
        assert!(refusal(&Header::parse(&message).unwrap(), STAMP, NOT_STORED_TEXT).is_none());
    }
}

#[test]
fn what_is_never_taken_is_rejected_also_where_only_success_would_be_told() {
    for (accept, application, expected) in
        [("", "", Some("AR")), ("AL", "AL", Some("CR")), ("NE", "SU", Some("AR")), ("SU", "SU", Some("CR"))]
    {
        let message = with_mode(accept, application, "");
        let rejected = rejection(&Header::parse(&message).unwrap(), STAMP, NO_APPLICATION_ANSWER_TEXT);
        assert_eq!(rejected.as_ref().map(|(code, _)| code.code()), expected, "{accept} {application}");
        let payload = rejected.unwrap().1;
        assert_eq!(Header::parse(&payload).unwrap().msa().map(|msa| msa.code()), expected.map(str::as_bytes));
        assert!(payload.ends_with(&[b"\rERR|||207|E||||", NO_APPLICATION_ANSWER_TEXT, b"\r"].concat()));
    }
    for message in [with_mode("NE", "NE", ""), ACKNOWLEDGEMENT.to_vec()] {
        assert!(rejection(&Header::parse(&message).unwrap(), STAMP, NO_APPLICATION_ANSWER_TEXT).is_none());
    }
}

#[test]
fn the_codes_due_follow_msh_15_and_16() {
    assert_eq!(codes("", "", Verdict::Accept), ["AA"]);
    assert_eq!(codes("", "", Verdict::Error), ["AE"]);
    assert_eq!(codes("AL", "AL", Verdict::Accept), ["CA", "AA"]);
    assert_eq!(codes("AL", "NE", Verdict::Accept), ["CA"]);
    assert_eq!(codes("NE", "AL", Verdict::Accept), ["AA"]);
    assert_eq!(codes("AL", "AL", Verdict::Reject), ["CR"]);
    assert_eq!(codes("SU", "ER", Verdict::Error), ["AE"]);
    assert_eq!(codes("ER", "ER", Verdict::Accept), [""; 0]);
    assert_eq!(codes("NE", "NE", Verdict::Reject), [""; 0]);
}

#[test]
fn an_acknowledgement_is_not_acknowledged() {
    let due = |message: &[u8]| codes_due(&Header::parse(message).unwrap(), Verdict::Accept);
    assert_eq!(due(ACKNOWLEDGEMENT), []);
    // A response that comes by itself is a message of its own.
    assert_eq!(due(&with_mode("", "", "MSA|AA|1\r")), [AckCode::ApplicationAccept]);
    assert_eq!(due(&with_mode("NE", "AL", "MSA|AA|1\r")), []);
    assert_eq!(due(&with_mode("AL", "AL", "MSA|AA|1\r")), [AckCode::CommitAccept]);
}

proptest! {
    #[test]
    fn an_answer_to_any_message_is_one_frame(fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..20)) {
        let message = [b"MSH|^~\\&|".to_vec(), fields.join(&b'|')].concat();
        // What a decoder reports as a payload is what an answer is asked for.
        let mut payloads = Vec::new();
        let mut reader = FrameReader::new(Limits::default());
        let _followed = reader.handle_bytes(&encode(&message), &mut |read| payloads.push(read));
        for read in payloads {
            let Read::Payload(payload) = read else { continue };
            let Some(header) = Header::parse(&payload) else { continue };
            let answer = answer(&header, AckCode::ApplicationReject, STAMP);
            let mut answers = Vec::new();
            FrameReader::new(Limits::default())
                .handle_bytes(&encode(&answer), &mut |read| answers.push(read))
                .unwrap();
            answers.retain(|read| matches!(read, Read::Payload(_)));
            prop_assert!(answers == [Read::Payload(answer)]);
        }
    }
}
