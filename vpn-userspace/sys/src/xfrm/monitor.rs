//! What the kernel reports of its own accord: limits reached, peers moved, traffic without an SA.

use std::io;
use std::net::{IpAddr, SocketAddr};

use culvert_types::Spi;
use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_xfrm::constants as c;
use netlink_packet_xfrm::{
    UserAcquire, UserExpire, UserMapping, XFRM_USER_ACQUIRE_LEN, XFRM_USER_EXPIRE_LEN, XFRM_USER_MAPPING_LEN,
    XfrmAttrs,
};
use rtnetlink::sys::Socket;
use tokio::io::unix::AsyncFd;

use super::sa::{self, SaId};
use super::{is_our_if_id, socket};
use crate::netlink::NetlinkError;

/// Bytes of reports that may wait; beyond that they are lost and [`XfrmEvent::Overrun`] says so.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A report of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XfrmEvent {
    /// An SA has reached a limit; with `hard` it is gone.
    Expired {
        /// The SA.
        id: SaId,
        /// Whether the kernel has removed it.
        hard: bool,
    },
    /// A packet that authenticated came to a UDP-encapsulated inbound SA from another address or port.
    PeerMoved {
        /// The inbound SA.
        id: SaId,
        /// Where its packets came from.
        from: SocketAddr,
        /// Where they come from now.
        to: SocketAddr,
    },
    /// A packet met a policy that asks for an SA, and there is none.
    Acquire {
        /// The xfrm interface it was sent to; 0 if the policy is one of ours that all packets meet.
        if_id: u32,
        /// Where the packet wants to go.
        to: IpAddr,
    },
    /// Reports were lost: compare with what the kernel has.
    Overrun,
}

/// A subscription to the kernel's reports, for the network namespace of the thread that opened it.
pub struct XfrmMonitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    pending: std::collections::VecDeque<XfrmEvent>,
}

impl XfrmMonitor {
    /// Subscribes; to be called inside a tokio runtime. The group that carries new SAs, and with them
    /// their keys, is left out.
    pub fn open() -> Result<Self, NetlinkError> {
        let group = |number: u32| 1u32 << (number - 1);
        let groups = group(c::XFRMNLGRP_EXPIRE) | group(c::XFRMNLGRP_MAPPING) | group(c::XFRMNLGRP_ACQUIRE);
        let open = || -> io::Result<AsyncFd<Socket>> {
            let socket = socket::open(groups)?;
            socket.set_non_blocking(true)?;
            socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
            // SAFETY: the socket owns its descriptor and is neither replaced nor closed before the AsyncFd is.
            Ok(unsafe { AsyncFd::register(socket) }?)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Self { socket, buffer: vec![0; 64 << 10], pending: Default::default() })
    }

    /// The next report. May be dropped while it waits without losing one.
    pub async fn next(&mut self) -> Result<XfrmEvent, NetlinkError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let mut ready = self.socket.readable().await.map_err(NetlinkError::Socket)?;
            let buffer = &mut self.buffer;
            match ready.try_io(|fd| fd.get_ref().recv(&mut &mut buffer[..], 0)) {
                Err(_would_block) => {}
                Ok(Ok(length)) => {
                    let datagram = self.buffer.get(..length).unwrap_or_default();
                    self.pending.extend(socket::messages(datagram).filter_map(|(h, b)| parse(h.kind, b)));
                }
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(XfrmEvent::Overrun),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(NetlinkError::Socket(e)),
            }
        }
    }
}

fn parse(kind: u16, body: &[u8]) -> Option<XfrmEvent> {
    match kind {
        c::XFRM_MSG_EXPIRE => {
            let expire = UserExpire::parse(body.get(..XFRM_USER_EXPIRE_LEN)?).ok()?;
            Some(XfrmEvent::Expired { id: sa::id_of(&expire.state)?, hard: expire.hard != 0 })
        }
        c::XFRM_MSG_MAPPING => {
            let map = UserMapping::parse(body.get(..XFRM_USER_MAPPING_LEN)?).ok()?;
            let at = |address, port| {
                let address: IpAddr = sa::address(address, map.id.family)?;
                Some(SocketAddr::new(address, port))
            };
            Some(XfrmEvent::PeerMoved {
                id: SaId {
                    destination: sa::address(&map.id.daddr, map.id.family)?,
                    spi: Spi::new(map.id.spi).ok()?,
                },
                from: at(&map.old_saddr, map.old_sport)?,
                to: at(&map.new_saddr, map.new_sport)?,
            })
        }
        c::XFRM_MSG_ACQUIRE => {
            let (fixed, attributes) = body.split_at_checked(XFRM_USER_ACQUIRE_LEN)?;
            let acquire = UserAcquire::parse(fixed).ok()?;
            let of = NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == c::XFRMA_IF_ID);
            let if_id = match of.map(|nla| XfrmAttrs::parse(&nla)) {
                Some(Ok(XfrmAttrs::IfId(if_id))) => if_id,
                // Other programs' policies are not our affair.
                _ => is_our_if_id(acquire.policy.index).then_some(0)?,
            };
            let to = sa::address(&acquire.selector.daddr, acquire.selector.family)?;
            Some(XfrmEvent::Acquire { if_id, to })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_cut_short_are_ignored() {
        for kind in 0..0x30 {
            for length in 0..400 {
                let event = parse(kind, &vec![0; length]);
                assert_eq!(event, None, "{kind} {length}"); // SPI 0 and no if_id: nothing to report
            }
        }
    }
}
