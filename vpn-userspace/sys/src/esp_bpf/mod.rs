//! ESP in eBPF: loads the programs of the engine `bpf`, attaches them, and fills and reads their maps.
//!
//! The SAs live in the maps alone: their numbers and windows exist nowhere else, are inserted once and never written
//! again from here. Keys go into a map whose descriptor cannot read; root can still open it anew, as it can read any
//! process's memory. Programs and maps are held by descriptors of this process and end with it.
//!
//! Oldest kernel that was tried with success: 6.1; under XDP the programs stand from 6.3 on, which tells what drivers do for it.
//! Needs CAP_BPF and CAP_NET_ADMIN.
mod device;
mod error;
mod hooks;
mod maps;
mod odd;
mod samples;

pub use culvert_ebpf_shared::esp::layout::{Inbound, MAX_ACTIVE, MAX_SELECTORS, Outbound, Tunnel};
pub use culvert_ebpf_shared::esp::{MAX_INNER, reason};
pub use device::{forwarding_is_off, interface_of, segment_before, set_mtu};
pub use error::EspError;
pub use hooks::{DeviceHook, HookChoice};
pub use odd::{FrameSender, OddOpener};
pub use samples::DroppedPacket;

use crate::guard::{Link, TcHook, TcPlace, hook_tc, os_error};
use aya::programs::{SchedClassifier, TcAttachType};
use culvert_ebpf_shared::Address;
use culvert_ebpf_shared::esp::layout::{Key, MAX_PAIRS, Peer, Selector, Selectors};
use culvert_ebpf_shared::esp::window::Window;
use culvert_types::{Spi, TrafficSelector};
use hooks::{Backs, Hooked};
use maps::Maps;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use zeroize::Zeroize;

/// The programs, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CULVERT_ESP_OBJECT"));

const BACK: &str = "culvert_esp_back";
const TUN: &str = "culvert_esp_tun";
const LAN: &str = "culvert_esp_lan";
const WAN: &str = "culvert_esp_wan";
const ODD: &str = "culvert_esp_odd";
const LAN_EARLY: &str = "culvert_esp_lan_xdp";
const WAN_EARLY: &str = "culvert_esp_wan_xdp";
/// Names of those that are attached to devices which may outlive us.
pub(crate) const PROGRAMS: [&str; 3] = [BACK, LAN, WAN];

/// Where packets of a pair go, and what their outer headers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspPath {
    /// Our outer address; its port is that of UDP encapsulation.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// ESP goes in UDP.
    pub encap: bool,
    /// Set DF on outer packets.
    pub dont_fragment: bool,
    /// Copy the inner DSCP outward.
    pub copy_dscp: bool,
}

/// One direction of an SA.
pub struct EspHalf<'a> {
    /// Its SPI.
    pub spi: Spi,
    /// ChaCha20-Poly1305's key and salt, 36 bytes (RFC 7634 2).
    pub key: &'a [u8],
}

/// An SA pair to install.
pub struct EspPair<'a> {
    /// Packets to us.
    pub inbound: EspHalf<'a>,
    /// Packets to the peer.
    pub outbound: EspHalf<'a>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Inner addresses on our side, at most [`MAX_SELECTORS`].
    pub local_ts: &'a [TrafficSelector],
    /// On the peer's side.
    pub remote_ts: &'a [TrafficSelector],
    /// The last sequence number that is sent.
    pub last: u64,
    /// Inner bytes after which nothing more is sent.
    pub most_bytes: u64,
    /// Where packets go.
    pub path: EspPath,
    /// Index of the tunnel's interface.
    pub tunnel: u32,
}

/// Which packets of a tunnel with two engines are this one's: what is short, or has one of these DSCPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// The longest packet in bytes.
    pub longest: u32,
    /// A bit for each DSCP.
    pub dscp: u64,
}

/// The interface of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EspInterface {
    /// One end of a pair, by the indices of both: everything that enters it is for this engine.
    Pair(u32, u32),
    /// A TUN device, of whose packets these are for this engine.
    Tun(u32, Small),
}

impl EspInterface {
    /// Its index.
    pub const fn index(self) -> u32 {
        match self {
            Self::Pair(index, _) | Self::Tun(index, _) => index,
        }
    }
}

/// The place of an SA pair in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

