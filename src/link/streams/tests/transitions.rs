//! Each transition of the diagram in `streams`, by name.

#![allow(clippy::cast_possible_truncation, reason = "a test's numbers are small, or meant to wrap")]

use super::super::*;
use super::bench::Bench;

const HOLD: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(150);

fn refuse(bench: &mut Bench, cause: Cause) -> u64 {
    let far = bench.arrived();
    bench.far.streams.close(far, cause);
    bench.settle();
    far
}

#[test]
fn data_goes_before_the_accept_and_is_there_when_the_receiver_comes() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    assert!(!bench.near.streams.is_open(near));
    bench.far.streams.accept(far);
    bench.settle();
    assert!(bench.near.streams.is_open(near));
    assert!(bench.near.woken.contains(&near), "who waits for the receiver is woken");
    assert_eq!(bench.far.read_all(far), (b"order".to_vec(), Moved::Blocked));
}

#[test]
fn a_refused_stream_is_opened_again_and_delivers_everything_once() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let first = refuse(&mut bench, Cause::ReceiverRefuses);
    assert!(bench.near.streams.is_held(near));
    assert_eq!(bench.near.streams.held(), 1);
    assert_eq!(bench.near.streams.try_write(near, b" more", bench.now), Moved::Bytes(5));
    bench.pass(STEP);
    let second = bench.arrived();
    assert_ne!(first, second, "a number is never used twice");
    bench.far.streams.accept(second);
    bench.settle();
    assert_eq!(bench.far.read_all(second).0, b"order more");
    assert_eq!(bench.near.streams.held(), 0);
}

#[test]
fn pauses_between_attempts_grow_to_a_bound() {
    let mut bench = Bench::up(HOLD);
    bench.near.streams.open().unwrap();
    let mut waited = Vec::new();
    for _ in 0..6 {
        refuse(&mut bench, Cause::ReceiverSilent);
        let at = bench.near.streams.next_deadline().unwrap();
        waited.push((at - bench.now).as_millis());
        bench.pass(at - bench.now);
    }
    assert_eq!(waited, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn the_end_of_the_hold_fails_with_the_refusals_cause() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    for _ in 0..40 {
        bench.settle();
        while let Some(far) = bench.far.opened.pop() {
            bench.far.streams.close(far, Cause::ReceiverBusy);
        }
        bench.settle();
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.near.streams.failure(near), Some(Cause::ReceiverBusy));
}

#[test]
fn the_hold_begins_with_the_first_byte() {
    let mut bench = Bench::down(HOLD);
    let idle = bench.near.streams.open().unwrap();
    bench.pass(HOLD * 2);
    assert_eq!(bench.near.streams.failure(idle), None, "nothing waits yet");
    bench.near.streams.try_write(idle, b"x", bench.now);
    bench.pass(HOLD - STEP);
    assert_eq!(bench.near.streams.failure(idle), None);
    bench.pass(STEP);
    assert_eq!(bench.near.streams.failure(idle), Some(Cause::LinkDown));
}

#[test]
fn the_end_of_the_hold_takes_back_an_attempt_that_is_under_way() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    bench.pass(HOLD);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::ReceiverSilent));
    bench.settle();
    assert_eq!(bench.far.streams.failure(far), Some(Cause::ReceiverSilent), "the far side must not deliver it now");
}

#[test]
fn a_sender_that_ends_while_held_takes_back_an_attempt_that_is_under_way() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    refuse(&mut bench, Cause::ReceiverRefuses);
    bench.pass(STEP);
    let far = bench.arrived();
    bench.near.streams.finish(near);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::SenderGone));
    bench.settle();
    assert_eq!(bench.far.streams.failure(far), Some(Cause::SenderGone), "its resend would be a duplicate");
}

#[test]
fn a_sender_that_ends_while_held_forwards_nothing() {
    let mut bench = Bench::down(HOLD);
    let near = bench.open_with(b"order");
    bench.near.streams.finish(near);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::SenderGone));
    bench.connect(false);
    bench.settle();
    assert!(bench.far.opened.is_empty());
    bench.near.streams.close(near, Cause::SenderGone);
    bench.assert_no_stream_is_left();
}

#[test]
fn a_sender_that_ends_while_opening_is_carried_as_half_closed() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    bench.near.streams.finish(near);
    let far = bench.arrived();
    bench.far.streams.accept(far);
    assert_eq!(bench.far.read_all(far), (b"order".to_vec(), Moved::End));
    bench.far.streams.try_write(far, b"answer", bench.now);
    bench.far.streams.finish(far);
    bench.far.streams.close(far, Cause::SenderGone);
    bench.settle();
    assert_eq!(bench.near.read_all(near), (b"answer".to_vec(), Moved::End));
    bench.near.streams.close(near, Cause::SenderGone);
    bench.settle();
    bench.assert_no_stream_is_left();
}

