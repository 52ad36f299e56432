//! Who is at an address inside the tunnel, and the end of a connection whose far address comes to belong to another peer.
//!
//! The tunnel vouches for it; a connection never asks the other side. None of its bytes may reach the new owner, so it is
//! cut off, not closed: what waits in the kernel is thrown away.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::{Name, PublicKey};

/// Finds the peer that an inner address belongs to now.
type Find = dyn Fn(IpAddr) -> Option<(PublicKey, Name)> + Send + Sync;

/// Knows whose the addresses inside the tunnel are.
#[derive(Clone)]
pub struct Owners {
    find: Arc<Find>,
    changed: watch::Receiver<u64>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owners")
    }
}

impl Owners {
    /// Asks `find`, and again whenever `changed` changes.
    pub fn new(
        find: impl Fn(IpAddr) -> Option<(PublicKey, Name)> + Send + Sync + 'static,
        changed: watch::Receiver<u64>,
    ) -> Self {
        Self { find: Arc::new(find), changed }
    }

    /// Finds the peer that an address belongs to now.
    pub fn of(&self, address: IpAddr) -> Option<(PublicKey, Name)> {
        (self.find)(address)
    }

    /// Tells whether an address belongs to a peer now.
    pub fn is_at(&self, peer: &Name, address: IpAddr) -> bool {
        self.of(address).is_some_and(|(_, owner)| owner == *peer)
    }

    /// Ties a connection to the peer that its far address belongs to; `None`: the address is not this peer's.
    pub fn tie(&self, tcp: &TcpStream, far: IpAddr, peer: &Name) -> Option<Tie> {
        let (key, _) = self.of(far).filter(|(_, owner)| owner == peer)?;
        let socket = SockRef::from(tcp).try_clone().ok()?;
        Some(Tie { owners: self.clone(), socket, far, key })
    }

    /// Waits until an address is not that of the peer with this key.
    async fn leaves(&self, address: IpAddr, key: PublicKey) {
        let mut changed = self.changed.clone();
        loop {
            changed.borrow_and_update();
            if self.of(address).is_none_or(|(owner, _)| owner != key) {
                return;
            }
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Ties a connection to a peer's key.
pub struct Tie {
    owners: Owners,
    socket: Socket,
    far: IpAddr,
    key: PublicKey,
}

impl Tie {
    /// Waits until the far address is another peer's, and cuts the connection off then: what is unsent is thrown away.
    pub async fn cut_off(self) {
        self.owners.leaves(self.far, self.key).await;
        self.socket.set_linger(Some(Duration::ZERO)).ok();
        self.socket.shutdown(std::net::Shutdown::Both).ok();
    }

    /// Does `work` over the connection for as long as its far address is the peer's; `None`: it is another's now, and the
    /// connection is cut off as soon as `work` and the caller have let go of it.
    pub async fn hold<T>(self, work: impl Future<Output = T>) -> Option<T> {
        // Dropped before `self`: the last to let go of the socket throws its bytes away.
        tokio::pin!(work);
        tokio::select! {
            biased;
            () = self.owners.leaves(self.far, self.key) => {
                self.socket.set_linger(Some(Duration::ZERO)).ok();
                None
            }
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn name(name: &str) -> Name {
        Name::new(name).unwrap()
    }

    type Owner = Arc<Mutex<Option<(PublicKey, Name)>>>;

    /// Makes owners that say who is told last.
    fn owners() -> (Owners, Owner, watch::Sender<u64>) {
        let owner = Arc::new(Mutex::new(Some((PublicKey([1; 32]), name("north")))));
        let (changes, changed) = watch::channel(0);
        let told = Arc::clone(&owner);
        (Owners::new(move |_| told.lock().unwrap().clone(), changed), owner, changes)
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn only_the_peer_at_the_address_can_be_tied_to() {
        let (owners, owner, _changes) = owners();
        let (near, _far) = pair().await;
        assert!(owners.is_at(&name("north"), HERE) && !owners.is_at(&name("south"), HERE));
        assert!(owners.tie(&near, HERE, &name("north")).is_some());
        assert!(owners.tie(&near, HERE, &name("south")).is_none());
        *owner.lock().unwrap() = None;
        assert!(owners.tie(&near, HERE, &name("north")).is_none());
    }

    #[tokio::test]
    async fn a_connection_is_cut_off_when_its_address_becomes_anothers() {
        let (owners, owner, changes) = owners();
        let (mut near, mut far) = pair().await;
        let tie = owners.tie(&near, HERE, &name("north")).unwrap();
        let held = tokio::spawn(tie.hold(async move {
            // more than the kernel takes: something waits there when the connection is cut off
            near.write_all(&vec![7; 64 << 20]).await
        }));
        far.read_exact(&mut [0; 1000]).await.unwrap();
        changes.send_modify(|count| *count += 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!held.is_finished(), "a change of others");
        *owner.lock().unwrap() = Some((PublicKey([2; 32]), name("north")));
        changes.send_modify(|count| *count += 1);
        assert!(held.await.unwrap().is_none());
        let mut rest = Vec::new();
        let error = far.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not closed in order");
    }

    #[tokio::test]
    async fn work_that_ends_ends_as_it_would() {
        let (owners, _owner, _changes) = owners();
        let (mut near, mut far) = pair().await;
        let tie = owners.tie(&near, HERE, &name("north")).unwrap();
        let done = tie.hold(async move { near.write_all(b"all").await.is_ok() }).await;
        assert_eq!(done, Some(true));
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"all");
    }
}
