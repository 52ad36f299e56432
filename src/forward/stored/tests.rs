//! Tests of the intake over loopback, with a store that keeps when it is told to.

mod release_2;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::config::{ApplicationAck, Delivery, Name, OnFull, ReceiverPolicy, Target};
use crate::link::inside::tune;
use crate::mllp::dialect::Dialect;
use crate::mllp::message::STORED_HEADER_BYTES_MAX;
use crate::tls::Socket;

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

/// Is a store: what it is asked to keep is in line at once, and kept once there is a permit for it.
struct Shelf {
    line: Mutex<Vec<Vec<u8>>>,
    permits: Semaphore,
    /// Says in turn what becomes of messages; empty: they are kept.
    refusals: Mutex<VecDeque<Option<NotKept>>>,
}

impl Keep for Shelf {
    async fn append(&self, payloads: Vec<Vec<u8>>) -> Result<(), NotAll> {
        let count = payloads.len();
        self.line.lock().unwrap().extend(payloads);
        for kept in 0..count {
            let refusal = self.refusals.lock().unwrap().pop_front().flatten();
            self.permits.acquire().await.unwrap().forget();
            if let Some(why) = refusal {
                return Err(NotAll { kept, why });
            }
        }
        Ok(())
    }
}

impl Shelf {
    fn line(&self) -> Vec<String> {
        let line = self.line.lock().unwrap();
        line.iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
    }
}

/// Is one sender's connection to an intake.
struct Desk {
    shelf: Arc<Shelf>,
    tally: Arc<Tally>,
    sender: TcpStream,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<&'static str>,
}

const TERMS: config::Stored = config::Stored {
    on_full: OnFull::Close,
    queue_messages_max: 10,
    queue_bytes_max: 1 << 20,
    keep_delivered: Duration::ZERO,
    application_ack: ApplicationAck::Refuse,
    receiver: ReceiverPolicy {
        ack: config::AckKind::Application,
        ack_timeout: SECOND,
        retries: 0,
        backoff_min: SECOND,
        backoff_max: SECOND,
        after_retries: config::Otherwise::Hold,
        on_reject: config::Otherwise::Park,
        in_doubt: config::InDoubt::Resend,
        in_doubt_max: 3,
        dialect: Dialect::RELEASE_1,
    },
};

fn config(terms: config::Stored) -> config::Forward {
    config::Forward {
        name: Name::new("orders").unwrap(),
        listen: (Ipv4Addr::LOCALHOST, 1).into(),
        tls: None,
        allow_from: Vec::new(),
        peer: Name::new("lab").unwrap(),
        target: Target::Service(Name::new("orders").unwrap()),
        message_bytes_max: 64 << 10,
        delivery: Delivery::Stored(terms),
        connections_max: 2.try_into().unwrap(),
        source_connections_max: 2.try_into().unwrap(),
        source_rate_max: 1000.try_into().unwrap(),
        frame_timeout: Duration::from_secs(30),
        idle_timeout: None,
        silent_after: None,
        dialect: Dialect::RELEASE_1,
    }
}

/// Opens a desk whose store keeps so many messages before it waits.
async fn desk(permits: usize, terms: config::Stored) -> Desk {
    desk_of(permits, config(terms)).await
}

async fn desk_of(permits: usize, config: config::Forward) -> Desk {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let line = Mutex::default();
    let shelf = Arc::new(Shelf { line, permits: Semaphore::new(permits), refusals: Mutex::default() });
    let (tally, stop) = (Arc::new(Tally::default()), watch::Sender::new(false));
    let (keep, counts, told) = (Arc::clone(&shelf), Arc::clone(&tally), stop.subscribe());
    let served = tokio::spawn(async move {
        let Delivery::Stored(terms) = config.delivery else { panic!("stored") };
        let (held, leg) = (Held::default(), TcpLeg::sender(Socket::plain(tcp)));
        tune(leg.tcp(), SECOND).unwrap();
        let config = Arc::new(config);
        Intake { config, terms, keep: &*keep, tally: &counts, held: &held, stop: told }.serve(&leg, 1).await
    });
    Desk { shelf, tally, sender, stop, served }
}