/// The loaded programs. Dropping it detaches them and forgets every SA.
pub struct EspBpf {
    maps: Maps,
    free: Vec<u32>,
    /// At tunnels' interfaces and their backs.
    hooks: Vec<(String, TcHook)>,
    /// At LAN and WAN.
    devices: Vec<Hooked>,
    backs: Backs,
    // Last, so that links go before the programs.
    ebpf: aya::Ebpf,
}

impl EspBpf {
    /// Loads the programs that every user of the engine needs, which the kernel verifies: half a second at most.
    ///
    /// # Errors
    /// [`EspError::NotPermitted`] without privileges, [`EspError::Load`] when the kernel refuses them.
    pub fn load() -> Result<EspBpf, EspError> {
        let mut ebpf = aya::EbpfLoader::new().load(OBJECT).map_err(EspError::load)?;
        let maps = Maps::take(&mut ebpf)?;
        for name in [WAN, ODD] {
            program(&mut ebpf, name)?.load().map_err(EspError::load)?;
        }
        Ok(EspBpf {
            maps,
            free: (0..MAX_PAIRS).rev().collect(),
            hooks: Vec::new(),
            devices: Vec::new(),
            backs: HashMap::new(),
            ebpf,
        })
    }

    /// How many instructions the verifier walked through for each program, where the kernel tells (5.16).
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        let count = |(name, program): (&str, &aya::programs::Program)| {
            Some((name.to_owned(), program.info().ok()?.verified_instruction_count()?))
        };
        self.ebpf.programs().filter_map(count).collect()
    }

    /// Opens what user space has at hand.
    pub fn odd_opener(&mut self) -> Result<OddOpener, EspError> {
        let fd = program(&mut self.ebpf, ODD)?.fd().map_err(EspError::load)?.as_fd();
        OddOpener::new(fd.try_clone_to_owned().map_err(EspError::Packet)?)
    }

    /// Opens what comes in by a WAN interface; nothing happens if it does already.
    pub fn attach_wan(&mut self, interface: &str) -> Result<(), EspError> {
        if !Link::find(interface)?.ethernet {
            return Err(EspError::NotEthernet { interface: interface.to_owned() });
        }
        self.hook(WAN, interface)
    }

    /// Seals what comes in by a LAN interface before the stack sees it, and lets opened packets go out there past it.
    pub fn attach_lan(&mut self, interface: &str) -> Result<(), EspError> {
        self.hook(LAN, interface)
    }

    /// Seals what is routed into a tunnel's interface, whose back this is.
    pub fn attach_back(&mut self, interface: &str) -> Result<(), EspError> {
        self.attach(BACK, interface)
    }

    /// Seals what leaves the stack for a TUN device and is this engine's.
    pub fn attach_tun(&mut self, interface: &str) -> Result<(), EspError> {
        self.attach(TUN, interface)
    }

    /// Lets go of an interface.
    pub fn detach(&mut self, interface: &str) {
        self.hooks.retain(|(attached, _)| attached != interface);
    }

    fn attach(&mut self, name: &'static str, interface: &str) -> Result<(), EspError> {
        if self.hooks.iter().any(|(attached, _)| attached == interface) {
            return Ok(());
        }
        let program = program(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            program.load().map_err(EspError::load)?;
        }
        let direction = if name == TUN { TcAttachType::Egress } else { TcAttachType::Ingress };
        let (hook, _) = hook_tc(program, interface, direction, TcPlace::Last)?;
        self.hooks.push((interface.to_owned(), hook));
        Ok(())
    }

    /// Installs a pair: the inbound half works when this returns, the outbound half when a tunnel names its slot.
    ///
    /// # Errors
    /// [`EspError::Full`], [`EspError::Selectors`], [`EspError::Key`], or a map's.
    pub fn install(&mut self, pair: &EspPair<'_>) -> Result<Slot, EspError> {
        let selectors = Selectors {
            local: side(pair.local_ts)?,
            remote: side(pair.remote_ts)?,
            locals: pair.local_ts.len() as u32,
            remotes: pair.remote_ts.len() as u32,
        };
        let slot = self.free.pop().ok_or(EspError::Full { most: MAX_PAIRS })?;
        let installed = self.fill(slot, pair, selectors);
        if let Err(error) = installed {
            let _ = self.clear(Slot(slot), pair.inbound.spi);
            return Err(error);
        }
        Ok(Slot(slot))
    }

    fn fill(&mut self, slot: u32, pair: &EspPair<'_>, selectors: Selectors) -> Result<(), EspError> {
        self.maps.set_peer(slot, peer(&pair.path))?;
        self.maps.set_selectors(slot, selectors)?;
        for (at, half) in [(2 * slot, &pair.inbound), (2 * slot + 1, &pair.outbound)] {
            let mut key = key(half.key)?;
            let set = self.maps.set_key(at, &key);
            key.key.zeroize();
            key.salt.zeroize();
            set?;
        }
        self.maps.insert_outbound(
            slot,
            Outbound {
                sequence: 0,
                last: pair.last,
                bytes: 0,
                most_bytes: pair.most_bytes,
                spi: pair.outbound.spi.value().to_be(),
                esn: pair.esn.into(),
                drops: [0; reason::COUNT],
            },
        )?;
        let inbound = Inbound {
            lock: Default::default(),
            slot,
            tunnel: pair.tunnel,
            seen_port: 0,
            seen: Address::UNSPECIFIED,
            packets: 0,
            bytes: 0,
            drops: [0; reason::COUNT],
            window: Window::new(pair.replay_window, pair.esn),
        };
        self.maps.insert_inbound(pair.inbound.spi, inbound)
    }

    /// Removes a pair. Its keys are overwritten, and its place is given out again last of all.
    pub fn remove(&mut self, slot: Slot, inbound: Spi) -> Result<(), EspError> {
        self.clear(slot, inbound)
    }

    fn clear(&mut self, slot: Slot, inbound: Spi) -> Result<(), EspError> {
        let nothing = Key { key: [0; 8], salt: 0, present: 0 };
        let outcome = self
            .maps
            .remove_inbound(inbound)
            .and(self.maps.remove_outbound(slot.0))
            .and(self.maps.set_key(2 * slot.0, &nothing))
            .and(self.maps.set_key(2 * slot.0 + 1, &nothing))
            .and(self.maps.remove_rest(slot.0));
        self.free.insert(0, slot.0);
        outcome
    }

    /// The packets of a pair go there from now on.
    pub fn set_path(&mut self, slot: Slot, path: &EspPath) -> Result<(), EspError> {
        self.maps.set_peer(slot.0, peer(path))
    }

    /// What an inbound half has done; `None` if it is gone. Its window is where it was while this was read.
    pub fn inbound(&self, spi: Spi) -> Result<Option<Inbound>, EspError> {
        self.maps.inbound(spi)
    }

    /// What an outbound half has done.
    pub fn outbound(&self, slot: Slot) -> Result<Option<Outbound>, EspError> {
        self.maps.outbound(slot.0)
    }

    /// Tells the programs of a tunnel: its interface, the slots in use with the newest first (more than
    /// [`MAX_ACTIVE`] are not looked at), and its MTU. `direct`: opened packets may go past the stack.
    pub fn set_tunnel(
        &mut self,
        interface: EspInterface,
        active: &[Slot],
        mtu: u32,
        direct: bool,
    ) -> Result<(), EspError> {
        let (back, small) = match interface {
            EspInterface::Pair(_, back) => (back, Small { longest: 0, dscp: 0 }),
            EspInterface::Tun(_, small) => (0, small),
        };
        let mut tunnel = Tunnel {
            slots: [0; MAX_ACTIVE],
            active: active.len().min(MAX_ACTIVE) as u32,
            interface: interface.index(),
            back,
            mtu,
            mac: crate::netlink::FRONT_MAC,
            direct: direct.into(),
            dscp: small.dscp,
            longest: small.longest,
            reserved: 0,
        };
        for (to, from) in tunnel.slots.iter_mut().zip(active) {
            *to = from.0;
        }
        if let EspInterface::Pair(front, back) = interface {
            self.backs.entry(front).or_insert((back, false));
        }
        self.maps.set_tunnel(&tunnel)
    }

    /// Takes the next packet, whole and without a link header, that no selector of its tunnel took, with the index of the
    /// tunnel's interface. `None`: there is none.
    pub fn refused<T>(&mut self, take: impl FnOnce(u32, &[u8]) -> T) -> Option<T> {
        self.maps.refused(take)
    }

    /// Forgets a tunnel.
    pub fn remove_tunnel(&mut self, interface: EspInterface) -> Result<(), EspError> {
        let back = if let EspInterface::Pair(_, back) = interface { Some(back) } else { None };
        if let (Some(back), Some(_)) = (back, self.backs.remove(&interface.index())) {
            self.maps.remove_device(back)?;
        }
        self.maps.remove_tunnel(interface.index(), back)
    }

    /// What a tunnel dropped without an SA, by reason.
    pub fn tunnel_drops(&self, interface: u32) -> Result<Vec<(&'static str, u64)>, EspError> {
        Ok(named(&self.maps.tunnel_drops(interface)?.drops))
    }
}

