//! The far end over loopback: who may keep a link, and what becomes of its streams.

use std::net::{IpAddr, Ipv4Addr};

use tokio::net::TcpSocket;

use super::door::GREETING_OF_PEER_MAX;
use super::kept::LINKS_OF_PEER_MAX;
use super::*;

const PEER: PublicKey = PublicKey([7; 32]);
/// Is where the connections of another peer come from.
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn gate() -> (Gate, mpsc::Receiver<Arrival>) {
    let (arrivals, arrived) = mpsc::channel(8);
    let name = |name: &str| Name::new(name).unwrap();
    let gate = Gate {
        owners: Owners::new(
            move |from| match from {
                ip if ip == NEIGHBOUR => Some((PublicKey([8; 32]), name("south"))),
                _ => Some((PEER, name("north"))),
            },
            watch::channel(0).1,
        ),
        service: Box::new(move |service, _| Ok(name(service))),
        receiver: Box::new(|_| None),
        stations: None,
        keys: None,
        arrivals,
        site: "lab".to_owned(),
        instance: Instance([1; 16]),
    };
    (gate, arrived)
}

async fn listen() -> (Arc<Inbound>, SocketAddr, mpsc::Receiver<Arrival>, JoinSet<()>) {
    let (gate, arrived) = gate();
    let inbound = Inbound::new(gate);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&inbound).run(listener));
    (inbound, address, arrived, tasks)
}

/// Says hello as a start of the near site and returns what the far one answers.
async fn greet(address: SocketAddr, start: u8, forward: &str) -> (TcpStream, Result<bool, Cause>) {
    greet_on(TcpStream::connect(address).await.unwrap(), start, forward).await
}

async fn greet_on(mut tcp: TcpStream, start: u8, forward: &str) -> (TcpStream, Result<bool, Cause>) {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        capabilities: 0,
        instance: Instance([start; 16]),
        linger_ms: 0,
        site: "north".to_owned(),
        forward: forward.to_owned(),
        service: "lab-orders".to_owned(),
    };
    let mut out = BytesMut::new();
    encode(&Record::Hello(hello), &mut out);
    tcp.write_all(&out).await.unwrap();
    let mut buffer = BytesMut::new();
    loop {
        match decode(&buffer).unwrap() {
            Some((Record::Welcome(welcome), _)) => return (tcp, Ok(welcome.resumed)),
            Some((Record::Refuse(cause), _)) => return (tcp, Err(cause)),
            Some(_) => panic!("no greeting"),
            None => assert_ne!(tcp.read_buf(&mut buffer).await.unwrap(), 0),
        }
    }
}

async fn open_stream(tcp: &mut TcpStream) {
    let mut out = BytesMut::new();
    encode(&Record::Resume { last: true, opened_through: 0, streams: Vec::new() }, &mut out);
    encode(&Record::Open(1), &mut out);
    tcp.write_all(&out).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_site_that_never_comes_back_end_with_their_link() {
    let (inbound, address, mut arrived, _tasks) = listen().await;
    let (mut tcp, _) = greet(address, 1, "orders").await;
    open_stream(&mut tcp).await;
    let arrival = arrived.recv().await.unwrap();
    drop(tcp);
    let failed = tokio::time::timeout(LINGER_MORE * 2, arrival.stream.opened()).await;
    assert_eq!(failed, Ok(Err(Cause::LinkDown)));
    drop(arrival);
    tokio::time::sleep(LINGER_MORE).await;
    assert!(inbound.lock().is_empty(), "nothing is kept of it");
}

#[tokio::test]
async fn a_restarted_site_ends_what_its_old_start_left() {
    let (_inbound, address, mut arrived, _tasks) = listen().await;
    let (mut old, resumed) = greet(address, 1, "orders").await;
    assert_eq!(resumed, Ok(false));
    open_stream(&mut old).await;
    let arrival = arrived.recv().await.unwrap();
    let serve = async move { arrival.stream.opened().await }; // fails and is dropped, as a service does
    let (failed, (_new, resumed)) = tokio::join!(serve, greet(address, 2, "orders"));
    assert_eq!((failed, resumed), (Err(Cause::Lost), Ok(false)));
}

#[tokio::test]
async fn the_same_start_comes_back_for_its_streams() {
    let (_inbound, address, mut arrived, _tasks) = listen().await;
    let (mut old, _) = greet(address, 1, "orders").await;
    open_stream(&mut old).await;
    let arrival = arrived.recv().await.unwrap();
    let (_new, resumed) = greet(address, 1, "orders").await;
    assert_eq!(resumed, Ok(true));
    drop(old);
    let failed = tokio::time::timeout(Duration::from_millis(100), arrival.stream.opened()).await;
    assert!(failed.is_err(), "the stream waits on");
}

#[tokio::test]
async fn no_peer_keeps_more_links_than_its_share_and_a_kept_one_comes_back() {
    let (_inbound, address, _arrived, _tasks) = listen().await;
    let mut kept = Vec::new();
    for number in 0..LINKS_OF_PEER_MAX {
        let (tcp, greeted) = greet(address, 1, &format!("forward-{number}")).await;
        assert_eq!(greeted, Ok(false));
        kept.push(tcp);
    }
    assert_eq!(greet(address, 1, "one-more").await.1, Err(Cause::TooManyStreams));
    assert_eq!(greet(address, 1, "forward-0").await.1, Ok(true));
}

#[tokio::test]
async fn two_greetings_of_a_restarted_site_at_once_share_one_link() {
    let (inbound, address, mut arrived, _tasks) = listen().await;
    let (mut old, _) = greet(address, 1, "orders").await;
    open_stream(&mut old).await;
    let arrival = arrived.recv().await.unwrap();
    let serve = async move {
        arrival.stream.opened().await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await; // a receiver's connection takes its time to close
    };
    let ((), first, second) = tokio::join!(serve, greet(address, 2, "orders"), greet(address, 2, "orders"));
    let mut resumed = [first.1.unwrap(), second.1.unwrap()];
    resumed.sort_unstable();
    assert_eq!(resumed, [false, true], "the second one finds what the first one made");
    assert_eq!(inbound.lock().len(), 1);
}

#[tokio::test]
async fn a_peer_that_never_greets_takes_no_other_peers_place() {
    let (_inbound, address, _arrived, _tasks) = listen().await;
    let mut silent = Vec::new();
    for _ in 0..GREETING_OF_PEER_MAX * 2 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let neighbour = TcpSocket::new_v4().unwrap();
    neighbour.bind(SocketAddr::new(NEIGHBOUR, 0)).unwrap();
    let tcp = neighbour.connect(address).await.unwrap();
    assert_eq!(greet_on(tcp, 1, "orders").await.1, Ok(false));
}