fn message(id: &str) -> String {
    format!("\x0bMSH|^~\\&|EMR|NORTH|LIS|LAB|20260101||ORU^R01^ORU_R01|{id}|P|2.5\rPID|1||4711\r\x1c\r")
}

fn enhanced(id: &str, accept: &str, application: &str) -> String {
    format!("\x0bMSH|^~\\&|EMR|NORTH|LIS|LAB|20260101||ORU^R01|{id}|P|2.5|||{accept}|{application}\r\x1c\r")
}

impl Desk {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.sender.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads so many answers: MSA-1 and MSA-2 of each, as `AA 7`.
    async fn answers(&mut self, count: usize) -> Vec<String> {
        let mut reader = FrameReader::new(Limits::default());
        let (mut answers, mut bytes) = (Vec::new(), [0; 4096]);
        while answers.len() < count {
            let read = timeout(SOON, self.sender.read(&mut bytes)).await.expect("an answer in time").unwrap();
            assert_ne!(read, 0, "closed after {answers:?}");
            let mut sink = |read| {
                let crate::mllp::frame::Read::Payload(payload) = read else { panic!("{read:?}") };
                let text = String::from_utf8(payload).unwrap();
                let msa: Vec<&str> = text.split('\r').nth(1).unwrap().split('|').collect();
                answers.push(format!("{} {}", msa[1], msa.get(2).copied().unwrap_or_default()));
            };
            reader.handle_bytes(&bytes[..read], &mut sink).unwrap();
        }
        answers
    }

    /// Expects the end of the connection, without another byte, and returns why.
    async fn closed(self) -> (&'static str, Arc<Tally>, Arc<Shelf>) {
        self.closed_within(SOON).await
    }

    async fn closed_within(mut self, time: Duration) -> (&'static str, Arc<Tally>, Arc<Shelf>) {
        let mut rest = Vec::new();
        let end = timeout(time, self.sender.read_to_end(&mut rest)).await.expect("an end in time");
        assert!(rest.is_empty(), "{:?} ({end:?})", String::from_utf8_lossy(&rest));
        (self.served.await.unwrap(), self.tally, self.shelf)
    }

