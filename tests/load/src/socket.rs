//! UDP 500 and 4500 for many addresses of one host: every datagram goes out from the address that it should come from.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Both sockets; the second has the non-ESP marker (RFC 3948 2.2).
pub(crate) struct Wan {
    sockets: [(u16, UdpSocket); 2],
}

const MARKER: [u8; 4] = [0; 4];

impl Wan {
    pub(crate) fn open(address: Ipv4Addr) -> Result<Self> {
        let open = |port| -> Result<(u16, UdpSocket)> {
            let socket = UdpSocket::bind((address, port)).with_context(|| format!("UDP {address}:{port}"))?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            // As much as the kernel gives: the other side comes in bursts.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
            Ok((port, socket))
        };
        Ok(Self { sockets: [open(500)?, open(4500)?] })
    }

    /// What cannot be sent is lost, and repeated by who sent it.
    pub(crate) fn send(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let (IpAddr::V4(from), SocketAddr::V4(to)) = (local.ip(), remote) else { return };
        let Some((port, socket)) = self.sockets.iter().find(|(port, _)| *port == local.port()) else {
            return;
        };
        let marker: &[u8] = if *port == 4500 { &MARKER } else { &[] };
        let from = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
        let info =
            libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: libc::in_addr { s_addr: 0 } };
        let (parts, to) = ([IoSlice::new(marker), IoSlice::new(bytes)], SockaddrIn::from(to));
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let _ = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to));
    }

    /// Waits, at most until `deadline` or 100 ms, and takes in what has come.
    pub(crate) fn receive(
        &self,
        deadline: Option<Instant>,
        mut take: impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) -> Result<()> {
        let wait =
            deadline.map_or(100, |when| when.saturating_duration_since(Instant::now()).as_millis().min(100));
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, PollTimeout::from(wait as u8))?;
        let mut buffer = [0; 65_536];
        for (port, socket) in &self.sockets {
            loop {
                let mut control = nix::cmsg_space!(libc::in_pktinfo);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let Ok(message) = recvmsg::<SockaddrIn>(
                    socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut control),
                    MsgFlags::empty(),
                ) else {
                    break;
                };
                let to = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()))
                    }
                    _ => None,
                });
                let (length, from) = (message.bytes, message.address);
                let (Some(to), Some(from)) = (to, from) else { continue };
                let from = SocketAddr::V4(SocketAddrV4::new(from.ip(), from.port()));
                let bytes = &buffer[..length];
                let bytes = if *port == 4500 { bytes.strip_prefix(&MARKER) } else { Some(bytes) };
                if let Some(bytes) = bytes {
                    take(SocketAddr::new(to.into(), *port), from, bytes);
                }
            }
        }
        Ok(())
    }
}
