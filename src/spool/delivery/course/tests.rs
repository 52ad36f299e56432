//! Tests of the course in virtual time: each rule alone, then all of them in a world of bad receivers and crashes.

mod release_2;
mod world;

use std::time::UNIX_EPOCH;

use super::*;
use crate::config::{InDoubt, Otherwise};
use crate::mllp::ack::AckCode;
use crate::mllp::frame::encode;

fn delivery(sequence: Sequence, control_id: &str) -> Delivery {
    let payload = format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|{control_id}|P|2.5\rPID|{sequence}\r").into_bytes();
    Delivery { sequence, epoch: Epoch([1; 16]), digest: Digest([2; 32]), in_doubt: false, payload }
}

fn ack(code: &str, control_id: &str) -> Vec<u8> {
    encode(format!("MSH|^~\\&|c|d|a|b|t||ACK|R|P|2.5\rMSA|{code}|{control_id}\r").as_bytes())
}

/// Drives a course by hand.
struct Drive {
    course: Course,
    now: Instant,
    outcomes: Vec<Outcome>,
    noted: Option<Attempt>,
}

impl Drive {
    fn new(policy: ReceiverPolicy) -> Self {
        Self::resumed(policy, None)
    }

    fn resumed(policy: ReceiverPolicy, was: Option<Attempt>) -> Self {
        let course = Course::new(policy, was, 1, Counts::default());
        Self { course, now: Instant::now(), outcomes: Vec::new(), noted: was }
    }

    /// Commits, and returns the first step that is none.
    fn step(&mut self) -> Step {
        loop {
            match self.course.poll_step(self.now, UNIX_EPOCH) {
                Step::Commit { attempting, .. } => {
                    self.noted = attempting;
                    self.outcomes.extend(self.course.handle_committed());
                }
                step => return step,
            }
        }
    }

    fn expect(&mut self, wanted: &Step) {
        assert!(self.step() == *wanted);
    }

    /// Sends the message at the head, over a new connection where the course wants one.
    fn send(&mut self) -> bool {
        let mut step = self.step();
        let is_new = step == Step::Dial;
        if is_new {
            self.course.handle_dialed();
            step = self.step();
        }
        assert!(step == Step::Send);
        let noted = self.noted.unwrap();
        assert!(noted.under_way);
        self.course.handle_sent(self.now);
        is_new
    }

    fn answer(&mut self, code: &str, control_id: &str) {
        self.course.handle_bytes(&ack(code, control_id), self.now);
    }

    fn sleep(&mut self) -> Duration {
        let Step::Wait(Some(until)) = self.step() else { panic!("nothing to wait for") };
        let slept = until.saturating_duration_since(self.now);
        self.now = until;
        slept
    }

    fn held(&mut self) -> Option<Reason> {
        self.expect(&Step::Wait(None));
        self.course.held().map(|held| held.reason)
    }

    fn verdicts(&self) -> Vec<(Sequence, Verdict, u32, u32)> {
        self.outcomes.iter().map(|o| (o.sequence, o.verdict, o.attempts, o.in_doubt)).collect()
    }
}

fn policy() -> ReceiverPolicy {
    ReceiverPolicy::default()
}

#[test]
fn one_commit_ends_a_message_and_begins_the_next() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    assert!(drive.send());
    drive.answer("AA", "A");
    drive.course.handle_message(delivery(2, "B"));
    let Step::Commit { finished, attempting } = drive.course.poll_step(drive.now, UNIX_EPOCH) else { panic!() };
    assert!(finished.is_some_and(|finished| finished.outcome.sequence == 1 && finished.digest == Digest([2; 32])));
    assert_eq!(attempting.map(|attempt| (attempt.sequence, attempt.number, attempt.under_way)), Some((2, 1, true)));
    let outcome = drive.course.handle_committed().unwrap();
    assert_eq!((outcome.sequence, outcome.verdict, outcome.code), (1, Verdict::Delivered, AckCode::ApplicationAccept));
    drive.expect(&Step::Send);
}

#[test]
fn the_last_end_is_committed_although_nothing_follows() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.answer("AA", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!((drive.verdicts(), drive.noted), (vec![(1, Verdict::Delivered, 1, 0)], None));
    drive.course.handle_source_closed();
    drive.expect(&Step::End);
}