#[test]
fn a_stream_that_is_refused_after_its_end_fails() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    bench.near.streams.finish(near);
    refuse(&mut bench, Cause::ReceiverRefuses);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::ReceiverRefuses));
}

#[test]
fn without_a_hold_a_link_that_is_down_opens_nothing_and_a_cut_fails_all() {
    let mut bench = Bench::down(Duration::ZERO);
    assert_eq!(bench.near.streams.open(), Err(Cause::LinkDown));
    bench.connect(false);
    bench.settle();
    let (near, far) = bench.open_accepted();
    bench.cut();
    assert_eq!(bench.near.streams.failure(near), Some(Cause::LinkDown));
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.far.streams.failure(far), Some(Cause::SenderGone), "the receiver's connection ends with it");
}

#[test]
fn without_a_hold_a_refusal_fails_at_once() {
    let mut bench = Bench::up(Duration::ZERO);
    let near = bench.open_with(b"order");
    refuse(&mut bench, Cause::ReceiverRefuses);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::ReceiverRefuses));
}

#[test]
fn a_receiver_that_breaks_off_is_no_refusal_even_where_the_accept_was_not_sent_yet() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    bench.far.streams.accept(far);
    assert_eq!(bench.far.read_all(far).0, b"order", "the receiver has it now");
    bench.far.streams.close(far, Cause::ReceiverRefuses); // a wrong cause must not open it again
    bench.settle();
    bench.pass(HOLD);
    bench.settle();
    assert!(bench.near.streams.failure(near).is_some());
    assert!(bench.far.opened.is_empty(), "never a second time");
}

#[test]
fn acknowledgements_while_opening_free_nothing() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(&[7; 40_000]);
    bench.arrived();
    bench.near.streams.handle_idle();
    bench.far.streams.handle_idle();
    bench.settle();
    refuse_last(&mut bench);
    bench.pass(STEP);
    let far = bench.arrived();
    bench.far.streams.accept(far);
    assert_eq!(bench.far.read_all(far).0, [7; 40_000]);
    bench.settle();
    assert!(bench.near.streams.is_open(near));
}

fn refuse_last(bench: &mut Bench) {
    let far = *bench.far.streams.by_wire.keys().max().unwrap();
    bench.far.streams.close(far, Cause::ReceiverSilent);
    bench.settle();
}

#[test]
fn an_open_that_was_lost_is_said_again() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    bench.transmit();
    bench.cut();
    assert!(bench.far.opened.is_empty());
    bench.connect(true);
    let far = bench.arrived();
    bench.far.streams.accept(far);
    bench.settle();
    assert_eq!(bench.far.read_all(far).0, b"order");
    assert!(bench.near.streams.is_open(near));
}

#[test]
fn an_open_that_arrived_is_not_said_again() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    bench.transmit();
    bench.cut_after(14, 0, true); // the OPEN and a piece of the DATA
    assert_eq!(bench.far.opened.len(), 1);
    bench.connect(true);
    let far = bench.arrived();
    assert!(bench.far.opened.is_empty(), "only once");
    bench.far.streams.accept(far);
    bench.settle();
    assert_eq!(bench.far.read_all(far).0, b"order");
    assert!(bench.near.streams.is_open(near));
}

#[test]
fn an_accept_that_was_lost_is_said_again() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    bench.far.streams.accept(far);
    bench.transmit();
    bench.cut();
    assert!(bench.near.streams.is_held(near));
    bench.connect(true);
    bench.settle();
    assert!(bench.near.streams.is_open(near));
    assert_eq!(bench.far.read_all(far).0, b"order");
}

#[test]
fn a_receiver_that_comes_while_the_link_is_down_is_told_at_the_resume() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    bench.cut();
    bench.far.streams.accept(far);
    assert_eq!(bench.far.read_all(far).0, b"order");
    bench.far.streams.try_write(far, b"answer", bench.now);
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.near.read_all(near).0, b"answer");
}

#[test]
fn a_refusal_that_was_lost_fails_the_stream() {
    let mut bench = Bench::up(HOLD);
    let near = bench.open_with(b"order");
    let far = bench.arrived();
    bench.far.streams.close(far, Cause::ReceiverRefuses);
    bench.transmit();
    bench.cut();
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.near.streams.failure(near), Some(Cause::Lost));
}

