//! What a device's driver does for XDP, as the kernel tells since 6.3 (netdev family of generic netlink,
//! include/uapi/linux/netdev.h). The driver's name does not tell: a veth sends redirected frames only while its peer
//! listens for them.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `GENL_ID_CTRL`, the family that knows the others; its command and attributes.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` and its attributes.
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_…`
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;

/// Bytes of the headers: of netlink, and of generic netlink behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// What a driver does for XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in it, and may redirect.
    pub redirects: bool,
    /// It sends what programs redirect to it, now.
    pub sends: bool,
}

/// Asks for them, in the network namespace in which it was made.
pub struct XdpProber {
    socket: Socket,
    family: u16,
}

impl XdpProber {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel knows no such question (before 6.3).
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // An answer comes before the send returns; this only bounds a fault.
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(1, 0),
        )?;
        let answer = ask(&socket, CONTROL, GET_FAMILY, (FAMILY_NAME, b"netdev\0"))?;
        let id = attribute(&answer, FAMILY_ID).and_then(|v| v.first_chunk()).map(|v| u16::from_ne_bytes(*v));
        Ok(Self { socket, family: id.ok_or_else(senseless)? })
    }

    /// Of the device with this index.
    ///
    /// # Errors
    /// There is none.
    pub fn features(&self, index: u32) -> io::Result<XdpFeatures> {
        let answer = ask(&self.socket, self.family, DEV_GET, (DEV_IFINDEX, &index.to_ne_bytes()))?;
        let bits = attribute(&answer, DEV_XDP_FEATURES)
            .and_then(|v| v.first_chunk())
            .map(|v| u64::from_ne_bytes(*v));
        let bits = bits.ok_or_else(senseless)?;
        Ok(XdpFeatures {
            redirects: bits & (BASIC | REDIRECT) == BASIC | REDIRECT,
            sends: bits & NDO_XMIT != 0,
        })
    }
}

fn senseless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of generic netlink that makes no sense")
}

/// Sends one command with one attribute; the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, (kind, value): (u16, &[u8])) -> io::Result<Vec<u8>> {
    let len = HEADER + GENERIC + 4 + value.len().next_multiple_of(4);
    let mut request = Vec::with_capacity(len);
    request.extend_from_slice(&(len as u32).to_ne_bytes());
    request.extend_from_slice(&family.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and port: there is one answer at a time.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[command, 1, 0, 0]);
    request.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(value);
    request.resize(len, 0);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|k| k.first_chunk()).map(|k| u16::from_ne_bytes(*k));
    if kind == Some(libc::NLMSG_ERROR as u16) {
        let code = answer.get(HEADER..).and_then(|rest| rest.first_chunk()).map(|c| i32::from_ne_bytes(*c));
        return Err(code.map_or_else(senseless, |code| io::Error::from_raw_os_error(-code)));
    }
    answer.get(HEADER + GENERIC..).map(<[u8]>::to_vec).ok_or_else(senseless)
}

/// The value of the first attribute of this kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let ([l0, l1, k0, k1], _) = attributes.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let kind = u16::from_ne_bytes([*k0, *k1]);
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_cut_ones_are_none() {
        let bytes = [6, 0, 1, 0, 0xaa, 0xbb, 0, 0, 5, 0, 2, 0, 0xcc, 0, 0, 0];
        assert_eq!(attribute(&bytes, 1), Some(&[0xaa, 0xbb][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[0xcc][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&bytes[..11], 2), None);
        assert_eq!(attribute(&[2, 0, 2, 0], 2), None);
    }

    #[test]
    fn loopback_sends_no_frames() {
        // Kernels before 6.3 have no answer.
        let Ok(prober) = XdpProber::new() else { return };
        assert_eq!(prober.features(1).unwrap(), XdpFeatures::default());
        assert_eq!(prober.features(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
