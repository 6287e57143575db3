//! For tests and measurements: SAs with keys of their own, without an IKE exchange. Never in a daemon.

use std::ops::Range;
use std::time::Duration;

use culvert_esp::InboundSa;
use culvert_esp::packet::Packet;
use culvert_sys::tun::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, Offloads, VnetHeader};

use crate::user::coalesce::Coalescer;
use crate::user::inbound::BySpi;
use crate::user::split::{self, Plan};

pub use crate::user::setup::{Limits, SaSetup};
use crate::{Dataplane, DataplaneError, Engine, InstallReport};
pub use culvert_ike::Purpose;
use culvert_types::Spi;

/// Installs an SA that no peer negotiated; otherwise as [`Dataplane::install`].
pub async fn install(
    dataplane: &mut Dataplane,
    setup: &SaSetup,
    use_outbound: bool,
) -> Result<(), DataplaneError> {
    install_in(dataplane, setup, None, use_outbound).await.map(drop)
}

/// The same with a wish which engine.
pub async fn install_in(
    dataplane: &mut Dataplane,
    setup: &SaSetup,
    wish: Option<Engine>,
    use_outbound: bool,
) -> Result<InstallReport, DataplaneError> {
    dataplane.install_setup(setup.clone(), Duration::from_secs(3600), wish, use_outbound).await
}

/// Cuts a TCP super-packet that the kernel left to be cut every `segment` bytes, as a read from a TUN device is, and
/// writes each packet to the start of `out`. Says how many there were; `None` where it is no such packet.
pub fn split(super_packet: &[u8], segment: u16, out: &mut [u8]) -> Option<usize> {
    let packet = Packet::parse(super_packet).ok()?;
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: if packet.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 },
        gso_size: segment,
        csum_start: packet.transport_offset() as u16,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let Ok(Plan::Segments(segments)) = split::plan(&vnet, &packet, super_packet.len()) else { return None };
    let count = segments.count();
    (0..count).all(|index| segments.write(index, out)).then_some(count)
}

/// Joins packets into super-packets, as those are that were opened.
pub struct Joiner(Coalescer);

impl Default for Joiner {
    fn default() -> Self {
        Self(Coalescer::new())
    }
}

impl Joiner {
    /// Joins what can be joined of the packets at `ranges` of `buf`; says how many writes to the TUN device it takes.
    pub fn join(&mut self, buf: &[u8], ranges: &[Range<usize>]) -> usize {
        let mut writes = 0;
        for range in ranges {
            if self.0.is_full() {
                self.0.drain(|_| writes += 1);
            }
            self.0.push(0, buf, range.clone(), Offloads { tso: true, uso: true });
        }
        self.0.drain(|_| writes += 1);
        writes
    }
}

/// Inbound SAs by their SPIs, as a worker finds them.
#[derive(Default)]
pub struct Owned(BySpi, Vec<InboundSa>);

impl Owned {
    /// Adds one.
    pub fn add(&mut self, spi: Spi, sa: InboundSa) {
        self.0.insert(spi.value(), self.1.len());
        self.1.push(sa);
    }

    /// The SA of an ESP packet.
    #[inline]
    pub fn find(&mut self, packet: &[u8]) -> Option<&mut InboundSa> {
        let spi = u32::from_be_bytes(*packet.first_chunk()?);
        self.1.get_mut(*self.0.get(&spi)?)
    }
}
