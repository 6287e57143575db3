//! From the peer out of the tunnel: what is opened and delivered, as what, and what is dropped, under which name.

use culvert_dataplane::Engine;
use culvert_ebpf_shared::testing::{ip, marked, udp};
use culvert_esp::tunnel::Ecn;

use crate::bench::{Bench, Expect};
use crate::esp::Sealed;
use crate::packets::{Make, cut, numbered, routed, with_ecn};

const FROM: &str = "10.2.0.9";
const TO: &str = "10.1.0.2";
const FROM6: &str = "fd02::9";
const TO6: &str = "fd01::2";

fn v4(len: usize) -> Make {
    Make::new(FROM, TO, len)
}

fn v6(len: usize) -> Make {
    Make::new(FROM6, TO6, len)
}

/// How the kernel counts what does not authenticate, what it saw before, and what it cannot make sense of.
const KERNEL_FORGED: &[&str] = &["XfrmInStateProtoError", "not-accepted", "not-authentic"];
const KERNEL_REPLAYED: &[&str] = &["XfrmInStateSeqError", "not-accepted", "replay-duplicate"];
const KERNEL_SENSELESS: &[&str] = &["XfrmInStateProtoError", "not-accepted"];

fn delivered(packet: &[u8]) -> Expect {
    Expect::Delivered(vec![routed(packet)])
}

pub(crate) fn cases(bench: &mut Bench) {
    sizes(bench);
    congestion(bench);
    odd(bench);
    trailers(bench);
    selectors(bench);
    forgeries(bench);
    ports(bench);
    segment_size(bench);
}

fn sizes(bench: &mut Bench) {
    let mtu = bench.path.mtu();
    for make in [v4, v6] {
        for len in (48..66).chain([576, 1280, mtu]) {
            let packet = make(len).udp();
            bench.inn(&format!("UDP in IPv{}, {len} bytes", packet[0] >> 4), &packet, &delivered(&packet));
        }
        let packet = make(100).carrying(253, &numbered(40));
        bench.inn("an unknown protocol", &packet, &delivered(&packet));
    }
    // The peer may have a larger mtu than we.
    let packet = v4(mtu + 10).df().udp();
    bench.inn("more than our own MTU", &packet, &delivered(&packet));
}

fn congestion(bench: &mut Bench) {
    for make in [v4, v6] {
        let version = make(60).udp()[0] >> 4;
        for inner in 0..4 {
            for outer in 0..4 {
                let packet = make(100).tos(0x28 | inner).udp();
                let name = format!("ECN {inner} in {outer}, IPv{version}");
                let by_the_book = match Ecn::decapsulate(Ecn::of(inner), Ecn::of(outer)) {
                    Some(ecn) => delivered(&with_ecn(&packet, ecn.bits())),
                    None => Expect::Dropped(&["ecn-drop"]),
                };
                // The kernel knows CE alone (RFC 3168 9.1), and never drops.
                let marked = if outer == 3 && inner != 0 { 3 } else { inner };
                let expect = bench.kernel(by_the_book, delivered(&with_ecn(&packet, marked)));
                // The DSCP outside is the path's, not the packet's.
                bench.inn_marked(&name, &packet, 0xb8 | outer, &expect);
            }
        }
    }
}

fn odd(bench: &mut Bench) {
    let options = v4(0).odd(&[1, 1, 1, 0], 0, false, &numbered(64));
    bench.inn("options", &options, &delivered(&options));
    for (offset, more) in [(0, true), (64, true), (128, false)] {
        let fragment = v4(0).odd(&[], offset, more, &numbered(64));
        bench.inn(&format!("a fragment at {offset}"), &fragment, &delivered(&fragment));
        let fragment = v6(0).fragment6(offset, more, &numbered(64));
        bench.inn(&format!("a fragment of IPv6 at {offset}"), &fragment, &delivered(&fragment));
    }
    for number in [0, 60] {
        let packet = v6(0).extended(number);
        bench.inn(&format!("extension header {number}"), &packet, &delivered(&packet));
    }
    bench.inn("TTL 1", &v4(100).ttl(1).udp(), &Expect::Told(11, 0, 0));
    bench.inn("hop limit 1", &v6(100).ttl(1).udp(), &Expect::Told(3, 0, 0));

    // Whole outside only when put together; the second is inside too large for the host's link.
    let link = bench.path.link_mtu();
    for (len, mtu) in [(1300, 576), (2 * link, link)] {
        // eBPF opens no packet that is larger than a frame.
        if bench.path.outer_ipv6 || bench.engine == Engine::Bpf && len > link {
            continue;
        }
        let packet = v4(len).udp();
        let esp = bench.peer.seal(&Sealed::new(&packet));
        let pieces = cut(&bench.outer(&esp, 0), mtu);
        let (last, first) = pieces.split_last().unwrap();
        first.iter().for_each(|piece| bench.wan_quietly(piece));
        let routed = routed(&packet);
        let whole = if len > link { cut(&routed, link) } else { vec![routed] };
        bench.wan(&format!("{} fragments outside", pieces.len()), last, &Expect::Delivered(whole));
    }
}

