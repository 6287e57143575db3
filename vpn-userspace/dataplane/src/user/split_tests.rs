//! Segmentation against a plain reading of the RFCs, and against headers that lie.

use super::*;
use culvert_esp::checksum::transport_is_right;
use proptest::prelude::*;

/// A packet of either family with a TCP or UDP header, its checksum right.
pub(crate) fn packet(v6: bool, tcp: bool, fields: Fields, payload: &[u8]) -> Vec<u8> {
    let mut t = vec![0x13, 0x88, (fields.flow >> 8) as u8, fields.flow as u8];
    if tcp {
        t.extend(fields.sequence.to_be_bytes());
        t.extend([
            1,
            2,
            3,
            4,
            (((20 + fields.options.len()) / 4) << 4) as u8,
            fields.flags,
            0x20,
            0,
            0,
            0,
            0,
            0,
        ]);
        t.extend(fields.options);
    } else {
        t.extend(((8 + payload.len()) as u16).to_be_bytes());
        t.extend([0, 0]);
    }
    t.extend(payload);
    let protocol = if tcp { TCP } else { UDP };
    let mut p = if v6 {
        let mut p = vec![0x60, 0, 0, fields.flow as u8];
        p.extend((t.len() as u16).to_be_bytes());
        p.extend([protocol, 64]);
        p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p
    } else {
        let mut p = vec![0x45, 0];
        p.extend(((20 + t.len()) as u16).to_be_bytes());
        p.extend(fields.identification.to_be_bytes());
        p.extend([
            if fields.dont_fragment { 0x40 } else { 0 },
            0,
            64,
            protocol,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            9,
            0,
            2,
        ]);
        checksum::write_ipv4_header(&mut p);
        p
    };
    let (start, field) = (p.len(), if tcp { 16 } else { 6 });
    p.extend(t);
    let view = Packet::parse(&p).unwrap();
    let sum =
        checksum::sum(view.transport(), checksum::pseudo_header(view.header(), protocol, p.len() - start));
    let sum = checksum::finish(sum);
    p[start + field..start + field + 2].copy_from_slice(&sum);
    p
}

/// What differs between the packets of a test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) flow: u16,
    pub(crate) sequence: u32,
    pub(crate) identification: u16,
    pub(crate) flags: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) options: &'static [u8],
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            flow: 80,
            sequence: 0xffff_fff0,
            identification: 0xfffe,
            flags: 0x10,
            dont_fragment: true,
            options: &[],
        }
    }
}

/// A super-packet as Linux hands it over: the checksum is that of the pseudo-header.
fn super_packet(v6: bool, tcp: bool, fields: Fields, payload: &[u8], size: u16) -> (VnetHeader, Vec<u8>) {
    let mut p = packet(v6, tcp, fields, payload);
    let (start, offset) = (if v6 { 40 } else { 20 }, if tcp { 16 } else { 6 });
    let view = Packet::parse(&p).unwrap();
    let pseudo = checksum::pseudo_header(view.header(), view.protocol(), p.len() - start);
    p[start + offset..start + offset + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: match (tcp, v6) {
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        },
        hdr_len: (p.len() - payload.len()) as u16,
        gso_size: size,
        csum_start: start as u16,
        csum_offset: offset as u16,
    };
    (vnet, p)
}

