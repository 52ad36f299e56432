//! Tests of the decoder, named after the edge cases of the design of MLLP.

use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { frame_bytes_max: 16, junk_bytes_max: 8, framing: Framing::MLLP };

/// Is an event as the tests write it.
#[derive(Debug, PartialEq)]
enum Seen {
    Start,
    Payload(Vec<u8>),
    End(u64),
    Anomaly(Anomaly),
}

fn record(events: &mut Vec<Seen>, event: Event<'_>) {
    match (event, events.last_mut()) {
        (Event::Payload(more), Some(Seen::Payload(before))) => before.extend_from_slice(more),
        (Event::Payload(bytes), _) => events.push(Seen::Payload(bytes.to_vec())),
        (Event::Start, _) => events.push(Seen::Start),
        (Event::End { payload_bytes }, _) => events.push(Seen::End(payload_bytes)),
        (Event::Anomaly(anomaly), _) => events.push(Seen::Anomaly(anomaly)),
    }
}

/// Decodes a whole stream; checks on the way that single bytes give the same.
fn decode(stream: &[u8], limits: Limits) -> (Vec<Seen>, Result<(), Violation>) {
    let run = |pieces: Vec<&[u8]>| {
        let (mut decoder, mut events) = (Decoder::new(limits), Vec::new());
        let mut sink = |event: Event<'_>| record(&mut events, event);
        let followed = pieces.iter().try_for_each(|piece| decoder.handle_bytes(piece, &mut sink));
        decoder.handle_end_of_stream(&mut sink);
        (events, followed)
    };
    let whole = run(vec![stream]);
    assert_eq!(run(stream.chunks(1).collect()), whole);
    whole
}

fn seen(stream: &[u8]) -> Vec<Seen> {
    let (events, followed) = decode(stream, Limits::default());
    assert_eq!(followed, Ok(()));
    events
}

/// Returns payloads and anomalies of a stream.
fn read(stream: &[u8]) -> (Vec<Vec<u8>>, Vec<Anomaly>) {
    let (mut payloads, mut anomalies) = (Vec::new(), Vec::new());
    let mut reader = FrameReader::new(Limits::default());
    let mut sink = |read| match read {
        Read::Payload(payload) => payloads.push(payload),
        Read::Anomaly(anomaly) => anomalies.push(anomaly),
    };
    assert_eq!(reader.handle_bytes(stream, &mut sink), Ok(()));
    reader.handle_end_of_stream(&mut sink);
    (payloads, anomalies)
}

fn violation(stream: &[u8]) -> Violation {
    decode(stream, Limits::default()).1.unwrap_err()
}

#[test]
fn case_1_two_frames_in_one_write_come_in_order() {
    assert_eq!(read(b"\x0bMSH|a\x1c\r\x0bMSH|b\x1c\r"), (vec![b"MSH|a".to_vec(), b"MSH|b".to_vec()], vec![]));
}

#[test]
fn case_2_fs_and_cr_in_separate_segments_end_a_frame() {
    let (mut decoder, mut events) = (Decoder::new(Limits::default()), Vec::new());
    let mut sink = |event: Event<'_>| record(&mut events, event);
    decoder.handle_bytes(b"\x0bMSH|\x1c", &mut sink).unwrap();
    assert!(!decoder.is_between_frames());
    decoder.handle_bytes(b"\r", &mut sink).unwrap();
    assert!(decoder.is_between_frames());
    assert_eq!(events, [Seen::Start, Seen::Payload(b"MSH|".to_vec()), Seen::End(4)]);
}

#[test]
fn case_3_fs_then_vt_or_end_of_stream_ends_a_frame() {
    let (payloads, anomalies) = read(b"\x0bMSH|a\r\x1c\x0bMSH|b\x1c");
    assert_eq!(payloads, [b"MSH|a\r".to_vec(), b"MSH|b".to_vec()]);
    assert_eq!(anomalies, [Anomaly::EndWithoutCr; 2]);
}

