//! The slots of probers: so many connections at once, and beyond loopback so many of one address.
//!
//! Opens and closes nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

/// Limits the connections of one address at once, a quarter of all: a stranger who holds so many leaves the probers theirs.
pub(super) const CONNECTIONS_EACH_MAX: usize = 16;

/// Counts connections by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Is a connection's place among all, and among those of its address.
#[derive(Debug)]
pub(super) struct Slot {
    _place: OwnedSemaphorePermit,
    shares: Shares,
    address: IpAddr,
}

impl Shares {
    /// Gives a place to a connection; none where its address has as many as it may. On this host all probers share one.
    pub(super) fn take(&self, place: OwnedSemaphorePermit, address: IpAddr) -> Option<Slot> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= CONNECTIONS_EACH_MAX && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Slot { _place: place, shares: self.clone(), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn an_address_has_its_share_and_this_host_all() {
        let (shares, all) = (Shares::default(), Arc::new(Semaphore::new(64)));
        let take = |address: &str| {
            let place = Arc::clone(&all).try_acquire_owned().unwrap();
            shares.take(place, address.parse().unwrap())
        };
        let mut held: Vec<_> = (0..CONNECTIONS_EACH_MAX).map(|_| take("192.0.2.1").unwrap()).collect();
        assert!(take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none());
        let other = take("192.0.2.2").unwrap();
        held.pop();
        held.push(take("192.0.2.1").unwrap());
        let here: Vec<_> = (0..=CONNECTIONS_EACH_MAX).map(|_| take("127.0.0.1").unwrap()).collect();
        drop((held, other, here));
        assert!(shares.0.lock().unwrap().is_empty());
        assert_eq!(all.available_permits(), 64);
    }
}