#[test]
fn a_repeated_or_missing_control_id_gets_a_connection_of_its_own() {
    let mut drive = Drive::new(policy());
    for (sequence, control_id, is_new) in [
        (1, "A", true),
        (2, "B", false),
        (3, "A", true),
        (4, "C", false),
        (5, "", true),
        (6, "", true),
        (7, "A", false),
    ] {
        drive.course.handle_message(delivery(sequence, control_id));
        assert_eq!(drive.send(), is_new, "{sequence}");
        drive.answer("AA", control_id);
        drive.expect(&Step::Wait(None));
    }
    assert_eq!(drive.outcomes.len(), 7);
}

#[test]
fn answers_to_other_messages_are_dropped_and_counted() {
    let mut drive = Drive::new(policy());
    for (sequence, control_id) in [(1, "A"), (2, "B")] {
        drive.course.handle_message(delivery(sequence, control_id));
        drive.send();
        for (code, of) in [("AA", "A"), ("AA", "A"), ("AA", "X"), ("AA", "")] {
            drive.answer(code, of);
        }
    }
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
    let dropped = drive.course.counts().dropped;
    // Behind its answer everything is late; before it only what repeats the last one is.
    assert_eq!((dropped.late, dropped.foreign), (3 + 2, 2));
    drive.course.handle_closed(drive.now);
    assert_eq!(drive.course.counts().dropped, dropped, "counted once");
}

#[test]
fn errors_are_tried_again_then_held_or_parked() {
    for (after_retries, wanted) in [(Otherwise::Hold, None), (Otherwise::Park, Some(Verdict::Failed))] {
        let mut drive = Drive::new(ReceiverPolicy { retries: 2, after_retries, ..policy() });
        drive.course.handle_message(delivery(1, "A"));
        let mut pauses = Vec::new();
        for code in ["AE", "CE", "AE"] {
            if drive.course.counts().retries < 2 && !pauses.is_empty() || drive.course.counts().connections == 1 {
                pauses.push(drive.sleep());
            }
            drive.send();
            drive.answer(code, "A");
        }
        let half = |seconds: u64| Duration::from_secs(seconds) / 2..=Duration::from_secs(seconds);
        assert!(half(1).contains(&pauses[0]) && half(2).contains(&pauses[1]), "{pauses:?}");
        match wanted {
            None => assert_eq!(drive.held(), Some(Reason::Failed)),
            Some(verdict) => {
                drive.expect(&Step::Wait(None));
                assert_eq!(drive.verdicts(), [(1, verdict, 3, 0)]);
            }
        }
    }
}

#[test]
fn a_message_that_is_tried_again_and_again_is_told_of() {
    let mut drive = Drive::new(ReceiverPolicy { retries: 1000, ..policy() });
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.answer("AE", "A");
    assert_eq!(drive.course.trying(), None, "the first may be chance");
    let mut before: Option<Trying> = None;
    for attempts in 2..5 {
        let pause = drive.sleep();
        assert!(before.is_none_or(|before| before.pause == pause) && drive.course.trying() == before);
        drive.send();
        drive.answer("AE", "A");
        let trying = drive.course.trying().unwrap();
        let told = trying.told();
        assert_eq!((trying.sequence, trying.attempts), (1, attempts));
        assert!(told.starts_with(&format!("the receiver answered AE to attempt {attempts}; the next is ")), "{told}");
        before = Some(trying);
    }
    drive.sleep();
    drive.send();
    drive.answer("AA", "A");
    assert_eq!(drive.course.trying(), None);
}

#[test]
fn a_code_that_hl7_does_not_know_is_shown_where_it_is_plain() {
    let known = "the receiver failed on it each time, last with";
    for (code, told) in [
        ("XX", format!("{known} XX, a code that HL7 does not know")),
        ("aa", format!("{known} aa, a code that HL7 does not know")),
        ("A^4711", format!("{known} a code that HL7 does not know")),
        ("ABCD", format!("{known} a code that HL7 does not know")),
        ("", format!("{known} no code")),
        ("AE", format!("{known} AE")),
    ] {
        let mut drive = Drive::new(ReceiverPolicy { retries: 0, after_retries: Otherwise::Hold, ..policy() });
        drive.course.handle_message(delivery(1, "A"));
        drive.send();
        drive.answer(code, "A");
        assert_eq!(drive.held(), Some(Reason::Failed));
        let held = drive.course.held().unwrap();
        assert_eq!((held.told(), held.attempts, held.in_doubt), (told, 1, 0));
    }
}

