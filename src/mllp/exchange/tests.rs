//! Tests of the exchange.

use std::time::Duration;

use super::*;
use crate::mllp::dialect::Commit;
use crate::mllp::frame::encode;

fn message(id: &str, accept: &str, application: &str) -> Vec<u8> {
    format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|{id}|P|2.5|||{accept}|{application}\r").into_bytes()
}

fn ack(code: &str, id: &str) -> Vec<u8> {
    encode(format!("MSH|^~\\&|c|d|a|b|t||ACK^A01|R{id}|P|2.5\rMSA|{code}|{id}\r").as_bytes())
}

fn begin(id: &str, accept: &str, application: &str) -> Exchange {
    let mut exchange = Exchange::new(Limits::default());
    exchange.begin(&message(id, accept, application), Instant::now() + Duration::from_secs(5));
    exchange
}

fn feed(exchange: &mut Exchange, bytes: &[u8]) -> Vec<&'static str> {
    let mut codes = Vec::new();
    exchange.handle_bytes(bytes, &mut |answer| codes.push(answer.code.code())).unwrap();
    codes
}

#[test]
fn the_answer_ends_the_exchange() {
    let mut exchange = begin("1", "", "");
    assert!(exchange.next_deadline().is_some());
    let frame = ack("AA", "1");
    for byte in &frame[..frame.len() - 1] {
        assert_eq!(feed(&mut exchange, &[*byte]), [""; 0]);
    }
    assert_eq!(feed(&mut exchange, b"\r"), ["AA"]);
    assert!(exchange.is_done());
    assert_eq!(exchange.next_deadline(), None);
}

#[test]
fn case_27_the_answer_to_another_message_is_not_this_ones() {
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &[ack("AA", "2"), ack("AA", ""), ack("AE", "1")].concat()), ["AE"]);
    assert_eq!(exchange.dropped(), Dropped { foreign: 2, ..Dropped::default() });
}

#[test]
fn an_answer_is_found_however_long_the_control_id_is() {
    for length in [2000, 5000, 60_000] {
        let id = "7".repeat(length);
        let mut exchange = begin(&id, "AL", "NE");
        assert_eq!(feed(&mut exchange, &[ack("CA", ""), ack("CA", &id[1..]), ack("CA", &id)].concat()), ["CA"]);
        assert_eq!((exchange.is_done(), exchange.dropped().foreign), (true, 2), "{length}");
    }
}

#[test]
fn case_28_late_and_repeated_answers_are_dropped() {
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &[ack("AA", "1"), ack("AA", "1")].concat()), ["AA"]);
    exchange.begin(&message("2", "", ""), Instant::now());
    assert_eq!(feed(&mut exchange, &[ack("AA", "1"), ack("AA", "2")].concat()), ["AA"]);
    assert_eq!(exchange.dropped(), Dropped { late: 2, ..Dropped::default() });
}

#[test]
fn case_29_a_reply_without_msa_is_no_answer() {
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &encode(b"MSH|^~\\&|||||||ACK|1\r")), [""; 0]);
    assert_eq!(feed(&mut exchange, b"\x0bhello\x1c\r\x0b\x1c\r\x0b\x04\x1c\r"), [""; 0]);
    assert!(!exchange.is_done());
    assert_eq!(exchange.dropped(), Dropped { no_answer: 4, ..Dropped::default() });
}

#[test]
fn case_31_enhanced_mode_waits_for_what_is_asked_for() {
    let mut exchange = begin("1", "AL", "AL");
    assert_eq!(feed(&mut exchange, &[ack("CA", "1"), ack("CA", "1")].concat()), ["CA"]);
    assert!(!exchange.is_done());
    assert_eq!(feed(&mut exchange, &ack("AA", "1")), ["AA"]);
    assert!(exchange.is_done());

    let mut exchange = begin("1", "AL", "NE");
    assert_eq!(feed(&mut exchange, &ack("CA", "1")), ["CA"]);
    assert!(exchange.is_done());

    let mut exchange = begin("1", "NE", "AL");
    assert_eq!(feed(&mut exchange, &[ack("CA", "1"), ack("AA", "1")].concat()), ["AA"]);
    assert!(exchange.is_done());
}

#[test]
fn a_refusal_ends_the_exchange() {
    for code in ["CE", "CR", "AE", "AR"] {
        let mut exchange = begin("1", "AL", "AL");
        assert_eq!(feed(&mut exchange, &ack(code, "1")), [code]);
        assert!(exchange.is_done());
    }
}

#[test]
fn a_receiver_that_always_commits_answers_original_mode_too() {
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &ack("CA", "1")), ["CA"]);
    assert!(exchange.is_done());
}

#[test]
fn a_message_that_asks_for_no_answer_is_done_at_once() {
    assert!(begin("1", "NE", "NE").is_done());
    assert!(begin("1", "ER", "NE").is_done());
}

#[test]
fn a_response_that_is_sent_by_itself_is_answered_and_a_mere_acknowledgement_is_not() {
    for (kind, is_done) in [("ORR^O02", false), ("RSP^K11", false), ("ACK^A01", true), ("MCF", true)] {
        let mut exchange = Exchange::new(Limits::default());
        let message = format!("MSH|^~\\&|a|b|c|d|t||{kind}|1|P|2.5\rMSA|AA|9\r");
        exchange.begin(message.as_bytes(), Instant::now() + Duration::from_secs(5));
        assert_eq!(exchange.is_done(), is_done, "{kind}");
    }
}

#[test]
fn case_34_a_message_without_control_id_takes_any_answer() {
    let mut exchange = begin("", "", "");
    assert_eq!(feed(&mut exchange, &ack("AA", "made-up")), ["AA"]);
}

