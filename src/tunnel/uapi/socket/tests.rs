//! The file of the socket: made, replaced where it is stale, left alone where somebody listens.

use std::os::unix::net::UnixListener as StdListener;

use super::*;

async fn reaches(path: &Path, listener: &Listener) -> bool {
    let (there, here) = tokio::join!(UnixStream::connect(path), listener.accept());
    there.is_ok() && here.is_ok()
}

#[tokio::test]
async fn a_missing_directory_is_made_for_the_owner_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("wireguard/wl0.sock");
    let listener = Listener::bind(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    assert!(reaches(&path, &listener).await);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing but the socket");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("wl0.sock");
    let other = StdListener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path), Err(SocketError::InUse)));
    drop(other);
    let listener = Listener::bind(&path).unwrap();
    assert!(reaches(&path, &listener).await);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("wl0.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path), Err(SocketError::NotASocket)));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(matches!(Listener::bind(Path::new("/proc/nowhere/wl0.sock")), Err(SocketError::Directory { .. })));
}

#[tokio::test]
async fn a_socket_that_took_our_place_is_not_removed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("wl0.sock");
    let listener = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}
