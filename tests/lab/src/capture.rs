//! Watches every frame that passes through a namespace, to find what should not be there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Namespace;

/// Source, destination and protocol number of the outermost IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// 1 ICMP, 6 TCP, 17 UDP, 50 ESP, 58 ICMPv6.
    pub protocol: u8,
}

/// A running watch over all interfaces of a namespace.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeMap<Flow, u64>>>,
}

impl Capture {
    /// Begins; what passes from now on is seen.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let packets = namespace
            .within(|| {
                let flags = SockFlag::SOCK_CLOEXEC;
                let packets = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
                setsockopt(&packets, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
                setsockopt(&packets, sockopt::RcvBuf, &(8 << 20))?;
                Ok::<_, nix::Error>(packets)
            })?
            .context("cannot open a packet socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut flows = BTreeMap::new();
            let mut frame = [0u8; 128];
            loop {
                match recv(packets.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC) {
                    Ok(length) => {
                        if let Some(flow) = flow_of(&frame[..length.min(frame.len())]) {
                            *flows.entry(flow).or_insert(0) += 1;
                        }
                    }
                    // Only an empty queue ends the watch: what came before the end is counted.
                    Err(_) if asked.load(Ordering::Relaxed) => return flows,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends, and tells how often each flow was seen (twice per packet that is forwarded: in and out).
    pub fn finish(mut self) -> BTreeMap<Flow, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// Those flows that have an end in one of the networks: traffic that should have been encrypted.
pub fn within(flows: &BTreeMap<Flow, u64>, networks: &[&str]) -> Vec<(Flow, u64)> {
    let networks: Vec<IpNet> = networks.iter().filter_map(|network| network.parse().ok()).collect();
    let inside = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
    let leaked = flows.iter().filter(|(flow, _)| inside(&flow.source) || inside(&flow.destination));
    leaked.map(|(flow, count)| (*flow, *count)).collect()
}

fn flow_of(frame: &[u8]) -> Option<Flow> {
    let ethertype = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let packet = frame.get(14..)?;
    match ethertype {
        0x0800 => Some(Flow {
            source: IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?)),
            destination: IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
            protocol: *packet.get(9)?,
        }),
        0x86dd => Some(Flow {
            source: IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?)),
            destination: IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
            protocol: *packet.get(6)?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read() {
        let mut frame = vec![0; 14 + 20];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14 + 9] = 50;
        frame[14 + 12..14 + 20].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
        let flow = flow_of(&frame).unwrap_or_else(|| panic!("not read"));
        assert_eq!((flow.protocol, flow.source.to_string()), (50, "10.1.0.2".to_owned()));
        let flows = BTreeMap::from([(flow, 3)]);
        assert_eq!(within(&flows, &["10.2.0.0/24"]), vec![(flow, 3)]);
        assert_eq!(within(&flows, &["10.3.0.0/24"]), vec![]);
        assert_eq!(flow_of(&frame[..20]), None);
    }
}
