//! What can go wrong with ESP in eBPF, who is to blame, and what to do.
use super::is_permission;
use crate::guard::{GuardError, chain};

/// Errors of [`super::EspBpf`].
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// Neither root nor the capabilities.
    #[error("loading eBPF programs is not permitted; run as root, or give CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted,
    /// The kernel (or the parser of the object) refused the programs.
    #[error("the kernel does not take the eBPF programs of engine bpf (6.1 and newer do): {0}")]
    Load(String),
    /// The object lacks what this crate expects in it: the build is broken.
    #[error("the eBPF object of engine bpf has no {0}; it does not belong to this build")]
    Missing(&'static str),
    /// Attaching or detaching failed.
    #[error(transparent)]
    Hook(#[from] GuardError),
    /// An operation on a map failed.
    #[error("eBPF map {map} of engine bpf: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// In the kernel's words.
        cause: String,
    },
    /// A question to the kernel about an interface failed.
    #[error("cannot {what} of {interface}: {cause}")]
    Device {
        /// The interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The answer.
        cause: std::io::Error,
    },
    /// The packets of this link have another header than the programs write.
    #[error("{interface} has no Ethernet headers, which engine bpf writes; use engine = \"user\"")]
    NotEthernet {
        /// The interface.
        interface: String,
    },
    /// No way to give packets to the programs from user space.
    #[error("cannot give packets to the eBPF programs of engine bpf: {0}")]
    Packet(std::io::Error),
    /// All places are taken.
    #[error(
        "engine bpf holds {most} SA pairs, and that is all it can; serve other connections by engine = \"user\""
    )]
    Full {
        /// How many it can hold.
        most: u32,
    },
    /// More selectors than the programs look through.
    #[error(
        "the SA has {have} traffic selectors on one side, and engine bpf looks through {most}; use fewer networks, or engine = \"user\""
    )]
    Selectors {
        /// How many there are.
        have: usize,
        /// How many there may be.
        most: usize,
    },
    /// Not ChaCha20-Poly1305's.
    #[error("the SA's keys are not those of ChaCha20-Poly1305, the only cipher of engine bpf")]
    Key,
}

impl EspError {
    /// From aya's error on loading, with the causes that it keeps behind `source()`.
    pub(super) fn load(error: impl std::error::Error + 'static) -> EspError {
        let text = chain(&error);
        if is_permission(&error, &text) { EspError::NotPermitted } else { EspError::Load(text) }
    }

    pub(super) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> EspError {
        move |error| EspError::Map { map, cause: chain(&error) }
    }
}