impl Drop for EspBpf {
    /// Nothing is taken once it is gone, also where a child of this process still holds a link's descriptor.
    fn drop(&mut self) {
        for hook in self.hooks() {
            if let Some(index) = crate::xsk::device_index(&hook.interface) {
                let _ = self.maps.remove_device(index);
            }
        }
    }
}

impl std::fmt::Debug for EspBpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EspBpf").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

/// Counters by their names; only those that counted.
pub fn named(drops: &[u64; reason::COUNT]) -> Vec<(&'static str, u64)> {
    reason::NAMES.iter().copied().zip(drops.iter().copied()).filter(|(_, n)| *n > 0).collect()
}

/// Where the newest packet of an SA came from; `None` before the first. Port 0 without UDP.
pub fn seen(inbound: &Inbound) -> Option<SocketAddr> {
    let port = u16::from_be(inbound.seen_port as u16);
    (inbound.seen != Address::UNSPECIFIED).then(|| SocketAddr::new(inbound.seen.into(), port))
}

fn program<'a>(ebpf: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, EspError> {
    let program = ebpf.program_mut(name).and_then(|program| <&mut SchedClassifier>::try_from(program).ok());
    program.ok_or(EspError::Missing(name))
}

fn peer(path: &EspPath) -> Peer {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let port = |address: SocketAddr| if path.encap { address.port().to_be() } else { 0 };
    Peer {
        local: path.local.ip().into(),
        remote: path.remote.ip().into(),
        local_port: port(path.local),
        remote_port: port(path.remote),
        flags: flag(path.local.is_ipv6(), Peer::IPV6)
            | flag(path.encap, Peer::UDP)
            | flag(path.dont_fragment, Peer::DF)
            | flag(path.copy_dscp, Peer::DSCP),
    }
}

