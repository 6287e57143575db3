//! The judge against ordinary collections: one packet, one reason.
use culvert_ebpf_shared::judge::NO_SLOT;
use culvert_ebpf_shared::layout::{Sa, SaKey};
use culvert_ebpf_shared::testing::{esp, ike, ip, udp};
use culvert_ebpf_shared::{Address, Admission, Reason, Tables, judge, parse_ip};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

struct World {
    locals: HashSet<Address>,
    proven: HashSet<Address>,
    sas: HashMap<SaKey, Sa>,
    admission: Admission,
}

impl Tables for World {
    fn is_local(&self, address: &Address) -> bool {
        self.locals.contains(address)
    }

    fn sa(&self, key: &SaKey) -> Option<&Sa> {
        self.sas.get(key)
    }

    fn is_proven(&self, address: &Address) -> bool {
        self.proven.contains(address)
    }

    fn admit(&self, _: &Address) -> Admission {
        self.admission
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const SPI: u32 = 0x1000;
const ROAMING: u32 = 0x1001;

/// Gateway 192.0.2.1 (and 192.0.2.9), peer 198.51.100.1; packets of 44 + 16 n bytes; floor 1000.
fn world() -> World {
    let sa = Sa {
        remote: address("198.51.100.1").into(),
        local: address("192.0.2.1").into(),
        floor: 1000,
        slot: 3,
        min_len: 44,
        align_mask: 15,
        flags: Sa::ESN,
        path: Sa::PATH_XSK,
        worker: 1,
    };
    let roaming = Sa { remote: Address::UNSPECIFIED, flags: Sa::ANY_REMOTE, slot: 4, ..sa };
    World {
        locals: ["192.0.2.1", "192.0.2.9", "2001:db8::1"].map(|text| address(text).into()).into(),
        proven: [address("198.51.100.1").into()].into(),
        sas: [(SaKey(SPI.to_be()), sa), (SaKey(ROAMING.to_be()), roaming)].into(),
        admission: Admission::Admitted,
    }
}

fn reason(world: &World, source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Reason {
    let packet = ip(address(source), address(destination), protocol, payload);
    let judgement = judge(&parse_ip(packet.as_slice(), 0), world);
    assert_eq!((judgement.slot != NO_SLOT), judgement.reason == Reason::Esp);
    let path = if judgement.reason == Reason::Esp { (Sa::PATH_XSK, 1) } else { (Sa::PATH_STACK, 0) };
    assert_eq!((judgement.path, judgement.worker), path);
    judgement.reason
}

#[test]
fn esp_against_its_sa() {
    let world = world();
    let (peer, gateway) = ("198.51.100.1", "192.0.2.1");
    for (source, destination, spi, sequence, len, expected) in [
        (peer, gateway, SPI, 1000, 44, Reason::Esp),
        (peer, gateway, SPI, 5000, 44 + 160, Reason::Esp),
        (peer, gateway, SPI, 999, 44, Reason::Stale),
        (peer, gateway, SPI, 5000, 43, Reason::EspShort),
        (peer, gateway, SPI, 5000, 45, Reason::EspMisaligned),
        (peer, gateway, SPI, 5000, 52, Reason::EspMisaligned),
        (peer, gateway, 0x9999, 5000, 44, Reason::UnknownSpi),
        (peer, gateway, 1, 5000, 44, Reason::UnknownSpi),
        ("198.51.100.2", gateway, SPI, 5000, 44, Reason::WrongSource),
        (peer, "192.0.2.9", SPI, 5000, 44, Reason::WrongDestination),
        (peer, "192.0.2.77", SPI, 5000, 44, Reason::NotLocal),
        ("203.0.113.5", gateway, ROAMING, 5000, 44, Reason::Esp),
    ] {
        let packet = esp(spi, sequence, len);
        assert_eq!(
            reason(&world, source, destination, 50, &packet),
            expected,
            "{source} {spi:x} {sequence} {len}"
        );
        let datagram = udp(address(source), address(destination), (4500, 4500), &packet);
        assert_eq!(reason(&world, source, destination, 17, &datagram), expected, "in UDP");
    }
}

#[test]
fn ike_by_source() {
    let mut world = world();
    let message = |source: &str, len| udp(address(source), address("192.0.2.1"), (500, 500), &ike(len));
    let ask =
        |world: &World, source: &str, len| reason(world, source, "192.0.2.1", 17, &message(source, len));
    assert_eq!(ask(&world, "203.0.113.1", 28), Reason::Ike);
    assert_eq!(ask(&world, "203.0.113.1", 27), Reason::IkeShort);
    assert_eq!(ask(&world, "198.51.100.1", 300), Reason::IkeProven);
    world.admission = Admission::SourceRate;
    assert_eq!(ask(&world, "203.0.113.1", 28), Reason::IkeSourceRate);
    assert_eq!(ask(&world, "198.51.100.1", 300), Reason::IkeProven);
    world.admission = Admission::Ceiling;
    assert_eq!(ask(&world, "203.0.113.1", 28), Reason::IkeCeiling);
}

#[test]
fn what_is_not_ours_passes() {
    let world = world();
    assert_eq!(reason(&world, "203.0.113.1", "192.0.2.1", 6, &[0; 20]), Reason::Other);
    let keepalive = |to: &str| udp(address("203.0.113.1"), address(to), (4500, 4500), &[0xff]);
    assert_eq!(reason(&world, "203.0.113.1", "192.0.2.1", 17, &keepalive("192.0.2.1")), Reason::Keepalive);
    assert_eq!(reason(&world, "203.0.113.1", "192.0.2.50", 17, &keepalive("192.0.2.50")), Reason::NotLocal);
}
