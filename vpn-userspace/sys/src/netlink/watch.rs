//! The kernel's word that addresses or routes of the host have changed.

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::SocketAddr;

use super::{NetlinkError, ROUTE_PROTOCOL};

/// A subscription to changes of addresses and of main routes, for the network namespace of the thread that opened it.
pub struct AddressWatch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    served: tokio::task::AbortHandle,
}

impl AddressWatch {
    /// Subscribes; to be called inside a tokio runtime, on which a task then serves the socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        let served = tokio::spawn(connection).abort_handle();
        Ok(Self { messages, served })
    }

    /// Waits until something has changed; several changes may be told as one. `None`: nothing will be told any more.
    /// May be dropped while it waits without losing a change.
    pub async fn changed(&mut self) -> Option<()> {
        loop {
            let (message, _) = self.messages.next().await?;
            if matters(&message) {
                return Some(());
            }
        }
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// Whether it may change how a peer is reached. Our own routes do not.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => match inner {
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                u8::from(route.header.protocol) != ROUTE_PROTOCOL
            }
            _ => false,
        },
        // Reports were lost: see for oneself.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}
