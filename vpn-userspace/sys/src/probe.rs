//! What kernel ESP this kernel takes, found by trying: each algorithm, the xfrm interface, UDP encapsulation.
//!
//! Everything is tried in a network namespace made for it on a thread of its own, so that nothing of
//! the host's is touched and nothing is left. `/proc/crypto` would not tell: modules load on first use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_crypto::{Encryption, Integrity, Suite, SuiteKeys};
use culvert_types::Spi;
use nix::sched::{CloneFlags, unshare};

use crate::encap::EncapSocket;
use crate::netlink::{Netlink, NetlinkError};
use crate::xfrm::{
    Encapsulation, Features, IF_ID_BASE, Limits, SaDirection, SaOptions, SaSpec, SaState, Sequence, Xfrm,
};

/// Whether something is there, or why not, in the kernel's words.
pub type Availability = Result<(), String>;

/// What the kernel can do of ESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEsp {
    /// xfrm interfaces (CONFIG_XFRM_INTERFACE, Linux 4.19).
    pub interface: Availability,
    /// ESP in UDP over IPv4.
    pub udp_ipv4: Availability,
    /// ESP in UDP over IPv6 (Linux 5.8).
    pub udp_ipv6: Availability,
    /// Every suite that we know.
    pub suites: Vec<SuiteSupport>,
    /// What this kernel may be told of an SA beside.
    pub features: Features,
}

/// What the kernel can do with one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteSupport {
    /// The suite.
    pub suite: Suite,
    /// SAs with extended sequence numbers over IPv4.
    pub ipv4: Availability,
    /// SAs with extended sequence numbers over IPv6.
    pub ipv6: Availability,
    /// SAs without extended sequence numbers over IPv4. (CBC suites need the module `authencesn` for
    /// the former and not for these.)
    pub without_esn: Availability,
}

/// What a tunnel asks of kernel ESP.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Suites that the negotiation may end with: all are needed.
    pub suites: &'a [Suite],
    /// Outer addresses may be IPv6.
    pub ipv6: bool,
    /// Packets may be in UDP.
    pub udp: bool,
    /// Extended sequence numbers may be negotiated.
    pub esn: bool,
}

impl KernelEsp {
    /// Finds out. Blocks for as long as the kernel takes to load cipher modules; needs CAP_SYS_ADMIN
    /// for the scratch namespace, and without it finds nothing available.
    pub fn probe() -> Self {
        let thread = std::thread::Builder::new().name("probe-esp".to_owned()).spawn(Self::probe_here);
        let outcome = match thread {
            Ok(thread) => {
                thread.join().unwrap_or_else(|_| Err("the probe failed by a fault of its own".to_owned()))
            }
            Err(e) => Err(format!("cannot start a thread for the probe: {e}")),
        };
        outcome.unwrap_or_else(|reason| Self::unavailable(&reason))
    }