#[test]
fn case_3_silence_ends_a_frame_only_after_cr_fs() {
    let (mut reader, mut reads) = (FrameReader::new(Limits::default()), Vec::new());
    reader.handle_bytes(b"\x0bMSH|a\x1c", &mut |read| reads.push(read)).unwrap();
    assert!(!reader.awaits_silence());
    reader.handle_silence(&mut |read| reads.push(read));
    reader.handle_bytes(b"b\r\x1c", &mut |read| reads.push(read)).unwrap();
    assert_eq!(reads, []);
    assert!(reader.awaits_silence());
    reader.handle_silence(&mut |read| reads.push(read));
    assert_eq!(
        reads,
        [
            Read::Anomaly(Anomaly::EndWithoutCr),
            Read::Anomaly(Anomaly::FsInPayload),
            Read::Payload(b"MSH|a\x1cb\r".to_vec())
        ]
    );
}

#[test]
fn case_4_a_line_end_between_frames_is_swallowed() {
    let (payloads, anomalies) = read(b"\x0bMSH|a\x1c\r\n\n\x0bMSH|b\x1c\r\n");
    assert_eq!(payloads.len(), 2);
    assert_eq!(anomalies, [Anomaly::LineEndBetweenFrames; 2]);
}

#[test]
fn case_5_nul_between_frames_is_swallowed_without_limit() {
    let stream = [&[0; 9000][..], b"\x0bMSH|a\x1c\r"].concat();
    assert_eq!(read(&stream), (vec![b"MSH|a".to_vec()], vec![Anomaly::NulBetweenFrames]));
}

#[test]
fn case_6_junk_before_vt_is_skipped_up_to_the_limit() {
    let (events, followed) = decode(b"12345678\x0bMSH|\x1c\r12345678\x0bM\x1c\r", SMALL);
    assert_eq!(followed, Ok(()));
    assert_eq!(events.iter().filter(|event| matches!(event, Seen::End(_))).count(), 2);
    let (events, followed) = decode(b"123456789\x0bMSH|\x1c\r", SMALL);
    assert_eq!(followed, Err(Violation::TooMuchJunk));
    assert_eq!(events, [Seen::Anomaly(Anomaly::JunkBetweenFrames)]);
}

#[test]
fn case_7_only_fs_cr_ends_a_frame() {
    let (payloads, anomalies) = read(b"\x0bMSH|a\x1cb\x1c\x1c\r");
    assert_eq!(payloads, [b"MSH|a\x1cb\x1c".to_vec()]);
    assert_eq!(anomalies, [Anomaly::FsInPayload]);
}

#[test]
fn case_8_vt_inside_the_payload_is_payload() {
    for inside in [&b"\x0b"[..], b"\x0bM", b"\x0bMS", b"\x0bMSA|", b"\x0b\xef\xbb\xbf", b"\x0b\x0bMS\x0b"] {
        let payload = [b"MSH|a", inside].concat();
        assert_eq!(read(&encode(&payload)), (vec![payload], vec![Anomaly::VtInPayload]));
    }
}

#[test]
fn case_8_vt_then_msh_starts_over_and_the_partial_message_is_none() {
    for mark in [&b""[..], b"\xef\xbb\xbf"] {
        let stream = [b"\x0bMSH|a|half\x0b", mark, b"MSH|b\x1c\r"].concat();
        let second = [mark, b"MSH|b"].concat();
        assert_eq!(read(&stream), (vec![second], vec![Anomaly::StartedOver]));
    }
    let events = seen(b"\x0bMSH|a\x0b\x0bMSH|b\x1c\r");
    let expected = [
        Seen::Start,
        Seen::Payload(b"MSH|a\x0b".to_vec()),
        Seen::Anomaly(Anomaly::StartedOver),
        Seen::Start,
        Seen::Payload(b"MSH|b".to_vec()),
        Seen::End(5),
    ];
    assert_eq!(events, expected);
}

#[test]
fn case_9_a_control_frame_is_a_frame() {
    assert_eq!(read(b"\x0b\x04\x1c\r"), (vec![vec![4]], vec![]));
}

#[test]
fn case_10_an_empty_frame_is_reported() {
    assert_eq!(seen(b"\x0b\x1c\r"), [Seen::Start, Seen::Anomaly(Anomaly::EmptyFrame), Seen::End(0)]);
}

