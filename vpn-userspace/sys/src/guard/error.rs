//! What can go wrong with the guard, who is to blame, and what to do.
use culvert_types::Spi;
use std::io;

/// Errors of [`super::Guard`].
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Neither root nor the capabilities.
    #[error("loading eBPF programs is not permitted; run as root, or give CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted,
    /// The kernel (or the parser of the object) refused the programs.
    #[error(
        "the kernel does not take the guard's eBPF programs (5.18 or newer is needed); with `guard = \"off\"` Culvert works without: {0}"
    )]
    Load(String),
    /// The object lacks what this crate expects in it: the build is broken.
    #[error("the eBPF object has no {0}; it does not belong to this build")]
    Missing(&'static str),
    /// No such interface in this network namespace.
    #[error("there is no interface {interface:?}; see `ip link`")]
    UnknownInterface {
        /// As asked for.
        interface: String,
    },
    /// This guard is attached there already.
    #[error("the guard is attached to {interface} already")]
    AlreadyAttached {
        /// As asked for.
        interface: String,
    },
    /// Another XDP program has the place.
    #[error(
        "{interface} has another XDP program; remove it (`ip link set dev {interface} xdp off`), or use attach = \"tcx\""
    )]
    Occupied {
        /// As asked for.
        interface: String,
    },
    /// The packets of this link do not begin with what the mode needs.
    #[error(
        "{interface} has no Ethernet headers, so XDP cannot serve there; use attach = \"tcx\" or \"auto\""
    )]
    NotEthernet {
        /// As asked for.
        interface: String,
    },
    /// The kernel refused to attach.
    #[error("cannot attach the guard to {interface} by {how}: {cause}")]
    Attach {
        /// The interface.
        interface: String,
        /// XDP native, XDP generic, TCX or clsact.
        how: &'static str,
        /// In the kernel's words.
        cause: String,
    },
    /// The kernel refused to detach.
    #[error("cannot detach the guard from {interface}: {cause}")]
    Detach {
        /// The interface.
        interface: String,
        /// In the kernel's words.
        cause: String,
    },
    /// An operation on a map failed.
    #[error("eBPF map {map}: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// In the kernel's words.
        cause: String,
    },
    /// A question to the kernel failed.
    #[error("cannot {what}: {cause}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The answer.
        cause: io::Error,
    },
    /// The guard has an SA with this SPI.
    #[error("the guard has an SA with SPI {spi} already")]
    DuplicateSpi {
        /// The SPI.
        spi: Spi,
    },
    /// The guard has no such SA.
    #[error("the guard has no SA with SPI {spi}")]
    NoSuchSa {
        /// The SPI.
        spi: Spi,
    },
    /// All places are taken.
    #[error("the guard holds {most} SAs, and that is all it can")]
    TooManySas {
        /// How many it can hold.
        most: u32,
    },
    /// All places for AF_XDP sockets are taken.
    #[error("the guard leads to {most} AF_XDP sockets, and that is all it can; use fewer queues or workers")]
    TooManySockets {
        /// How many it can hold.
        most: u32,
    },
    /// The alignment of an SA is not a power of two up to 128.
    #[error("an SA's alignment must be a power of two up to 128, not {alignment}")]
    InvalidAlignment {
        /// As given.
        alignment: u8,
    },
}

impl GuardError {
    /// From aya's error on loading, with the causes that it keeps behind `source()`.
    pub(crate) fn load(error: impl std::error::Error + 'static) -> GuardError {
        let text = chain(&error);
        // The verifier answers EACCES too, but then it says why, with a count of instructions.
        if matches!(os_error(&error), Some(libc::EPERM | libc::EACCES)) && !text.contains("processed ") {
            return GuardError::NotPermitted;
        }
        GuardError::Load(text)
    }

    pub(super) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> GuardError {
        move |error| GuardError::Map { map, cause: chain(&error) }
    }
}

/// The kernel's error number behind an error.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
}

/// An error with its causes, in one line (the verifier's log aside), saying nothing twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
