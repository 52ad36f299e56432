//! Tests of the course with a receiver of MLLP Release 2, and with other bytes around messages.

use super::*;
use crate::mllp::dialect::{Commit, Dialect, Release};
use crate::mllp::frame::Framing;

const ACK: &[u8] = b"\x0b\x06\x1c\r";
const NAK: &[u8] = b"\x0b\x15\x1c\r";
const PAUSE: Duration = Duration::from_millis(700);

fn release_2() -> ReceiverPolicy {
    let commit = Commit { timeout: Some(Duration::from_secs(3)), retries: 2, pause: PAUSE };
    ReceiverPolicy { dialect: Dialect { framing: Framing::MLLP, release: Release::Two(commit) }, ..policy() }
}

fn begun(policy: ReceiverPolicy) -> Drive {
    let mut drive = Drive::new(policy);
    drive.course.handle_message(delivery(1, "A"));
    assert!(drive.send());
    drive
}

impl Drive {
    fn say(&mut self, bytes: &[u8]) {
        self.course.handle_bytes(bytes, self.now);
    }

    /// Says how the first message ended, with the commits that its receiver was owed then.
    fn ended(&mut self, owed: &[u8]) -> (Sequence, Verdict, u32, u32) {
        self.step();
        assert_eq!(self.course.take_replies(), owed);
        self.verdicts()[0]
    }
}

#[test]
fn a_message_is_committed_then_answered_and_its_answer_is_committed_once_that_is_written_down() {
    let mut drive = begun(release_2());
    assert_eq!(drive.course.next_deadline(), Some(drive.now + Duration::from_secs(3)), "a commit comes soon");
    drive.say(ACK);
    assert_eq!(drive.course.next_deadline(), Some(drive.now + Duration::from_secs(30)), "an answer may take longer");
    drive.answer("AA", "A");
    let Step::Commit { finished, .. } = drive.course.poll_step(drive.now, UNIX_EPOCH) else { panic!("its end") };
    assert!(finished.is_some() && drive.course.take_replies().is_empty(), "not before");
    drive.outcomes.extend(drive.course.handle_committed());
    assert_eq!(drive.ended(ACK), (1, Verdict::Delivered, 1, 0));
    drive.course.handle_message(delivery(2, "B"));
    assert!(!drive.send(), "over the same connection");
}

#[test]
fn where_nothing_else_is_awaited_the_commit_is_the_end() {
    for (ack, kind) in [(AckKind::None, "|"), (AckKind::Application, "|||||NE|NE")] {
        let mut drive = Drive::new(ReceiverPolicy { ack, ..release_2() });
        let payload = format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|A|P|2.5{kind}\r").into_bytes();
        let payload = if kind == "|" { payload } else { b"MSH|^~\\&|a|b|c|d|t||ADT|A|P|2.5|||NE|NE\r".to_vec() };
        drive.course.handle_message(Delivery { payload, ..delivery(1, "A") });
        drive.send();
        assert!(!drive.course.awaits_drain());
        drive.say(ACK);
        assert_eq!(drive.ended(b""), (1, Verdict::Delivered, 1, 0));
        assert_eq!(drive.outcomes[0].code, AckCode::TransportAck);
        drive.answer("AA", "A");
        assert_eq!(drive.ended(ACK).1, Verdict::Delivered, "an answer all the same is not sent for ever");
    }
}

#[test]
fn what_is_not_committed_is_not_in_doubt_and_sent_again_soon_then_as_after_an_error() {
    let mut drive = begun(ReceiverPolicy { retries: 1, ..release_2() });
    for _ in 0..2 {
        drive.say(NAK);
        assert_eq!(drive.sleep(), PAUSE);
        assert!(drive.send(), "over a connection of its own, for a commit names no message");
    }
    drive.say(NAK);
    let pause = drive.sleep();
    assert!(pause != PAUSE && pause <= Duration::from_secs(1), "{pause:?}");
    drive.send();
    drive.say(&[ACK, &ack("AE", "A")[..]].concat());
    assert_eq!(drive.course.take_replies(), b"", "not before");
    assert_eq!(drive.held(), Some(Reason::Failed));
    assert_eq!(drive.course.take_replies(), ACK);
    assert_eq!(drive.noted.map(|noted| (noted.number, noted.in_doubt)), Some((4, 0)));
    assert_eq!(drive.course.held().map(|held| held.code), Some(AckCode::ApplicationError));
}

#[test]
fn a_commit_that_does_not_come_leaves_in_doubt_and_is_asked_for_so_often() {
    let mut drive = begun(release_2());
    for _ in 0..2 {
        assert_eq!(drive.sleep(), Duration::from_secs(3));
        assert_eq!(drive.sleep(), PAUSE);
        assert!(drive.send());
    }
    drive.course.handle_closed(drive.now);
    assert_eq!(drive.held(), Some(Reason::InDoubt));
    assert_eq!(drive.noted.map(|noted| (noted.number, noted.in_doubt)), Some((3, 3)));
    let mut drive = begun(ReceiverPolicy { in_doubt: InDoubt::Hold, ..release_2() });
    drive.sleep();
    assert_eq!(drive.held(), Some(Reason::InDoubt), "where a person is to be asked at once, one is");
}