/// Every packet that a read makes.
pub(crate) fn split_all(vnet: &VnetHeader, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
    let view = Packet::parse(bytes)?;
    Ok(match plan(vnet, &view, bytes.len())? {
        Plan::Single(single) => {
            let mut out = vec![0; single.len()];
            assert!(single.write(&mut out));
            vec![out]
        }
        Plan::Segments(segments) => (0..segments.count())
            .map(|i| {
                // Room beyond the packet must stay as it was.
                let mut out = vec![0xee; segments.len(i) + 9];
                assert!(segments.write(i, &mut out));
                assert_eq!(out.split_off(segments.len(i)), [0xee; 9]);
                out
            })
            .collect(),
    })
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[test]
fn segments_are_the_packets_that_the_sender_would_have_sent() {
    const TIMESTAMPS: &[u8] = &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for v6 in [false, true] {
        for (tcp, flags) in [(true, 0x99), (true, 0x10), (false, 0)] {
            let fields = Fields { flags, options: if tcp { TIMESTAMPS } else { &[] }, ..Fields::default() };
            for (len, size) in [(1, 1448), (1448, 1448), (1449, 1448), (5000, 1000), (64_000, 1432), (300, 7)]
            {
                let payload = data(len);
                let (vnet, bytes) = super_packet(v6, tcp, fields, &payload, size);
                if usize::from(size) > bytes.len() {
                    assert_eq!(split_all(&vnet, &bytes), Err(SplitError::SegmentSize(size)));
                    continue;
                }
                let got = split_all(&vnet, &bytes).unwrap();
                let pieces: Vec<_> = payload.chunks(size.into()).collect();
                assert_eq!(got.len(), pieces.len());
                for (i, (got, piece)) in got.iter().zip(&pieces).enumerate() {
                    let mut flags = flags;
                    if i + 1 < pieces.len() {
                        flags &= !0x09;
                    }
                    if i > 0 {
                        flags &= !0x80;
                    }
                    let want = packet(
                        v6,
                        tcp,
                        Fields {
                            sequence: fields.sequence.wrapping_add((i * usize::from(size)) as u32),
                            identification: fields.identification.wrapping_add(i as u16),
                            flags,
                            ..fields
                        },
                        piece,
                    );
                    assert_eq!(got, &want, "v6 {v6} tcp {tcp} {len}/{size} segment {i}");
                    assert!(transport_is_right(&Packet::parse(got).unwrap()));
                }
            }
        }
    }
}

#[test]
fn a_partial_checksum_of_a_single_packet_is_finished() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            let (mut vnet, bytes) = super_packet(v6, tcp, Fields::default(), &data(777), 1);
            vnet.gso_type = GSO_NONE;
            vnet.gso_size = 0;
            assert_eq!(split_all(&vnet, &bytes).unwrap(), [packet(v6, tcp, Fields::default(), &data(777))]);
            let complete = packet(v6, tcp, Fields::default(), &data(777));
            assert_eq!(split_all(&VnetHeader::default(), &complete).unwrap(), [complete]);
        }
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let (good, bytes) = super_packet(false, true, Fields::default(), &data(3000), 1000);
    let refused = |change: fn(&mut VnetHeader), want: SplitError| {
        let mut vnet = good;
        change(&mut vnet);
        assert_eq!(split_all(&vnet, &bytes), Err(want), "{vnet:?}");
    };
    refused(|v| v.gso_size = 0, SplitError::SegmentSize(0));
    refused(|v| v.gso_size = 3041, SplitError::SegmentSize(3041));
    refused(|v| v.hdr_len = 3041, SplitError::HeaderLength(3041));
    refused(|v| v.gso_type = GSO_TCPV6, SplitError::Kind(GSO_TCPV6));
    refused(|v| v.gso_type = GSO_UDP_L4, SplitError::Kind(GSO_UDP_L4));
    refused(|v| v.gso_type = 3, SplitError::Kind(3));
    refused(|v| v.csum_start = 21, SplitError::Checksum(21, 16));
    refused(|v| v.csum_offset = 6, SplitError::Checksum(20, 6));
    refused(|v| (v.gso_type, v.csum_start) = (GSO_NONE, 10), SplitError::Checksum(10, 16));
    refused(|v| (v.gso_type, v.csum_start) = (GSO_NONE, 3030), SplitError::Checksum(3030, 16));
    assert!(split_all(&VnetHeader { gso_type: GSO_TCPV4 | GSO_ECN, ..good }, &bytes).is_ok());

    let mut fragment = bytes.clone();
    fragment[6] = 0x20;
    assert_eq!(split_all(&good, &fragment), Err(SplitError::Transport));
    for offset in [0x40, 0xf0] {
        let mut short = bytes[..50].to_vec();
        short[2..4].copy_from_slice(&50u16.to_be_bytes());
        short[32] = offset;
        let vnet = VnetHeader { hdr_len: 40, gso_size: 10, ..good };
        assert_eq!(split_all(&vnet, &short), Err(SplitError::Transport), "{offset:#x}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(split_all(&good, &longer), Err(SplitError::Length));
    assert!(matches!(split_all(&good, &bytes[..3000]), Err(SplitError::Packet(_))));
}

proptest! {
    /// Whatever the device hands over: no panic, and segments never lose or add payload.
    #[test]
    fn nonsense_is_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(6u8), Just(17), any::<u8>()],
        fix_length in any::<bool>(),
        flags in any::<u8>(),
        gso_type in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
        hdr_len in 0u16..400,
        gso_size in 0u16..400,
        csum_start in prop_oneof![Just(20u16), Just(40), 0u16..400],
        csum_offset in prop_oneof![Just(6u16), Just(16), any::<u16>()],
    ) {
        if bytes.len() >= 40 {
            bytes[0] = version;
            if version >> 4 == 4 { bytes[9] = protocol } else { bytes[6] = protocol }
            if fix_length {
                let len = bytes.len() as u16;
                if version >> 4 == 4 {
                    bytes[2..4].copy_from_slice(&len.to_be_bytes());
                    bytes[6..8].fill(0);
                } else {
                    bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                }
            }
        }
        let vnet = VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset };
        if let Ok(packets) = split_all(&vnet, &bytes) {
            let payload: usize = packets.iter().map(Vec::len).sum();
            prop_assert!(payload >= bytes.len());
        }
    }
}
