//! Security associations: what is told to the kernel, and what it tells of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use culvert_crypto::{Suite, SuiteKeys};
use culvert_types::Spi;
use netlink_packet_core::{DefaultNla, Emitable, NlasIterator, Parseable};
use netlink_packet_xfrm::constants as c;
use netlink_packet_xfrm::state::DelGetMessage;
use netlink_packet_xfrm::{
    Address, EncapTmpl, LifetimeConfig, ReplayEsn, UserOffloadDev, UserSaInfo, XFRM_USER_SA_INFO_LEN,
    XfrmAttrs,
};
use zeroize::Zeroizing;

use super::{Features, algorithm};
use crate::netlink::NetlinkError;

/// Seconds between two reports that an SA's peer has moved (XFRMA_MTIMER_THRESH, Linux 5.17): until
/// the SA is told its peer's new address the kernel would report every packet.
const MAPPING_REPORT_INTERVAL: u32 = 5;

// Later than the constants of netlink-packet-xfrm (include/uapi/linux/xfrm.h).
/// Linux 6.10, one byte.
const XFRMA_SA_DIR: u16 = 33;
/// Linux 6.13, u32.
const XFRMA_SA_PCPU: u16 = 35;
/// Of `struct xfrm_user_offload`, Linux 6.2.
const XFRM_OFFLOAD_PACKET: u8 = 4;

/// Which way an SA's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SaDirection {
    /// Opened here.
    Inbound,
    /// Sealed here.
    Outbound,
}

/// By what the kernel finds an SA: the outer destination and the SPI (RFC 4301 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SaId {
    /// Outer destination address.
    pub destination: IpAddr,
    /// SPI.
    pub spi: Spi,
}

/// UDP encapsulation (RFC 3948) of an SA; ports as in its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Source port of the SA's packets: the peer's for an inbound SA.
    pub source_port: u16,
    /// Destination port of the SA's packets.
    pub destination_port: u16,
}

/// When the kernel reports (soft) and stops using (hard) an SA by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes: soft, hard.
    pub bytes: Option<(u64, u64)>,
    /// Packets: soft, hard.
    pub packets: Option<(u64, u64)>,
    /// Age: hard only. Whole seconds, rounded up.
    pub age: Option<Duration>,
}

/// Where the counters of an SA that takes over from another begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequence {
    /// The last sequence number sent.
    pub outbound: u64,
    /// The highest sequence number received; with it the window is taken as seen in full.
    pub inbound: u64,
}

/// Crypto by the network card, for an SA whose packets all pass one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffloadTo {
    /// Index of the device.
    pub device: u32,
    /// The card does all of ESP (Linux 6.2), not only the cipher. Its policies must be given to it as well.
    pub packet: bool,
}

/// What most SAs do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SaOptions {
    /// Transport mode: the packets of the two outer addresses themselves.
    pub transport: bool,
    /// The CPU whose packets the SA carries (RFC 9611; Linux 6.13, see [`Features::cpu`]); of an inbound one the CPU
    /// that the peer's counterpart is for.
    pub cpu: Option<u32>,
    /// Mark of the packets after ESP, by which routing rules tell them from what is to be protected; of an inbound SA,
    /// of what it opened.
    pub output_mark: Option<u32>,
    /// Crypto by the network card.
    pub offload: Option<OffloadTo>,
}

/// An SA to be installed: ESP in tunnel mode, unless its options say otherwise.
#[derive(Clone, Copy)]
pub struct SaSpec<'a> {
    /// Which way its packets go.
    pub direction: SaDirection,
    /// SPI.
    pub spi: Spi,
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address.
    pub destination: IpAddr,
    /// Algorithms.
    pub suite: Suite,
    /// Keys of this direction.
    pub keys: &'a SuiteKeys,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
    /// Replay window in packets, 1 to 32768.
    pub replay_window: u32,
    /// UDP encapsulation.
    pub encapsulation: Option<Encapsulation>,
    /// xfrm interface that it belongs to; 0 for none.
    pub if_id: u32,
    /// What ties it to policies.
    pub reqid: u32,
    /// Copy DF of inner IPv4 packets outward, and so learn the path's MTU; else outer packets may be fragmented.
    pub copy_df: bool,
    /// Copy the DSCP of inner packets outward.
    pub copy_dscp: bool,
    /// Limits that the kernel watches.
    pub limits: Limits,
    /// Counters to begin with; all zero for a new SA.
    pub sequence: Sequence,
    /// What most SAs do without.
    pub options: SaOptions,
}

