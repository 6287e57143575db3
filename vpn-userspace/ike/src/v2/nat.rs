//! NAT detection (RFC 7296 2.23).

use std::net::{IpAddr, SocketAddr};

use culvert_crypto::{Random, sha1};

use crate::wire::{Body, Chain, Notify, Payload, notify};

/// SHA-1(SPIi | SPIr | address | port).
fn hash(spi_i: u64, spi_r: u64, addr: SocketAddr) -> [u8; 20] {
    let (four, six);
    let ip: &[u8] = match addr.ip() {
        IpAddr::V4(a) => {
            four = a.octets();
            &four
        }
        IpAddr::V6(a) => {
            six = a.octets();
            &six
        }
    };
    sha1(&[&spi_i.to_be_bytes(), &spi_r.to_be_bytes(), ip, &addr.port().to_be_bytes()])
}

/// Adds both notifications for a message from `local` to `remote`. With `lie` the source is made up, so that
/// the peer believes in a NAT and takes and sends ESP in UDP.
pub(crate) fn announce(
    chain: &mut Chain,
    random: &mut dyn Random,
    (spi_i, spi_r): (u64, u64),
    (local, remote): (SocketAddr, SocketAddr),
    lie: bool,
) {
    let mut source = hash(spi_i, spi_r, local);
    if lie {
        random.fill(&mut source);
    }
    chain.push(&Payload::Notify(Notify::new(notify::NAT_DETECTION_SOURCE_IP, &source)));
    let destination = hash(spi_i, spi_r, remote);
    chain.push(&Payload::Notify(Notify::new(notify::NAT_DETECTION_DESTINATION_IP, &destination)));
}

/// What the peer's notifications tell of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// The peer knows NAT traversal.
    pub(crate) supported: bool,
    /// We are behind a NAT: the peer sent to another address than ours.
    pub(crate) local: bool,
    /// The peer is behind a NAT: it sent from none of the addresses that it names.
    pub(crate) remote: bool,
}

/// Reads the notifications of a message that came to `local` from `remote`.
pub(crate) fn detect(body: &Body<'_>, spis: (u64, u64), local: SocketAddr, remote: SocketAddr) -> Found {
    let all = |kind| body.notifies().filter(move |n| n.kind == kind);
    let matches = |kind, addr| all(kind).any(|n| n.data == hash(spis.0, spis.1, addr));
    let (source, destination) = (notify::NAT_DETECTION_SOURCE_IP, notify::NAT_DETECTION_DESTINATION_IP);
    let supported = all(source).next().is_some() && all(destination).next().is_some();
    Found {
        supported,
        local: supported && !matches(destination, local),
        remote: supported && !matches(source, remote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0x5a);
        }
    }

    #[test]
    fn nats_are_seen_from_both_sides() {
        for (a, b) in [("192.0.2.1:500", "192.0.2.2:500"), ("[2001:db8::1]:500", "[2001:db8::2]:500")] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let moved = SocketAddr::new(a.ip(), 1024);
            let see = |lie, to, from| {
                let mut chain = Chain::new();
                announce(&mut chain, &mut Fixed, (1, 2), (a, b), lie);
                let found = detect(&Body::parse(chain.first(), chain.bytes()).unwrap(), (1, 2), to, from);
                assert!(found.supported);
                (found.local, found.remote)
            };
            assert_eq!(see(false, b, a), (false, false));
            assert_eq!(see(false, b, moved), (false, true));
            assert_eq!(see(false, moved, a), (true, false));
            assert_eq!(see(true, b, a), (false, true));
        }
        let none = Chain::new();
        let found = detect(
            &Body::parse(none.first(), none.bytes()).unwrap(),
            (1, 2),
            "192.0.2.1:500".parse().unwrap(),
            "192.0.2.2:500".parse().unwrap(),
        );
        assert_eq!(found, Found { supported: false, local: false, remote: false });
    }

    /// RFC 7296 2.23's octets, put together by hand.
    #[test]
    fn the_hash_is_over_spis_address_and_port() {
        let octets = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 192, 0, 2, 1, 0x01, 0xf4];
        assert_eq!(hash(1, 2, "192.0.2.1:500".parse().unwrap()), sha1(&[&octets]));
    }
}
