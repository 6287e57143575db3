//! Does UDP segmentation offload work here? Some kernels and drivers cut trains wrongly; one train over loopback tells.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::batch::{MAX_SEGMENTS, ReceiveBatch, SendBatch, Train};
use crate::event::Poller;
use crate::wan::{WanOptions, WanSocket};

/// Length of the train's datagrams, and of its last: neither even nor a power of two, where faults hide.
const SEGMENT: usize = 1371;
const LAST: usize = 333;
/// How many: more than a page's worth of fragments, and within a train.
const COUNT: usize = 43;
/// How long the train may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpOffloads {
    /// Trains that the kernel cuts (UDP_SEGMENT), or why not to use them.
    pub segmentation: Result<(), String>,
    /// Datagrams that the kernel joins (UDP_GRO), or why not to take them.
    pub receive: Result<(), String>,
}

impl UdpOffloads {
    /// Sends a train over loopback through sockets such as the WAN's: once to one that takes its datagrams one by one, so
    /// that the kernel must cut, once to one that takes them joined.
    pub fn test() -> Self {
        let (cut, joined) = (train(false), train(true));
        Self { receive: if cut.is_ok() { joined } else { Ok(()) }, segmentation: cut }
    }
}

/// Sends a train, and compares what comes.
fn train(receive_offload: bool) -> Result<(), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let plain = WanOptions { buffer: 1 << 20, receive_offload, ..WanOptions::default() };
    let to = open(&plain)?;
    let from = open(&WanOptions { receive_offload: false, ..plain })?;
    if !from.segmentation() {
        return Err("the kernel has no UDP_SEGMENT (Linux 4.18)".to_owned());
    }
    const { assert!(COUNT < MAX_SEGMENTS) };
    let len = (COUNT - 1) * SEGMENT + LAST;
    let sent: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 21) as u8).collect();
    let train = Train { bytes: 0..len, segment: SEGMENT, tos: 0, to: to.local(), may_fragment: false };
    SendBatch::default().send(&from, &sent, &[train]).map_err(failed("the kernel refuses a train"))?;
    let mut poller = Poller::new().map_err(failed("epoll"))?;
    poller.add(&to, 0).map_err(failed("epoll"))?;
    let (mut batch, mut got, mut datagrams) = (ReceiveBatch::new(8), Vec::with_capacity(len), 0);
    while got.len() < len && poller.wait(Some(PATIENCE)).map_err(failed("epoll"))?.count() > 0 {
        batch.receive(&to).map_err(failed("receiving a train"))?;
        let (buf, list) = batch.parts();
        for d in list {
            for packet in buf.get(d.start..d.start + d.len).unwrap_or_default().chunks(d.segment.max(1)) {
                datagrams += 1;
                if packet.len() != SEGMENT.min(len - got.len()) {
                    return Err(format!("datagram {datagrams} of a train has {} bytes", packet.len()));
                }
                got.extend_from_slice(packet);
            }
        }
    }
    match got.len() {
        l if l != len => Err(format!("of a train of {COUNT} datagrams {datagrams} arrived")),
        _ if got != sent => Err("a train arrived with other bytes than were sent".to_owned()),
        _ => Ok(()),
    }
}

/// A socket at a free port of loopback.
fn open(options: &WanOptions) -> Result<WanSocket, String> {
    let mut last = String::new();
    // Between asking for a free port and taking it another program may take it.
    for _ in 0..4 {
        let free = UdpSocket::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
            .and_then(|s| s.local_addr())
            .map_err(|e| format!("no socket on loopback: {e}"))?;
        match WanSocket::udp(free, options) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_cuts_and_joins_trains_as_it_should() {
        assert_eq!(UdpOffloads::test(), UdpOffloads { segmentation: Ok(()), receive: Ok(()) });
    }

    #[test]
    fn without_segmentation_the_test_says_so() {
        let options = WanOptions { segmentation: false, ..WanOptions::default() };
        assert!(!open(&options).unwrap().segmentation());
    }
}