#[test]
fn a_rejected_message_is_parked_or_held() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.answer("AR", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Rejected, 1, 0)]);

    let hold = ReceiverPolicy { on_reject: Otherwise::Hold, ..policy() };
    let mut drive = Drive::new(hold);
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.answer("CR", "A");
    assert_eq!(drive.held(), Some(Reason::Rejected));
    assert_eq!(drive.course.held().unwrap().code, AckCode::CommitReject);
    // Another policy decides anew.
    drive.course.handle_policy(policy(), drive.now);
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Rejected, 1, 0)]);
}

#[test]
fn without_an_answer_a_message_is_in_doubt_and_tried_three_times() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    assert_eq!(drive.sleep(), Duration::from_secs(30));
    assert!(!drive.course.has_line() || drive.step() != Step::Send, "the connection is gone");
    assert_eq!(drive.course.receiver(), Receiver::Down("ack_timeout"));
    drive.sleep();
    assert!(drive.send());
    drive.course.handle_closed(drive.now);
    assert_eq!(drive.course.receiver(), Receiver::Down("receiver_reset"));
    drive.sleep();
    drive.send();
    drive.course.handle_bytes(&b"HTTP/1.1 400 Bad Request\r\n".repeat(200), drive.now);
    assert_eq!(drive.held(), Some(Reason::InDoubt));
    assert_eq!(drive.noted.map(|noted| (noted.number, noted.in_doubt, noted.under_way)), Some((3, 3, false)));
    assert_eq!(drive.course.counts().in_doubt_resends, 2);
    // An operator lets it try once more, and once only.
    assert_eq!(drive.course.handle_order(Order::Retry, 1), Some(Reply::Attempted));
    drive.send();
    drive.course.handle_closed(drive.now);
    assert_eq!(drive.held(), Some(Reason::InDoubt));
    assert_eq!(drive.course.handle_order(Order::Withdraw, 1), None);
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Withdrawn, 4, 4)]);
}

#[test]
fn in_doubt_hold_asks_at_once() {
    let hold = ReceiverPolicy { in_doubt: InDoubt::Hold, ..policy() };
    let mut drive = Drive::new(hold);
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.course.handle_closed(drive.now);
    assert_eq!(drive.held(), Some(Reason::InDoubt));
    // What the near site says is in doubt is not sent either.
    let mut drive = Drive::new(hold);
    drive.course.handle_message(Delivery { in_doubt: true, ..delivery(1, "A") });
    assert_eq!(drive.held(), Some(Reason::InDoubt));
    assert_eq!(drive.noted.map(|noted| (noted.number, noted.in_doubt)), Some((1, 1)), "and that is written down");
}

#[test]
fn a_failed_connect_is_no_attempt_and_tried_for_ever() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        drive.expect(&Step::Dial);
        drive.course.handle_dial_failed("receiver_refuses", drive.now);
        assert_eq!(drive.course.receiver(), Receiver::Down("receiver_refuses"));
        longest = longest.max(drive.sleep());
    }
    assert!(longest > Duration::from_secs(30) && longest <= Duration::from_secs(60));
    assert_eq!(drive.noted, None);
    drive.send();
    drive.answer("AA", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
    assert_eq!(drive.course.receiver(), Receiver::Up);
}

#[test]
fn a_connection_that_ends_before_the_first_byte_is_no_attempt() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.expect(&Step::Dial);
    drive.course.handle_dialed();
    assert!(matches!(drive.course.poll_step(drive.now, UNIX_EPOCH), Step::Commit { .. }));
    drive.course.handle_closed(drive.now);
    drive.course.handle_committed();
    assert!(matches!(drive.step(), Step::Wait(Some(_))), "a receiver that closes at once is not hurried");
    assert_eq!(drive.noted, None, "what was written down is taken back");
    drive.sleep();
    drive.expect(&Step::Dial);
    drive.course.handle_dialed();
    drive.expect(&Step::Send);
    drive.course.handle_closed(drive.now); // nothing was written yet
    drive.sleep();
    drive.send();
    drive.answer("AA", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
}