#[test]
fn a_sender_that_leaves_while_the_link_is_down_ends_the_far_stream_at_the_resume() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.near.streams.close(near, Cause::SenderGone);
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.far.streams.failure(far), Some(Cause::SenderGone));
}

#[test]
fn a_cut_anywhere_loses_and_repeats_no_byte() {
    for cut in (0..90_000).step_by(997) {
        let mut bench = Bench::up(HOLD);
        let (near, far) = bench.open_accepted();
        let message: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        bench.near.streams.try_write(near, &message, bench.now);
        bench.near.streams.finish(near);
        bench.cut_after(cut, 0, cut % 2 == 0);
        let (mut got, _) = bench.far.read_all(far);
        bench.connect(true);
        bench.settle();
        let (rest, end) = bench.far.read_all(far);
        got.extend(rest);
        assert!(got == message, "cut after {cut}");
        assert_eq!(end, Moved::End);
    }
}

#[test]
fn what_is_written_between_connection_and_resume_waits_for_no_ping() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.connect(true);
    bench.near.streams.try_write(near, b"order", bench.now);
    bench.transmit(); // not resumed yet: nothing but the list goes
    bench.settle();
    assert_eq!(bench.far.read_all(far).0, b"order");
}

#[test]
fn a_stream_that_is_opened_between_connection_and_resume_waits_for_no_ping() {
    let mut bench = Bench::down(HOLD);
    bench.connect(false);
    bench.open_with(b"order");
    bench.transmit();
    bench.settle();
    assert_eq!(bench.far.opened.len(), 1);
}

#[test]
fn where_the_far_site_was_restarted_a_stream_that_carried_bytes_fails_and_another_is_opened_again() {
    let mut bench = Bench::up(HOLD);
    let (idle_open, _) = bench.open_accepted();
    let carried = bench.open_with(b"order");
    let fresh = bench.near.streams.open().unwrap();
    bench.settle();
    bench.cut();
    let late = bench.open_with(b"late");
    bench.restart_far();
    bench.connect(false);
    bench.settle();
    assert_eq!(bench.near.streams.failure(idle_open), Some(Cause::Lost));
    assert_eq!(bench.near.streams.failure(carried), Some(Cause::Lost));
    assert_eq!(bench.near.streams.failure(fresh), None);
    assert_eq!(bench.near.streams.failure(late), None);
    assert_eq!(bench.far.opened.len(), 2);
}

#[test]
fn where_only_the_near_side_begins_anew_the_far_streams_end() {
    let mut bench = Bench::up(HOLD);
    let (_, far) = bench.open_accepted();
    bench.cut();
    bench.restart_near();
    bench.connected = true;
    bench.far.streams.handle_connected(true);
    bench.near.streams.handle_connected(false);
    bench.settle();
    assert_eq!(bench.far.streams.failure(far), Some(Cause::SenderGone));
}

#[test]
fn a_link_that_stays_down_fails_the_streams_of_both_ends() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.pass(HOLD);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::LinkDown));
    assert_eq!(bench.far.streams.failure(far), None, "the far side waits longer");
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.far.streams.failure(far), Some(Cause::LinkDown));
}

#[test]
fn data_that_crosses_a_reset_is_ignored() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.near.streams.try_write(near, b"order", bench.now);
    bench.far.streams.close(far, Cause::ReceiverReset);
    bench.settle();
    assert_eq!(bench.near.streams.failure(near), Some(Cause::ReceiverReset));
    bench.near.streams.close(near, Cause::SenderGone);
    bench.settle();
    bench.assert_no_stream_is_left();
}

#[test]
fn an_answer_goes_before_the_reset_that_follows_it() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    let answer = vec![6; 50_000];
    assert_eq!(bench.far.streams.try_write(far, &answer, bench.now), Moved::Bytes(50_000));
    bench.far.streams.close(far, Cause::ReceiverReset);
    bench.settle();
    assert_eq!(bench.near.read_all(near), (answer, Moved::Failed(Cause::ReceiverReset)));
    bench.near.streams.close(near, Cause::ReceiverReset);
    bench.settle();
    bench.assert_no_stream_is_left();
}

#[test]
fn an_answer_that_the_receiver_gave_before_it_left_survives_a_cut() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.far.streams.try_write(far, b"answer", bench.now);
    bench.far.streams.close(far, Cause::ReceiverReset);
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.near.read_all(near), (b"answer".to_vec(), Moved::Failed(Cause::ReceiverReset)));
    bench.near.streams.close(near, Cause::ReceiverReset);
    bench.settle();
    bench.assert_no_stream_is_left();
}

