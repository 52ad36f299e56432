//! Tests of senders that share the one connection of a receiver, over loopback.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::*;
use crate::config::{self, Endpoint, Host, Name, Probe, ReceiverPolicy};
use crate::link::carry::TcpLeg;
use crate::tls::Socket;

const SOON: Duration = Duration::from_secs(10);

/// Says what a receiver writes for a message: the number of its connection and MSH-10 come in.
type Script = fn(usize, &str) -> String;

fn ack(id: &str) -> String {
    format!("\x0bMSH|^~\\&|L|S|H|N|2026||ACK|R|P|2.5\rMSA|AA|{id}\r\x1c\r")
}

/// Is a receiver that takes one connection after the other, and writes down MSH-10 of what came, by connection.
struct Lab {
    service: Arc<Service>,
    got: Arc<Mutex<Vec<(usize, String)>>>,
    _serving: JoinSet<()>,
}

impl Lab {
    async fn open(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let service = Service::new(config::Service {
            name: Name::new("orders").unwrap(),
            target: Endpoint { host: Host::Address(at.ip()), port: at.port() },
            allow_peers: Vec::new(),
            port: None,
            ack_timeout: None,
            connections_max: 1.try_into().unwrap(),
            probe: Probe::None,
            tls: None,
            stored: ReceiverPolicy { ack_timeout: Duration::from_millis(500), ..ReceiverPolicy::default() },
        });
        let got = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut serving) = (Arc::clone(&got), JoinSet::new());
        serving.spawn(async move {
            let mut connection = 0;
            while let Ok((mut tcp, _)) = listener.accept().await {
                connection += 1;
                let (mut bytes, seen) = (Vec::new(), &seen);
                while let Ok(1..) = tcp.read_buf(&mut bytes).await {
                    while let Some(end) = bytes.windows(2).position(|two| two == b"\x1c\r") {
                        let frame: Vec<u8> = bytes.drain(..end + 2).collect();
                        let text = String::from_utf8_lossy(&frame).into_owned();
                        let id = text.split('|').nth(9).unwrap();
                        seen.lock().unwrap().push((connection, id.to_owned()));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        tcp.write_all(script(connection, id).as_bytes()).await.unwrap();
                    }
                }
            }
        });
        Self { service, got, _serving: serving }
    }

    /// Connects a sender.
    async fn sender(&self) -> (TcpStream, JoinHandle<Cause>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let leg = TcpLeg::sender(Socket::plain(listener.accept().await.unwrap().0));
        let service = Arc::clone(&self.service);
        let serving = tokio::spawn(async move {
            match service.reach().await {
                Ok(()) => service.serve_shared(&leg, None).await,
                Err(cause) => cause,
            }
        });
        (sender, serving)
    }

    fn got(&self) -> Vec<(usize, String)> {
        self.got.lock().unwrap().clone()
    }
}

async fn send(sender: &mut TcpStream, ids: &[&str]) {
    for id in ids {
        let message = format!("\x0bMSH|^~\\&|H|N|L|S|2026||ORU^R01|{id}|P|2.5\r\x1c\r");
        sender.write_all(message.as_bytes()).await.unwrap();
    }
}

/// Reads what makes up these answers, and nothing else.
async fn expect(sender: &mut TcpStream, ids: &[&str]) {
    let wanted: String = ids.iter().map(|id| ack(id)).collect();
    let mut bytes = vec![0; wanted.len()];
    timeout(SOON, sender.read_exact(&mut bytes)).await.expect("an answer in time").unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
}

async fn closed(mut sender: TcpStream, serving: JoinHandle<Cause>) -> Cause {
    let cause = timeout(SOON, serving).await.expect("an end in time").unwrap();
    let mut rest = Vec::new();
    sender.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    cause
}

