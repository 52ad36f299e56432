//! Tests of the header view.

use proptest::prelude::*;

use super::*;

const ADT: &[u8] =
    b"MSH|^~\\&|SAPP|SFAC|RAPP|RFAC|20240101||ADT^A01^ADT_A01|ID-1|P|2.5|||AL|NE||8859/1\rEVN|A01\rPID|1||42\r";

fn control_id(payload: &[u8]) -> Option<Vec<u8>> {
    Header::parse(payload).map(|header| header.control_id().to_vec())
}

fn with_mode(accept: &str, application: &str, rest: &str) -> Vec<u8> {
    format!("MSH|^~\\&|a|b|c|d|t||ORU^R01|7|P|2.5|||{accept}|{application}\r{rest}").into_bytes()
}

#[test]
fn the_fields_are_found() {
    let header = Header::parse(ADT).unwrap();
    assert_eq!(header.field_separator(), b'|');
    assert_eq!(header.encoding_characters(), b"^~\\&");
    assert_eq!(header.sending_application(), b"SAPP");
    assert_eq!(header.sending_facility(), b"SFAC");
    assert_eq!(header.receiving_application(), b"RAPP");
    assert_eq!(header.receiving_facility(), b"RFAC");
    assert_eq!(header.message_type(), b"ADT^A01^ADT_A01");
    assert_eq!(header.control_id(), b"ID-1");
    assert_eq!(header.processing_id(), b"P");
    assert_eq!(header.version(), b"2.5");
    assert_eq!(header.character_set(), b"8859/1");
    assert!(header.msa().is_none());
}

#[test]
fn case_12_lf_and_crlf_between_segments_are_read() {
    for end in ["\r", "\n", "\r\n"] {
        let answer = format!("{end}MSH|^~\\&|||||||ACK|9|P|2.3{end}SFT|x{end}MSA|AE|17|text{end}");
        let header = Header::parse(answer.as_bytes()).unwrap();
        let msa = header.msa().unwrap();
        assert_eq!((header.version(), msa.code(), msa.control_id()), (&b"2.3"[..], &b"AE"[..], &b"17"[..]));
    }
}

#[test]
fn case_13_bytes_of_any_character_set_are_no_obstacle() {
    assert_eq!(control_id(b"MSH|^~\\&|\x83\x5c\xfc|||||| |\xe9\x81|P").unwrap(), b"\xe9\x81");
}

#[test]
fn case_15_a_byte_order_mark_is_passed_over() {
    assert_eq!(control_id(&[b"\xef\xbb\xbf", ADT].concat()).unwrap(), b"ID-1");
}

#[test]
fn case_33_a_batch_shows_its_first_message() {
    let batch = [b"FHS|^~\\&|x\rBHS|^~\\&|y\r", ADT, b"MSH|^~\\&|||||||ACK|2\rMSA|AA|1\r"].concat();
    let header = Header::parse(&batch).unwrap();
    assert_eq!(header.control_id(), b"ID-1");
    assert!(header.msa().is_none());
    assert!(Header::parse(b"BHS|^~\\&|y\rBTS|0\r").is_none());
}

#[test]
fn case_34_a_missing_control_id_is_empty_and_other_delimiters_are_read() {
    assert_eq!(control_id(b"MSH|^~\\&|a|b|c|d|t||ADT^A01||P|2.5\r").unwrap(), b"");
    assert_eq!(control_id(b"MSH|^~\\&|a\r").unwrap(), b"");
    let header = Header::parse(b"MSH#*~\\&#a#b#c#d#t##ADT*A01#ID-9#P\rMSA#AA#8\r").unwrap();
    assert_eq!((header.control_id(), header.component_separator()), (&b"ID-9"[..], b'*'));
    assert_eq!(header.msa().unwrap().control_id(), b"8");
}

#[test]
fn what_is_no_header_is_none() {
    for payload in [&b""[..], b"MSH", b"MSH\r", b"MSHX^~", b"MSH ^~", b"PID|1", b"\x06", b"xMSH|^~\\&|"] {
        assert!(Header::parse(payload).is_none());
    }
}

