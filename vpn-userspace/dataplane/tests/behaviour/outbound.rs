//! From the host into the tunnel: what is sealed, as what, and what is refused.

use crate::bench::{Bench, Expect};
use crate::packets::{Make, cut, numbered, routed};

const FROM: &str = "10.1.0.2";
const TO: &str = "10.2.0.9";
const FROM6: &str = "fd01::2";
const TO6: &str = "fd02::9";

fn v4(len: usize) -> Make {
    Make::new(FROM, TO, len)
}

fn v6(len: usize) -> Make {
    Make::new(FROM6, TO6, len)
}

fn sealed(class: u8, packet: &[u8]) -> Expect {
    Expect::Sealed(class, vec![routed(packet)])
}

pub(crate) fn cases(bench: &mut Bench) {
    sizes(bench);
    headers(bench);
    too_big(bench);
    odd(bench);
    refused(bench);
    segment_size(bench);
}

fn sizes(bench: &mut Bench) {
    let mtu = bench.path.mtu();
    for make in [v4, v6] {
        // Each alignment of the cipher's block, the smallest and the largest.
        for len in (48..66).chain([576, 1280, mtu - 1, mtu]) {
            let packet = make(len).udp();
            bench.out(&format!("UDP in IPv{}, {len} bytes", packet[0] >> 4), &packet, &sealed(0, &packet));
        }
        for protocol in [0, 1, 47, 50, 132, 253] {
            // An upper-layer protocol that nobody here knows is carried like any other.
            let number = if protocol == 0 { 254 } else { protocol };
            let packet = make(100).carrying(number, &numbered(40));
            bench.out(&format!("protocol {number}"), &packet, &sealed(0, &packet));
        }
    }
}

fn headers(bench: &mut Bench) {
    for make in [v4, v6] {
        let version = make(60).udp()[0] >> 4;
        for tos in [0x01, 0x02, 0x03, 0xb8, 0xb9, 0x28, 0xfe] {
            let packet = make(200).tos(tos).udp();
            // RFC 6040 4.1, normal mode: copied. The kernel writes ECT(0) for CE (RFC 3168 9.1.1).
            let class = bench.kernel(tos, if tos & 3 == 3 { tos & 0xfc | 2 } else { tos });
            bench.out(&format!("traffic class {tos:#04x} in IPv{version}"), &packet, &sealed(class, &packet));
        }
        let packet = make(200).ttl(2).udp();
        bench.out(&format!("the last hop but one in IPv{version}"), &packet, &sealed(0, &packet));
    }
    let packet = v4(200).df().udp();
    bench.out("DF", &packet, &sealed(0, &packet));
    bench.out("TTL 1", &v4(200).ttl(1).udp(), &Expect::Told(11, 0, 0));
    bench.out("hop limit 1", &v6(200).ttl(1).udp(), &Expect::Told(3, 0, 0));
}

fn too_big(bench: &mut Bench) {
    let (mtu, link) = (bench.path.mtu(), bench.path.link_mtu());
    bench.out("DF and a byte too long", &v4(mtu + 1).df().udp(), &Expect::Told(3, 4, mtu as u32));
    bench.out("DF and the link's MTU", &v4(link).df().udp(), &Expect::Told(3, 4, mtu as u32));
    bench.out("IPv6 and a byte too long", &v6(mtu + 1).udp(), &Expect::Told(2, 0, mtu as u32));
    for len in [mtu + 1, link] {
        let packet = v4(len).udp();
        let fragments = cut(&routed(&packet), mtu);
        assert_eq!(fragments.len(), 2);
        bench.out(&format!("{len} bytes without DF"), &packet, &Expect::Sealed(0, fragments));
    }
}

fn odd(bench: &mut Bench) {
    for (name, options) in [
        ("no-operation options", &[1, 1, 1, 0][..]),
        ("an option that nobody knows", &[0x9e, 8, 1, 2, 3, 4, 5, 6]),
        ("the most options that fit", &[1; 40]),
    ] {
        let packet = v4(0).odd(options, 0, false, &numbered(64));
        bench.out(name, &packet, &sealed(0, &packet));
    }
    for (name, offset, more) in
        [("a first fragment", 0, true), ("a middle fragment", 64, true), ("a last fragment", 128, false)]
    {
        let packet = v4(0).odd(&[], offset, more, &numbered(64));
        bench.out(name, &packet, &sealed(0, &packet));
        let packet = v6(0).fragment6(offset, more, &numbered(64));
        bench.out(&format!("{name} of IPv6"), &packet, &sealed(0, &packet));
    }
    for (name, number) in [("hop-by-hop options", 0), ("destination options", 60)] {
        let packet = v6(0).extended(number);
        bench.out(name, &packet, &sealed(0, &packet));
    }
}

fn refused(bench: &mut Bench) {
    // RFC 4301 6: "administratively prohibited". The kernel says that the host cannot be reached.
    let told = bench.kernel(Expect::Told(3, 13, 0), Expect::Told(3, 1, 0));
    let told6 = bench.kernel(Expect::Told(1, 1, 0), Expect::Told(1, 3, 0));
    bench.out("to a network of no selector", &Make::new(FROM, "10.3.0.9", 100).udp(), &told);
    bench.out("to an IPv6 network of no selector", &Make::new(FROM6, "fd03::9", 100).udp(), &told6);
}

fn segment_size(bench: &mut Bench) {
    let mtu = bench.path.mtu();
    for (make, headers) in [(v4 as fn(usize) -> Make, 40), (v6, 60)] {
        let most = (mtu - headers) as u16;
        for offered in [most + 60, most + 1, most, 536] {
            let packet = make(0).syn(offered);
            let want = routed(&make(0).syn(offered.min(most)));
            bench.out(
                &format!("SYN that offers {offered} in IPv{}", packet[0] >> 4),
                &packet,
                &Expect::Sealed(0, vec![want]),
            );
        }
    }
}
