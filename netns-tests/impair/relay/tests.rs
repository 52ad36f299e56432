//! Real datagrams over loopback: what arrives, when, and from where.

use super::*;

const LIMIT: Duration = Duration::from_secs(2);

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(any()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Starts a relay to a new socket; returns it, where it listens, and that socket.
fn start(words: &str, change: impl FnOnce(&mut Route)) -> (Relay, SocketAddr, UdpSocket) {
    let server = socket();
    // a port that was free a moment ago
    let listen = socket().local_addr().unwrap();
    let mut route = Route::new(listen, server.local_addr().unwrap());
    change(&mut route);
    (Relay::start(route, Ways::parse(words).unwrap(), 1).unwrap(), listen, server)
}

fn receive_one(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (bytes, from) = socket.recv_from(&mut buffer).expect("a datagram comes");
    (buffer[..bytes].to_vec(), from)
}

#[test]
fn datagrams_pass_there_and_back_for_each_client() {
    let (_relay, listen, server) = start("", |_| {});
    let clients = [socket(), socket()];
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&[number as u8; 3], listen).unwrap();
    }
    let mut seen = [receive_one(&server), receive_one(&server)];
    seen.sort();
    assert_ne!(seen[0].1, seen[1].1, "each client has a socket of its own");
    for (number, (bytes, from)) in seen.iter().enumerate() {
        assert_eq!(*bytes, [number as u8; 3]);
        server.send_to(&[bytes[0] + 10], *from).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(receive_one(client), (vec![number as u8 + 10], listen));
    }
}

#[test]
fn a_delay_is_kept_to_within_a_millisecond() {
    let (_relay, listen, server) = start("there:delay=20ms back:delay=5ms", |_| {});
    let client = socket();
    let mut late = Vec::new();
    for _ in 0..20 {
        let sent = Instant::now();
        client.send_to(b"x", listen).unwrap();
        let (_, from) = receive_one(&server);
        server.send_to(b"y", from).unwrap();
        receive_one(&client);
        late.push(sent.elapsed().checked_sub(Duration::from_millis(25)).expect("never early"));
    }
    late.sort();
    // the median: any single one may wait for a processor
    assert!(late[late.len() / 2] < Duration::from_millis(1), "{late:?}");
}

#[test]
fn many_datagrams_arrive_in_order_and_unchanged() {
    let (relay, listen, server) = start("delay=2ms", |_| {});
    let client = socket();
    for number in 0..2000_u32 {
        client.send_to(&number.to_be_bytes().repeat(300), listen).unwrap();
        if number % 50 == 49 {
            for expected in number - 49..=number {
                assert_eq!(receive_one(&server).0, expected.to_be_bytes().repeat(300));
            }
        }
    }
    assert_eq!(relay.counts()[0].packets, 2000);
}

#[test]
fn a_copy_arrives_and_one_bit_is_flipped() {
    let (relay, listen, server) = start("duplicate=100% corrupt=100%", |_| {});
    socket().send_to(&[0; 100], listen).unwrap();
    let (first, second) = (receive_one(&server).0, receive_one(&server).0);
    assert_eq!(first, second);
    assert_eq!(first.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    let [there, back] = relay.counts();
    assert_eq!((there.duplicated, there.corrupted, back.packets), (1, 1, 0));
}

#[test]
fn what_is_set_while_it_runs_holds() {
    let (relay, listen, server) = start("loss=100%", |_| {});
    let client = socket();
    client.send_to(b"lost", listen).unwrap();
    while relay.counts()[0].lost < 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    relay.set(Ways::parse("").unwrap());
    client.send_to(b"arrives", listen).unwrap();
    assert_eq!(receive_one(&server).0, b"arrives");
}

#[test]
fn a_known_client_can_be_spoken_to_first() {
    let (client, from) = (socket(), socket().local_addr().unwrap());
    let known = client.local_addr().unwrap();
    let (_relay, listen, server) = start("", |route| {
        route.client = Some(known);
        route.from = Some(from);
    });
    server.send_to(b"hello", from).unwrap();
    assert_eq!(receive_one(&client), (b"hello".to_vec(), listen));
    socket().send_to(b"stranger", from).unwrap();
    client.send_to(b"mine", listen).unwrap();
    assert_eq!(receive_one(&server), (b"mine".to_vec(), from));
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.recv(&mut [0; 16]).is_err(), "what others send there does not pass");
}

#[test]
fn a_silent_client_is_forgotten() {
    let (_relay, listen, server) = start("", |route| route.forget_after = Some(Duration::from_millis(50)));
    let client = socket();
    client.send_to(b"1", listen).unwrap();
    let (_, from) = receive_one(&server);
    std::thread::sleep(Duration::from_millis(80));
    server.send_to(b"late", from).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.recv(&mut [0; 16]).is_err(), "nobody is behind that address any more");
    client.send_to(b"2", listen).unwrap();
    assert_ne!(receive_one(&server).1, from, "a new socket");
}
