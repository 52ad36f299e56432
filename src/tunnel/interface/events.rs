//! Listens to what the kernel says of changes: links, addresses, routes and rules.
//!
//! It decides nothing, and asks nothing.

use futures_util::StreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::task::AbortHandle;

use super::super::TunnelError;
use super::kernel::{is_local, prefix_of};

/// Is one thing that the kernel tells its listeners.
pub(super) type Event = NetlinkMessage<RouteNetlinkMessage>;

/// Is what the kernel tells its listeners: changes of links, addresses, routes and rules.
pub(super) struct Events {
    messages: futures_util::stream::BoxStream<'static, Event>,
    connection: AbortHandle,
}

impl Events {
    /// Listens in the network namespace of the calling thread.
    pub(super) fn listen() -> Result<Self, TunnelError> {
        use rtnetlink::MulticastGroup as Group;
        let groups = [
            Group::Link,
            Group::Ipv4Ifaddr,
            Group::Ipv6Ifaddr,
            Group::Ipv4Route,
            Group::Ipv6Route,
            Group::Ipv4Rule,
            Group::Ipv6Rule,
        ];
        let opened = rtnetlink::new_multicast_connection(&groups);
        let (connection, _, messages) = opened.map_err(|source| TunnelError::Netlink { source })?;
        let connection = tokio::spawn(connection).abort_handle();
        Ok(Self { messages: messages.map(|(message, _)| message).boxed(), connection })
    }

    /// Waits for the next one; none where the kernel tells nothing any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.messages.next().await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Tells whether what the kernel tells its listeners may change which addresses are this host's.
pub(super) fn moves_locals(message: &Event) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            is_local(route)
        }
        NetlinkPayload::InnerMessage(inner) => matches!(
            inner,
            // Where an interface goes down or an address is removed, the kernel may tell of no route.
            RouteNetlinkMessage::DelLink(_) | RouteNetlinkMessage::DelAddress(_) | RouteNetlinkMessage::NewAddress(_)
        ),
        NetlinkPayload::Done(_) | NetlinkPayload::Noop => false,
        // Something was lost: it may have been one of these.
        _ => true,
    }
}

/// Returns the prefix whose route another one took the place of, by whatever interface: no word comes of the one before.
pub(super) fn replaced(message: &Event) -> Option<IpNet> {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
            if message.header.flags & NLM_F_REPLACE != 0 =>
        {
            prefix_of(route)
        }
        _ => None,
    }
}
