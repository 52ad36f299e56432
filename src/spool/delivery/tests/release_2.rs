//! Tests of the conversation with a receiver of MLLP Release 2 on a real socket.

use super::*;
use crate::mllp::dialect::{Commit, Dialect, Release};
use crate::mllp::frame::Framing;

const FRAMING: (u8, u8) = (0x02, 0x03);

async fn frame(tcp: &mut TcpStream) -> Vec<u8> {
    let mut frame = Vec::new();
    while frame.last() != Some(&FRAMING.1) {
        frame.push(timeout(LONG, tcp.read_u8()).await.unwrap().unwrap());
    }
    assert_eq!(frame[0], FRAMING.0);
    frame[1..frame.len() - 1].to_vec()
}

async fn say(tcp: &mut TcpStream, payload: &[u8]) {
    tcp.write_all(&[&[FRAMING.0], payload, &[FRAMING.1]].concat()).await.unwrap();
}

fn answer(sequence: Sequence) -> Vec<u8> {
    format!("MSH|^~\\&|c|d|a|b|t||ACK|R|P|2.5\rMSA|AA|K{sequence}\r").into_bytes()
}

#[tokio::test]
async fn commits_go_both_ways_in_order_and_what_is_not_committed_comes_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let commit = Commit { timeout: Some(Duration::from_secs(10)), retries: 2, pause: Duration::from_millis(5) };
    let framing = Framing::new(FRAMING.0, FRAMING.1, None).unwrap();
    let dialect = Dialect { framing, release: Release::Two(commit) };
    let policy = ReceiverPolicy { ack_timeout: LONG, dialect, ..hasty() };
    let mut stage = Stage::start(listener.local_addr().unwrap().port(), policy);
    stage.deliver(1..=2).await;
    let (mut tcp, _) = listener.accept().await.unwrap();
    assert_eq!(frame(&mut tcp).await, delivery(1).payload);
    say(&mut tcp, b"\x15").await;
    let (mut tcp, _) = listener.accept().await.unwrap();
    assert_eq!(frame(&mut tcp).await, delivery(1).payload);
    say(&mut tcp, b"\x06").await;
    say(&mut tcp, &answer(1)).await;
    assert_eq!(frame(&mut tcp).await, b"\x06", "its answer is committed ahead of the next message");
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 2, 0));
    assert_eq!(frame(&mut tcp).await, delivery(2).payload);
    say(&mut tcp, b"\x06").await;
    say(&mut tcp, &answer(2)).await;
    assert_eq!(frame(&mut tcp).await, b"\x06", "also where nothing follows");
    assert_eq!(stage.outcome().await, (2, Verdict::Delivered, 1, 0));
    let counts = stage.counter.counts();
    let of = |code| counts.answers().find(|(listed, _)| *listed == code).unwrap().1;
    use crate::mllp::ack::AckCode::{ApplicationAccept, TransportAck, TransportNak};
    assert_eq!([TransportAck, TransportNak, ApplicationAccept].map(of), [2, 1, 2]);
}
