//! A carried connection between two legs in memory, in paused time: what ends it and what must not be lost then.

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;

const MESSAGE: &[u8] = b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\r\x1c\r";
const ACK: &[u8] = b"\x0bMSH|^~\\&|C|D|A|B|20260101||ACK^A01|9|P|2.5\rMSA|AA|1\r\x1c\r";

/// Is a leg in memory: what comes from it is scripted, what goes to it is kept.
#[derive(Default)]
struct Memory {
    state: Mutex<State>,
    changed: Notify,
    room_changed: Notify,
}

#[derive(Default)]
struct State {
    incoming: VecDeque<u8>,
    end: Option<Moved>,
    written: Vec<u8>,
    room: Option<usize>,
    broken: Option<Cause>,
    finished: bool,
    held: bool,
    closing: bool,
    looks: usize,
}

impl Memory {
    fn with(act: impl FnOnce(&mut State)) -> Arc<Self> {
        let leg = Arc::new(Self::default());
        act(&mut leg.state.lock().unwrap());
        leg
    }

    fn set(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state.lock().unwrap());
        self.changed.notify_one();
        self.room_changed.notify_one();
    }

    fn written(&self) -> Vec<u8> {
        self.state.lock().unwrap().written.clone()
    }
}

impl Leg for Arc<Memory> {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        let mut state = self.state.lock().unwrap();
        let count = out.len().min(state.incoming.len());
        if count == 0 {
            return state.end.unwrap_or(Moved::Blocked);
        }
        for (target, byte) in out.iter_mut().zip(state.incoming.drain(..count)) {
            *target = byte;
        }
        Moved::Bytes(count)
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        let mut state = self.state.lock().unwrap();
        if let Some(cause) = state.broken {
            return Moved::Failed(cause);
        }
        assert!(!state.finished, "nothing is written after the end");
        let count = bytes.len().min(state.room.unwrap_or(usize::MAX));
        state.room = state.room.map(|room| room - count);
        state.written.extend_from_slice(&bytes[..count]);
        if count == 0 { Moved::Blocked } else { Moved::Bytes(count) }
    }

    async fn finish(&self) {
        self.state.lock().unwrap().finished = true;
    }

    async fn readable(&self) {
        self.changed.notified().await;
    }

    async fn writable(&self) {
        self.room_changed.notified().await;
    }

    fn is_held(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.looks += 1;
        state.held
    }

    async fn is_closing(&self) -> bool {
        if !self.state.lock().unwrap().closing {
            std::future::pending::<()>().await;
        }
        true
    }
}

fn terms() -> (Terms, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    (
        Terms {
            release: Release::One,
            limits: Limits::default(),
            idle_timeout: None,
            frame_timeout: None,
            ack_timeout: None,
            stop: stopped,
            clerk: None,
        },
        stop,
    )
}

async fn run(sender: &Arc<Memory>, receiver: &Arc<Memory>, terms: Terms) -> Ended {
    let tally = Tally::default();
    let connection = tally.begin();
    carry(sender, receiver, terms, &tally, connection).await
}

fn both(one: &[u8], other: &[u8]) -> Vec<u8> {
    [one, other].concat()
}

