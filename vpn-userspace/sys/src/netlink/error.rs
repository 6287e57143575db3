//! What the kernel said when it refused: errno, extended-ack text, and what to do about it.

use std::fmt;
use std::io;

use netlink_packet_core::{ErrorMessage, NlasIterator};

/// Extended-ack attribute with the kernel's own words (NLMSGERR_ATTR_MSG, linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsghdr` of the refused request, which precedes the extended-ack attributes.
const NLMSG_HEADER_LEN: usize = 16;

/// A refusal by the kernel: an errno and, where the kernel gave one, its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    errno: i32,
    text: Option<String>,
}

impl KernelError {
    /// From a positive errno and the extended-ack text.
    pub(crate) fn new(errno: i32, text: Option<String>) -> Self {
        Self { errno: errno.abs(), text }
    }

    /// From the body of an NLMSG_ERROR after its error code, as received on a socket with
    /// NETLINK_EXT_ACK and NETLINK_CAP_ACK: the header of the request, then attributes.
    pub(crate) fn parse(code: i32, after_code: &[u8]) -> Self {
        let text = after_code.get(NLMSG_HEADER_LEN..).and_then(|attributes| {
            NlasIterator::new(attributes)
                .flatten()
                .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
                .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').trim().to_owned())
        });
        Self::new(code, text.filter(|t| !t.is_empty()))
    }

    pub(crate) fn from_message(message: &ErrorMessage) -> Self {
        Self::parse(message.raw_code(), &message.header)
    }

    /// The errno, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The kernel's extended-ack text.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether the thing to be made is already there.
    pub fn already_exists(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// Whether the thing asked about or to be removed is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self.errno, libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
    }

    /// Whether the caller lacks CAP_NET_ADMIN.
    pub fn not_permitted(&self) -> bool {
        matches!(self.errno, libc::EPERM | libc::EACCES)
    }

    /// Whether what was asked for is not to be had, by its values or because the kernel lacks it; not for want of room.
    pub fn refuses_values(&self) -> bool {
        self.not_supported() || matches!(self.errno, libc::EINVAL | libc::ENOENT | libc::ERANGE | libc::E2BIG)
    }

    /// Whether this kernel lacks the feature (as opposed to refusing the values).
    pub fn not_supported(&self) -> bool {
        matches!(
            self.errno,
            libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOSYS | libc::ENOPROTOOPT
        )
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(f, "{text} ({errno})")?,
            None => write!(f, "{errno}")?,
        }
        if self.not_permitted() {
            f.write_str("; run as root or with CAP_NET_ADMIN")?;
        }
        Ok(())
    }
}

impl std::error::Error for KernelError {}

/// A netlink request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or set up.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {action}: {reason}")]
    Refused {
        /// What was asked, to stand after "cannot".
        action: String,
        /// The kernel's answer.
        #[source]
        reason: KernelError,
    },
    /// Sending or receiving failed, or the answer was not one that belongs to the request.
    #[error("cannot {action}: {detail}")]
    Broken {
        /// What was asked, to stand after "cannot".
        action: String,
        /// What went wrong on the way.
        detail: String,
    },
    /// No such interface in this network namespace.
    #[error("there is no network interface {0:?} in this network namespace; see `ip link`")]
    NoInterface(String),
    /// The kernel has no way to the address.
    #[error("there is no route to {0} from here: {1}")]
    NoRoute(std::net::IpAddr, #[source] KernelError),
}

impl NetlinkError {
    pub(crate) fn refused(action: impl Into<String>, reason: KernelError) -> Self {
        Self::Refused { action: action.into(), reason }
    }

    pub(crate) fn broken(action: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::Broken { action: action.into(), detail: detail.to_string() }
    }

    pub(crate) fn from_rtnetlink(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                Self::refused(action, KernelError::from_message(&message))
            }
            other => Self::broken(action, other),
        }
    }

    /// The kernel's refusal, if that is what it was.
    pub fn kernel(&self) -> Option<&KernelError> {
        match self {
            Self::Refused { reason, .. } | Self::NoRoute(_, reason) => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(attributes: &[u8]) -> Vec<u8> {
        let mut v = vec![0; NLMSG_HEADER_LEN];
        v.extend_from_slice(attributes);
        v
    }

    #[test]
    fn extended_ack_text_is_found_among_other_attributes() {
        let mut tlvs = vec![8, 0, 2, 0, 1, 2, 3, 4]; // NLMSGERR_ATTR_OFFS first
        tlvs.extend_from_slice(&[10, 0, 1, 0]);
        tlvs.extend_from_slice(b"nope!\0\0\0");
        let e = KernelError::parse(-95, &body(&tlvs));
        assert_eq!((e.errno(), e.text()), (95, Some("nope!")));
        assert!(e.to_string().starts_with("nope! ("), "{e}");
    }

    #[test]
    fn truncated_or_absent_text_leaves_the_errno() {
        for bytes in [&b""[..], &[0; 7], &body(&[9, 0, 1]), &body(&[200, 0, 1, 0, b'x'])] {
            let e = KernelError::parse(-2, bytes);
            assert_eq!((e.errno(), e.text()), (2, None));
            assert!(e.is_missing());
        }
    }

    #[test]
    fn a_missing_privilege_says_what_to_do() {
        assert!(KernelError::parse(-1, &[]).to_string().contains("CAP_NET_ADMIN"));
    }
}
