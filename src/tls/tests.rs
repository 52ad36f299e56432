//! Both sides against each other over loopback, and what files may hold.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Authority, listener, receiver};
use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn meet(listener: &Listener, receiver: &Receiver) -> (Result<Socket, Failure>, Result<Socket, Failure>) {
    let (near, far) = pair().await;
    tokio::join!(Socket::accept(far, listener), Socket::connect(near, receiver))
}

async fn connected() -> (Socket, Socket) {
    let authority = Authority::new("hospital");
    let (server, client) = meet(&listener(&authority, None), &receiver(&authority, None)).await;
    (server.unwrap(), client.unwrap())
}

async fn write_all(to: &Socket, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => to.writable().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn read_all(from: &Socket) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1000]);
    loop {
        match from.try_read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => from.readable().await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn failures(met: (Result<Socket, Failure>, Result<Socket, Failure>)) -> (Option<Failure>, Option<Failure>) {
    (met.0.err(), met.1.err())
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    let (server, client) = connected().await;
    let there: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let back = b"the answer comes after the question has ended".repeat(5000);
    let ask = async {
        write_all(&client, &there).await;
        client.finish().await;
        read_all(&client).await
    };
    let answer = async {
        let got = read_all(&server).await;
        write_all(&server, &back).await;
        server.finish().await;
        got
    };
    let (answered, asked) = tokio::join!(ask, answer);
    assert!(asked == there && answered == back);
}

#[tokio::test]
async fn what_was_read_ahead_is_readable_at_once() {
    let (server, client) = connected().await;
    write_all(&client, &[7; 5000]).await;
    let mut one = [0; 1];
    while server.try_read(&mut one).is_err() {
        server.readable().await;
    }
    tokio::time::timeout(Duration::from_millis(200), server.readable()).await.expect("4999 bytes wait");
}

#[tokio::test]
async fn a_session_that_sent_nothing_is_not_readable() {
    let (server, _client) = connected().await;
    assert!(tokio::time::timeout(Duration::from_millis(50), server.readable()).await.is_err());
}

#[tokio::test]
async fn the_end_of_tcp_alone_is_an_end_behind_what_came() {
    let (server, client) = connected().await;
    write_all(&client, b"last").await;
    socket2::SockRef::from(client.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&server).await, b"last");
    write_all(&server, b"answer").await;
    server.finish().await;
    assert_eq!(read_all(&client).await, b"answer");
}

#[tokio::test]
async fn a_dropped_socket_says_goodbye() {
    let (server, client) = connected().await;
    write_all(&server, b"last").await;
    drop(server);
    assert_eq!(read_all(&client).await, b"last");
}

#[tokio::test]
async fn a_receiver_of_another_issuer_name_or_time_is_not_spoken_to() {
    let (authority, other) = (Authority::new("hospital"), Authority::new("stranger"));
    let ours = receiver(&authority, None);
    let wrong_name = Listener::new(authority.issue("pharmacy.example", 9).identity(), None).unwrap();
    let expired = Listener::new(authority.issue("localhost", -1).identity(), None).unwrap();
    assert_eq!(meet(&listener(&other, None), &ours).await.1.err(), Some(Failure::NotTrusted));
    assert_eq!(meet(&wrong_name, &ours).await.1.err(), Some(Failure::WrongName));
    assert_eq!(meet(&expired, &ours).await.1.err(), Some(Failure::Expired));
    let told = meet(&listener(&other, None), &ours).await.0.err();
    assert_eq!(told, Some(Failure::CertificateRefused));
}

#[tokio::test]
async fn only_senders_with_a_certificate_of_the_named_issuer_are_let_in_and_both_sides_know_why() {
    let (authority, other) = (Authority::new("hospital"), Authority::new("stranger"));
    let strict = listener(&authority, Some(&authority));
    let ours = authority.issue("sender.example", 9);
    assert_eq!(failures(meet(&strict, &receiver(&authority, Some(&ours))).await), (None, None));
    let nobody = failures(meet(&strict, &receiver(&authority, None)).await);
    assert_eq!(nobody, (Some(Failure::CertificateRequired), Some(Failure::CertificateRequired)));
    let stranger = other.issue("sender.example", 9);
    let strangers = failures(meet(&strict, &receiver(&authority, Some(&stranger))).await);
    assert_eq!(strangers, (Some(Failure::NotTrusted), Some(Failure::CertificateRefused)));
    let late = authority.issue("sender.example", -1);
    let expired = failures(meet(&strict, &receiver(&authority, Some(&late))).await);
    assert_eq!(expired, (Some(Failure::Expired), Some(Failure::CertificateRefused)));
}

