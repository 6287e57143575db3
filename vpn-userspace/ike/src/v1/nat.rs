//! NAT detection and what it means for the path (RFC 3947 3 and 4, draft-ietf-ipsec-nat-t-ike-02 and 03).

use std::net::{IpAddr, SocketAddr};

use culvert_crypto::{Prf, Random};

use super::keys::digest;
use super::proposal::encapsulation;
use super::vendor::Natt;
use crate::PeerConfig;
use crate::ctx::Path;
use crate::wire::v1::{Body, Chain, Payload};

/// HASH(CKY-I | CKY-R | address | port), with the hash that was negotiated.
fn hash(prf: Prf, (cookie_i, cookie_r): (u64, u64), addr: SocketAddr) -> Vec<u8> {
    let (ci, cr, port) = (cookie_i.to_be_bytes(), cookie_r.to_be_bytes(), addr.port().to_be_bytes());
    match addr.ip() {
        IpAddr::V4(ip) => digest(prf, &[&ci, &cr, &ip.octets(), &port]),
        IpAddr::V6(ip) => digest(prf, &[&ci, &cr, &ip.octets(), &port]),
    }
}

/// Adds the payloads of a message from `local` to `remote`: first the other end's, then our own. With `lie` ours is
/// made up, so that the peer believes in a NAT and takes and sends ESP in UDP.
pub(crate) fn announce(
    chain: &mut Chain,
    random: &mut dyn Random,
    natt: Natt,
    prf: Prf,
    cookies: (u64, u64),
    (local, remote): (SocketAddr, SocketAddr),
    lie: bool,
) {
    let draft = natt == Natt::Draft;
    chain.push(&Payload::NatD { draft, hash: &hash(prf, cookies, remote) });
    let mut source = hash(prf, cookies, local);
    if lie {
        random.fill(&mut source);
    }
    chain.push(&Payload::NatD { draft, hash: &source });
}

/// What the peer's payloads tell of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// The peer sent them.
    pub(crate) supported: bool,
    /// We are behind a NAT.
    pub(crate) local: bool,
    /// The peer is behind a NAT, or claims to be.
    pub(crate) remote: bool,
}

/// Reads the payloads of a message that came to `local` from `remote`.
pub(crate) fn detect(
    body: &Body<'_>,
    prf: Prf,
    cookies: (u64, u64),
    local: SocketAddr,
    remote: SocketAddr,
) -> Found {
    let mut all = body.nat_hashes();
    let Some(destination) = all.next() else {
        return Found { supported: false, local: false, remote: false };
    };
    let source = hash(prf, cookies, remote);
    let (mut any, mut same) = (false, false);
    for candidate in all {
        any = true;
        same |= candidate == source;
    }
    Found { supported: any, local: any && destination != hash(prf, cookies, local), remote: any && !same }
}

/// The path that detection leaves: with a NAT between, the initiator changes to port 4500 (RFC 3947 4).
pub(crate) fn path(
    config: &PeerConfig,
    found: Found,
    local: SocketAddr,
    remote: SocketAddr,
    initiator: bool,
) -> Path {
    let encap = found.supported && (found.local || found.remote || config.force_encap);
    // A phase 1 that takes the place of another is on the port already, and the peer's may be a NAT's.
    let (local, remote) = if encap && initiator && local != config.local_natt {
        (config.local_natt, SocketAddr::new(remote.ip(), config.remote_natt_port))
    } else {
        (local, remote)
    };
    Path { local, remote, nat_local: found.local, nat_remote: found.remote, encap }
}

/// The encapsulation attribute that goes with a path.
pub(crate) fn mode(path: &Path, natt: Option<Natt>) -> u16 {
    match natt {
        Some(Natt::Rfc) if path.encap => encapsulation::UDP_TUNNEL,
        Some(Natt::Draft) if path.encap => encapsulation::UDP_TUNNEL_DRAFT,
        _ => encapsulation::TUNNEL,
    }
}

/// Those that we take from a peer on a path: devices mix the numbers of the drafts and of the RFC.
pub(crate) fn modes(path: &Path) -> &'static [u16] {
    if path.encap {
        &[encapsulation::UDP_TUNNEL, encapsulation::UDP_TUNNEL_DRAFT]
    } else {
        &[encapsulation::TUNNEL]
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
            for natt in [Natt::Rfc, Natt::Draft] {
                let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
                let moved = SocketAddr::new(a.ip(), 1024);
                let see = |lie, to, from| {
                    let mut chain = Chain::new();
                    announce(&mut chain, &mut Fixed, natt, Prf::HmacSha256, (1, 2), (a, b), lie);
                    let body = Body::parse(chain.first(), chain.bytes(), false).unwrap();
                    let found = detect(&body, Prf::HmacSha256, (1, 2), to, from);
                    assert!(found.supported);
                    (found.local, found.remote)
                };
                assert_eq!(see(false, b, a), (false, false));
                assert_eq!(see(false, b, moved), (false, true));
                assert_eq!(see(false, moved, a), (true, false));
                assert_eq!(see(true, b, a), (false, true));
            }
        }
        let none = Body::parse(0, &[], false).unwrap();
        let a = "192.0.2.1:500".parse().unwrap();
        assert!(!detect(&none, Prf::HmacSha1, (1, 2), a, a).supported);
    }
}
