//! Samples of what the guard drops, for who looks.
use super::{Guard, GuardError, verdict};
use culvert_ebpf_shared::packet::Bytes;
#[cfg(test)]
use culvert_ebpf_shared::sample::HEADERS;
use culvert_ebpf_shared::sample::Sample;
use culvert_ebpf_shared::{Address, Class, Reason, parse_ethernet, parse_ip};
use std::net::IpAddr;
use std::time::Duration;

/// A packet that the guard dropped, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSample {
    /// How long ago.
    pub age: Duration,
    /// Where it came in, by the index of the interface.
    pub interface: u32,
    /// As in [`GuardCounter`](super::GuardCounter).
    pub verdict: &'static str,
    /// As in [`GuardCounter`](super::GuardCounter).
    pub reason: &'static str,
    /// How many packets it is.
    pub packets: u64,
    /// Its bytes, with link-layer headers.
    pub length: u32,
    /// Who sent it, where a header of IP says so.
    pub source: Option<IpAddr>,
    /// To whom.
    pub destination: Option<IpAddr>,
    /// UDP ports of both, if it came in UDP.
    pub ports: Option<(u16, u16)>,
    /// SPI, if it is ESP.
    pub spi: Option<u32>,
    /// Low 32 bits of ESP's sequence number.
    pub sequence: u32,
}

impl Guard {
    /// Has samples taken of what is dropped, a few for each reason and second: call it every second with another number,
    /// and with 0 when nobody looks any more.
    pub fn look(&mut self, epoch: u32) -> Result<(), GuardError> {
        self.config.epoch = epoch;
        self.maps.set_config(self.config)
    }

    /// Takes the next sample.
    pub fn take_sample(&mut self) -> Option<GuardSample> {
        // What cannot be read was written by no program of this version.
        self.maps.sample().and_then(|sample| read(&sample, age(sample.at)))
    }
}

/// How long ago programs read this from their clock, CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn age(at: u64) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time to a value that outlives the call; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let now = (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64);
    Duration::from_nanos(now.saturating_sub(at))
}

fn read(sample: &Sample, age: Duration) -> Option<GuardSample> {
    let (index, learning) = (sample.counter / 2, sample.counter % 2 == 1);
    let reason = *Reason::ALL.get(index as usize)?;
    let headers = sample.headers.get(..sample.kept as usize)?;
    let packet = Headers { bytes: headers, length: sample.length };
    let parsed = if sample.ethernet == 1 { parse_ethernet(&packet) } else { parse_ip(&packet, 0) };
    let address = |address: Address| (address != Address::UNSPECIFIED).then(|| address.into());
    // A UDP header ends where ESP begins, or IKE, or the marker in front of that (RFC 3948 2.2).
    let udp = match parsed.class {
        Class::Ike if parsed.natt => parsed.offset.checked_sub(12),
        Class::Ike => parsed.offset.checked_sub(8),
        Class::Esp if parsed.natt => parsed.offset.checked_sub(8),
        _ => None,
    };
    let ports = udp.and_then(|udp| {
        let [a, b, c, d] = *headers.get(udp as usize..)?.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    });
    Some(GuardSample {
        age,
        interface: sample.interface,
        verdict: verdict(reason, learning),
        reason: reason.name(),
        packets: sample.packets.into(),
        length: sample.length,
        source: address(parsed.source),
        destination: address(parsed.destination),
        ports,
        spi: (parsed.spi != 0).then(|| u32::from_be(parsed.spi)),
        sequence: parsed.sequence,
    })
}

/// The beginning of a packet, which is longer.
struct Headers<'a> {
    bytes: &'a [u8],
    length: u32,
}

impl Bytes for Headers<'_> {
    fn length(&self) -> u32 {
        self.length
    }

    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool) {
        self.bytes.load(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ebpf_shared::layout::counter_index;
    use culvert_ebpf_shared::testing::{esp, ethernet, ike, ip, marked, udp};

    fn sample(packet: &[u8], is_ethernet: bool, counter: u32) -> Sample {
        let kept = packet.len().min(HEADERS);
        let mut headers = [0xaa; HEADERS];
        headers[..kept].copy_from_slice(&packet[..kept]);
        let (length, kept) = (packet.len() as u32, kept as u32);
        let ethernet = is_ethernet.into();
        Sample { at: 5_000, interface: 7, counter, packets: 3, length, kept, ethernet, headers }
    }

    #[test]
    fn headers_say_what_it_was() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let (from, to) = (address("2001:db8::9"), address("2001:db8::1"));
        let natt = |payload: &[u8]| ip(from, to, 17, &udp(from, to, (4501, 4500), payload));
        let stale = counter_index(Reason::Stale, true);

        let long = natt(&esp(0xc0ff_ee02, 9, 1000));
        let got =
            read(&sample(&ethernet([2; 6], [4; 6], &[0x8100], &long), true, stale), Duration::from_micros(2))
                .unwrap();
        assert_eq!((got.age, got.verdict, got.reason), (Duration::from_micros(2), "would-drop", "stale"));
        assert_eq!((got.source, got.destination), (Some(from), Some(to)));
        assert_eq!((got.ports, got.spi, got.sequence), (Some((4501, 4500)), Some(0xc0ff_ee02), 9));
        assert_eq!((got.length, got.packets), (18 + 48 + 1000, 3));

        let got = read(&sample(&natt(&marked(&ike(60))), false, stale), Duration::ZERO).unwrap();
        assert_eq!((got.age, got.ports, got.spi), (Duration::ZERO, Some((4501, 4500)), None));
        // Of a truncated packet the kernel tells what there is.
        let got = read(&sample(&long[..30], false, stale), Duration::ZERO).unwrap();
        assert_eq!((got.source, got.ports, got.spi), (None, None, None));
        assert_eq!(read(&sample(&[], true, stale), Duration::ZERO).unwrap().source, None);
        assert_eq!(read(&sample(&long, false, 1000), Duration::ZERO), None, "no such reason");
        assert_eq!(read(&Sample { kept: 129, ..sample(&long, false, stale) }, Duration::ZERO), None);
    }
}
