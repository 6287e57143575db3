//! Samples of what the programs drop, for who looks.
use super::{EspBpf, EspError};
use crate::guard::age;
use culvert_ebpf_shared::Address;
use culvert_ebpf_shared::esp::layout::EspSample;
use culvert_ebpf_shared::esp::reason;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A packet that the programs dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedPacket {
    /// How long ago.
    pub age: Duration,
    /// The tunnel's interface, by its index.
    pub interface: u32,
    /// Why; the names are those of the counters.
    pub reason: &'static str,
    /// It was on its way to the peer.
    pub outward: bool,
    /// Of a packet from the WAN: source and destination, with port 0 without UDP; the destination's port is not told.
    pub outer: Option<(SocketAddr, SocketAddr)>,
    /// Of a packet from the WAN: SPI, and the low 32 bits of its sequence number.
    pub esp: Option<(u32, u32)>,
    /// Source, destination and protocol of the inner packet, if it is ours or was authentic.
    pub inner: Option<(IpAddr, IpAddr, u8)>,
    /// Bytes of ESP, or of the inner packet; 0: not known.
    pub length: u32,
}

impl EspBpf {
    /// Has samples taken of what is dropped, a few for each reason and second: call it every second with another number,
    /// and with 0 when nobody looks any more.
    pub fn look(&mut self, epoch: u32) -> Result<(), EspError> {
        self.maps.look(epoch)
    }

    /// Takes the next sample.
    pub fn take_sample(&mut self) -> Option<DroppedPacket> {
        // What cannot be read was written by no program of this version.
        self.maps.sample().and_then(|sample| read(&sample, age(sample.at)))
    }
}

fn read(sample: &EspSample, age: Duration) -> Option<DroppedPacket> {
    let reason = reason::NAMES.get(sample.kind as usize / 2)?;
    let (outward, knows) = (sample.is_outward(), sample.knows_inner());
    let end = |address: Address, port: u16| SocketAddr::new(address.into(), port);
    let from = end(sample.outer_source, u16::from_be(sample.outer_port as u16));
    let inner = || (address(sample.source), address(sample.destination), sample.protocol as u8);
    let length = match (outward, knows) {
        (false, _) => sample.esp_len,
        (true, true) => sample.inner_len,
        (true, false) => 0,
    };
    Some(DroppedPacket {
        age,
        interface: sample.interface,
        reason,
        outward,
        outer: (!outward).then(|| (from, end(sample.outer_destination, 0))),
        esp: (!outward).then(|| (u32::from_be(sample.spi), sample.sequence)),
        inner: knows.then(inner),
        length,
    })
}

/// An address as the programs have it, IPv4 mapped into IPv6.
fn address([high, low]: [u64; 2]) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ebpf_shared::esp::layout::sample_kind;
    use culvert_ebpf_shared::esp::reason::Reason;

    #[test]
    fn only_what_was_found_out_is_told() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let sample = |reason, outward| EspSample {
            at: 0,
            source: [0, 0xffff_0a01_0002],
            destination: [0xfd02 << 48, 2],
            outer_source: ip("192.0.2.1").into(),
            outer_destination: ip("192.0.2.2").into(),
            kind: sample_kind(reason, outward),
            interface: 7,
            spi: 0xc0ff_ee03_u32.to_be(),
            sequence: 9,
            esp_len: 120,
            inner_len: 84,
            outer_port: u32::from(4501_u16.to_be()),
            protocol: 1,
        };
        let inner = Some((ip("10.1.0.2"), ip("fd02::2"), 1));
        let told = |reason, outward| read(&sample(reason, outward), Duration::ZERO).unwrap();
        let forged = told(Reason::NotAuthentic, false);
        assert_eq!((forged.reason, forged.outward, forged.length), ("not-authentic", false, 120));
        assert_eq!((forged.esp, forged.inner), (Some((0xc0ff_ee03, 9)), None));
        let ends = ("192.0.2.1:4501".parse().unwrap(), "192.0.2.2:0".parse().unwrap());
        assert_eq!(forged.outer, Some(ends));
        assert_eq!(told(Reason::Selector, false).inner, inner);
        let ours = told(Reason::Selector, true);
        assert_eq!((ours.outer, ours.esp, ours.inner, ours.length), (None, None, inner, 84));
        let large = told(Reason::TooBig, true);
        assert_eq!((large.inner, large.length), (None, 0), "it was not looked at");
        let unknown = EspSample { kind: 1000, ..sample(Reason::Selector, true) };
        assert_eq!(read(&unknown, Duration::ZERO), None);
    }
}