    fn probe_here() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("cannot make a network namespace to try in: {e}; run as root"))?;
        let xfrm = Xfrm::open().map_err(|e| e.to_string())?;
        let suites = try_suites(&xfrm);
        Ok(Self {
            interface: try_interface(),
            udp_ipv4: try_udp(&xfrm, Ipv4Addr::LOCALHOST.into()),
            udp_ipv6: try_udp(&xfrm, Ipv6Addr::LOCALHOST.into()),
            suites,
            features: try_features(),
        })
    }

    /// Nothing at all, for one reason.
    pub fn unavailable(reason: &str) -> Self {
        let no = || Err(reason.to_owned());
        let suites = Suite::all()
            .map(|suite| SuiteSupport { suite, ipv4: no(), ipv6: no(), without_esn: no() })
            .collect();
        Self { interface: no(), udp_ipv4: no(), udp_ipv6: no(), suites, features: Features::default() }
    }

    /// Whether the engine can serve at all: one suite. It does without an interface.
    pub fn available(&self) -> Availability {
        if self.suites.iter().any(|s| s.ipv4.is_ok() || s.ipv6.is_ok()) {
            return Ok(());
        }
        let reason = self.suites.iter().find_map(|s| s.ipv4.as_ref().err());
        Err(format!(
            "this kernel has no ESP that we could use: {}",
            reason.map_or("no suite is known", String::as_str)
        ))
    }

    /// Everything that stands in the way of a tunnel, one line each; empty if nothing does.
    pub fn obstacles(&self, wanted: &Wanted<'_>) -> Vec<String> {
        if let Err(reason) = self.available() {
            return vec![reason];
        }
        let mut obstacles = Vec::new();
        let udp = if wanted.ipv6 { &self.udp_ipv6 } else { &self.udp_ipv4 };
        if let (true, Err(reason)) = (wanted.udp, udp) {
            obstacles.push(format!("no ESP in UDP: {reason}"));
        }
        for suite in wanted.suites {
            let Some(support) = self.suites.iter().find(|s| s.suite == *suite) else { continue };
            let availability = match (wanted.ipv6, wanted.esn) {
                (true, _) => &support.ipv6,
                (false, true) => &support.ipv4,
                (false, false) => &support.without_esn,
            };
            if let Err(reason) = availability {
                obstacles.push(format!("no {suite}: {reason}"));
            }
        }
        obstacles
    }
}

impl fmt::Display for KernelEsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &dyn fmt::Display, availability: &Availability| match availability {
            Ok(()) => writeln!(f, "{name}: available"),
            Err(reason) => writeln!(f, "{name}: not available, {reason}"),
        };
        line(&"xfrm interface", &self.interface)?;
        line(&"ESP in UDP over IPv4", &self.udp_ipv4)?;
        line(&"ESP in UDP over IPv6", &self.udp_ipv6)?;
        let since = |there, kernel| if there { Ok(()) } else { Err(format!("it came with Linux {kernel}")) };
        line(&"direction of SAs", &since(self.features.direction, "6.10"))?;
        line(&"SAs for a CPU", &since(self.features.cpu, "6.13"))?;
        for suite in &self.suites {
            line(&suite.suite, &suite.ipv4)?;
            line(&format_args!("{} over IPv6", suite.suite), &suite.ipv6)?;
            line(&format_args!("{} without ESN", suite.suite), &suite.without_esn)?;
        }
        Ok(())
    }
}

/// Every AEAD, every cipher with one MAC, and every MAC with one cipher: the kernel joins any cipher to any MAC, so
/// a pair stands if both of its halves do.
fn try_suites(xfrm: &Xfrm) -> Vec<SuiteSupport> {
    let mut tried: Vec<SuiteSupport> = Vec::new();
    let mut support = |suite| match tried.iter().find(|s| s.suite == suite) {
        Some(known) => known.clone(),
        None => {
            let new = try_suite(xfrm, suite);
            tried.push(new.clone());
            new
        }
    };
    let usual = (Encryption::AesCbc128, Integrity::HmacSha256_128);
    let all = Suite::all().map(|suite| match suite.integrity() {
        None => support(suite),
        Some(integrity) => {
            let halves = [(suite.encryption(), usual.1), (usual.0, integrity)];
            let mut halves = halves.into_iter().filter_map(|(e, i)| Suite::new(e, Some(i)).ok());
            let whole = halves.next().map(&mut support);
            halves.map(&mut support).chain(whole).fold(SuiteSupport::all(suite), SuiteSupport::and)
        }
    });
    all.collect()
}

impl SuiteSupport {
    fn all(suite: Suite) -> Self {
        Self { suite, ipv4: Ok(()), ipv6: Ok(()), without_esn: Ok(()) }
    }

    fn and(self, other: Self) -> Self {
        Self {
            suite: self.suite,
            ipv4: self.ipv4.and(other.ipv4),
            ipv6: self.ipv6.and(other.ipv6),
            without_esn: self.without_esn.and(other.without_esn),
        }
    }
}