fn key(bytes: &[u8]) -> Result<Key, EspError> {
    let (words, rest) = bytes.as_chunks::<4>();
    let ([words @ .., salt], []) = (words, rest) else { return Err(EspError::Key) };
    let mut key = Key { key: [0; 8], salt: u32::from_le_bytes(*salt), present: 1 };
    if words.len() != key.key.len() {
        return Err(EspError::Key);
    }
    for (to, from) in key.key.iter_mut().zip(words) {
        *to = u32::from_le_bytes(*from);
    }
    Ok(key)
}

fn side(selectors: &[TrafficSelector]) -> Result<[Selector; MAX_SELECTORS], EspError> {
    if selectors.len() > MAX_SELECTORS {
        return Err(EspError::Selectors { have: selectors.len(), most: MAX_SELECTORS });
    }
    let mut side = [Selector::default(); MAX_SELECTORS];
    for (to, from) in side.iter_mut().zip(selectors) {
        *to = Selector::new((from.start(), from.end()), from.ports().into_inner(), from.protocol());
    }
    Ok(side)
}

/// Whether the error is a lack of privileges, and not the verifier's.
fn is_permission(error: &(dyn std::error::Error + 'static), text: &str) -> bool {
    matches!(os_error(error), Some(libc::EPERM | libc::EACCES)) && !text.contains("processed ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_36_bytes() {
        let bytes: Vec<u8> = (0..36).collect();
        let got = key(&bytes).unwrap();
        assert_eq!((got.key[0], got.key[7], got.salt), (0x0302_0100, 0x1f1e_1d1c, 0x2322_2120));
        for len in [0, 32, 35, 37, 40] {
            assert!(matches!(key(&vec![0; len]), Err(EspError::Key)), "{len}");
        }
    }

    #[test]
    fn more_selectors_than_there_is_room_are_refused() {
        let net = |n: u8| TrafficSelector::from_net(format!("10.{n}.0.0/16").parse().unwrap());
        let nets: Vec<_> = (0..=MAX_SELECTORS as u8).map(net).collect();
        assert!(matches!(side(&nets), Err(EspError::Selectors { have: 9, .. })));
        let some = side(&nets[..2]).unwrap();
        assert_eq!(some[1].first, [0, 0xffff_0a01_0000]);
        assert_eq!((some[1].last[1], some[1].any_port), (0xffff_0a01_ffff, 1));
    }
}