#[test]
fn cases_11_to_13_and_15_bytes_stay_untouched() {
    for payload in [
        &b"MSH|^~\\&|a\rPID|1"[..],
        b"MSH|^~\\&|a\nPID|1\r\nPV1|",
        b"MSH|^~\\&|\xfc\xe9\x83\x5c\x81\x30\x89\x30",
        b"\xef\xbb\xbfMSH|^~\\&|a\r",
    ] {
        assert_eq!(read(&encode(payload)), (vec![payload.to_vec()], vec![]));
    }
}

#[test]
fn case_14_wide_text_is_refused_by_name() {
    let wide = |unit: fn(u8) -> Vec<u8>| b"MSH|^~".iter().copied().flat_map(unit).collect::<Vec<u8>>();
    let texts = [
        wide(|byte| vec![byte, 0]),
        wide(|byte| vec![0, byte]),
        wide(|byte| vec![byte, 0, 0, 0]),
        wide(|byte| vec![0, 0, 0, byte]),
    ];
    for text in &texts {
        for mark in [&b""[..], b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"] {
            assert_eq!(violation(&[b"\x0b", mark, text].concat()), Violation::WideText);
            assert_eq!(violation(&[mark, text].concat()), Violation::WideText);
        }
        assert_eq!(violation(&[b"\x0b\0", &text[..]].concat()), Violation::WideText);
    }
}

#[test]
fn case_16_many_marks_cost_no_more_than_plain_bytes() {
    let payload = [VT, FS, b'x'].repeat(1 << 18);
    let (payloads, anomalies) = read(&encode(&payload));
    assert!(payloads == [payload]);
    assert_eq!(anomalies, [Anomaly::FsInPayload, Anomaly::VtInPayload]);
}

#[test]
fn case_17_a_payload_above_the_limit_is_a_violation() {
    assert_eq!(decode(b"\x0b0123456789abcdef\x1c\r", SMALL).1, Ok(()));
    for stream in [&b"\x0b0123456789abcdefg"[..], b"\x0b0123456789abcdef\x1cg", b"\x0b0123456789abcdef\x0bX"] {
        assert_eq!(decode(stream, SMALL).1, Err(Violation::FrameTooLarge));
    }
}

#[test]
fn case_33_a_batch_is_one_frame() {
    let batch = b"FHS|^~\\&\rBHS|^~\\&\rMSH|^~\\&|a\rMSH|^~\\&|b\rBTS|2\rFTS|1\r";
    assert_eq!(read(&encode(batch)), (vec![batch.to_vec()], vec![]));
}

#[test]
fn case_36_other_protocols_are_recognised_at_the_start_of_a_stream() {
    assert_eq!(violation(b"GET / HTTP/1.1\r\n"), Violation::Http);
    assert_eq!(violation(b"OPTIONS * HTTP/1.1\r\n"), Violation::Http);
    assert_eq!(violation(b"\x16\x03\x01\x02\0\x01\0"), Violation::Tls);
    assert_eq!(violation(b"SSH-2.0-client\r\n"), Violation::Banner);
    assert_eq!(violation(b"220 mail.example.org ESMTP\r\n"), Violation::Banner);
    assert_eq!(violation(b"\x01\0\0\0\0\xcd\0\x01\0\0"), Violation::Dicom);
    let (payloads, anomalies) = read(b"\x0bMSH|a\x1c\rGET \x0bMSH|b\x1c\r");
    assert_eq!((payloads.len(), anomalies), (2, vec![Anomaly::JunkBetweenFrames]));
}