#[test]
fn release_2_ack_is_awaited_beyond_and_nak_ends_the_exchange() {
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &[b"\x0b\x06\x1c\r", &ack("AA", "1")[..]].concat()), ["AA"]);
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, b"\x0b\x15\x1c\r"), ["NAK"]);
    assert!(exchange.is_done());
}

#[test]
fn an_answer_whose_last_cr_is_missing_ends_by_silence_or_with_the_stream() {
    let frame = ack("AA", "1");
    let without_cr = &frame[..frame.len() - 1];
    let mut codes = Vec::new();
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, without_cr), [""; 0]);
    assert!(exchange.awaits_silence());
    exchange.handle_silence(&mut |answer| codes.push(answer.code));
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, without_cr), [""; 0]);
    exchange.handle_end_of_stream(&mut |answer| codes.push(answer.code));
    assert_eq!(codes, [AckCode::ApplicationAccept; 2]);
}

#[test]
fn fewer_answers_may_be_awaited_than_are_asked_for() {
    let soon = Instant::now() + Duration::from_secs(5);
    let mut exchange = Exchange::new(Limits::default());
    exchange.begin_awaiting(&message("1", "AL", "AL"), soon, Awaited::Accept);
    assert_eq!(feed(&mut exchange, &[ack("CA", "1"), ack("AA", "1")].concat()), ["CA"]);
    exchange.begin_awaiting(&message("2", "NE", "AL"), soon, Awaited::Accept);
    assert_eq!(feed(&mut exchange, &ack("AA", "2")), ["AA"]);
    exchange.begin_awaiting(&message("3", "", ""), soon, Awaited::Nothing);
    assert!(exchange.is_done());
    assert_eq!(feed(&mut exchange, &ack("AA", "3")), [""; 0]);
    assert_eq!(exchange.dropped(), Dropped { late: 2, ..Dropped::default() });
}

#[test]
fn a_deadline_moves_while_the_message_is_on_its_way() {
    let mut exchange = begin("1", "", "");
    let later = Instant::now() + Duration::from_secs(60);
    exchange.postpone(later);
    assert_eq!(exchange.next_deadline(), Some(later));
}

#[test]
fn release_2_the_commit_comes_first_and_is_the_end_where_nothing_else_is_awaited() {
    let soon = Instant::now() + Duration::from_secs(5);
    let begin = |accept, application, awaited| {
        let mut exchange = Exchange::speaking(Release::Two(Commit::default()), Limits::default());
        exchange.begin_awaiting(&message("1", accept, application), soon, awaited);
        assert!(exchange.awaits_commit() && !exchange.is_done());
        exchange
    };
    let (commit, refusal) = (b"\x0b\x06\x1c\r", b"\x0b\x15\x1c\r");
    for (accept, application, awaited, codes) in [
        ("", "", Awaited::AsAsked, &["ACK", "AA"][..]),
        ("AL", "AL", Awaited::AsAsked, &["ACK", "CA", "AA"]),
        ("AL", "AL", Awaited::Accept, &["ACK", "CA"]),
        ("NE", "NE", Awaited::AsAsked, &["ACK"]),
        ("AL", "AL", Awaited::Nothing, &["ACK"]),
    ] {
        let mut exchange = begin(accept, application, awaited);
        for (at, code) in codes.iter().enumerate() {
            assert!(!exchange.is_done());
            let bytes = if at == 0 { commit.to_vec() } else { ack(code, "1") };
            assert_eq!(feed(&mut exchange, &bytes), [*code]);
        }
        assert!(exchange.is_done() && !exchange.is_out_of_step());
        assert_eq!(exchange.take_replies(), commit.repeat(codes.len() - 1), "each answer is to be committed");
        assert!(!exchange.has_replies());
    }
    let mut exchange = begin("", "", Awaited::AsAsked);
    assert_eq!(feed(&mut exchange, refusal), ["NAK"]);
    assert!(exchange.is_done() && !exchange.is_out_of_step());
    assert_eq!(feed(&mut exchange, refusal), [""; 0]);
    assert!(exchange.is_out_of_step(), "whose is the second one?");
}

#[test]
fn release_2_what_answers_nothing_here_is_committed_only_if_it_is_an_acknowledgement() {
    let mut exchange = Exchange::speaking(Release::Two(Commit::default()), Limits::default());
    assert_eq!(feed(&mut exchange, &[ack("AA", "9"), encode(&message("R", "", ""))].concat()), [""; 0]);
    assert_eq!(exchange.take_replies(), b"\x0b\x06\x1c\r\x0b\x15\x1c\r");
    let mut exchange = begin("1", "", "");
    assert_eq!(feed(&mut exchange, &ack("AA", "1")), ["AA"]);
    assert!(!exchange.has_replies(), "Release 1 commits nothing");
}

#[test]
fn release_2_what_goes_on_to_match_nothing_is_not_committed_for_ever() {
    let mut exchange = Exchange::speaking(Release::Two(Commit::default()), Limits::default());
    let (later, stray) = (Instant::now() + Duration::from_secs(5), ack("AA", ""));
    for id in ["1", "2"] {
        exchange.begin(&message(id, "", ""), later);
        assert!(!exchange.answers_commits(), "a message was between");
        assert_eq!(feed(&mut exchange, b"\x0b\x06\x1c\r"), ["ACK"]);
        let committed = (0..100).filter(|_| {
            assert_eq!(feed(&mut exchange, &stray), [""; 0]);
            !exchange.take_replies().is_empty()
        });
        assert_eq!(committed.count(), 7);
        assert!(exchange.answers_commits());
        assert_eq!(feed(&mut exchange, &ack("AA", id)), ["AA"]);
        assert_eq!(exchange.take_replies(), b"\x0b\x06\x1c\r", "the answer itself is committed all the same");
    }
}
