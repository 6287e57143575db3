//! `culvert capture`: a tunnel's packets before ESP and after it, side by side in one file.
//!
//! culvertd opens the packet sockets and hands them over; what they see never burdens it.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut, IsTerminal, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use culvert_api::{Capture, Request, Response, Status, Target};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg};
use pcap_file::DataLink;

use crate::client::{Client, ClientError};
use crate::pcap::PcapNg;
use crate::render;

/// What to take, and when to end.
pub(crate) struct Options<'a> {
    pub(crate) target: &'a Target,
    pub(crate) file: &'a Path,
    /// After so many packets.
    pub(crate) count: Option<u64>,
    /// After this time.
    pub(crate) duration: Option<Duration>,
}

/// How often the peers' addresses are asked for anew.
const REFRESH: Duration = Duration::from_secs(2);
/// The longest frame: a super-packet with an Ethernet header and tags.
const LONGEST: usize = 65_536 + 64;
/// Of packet(7): a frame that this host sends.
const PACKET_OUTGOING: u8 = 4;

/// Writes packets until a limit is reached or somebody interrupts.
pub(crate) fn capture(client: &mut Client, out: &mut impl Write, options: &Options<'_>) -> Result<()> {
    let (capture, sockets) = ask(client, options.target)?;
    let mut file = PcapNg::create(options.file, "--write")?;
    for place in &capture.places {
        let linktype = if place.ethernet { DataLink::ETHERNET } else { DataLink::RAW };
        file.interface(Some(&place.interface), linktype)?;
    }
    file.flush()?;
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block().context("cannot wait for interrupts")?;
    let interrupted = SignalFd::new(&interrupts).context("cannot wait for interrupts")?;
    if io::stderr().is_terminal() {
        let names: Vec<&str> = capture.places.iter().map(|p| p.interface.as_str()).collect();
        eprintln!("culvert: capturing on {}; Ctrl-C ends it", render::clean(&names.join(", ")));
    }

    let begin = Instant::now();
    let mut peers = peers(&client.status()?, options.target);
    let mut asked = begin;
    let mut sums = Sums::default();
    let mut buffer = vec![0; LONGEST];
    let ended = |sums: &Sums| options.count.is_some_and(|count| sums.inside + sums.outside >= count);
    while !ended(&sums) {
        let left = options.duration.map(|limit| limit.saturating_sub(begin.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let wait = left.unwrap_or(REFRESH).min(REFRESH);
        let mut ready = vec![PollFd::new(interrupted.as_fd(), PollFlags::POLLIN)];
        ready.extend(sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        let millis = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, millis) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => bail!("cannot wait for packets: {error}"),
        }
        if ready.first().and_then(PollFd::any).unwrap_or(false) {
            break;
        }
        for (number, (socket, place)) in sockets.iter().zip(&capture.places).enumerate() {
            while !ended(&sums) {
                let Some(packet) = receive(socket, &mut buffer, &mut sums.lost)? else { break };
                let data = buffer.get(..packet.length).unwrap_or_default();
                if !place.inside && !concerns(data, place.ethernet, &peers) {
                    continue;
                }
                file.packet(u32::try_from(number).unwrap_or(0), packet.time, packet.sent, data)?;
                if place.inside {
                    sums.inside += 1;
                } else {
                    sums.outside += 1;
                }
            }
        }
        file.flush()?;
        if asked.elapsed() >= REFRESH {
            // The peer may have moved.
            peers = self::peers(&client.status()?, options.target);
            asked = Instant::now();
        }
    }
    file.flush()?;
    let told = sums.told(options.file);
    // Standard output may be the capture itself.
    if options.file == Path::new("-") {
        eprint!("{told}")
    } else {
        out.write_all(told.as_bytes())?
    }
    Ok(())
}

#[derive(Default)]
struct Sums {
    inside: u64,
    outside: u64,
    lost: u64,
}

impl Sums {
    fn told(&self, file: &Path) -> String {
        let Self { inside, outside, lost } = self;
        let mut told = format!(
            "{} packets written to {}: {inside} inside, {outside} outside\n",
            inside + outside,
            file.display()
        );
        if *lost > 0 {
            told.push_str(&format!("{lost} more came too fast for this capture and are missing\n"));
        }
        told
    }
}

/// The places with their sockets.
fn ask(client: &mut Client, target: &Target) -> Result<(Capture, Vec<OwnedFd>)> {
    client.send(&Request::Capture { target: target.clone() })?;
    let (response, sockets) = client.receive_with_sockets()?;
    match response {
        Response::Capture(capture) if capture.places.len() == sockets.len() => Ok((capture, sockets)),
        Response::Capture(_) => {
            bail!("culvertd did not hand over its packet sockets: run culvert on the same host")
        }
        other => Err(ClientError::unexpected(&other).into()),
    }
}

struct Packet {
    length: usize,
    time: Duration,
    sent: bool,
}

/// The next packet that waits, if any.
fn receive(socket: &OwnedFd, buffer: &mut [u8], lost: &mut u64) -> Result<Option<Packet>> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)
        {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(nix::Error::ENETDOWN) => return Ok(None),
            Err(error) => bail!("cannot receive packets: {error}"),
        };
    let mut packet = Packet {
        length: message.bytes,
        time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        sent: message.address.is_some_and(|a| a.pkttype() == PACKET_OUTGOING),
    };
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::ScmTimestampns(time) => packet.time = time.into(),
            // The sum since the socket was opened.
            ControlMessageOwned::RxqOvfl(sum) => *lost = (*lost).max(sum.into()),
            _ => {}
        }
    }
    Ok(Some(packet))
}