#[test]
fn a_committed_message_whose_answer_does_not_come_is_in_doubt_as_any_other() {
    let mut drive = begun(release_2());
    drive.say(ACK);
    assert_eq!(drive.sleep(), Duration::from_secs(30));
    let pause = drive.sleep();
    assert!(pause != PAUSE && pause >= Duration::from_millis(500), "{pause:?}");
    drive.send();
    drive.say(&[ACK, &ack("AA", "A")[..]].concat());
    assert_eq!(drive.ended(ACK), (1, Verdict::Delivered, 2, 1));
}

#[test]
fn a_late_or_second_commit_is_never_the_next_messages() {
    // The answer comes ahead of its commit; a commit comes twice.
    for said in [[&ack("AA", "A")[..], ACK], [&[ACK, ACK].concat(), &ack("AA", "A")]] {
        let mut drive = begun(release_2());
        drive.say(&said.concat());
        assert_eq!(drive.ended(ACK), (1, Verdict::Delivered, 1, 0));
        drive.course.handle_message(delivery(2, "B"));
        assert!(drive.send(), "another connection");
    }
}

#[test]
fn a_message_of_the_receivers_own_is_not_committed() {
    let mut drive = begun(release_2());
    drive.say(&encode(b"MSH|^~\\&|c|d|a|b|t||ORU^R01|X|P|2.5\r"));
    drive.step();
    assert_eq!(drive.course.take_replies(), NAK, "nobody here takes it");
}

#[test]
fn a_receiver_that_answers_commits_is_let_go_between_two_messages_and_not_dialed_at_once() {
    let mut drive = begun(release_2());
    let stray = ack("AA", "");
    drive.say(ACK);
    drive.say(&stray.repeat(50));
    drive.step();
    assert!(drive.course.has_line(), "the message that is under way is not put in doubt");
    assert_eq!(drive.course.take_replies(), ACK.repeat(7), "nor is it committed to for ever");
    drive.answer("AA", "A");
    assert_eq!(drive.ended(ACK), (1, Verdict::Delivered, 1, 0));
    drive.step();
    assert_eq!((drive.course.has_line(), drive.course.receiver()), (false, Receiver::Down("answers_commits")));
    drive.course.handle_message(delivery(2, "B"));
    assert!(drive.sleep() >= policy().backoff_min / 2, "no busy loop");
    assert!(drive.send());
    assert_eq!(drive.course.receiver(), Receiver::Down("answers_commits"), "until it answers a message");
    drive.say(&[ACK, &ack("AA", "B")[..]].concat());
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.course.receiver(), Receiver::Up);
    let counts = drive.course.counts();
    assert_eq!((counts.commits_answered, counts.connections, counts.connect_failures), (1, 2, 0));
}

#[test]
fn who_waits_for_a_connection_waits_until_the_commits_are_out() {
    let mut drive = begun(release_2());
    drive.course.handle_wanted(true);
    drive.say(&[ACK, &ack("AA", "A")[..]].concat());
    drive.step();
    assert!(drive.course.has_line());
    assert_eq!(drive.course.take_replies(), ACK);
    drive.step();
    assert!(!drive.course.has_line());
}

#[test]
fn case_35_what_a_frame_of_the_receivers_cannot_hold_is_held_and_never_sent() {
    let short = Framing::new(2, 3, None).unwrap();
    let policy = |framing| ReceiverPolicy { dialect: Dialect { framing, release: Release::One }, ..policy() };
    let mut drive = Drive::new(policy(short));
    let payload = b"MSH|^~\\&|a|b|c|d|t||ADT|A|P|2.5\rNTE|1||\x03\r".to_vec();
    drive.course.handle_message(Delivery { payload, ..delivery(1, "A") });
    assert_eq!(drive.held(), Some(Reason::Unframeable));
    assert_eq!(drive.course.handle_order(Order::Retry, 1), Some(Reply::Attempted));
    assert_eq!(drive.held(), Some(Reason::Unframeable), "no order makes it fit");
    drive.course.handle_policy(policy(Framing::MLLP), drive.now);
    drive.send();
    drive.answer("AA", "A");
    assert_eq!(drive.ended(b""), (1, Verdict::Delivered, 1, 0));
    // Nor is it sent where its receiver comes to speak so when the attempt is written down already.
    let mut late = Drive::new(policy(Framing::MLLP));
    let payload = b"MSH|^~\\&|a|b|c|d|t||ADT|A|P|2.5\rNTE|1||\x03\r".to_vec();
    late.course.handle_message(Delivery { payload, ..delivery(1, "A") });
    late.expect(&Step::Dial);
    late.course.handle_dialed();
    let Step::Commit { .. } = late.course.poll_step(late.now, UNIX_EPOCH) else { panic!("the attempt") };
    late.course.handle_committed();
    late.course.handle_policy(policy(short), late.now);
    assert_eq!((late.held(), late.noted), (Some(Reason::Unframeable), None), "that is no attempt");
    // What the receiver speaks may change in between: not over a connection that was opened before.
    drive.course.handle_policy(policy(short), drive.now);
    drive.course.handle_message(delivery(2, "B"));
    assert!(drive.send());
    drive.say(&short.encode(b"MSH|^~\\&|c|d|a|b|t||ACK|R|P|2.5\rMSA|AA|B\r"));
    drive.step();
    assert_eq!(drive.verdicts()[1], (2, Verdict::Delivered, 1, 0));
}
