//! One end of a cable: frames in and out of an interface, as the machine at the other end sees them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

/// An interface, with a packet socket on it.
pub(crate) struct Wire {
    socket: OwnedFd,
    seen: VecDeque<Vec<u8>>,
}

impl Wire {
    /// On an interface of the thread's network namespace.
    pub(crate) fn open(interface: &str) -> Self {
        let at = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address?.as_link_addr().copied())
            .expect("the interface has a link-layer address");
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
                .unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).unwrap();
        bind(socket.as_raw_fd(), &at).unwrap();
        Self { socket, seen: VecDeque::new() }
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap(), frame.len());
    }

    /// The next frame that carries IPv4 or IPv6 to one host, if one comes in time.
    pub(crate) fn next(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + wait;
        loop {
            self.take();
            if let Some(frame) = self.seen.pop_front() {
                return Some(frame);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            poll(&mut ready, PollTimeout::from(millis)).unwrap();
        }
    }

    fn take(&mut self) {
        let mut buffer = vec![0; 70_000];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let frame = &buffer[..length];
            // Multicast is the kernel's own chatter.
            let ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd] | [0x81, 0x00]));
            if ip && frame[0] & 1 == 0 {
                self.seen.push_back(frame.to_vec());
            }
        }
    }
}