#[test]
fn what_was_cut_off_is_in_doubt_and_the_third_time_quarantined() {
    let was = |interrupted, under_way| Attempt { sequence: 5, number: 2, in_doubt: 1, interrupted, under_way };
    let mut drive = Drive::resumed(policy(), Some(was(1, true)));
    drive.course.handle_message(delivery(5, "A"));
    drive.send();
    assert_eq!(drive.noted, Some(Attempt { sequence: 5, number: 3, in_doubt: 2, interrupted: 2, under_way: true }));
    let mut drive = Drive::resumed(ReceiverPolicy { in_doubt_max: 9, ..policy() }, Some(was(2, true)));
    drive.course.handle_message(delivery(5, "A"));
    assert_eq!(drive.held(), Some(Reason::Quarantined));
    assert_eq!(drive.noted, Some(Attempt { interrupted: 3, in_doubt: 2, ..was(0, false) }));
    // A known end is no doubt, and the attempts of another message are not this one's.
    let mut drive = Drive::resumed(policy(), Some(was(1, false)));
    drive.course.handle_message(delivery(5, "A"));
    drive.send();
    assert_eq!(drive.noted, Some(Attempt { sequence: 5, number: 3, in_doubt: 1, interrupted: 1, under_way: true }));
    let mut drive = Drive::resumed(policy(), Some(was(2, true)));
    drive.course.handle_message(delivery(6, "A"));
    drive.send();
    assert_eq!(drive.noted.map(|noted| (noted.number, noted.interrupted)), Some((1, 0)));
}

#[test]
fn orders_meet_a_message_wherever_it_is() {
    let mut drive = Drive::new(policy());
    for sequence in 1..=4 {
        drive.course.handle_message(delivery(sequence, &sequence.to_string()));
    }
    drive.send();
    assert_eq!(drive.course.handle_order(Order::Withdraw, 3), Some(Reply::Withdrawn));
    assert_eq!(drive.course.handle_order(Order::Withdraw, 9), Some(Reply::Unknown));
    assert_eq!(drive.course.handle_order(Order::Withdraw, 1), None, "its end is awaited");
    drive.answer("AA", "1");
    drive.send();
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
    assert_eq!(drive.course.handle_order(Order::Withdraw, 1), Some(Reply::Attempted));
    assert_eq!(drive.course.handle_order(Order::Withdraw, 2), None);
    drive.answer("AE", "2"); // it would rest; but nobody wants it any more
    assert!(drive.send() || drive.noted.unwrap().sequence == 4);
    drive.answer("AA", "4");
    drive.expect(&Step::Wait(None));
    assert_eq!(
        drive.verdicts()[1..],
        [(2, Verdict::Withdrawn, 1, 0), (3, Verdict::Withdrawn, 0, 0), (4, Verdict::Delivered, 1, 0)]
    );
}

#[test]
fn what_comes_again_is_not_delivered_again() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.course.handle_message(delivery(1, "A"));
    drive.send();
    drive.course.handle_message(delivery(1, "A"));
    drive.answer("AA", "A");
    drive.course.handle_message(delivery(1, "A"));
    drive.expect(&Step::Wait(None));
    assert_eq!((drive.outcomes.len(), drive.course.counts().repeated), (1, 3));
}

#[test]
fn an_answer_before_the_last_byte_settles_nothing() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.expect(&Step::Dial);
    drive.course.handle_dialed();
    drive.expect(&Step::Send);
    drive.course.handle_progress(drive.now);
    drive.answer("AA", "A");
    assert!(!drive.course.has_line());
    drive.sleep();
    drive.send();
    assert_eq!(drive.noted.map(|noted| noted.in_doubt), Some(1));
    drive.course.handle_bytes(&[ack("CA", "A"), ack("AA", "A")].concat(), drive.now);
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 2, 1)]);
}

#[test]
fn enhanced_mode_waits_for_what_is_asked_for_also_in_one_read() {
    let enhanced = Delivery { payload: b"MSH|^~\\&|a|b|c|d|t||ADT^A01|A|P|2.5|||AL|AL\r".to_vec(), ..delivery(1, "A") };
    let mut drive = Drive::new(ReceiverPolicy { retries: 0, after_retries: Otherwise::Park, ..policy() });
    drive.course.handle_message(enhanced.clone());
    drive.send();
    drive.course.handle_bytes(&[ack("CA", "A"), ack("AE", "A")].concat(), drive.now);
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Failed, 1, 0)]);

    let mut drive = Drive::new(ReceiverPolicy { ack: AckKind::Accept, ..policy() });
    drive.course.handle_message(enhanced);
    drive.send();
    drive.answer("CA", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
}