    async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.sender.read(&mut [0; 1])).await.is_err()
    }

    async fn in_line(&self, count: usize) {
        let reached = async {
            while self.shelf.line().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, reached).await.expect("in line in time");
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_kept() {
    let mut desk = desk(0, TERMS).await;
    desk.send(message("7")).await;
    desk.in_line(1).await;
    assert!(desk.is_silent(Duration::from_millis(100)).await);
    assert_eq!(desk.tally.counts().unanswered(), 1);
    desk.shelf.permits.add_permits(1);
    assert_eq!(desk.answers(1).await, ["AA 7"]);
    assert_eq!(desk.shelf.line()[0], message("7")[1..message("7").len() - 2], "byte for byte");
    let counts = desk.tally.counts();
    assert_eq!((counts.unanswered(), counts.messages, counts.acks.get("AA")), (0, 1, Some(&1)));
}

#[tokio::test]
async fn case_1_what_comes_together_is_in_line_together_and_answered_in_order() {
    let mut desk = desk(0, TERMS).await;
    let all: String = (0..200).map(|id| message(&id.to_string())).collect();
    desk.send(all).await;
    // No one is kept yet, and all are in line: they share a commit.
    desk.in_line(200).await;
    desk.shelf.permits.add_permits(200);
    let expected: Vec<String> = (0..200).map(|id| format!("AA {id}")).collect();
    assert_eq!(desk.answers(200).await, expected);
    assert!(desk.shelf.line().iter().enumerate().all(|(id, kept)| kept.contains(&format!("|{id}|P|"))));
}

#[tokio::test]
async fn an_answer_mirrors_the_header_and_the_senders_own_id() {
    let mut desk = desk(1, TERMS).await;
    let message = b"\x0b\xef\xbb\xbfMSH#*~\\&#EMR#N\xd6RD#LIS#LAB#2026##ORU*R01#\x80id #P#2.5######8859/1\n\x1c\r";
    desk.send(message).await;
    let mut answer = vec![0; 200];
    let count = desk.sender.read(&mut answer).await.unwrap();
    let answer = &answer[..count];
    let starts = b"\x0bMSH#*~\\&#LIS#LAB#EMR#N\xd6RD#";
    assert!(answer.starts_with(starts), "{answer:?}");
    assert!(answer.ends_with(b"##ACK*R01#") || answer.windows(10).any(|part| part == b"##ACK*R01#"), "{answer:?}");
    assert!(answer.ends_with(b"#8859/1\rMSA#AA#\x80id \r\x1c\r"), "{answer:?}");
}

#[tokio::test]
async fn a_long_header_is_answered_byte_for_byte_or_ends_the_connection() {
    let open = || desk_of(9, config::Forward { message_bytes_max: 1 << 20, ..config(TERMS) });
    let mut here = open().await;
    for length in [2000, 4000, 5000, 60_000] {
        let id = "7".repeat(length);
        here.send(message(&id)).await;
        assert!(here.answers(1).await == [format!("AA {id}")], "{length}");
        here.send(message("8").replace("EMR", &id)).await;
        assert_eq!(here.answers(1).await, ["AA 8"]);
        here.send(enhanced("9", "AL", "AL").replace("|P|2.5|", &format!("|P|2.5|{id}"))).await;
        assert_eq!(here.answers(1).await, ["CR 9"], "MSH-15 and MSH-16 are behind {length} bytes");
    }
    let kept = here.shelf.line().len();
    here.send(message("1") + &message(&"7".repeat(STORED_HEADER_BYTES_MAX)) + &message("2")).await;
    assert_eq!(here.answers(1).await, ["AA 1"]);
    let (reason, tally, shelf) = here.closed().await;
    assert_eq!((reason, shelf.line().len()), ("header_too_long", kept + 1));
    assert_eq!(tally.counts().anomalies.get("header_too_long"), Some(&1));
}

#[tokio::test]
async fn the_acknowledgement_is_the_one_that_msh_15_asks_for() {
    let mut desk = desk(5, TERMS).await;
    for (id, accept) in [("1", "NE"), ("2", "ER"), ("3", "AL"), ("4", "SU")] {
        desk.send(enhanced(id, accept, "NE")).await;
    }
    desk.send(message("5")).await;
    assert_eq!(desk.answers(3).await, ["CA 3", "CA 4", "AA 5"]);
    assert_eq!(desk.shelf.line().len(), 5, "what asks for no answer is kept all the same");
}

#[tokio::test]
async fn what_only_an_application_could_answer_is_refused() {
    let mut here = desk(9, TERMS).await;
    here.send(enhanced("1", "AL", "AL")).await;
    here.send(enhanced("2", "NE", "AL")).await;
    here.send(message("3").replace("ORU^R01^ORU_R01", "QRY^A19")).await;
    here.send(message("4")).await;
    assert_eq!(here.answers(4).await, ["CR 1", "AR 2", "AR 3", "AA 4"]);
    assert_eq!(here.shelf.line().len(), 1);
    assert_eq!(here.tally.counts().refused.get("application_answer_required"), Some(&3));
    here.send(enhanced("5", "NE", "SU") + &enhanced("6", "SU", "SU")).await;
    assert_eq!(here.answers(2).await, ["AR 5", "CR 6"], "its sender awaits success, and would send it for ever");
    here.send(enhanced("7", "NE", "NE").replace("ORU^R01", "QBP^Q11") + &message("8")).await;
    let (reason, _, shelf) = here.closed().await;
    assert_eq!(reason, "application_answer_required", "nobody would tell it otherwise");
    assert_eq!(shelf.line().len(), 1, "8 comes again on another connection");
    let mut here = desk(9, config::Stored { application_ack: ApplicationAck::Discard, ..TERMS }).await;
    here.send(enhanced("1", "AL", "AL")).await;
    assert_eq!(here.answers(1).await, ["CA 1"]);
}

#[tokio::test]
async fn control_frames_empty_frames_and_acknowledgements_are_passed_over() {
    let mut desk = desk(9, TERMS).await;
    let ack = message("1").replace("ORU^R01^ORU_R01", "ACK").replace("PID|1||4711", "MSA|AA|9");
    desk.send(
        [b"\x0b\x06\x1c\r\x0b\x04\x1c\r\x0b\x1c\r\0\0\r\njunk", ack.as_bytes(), message("2").as_bytes()].concat(),
    )
    .await;
    assert_eq!(desk.answers(1).await, ["AA 2"]);
    assert_eq!(desk.shelf.line().len(), 1);
    let anomalies = desk.tally.counts().anomalies;
    assert_eq!(anomalies.get("control_frame"), Some(&2));
    for code in ["empty_frame", "answer_unmatched", "nul_between_frames", "line_end_between_frames"] {
        assert_eq!(anomalies.get(code), Some(&1), "{code}");
    }
}

#[tokio::test]
async fn a_response_that_is_sent_by_itself_is_kept_and_acknowledged() {
    let mut desk = desk(9, TERMS).await;
    let response = message("1").replace("ORU^R01^ORU_R01", "ORR^O02").replace("PID|1||4711", "MSA|AA|9\rPID|1||4711");
    desk.send(response).await;
    assert_eq!(desk.answers(1).await, ["AA 1"]);
    assert_eq!(desk.shelf.line().len(), 1);
}

#[tokio::test]
async fn case_8_a_sender_that_starts_over_is_never_merged() {
    let mut desk = desk(9, TERMS).await;
    let partial = &message("2")[..60];
    desk.send(message("1") + partial + &message("3")).await;
    assert_eq!(desk.answers(1).await, ["AA 1"], "what was whole before is answered");
    let (reason, tally, shelf) = desk.closed().await;
    assert_eq!((reason, shelf.line().len()), ("started_over", 1));
    assert_eq!(tally.counts().anomalies.get("started_over"), Some(&1));
}

#[tokio::test]
async fn case_3_silence_ends_a_frame_without_its_last_cr_and_less_does_not() {
    let mut desk = desk(9, TERMS).await;
    let message = message("1");
    desk.send(&message[..message.len() - 1]).await;
    assert_eq!(desk.answers(1).await, ["AA 1"]);
    // No CR before FS: it may be payload.
    desk.send(&message.replace("\r\x1c\r", "\x1c")).await;
    assert!(desk.is_silent(Duration::from_millis(500)).await);
    // The end of the stream ends it too, and the answer still comes.
    desk.sender.shutdown().await.unwrap();
    assert_eq!(desk.answers(1).await, ["AA 1"]);
    assert_eq!(desk.closed().await.0, "finished");
}

#[tokio::test]
async fn case_2_a_frame_comes_in_any_pieces() {
    let mut desk = desk(9, TERMS).await;
    for byte in (message("1") + &message("2")).bytes() {
        desk.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(desk.answers(2).await, ["AA 1", "AA 2"]);
}

#[tokio::test]
async fn what_is_no_hl7_ends_the_connection_and_says_why() {
    let wide: Vec<u8> = "\x0bMSH|^~\\&|".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let large = [b"\x0bMSH|^~\\&|".to_vec(), vec![b'x'; 65 << 10]].concat();
    let cases: [(Vec<u8>, &str); 6] = [
        (wide, "wide_text"),
        (b"\x0bPID|1||4711\r\x1c\r".to_vec(), "no_header"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "http"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "tls"),
        (vec![b'x'; 5000], "too_much_junk"),
        (large, "frame_too_large"),
    ];
    for (bytes, expected) in cases {
        let mut desk = desk(9, TERMS).await;
        desk.send(bytes).await;
        let reason = timeout(SOON, desk.served).await.unwrap().unwrap();
        assert_eq!((reason, desk.shelf.line().len()), (expected, 0));
    }
}

#[tokio::test]
async fn what_is_not_kept_is_never_accepted() {
    for why in [NotKept::Full, NotKept::Disk, NotKept::Failed] {
        let mut here = desk(9, TERMS).await;
        here.shelf.refusals.lock().unwrap().extend([None, Some(why)]);
        here.send(message("1") + &message("2") + &message("3")).await;
        assert_eq!(here.answers(1).await, ["AA 1"]);
        let (reason, tally, _) = here.closed().await;
        assert_eq!((reason, tally.counts().refused.get(why.code())), (why.code(), Some(&1)));
        let mut here = desk(9, config::Stored { on_full: OnFull::Nak, ..TERMS }).await;
        here.shelf.refusals.lock().unwrap().extend([None, Some(why)]);
        here.send(message("1") + &message("2") + &enhanced("3", "AL", "NE") + &message("4")).await;
        assert_eq!(here.answers(4).await, ["AA 1", "AR 2", "CR 3", "AR 4"], "none overtakes the one before");
        here.send(message("2")).await;
        assert_eq!(here.answers(1).await, ["AA 2"], "it comes again, and is kept");
        here.shelf.refusals.lock().unwrap().push_back(Some(why));
        here.send(enhanced("5", "NE", "NE")).await;
        assert_eq!(here.closed().await.0, why.code(), "what asks for no answer learns it by the end");
    }
}

#[tokio::test]
async fn bytes_that_all_senders_hold_are_bounded() {
    let held = Held::default();
    let mut others = held.share();
    others.set(held::HELD_BYTES_MAX - 100, 0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let leg = TcpLeg::sender(Socket::plain(listener.accept().await.unwrap().0));
    let permits = Semaphore::new(9);
    let shelf = Shelf { line: Mutex::default(), permits, refusals: Mutex::default() };
    let (tally, stop) = (Tally::default(), watch::Sender::new(false));
    let config = Arc::new(config(TERMS));
    let intake = Intake { config, terms: TERMS, keep: &shelf, tally: &tally, held: &held, stop: stop.subscribe() };
    sender.write_all(&message("1").as_bytes()[..70]).await.unwrap();
    let mut serving = Box::pin(intake.serve(&leg, 1));
    assert!(timeout(Duration::from_millis(100), &mut serving).await.is_err(), "it fits");
    sender.write_all(&[b'x'; 100]).await.unwrap();
    assert_eq!(timeout(SOON, serving).await.unwrap(), "too_many_bytes_held");
}

#[tokio::test(start_paused = true)]
async fn case_18_and_19_a_frame_that_trickles_and_a_silent_connection_end() {
    let idle_timeout = Some(Duration::from_secs(60));
    let mut here = desk_of(9, config::Forward { idle_timeout, ..config(TERMS) }).await;
    here.send(&message("1")[..50]).await;
    assert_eq!(here.closed_within(SOON * 20).await.0, "frame_too_slow");
    let here = desk_of(9, config::Forward { idle_timeout, ..config(TERMS) }).await;
    assert_eq!(here.closed_within(SOON * 20).await.0, "idle_timeout");
}

#[tokio::test]
async fn a_connection_that_is_told_to_end_does_so_between_two_messages() {
    let mut here = desk(9, TERMS).await;
    let message = message("1");
    here.send(&message[..50]).await;
    here.in_line(0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    here.stop.send_replace(true);
    assert!(here.is_silent(Duration::from_millis(100)).await);
    here.send(&message[50..]).await;
    assert_eq!(here.answers(1).await, ["AA 1"]);
    assert_eq!(here.closed_within(SECOND).await.0, "stopping", "at once, not when the time is over");
}
