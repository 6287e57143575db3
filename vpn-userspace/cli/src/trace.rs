//! `culvert trace`: IKE messages as they pass, in words, and as a capture for a packet analyser.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use culvert_api::{Request, Response, Target, TraceRecord};
use pcap_file::DataLink;

use crate::client::{Client, ClientError};
use crate::pcap::PcapNg;
use crate::render;

/// What to do with each message.
pub(crate) struct Options<'a> {
    pub(crate) target: Option<&'a Target>,
    pub(crate) json: bool,
    pub(crate) pcap: Option<&'a Path>,
}

/// Prints messages until either side ends it.
pub(crate) fn trace(client: &mut Client, out: &mut impl Write, options: &Options<'_>) -> Result<()> {
    let mut capture = options.pcap.map(Capture::create).transpose()?;
    client.send(&Request::Trace { target: options.target.cloned(), datagrams: capture.is_some() })?;
    client.wait_for_ever()?;
    if io::stderr().is_terminal() {
        eprintln!("culvert: waiting for IKE messages; Ctrl-C ends it");
    }
    loop {
        match client.receive() {
            Ok(Response::Trace(record)) => {
                if let Some(capture) = &mut capture {
                    capture.record(&record)?;
                }
                match &record.text {
                    Some(_) if options.json => {
                        serde_json::to_writer(&mut *out, &record)?;
                        out.write_all(b"\n")?;
                    }
                    Some(text) => out.write_all(render::trace_line(&record, text).as_bytes())?,
                    None => {}
                }
                out.flush()?;
            }
            Ok(Response::Done(_)) => return Ok(()),
            Ok(Response::Unknown) => {}
            Ok(other) => return Err(ClientError::unexpected(&other).into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A pcap-ng file of raw IP packets.
struct Capture(PcapNg);

impl Capture {
    fn create(path: &Path) -> Result<Self> {
        let mut file = PcapNg::create(path, "--pcap")?;
        file.interface(None, DataLink::RAW)?;
        file.flush()?;
        Ok(Self(file))
    }

    fn record(&mut self, record: &TraceRecord) -> Result<()> {
        let (Some(local), Some(remote), Some(hex)) = (record.local, record.remote, &record.datagram) else {
            return Ok(());
        };
        let Some(payload) = decode(hex) else { return Ok(()) };
        let (from, to) = if record.sent { (local, remote) } else { (remote, local) };
        let packet = packet(from, to, &payload);
        self.0.packet(0, Duration::from_micros(record.time_us), record.sent, &packet)?;
        Ok(self.0.flush()?)
    }
}

fn decode(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The datagram as a packet: culvertd sees payloads only, so the headers are made up around the addresses. Checksums
/// are zero, which readers take for "not computed".
fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(payload.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = Vec::with_capacity(payload.len() + 48);
    match (from.ip(), to.ip()) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend(length(8));
            out.extend([17, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (from, to) => {
            let octets = |address| match address {
                IpAddr::V4(address) => address.octets(),
                // Both ends of a datagram are of one family.
                IpAddr::V6(_) => [0; 4],
            };
            out.extend([0x45, 0]);
            out.extend(length(28));
            out.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            out.extend(octets(from));
            out.extend(octets(to));
        }
    }
    out.extend(from.port().to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out.extend(length(8));
    out.extend([0, 0]);
    out.extend(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_capture_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcapng");
        let mut capture = Capture::create(&path).unwrap();
        let record = |local: &str, remote: &str, sent, datagram: &str| TraceRecord {
            time_us: 1_795_311_428_123_456,
            connection: None,
            tunnel: None,
            sent,
            local: local.parse().ok(),
            remote: remote.parse().ok(),
            text: None,
            datagram: Some(datagram.to_owned()),
        };
        capture.record(&record("192.0.2.1:4500", "198.51.100.2:4500", true, "00000000ff01")).unwrap();
        capture.record(&record("[2001:db8::1]:500", "[2001:db8::2]:500", false, "ab")).unwrap();
        capture.record(&record("192.0.2.1:500", "192.0.2.2:500", false, "xy")).unwrap();
        drop(capture);
        let mut reader = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap() {
                packets.push((packet.timestamp, packet.data.into_owned()));
            }
        }
        assert_eq!(packets.len(), 2, "what is no datagram is left out");
        let (time, four) = &packets[0];
        assert_eq!(time.as_micros(), 1_795_311_428_123_456);
        assert_eq!(four[12..20], [192, 0, 2, 1, 198, 51, 100, 2]);
        assert_eq!(four[20..], [0x11, 0x94, 0x11, 0x94, 0, 14, 0, 0, 0, 0, 0, 0, 0xff, 1]);
        let six = &packets[1].1;
        assert_eq!((six[4..8].to_vec(), six[23], six[39]), (vec![0, 9, 17, 64], 2, 1));
        assert_eq!(six[40..], [1, 0xf4, 1, 0xf4, 0, 9, 0, 0, 0xab]);
    }
}