/// Where the peers of the target are.
fn peers(status: &Status, target: &Target) -> BTreeSet<IpAddr> {
    let tunnels = status.connections.iter().flat_map(|c| c.tunnels.iter().map(move |t| (c, t)));
    let covered = tunnels.filter(|(c, t)| target.covers(&c.name, &t.name));
    covered
        .flat_map(|(_, tunnel)| {
            let configured = tunnel.remote_address.as_ref().and_then(|a| a.parse().ok());
            configured.into_iter().chain(tunnel.ike.as_ref().map(|ike| ike.remote.address.ip()))
        })
        .collect()
}

/// Whether a frame of the WAN is IKE or ESP, with or without UDP, from or to one of the peers; or an ICMP error about it.
fn concerns(frame: &[u8], ethernet: bool, peers: &BTreeSet<IpAddr>) -> bool {
    let Some(packet) = network_layer(frame, ethernet) else { return false };
    let (from, to, protocol, payload) = match packet.first().map(|b| b >> 4) {
        Some(4) => {
            let Some(header) = packet.first_chunk::<20>() else { return false };
            let address = |at: usize| {
                header.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from)
            };
            let length = usize::from(header[0] & 15) * 4;
            (address(12), address(16), header[9], packet.get(length..).unwrap_or_default())
        }
        Some(6) => {
            let Some(header) = packet.first_chunk::<40>() else { return false };
            let address = |at: usize| {
                header.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from)
            };
            (address(8), address(24), header[6], packet.get(40..).unwrap_or_default())
        }
        _ => return false,
    };
    let of_peer = [from, to].into_iter().flatten().any(|a| peers.contains(&a));
    match protocol {
        // ESP, and the later fragments of anything.
        50 | 44 => of_peer,
        17 => {
            let port = |at: usize| payload.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
            let ike = |port: Option<u16>| matches!(port, Some(500 | 4500));
            of_peer && (ike(port(0)) || ike(port(2)) || later_fragment(packet))
        }
        // Routers on the way say what became of it.
        1 | 58 => payload.get(8..).is_some_and(|quoted| concerns(quoted, false, peers)),
        _ => false,
    }
}

fn later_fragment(packet: &[u8]) -> bool {
    let field = |p: &[u8]| p.get(6..8).map(|b| u16::from_be_bytes([b[0], b[1]]) & 0x1fff);
    packet.first().is_some_and(|b| b >> 4 == 4) && field(packet).is_some_and(|offset| offset > 0)
}

/// What is behind the Ethernet header and its VLAN tags.
fn network_layer(frame: &[u8], ethernet: bool) -> Option<&[u8]> {
    if !ethernet {
        return Some(frame);
    }
    let mut at = 12;
    loop {
        match frame.get(at..at + 2)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            [0x08, 0x00] | [0x86, 0xdd] => return frame.get(at + 2..),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(port.to_be_bytes());
        packet.extend([0x30, 0x39, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn what_concerns_the_tunnel_is_taken_and_nothing_else() {
        let peers = BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        let (ours, peer, other) = ([198, 51, 100, 1], [192, 0, 2, 1], [192, 0, 2, 2]);
        let taken = |packet: &[u8]| {
            let plain = [&[0; 12][..], &[8, 0], packet].concat();
            let tagged = [&[0; 12][..], &[0x81, 0, 0, 7, 8, 0], packet].concat();
            let all = [
                concerns(packet, false, &peers),
                concerns(&plain, true, &peers),
                concerns(&tagged, true, &peers),
            ];
            assert!(all.iter().all(|t| *t == all[0]), "{all:?}");
            // No frame cut short is a fault.
            (0..packet.len()).for_each(|cut| {
                let _ = concerns(&packet[..cut], false, &peers);
            });
            all[0]
        };
        assert!(taken(&udp(ours, peer, 4500)) && taken(&udp(peer, ours, 500)));
        assert!(!taken(&udp(ours, other, 4500)), "another peer");
        assert!(!taken(&udp(ours, peer, 53)), "another service");
        let mut esp = udp(peer, ours, 0);
        esp[9] = 50;
        assert!(taken(&esp));
        esp[9] = 6;
        assert!(!taken(&esp));
        let mut fragment = udp(peer, ours, 0x1234);
        fragment[7] = 100;
        assert!(taken(&fragment), "a later fragment has no ports");
        let mut icmp = udp(other, ours, 0);
        icmp[9] = 1;
        icmp.extend(udp(ours, peer, 4500));
        assert!(taken(&icmp), "a router's answer to what we sent");
        let mut six = vec![0x60, 0, 0, 0, 0, 8, 50, 64];
        six.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        six.extend([0; 24]);
        assert!(concerns(&six, false, &peers));
    }

    #[test]
    fn the_sum_tells_what_is_missing() {
        let file = Path::new("x.pcapng");
        let sums = Sums { inside: 2, outside: 3, lost: 0 };
        assert_eq!(sums.told(file), "5 packets written to x.pcapng: 2 inside, 3 outside\n");
        let sums = Sums { lost: 7, ..sums };
        assert!(sums.told(file).ends_with("7 more came too fast for this capture and are missing\n"));
    }
}