#[tokio::test]
async fn case_24_senders_take_turns_on_one_connection_and_each_gets_its_own_answers() {
    let lab = Lab::open(|_, id| ack(id)).await;
    let ids: Vec<String> = (0..20).map(|number| format!("A{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (mut busy, _busy) = lab.sender().await;
    send(&mut busy, &ids).await;
    expect(&mut busy, &["A0"]).await;
    let (mut one, _one) = lab.sender().await;
    let (mut two, _two) = lab.sender().await;
    send(&mut one, &["B0"]).await;
    send(&mut two, &["C0"]).await;
    tokio::join!(expect(&mut one, &["B0"]), expect(&mut two, &["C0"]));
    let before = lab.got().len();
    assert!(before < 12, "who asks for little waits for one message of each other: {before} were first");
    expect(&mut busy, &ids[1..]).await;
    let (got, counts) = (lab.got(), lab.service.tally().counts());
    assert!(got.iter().all(|(connection, _)| *connection == 1), "one connection");
    let order: Vec<&str> = got.iter().map(|(_, id)| id.as_str()).filter(|id| id.starts_with('A')).collect();
    assert_eq!((order, counts.messages, counts.acks["AA"]), (ids, 22, 22));
}

#[tokio::test]
async fn case_27_28_29_and_30_what_answers_another_message_or_none_reaches_nobody() {
    let beside = |_: usize, id: &str| {
        let bare = "\x0bMSH|^~\\&|L|S|H|N|2026||ORU^R01|9|P|2.5\r\x1c\r";
        [&ack("other"), bare, &ack(id), &ack(id)].concat()
    };
    let lab = Lab::open(beside).await;
    let (mut one, _one) = lab.sender().await;
    let (mut two, _two) = lab.sender().await;
    for (sender, id) in [(&mut one, "1"), (&mut two, "2")] {
        send(sender, &[id]).await;
        expect(sender, &[id]).await;
    }
    send(&mut one, &["3"]).await;
    expect(&mut one, &["3"]).await;
    assert!(lab.service.tally().counts().anomalies["answer_unmatched"] >= 8);
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_reaches_who_sent_its_message_and_nobody_else() {
    let lab = Lab::open(|_, id| if id == "none" { String::new() } else { [ack(id), ack(id)].concat() }).await;
    let (mut one, _one) = lab.sender().await;
    let (mut two, _two) = lab.sender().await;
    for id in ["none", "n1"] {
        let message = format!("\x0bMSH|^~\\&|H|N|L|S|2026||ADT^A40|{id}|P|2.5|||NE|NE\r\x1c\r");
        one.write_all(message.as_bytes()).await.unwrap();
    }
    send(&mut two, &["2"]).await;
    expect(&mut two, &["2"]).await;
    expect(&mut one, &["n1"]).await;
    send(&mut one, &["3"]).await;
    expect(&mut one, &["3"]).await;
    let counted = || lab.service.tally().counts().anomalies.get("answer_unmatched").copied();
    while counted() < Some(3) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let counts = lab.service.tally().counts();
    assert_eq!((counted(), counts.acks["AA"]), (Some(3), 3), "each came twice, and nobody waited for the second");
}

#[tokio::test]
async fn answers_keep_the_order_of_messages_of_one_write_of_which_some_asked_for_none() {
    let lab = Lab::open(|_, id| ack(id)).await;
    let (mut one, _one) = lab.sender().await;
    let write: String = (0..20)
        .map(|number| {
            format!("\x0bMSH|^~\\&|H|N|L|S|2026||ADT^A40|{number}|P|2.5|||{}\r\x1c\r", ["NE|NE", "|"][number % 2])
        })
        .collect();
    one.write_all(write.as_bytes()).await.unwrap();
    let ids: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    expect(&mut one, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(lab.service.tally().counts().acks["AA"], 20);
}

#[tokio::test]
async fn case_28_after_an_answer_that_did_not_come_the_next_message_gets_a_new_connection() {
    let lab = Lab::open(|_, id| if id == "lost" { String::new() } else { ack(id) }).await;
    let (mut one, first) = lab.sender().await;
    let (mut two, _second) = lab.sender().await;
    send(&mut one, &["lost"]).await;
    while lab.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    send(&mut two, &["next"]).await;
    expect(&mut two, &["next"]).await;
    assert_eq!(closed(one, first).await, Cause::AckTimeout, "its outcome is not known");
    assert_eq!(lab.got(), [(1, "lost".to_owned()), (2, "next".to_owned())]);
    assert_eq!(lab.service.tally().counts().unknown_outcomes, 1);
}

#[tokio::test]
async fn case_34_a_repeated_or_empty_control_id_gets_a_connection_of_its_own() {
    let lab =
        Lab::open(|connection, id| ack(if id.is_empty() { "1" } else { id }) + if connection == 9 { "x" } else { "" })
            .await;
    let (mut one, _one) = lab.sender().await;
    let (mut two, _two) = lab.sender().await;
    send(&mut one, &["7"]).await;
    expect(&mut one, &["7"]).await;
    send(&mut two, &["7"]).await;
    expect(&mut two, &["7"]).await;
    send(&mut two, &[""]).await;
    expect(&mut two, &["1"]).await;
    let connections: Vec<usize> = lab.got().iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [1, 2, 3]);
}

#[tokio::test]
async fn a_receiver_that_is_to_be_met_with_tls_from_now_on_gets_no_more_on_the_plain_connection() {
    let lab = Lab::open(|_, id| ack(id)).await;
    let (mut one, _one) = lab.sender().await;
    send(&mut one, &["1"]).await;
    expect(&mut one, &["1"]).await;
    let tls = crate::tls::fixture::receiver(&crate::tls::fixture::Authority::new("lab"), None);
    lab.service.change(config::Service { tls: Some(tls), ..(*lab.service.config()).clone() });
    send(&mut one, &["2"]).await;
    // It is called anew, and never answers the handshake.
    assert!(timeout(Duration::from_millis(300), one.read(&mut [0])).await.is_err());
    assert_eq!(lab.got(), [(1, "1".to_owned())]);
}

#[tokio::test]
async fn a_message_that_is_cut_off_takes_its_connection_along_and_one_that_waits_is_never_sent() {
    let lab = Lab::open(|_, id| if id == "slow" { String::new() } else { ack(id) }).await;
    let (mut one, first) = lab.sender().await;
    let (mut two, second) = lab.sender().await;
    send(&mut one, &["slow"]).await;
    while lab.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    send(&mut two, &["waits"]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    second.abort();
    first.abort();
    let (mut three, _third) = lab.sender().await;
    send(&mut three, &["next"]).await;
    expect(&mut three, &["next"]).await;
    assert_eq!(lab.got(), [(1, "slow".to_owned()), (2, "next".to_owned())]);
}

#[tokio::test]
async fn an_idle_connection_goes_to_who_waits_for_it_and_one_that_the_receiver_ended_is_not_used() {
    let lab = Lab::open(|_, id| ack(id)).await;
    let (mut one, _one) = lab.sender().await;
    send(&mut one, &["1"]).await;
    expect(&mut one, &["1"]).await;
    let (other, place) = timeout(SOON / 2, lab.service.connect()).await.expect("a place in time").unwrap();
    send(&mut one, &["2"]).await;
    assert!(timeout(Duration::from_millis(100), one.read(&mut [0])).await.is_err(), "one connection at once");
    drop((other, place));
    expect(&mut one, &["2"]).await;
    lab.service.retire();
    assert_eq!(closed(one, _one).await, Cause::Stopping);
}
