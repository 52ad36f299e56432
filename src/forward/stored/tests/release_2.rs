//! Tests of the intake from senders of MLLP Release 2, and with other bytes around messages.

use super::*;
use crate::mllp::dialect::{Commit, Release};
use crate::mllp::frame::Framing;

const ACK: &[u8] = b"\x0b\x06\x1c\r";
const NAK: &[u8] = b"\x0b\x15\x1c\r";

async fn committed(permits: usize, commit: Commit) -> Desk {
    let dialect = Dialect { framing: Framing::MLLP, release: Release::Two(commit) };
    let desk = desk_of(permits, config::Forward { dialect, ..config(TERMS) }).await;
    desk.sender.set_nodelay(true).unwrap();
    desk
}

fn quick() -> Commit {
    Commit { timeout: Some(Duration::from_secs(5)), retries: 1, pause: Duration::from_secs(1) }
}

impl Desk {
    async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        timeout(SOON * 10, self.sender.read_exact(&mut got)).await.expect("in time").unwrap();
        assert_eq!(got, bytes);
    }
}

#[tokio::test]
async fn the_commit_comes_once_it_is_kept_then_the_answer_then_the_next_one() {
    let mut desk = committed(0, quick()).await;
    desk.send(message("1") + &message("2")).await;
    desk.in_line(2).await;
    assert!(desk.is_silent(Duration::from_millis(100)).await);
    desk.shelf.permits.add_permits(2);
    desk.expect(&[ACK, ACK].concat()).await;
    assert_eq!(desk.answers(1).await, ["AA 1"]);
    assert!(desk.is_silent(Duration::from_millis(100)).await, "one at a time");
    desk.send(ACK).await;
    assert_eq!(desk.answers(1).await, ["AA 2"]);
    desk.send(ACK).await;
    desk.send(enhanced("3", "NE", "NE")).await;
    desk.shelf.permits.add_permits(1);
    desk.expect(ACK).await;
    let counts = desk.tally.counts();
    assert_eq!((counts.acks.get("ACK"), counts.acks.get("AA"), counts.last_negative), (Some(&3), Some(&2), None));
    assert!(counts.anomalies.is_empty(), "{:?}", counts.anomalies);
}

#[tokio::test]
async fn what_is_not_kept_or_not_taken_is_not_committed_and_the_sender_goes_on() {
    let mut desk = committed(9, quick()).await;
    desk.shelf.refusals.lock().unwrap().extend([None, Some(NotKept::Full)]);
    desk.send(enhanced("1", "NE", "NE") + &enhanced("2", "NE", "NE") + &enhanced("3", "NE", "NE")).await;
    desk.expect(&[ACK, NAK, NAK].concat()).await;
    let ack = message("1").replace("ORU^R01^ORU_R01", "ACK").replace("PID|1||4711", "MSA|AA|9");
    desk.send(enhanced("4", "AL", "AL") + &ack + "\x0bPID|1\r\x1c\r\x0b\x1c\r\x0b\x04\x1c\r").await;
    desk.expect(&[NAK, NAK, NAK].concat()).await;
    desk.send(enhanced("2", "NE", "NE")).await;
    desk.expect(ACK).await;
    assert_eq!(desk.shelf.line().len(), 4, "the last one is behind it on the shelf, and not kept");
    let counts = desk.tally.counts();
    assert_eq!(counts.refused.get("application_answer_required"), Some(&1));
    assert_eq!((counts.acks.get("NAK"), counts.anomalies.get("no_header")), (Some(&5), Some(&1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_committed_is_sent_again_then_given_up() {
    let mut here = committed(9, quick()).await;
    here.send(message("1")).await;
    here.expect(ACK).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(here.answers(2).await, ["AA 1"; 2], "it does not come; a late one counts as any other");
    assert!(begun.elapsed() >= Duration::from_secs(6));
    here.send([ACK, ACK].concat()).await;
    here.send(message("2")).await;
    here.expect(ACK).await;
    assert_eq!(here.answers(1).await, ["AA 2"]);
    here.send(NAK).await;
    assert_eq!(here.answers(1).await, ["AA 2"]);
    here.send(NAK).await;
    let (reason, tally, shelf) = here.closed().await;
    assert_eq!((reason, shelf.line().len()), ("answer_not_committed", 2), "the message is kept all the same");
    assert_eq!(tally.counts().anomalies.get("answer_unmatched"), Some(&1));
}

#[tokio::test]
async fn a_sender_that_answers_commits_is_closed_after_a_few() {
    let mut here = committed(9, quick()).await;
    here.send(enhanced("1", "NE", "NE")).await;
    here.expect(ACK).await;
    let ack = message("1").replace("ORU^R01^ORU_R01", "ACK").replace("PID|1||4711", "MSA|AA|9");
    for _ in 0..7 {
        here.send(&ack).await;
        here.expect(NAK).await;
    }
    here.send(&ack).await;
    let (reason, tally, shelf) = here.closed().await;
    assert_eq!((reason, shelf.line().len()), ("answers_commits", 1));
    assert_eq!((tally.counts().acks.get("NAK"), tally.counts().anomalies["answer_unmatched"]), (Some(&7), 8));
    // With a message between it goes on; and who sends commits that nothing awaits is closed too.
    let mut here = committed(9, quick()).await;
    for id in ["1", "2", "3"] {
        here.send(ack.repeat(5) + &enhanced(id, "NE", "NE")).await;
        here.expect(&[&NAK.repeat(5), ACK].concat()).await;
    }
    here.send(ACK.repeat(8)).await;
    assert_eq!(here.closed().await.0, "answers_commits");
}

#[tokio::test]
async fn answers_need_no_commit_where_the_forward_says_so_or_their_sender_has_ended() {
    let mut here = committed(9, Commit { timeout: None, ..quick() }).await;
    for id in ["1", "2"] {
        here.send(message(id)).await;
        here.expect(ACK).await;
        assert_eq!(here.answers(1).await, [format!("AA {id}")]);
    }
    here.send(ACK).await;
    let mut here = committed(9, quick()).await;
    here.send(enhanced("1", "NE", "NE") + &message("2") + &message("3")).await;
    here.sender.shutdown().await.unwrap();
    here.expect(&[ACK; 3].concat()).await;
    assert_eq!(here.answers(2).await, ["AA 2", "AA 3"]);
    assert_eq!(here.closed().await.0, "finished");
}

#[tokio::test]
async fn case_35_answers_have_the_bytes_of_the_sender_around_them() {
    let dialect = Dialect { framing: Framing::new(2, 3, None).unwrap(), release: Release::One };
    let mut desk = desk_of(9, config::Forward { dialect, ..config(TERMS) }).await;
    let payload = b"MSH|^~\\&|EMR|NORTH|LIS|LAB|2026||ORU^R01|7|P|2.5\rNTE|1||a\x0bb\x1c\rc\r";
    for byte in [&[2][..], payload, &[3]].concat() {
        desk.send([byte]).await;
    }
    let mut answer = vec![0; 200];
    let count = timeout(SOON, desk.sender.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"\x02MSH|") && answer[..count].ends_with(b"\rMSA|AA|7\r\x03"), "{answer:?}");
    assert_eq!(desk.shelf.line.lock().unwrap()[0], payload);
}
