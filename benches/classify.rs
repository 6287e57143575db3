//! The classifier's judgement of a packet, in user space: the same code that runs under XDP and TC, with tables of one
//! SA and of ten thousand.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use culvert_ebpf_shared::layout::{Sa, SaKey};
use culvert_ebpf_shared::{Address, Admission, Tables, judge, parse_ethernet, testing};

const LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

struct Maps {
    sas: HashMap<SaKey, Sa>,
    local: Address,
}

impl Tables for Maps {
    fn is_local(&self, address: &Address) -> bool {
        *address == self.local
    }

    fn sa(&self, key: &SaKey) -> Option<&Sa> {
        self.sas.get(key)
    }

    fn is_proven(&self, _: &Address) -> bool {
        true
    }

    fn admit(&self, _: &Address) -> Admission {
        Admission::Admitted
    }
}

fn maps(count: u32) -> Maps {
    let local = Address::from(IpAddr::from(LOCAL));
    let sa = |number| {
        let sa = Sa {
            remote: Address::from(IpAddr::from(PEER)),
            local,
            floor: 0,
            slot: number,
            min_len: 32,
            align_mask: 3,
            flags: Sa::ESN,
            path: Sa::PATH_STACK,
            worker: 0,
        };
        (SaKey((0xc000_0000 + number).to_be()), sa)
    };
    Maps { sas: (0..count).map(sa).collect(), local }
}

fn classify(c: &mut Criterion) {
    let frame = |ports, payload: &[u8]| {
        let udp = testing::udp(PEER.into(), LOCAL.into(), ports, payload);
        testing::ethernet([2; 6], [4; 6], &[], &testing::ip(PEER.into(), LOCAL.into(), 17, &udp))
    };
    let mut group = c.benchmark_group("classify");
    for count in [1, 10_000] {
        let maps = maps(count);
        let spi = 0xc000_0000 + count / 2;
        for (name, frame) in [
            ("ESP in UDP, 1432 bytes", frame((4500, 4500), &testing::esp(spi, 77, 1432))),
            ("ESP in UDP, unknown SPI", frame((4500, 4500), &testing::esp(0xdead_beef, 77, 100))),
            ("IKE", frame((500, 500), &testing::ike(300))),
            ("neither", frame((4000, 4000), &[7; 300])),
        ] {
            group.bench_function(format!("{name}, {count} SAs"), |b| {
                b.iter(|| judge(&parse_ethernet(black_box(frame.as_slice())), black_box(&maps)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, classify);
criterion_main!(benches);