#[test]
fn a_field_that_the_limit_cuts_reads_as_empty() {
    let long = |length: usize| [b"MSH|^~\\&|||||||ADT|", "i".repeat(length).as_bytes()].concat();
    assert_eq!(control_id(&long(100)).unwrap().len(), 100);
    assert_eq!(control_id(&long(HEADER_BYTES_MAX)).unwrap(), b"");
    let answer = [b"MSH|^~\\&|||||||ACK|9\rMSA|AA|", "i".repeat(HEADER_BYTES_MAX).as_bytes()].concat();
    let header = Header::parse(&answer).unwrap();
    let msa = header.msa().unwrap();
    assert_eq!((msa.code(), msa.control_id()), (&b"AA"[..], &b""[..]));
}

#[test]
fn a_header_that_is_there_is_read_whole() {
    let id = "i".repeat(3 * HEADER_BYTES_MAX);
    let message = format!("MSH|^~\\&|||||||ADT|{id}|P|2.5|||AL|NE\rPID|1\r");
    assert!(Header::parse(message.as_bytes()).unwrap().is_cut());
    let header = Header::parse_whole(message.as_bytes()).unwrap();
    assert!(header.control_id() == id.as_bytes() && !header.is_cut() && header.mode() != Mode::Original);
    assert_eq!(header.bytes_in(message.as_bytes()), message.len() - "\rPID|1\r".len());
    let answer = format!("MSH|^~\\&|||||||ACK|{id}\rMSA|AA|{id}\r");
    assert!(Header::parse_whole(answer.as_bytes()).unwrap().msa().unwrap().control_id() == id.as_bytes());
}

#[test]
fn an_msa_may_be_bare() {
    let header = Header::parse(b"MSH|^~\\&|\rMSA").unwrap();
    let msa = header.msa().unwrap();
    assert_eq!((msa.code(), msa.control_id()), (&b""[..], &b""[..]));
}

#[test]
fn the_mode_says_which_answers_are_due() {
    use AckCondition::{Absent, Always, Never, OnError, OnSuccess, Unknown};
    let mode = |accept, application| Header::parse(&with_mode(accept, application, "")).unwrap().mode();
    assert_eq!(mode("", ""), Mode::Original);
    assert_eq!(mode("\"\"", ""), Mode::Original);
    assert_eq!(mode("AL", "NE"), Mode::Enhanced { accept: Always, application: Never });
    assert_eq!(mode("ER", "SU"), Mode::Enhanced { accept: OnError, application: OnSuccess });
    assert_eq!(mode("", "yes"), Mode::Enhanced { accept: Absent, application: Unknown });
}

#[test]
fn an_answer_is_required_unless_the_message_says_otherwise() {
    for (accept, application, rest, required) in [
        ("", "", "", true),
        ("NE", "NE", "", false),
        ("NE", "", "", false),
        ("ER", "NE", "", false),
        ("AL", "NE", "", true),
        ("NE", "SU", "", true),
        ("", "", "MSA|AA|1\r", false),
        ("NE", "AL", "MSA|AA|1\r", false),
        ("AL", "NE", "MSA|AA|1\r", true),
    ] {
        let message = with_mode(accept, application, rest);
        assert_eq!(Header::parse(&message).unwrap().requires_answer(), required, "{accept} {application} {rest}");
    }
}

fn look_at_everything(payload: &[u8]) -> usize {
    let Some(header) = Header::parse(payload) else {
        return 0;
    };
    let fields = (0..40).map(|number| header.field(number).len());
    let longest = fields.max().unwrap_or(0);
    let msa = header.msa().map_or(0, |msa| msa.code().len().max(msa.control_id().len()));
    assert!(matches!(header.requires_answer(), true | false));
    longest.max(msa)
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(payload in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(look_at_everything(&payload) <= payload.len());
    }

    #[test]
    fn an_arbitrary_header_is_survived(rest in "[|^~\\\\&\r\nMSHA \\x00-\\xff]{0,400}", cut in 0usize..500) {
        let payload = ["MSH|", &rest].concat().into_bytes();
        let cut = &payload[..cut.min(payload.len())];
        prop_assert!(look_at_everything(cut) <= cut.len());
    }

    #[test]
    fn a_control_id_is_found_wherever_the_head_is_not_cut(id in "[!-{]{0,40}", tail in "[ -~\r]{0,3000}") {
        prop_assume!(!id.contains('|'));
        let payload = format!("MSH|^~\\&|a|b|c|d|t|s|ORU^R01|{id}|P|2.5\r{tail}");
        prop_assert!(control_id(payload.as_bytes()) == Some(id.into_bytes()));
    }
}