fn trailers(bench: &mut Bench) {
    let packet = v4(100).udp();
    let right = Sealed::new(&packet);
    let good = [
        ("more padding than needed", Sealed { padding: Some((1..=18).collect()), ..right.clone() }),
        ("traffic-flow padding", Sealed { flow_padding: 100, ..right.clone() }),
        ("much traffic-flow padding", Sealed { flow_padding: 1000, ..right.clone() }),
    ];
    for (name, what) in good {
        // 100 + 18 + 2 is a multiple of 4, and with 16 needed one is made of it.
        let what = match what.padding {
            Some(_) => Sealed { padding: Some(padding_to(&what, 32)), ..what },
            None => what,
        };
        let esp = bench.peer.seal(&what);
        bench.esp(name, &esp, 0, &delivered(&packet));
    }
    let zeroes =
        Sealed { padding: Some(vec![0; padding_to(&right, 16).len()]), ..Sealed::new(&v4(98).udp()) };
    let zeroes = Sealed { padding: Some(vec![0; padding_to(&zeroes, 32).len()]), ..zeroes };
    let six = v6(100).udp();
    // The kernel does not look at padding (RFC 4303 2.4: "should"), and drops the rest under one name.
    let padded = bench.kernel(Expect::Dropped(&["bad-padding"]), delivered(&zeroes.inner));
    let esp = bench.peer.seal(&zeroes);
    bench.esp("padding of zeroes", &esp, 0, &padded);
    type Names = &'static [&'static str];
    let wrong: [(&str, Sealed, Names, Option<Names>); 7] = [
        (
            "more padding told than there is",
            Sealed { told: Some(255), ..right.clone() },
            &["bad-padding"],
            Some(KERNEL_SENSELESS),
        ),
        ("a dummy", Sealed { next_header: Some(59), ..right.clone() }, &["dummy"], Some(KERNEL_SENSELESS)),
        (
            "TCP without IP",
            Sealed { next_header: Some(6), ..right.clone() },
            &["next-header"],
            Some(&["XfrmInStateModeError", "not-accepted"]),
        ),
        // These go on to IP, which drops them without a counter of IPsec.
        (
            "IPv6 said to be IPv4",
            Sealed { next_header: Some(4), ..Sealed::new(&six) },
            &["inner-malformed"],
            None,
        ),
        (
            "IPv4 said to be IPv6",
            Sealed { next_header: Some(41), ..right.clone() },
            &["inner-malformed"],
            None,
        ),
        ("less than its header says", Sealed::new(&packet[..60]), &["inner-malformed"], None),
        ("no header", Sealed::new(&packet[..8]), &["inner-malformed"], None),
    ];
    for (name, what, reason, of_kernel) in wrong {
        let names = bench.kernel(Some(reason), of_kernel);
        let Some(names) = names else { continue };
        let esp = bench.peer.seal(&what);
        bench.esp(name, &esp, 0, &Expect::Dropped(names));
    }
}

/// Padding that fills the text up to a multiple of `block` bytes.
fn padding_to(what: &Sealed, block: usize) -> Vec<u8> {
    let missing = (what.inner.len() + what.flow_padding + 2).wrapping_neg() & (block - 1);
    (1..=missing as u8).collect()
}

fn selectors(bench: &mut Bench) {
    let reason = bench.kernel(&["selector-mismatch"][..], &["XfrmInNoPols"]);
    for (name, packet) in [
        ("to a network that is not ours", Make::new(FROM, "10.9.0.2", 100).udp()),
        ("from a network that is not the peer's", Make::new("10.9.0.9", TO, 100).udp()),
        ("from our own network", Make::new(TO, TO, 100).udp()),
        ("IPv6 from a network that is not the peer's", Make::new("fd09::9", TO6, 100).udp()),
        ("to the WAN address", Make::new(FROM, "198.51.100.1", 100).udp()),
    ] {
        bench.inn(name, &packet, &Expect::Dropped(reason));
    }
}