#[tokio::test(start_paused = true)]
async fn each_direction_ends_by_itself() {
    let sender = Memory::with(|leg| (leg.incoming, leg.end) = (VecDeque::from(MESSAGE.to_vec()), Some(Moved::End)));
    let receiver = Memory::with(|_| ());
    let (terms, _stop) = terms();
    let answer = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(receiver.state.lock().unwrap().finished, "the sender's end is passed on");
        assert!(!sender.state.lock().unwrap().finished, "the answer may still come");
        receiver.set(|leg| (leg.incoming, leg.end) = (VecDeque::from(ACK.to_vec()), Some(Moved::End)));
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), answer);
    assert_eq!(ended, Ended::Finished);
    assert_eq!((receiver.written(), sender.written()), (MESSAGE.to_vec(), ACK.to_vec()));
    assert!(sender.state.lock().unwrap().finished);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_ends_without_an_answer_leaves_the_outcome_unknown() {
    let sender = Memory::with(|leg| (leg.incoming, leg.end) = (VecDeque::from(MESSAGE.to_vec()), Some(Moved::End)));
    let receiver = Memory::with(|_| ());
    let (terms, _stop) = terms();
    let killed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        receiver.set(|leg| leg.end = Some(Moved::End));
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), killed);
    assert_eq!((ended, ended.code()), (Ended::Unanswered, "unanswered"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_before_the_receiver_broke_reaches_the_sender() {
    let sender = Memory::with(|leg| (leg.incoming, leg.room) = (VecDeque::from(MESSAGE.to_vec()), Some(10)));
    let receiver = Memory::with(|leg| {
        (leg.incoming, leg.end) = (VecDeque::from(ACK.to_vec()), Some(Moved::Failed(Cause::ReceiverReset)));
        leg.broken = Some(Cause::ReceiverReset); // so the direction to the receiver fails first
    });
    let (terms, _stop) = terms();
    let read_on = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sender.set(|leg| leg.room = None);
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), read_on);
    assert_eq!(ended, Ended::Failed(Cause::ReceiverReset));
    assert_eq!(sender.written(), ACK);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_sender_is_neither_lost_nor_repeated_when_the_other_direction_fails() {
    let much: Vec<u8> = both(&ACK.repeat(2000), b"");
    let sender = Memory::with(|leg| leg.room = Some(1000));
    let receiver = Memory::with(|leg| leg.incoming = VecDeque::from(much.clone()));
    let (terms, _stop) = terms();
    let fail = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        receiver.set(|leg| leg.broken = Some(Cause::ReceiverReset));
        sender.set(|leg| leg.incoming = VecDeque::from(MESSAGE.to_vec()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        sender.set(|leg| leg.room = None);
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), fail);
    assert_eq!(ended, Ended::Failed(Cause::ReceiverReset));
    assert!(sender.written() == much);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_reads_nothing_does_not_hold_the_end_up() {
    let sender = Memory::with(|leg| leg.room = Some(0));
    let receiver = Memory::with(|leg| {
        (leg.incoming, leg.end) = (VecDeque::from(ACK.to_vec()), Some(Moved::End));
    });
    let (terms, stop) = terms();
    stop.send(true).unwrap();
    let begun = tokio::time::Instant::now();
    let ended = run(&sender, &receiver, terms).await;
    assert_eq!(ended, Ended::Failed(Cause::Stopping));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_passed_on_before_what_breaks_the_rules_behind_it() {
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE.to_vec()));
    let junk = vec![b'x'; 20_000];
    let receiver = Memory::with(|leg| leg.incoming = VecDeque::from(both(ACK, &junk)));
    let (mut terms, _stop) = terms();
    terms.limits = Limits { frame_bytes_max: 1000, ..Limits::default() };
    let ended = run(&sender, &receiver, terms).await;
    assert!(matches!(ended, Ended::Violation(_)), "{}", ended.code());
    assert!(sender.written().starts_with(ACK), "the receiver has acknowledged it");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_breaks_the_rules_still_gets_the_answers_that_are_there() {
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()));
    let receiver = Memory::with(|leg| leg.incoming = VecDeque::from(ACK.to_vec()));
    let (terms, _stop) = terms();
    let ended = run(&sender, &receiver, terms).await;
    assert!(matches!(ended, Ended::Violation(Violation::Http)));
    assert_eq!(sender.written(), ACK);
    assert!(receiver.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_answer_that_is_due() {
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE.to_vec()));
    let receiver = Memory::with(|_| ());
    let (terms, stop) = terms();
    let answer = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.send(true).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        receiver.set(|leg| leg.incoming = VecDeque::from(ACK.to_vec()));
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), answer);
    assert_eq!(ended, Ended::Failed(Cause::Stopping));
    assert_eq!(sender.written(), ACK);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_overdue_ends_the_connection() {
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE.to_vec()));
    let receiver = Memory::with(|_| ());
    let (mut terms, _stop) = terms();
    terms.ack_timeout = Some(Duration::from_secs(10));
    let begun = tokio::time::Instant::now();
    assert_eq!(run(&sender, &receiver, terms).await, Ended::Failed(Cause::AckTimeout));
    assert!((10_000..10_500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_connection_where_nothing_is_due_also_when_nobody_is_left_to_stop_it() {
    let (sender, receiver) = (Memory::with(|_| ()), Memory::with(|_| ()));
    let (mut terms, stop) = terms();
    drop(stop);
    terms.idle_timeout = Some(Duration::from_secs(30));
    assert_eq!(run(&sender, &receiver, terms).await, Ended::Idle);
    assert!(receiver.state.lock().unwrap().looks < 10, "a quiet connection costs next to nothing");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_leaves_while_its_message_is_held_is_noticed() {
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE.to_vec()));
    let receiver = Memory::with(|leg| leg.held = true);
    let (terms, _stop) = terms();
    let leave = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        sender.set(|leg| leg.closing = true);
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), leave);
    assert_eq!(ended, Ended::Failed(Cause::SenderGone));
}

#[tokio::test(start_paused = true)]
async fn case_18_a_sender_that_lets_a_message_wait_is_closed_and_what_the_receiver_takes_does_not_count() {
    let begun = tokio::time::Instant::now();
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE[..30].to_vec()));
    let (mut terms, _stop) = terms();
    terms.frame_timeout = Some(Duration::from_secs(30));
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_secs(4)).await;
            sender.set(|leg| leg.incoming.push_back(b'x'));
        }
    };
    let receiver = Memory::with(|_| ());
    let ended = tokio::select! {
        ended = run(&sender, &receiver, terms.clone()) => ended,
        () = trickle => panic!("for ever"),
    };
    assert_eq!((ended, ended.code()), (Ended::TooSlow, "frame_too_slow"));
    assert!((30_000..31_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    // A receiver that takes two minutes for the first half, and a sender that pauses between two messages.
    let sender = Memory::with(|leg| leg.incoming = VecDeque::from(MESSAGE[..30].to_vec()));
    let receiver = Memory::with(|leg| leg.room = Some(0));
    let slowly = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        receiver.set(|leg| leg.room = None);
        tokio::time::sleep(Duration::from_secs(20)).await;
        sender.set(|leg| leg.incoming.extend(&MESSAGE[30..]));
        tokio::time::sleep(Duration::from_secs(600)).await;
        sender.set(|leg| leg.end = Some(Moved::End));
        receiver.set(|leg| (leg.incoming, leg.end) = (VecDeque::from(ACK.to_vec()), Some(Moved::End)));
    };
    let (ended, ()) = tokio::join!(run(&sender, &receiver, terms), slowly);
    assert_eq!((ended, receiver.written()), (Ended::Finished, MESSAGE.to_vec()));
}