#[test]
fn case_35_other_bytes_start_and_end_a_frame() {
    let framing = |last| Limits { framing: Framing::new(2, 3, last).unwrap(), ..Limits::default() };
    let payload = |text: &[u8]| Seen::Payload(text.to_vec());
    let (events, followed) = decode(b"\x02MSH|a\x0b\x1c\rb\x03\n\x02\x03\x02MSH|c\x02MS\x03", framing(None));
    let vt = Seen::Anomaly(Anomaly::VtInPayload);
    let mut expected = vec![Seen::Start, payload(b"MSH|a\x0b\x1c\rb"), Seen::End(9)];
    expected.extend([Seen::Anomaly(Anomaly::LineEndBetweenFrames), Seen::Start]);
    expected.extend([Seen::Anomaly(Anomaly::EmptyFrame), Seen::End(0)]);
    expected.extend([Seen::Start, payload(b"MSH|c\x02MS"), vt, Seen::End(8)]);
    assert_eq!((events, followed), (expected, Ok(())));
    // Two bytes: the first alone is payload, or ends a frame ahead of the next, as FS does.
    let (events, _) = decode(b"\x02MSH|a\x03b\x03\n\x02MSH|c\r\x03\x02MSH|d\x02MSH|e", framing(Some(b'\n')));
    let [fs, end] = [Anomaly::FsInPayload, Anomaly::EndWithoutCr].map(Seen::Anomaly);
    let mut expected = vec![Seen::Start, payload(b"MSH|a\x03b"), fs, Seen::End(7)];
    expected.extend([Seen::Start, payload(b"MSH|c\r"), end, Seen::End(6)]);
    expected.extend([Seen::Start, payload(b"MSH|d"), Seen::Anomaly(Anomaly::StartedOver)]);
    expected.extend([Seen::Start, payload(b"MSH|e"), Seen::Anomaly(Anomaly::TruncatedFrame)]);
    assert_eq!(events, expected);
}

#[test]
fn case_37_any_cut_of_an_answer_gives_the_answer() {
    let answer = b"MSH|^~\\&|a\rMSA|AA|1\r";
    let frame = encode(answer);
    for at in 0..frame.len() {
        let (mut reader, mut reads) = (FrameReader::new(Limits::default()), Vec::new());
        reader.handle_bytes(&frame[..at], &mut |read| reads.push(read)).unwrap();
        assert!(reads.is_empty());
        reader.handle_bytes(&frame[at..], &mut |read| reads.push(read)).unwrap();
        assert_eq!(reads, [Read::Payload(answer.to_vec())]);
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_reported() {
    for stream in [&b"\x0b"[..], b"\x0bMSH|a", b"\x0bMSH|a\x0bMS"] {
        assert_eq!(read(stream), (vec![], vec![Anomaly::TruncatedFrame]));
    }
    assert_eq!(read(b""), (vec![], vec![]));
}

#[test]
fn a_violation_stays() {
    let mut decoder = Decoder::new(SMALL);
    let mut sink = |_: Event<'_>| {};
    assert_eq!(decoder.handle_bytes(b"GET /", &mut sink), Err(Violation::Http));
    assert_eq!(decoder.handle_bytes(b"\x0bMSH|\x1c\r", &mut sink), Err(Violation::Http));
    assert_eq!(decoder.handle_bytes(b"", &mut sink), Err(Violation::Http));
}

#[test]
fn debug_shows_no_payload() {
    assert_eq!(format!("{:?}", Event::Payload(b"DOE^JOHN")), "Payload(8 bytes)");
    assert_eq!(format!("{:?}", Read::Payload(b"DOE^JOHN".to_vec())), "Payload(8 bytes)");
}

/// Draws bytes among which the ones that matter are common.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![VT, FS, CR, b'\n', 0, 0xFE, 0xFF, 2, 3, 0x17, 6, 0x15]).prop_map(|byte| vec![byte]),
        2 => prop::sample::select(vec![&b"MSH|"[..], b"MS", b"\xef\xbb\xbf", b"\x1c\r", b"GET ", b"\x16\x03", b"M\0S\0H"])
            .prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..24),
    ];
    prop::collection::vec(piece, 0..48).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_events_and_every_payload_survives(data in stream()) {
        fuzz_frame_decoder(&data);
    }

    #[test]
    fn arbitrary_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..2048)) {
        fuzz_frame_decoder(&data);
    }

    #[test]
    fn what_is_encoded_is_decoded(payloads in prop::collection::vec("MSH[ -~\r\n\u{80}-\u{ffff}]{0,300}", 1..8)) {
        let payloads: Vec<Vec<u8>> = payloads.into_iter().map(String::into_bytes).collect();
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| encode(payload)).collect();
        prop_assert!(read(&stream) == (payloads, vec![]));
    }
}