#[test]
fn without_an_answer_to_wait_for_the_receivers_tcp_decides() {
    let mut drive = Drive::new(ReceiverPolicy { ack: AckKind::None, ..policy() });
    for (sequence, is_drained) in [(1, true), (2, false)] {
        drive.course.handle_message(delivery(sequence, &sequence.to_string()));
        drive.send();
        assert!(drive.course.awaits_drain());
        if is_drained {
            drive.course.handle_drained();
        } else {
            assert_eq!(drive.sleep(), Duration::from_secs(30));
            drive.sleep();
            drive.send();
        }
    }
    assert_eq!(drive.verdicts(), [(1, Verdict::Delivered, 1, 0)]);
    assert_eq!(drive.noted.map(|noted| noted.in_doubt), Some(1));
}

#[test]
fn a_stop_awaits_the_answer_and_begins_nothing() {
    let mut drive = Drive::new(policy());
    drive.course.handle_message(delivery(1, "A"));
    drive.course.handle_message(delivery(2, "B"));
    drive.send();
    drive.course.handle_stop();
    assert!(matches!(drive.step(), Step::Wait(Some(_))));
    drive.answer("AA", "A");
    drive.expect(&Step::End);
    assert_eq!((drive.verdicts(), drive.noted), (vec![(1, Verdict::Delivered, 1, 0)], None));
}

#[test]
fn a_negative_commit_ack_without_a_name_is_not_taken_twice() {
    let mut drive = Drive::new(ReceiverPolicy { retries: 0, after_retries: Otherwise::Park, ..policy() });
    drive.course.handle_message(delivery(1, "A"));
    drive.course.handle_message(delivery(2, "B"));
    drive.send();
    drive.course.handle_bytes(b"\x0b\x15\x1c\r\x0b\x15\x1c\r", drive.now);
    assert!(drive.send(), "the next one has a connection of its own");
    drive.answer("AA", "B");
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.verdicts(), [(1, Verdict::Failed, 1, 0), (2, Verdict::Delivered, 1, 0)]);
}

#[test]
fn a_pause_begins_no_attempt_and_awaits_the_end_of_one() {
    let mut drive = Drive::new(ReceiverPolicy::default());
    drive.course.handle_message(delivery(1, "A"));
    drive.course.handle_message(delivery(2, "B"));
    assert!(drive.send());
    drive.course.handle_pause(true);
    drive.answer("AA", "A");
    drive.expect(&Step::Wait(None));
    assert_eq!((drive.outcomes.len(), drive.noted), (1, None), "its end is written down, and no other beginning");
    assert_eq!(drive.course.handle_order(Order::Withdraw, 2), None);
    drive.expect(&Step::Wait(None));
    assert_eq!(drive.outcomes[1].verdict, Verdict::Withdrawn, "an operator need not wait");
    drive.course.handle_message(delivery(3, "C"));
    drive.expect(&Step::Wait(None));
    drive.course.handle_pause(false);
    assert!(!drive.send(), "over the same connection");
    // One that is written down, and of which no byte is sent, is none.
    drive.answer("AA", "C");
    drive.course.handle_message(delivery(4, "D"));
    let Step::Commit { .. } = drive.course.poll_step(drive.now, UNIX_EPOCH) else { panic!("the next attempt") };
    drive.course.handle_committed();
    drive.course.handle_pause(true);
    drive.expect(&Step::Wait(None));
    assert!(drive.noted.is_none());
}

#[test]
fn an_idle_conversation_gives_its_connection_to_who_waits_and_a_busy_one_after_its_turn() {
    let mut drive = Drive::new(ReceiverPolicy::default());
    drive.course.handle_message(delivery(1, "A"));
    drive.course.handle_message(delivery(2, "B"));
    drive.course.handle_message(delivery(3, "C"));
    assert!(drive.send());
    drive.course.handle_wanted(true);
    drive.expect(&Step::Wait(drive.course.next_deadline()));
    assert!(drive.course.has_line(), "never in the middle of a message");
    drive.answer("AA", "A");
    assert!(!drive.send(), "its turn is not over");
    drive.now += Duration::from_millis(1100);
    drive.answer("AA", "B");
    assert!(drive.step() == Step::Dial && !drive.course.has_line());
    drive.course.handle_dialed();
    assert!(!drive.send());
    drive.answer("AA", "C");
    drive.expect(&Step::Wait(None));
    assert!(!drive.course.has_line(), "nothing is to be sent");
    drive.course.handle_wanted(false);
    drive.course.handle_message(delivery(4, "D"));
    assert!(drive.send());
    drive.answer("AE", "D");
    drive.step();
    assert!(drive.course.has_line());
    drive.course.handle_wanted(true);
    drive.step();
    assert!(!drive.course.has_line(), "a message that rests needs none");
}
