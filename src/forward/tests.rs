//! Tests of listening and of changes, over loopback: a forward to an address on the interface `lo`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use super::stored::outlet::Outlet;
use super::*;
use crate::config::{Delivery, Name, OnUnreachable, PublicKey, Target, Transparent};
use crate::link::owners::Owners;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn config(listen: SocketAddr, to: SocketAddr) -> config::Forward {
    config::Forward {
        name: Name::new("orders").unwrap(),
        listen,
        tls: None,
        allow_from: Vec::new(),
        peer: Name::new("lab").unwrap(),
        target: Target::Address(to),
        message_bytes_max: 1 << 20,
        delivery: Delivery::Transparent(Transparent {
            on_unreachable: OnUnreachable::Hold,
            hold_for: Duration::from_secs(30),
        }),
        connections_max: 2.try_into().unwrap(),
        source_connections_max: 2.try_into().unwrap(),
        source_rate_max: 1000.try_into().unwrap(),
        frame_timeout: Duration::from_secs(30),
        idle_timeout: None,
        silent_after: None,
        dialect: crate::mllp::dialect::Dialect::RELEASE_1,
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

/// Makes a forward whose messages are kept in a real spool, at most so many.
fn storing(messages_max: u64, on_full: config::OnFull) -> config::Forward {
    let terms = config::Stored {
        on_full,
        queue_messages_max: messages_max,
        queue_bytes_max: 64 << 20,
        keep_delivered: Duration::ZERO,
        application_ack: config::ApplicationAck::Refuse,
        receiver: config::ReceiverPolicy::default(),
    };
    let listen = (HERE, 0).into();
    config::Forward {
        delivery: Delivery::Stored(terms),
        message_bytes_max: 8 << 20,
        ..config(listen, (HERE, 1).into())
    }
}

/// Serves it, with a spool in this directory; waits until that is open, or known not to open.
async fn serve_stored(config: &mut config::Forward, directory: &std::path::Path) -> (Arc<Forward>, Arc<Store>) {
    use crate::config::SpoolKeyFile;
    use crate::link::outbound::Route;
    use crate::link::wire::Instance;
    use crate::spool::store::{Destination, Limits};
    let Delivery::Stored(terms) = config.delivery else { panic!("stored") };
    let listener = bound(config, None);
    let lab = |_| Some((PublicKey([7; 32]), Name::new("lab").unwrap()));
    let inside = Inside::new("lo", vec![HERE], Owners::new(lab, watch::channel(0).1));
    let store = Store::new(stored::store::Place {
        name: config.name.to_string(),
        key: SpoolKeyFile::File(directory.join("key")),
        directory: directory.join("spool"),
        register: crate::spool::register::Register::new(directory),
        destination: Some(Destination { peer_key: [7; 32], target: "orders".into() }),
        moved_to: None,
        limits: Limits {
            messages_max: terms.queue_messages_max,
            bytes_max: terms.queue_bytes_max,
            keep_delivered: terms.keep_delivered,
        },
    });
    tokio::spawn(Arc::clone(&store).run());
    let route = Route {
        site: "north".into(),
        instance: Instance::new(1, 1),
        forward: config.name.to_string(),
        service: "orders".into(),
        peer: config.peer.clone(),
        address: (HERE, 1).into(),
    };
    let to = Destination { peer_key: [7; 32], target: "orders".into() };
    let link = Outbound::stored(route, inside.clone(), Outlet::new(Arc::clone(&store), to.clone()));
    let forward = Forward::new(config.clone(), Way::Stored(Arc::clone(&store), Onward::Link(link, to)), inside);
    tokio::spawn(Arc::clone(&forward).serve(listener));
    while matches!(store.opened(), stored::store::Opened::Not) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (forward, store)
}

/// Sends a message and returns MSA-1 of its answer; none where the connection ends.
async fn stored(to: SocketAddr, message: &'static [u8]) -> Option<String> {
    let exchange = move || {
        let mut sender = std::net::TcpStream::connect(to).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 256]);
        sender.write_all(message).unwrap();
        while !answer.ends_with(b"\x1c\r") {
            match sender.read(&mut piece) {
                Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
                _ => return None,
            }
        }
        let text = String::from_utf8(answer).unwrap();
        text.split('|').skip_while(|field| !field.ends_with("MSA")).nth(1).map(str::to_owned)
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

const ORIGINAL: &[u8] = b"\x0bMSH|^~\\&|H|N|L|S|20260101||ORU^R01|7|P|2.5\rPID|1\r\x1c\r";
const ENHANCED: &[u8] = b"\x0bMSH|^~\\&|H|N|L|S|20260101||ORU^R01|8|P|2.5|||AL|NE\r\x1c\r";

#[tokio::test]
async fn what_a_stored_forward_acknowledged_is_in_the_spool_that_is_opened_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = storing(10, config::OnFull::Close);
    let (_forward, _store) = serve_stored(&mut config, directory.path()).await;
    assert_eq!(stored(config.listen, ORIGINAL).await.as_deref(), Some("AA"));
    assert_eq!(stored(config.listen, ENHANCED).await.as_deref(), Some("CA"));
    // As after kill -9: nothing of the site that runs is closed, and its directory is looked at as it is on the disk.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(directory.path().join(".")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let (_other, store) = serve_stored(&mut storing(10, config::OnFull::Close), copy.path()).await;
    let kept = store.spool().unwrap().read(1, 10, 1 << 20).await.unwrap();
    let kept: Vec<Vec<u8>> = kept.into_iter().map(|message| message.payload).collect();
    assert_eq!(kept, [ORIGINAL, ENHANCED].map(|frame| frame[1..frame.len() - 2].to_vec()), "byte for byte, in order");
}

#[tokio::test]
async fn a_full_queue_closes_or_refuses_as_configured() {
    for (on_full, expected) in [(config::OnFull::Close, [None, None]), (config::OnFull::Nak, [Some("AR"), Some("CR")])]
    {
        let directory = tempfile::tempdir().unwrap();
        let mut config = storing(1, on_full);
        let (forward, store) = serve_stored(&mut config, directory.path()).await;
        assert_eq!(stored(config.listen, ORIGINAL).await.as_deref(), Some("AA"));
        let answers = [stored(config.listen, ORIGINAL).await, stored(config.listen, ENHANCED).await];
        assert_eq!(answers.each_ref().map(Option::as_deref), expected);
        assert_eq!(forward.tally().counts().refused.get("queue_full"), Some(&2));
        assert_eq!(store.spool().unwrap().tail().borrow().depth, 1);
    }
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_takes_nothing_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key"), "no key").unwrap();
    let mut config = storing(9, config::OnFull::Close);
    let (forward, store) = serve_stored(&mut config, directory.path()).await;
    assert!(matches!(store.opened(), stored::store::Opened::Failed(..)));
    assert_eq!(stored(config.listen, ORIGINAL).await, None);
    assert_eq!(forward.tally().counts().refused.get("spool_failed"), Some(&1));
}

#[tokio::test]
async fn a_large_message_keeps_its_place_before_a_small_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = storing(9, config::OnFull::Close);
    let (_forward, store) = serve_stored(&mut config, directory.path()).await;
    let large = [&ORIGINAL[..ORIGINAL.len() - 2], &vec![b'x'; 3 << 20], b"\r\x1c\r"].concat();
    let both: &'static [u8] = Box::leak([&large, ORIGINAL].concat().into_boxed_slice());
    assert_eq!(stored(config.listen, both).await.as_deref(), Some("AA"));
    while store.spool().unwrap().tail().borrow().depth < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let kept = store.spool().unwrap().list(1, None, 9).await.unwrap();
    assert_eq!(kept.iter().map(|one| one.bytes > 1 << 20).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test]
async fn one_source_leaves_places_to_the_others_and_its_burst_waits() {
    let mut config = config((HERE, 0).into(), receiver('1').await);
    config.connections_max = 9.try_into().unwrap();
    let listener = bound(&mut config, None);
    let forward = forward(&config);
    tokio::spawn(Arc::clone(&forward).serve(listener));
    let (_one, _two) = (exchange(connect(config.listen).await).await, exchange(connect(config.listen).await).await);
    let (_third, answer) = exchange(connect(config.listen).await).await;
    assert_eq!((answer, forward.tally.counts().closed.get("too_many_from_source")), (None, Some(&1)));
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let other = other.connect(config.listen).await.unwrap().into_std().unwrap();
    other.set_nonblocking(false).unwrap();
    assert_eq!(exchange(other).await.1, Some('1'), "another source is served");
    config.source_rate_max = 1.try_into().unwrap();
    config.source_connections_max = 9.try_into().unwrap();
    forward.change(config.clone());
    let begun = Instant::now();
    assert_eq!(exchange(connect(config.listen).await).await.1, Some('1'));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