impl SaSpec<'_> {
    /// By what the kernel will find it.
    pub fn id(&self) -> SaId {
        SaId { destination: self.destination, spi: self.spi }
    }

    pub(super) fn encode(&self, features: Features) -> Result<Zeroizing<Vec<u8>>, NetlinkError> {
        let Some(algorithms) = algorithm::encode(self.suite, self.keys) else {
            return Err(NetlinkError::broken(
                format!("install {self}"),
                "its keys are not of the suite's lengths",
            ));
        };
        let mut info = UserSaInfo::default();
        info.source(&self.source);
        info.destination(&self.destination);
        info.id.spi = self.spi.value();
        info.id.proto = c::IPPROTO_ESP;
        let outbound = self.direction == SaDirection::Outbound;
        info.reqid = self.reqid;
        info.lifetime_cfg = self.limits.encode();
        if self.options.transport {
            info.mode = c::XFRM_MODE_TRANSPORT;
        } else {
            info.mode = c::XFRM_MODE_TUNNEL;
            // Inner packets of both families, whatever the outer one.
            info.flags = c::XFRM_STATE_AF_UNSPEC;
        }
        if self.esn {
            info.flags |= c::XFRM_STATE_ESN;
        }
        // How outer headers are made concerns who makes them; with a direction the kernel refuses it of others.
        if !self.copy_df && outbound {
            info.flags |= c::XFRM_STATE_NOPMTUDISC;
        }
        let mut attributes = vec![XfrmAttrs::ReplayStateEsn(self.replay(features))];
        if self.if_id != 0 {
            attributes.push(XfrmAttrs::IfId(self.if_id));
        }
        if features.direction {
            let direction = if outbound { 2 } else { 1 };
            attributes.push(XfrmAttrs::Other(DefaultNla::new(XFRMA_SA_DIR, vec![direction])));
        }
        if let (true, Some(cpu)) = (features.cpu, self.options.cpu) {
            let cpu = cpu.to_ne_bytes().to_vec();
            attributes.push(XfrmAttrs::Other(DefaultNla::new(XFRMA_SA_PCPU, cpu)));
        }
        if let Some(mark) = self.options.output_mark {
            attributes.extend([XfrmAttrs::MarkVal(mark), XfrmAttrs::MarkMask(u32::MAX)]);
        }
        if let Some(OffloadTo { device, packet }) = self.options.offload {
            let ipv6 = if self.destination.is_ipv6() { c::XFRM_OFFLOAD_IPV6 } else { 0 };
            let inbound = if outbound { 0 } else { c::XFRM_OFFLOAD_INBOUND };
            let packet = if packet { XFRM_OFFLOAD_PACKET } else { 0 };
            let (ifindex, flags) = (device as i32, ipv6 | inbound | packet);
            attributes.push(XfrmAttrs::OffloadDevice(UserOffloadDev { ifindex, flags }));
        }
        if !self.copy_dscp && outbound {
            attributes.push(XfrmAttrs::ExtraFlags(c::XFRM_SA_XFLAG_DONT_ENCAP_DSCP));
        }
        if let Some(encapsulation) = self.encapsulation {
            attributes.push(XfrmAttrs::EncapsulationTemplate(EncapTmpl {
                encap_type: c::UDP_ENCAP_ESPINUDP,
                encap_sport: encapsulation.source_port,
                encap_dport: encapsulation.destination_port,
                encap_oa: Address::default(),
            }));
            if !outbound {
                attributes.push(XfrmAttrs::MappingTimeThreshold(MAPPING_REPORT_INTERVAL));
            }
        }
        let (fixed, others) = (info.buffer_len(), attributes.as_slice().buffer_len());
        let mut body = Zeroizing::new(vec![0; fixed + others + algorithms.len()]);
        let (head, rest) = body.split_at_mut(fixed);
        let (middle, tail) = rest.split_at_mut(others);
        info.emit(head);
        attributes.as_slice().emit(middle);
        tail.copy_from_slice(&algorithms);
        Ok(body)
    }

    fn replay(&self, features: Features) -> ReplayEsn {
        let high = |sequence: u64| if self.esn { (sequence >> 32) as u32 } else { 0 };
        let (oseq, oseq_hi) = (self.sequence.outbound as u32, high(self.sequence.outbound));
        if features.direction && self.direction == SaDirection::Outbound {
            return ReplayEsn { oseq, oseq_hi, ..ReplayEsn::default() };
        }
        let window = self.replay_window.clamp(1, c::XFRMA_REPLAY_ESN_MAX as u32 * 8);
        let words = window.div_ceil(32);
        let seen = if self.sequence.inbound > 0 { u32::MAX } else { 0 };
        ReplayEsn {
            bmp_len: words,
            oseq,
            seq: self.sequence.inbound as u32,
            oseq_hi,
            seq_hi: high(self.sequence.inbound),
            replay_window: window,
            bmp: vec![seen; words as usize],
        }
    }
}

impl fmt::Display for SaSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SA {} from {} to {} ({}", self.spi, self.source, self.destination, self.suite)?;
        if self.encapsulation.is_some() {
            f.write_str(", in UDP")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for SaSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Limits {
    fn encode(self) -> LifetimeConfig {
        let (soft_bytes, hard_bytes) = self.bytes.unwrap_or((c::XFRM_INF, c::XFRM_INF));
        let (soft_packets, hard_packets) = self.packets.unwrap_or((c::XFRM_INF, c::XFRM_INF));
        LifetimeConfig {
            soft_byte_limit: soft_bytes,
            hard_byte_limit: hard_bytes,
            soft_packet_limit: soft_packets,
            hard_packet_limit: hard_packets,
            hard_add_expires_seconds: self
                .age
                .map_or(0, |a| a.as_secs().saturating_add(u64::from(a.subsec_nanos() > 0))),
            ..LifetimeConfig::default()
        }
    }
}

impl SaId {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut message = DelGetMessage::default();
        message.user_sa_id.destination(&self.destination);
        message.user_sa_id.spi = self.spi.value();
        message.user_sa_id.proto = c::IPPROTO_ESP;
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body
    }
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SA {} to {}", self.spi, self.destination)
    }
}