fn forgeries(bench: &mut Bench) {
    let packet = v4(100).udp();
    let right = bench.peer.seal(&Sealed::new(&packet));
    let len = right.len();
    let not_authentic = bench.kernel(&["not-authentic"][..], KERNEL_FORGED);
    for at in [5, 8, 15, 16, 40, len - 17, len - 16, len - 1] {
        let mut wrong = right.clone();
        wrong[at] ^= 0x40;
        bench.esp(&format!("byte {at} changed"), &wrong, 0, &Expect::Dropped(not_authentic));
    }
    bench.esp("and the right one after all", &right, 0, &delivered(&packet));
    let replayed = bench.kernel(&["replay-duplicate"][..], KERNEL_REPLAYED);
    bench.esp("the same once more", &right, 0, &Expect::Dropped(replayed));

    let mut unknown = bench.peer.seal(&Sealed::new(&packet));
    unknown[2] ^= 0x80;
    bench.esp(
        "of an unknown SPI",
        &unknown,
        0,
        &Expect::Dropped(bench.kernel(&["unknown-spi"], &["XfrmInNoStates"])),
    );
    let whole = bench.peer.seal(&Sealed::new(&packet));
    let short = bench.kernel(&["esp-short"][..], KERNEL_SENSELESS);
    // The kernel's UDP socket drops what ends before the cipher's IV without a counter.
    let shortest = if bench.is_kernel() && bench.path.encap { 24 } else { 9 };
    for keep in [9, 16, 24].into_iter().filter(|keep| *keep >= shortest) {
        bench.esp(&format!("its first {keep} bytes"), &whole[..keep], 0, &Expect::Dropped(short));
    }
    // The kernel does not look at the alignment, but at the check value.
    let misaligned = bench.kernel(&["esp-misaligned"][..], KERNEL_FORGED);
    bench.esp("a byte less", &whole[..whole.len() - 1], 0, &Expect::Dropped(misaligned));
    bench.esp("the whole", &whole, 0, &delivered(&packet));
}

fn ports(bench: &mut Bench) {
    let (peer, ours) = bench.ends();
    if !bench.path.encap {
        return;
    }
    let wrapped = |payload: &[u8], port| ip(peer, ours, 17, &udp(peer, ours, (port, 4500), payload));
    let message = culvert_ebpf_shared::testing::ike(60);
    bench.wan("IKE", &wrapped(&marked(&message), 4500), &Expect::Ike(message.clone()));
    bench.wan("IKE from another port", &wrapped(&marked(&message), 1024), &Expect::Ike(message));
    if !bench.is_kernel() {
        // The kernel's socket takes them without a counter.
        // Where the guard stands before the WAN, it drops them first.
        let guarded = bench.is_guarded();
        let keepalive: &'static [&'static str] = if guarded { &["nat-keepalive"] } else { &["keepalive"] };
        bench.wan("a keepalive", &wrapped(&[0xff], 4500), &Expect::Dropped(keepalive));
        let runt: &'static [&'static str] = if guarded { &["malformed"] } else { &["runt"] };
        bench.wan("three bytes", &wrapped(&[1, 2, 3], 4500), &Expect::Dropped(runt));
    }
    // A NAT in between may give the peer another port at any time: what authenticates is delivered.
    let packet = v4(100).udp();
    let esp = bench.peer.seal(&Sealed::new(&packet));
    bench.wan("from another port", &wrapped(&esp, 4511), &delivered(&packet));
    let esp = bench.peer.seal(&Sealed::new(&packet));
    bench.wan("from the port as before", &wrapped(&esp, 4500), &delivered(&packet));
}

fn segment_size(bench: &mut Bench) {
    let mtu = bench.path.mtu();
    for (make, headers) in [(v4 as fn(usize) -> Make, 40), (v6, 60)] {
        let most = (mtu - headers) as u16;
        for offered in [1460, most, 536] {
            let (packet, want) = (make(0).syn(offered), make(0).syn(offered.min(most)));
            let name = format!("SYN that offers {offered} in IPv{}", packet[0] >> 4);
            bench.inn(&name, &packet, &delivered(&want));
        }
    }
}

/// The replay window and extended sequence numbers across 2^32 (RFC 4303 appendix A).
pub(crate) fn sequence_numbers(bench: &mut Bench) {
    let packet = v4(100).udp();
    let numbered = |sequence| Sealed { sequence: Some(sequence), ..Sealed::new(&v4(100).udp()) };
    let replayed = bench.kernel(&["replay-duplicate"][..], KERNEL_REPLAYED);
    // What is left of the window counts as far ahead, and then does not authenticate (RFC 4303 A2.2).
    let old = bench.kernel(&["not-authentic"][..], KERNEL_FORGED);
    let top = bench.peer.sequence + 5000;
    for (name, sequence, expect) in [
        ("a leap ahead", top, delivered(&packet)),
        ("the last that the window takes", top - 1023, delivered(&packet)),
        ("the same again", top - 1023, Expect::Dropped(replayed)),
        ("just too old", top - 1024, Expect::Dropped(old)),
        ("number 0", 0, Expect::Dropped(old)),
        ("almost 2^32", 0xffff_fffe, delivered(&packet)),
        ("two further", 0x1_0000_0000, delivered(&packet)),
        ("the one left out", 0xffff_ffff, delivered(&packet)),
        ("one further", 0x1_0000_0001, delivered(&packet)),
        ("before 2^32, again", 0xffff_fffe, Expect::Dropped(replayed)),
        ("2^32, again", 0x1_0000_0000, Expect::Dropped(replayed)),
        ("far beyond 2^32", 0x1_0001_0000, delivered(&packet)),
    ] {
        let esp = bench.peer.seal(&numbered(sequence));
        bench.esp(name, &esp, 0, &expect);
    }
}
