//! Many packets at once, as they meet segmentation and receive offloads: each arrives as it was sent, once, in order.

use crate::bench::{Bench, Expect};
use crate::esp::Sealed;
use crate::packets::{Make, numbered, routed};

const HOSTS: [(&str, &str); 2] = [("10.1.0.2", "10.2.0.9"), ("fd01::2", "fd02::9")];

/// A small generator of numbers (xorshift64*): the same every time, so that a failure comes again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

pub(crate) fn cases(bench: &mut Bench) {
    for (host, far) in HOSTS {
        let family = if host.contains(':') { "IPv6" } else { "IPv4" };
        for (name, packets) in streams(host, far) {
            let all: Vec<Vec<u8>> = packets.iter().map(|p| routed(p)).collect();
            bench.out_many(&format!("{name}, {family}, out"), &packets, &Expect::Sealed(0, all));
        }
        for (name, packets) in streams(far, host) {
            let esp: Vec<Vec<u8>> = packets.iter().map(|p| bench.peer.seal(&Sealed::new(p))).collect();
            let all = packets.iter().map(|p| routed(p)).collect();
            bench.esp_many(&format!("{name}, {family}, in"), &esp, &Expect::Delivered(all));
        }
    }
    mixture(bench);
}

fn streams(from: &str, to: &str) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let make = |len| Make::new(from, to, len);
    let udp = |len: usize| (0..24).map(|_| make(len).udp()).collect();
    let tcp = |lens: &[usize], flags: &[u8]| {
        let mut sequence: u32 = 0xffff_f000;
        let segment = |(len, flags): (&usize, &u8)| {
            let s = segment(&make(0), sequence, *flags, *len);
            sequence = sequence.wrapping_add(*len as u32);
            s
        };
        lens.iter().zip(flags.iter().cycle()).map(segment).collect::<Vec<_>>()
    };
    vec![
        ("a UDP flow of equal sizes", udp(1200)),
        ("a UDP flow of small packets", udp(64)),
        ("a TCP flow", tcp(&[1300; 24], &[0x10])),
        ("a TCP flow that ends short", tcp(&[&[1000; 20][..], &[17]].concat(), &[0x10])),
        ("a TCP flow with PSH", tcp(&[500; 24], &[0x10, 0x10, 0x18])),
        ("a TCP flow of all sizes", tcp(&(1..24).map(|i| i * 50).collect::<Vec<_>>(), &[0x10])),
        ("a TCP flow with FIN", tcp(&[800, 800, 800, 800], &[0x10, 0x10, 0x10, 0x11])),
    ]
}

/// A TCP segment with timestamps.
fn segment(make: &Make, sequence: u32, flags: u8, len: usize) -> Vec<u8> {
    let mut segment = vec![0, 7, 0, 9];
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&[0, 0, 0, 1, 0x80, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    segment.extend(numbered(len));
    make.checked(6, 16, segment)
}

/// Flows, sizes and kinds as they come, by chance.
fn mixture(bench: &mut Bench) {
    let mtu = bench.path.mtu();
    let mut numbers = Numbers(0x0123_4567_89ab_cdef);
    for round in 0..12 {
        let mut sequences = [0u32; 4];
        let mut packets = Vec::new();
        for _ in 0..32 {
            let (host, far) = HOSTS[numbers.below(2)];
            let flow = numbers.below(4);
            let to =
                if host.contains(':') { format!("fd02::{flow}") } else { format!("10.2.0.{}", flow + 1) };
            assert_ne!(to, far);
            let make = Make::new(host, &to, 60 + numbers.below(mtu - 60 + 1));
            packets.push(match numbers.below(3) {
                0 => make.udp(),
                1 => make.df().udp(),
                _ => {
                    let len = numbers.below(1200);
                    let s = segment(&make, sequences[flow], 0x10, len);
                    sequences[flow] = sequences[flow].wrapping_add(len as u32);
                    s
                }
            });
        }
        // Order holds within a flow, and need not between flows.
        let all = packets.iter().map(|p| routed(p)).collect();
        bench.out_many(&format!("mixture {round}"), &packets, &Expect::SealedByFlow(all));
    }
}
