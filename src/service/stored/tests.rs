//! Tests of conversations that share a receiver which takes one connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::config::{self, Endpoint, Host, Probe};
use crate::link::feed::Taken;
use crate::mllp::ack::AckCode;
use crate::mllp::frame::encode;
use crate::spool::delivery::course::{self, Reason, Trying};
use crate::spool::{Digest, Epoch, Sequence};

/// Is half of what one waits for a place before it is told that there is none.
const SOON: Duration = Duration::from_secs(5);

fn service(receiver: SocketAddr) -> Arc<Service> {
    Service::new(config::Service {
        name: Name::new("orders").unwrap(),
        target: Endpoint { host: Host::Address(receiver.ip()), port: receiver.port() },
        tls: None,
        allow_peers: Vec::new(),
        port: None,
        ack_timeout: None,
        connections_max: 1.try_into().unwrap(),
        probe: Probe::None,
        stored: ReceiverPolicy::default(),
    })
}

/// Accepts every message, of one connection after the other.
async fn receive(listener: TcpListener) {
    while let Ok((mut tcp, _)) = listener.accept().await {
        let mut bytes = Vec::new();
        while let Ok(1..) = tcp.read_buf(&mut bytes).await {
            while let Some(end) = bytes.windows(2).position(|two| two == b"\x1c\r") {
                let frame: Vec<u8> = bytes.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&frame).into_owned();
                let ack = format!("MSH|^~\\&|c|d|a|b|t||ACK|R|P|2.5\rMSA|AA|{}\r", text.split('|').nth(9).unwrap());
                tcp.write_all(&encode(ack.as_bytes())).await.unwrap();
            }
        }
    }
}

async fn open(service: &Arc<Service>, directory: &Path, peer: &str) -> Station {
    let peer = Name::new(peer).unwrap();
    Arc::clone(service).open_station(directory.to_owned(), None, peer, ForwardId([7; 16])).await.unwrap()
}

async fn deliver(station: &mut Station, sequence: Sequence) {
    let payload = format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|K{sequence}|P|2.5\r").into_bytes();
    let (epoch, digest) = (Epoch([1; 16]), Digest([2; 32]));
    station.messages.send(Taken { sequence, epoch, digest, in_doubt: false, payload }).await.ok().unwrap();
    let outcome = timeout(SOON, station.outcomes.recv()).await.expect("a place in time").unwrap();
    assert_eq!((outcome.sequence, outcome.attempts), (sequence, 1));
}

#[tokio::test]
async fn who_waits_gets_the_only_connection_of_an_idle_conversation() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let service = service(listener.local_addr().unwrap());
    let mut receiver = JoinSet::new();
    receiver.spawn(receive(listener));
    let mut north = open(&service, directory.path(), "north").await;
    let mut south = open(&service, directory.path(), "south").await;
    deliver(&mut north, 1).await;
    deliver(&mut north, 2).await;
    deliver(&mut south, 1).await;
    deliver(&mut north, 3).await;
    let counts = service.talks().0[0].counter.counts();
    assert_eq!(counts.connections, 2, "while nobody waits, it is kept");
    let (transparent, place) = timeout(SOON, service.connect()).await.expect("a place in time").unwrap();
    assert_eq!(service.waiting(), 0);
    drop((transparent, place));
    deliver(&mut south, 2).await;
}

#[tokio::test]
async fn an_inbox_that_was_removed_ends_its_conversation_and_the_next_one_begins_anew() {
    for takes in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let inbox = directory.path().join("inbox");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let service = service(listener.local_addr().unwrap());
        let mut receiver = JoinSet::new();
        receiver.spawn(receive(listener));
        let mut north = open(&service, &inbox, "north").await;
        deliver(&mut north, 1).await;
        std::fs::rename(&inbox, directory.path().join("aside")).unwrap();
        let payload = b"MSH|^~\\&|a|b|c|d|t||ADT^A01|K2|P|2.5\r".to_vec();
        let (epoch, digest) = (Epoch([1; 16]), Digest([2; 32]));
        north.messages.send(Taken { sequence: 2, epoch, digest, in_doubt: false, payload }).await.ok().unwrap();
        let ended = timeout(SOON, north.outcomes.recv()).await.expect("it ends, so that the link is opened anew");
        assert!(ended.is_none());
        drop(north);
        if !takes {
            std::fs::rename(directory.path().join("aside"), &inbox).unwrap();
        }
        let mut north = open(&service, &inbox, "north").await;
        let is_fresh = matches!(north.book.view().await.unwrap(), crate::spool::FarView::Fresh);
        assert_eq!(is_fresh, takes, "what was put back goes on");
        deliver(&mut north, 2).await;
    }
}

#[test]
fn the_near_site_is_told_what_keeps_the_first_message() {
    let state = DeliveryState::default();
    assert!(told(&state).is_none());
    let (sequence, code, pause) = (7, AckCode::ApplicationError, Duration::from_secs(2));
    let trying = Trying { sequence, code, unknown: None, attempts: 3, in_doubt: 1, pause };
    let state = DeliveryState { trying: Some(trying), ..state };
    let said = told(&state).unwrap();
    assert!(!said.awaits_decision() && (said.sequence, said.reason) == (7, Held::TRYING));
    assert_eq!((said.code, said.attempts, said.in_doubt), (code, 3, 1));
    assert_eq!(said.text, "the receiver answered AE to attempt 3; the next is 2s later");
    let said = told(&DeliveryState { ledger_failed: Some("a path".into()), ..state.clone() }).unwrap();
    assert!(!said.awaits_decision() && said.reason == Held::UNWRITTEN && !said.text.contains("a path"));
    let held = course::Held { sequence, reason: Reason::Failed, code, unknown: None, attempts: 4, in_doubt: 2 };
    let said = told(&DeliveryState { held: Some(held), ..state }).unwrap();
    assert!(said.awaits_decision());
    assert_eq!((said.code, said.attempts, said.in_doubt), (code, 4, 2));
}
