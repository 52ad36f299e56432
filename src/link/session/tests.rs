//! Two sessions over loopback: connections that replace each other, arrivals, floods.

use super::*;
use crate::link::streams::Moved;
use tokio::net::TcpListener;

const HOLD: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(3);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

fn run(session: &Arc<Session>, tcp: TcpStream, resumed: bool) -> tokio::task::JoinHandle<Ended> {
    let session = Arc::clone(session);
    tokio::spawn(async move { session.run(tcp, BytesMut::new(), resumed).await })
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("soon")
}

async fn read(end: &StreamEnd, expected: &[u8]) {
    let mut got = Vec::new();
    soon(async {
        while got.len() < expected.len() {
            let mut part = [0; 1000];
            match end.try_read(&mut part) {
                Moved::Bytes(count) => got.extend_from_slice(&part[..count]),
                Moved::Blocked => end.readable().await,
                moved => panic!("{moved:?}"),
            }
        }
    })
    .await;
    assert_eq!(got, expected);
}

#[tokio::test]
async fn an_older_connection_that_ends_does_not_take_the_newer_one_down() {
    let (arrivals, mut arrived) = mpsc::channel(8);
    let (near, far) = (Session::near(HOLD), Session::far(HOLD, arrivals));
    let (near_old, far_old) = pair().await;
    let (near_run, far_run) = (run(&near, near_old, false), run(&far, far_old, false));
    let sender = near.open().unwrap();
    sender.try_write(b"order");
    let receiver = soon(arrived.recv()).await.unwrap();

    // The far side sees the new connection before it sees the end of the old one.
    let (near_new, far_new) = pair().await;
    let far_goes_on = run(&far, far_new, true);
    tokio::task::yield_now().await;
    near_run.abort();
    near_run.await.unwrap_err();
    near.disconnected(Cause::LinkDown);
    let near_goes_on = run(&near, near_new, true);
    assert!(matches!(soon(far_run).await.unwrap(), Ended::Replaced));

    receiver.accept();
    read(&receiver, b"order").await;
    receiver.try_write(b"answer");
    read(&sender, b"answer").await;
    soon(sender.opened()).await.unwrap();

    drop(sender);
    assert_eq!(soon(receiver.opened()).await, Ok(()), "it is open until the other end is heard");
    soon(async {
        while far.lock().streams.failure(1) != Some(Cause::SenderGone) {
            receiver.readable().await;
        }
    })
    .await;
    drop(receiver);
    for session in [&near, &far] {
        assert_eq!(session.count(), 0);
        assert!(session.lock().signals.is_empty(), "nothing is left of a stream");
    }
    near_goes_on.abort();
    far_goes_on.abort();
}

#[tokio::test]
async fn a_full_queue_of_arrivals_refuses_so_that_the_stream_is_held() {
    let (arrivals, mut arrived) = mpsc::channel(1);
    let (near, far) = (Session::near(HOLD), Session::far(HOLD, arrivals));
    let (near_tcp, far_tcp) = pair().await;
    let (near_run, far_run) = (run(&near, near_tcp, false), run(&far, far_tcp, false));
    let senders = [near.open().unwrap(), near.open().unwrap()];
    let clock = Arc::clone(&near);
    let clock = tokio::spawn(async move { clock.run_clock().await });
    soon(async {
        while !senders.iter().any(StreamEnd::is_held) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _first = soon(arrived.recv()).await.unwrap();
    let second = soon(arrived.recv()).await.expect("it is opened again");
    second.accept();
    near_run.abort();
    far_run.abort();
    clock.abort();
}

#[tokio::test]
async fn a_peer_that_floods_and_never_reads_is_cut_off() {
    let (arrivals, _arrived) = mpsc::channel(1);
    let far = Session::far(HOLD, arrivals);
    let (mut peer, far_tcp) = pair().await;
    let ended = run(&far, far_tcp, false);
    let mut flood = BytesMut::new();
    for token in 0..5_000 {
        crate::link::wire::encode(&Record::Ping(token), &mut flood);
    }
    let flooding = async { while peer.write_all(&flood).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), flooding).await.expect("it is cut off");
    let ended = soon(ended).await.unwrap();
    assert!(matches!(ended, Ended::Violation), "{ended}");
}

#[tokio::test]
async fn an_older_connection_that_breaks_while_it_is_blocked_is_no_cut_of_the_newer_one() {
    let (arrivals, mut arrived) = mpsc::channel(8);
    let far = Session::far(HOLD, arrivals);
    let (mut old_peer, far_old) = pair().await;
    socket2::SockRef::from(&far_old).set_send_buffer_size(4096).unwrap();
    socket2::SockRef::from(&old_peer).set_recv_buffer_size(4096).unwrap();
    let old = run(&far, far_old, false);
    let mut out = BytesMut::new();
    crate::link::wire::encode(&Record::Resume { last: true, opened_through: 0, streams: Vec::new() }, &mut out);
    for stream in 1..=8 {
        crate::link::wire::encode(&Record::Open(stream), &mut out);
    }
    old_peer.write_all(&out).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..8 {
        let stream = soon(arrived.recv()).await.unwrap();
        stream.accept();
        stream.try_write(&[1; 60_000]);
        kept.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(50)).await; // the peer reads nothing: the writer blocks
    let (_new_peer, far_new) = pair().await;
    let new = run(&far, far_new, true);
    tokio::task::yield_now().await;
    drop(old_peer);
    let ended = soon(old).await.unwrap();
    assert!(matches!(ended, Ended::Replaced), "{ended}");
    new.abort();
}