/// What the kernel tells of an SA. Never its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaState {
    /// By what it is found.
    pub id: SaId,
    /// Outer source address.
    pub source: IpAddr,
    /// xfrm interface that it belongs to; 0 if none.
    pub if_id: u32,
    /// What ties it to policies.
    pub reqid: u32,
    /// Bytes of inner packets.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets dropped because they were older than the replay window.
    pub too_old: u32,
    /// Packets dropped because they had been received before.
    pub replayed: u32,
    /// Packets dropped because their integrity check failed.
    pub integrity_failed: u32,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Replay window in packets.
    pub replay_window: u32,
    /// Sequence numbers as of now.
    pub sequence: Sequence,
    /// UDP encapsulation.
    pub encapsulation: Option<Encapsulation>,
    /// Which way its packets go, where the kernel was told (Linux 6.10).
    pub direction: Option<SaDirection>,
    /// The CPU that it is for.
    pub cpu: Option<u32>,
    /// The device that does its crypto. A driver that has none leaves it to the kernel without a word.
    pub offload: Option<OffloadTo>,
}

impl SaState {
    /// From the body of an XFRM_MSG_NEWSA; `None` for states that are not ESP or have no SPI yet.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (fixed, attributes) = body.split_at_checked(XFRM_USER_SA_INFO_LEN)?;
        let info = UserSaInfo::parse(fixed).ok()?;
        let mut state = Self {
            id: id_of(&info)?,
            source: address(&info.saddr, info.family)?,
            if_id: 0,
            reqid: info.reqid,
            bytes: info.lifetime_cur.bytes,
            packets: info.lifetime_cur.packets,
            too_old: info.stats.replay_window,
            replayed: info.stats.replay,
            integrity_failed: info.stats.integrity_failed,
            esn: info.flags & c::XFRM_STATE_ESN != 0,
            replay_window: u32::from(info.replay_window),
            sequence: Sequence::default(),
            encapsulation: None,
            direction: None,
            cpu: None,
            offload: None,
        };
        for nla in NlasIterator::new(attributes).flatten() {
            // Only these: the others carry keys.
            match nla.kind() {
                c::XFRMA_IF_ID
                | c::XFRMA_REPLAY_ESN_VAL
                | c::XFRMA_REPLAY_VAL
                | c::XFRMA_ENCAP
                | c::XFRMA_OFFLOAD_DEV => {}
                XFRMA_SA_DIR => {
                    state.direction = match nla.value() {
                        [1] => Some(SaDirection::Inbound),
                        [2] => Some(SaDirection::Outbound),
                        _ => None,
                    };
                    continue;
                }
                XFRMA_SA_PCPU => {
                    state.cpu = nla.value().first_chunk::<4>().map(|cpu| u32::from_ne_bytes(*cpu));
                    continue;
                }
                _ => continue,
            }
            match XfrmAttrs::parse(&nla) {
                Ok(XfrmAttrs::IfId(id)) => state.if_id = id,
                Ok(XfrmAttrs::ReplayStateEsn(replay)) => {
                    let join = |high: u32, low: u32| (u64::from(high) << 32) | u64::from(low);
                    state.replay_window = replay.replay_window;
                    state.sequence = Sequence {
                        outbound: join(replay.oseq_hi, replay.oseq),
                        inbound: join(replay.seq_hi, replay.seq),
                    };
                }
                Ok(XfrmAttrs::ReplayState(replay)) => {
                    state.sequence = Sequence { outbound: replay.oseq.into(), inbound: replay.seq.into() };
                }
                Ok(XfrmAttrs::EncapsulationTemplate(t)) => {
                    state.encapsulation =
                        Some(Encapsulation { source_port: t.encap_sport, destination_port: t.encap_dport });
                }
                Ok(XfrmAttrs::OffloadDevice(to)) => {
                    let packet = to.flags & XFRM_OFFLOAD_PACKET != 0;
                    state.offload = Some(OffloadTo { device: to.ifindex as u32, packet });
                }
                _ => {}
            }
        }
        Some(state)
    }
}

/// The identity in a description of an SA; `None` if it is not ESP or has no SPI.
pub(super) fn id_of(info: &UserSaInfo) -> Option<SaId> {
    if info.id.proto != c::IPPROTO_ESP {
        return None;
    }
    Some(SaId { destination: address(&info.id.daddr, info.family)?, spi: Spi::new(info.id.spi).ok()? })
}

pub(super) fn address(raw: &Address, family: u16) -> Option<IpAddr> {
    match family {
        c::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(*raw.addr.first_chunk::<4>()?))),
        c::AF_INET6 => Some(IpAddr::V6(raw.addr.into())),
        _ => None,
    }
}
