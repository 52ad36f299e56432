//! Names the destinations of queued messages, as people read and as commands take them. Pure.
//!
//! It decides nothing. A destination is a peer's key and a service or address there; the key stays a name where the
//! configuration knows no peer by it any more.

use crate::config::PublicKey;
use crate::spool::store::Destination;

/// Knows the peers of the configuration, and where its stored forwards lead.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    /// Names peers by their keys.
    pub peers: Vec<([u8; 32], String)>,
    /// Says where each stored forward leads.
    pub forwards: Vec<(String, Destination)>,
}

impl Destinations {
    fn peer(&self, destination: &Destination) -> Option<&str> {
        self.peers.iter().find(|(key, _)| *key == destination.peer_key).map(|(_, name)| name.as_str())
    }

    /// Names a destination for people, such as `orders at city-lab`.
    pub fn told(&self, destination: &Destination) -> String {
        match self.peer(destination) {
            Some(peer) => format!("{} at {peer}", destination.target),
            None => format!("{} at the peer with key {}", destination.target, PublicKey(destination.peer_key)),
        }
    }

    /// Names a destination for a command, such as `orders@city-lab`.
    pub fn written(&self, destination: &Destination) -> String {
        let key = || PublicKey(destination.peer_key).to_string();
        format!("{}@{}", destination.target, self.peer(destination).map_or_else(key, str::to_owned))
    }

    /// Finds a stored forward that leads there.
    pub fn forward_to(&self, destination: &Destination) -> Option<&str> {
        self.forwards.iter().find(|(_, to)| to == destination).map(|(name, _)| name.as_str())
    }

    /// Lists destinations with the messages that wait or are parked for each.
    pub fn listed(&self, held: &[(Destination, u64)]) -> String {
        let one = |(to, count): &(Destination, u64)| format!("{} ({count})", self.written(to));
        held.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Finds the destination that is meant among those there are: by its whole name, or by the service or address where
    /// only one has it.
    ///
    /// # Errors
    /// None is, or several are: says which there are.
    pub fn find(&self, name: &str, held: &[(Destination, u64)]) -> Result<Destination, String> {
        let whole = held.iter().find(|(to, _)| self.written(to) == name);
        let mut by_target = held.iter().filter(|(to, _)| to.target == name);
        match (whole, by_target.next(), by_target.next()) {
            (Some((to, _)), ..) | (None, Some((to, _)), None) => Ok(to.clone()),
            (None, Some(_), Some(_)) => Err(format!("{name} is at several peers: write one of {}", self.listed(held))),
            (None, None, _) if held.is_empty() => {
                Err("nothing waits and nothing is parked: there is nothing to move".to_owned())
            }
            (None, None, _) => {
                Err(format!("nothing was accepted for {name}; what waits or is parked is for {}", self.listed(held)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(peer: u8, target: &str) -> Destination {
        Destination { peer_key: [peer; 32], target: target.into() }
    }

    #[test]
    fn a_destination_is_found_by_any_name_that_only_one_has() {
        let known =
            Destinations { peers: vec![([1; 32], "lab".into())], forwards: vec![("f".into(), to(1, "orders"))] };
        let held = [(to(1, "orders"), 2), (to(2, "orders"), 3), (to(1, "images"), 1)];
        assert_eq!(known.find("images", &held), Ok(to(1, "images")));
        assert_eq!(known.find("orders@lab", &held), Ok(to(1, "orders")));
        let gone = known.written(&to(2, "orders"));
        assert!(gone.starts_with("orders@") && known.find(&gone, &held) == Ok(to(2, "orders")), "{gone}");
        let why = known.find("orders", &held).unwrap_err();
        assert!(why.starts_with("orders is at several peers: write one of orders@lab (2), orders@"), "{why}");
        let why = known.find("lost", &held).unwrap_err();
        assert!(why.ends_with("images@lab (1)"), "{why}");
        assert_eq!((known.forward_to(&to(1, "orders")), known.forward_to(&to(2, "orders"))), (Some("f"), None));
        assert_eq!(known.told(&to(1, "orders")), "orders at lab");
    }
}
