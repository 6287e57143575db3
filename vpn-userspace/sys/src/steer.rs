//! One UDP port for several workers: a program on the SO_REUSEPORT group that knows which worker owns which SPI.
//!
//! Without it (a kernel before 4.19, or no CAP_BPF) a port has one worker. The program lives as long as the group: it
//! needs no detaching.

use std::os::fd::AsFd;

use aya::maps::{HashMap, MapData, ReusePortSockArray};
use aya::programs::SkReuseport;
use culvert_ebpf_shared::steer::{KERNEL, MAX_WORKERS};
use culvert_types::Spi;

use crate::encap::EncapSocket;
use crate::guard::chain;
use crate::wan::WanSocket;

/// The program, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CULVERT_STEER_OBJECT"));

/// Why a port cannot be divided among workers.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The kernel refused the program or its maps.
    #[error(
        "the kernel does not take the program that divides a UDP port among workers (4.19 or newer and CAP_BPF are needed): {0}"
    )]
    Load(String),
    /// The object lacks what this crate expects in it: the build is broken.
    #[error("the eBPF object has no {0}; it does not belong to this build")]
    Missing(&'static str),
    /// A map refused an entry.
    #[error("eBPF map {map}: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// In the kernel's words.
        cause: String,
    },
}

/// The division of one port of one address.
pub struct Steering {
    owners: HashMap<MapData, u32, u32>,
    sockets: ReusePortSockArray<MapData>,
    // Holds the program for as long as maps are to be changed.
    _ebpf: aya::Ebpf,
}

impl Steering {
    /// Divides the port among these sockets, which share it, in the order of their workers. All SPIs are the first's.
    ///
    /// # Errors
    /// [`SteerError`]; the kernel then spreads datagrams by their addresses, which no SA survives: close all but one.
    pub fn attach<'a>(sockets: impl IntoIterator<Item = &'a WanSocket>) -> Result<Self, SteerError> {
        let mut ebpf = aya::EbpfLoader::new().load(OBJECT).map_err(|e| SteerError::Load(chain(&e)))?;
        let mut map = |name| ebpf.take_map(name).ok_or(SteerError::Missing(name));
        let owners = map("OWNERS")?.try_into().map_err(map_error("OWNERS"))?;
        let mut table: ReusePortSockArray<MapData> =
            map("SOCKETS")?.try_into().map_err(map_error("SOCKETS"))?;
        let mut first = None;
        for (worker, socket) in (0..MAX_WORKERS).zip(sockets) {
            table.set(worker, &socket.as_fd(), 0).map_err(map_error("SOCKETS"))?;
            first = first.or(Some(socket));
        }
        let program = ebpf.program_mut("culvert_steer").ok_or(SteerError::Missing("culvert_steer"))?;
        let program: &mut SkReuseport = program.try_into().map_err(|e| SteerError::Load(chain(&e)))?;
        program.load().map_err(|e| SteerError::Load(chain(&e)))?;
        if let Some(first) = first {
            program.attach(first.as_fd()).map_err(|e| SteerError::Load(chain(&e)))?;
        }
        Ok(Self { owners, sockets: table, _ebpf: ebpf })
    }

    /// Datagrams of this SPI go to that worker's socket from now on.
    ///
    /// # Errors
    /// The map is full; the SPI stays the first worker's.
    pub fn own(&mut self, spi: Spi, worker: u32) -> Result<(), SteerError> {
        self.owners.insert(spi.value().to_be(), worker, 0).map_err(map_error("OWNERS"))
    }

    /// Datagrams of this SPI are the kernel's, whatever its parity.
    ///
    /// # Errors
    /// The map is full.
    pub fn own_kernel(&mut self, spi: Spi) -> Result<(), SteerError> {
        self.own(spi, KERNEL)
    }

    /// Forgets who owns the SPI. One that nobody owned is no error.
    pub fn forget(&mut self, spi: Spi) {
        let _ = self.owners.remove(&spi.value().to_be());
    }

    /// Odd SPIs without an owner are the kernel's, whose socket has joined the port, until it is closed.
    ///
    /// # Errors
    /// The socket is not of the port's group.
    pub fn add_kernel(&mut self, socket: &EncapSocket) -> Result<(), SteerError> {
        self.sockets.set(KERNEL, &socket.as_fd(), 0).map_err(map_error("SOCKETS"))
    }
}

fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> SteerError {
    move |error| SteerError::Map { map, cause: chain(&error) }
}
