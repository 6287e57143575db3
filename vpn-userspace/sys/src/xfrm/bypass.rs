//! Sockets whose packets no policy of the host concerns: those of IKE, by which SAs come to be.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::Emitable;
use netlink_packet_xfrm::UserPolicyInfo;
use netlink_packet_xfrm::constants as c;

/// `IP_XFRM_POLICY` (linux/in.h).
const IP_XFRM_POLICY: libc::c_int = 17;
/// `IPV6_XFRM_POLICY` (linux/in6.h).
const IPV6_XFRM_POLICY: libc::c_int = 35;

/// Lets what a socket sends, and what comes to it, pass as it is. Else a policy between the very addresses of two
/// gateways (transport mode, or a protected network that contains the peer) would hold up IKE too. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The kernel has no IPsec at all, or forbids it. Without policies of ours nothing is lost by it.
pub fn bypass(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    let (level, option, family) = if ipv4 {
        (libc::IPPROTO_IP, IP_XFRM_POLICY, c::AF_INET)
    } else {
        (libc::IPPROTO_IPV6, IPV6_XFRM_POLICY, c::AF_INET6)
    };
    for direction in [c::XFRM_POLICY_IN, c::XFRM_POLICY_OUT] {
        let mut info = UserPolicyInfo {
            direction,
            action: c::XFRM_POLICY_ALLOW,
            share: c::XFRM_SHARE_ANY,
            ..UserPolicyInfo::default()
        };
        info.selector.family = family;
        let mut bytes = vec![0; info.buffer_len()];
        info.emit(&mut bytes);
        // SAFETY: the kernel reads `len` bytes from the vector, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                bytes.as_ptr().cast(),
                bytes.len() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
