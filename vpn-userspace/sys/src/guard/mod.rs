//! The guard of the WAN: eBPF programs that drop what cannot be valid before the kernel's stack sees it.
//!
//! [`Guard`] loads them, attaches them to interfaces, tells them of SAs, and reads their counters. Programs, links and
//! maps are held by file descriptors of this process: when it ends, however it ends, the kernel detaches them. Only
//! the filters of kernels before 6.6 (clsact) outlive it; [`Guard::cleanup_stale`] removes them at the next start.
//!
//! Oldest kernel: 5.18. Needs CAP_BPF and CAP_NET_ADMIN.
mod attach;
mod error;
mod lan;
mod link;
mod maps;
mod redirect;
mod samples;

pub use attach::{AttachMode, Attached, AttachedMode};
pub(crate) use attach::{TcHook, TcPlace, XdpHook, hook_tc, hook_xdp};
pub use error::GuardError;
pub(crate) use error::{chain, os_error};
pub use redirect::{CPU_QUEUE, SaPath};
pub use samples::GuardSample;

use attach::Hook;
use culvert_ebpf_shared::layout::{Config, MAX_SAS, MODE_LEARN, MODE_OFF, MODE_ON, Sa};
use culvert_ebpf_shared::limit::Rate;
use culvert_ebpf_shared::redirect::MAX_CPUS;
use culvert_ebpf_shared::{Address, Reason, Verdict};
use culvert_types::Spi;
pub(crate) use link::Link;
use maps::Maps;
pub(crate) use maps::{Wire, gone, read_plain};
use redirect::Redirects;
pub(crate) use samples::age;
use std::collections::HashMap;
use std::net::IpAddr;

/// The programs, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CULVERT_EBPF_OBJECT"));

/// What the guard does with its verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Drops.
    On,
    /// Judges nothing; packets pass.
    Off,
    /// Counts what it would drop, and passes it.
    Learn,
}

/// How the guard is to work.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// Whether verdicts are carried out.
    pub mode: GuardMode,
    /// Our own WAN addresses; only packets to them are judged. See [`Guard::set_local_addresses`].
    pub local_addresses: Vec<IpAddr>,
    /// IKE messages per second from one unproven source (an IPv4 address or an IPv6 /64); 0: no limit.
    pub ike_rate: u32,
    /// IKE messages that one unproven source may send at once.
    pub ike_burst: u32,
    /// IKE messages per second from all unproven sources together; 0: no limit.
    pub ike_ceiling: u32,
    /// IKE messages that all unproven sources together may send at once.
    pub ike_ceiling_burst: u32,
}

impl Default for GuardOptions {
    /// On, without addresses; an unproven source may send what a few handshakes with certificates in fragments need.
    fn default() -> Self {
        GuardOptions {
            mode: GuardMode::On,
            local_addresses: Vec::new(),
            ike_rate: 50,
            ike_burst: 200,
            ike_ceiling: 10_000,
            ike_ceiling_burst: 2_000,
        }
    }
}

/// An inbound SA, as far as the guard checks packets against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSa {
    /// The SPI that we chose.
    pub spi: Spi,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address; None if it may change (behind a NAT).
    pub remote: Option<IpAddr>,
    /// Length of the shortest packet of the SA in bytes, from the SPI to the end of the ICV, padding included.
    pub min_len: u16,
    /// All packets are longer than the shortest by a multiple of this: 4 (RFC 4303 2.4) or the cipher's block. A power
    /// of two, at most 128.
    pub alignment: u8,
    /// Extended sequence numbers.
    pub esn: bool,
}

/// One counter over all CPUs, since the guard was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardCounter {
    /// `pass`, `drop`, or `would-drop` (mode `learn`).
    pub verdict: &'static str,
    /// Why; names are those of `culvert_ebpf_shared::Reason`.
    pub reason: &'static str,
    /// Packets; segments of super-packets are counted one by one.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
}

/// What one SA let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes of outer IP packets.
    pub bytes: u64,
}

/// The loaded programs. Dropping it detaches them.
pub struct Guard {
    maps: Maps,
    config: Config,
    sas: HashMap<Spi, Sa>,
    locals: Vec<IpAddr>,
    free_slots: Vec<u32>,
    hooks: Vec<Hook>,
    redirects: Redirects,
    // Last, so that links go before the programs.
    ebpf: aya::Ebpf,
}

