//! One behaviour: a corpus of packets through every engine and port, whose verdicts, bytes and counters must be those of
//! the book, whatever the path. Needs root.
//!
//! The rules are DESIGN's: RFC 4301 (selectors, headers), 4303 (ESP), 6040 (ECN), 3948 (UDP), 1191 and 8201 (path MTU).
//! What the kernel's ESP does otherwise is said in the case, by [`Bench::kernel`]. Its paths, and those with VLANs, say
//! that they are skipped where the kernel has none; CULVERT_EXPECT_ESP=1 makes that a failure.

mod bench;
mod esp;
mod inbound;
mod outbound;
mod packets;
mod streams;
mod wire;

use bench::{Bench, Links, Path};
use culvert_dataplane::{EngineChoice, HookChoice, LanPortChoice, WanPortChoice};
use culvert_sys::probe::KernelEsp;

fn corpus(path: Path) {
    let mut bench = Bench::new(path);
    if path.wan_port == WanPortChoice::Xsk || path.lan_port == LanPortChoice::Xsk {
        bench.settle();
    }
    outbound::cases(&mut bench);
    inbound::cases(&mut bench);
    streams::cases(&mut bench);
    // Last: it moves the replay window far away.
    inbound::sequence_numbers(&mut bench);
    bench.finish();
}

fn user(suite: &'static str, encap: bool, outer_ipv6: bool) -> Path {
    Path {
        engine: EngineChoice::User,
        suite,
        encap,
        outer_ipv6,
        wan_port: WanPortChoice::Socket,
        lan_port: LanPortChoice::Tun,
        workers: 2,
        links: Links::Ethernet,
        hook: HookChoice::Tc,
        plainly: false,
    }
}

/// Links with VLAN tags, where the kernel has such devices.
fn tagged(path: Path) {
    let namespace = culvert_lab::Namespace::new("vlan").unwrap();
    namespace.ip("link add cable type veth peer name end").unwrap();
    if let Err(reason) = namespace.ip("link add link cable name tagged type vlan id 7") {
        assert!(std::env::var_os("CULVERT_EXPECT_ESP").is_none(), "this kernel should have VLANs: {reason}");
        println!("skipped: {reason}");
        return;
    }
    corpus(Path { links: Links::Tagged, ..path });
}

fn xfrm(suite: &'static str, encap: bool, outer_ipv6: bool) {
    if let Err(reason) = KernelEsp::probe().available() {
        assert!(std::env::var_os("CULVERT_EXPECT_ESP").is_none(), "this kernel should have ESP: {reason}");
        println!("skipped: {reason}");
        return;
    }
    corpus(Path { engine: EngineChoice::Xfrm, workers: 1, ..user(suite, encap, outer_ipv6) });
}

#[test]
fn user_tun_udp() {
    corpus(user("aes128gcm16", true, false));
}

#[test]
fn user_tun_udp_without_offloads() {
    corpus(Path { workers: 1, plainly: true, ..user("aes128ctr-sha512", true, false) });
}

#[test]
fn user_tun_udp_ipv6() {
    corpus(user("chacha20poly1305", true, true));
}

#[test]
fn user_tun_udp_tagged() {
    tagged(user("aes128gcm16", true, false));
}

#[test]
fn user_tun_udp_jumbo() {
    corpus(Path { links: Links::Jumbo, ..user("aes256gcm16", true, false) });
}

#[test]
fn user_tun_raw_jumbo_ipv6() {
    corpus(Path { links: Links::Jumbo, ..user("chacha20poly1305", false, true) });
}

#[test]
fn user_tun_raw() {
    corpus(user("aes256-sha256", false, false));
}

#[test]
fn user_tun_raw_ipv6() {
    corpus(user("aes256gcm16", false, true));
}

#[test]
fn user_tun_xsk() {
    corpus(Path { wan_port: WanPortChoice::Xsk, ..user("aes128gcm16", false, false) });
}

#[test]
fn user_tun_xsk_udp_ipv6() {
    corpus(Path { wan_port: WanPortChoice::Xsk, ..user("aes256gcm16", true, true) });
}

#[test]
fn user_xsk_udp() {
    corpus(Path { lan_port: LanPortChoice::Xsk, ..user("aes256gcm16", true, true) });
}

#[test]
fn user_xsk_xsk() {
    let both = Path { wan_port: WanPortChoice::Xsk, ..user("aes256-sha256", false, false) };
    corpus(Path { lan_port: LanPortChoice::Xsk, ..both });
}

#[test]
fn bpf_udp() {
    corpus(Path { engine: EngineChoice::Bpf, ..user("chacha20poly1305", true, false) });
}

#[test]
fn bpf_plain() {
    corpus(Path { engine: EngineChoice::Bpf, ..user("chacha20poly1305", false, false) });
}

#[test]
fn bpf_plain_ipv6() {
    corpus(Path { engine: EngineChoice::Bpf, ..user("chacha20poly1305", false, true) });
}

fn bpf_xdp(encap: bool, outer_ipv6: bool) {
    let bpf = Path { engine: EngineChoice::Bpf, ..user("chacha20poly1305", encap, outer_ipv6) };
    corpus(Path { hook: HookChoice::Xdp, ..bpf });
}

#[test]
fn bpf_xdp_udp() {
    bpf_xdp(true, false);
}

#[test]
fn bpf_xdp_plain() {
    bpf_xdp(false, false);
}

#[test]
fn bpf_xdp_plain_ipv6() {
    bpf_xdp(false, true);
}

#[test]
fn xfrm_udp() {
    xfrm("aes128gcm16", true, false);
}

#[test]
fn xfrm_plain() {
    xfrm("aes256-sha256", false, false);
}

#[test]
fn xfrm_plain_ipv6() {
    xfrm("aes256gcm16", false, true);
}
