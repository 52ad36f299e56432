//! Tests of listening and of changes, over loopback: a forward to an address on the interface `lo`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::config::{Delivery, Name, OnUnreachable, PublicKey, Target, Transparent};
use crate::link::owners::Owners;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn config(listen: SocketAddr, to: SocketAddr) -> config::Forward {
    config::Forward {
        name: Name::new("orders").unwrap(),
        listen,
        allow_from: Vec::new(),
        peer: Name::new("lab").unwrap(),
        target: Target::Address(to),
        message_bytes_max: 1 << 20,
        delivery: Delivery::Transparent(Transparent {
            on_unreachable: OnUnreachable::Hold,
            hold_for: Duration::from_secs(30),
        }),
        connections_max: 2.try_into().unwrap(),
        idle_timeout: None,
    }
}

fn forward(config: &config::Forward) -> Arc<Forward> {
    let Target::Address(to) = config.target else { panic!("an address") };
    let lab = |_| Some((PublicKey([7; 32]), Name::new("lab").unwrap()));
    let owners = Owners::new(lab, watch::channel(0).1);
    Forward::new(config.clone(), Way::Address(to), Inside::new("lo", vec![HERE], owners))
}

/// Listens at a free port.
fn bound(config: &mut config::Forward, leaving: Option<&TcpListener>) -> Arc<TcpListener> {
    let listener = listen(config, leaving).unwrap();
    config.listen = listener.local_addr().unwrap();
    Arc::new(listener)
}

/// Acknowledges each message, with this sign in MSA-3.
async fn receiver(answer: char) -> SocketAddr {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut bytes = [0; 256];
                while tcp.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                    let ack = format!("\x0bMSH|^~\\&|L|S|H|N|20260101||ACK|1|P|2.5\rMSA|AA|7|{answer}\r\x1c\r");
                    tcp.write_all(ack.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

/// Sends a message and returns the sign of its answer; none where the connection ends.
async fn exchange(sender: std::net::TcpStream) -> (std::net::TcpStream, Option<char>) {
    let exchange = move || {
        let mut sender = sender;
        let (mut answer, mut piece) = (Vec::new(), [0; 256]);
        let message = b"\x0bMSH|^~\\&|H|N|L|S|20260101||ORU^R01|7|P|2.5\r\x1c\r";
        sender.write_all(message).ok();
        while !answer.ends_with(b"\x1c\r") {
            match sender.read(&mut piece) {
                Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
                _ => return (sender, None),
            }
        }
        let sign = answer[answer.len() - 4].into();
        (sender, Some(sign))
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

async fn connect(to: SocketAddr) -> std::net::TcpStream {
    tokio::task::spawn_blocking(move || std::net::TcpStream::connect(to)).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_wildcard_and_one_of_its_addresses_take_turns_on_a_port() {
    let mut everywhere = config((Ipv4Addr::UNSPECIFIED, 0).into(), (HERE, 1).into());
    let old = bound(&mut everywhere, None);
    let mut here = config((HERE, everywhere.listen.port()).into(), (HERE, 1).into());
    listen(&here, None).expect_err("the port is taken");
    let new = bound(&mut here, Some(&old));
    drop(old);
    listen(&everywhere, None).expect_err("the new one has it");
    drop(new);
    listen(&here, None).expect("free again");
}

#[tokio::test]
async fn another_listener_leaves_the_connections_and_takes_the_new_ones() {
    let mut before = config((HERE, 0).into(), receiver('1').await);
    let listener = bound(&mut before, None);
    let forward = forward(&before);
    tokio::spawn(Arc::clone(&forward).serve(listener));
    let (old, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, Some('1'));
    let mut after = before.clone();
    after.listen.set_port(0);
    let listener = bound(&mut after, None);
    let queued = connect(before.listen).await; // perhaps not accepted yet
    tokio::spawn(Arc::clone(&forward).serve(listener));
    forward.change(after.clone());
    let (_old, answer) = exchange(old).await;
    assert_eq!(answer, Some('1'), "the open connection goes on");
    let (queued, answer) = exchange(queued).await;
    assert_eq!(answer, Some('1'), "nobody is reset who came before");
    drop(queued);
    while forward.open.load(Ordering::Relaxed) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_new, answer) = exchange(connect(after.listen).await).await;
    assert_eq!(answer, Some('1'));
    std::net::TcpStream::connect(before.listen).expect_err("it listens there no more");
}

#[tokio::test]
async fn another_way_is_for_new_connections_and_quiet_old_ones_end() {
    let mut before = config((HERE, 0).into(), receiver('1').await);
    let listener = bound(&mut before, None);
    let forward = forward(&before);
    tokio::spawn(Arc::clone(&forward).serve(listener));
    let (old, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, Some('1'));
    let to = receiver('2').await;
    forward.redirect(config::Forward { target: Target::Address(to), ..before.clone() }, Way::Address(to));
    let (_new, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, Some('2'));
    let ended = tokio::task::spawn_blocking(move || {
        let mut old = old;
        old.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        old.read(&mut [0; 8]).is_ok_and(|count| count == 0)
    });
    assert!(ended.await.unwrap(), "the old one was quiet and is closed");
}

#[tokio::test]
async fn new_limits_count_for_new_connections() {
    let mut before = config((HERE, 0).into(), receiver('1').await);
    let listener = bound(&mut before, None);
    let forward = forward(&before);
    tokio::spawn(Arc::clone(&forward).serve(listener));
    let (first, _) = exchange(connect(before.listen).await).await;
    let (_second, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, Some('1'));
    forward.change(config::Forward { connections_max: 1.try_into().unwrap(), ..before.clone() });
    let (first, answer) = exchange(first).await;
    assert_eq!(answer, Some('1'), "nobody is thrown out");
    let (_, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, None, "there are too many");
    let elsewhere = "192.0.2.0/24".parse().unwrap();
    forward.change(config::Forward { allow_from: vec![elsewhere], ..before.clone() });
    let (_, answer) = exchange(connect(before.listen).await).await;
    assert_eq!(answer, None, "from elsewhere only");
    let (_, answer) = exchange(first).await;
    assert_eq!(answer, Some('1'), "nobody is thrown out");
    let closed = forward.tally().counts().closed;
    assert_eq!((closed.get("too_many_connections"), closed.get("not_allowed")), (Some(&1), Some(&1)));
}

#[tokio::test]
async fn a_retired_forward_closes_its_port_and_ends() {
    let mut config = config((HERE, 0).into(), receiver('1').await);
    let listener = bound(&mut config, None);
    let forward = forward(&config);
    let served = tokio::spawn(Arc::clone(&forward).serve(listener));
    let (_sender, answer) = exchange(connect(config.listen).await).await;
    assert_eq!(answer, Some('1'));
    forward.retire();
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("the quiet connection ends").unwrap();
    std::net::TcpStream::connect(config.listen).expect_err("closed");
}
