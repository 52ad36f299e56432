//! Tests of a receiver that takes one connection and needs a moment to free its place, over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Endpoint, Host, Name, Probe, ReceiverPolicy};
use crate::link::carry::TcpLeg;
use crate::link::feed::Taken;
use crate::spool::{Digest, Epoch, ForwardId};

const SOON: Duration = Duration::from_secs(10);
/// Is how long the receiver's place stays taken after its connection has ended.
const FREED_AFTER: Duration = Duration::from_millis(40);

fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|H|N|L|S|2026||ORU^R01|{id}|P|2.5\r").into_bytes()
}

/// Is a receiver that turns a second connection away, and what it turned away.
struct Narrow {
    at: SocketAddr,
    turned_away: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Narrow {
    /// Frees its place after the end of a connection, before or after it has ended its own side.
    async fn open(closes_first: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (at, turned_away) = (listener.local_addr().unwrap(), Arc::default());
        let (mut serving, turned) = (JoinSet::new(), Arc::<AtomicUsize>::clone(&turned_away));
        let place = Arc::new(tokio::sync::Mutex::new(()));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(place) = Arc::clone(&place).try_lock_owned() else {
                    turned.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                connections.spawn(async move {
                    let mut tcp = Some(tcp);
                    answer(tcp.as_mut().unwrap()).await;
                    if closes_first {
                        tcp = None;
                    }
                    sleep(FREED_AFTER).await;
                    drop((place, tcp));
                });
            }
        });
        Self { at, turned_away, _serving: serving }
    }

    fn service(&self) -> Arc<Service> {
        Service::new(config::Service {
            name: Name::new("orders").unwrap(),
            target: Endpoint { host: Host::Address(self.at.ip()), port: self.at.port() },
            allow_peers: Vec::new(),
            port: None,
            ack_timeout: None,
            connections_max: 1.try_into().unwrap(),
            probe: Probe::None,
            tls: None,
            stored: ReceiverPolicy::default(),
        })
    }
}

/// Accepts every message.
async fn answer(tcp: &mut TcpStream) {
    let mut bytes = Vec::new();
    while let Ok(1..) = tcp.read_buf(&mut bytes).await {
        while let Some(end) = bytes.windows(2).position(|two| two == b"\x1c\r") {
            let frame: Vec<u8> = bytes.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&frame).into_owned();
            let id = text.split('|').nth(9).unwrap();
            let ack = format!("\x0bMSH|^~\\&|L|S|H|N|2026||ACK|R|P|2.5\rMSA|AA|{id}\r\x1c\r");
            tcp.write_all(ack.as_bytes()).await.ok();
        }
    }
}

/// Connects a sender.
async fn sender(service: &Arc<Service>) -> (TcpStream, JoinHandle<Cause>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let leg = TcpLeg::sender(Socket::plain(listener.accept().await.unwrap().0));
    let service = Arc::clone(service);
    let serving = tokio::spawn(async move {
        match service.reach().await {
            Ok(()) => service.serve_shared(&leg, None).await,
            Err(cause) => cause,
        }
    });
    (sender, serving)
}

#[tokio::test]
async fn case_34_a_receiver_that_needs_a_moment_to_free_its_only_place_gets_each_message_and_answers_it() {
    for closes_first in [false, true] {
        let receiver = Narrow::open(closes_first).await;
        let service = receiver.service();
        let (mut sender, _serving) = sender(&service).await;
        for number in 0..5 {
            sender.write_all(&crate::mllp::frame::encode(&message(""))).await.unwrap();
            let mut bytes = [0; 256];
            let read = timeout(SOON, sender.read(&mut bytes)).await.expect("an answer in time").unwrap();
            assert!(read > 0, "message {number}: closed (closes first: {closes_first})");
        }
        let counts = service.tally().counts();
        assert_eq!((counts.messages, counts.acks["AA"], counts.unknown_outcomes), (5, 5, 0));
        let turned_away = receiver.turned_away.load(Ordering::Relaxed);
        assert!(closes_first || turned_away == 0, "its own end says when the place is free: {turned_away}");
    }
}

#[tokio::test]
async fn case_24_stored_messages_and_a_stream_change_places_there_and_none_is_in_doubt() {
    for closes_first in [false, true] {
        let receiver = Narrow::open(closes_first).await;
        let service = receiver.service();
        let directory = tempfile::tempdir().unwrap();
        let (peer, forward) = (Name::new("north").unwrap(), ForwardId([7; 16]));
        let opened = Arc::clone(&service).open_station(directory.path().to_owned(), None, peer, forward).await;
        let mut station = opened.unwrap();
        let (mut sender, _serving) = sender(&service).await;
        for sequence in 1..=3 {
            let (epoch, digest, payload) = (Epoch([1; 16]), Digest([2; 32]), message("same"));
            station.messages.send(Taken { sequence, epoch, digest, in_doubt: false, payload }).await.ok().unwrap();
            let outcome = timeout(SOON, station.outcomes.recv()).await.expect("an end in time").unwrap();
            assert_eq!((outcome.sequence, outcome.attempts, outcome.in_doubt), (sequence, 1, 0));
            sender.write_all(&crate::mllp::frame::encode(&message("other"))).await.unwrap();
            let read = timeout(SOON, sender.read(&mut [0; 256])).await.expect("an answer in time").unwrap();
            assert!(read > 0, "message {sequence}: closed (closes first: {closes_first})");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_end_its_side_or_never_stops_is_called_anew_all_the_same() {
    for endless in [false, true] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let receiver =
            Narrow { at: listener.local_addr().unwrap(), turned_away: Arc::default(), _serving: JoinSet::new() };
        let service = receiver.service();
        let first = timeout(SOON, service.connect()).await.unwrap().unwrap();
        let (mut held, _) = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move {
            while endless && held.write_all(&[0; 4096]).await.is_ok() {}
            held
        });
        drop(first);
        let begun = Instant::now();
        let second = timeout(SOON, service.connect()).await.expect("a place in time");
        assert!(second.is_ok() && begun.elapsed() < LEAVE_WITHIN * 2);
        drop(writing);
    }
}