#[tokio::test]
async fn a_certificate_that_is_listed_itself_is_trusted_while_it_is_current_and_for_the_name() {
    let listing =
        |issued: &super::fixture::Issued| ("listed.pem".into(), Anchors::new(issued.certificate.as_bytes()).unwrap());
    let sender = Authority::own("sender.example", 9);
    let late = Authority::own("sender.example", -1);
    for (name, days, expected) in
        [("localhost", 9, None), ("localhost", -1, Some(Failure::Expired)), ("a.example", 9, Some(Failure::WrongName))]
    {
        let own = Authority::own(name, days);
        let listener = Listener::new(own.identity(), Some(listing(&sender))).unwrap();
        let receiver = Receiver::new(listing(&own), "localhost", Some(sender.identity())).unwrap();
        assert_eq!(meet(&listener, &receiver).await.1.err(), expected, "{name} {days}");
    }
    let own = Authority::own("localhost", 9);
    let stranger = Receiver::new(listing(&sender), "localhost", None).unwrap();
    assert_eq!(meet(&Listener::new(own.identity(), None).unwrap(), &stranger).await.1.err(), Some(Failure::NotTrusted));
    let met = |listed: &super::fixture::Issued, shown: &super::fixture::Issued| {
        let listener = Listener::new(own.identity(), Some(listing(listed))).unwrap();
        (listener, Receiver::new(listing(&own), "localhost", Some(shown.identity())).unwrap())
    };
    let (listener, receiver) = met(&late, &late);
    assert_eq!(meet(&listener, &receiver).await.0.err(), Some(Failure::Expired));
    let (listener, receiver) = met(&sender, &Authority::own("sender.example", 9));
    assert_eq!(meet(&listener, &receiver).await.0.err(), Some(Failure::NotTrusted));
}

#[tokio::test]
async fn who_does_not_speak_tls_is_known_at_the_first_byte() {
    let authority = Authority::new("hospital");
    let (near, far) = pair().await;
    near.try_write(b"\x0bMSH|^~\\&|").unwrap();
    assert_eq!(Socket::accept(far, &listener(&authority, None)).await.err(), Some(Failure::NotTls));
    let (near, far) = pair().await;
    drop(near);
    assert_eq!(Socket::accept(far, &listener(&authority, None)).await.err(), Some(Failure::Gone));
    let (near, far) = pair().await;
    far.try_write(b"\x0bMSH|^~\\&|").unwrap();
    assert_eq!(Socket::connect(near, &receiver(&authority, None)).await.err(), Some(Failure::NotTls));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_go_on_ends() {
    let authority = Authority::new("hospital");
    let (_near, far) = pair().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(Socket::accept(far, &listener(&authority, None)).await.err(), Some(Failure::TimedOut));
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
}

#[test]
fn files_say_what_is_wrong_with_them() {
    let authority = Authority::new("hospital");
    let (ours, others) = (authority.issue("a.example", 9), authority.issue("b.example", 9));
    let chain = || Identity::certificates(ours.certificate.as_bytes()).unwrap();
    let with = |key: &str| Identity::new(chain(), key.as_bytes()).err();
    assert_eq!(with(&ours.key), None);
    assert_eq!(with(&others.key), Some(Problem::OtherKey));
    assert_eq!(with("nothing"), Some(Problem::NoKey));
    assert_eq!(with(&ours.certificate), Some(Problem::NoKey));
    let encrypted = ours.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert_eq!(with(&encrypted), Some(Problem::EncryptedKey));
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
                  -----END RSA PRIVATE KEY-----\n";
    assert_eq!(with(legacy), Some(Problem::EncryptedKey));
    let unknown = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(with(unknown), Some(Problem::UnknownKey));
    let certificates = |text: &str| Identity::certificates(text.as_bytes()).map(|found| found.len());
    assert_eq!(certificates(&ours.key), Err(Problem::NoCertificate));
    assert_eq!(certificates(&format!("{}{}", ours.certificate, authority.pem())), Ok(2));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(Anchors::new(broken.as_bytes()).err(), Some(Problem::BadCertificate(1)));
    assert!(Receiver::new(authority.anchors(), "not a name", None).is_err());
}

#[test]
fn the_end_of_a_certificate_is_known_and_told_ahead() {
    let authority = Authority::new("hospital");
    let now = SystemTime::now();
    let certificate = |days| {
        let listener = Listener::new(authority.issue("a.example", days).identity(), None).unwrap();
        listener.certificates()[0].clone()
    };
    let day = Duration::from_secs(24 * 3600);
    let soon = certificate(29);
    let left = soon.expires.duration_since(now).unwrap();
    assert!(left > 28 * day && left <= 29 * day, "{left:?}");
    assert!(soon.expires_soon(now).is_some() && !soon.is_expired(now));
    assert!(certificate(31).expires_soon(now).is_none());
    assert!(certificate(-1).is_expired(now));
    let issuers = Listener::new(authority.issue("a.example", 9).identity(), Some(authority.anchors())).unwrap();
    assert_eq!(issuers.certificates()[1].role, Role::Issuer);
}

#[test]
fn sides_are_equal_where_their_files_are() {
    let authority = Authority::new("hospital");
    let issued = authority.issue("localhost", 9);
    let of = |issued: &super::fixture::Issued| Listener::new(issued.identity(), None).unwrap();
    assert_eq!(of(&issued), of(&issued));
    assert_ne!(of(&issued), of(&authority.issue("localhost", 9)));
    assert_ne!(of(&issued), Listener::new(issued.identity(), Some(authority.anchors())).unwrap());
    let named = |name| Receiver::new(authority.anchors(), name, None).unwrap();
    assert_eq!(named("a.example"), named("a.example"));
    assert_ne!(named("a.example"), named("b.example"));
    assert!(!format!("{:?}", of(&issued)).contains("PRIVATE"));
    let _: Arc<Listener> = of(&issued);
}