fn try_suite(xfrm: &Xfrm, suite: Suite) -> SuiteSupport {
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    SuiteSupport {
        suite,
        ipv4: try_sa(xfrm, suite, four, true, None),
        ipv6: try_sa(xfrm, suite, six, true, None),
        without_esn: try_sa(xfrm, suite, four, false, None),
    }
}

fn try_sa(
    xfrm: &Xfrm,
    suite: Suite,
    address: IpAddr,
    esn: bool,
    encapsulation: Option<Encapsulation>,
) -> Availability {
    with_sa(xfrm, suite, address, esn, encapsulation, SaOptions::default()).map(drop)
}

/// Installs an SA, reads it again, and removes it.
fn with_sa(
    xfrm: &Xfrm,
    suite: Suite,
    address: IpAddr,
    esn: bool,
    encapsulation: Option<Encapsulation>,
    options: SaOptions,
) -> Result<Option<SaState>, String> {
    // Never used: the SA goes before the namespace does, and the namespace has no way out.
    let keys = SuiteKeys::new(
        &(1..=suite.encryption_key_len() as u8).collect::<Vec<u8>>(),
        &(1..=suite.integrity_key_len() as u8).collect::<Vec<u8>>(),
    );
    let spec = SaSpec {
        direction: SaDirection::Inbound,
        spi: Spi::new(0x1000).map_err(|e| e.to_string())?,
        source: address,
        destination: address,
        suite,
        keys: &keys,
        esn,
        replay_window: 64,
        encapsulation,
        if_id: IF_ID_BASE,
        reqid: 1,
        copy_df: true,
        copy_dscp: true,
        limits: Limits::default(),
        sequence: Sequence::default(),
        options,
    };
    xfrm.add_sa(&spec).map_err(reason)?;
    let state = xfrm.sa(spec.id()).map_err(reason)?;
    xfrm.delete_sa(spec.id()).map_err(reason)?;
    Ok(state)
}

/// An old kernel passes over attributes that it does not know: only what it shows again it has understood.
fn try_features() -> Features {
    let told = Features { direction: true, cpu: true };
    let try_them = || {
        let xfrm = Xfrm::with(told).map_err(reason)?;
        let suite = Suite::new(Encryption::AesGcm128, None).map_err(|e| e.to_string())?;
        let options = SaOptions { cpu: Some(0), ..SaOptions::default() };
        with_sa(&xfrm, suite, Ipv4Addr::LOCALHOST.into(), true, None, options)
    };
    let state: Option<SaState> = try_them().ok().flatten();
    Features {
        direction: state.as_ref().is_some_and(|s| s.direction.is_some()),
        cpu: state.is_some_and(|s| s.cpu.is_some()),
    }
}

fn try_udp(xfrm: &Xfrm, address: IpAddr) -> Availability {
    let runtime = runtime()?;
    runtime.block_on(async {
        let netlink = Netlink::connect().map_err(reason)?;
        let lo = netlink.link("lo").await.map_err(reason)?;
        netlink.set_up(lo.index, true).await.map_err(reason)
    })?;
    EncapSocket::open(SocketAddr::new(address, 4500)).map_err(|e| e.to_string())?;
    let suite = Suite::new(Encryption::AesGcm128, None).map_err(|e| e.to_string())?;
    let encapsulation = Encapsulation { source_port: 4500, destination_port: 4500 };
    try_sa(xfrm, suite, address, true, Some(encapsulation))
}

fn try_interface() -> Availability {
    runtime()?.block_on(async {
        let netlink = Netlink::connect().map_err(reason)?;
        let lo = netlink.link("lo").await.map_err(reason)?;
        netlink.create_xfrm_interface("cv-probe", IF_ID_BASE, lo.index).await.map_err(reason)?;
        Ok(())
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())
}

/// The kernel's words alone: what was tried is said by the line they stand in.
fn reason(error: NetlinkError) -> String {
    error.kernel().map_or_else(|| error.to_string(), ToString::to_string)
}
