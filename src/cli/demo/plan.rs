//! Who sends which message over which connection, and whether what arrived is that. Pure.

use super::messages::Message;

/// Counts the persistent connections of each direction; both together are as many as a mid-size interface engine holds.
const PERSISTENT_CONNECTIONS: usize = 2;

/// Gives one message in so many a connection of its own.
const OWN_CONNECTION_EVERY: usize = 10;

/// Is the work of one sender: its messages by their number, in order, each after the answer to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    /// All over one connection.
    OneConnection(Vec<usize>),
    /// Each over a connection of its own.
    ConnectionEach(Vec<usize>),
}

impl Flow {
    /// Lists the messages of each of its connections.
    pub(super) fn connections(&self) -> Vec<Vec<usize>> {
        match self {
            Self::OneConnection(messages) => vec![messages.clone()],
            Self::ConnectionEach(messages) => messages.iter().map(|message| vec![*message]).collect(),
        }
    }
}

/// Shares the messages of one direction among its senders.
pub(super) fn flows(messages: &[Message], from_hospital: bool) -> Vec<Flow> {
    let mut own = Vec::new();
    let mut persistent = vec![Vec::new(); PERSISTENT_CONNECTIONS];
    let of_direction =
        messages.iter().enumerate().filter(|(_, message)| message.kind.is_from_hospital() == from_hospital);
    for (position, (number, _)) in of_direction.enumerate() {
        if position % OWN_CONNECTION_EVERY == OWN_CONNECTION_EVERY - 1 {
            own.push(number);
        } else if let Some(connection) = persistent.get_mut(position % PERSISTENT_CONNECTIONS) {
            connection.push(number);
        }
    }
    let persistent = persistent.into_iter().filter(|messages| !messages.is_empty()).map(Flow::OneConnection);
    let own = Some(own).filter(|messages| !messages.is_empty()).map(Flow::ConnectionEach);
    persistent.chain(own).collect()
}

/// Holds what a receiver got.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    /// Lists, for each connection, the messages that came over it, byte for byte as they were sent.
    pub(super) connections: Vec<Vec<usize>>,
    /// Counts the frames that are no message of the demo: altered, cut or made up.
    pub(super) strangers: usize,
}

/// Says what is wrong with what arrived: nothing, where each message came once, unaltered, in its connection's order.
pub(super) fn complaints(flows: &[Flow], ledger: &Ledger) -> Vec<String> {
    let mut expected: Vec<Vec<usize>> = flows.iter().flat_map(Flow::connections).collect();
    let mut arrived: Vec<Vec<usize>> = ledger.connections.iter().filter(|list| !list.is_empty()).cloned().collect();
    let count = |lists: &[Vec<usize>]| {
        let mut all = lists.concat();
        let total = all.len();
        all.sort_unstable();
        all.dedup();
        (total, all.len())
    };
    let (sent, _) = count(&expected);
    let (received, distinct) = count(&arrived);
    expected.sort_unstable();
    arrived.sort_unstable();
    let mut complaints = Vec::new();
    if ledger.strangers > 0 {
        complaints.push(format!("{} messages arrived altered", ledger.strangers));
    }
    if received > distinct {
        complaints.push(format!("{} messages arrived more than once", received - distinct));
    }
    if sent > distinct {
        complaints.push(format!("{} of {sent} messages did not arrive", sent - distinct));
    }
    if complaints.is_empty() && expected != arrived {
        complaints.push("messages arrived out of their order, or over another connection".to_owned());
    }
    complaints
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::messages;
    use super::*;

    #[test]
    fn every_message_has_one_sender() {
        let messages = messages::generate(100);
        let all = [flows(&messages, true), flows(&messages, false)].concat();
        let numbers: Vec<usize> = all.iter().flat_map(Flow::connections).flatten().collect();
        assert_eq!(numbers.len(), 100);
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 100);
        assert!(all.iter().any(|flow| matches!(flow, Flow::ConnectionEach(list) if list.len() > 2)));
        assert_eq!([flows(&messages[..1], true), flows(&messages[..1], false)].concat().len(), 1);
    }

    fn complaint(connections: &[&[usize]], strangers: usize) -> String {
        let flows = [Flow::OneConnection(vec![1, 2, 3]), Flow::ConnectionEach(vec![4, 5])];
        let connections = connections.iter().map(|list| list.to_vec()).collect();
        complaints(&flows, &Ledger { connections, strangers }).join("; ")
    }

    #[test]
    fn what_arrives_is_compared_with_what_was_sent() {
        assert_eq!(complaint(&[&[4], &[1, 2, 3], &[], &[5]], 0), "");
        assert!(complaint(&[&[4], &[1, 2, 3]], 0).contains("1 of 5 messages did not arrive"));
        assert!(complaint(&[&[4], &[1, 2, 2, 3], &[5]], 0).contains("1 messages arrived more than once"));
        assert!(complaint(&[&[4], &[1, 3, 2], &[5]], 0).contains("out of their order"));
        assert!(complaint(&[&[4, 5], &[1, 2, 3]], 0).contains("another connection"));
        assert!(complaint(&[&[4], &[1, 2, 3], &[5]], 1).contains("1 messages arrived altered"));
    }
}