impl Guard {
    /// Creates the maps. Nothing is attached yet; a program is verified when it is first attached.
    ///
    /// # Errors
    ///
    /// [`GuardError::NotPermitted`] without privileges, [`GuardError::Load`] when the kernel refuses the maps.
    pub fn load(options: GuardOptions) -> Result<Guard, GuardError> {
        // The kernel refuses a map of more CPUs than it was built for.
        let cpus = maps::host_cpus()?.min(MAX_CPUS);
        let object = aya::EbpfLoader::new().map_max_entries("CPUS", cpus).load(OBJECT);
        let mut ebpf = object.map_err(GuardError::load)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let config = Config {
            ike_source: Rate::new(options.ike_rate, options.ike_burst),
            ike_ceiling: Rate::new(options.ike_ceiling, options.ike_ceiling_burst),
            mode: mode_number(options.mode),
            epoch: 0,
        };
        maps.set_config(config)?;
        let mut guard = Guard {
            maps,
            config,
            sas: HashMap::new(),
            locals: Vec::new(),
            free_slots: (0..MAX_SAS).rev().collect(),
            hooks: Vec::new(),
            redirects: Redirects::default(),
            ebpf,
        };
        guard.set_local_addresses(&options.local_addresses)?;
        Ok(guard)
    }

    /// Removes filters that an earlier process left behind when it was killed, in the network namespace of the calling
    /// thread. Returns the interfaces that had some. Only kernels before 6.6 can have any.
    pub fn cleanup_stale() -> Result<Vec<String>, GuardError> {
        attach::cleanup_stale()
    }

    /// Attaches the classifier to the ingress of an interface (of the network namespace of the calling thread).
    ///
    /// [`AttachMode::Auto`] takes TC on virtual links, where XDP would cost senders their segmentation offload, native
    /// XDP on others, and generic XDP, with the reason told, where the driver has no XDP.
    ///
    /// # Errors
    ///
    /// [`GuardError::UnknownInterface`], [`GuardError::Load`] when the kernel refuses the program,
    /// [`GuardError::Occupied`] when another XDP program is there, and [`GuardError::Attach`].
    pub fn attach(&mut self, ifname: &str, mode: AttachMode) -> Result<Attached, GuardError> {
        if self.hooks.iter().any(|hook| hook.interface() == ifname) {
            return Err(GuardError::AlreadyAttached { interface: ifname.to_owned() });
        }
        // A detachment before has put the programs to sleep.
        self.maps.set_config(self.config)?;
        let (hook, attached) = attach::attach(&mut self.ebpf, ifname, mode)?;
        self.hooks.push(hook);
        Ok(attached)
    }

    /// Detaches from all interfaces. Call it in the network namespace in which they were attached.
    ///
    /// No packet is judged once it returns. Closing a link's descriptor alone would not promise that: the kernel keeps
    /// the program while a child of this process that has not reached its `exec` yet holds the descriptor too.
    pub fn detach_all(&mut self) -> Result<(), GuardError> {
        let mut outcome = self.maps.set_config(Config { mode: MODE_OFF, ..self.config });
        for hook in self.hooks.drain(..) {
            let detached = hook.detach();
            outcome = outcome.and(detached);
        }
        outcome
    }

    /// Changes what is done with verdicts, at once.
    pub fn set_mode(&mut self, mode: GuardMode) -> Result<(), GuardError> {
        self.config.mode = mode_number(mode);
        self.maps.set_config(self.config)
    }