#[test]
fn an_answer_that_was_written_into_a_dead_connection_is_said_again() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.far.streams.try_write(far, b"answer", bench.now);
    bench.far.streams.close(far, Cause::ReceiverReset);
    bench.transmit();
    bench.cut();
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.near.read_all(near), (b"answer".to_vec(), Moved::Failed(Cause::ReceiverReset)));
    bench.near.streams.close(near, Cause::ReceiverReset);
    bench.settle();
    bench.assert_no_stream_is_left();
}

#[test]
fn a_sender_that_leaves_while_the_link_is_down_takes_its_message_back() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.near.streams.try_write(near, b"message", bench.now);
    assert!(bench.near.streams.is_held(near));
    bench.near.streams.finish(near);
    assert_eq!(bench.near.streams.failure(near), Some(Cause::SenderGone));
    bench.near.streams.close(near, Cause::SenderGone);
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.far.read_all(far), (Vec::new(), Moved::Failed(Cause::SenderGone)));
}

#[test]
fn a_sender_that_ends_while_the_link_is_down_with_nothing_on_its_way_ends_in_order() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.cut();
    bench.near.streams.finish(near);
    bench.connect(true);
    bench.settle();
    assert_eq!(bench.far.read_all(far), (Vec::new(), Moved::End));
}

#[test]
fn credit_goes_on_for_as_long_as_the_receiver_reads() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    let (mut sent, mut got) = (0, 0);
    while got < 10_000_000 {
        bench.near.woken.clear();
        while let Moved::Bytes(count) = bench.near.streams.try_write(near, &[1; 10_000], bench.now) {
            sent += count;
        }
        assert!(sent - got <= usize::try_from(WINDOW_BYTES_MAX).unwrap(), "within the credit");
        bench.settle();
        got += bench.far.read_all(far).0.len();
        assert_eq!(got, sent);
        bench.settle();
        assert!(bench.near.woken.contains(&near), "the sender is woken by the credit");
    }
}

#[test]
fn idle_streams_are_acknowledged() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    bench.near.streams.try_write(near, b"order", bench.now);
    bench.settle();
    bench.far.read_all(far);
    bench.far.streams.handle_idle();
    bench.settle();
    assert_eq!(bench.near.streams.streams[&near].send.unacked_bytes(), 0);
}

#[test]
fn many_small_writes_share_records() {
    let mut bench = Bench::up(HOLD);
    let (near, far) = bench.open_accepted();
    for _ in 0..5_000 {
        bench.near.streams.try_write(near, b"x", bench.now);
    }
    bench.transmit();
    assert!(bench.to_far.len() < 5_200, "one record, not thousands: {} bytes", bench.to_far.len());
    bench.settle();
    assert_eq!(bench.far.read_all(far).0.len(), 5_000);
}

#[test]
fn a_small_message_does_not_wait_behind_a_hundred_large_ones() {
    let mut bench = Bench::up(HOLD);
    for _ in 0..50 {
        bench.open_with(&[1; 64 << 10]);
    }
    let small = bench.open_with(b"small");
    for _ in 0..50 {
        bench.open_with(&[1; 64 << 10]);
    }
    let wire = bench.near.streams.streams[&small].wire;
    let mut out = BytesMut::new();
    bench.near.streams.poll_transmit(&mut out, 101 * (DATA_BYTES_MAX + 40));
    let (mut rest, mut before) = (&out[..], 0);
    loop {
        let (record, record_bytes) = decode(rest).unwrap().expect("it is among them");
        match record {
            Record::Data { stream, .. } if stream == wire => break,
            _ => before += 1,
        }
        rest = &rest[record_bytes..];
    }
    assert!(before <= 2 * 101, "{before} records before it");
}

#[test]
fn streams_are_limited() {
    let mut bench = Bench::down(HOLD);
    for _ in 0..STREAMS_MAX {
        bench.near.streams.open().unwrap();
    }
    assert_eq!(bench.near.streams.open(), Err(Cause::TooManyStreams));
}

use crate::link::wire::{DATA_BYTES_MAX, decode};

#[test]
fn numbers_go_out_in_order_whatever_was_queued_first() {
    let mut bench = Bench::down(HOLD);
    bench.open_with(b"first");
    bench.connect(false);
    bench.open_with(b"second");
    bench.settle(); // an end that breaks the rules panics here
    assert_eq!(bench.far.opened.len(), 2);
}
