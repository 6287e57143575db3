//! Frames onto a link, past the host's stack: AF_PACKET with sendmmsg.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
    sockopt,
};

use crate::frame::Mac;

/// Frames of one system call.
pub(crate) const BATCH: usize = 32;

/// An Ethernet interface of the namespace that this thread is in.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    address: LinkAddr,
    /// Its address.
    pub mac: Mac,
}

impl Link {
    /// Looks an interface up.
    ///
    /// # Errors
    /// When there is none of that name, or it has no Ethernet address.
    pub fn find(name: &str) -> Result<Self> {
        let address = getifaddrs()
            .context("cannot list the interfaces")?
            .filter(|found| found.interface_name == name)
            .find_map(|found| found.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {name}"))?;
        let mac = address.addr().with_context(|| format!("{name} has no Ethernet address"))?;
        Ok(Self { address, mac })
    }
}

/// A socket that sends whole frames from one interface, and receives nothing.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
}

impl Injector {
    /// Opens it on an interface of the namespace that this thread is in.
    ///
    /// # Errors
    /// When the kernel refuses: most often for want of CAP_NET_RAW.
    pub fn open(link: &Link) -> Result<Self> {
        // Protocol 0: a sender that no packet is copied for.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket")?;
        bind(socket.as_raw_fd(), &link.address).context("cannot bind a packet socket")?;
        let _ = setsockopt(&socket, sockopt::SndBuf, &(4 << 20));
        Ok(Self { socket })
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { socket: &self.socket, headers: MultiHeaders::preallocate(BATCH, None) }
    }

    /// Sends frames over and over at `rate` a second until `go_on` says no; each is handed to `change` with its number
    /// before it goes. Returns how many went. What the link refuses is not repeated.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn repeat(
        &self,
        frames: &mut [Vec<u8>],
        rate: f64,
        mut go_on: impl FnMut() -> bool,
        mut change: impl FnMut(u64, &mut [u8]),
    ) -> Result<u64> {
        let mut batch = self.batch();
        let (start, mut sent, mut number) = (std::time::Instant::now(), 0, 0);
        let chunk = frames.len().clamp(1, BATCH);
        while go_on() {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            if number >= due {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            for frames in frames.chunks_mut(chunk) {
                for frame in frames.iter_mut() {
                    change(number, frame);
                    number += 1;
                }
                let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
                sent += batch.send(&slices)? as u64;
            }
        }
        Ok(sent)
    }
}

/// The headers of sendmmsg, for use again and again by one thread.
pub(crate) struct Batch<'a> {
    socket: &'a OwnedFd,
    headers: MultiHeaders<()>,
}

impl Batch<'_> {
    /// Sends frames in order, at most [`BATCH`]; says how many the link took. 0 when its queue is full.
    pub(crate) fn send(&mut self, frames: &[&[u8]]) -> Result<usize> {
        let count = frames.len().min(BATCH);
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(frames.get(at).copied().unwrap_or_default())]);
        let addresses = [None::<()>; BATCH];
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &slices[..count],
            addresses,
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(results) => Ok(results.count()),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error).context("cannot send frames"),
        }
    }
}
