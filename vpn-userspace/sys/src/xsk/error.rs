//! What can go wrong with AF_XDP, who is to blame, and what to do.
use std::io;

/// Errors of this module.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A privilege is missing.
    #[error("AF_XDP is not permitted: run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK")]
    NotPermitted,
    /// The kernel has no AF_XDP.
    #[error(
        "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use wan_port = \"udp\" or \"raw\", lan_port = \"tun\""
    )]
    NotSupported,
    /// There is no such device, or no longer.
    #[error("there is no interface {device:?}; see `ip link`")]
    NoDevice {
        /// Its name.
        device: String,
    },
    /// Another program has the queue.
    #[error("queue {queue} of {device} belongs to another AF_XDP program: stop it, or use another port here")]
    QueueTaken {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// The device has no such queue.
    #[error("{device} has no queue {queue}; `ethtool -l {device}` shows how many there are")]
    NoQueue {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// There is no memory that could be locked.
    #[error(
        "no memory for {bytes} bytes of AF_XDP frames: raise the limit of locked memory (LimitMEMLOCK=), or give CAP_IPC_LOCK"
    )]
    NoMemory {
        /// How much was wanted.
        bytes: usize,
    },
    /// The kernel refused something else.
    #[error("AF_XDP on {device}: {call}: {source}")]
    Kernel {
        /// The device.
        device: String,
        /// The system call, or the socket option.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl XskError {
    pub(super) fn of(device: &str, queue: u32, call: &'static str, source: io::Error) -> Self {
        let device = device.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => Self::NotSupported,
            Some(libc::ENODEV) => Self::NoDevice { device },
            Some(libc::EBUSY) => Self::QueueTaken { device, queue },
            Some(libc::EINVAL) if call == "bind" => Self::NoQueue { device, queue },
            _ => Self::Kernel { device, call, source },
        }
    }
}