    /// Replaces the set of our own WAN addresses. Packets to other addresses pass unjudged.
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), GuardError> {
        // New ones first, so that an address that stays is never without its guard.
        for &address in addresses {
            if !self.locals.contains(&address) {
                self.maps.add_local(address.into())?;
                self.locals.push(address);
            }
        }
        let gone: Vec<IpAddr> =
            self.locals.iter().copied().filter(|address| !addresses.contains(address)).collect();
        for address in gone {
            self.maps.remove_local(address.into())?;
            self.locals.retain(|local| *local != address);
        }
        Ok(())
    }

    /// Lets packets of an inbound SA through. Call it before the peer can know the SPI.
    ///
    /// # Errors
    ///
    /// [`GuardError::DuplicateSpi`], [`GuardError::InvalidAlignment`], [`GuardError::TooManySas`].
    pub fn insert_sa(&mut self, sa: GuardSa) -> Result<(), GuardError> {
        if !sa.alignment.is_power_of_two() {
            return Err(GuardError::InvalidAlignment { alignment: sa.alignment });
        }
        if self.sas.contains_key(&sa.spi) {
            return Err(GuardError::DuplicateSpi { spi: sa.spi });
        }
        let slot = self.free_slots.pop().ok_or(GuardError::TooManySas { most: MAX_SAS })?;
        let entry = Sa {
            remote: sa.remote.map_or(Address::UNSPECIFIED, Address::from),
            local: sa.local.into(),
            floor: 0,
            slot,
            min_len: sa.min_len,
            align_mask: sa.alignment - 1,
            flags: if sa.esn { Sa::ESN } else { 0 } | if sa.remote.is_none() { Sa::ANY_REMOTE } else { 0 },
            path: Sa::PATH_STACK,
            worker: 0,
        };
        let inserted = self.maps.clear_sa_counter(slot).and_then(|()| self.maps.insert_sa(sa.spi, entry));
        if let Err(error) = inserted {
            self.free_slots.push(slot);
            return Err(error);
        }
        self.sas.insert(sa.spi, entry);
        Ok(())
    }

    /// Forgets an SA: its packets are dropped from now on, as of an unknown SPI.
    pub fn remove_sa(&mut self, spi: Spi) -> Result<(), GuardError> {
        let entry = self.sas.remove(&spi).ok_or(GuardError::NoSuchSa { spi })?;
        self.maps.remove_sa(spi)?;
        // Not the next one to be given out: a program that still runs with the old entry counts into nobody's slot.
        self.free_slots.insert(0, entry.slot);
        Ok(())
    }

    /// Tells the lowest sequence number that the SA's replay window still takes; older packets are dropped unopened.
    pub fn publish_replay_floor(&mut self, spi: Spi, floor: u64) -> Result<(), GuardError> {
        let entry = self.sas.get_mut(&spi).ok_or(GuardError::NoSuchSa { spi })?;
        if floor > entry.floor {
            entry.floor = floor;
            self.maps.update_sa(spi, *entry)?;
        }
        Ok(())
    }

    /// Tells the peer's new outer address (None: any), after a packet from there has authenticated.
    pub fn move_sa(&mut self, spi: Spi, local: IpAddr, remote: Option<IpAddr>) -> Result<(), GuardError> {
        let entry = self.sas.get_mut(&spi).ok_or(GuardError::NoSuchSa { spi })?;
        entry.local = local.into();
        entry.remote = remote.map_or(Address::UNSPECIFIED, Address::from);
        entry.flags &= !Sa::ANY_REMOTE;
        if remote.is_none() {
            entry.flags |= Sa::ANY_REMOTE;
        }
        self.maps.update_sa(spi, *entry)
    }

    /// A peer has authenticated from this address: its IKE is no longer rate-limited.
    pub fn prove_source(&mut self, source: IpAddr) -> Result<(), GuardError> {
        self.maps.add_proven(source.into())
    }

    /// The address has no peer any more. Fine if it never had one.
    pub fn forget_source(&mut self, source: IpAddr) -> Result<(), GuardError> {
        self.maps.remove_proven(source.into())
    }

    /// All counters, in a fixed order; `would-drop` only where something was learned.
    pub fn counters(&self) -> Result<Vec<GuardCounter>, GuardError> {
        let mut counters = Vec::with_capacity(Reason::COUNT);
        for &reason in Reason::ALL {
            for learning in [false, true] {
                let counter = self.maps.counter(reason, learning)?;
                if learning && counter.packets == 0 {
                    continue;
                }
                let verdict = verdict(reason, learning);
                let (packets, bytes) = (counter.packets, counter.bytes);
                counters.push(GuardCounter { verdict, reason: reason.name(), packets, bytes });
            }
        }
        Ok(counters)
    }

    /// What came in for one SA and passed.
    pub fn sa_counters(&self, spi: Spi) -> Result<SaCounter, GuardError> {
        let entry = self.sas.get(&spi).ok_or(GuardError::NoSuchSa { spi })?;
        let counter = self.maps.sa_counter(entry.slot)?;
        Ok(SaCounter { packets: counter.packets, bytes: counter.bytes })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.detach_all() {
            tracing::warn!(%error, "the guard could not be detached");
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("hooks", &self.hooks)
            .field("sas", &self.sas.len())
            .finish_non_exhaustive()
    }
}

/// What was done, by its name.
fn verdict(reason: Reason, learning: bool) -> &'static str {
    match (learning, reason.verdict()) {
        (true, Verdict::Drop) => "would-drop",
        (_, verdict) => verdict.name(),
    }
}

fn mode_number(mode: GuardMode) -> u32 {
    match mode {
        GuardMode::On => MODE_ON,
        GuardMode::Off => MODE_OFF,
        GuardMode::Learn => MODE_LEARN,
    }
}
