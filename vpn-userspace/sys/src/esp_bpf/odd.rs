//! Packets that the stack had to put together, or had joined, before they could be opened: they come to a socket, and go
//! from there through the program that opens, by BPF_PROG_TEST_RUN, as a frame of their own. It is the same SA in
//! the same maps.
use super::EspError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of the longest frame: the longest text of the programs, and what stands before and behind it.
const MAX_FRAME: usize = 2048;
const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ESP: u8 = 50;
/// The program wants the packet sent on (TC_ACT_REDIRECT).
const REDIRECT: u32 = 7;
/// `bpf(2)`'s command.
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN looks at (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<TestRun>() == 80);

/// Puts frames into interfaces.
#[derive(Debug)]
pub struct FrameSender(OwnedFd);

impl FrameSender {
    /// Of the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn new() -> Result<Self, EspError> {
        // SAFETY: no memory is passed; the descriptor is owned at once.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(EspError::Packet(io::Error::last_os_error()));
        }
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends an IP packet into a tunnel by its back, as if its interface had received it.
    ///
    /// # Errors
    /// The interface is gone, or has no room.
    pub fn receive(&self, back: u32, packet: &[u8]) -> io::Result<()> {
        let ethertype =
            if packet.first().is_some_and(|b| b >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let mac = crate::netlink::FRONT_MAC;
        let frame = [&mac[..], &mac, &ethertype.to_be_bytes(), packet].concat();
        self.send(back, &frame)
    }

    fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: plain data, for which all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = interface as i32;
        // SAFETY: buffer and address are ours and of the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Opens such packets, one at a time: the program's memory for them is one.
#[derive(Debug)]
pub struct OddOpener {
    program: OwnedFd,
    sender: FrameSender,
    frame: Box<[u8; MAX_FRAME]>,
    opened: Box<[u8; MAX_FRAME]>,
}

impl OddOpener {
    pub(super) fn new(program: OwnedFd) -> Result<Self, EspError> {
        Ok(Self {
            program,
            sender: FrameSender::new()?,
            frame: Box::new([0; MAX_FRAME]),
            opened: Box::new([0; MAX_FRAME]),
        })
    }

    /// Opens an ESP packet that came in UDP, or from port 0 without, and puts what was in it into the tunnel whose back has this index. What is
    /// dropped is counted by the program.
    ///
    /// # Errors
    /// The kernel does not run the program, or the tunnel's interface is gone.
    pub fn open(&mut self, back: u32, ends: (SocketAddr, SocketAddr), tos: u8, esp: &[u8]) -> io::Result<()> {
        match self.opened(ends, tos, esp)? {
            Some(len) => self.sender.send(back, self.opened.get(..len).unwrap_or_default()),
            None => Ok(()),
        }
    }

    /// Opens such a packet; what was in it, without a link header. `None` if it was dropped.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn open_packet(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        tos: u8,
        esp: &[u8],
    ) -> io::Result<Option<&[u8]>> {
        let len = self.opened(ends, tos, esp)?;
        Ok(len.and_then(|len| self.opened.get(ETHERNET..len)))
    }

    /// Runs the program; the length of the frame that it made.
    fn opened(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        tos: u8,
        esp: &[u8],
    ) -> io::Result<Option<usize>> {
        let Some(len) = wrap(&mut self.frame[..], (from, to), tos, esp) else {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        };
        let mut run = TestRun {
            program: self.program.as_raw_fd() as u32,
            data_size_in: len as u32,
            data_size_out: MAX_FRAME as u32,
            data_in: self.frame.as_ptr() as u64,
            data_out: self.opened.as_mut_ptr() as u64,
            repeat: 1,
            ..TestRun::default()
        };
        // SAFETY: an attribute of the command's layout; the kernel reads `data_size_in` bytes and writes at most
        // `data_size_out`, which is how long the buffers are.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((run.retval == REDIRECT).then_some(run.data_size_out as usize))
    }
}

/// The packet as a frame, in UDP unless it came from port 0; `None` if that is too long, or the addresses are of two families.
fn wrap(frame: &mut [u8], (from, to): (SocketAddr, SocketAddr), tos: u8, esp: &[u8]) -> Option<usize> {
    let (protocol, prefix) = if from.port() == 0 { (ESP, 0) } else { (UDP, 8) };
    let payload_len = prefix + esp.len();
    let ip = ETHERNET
        + match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = frame.get_mut(ETHERNET..ETHERNET + 20)?;
                header.fill(0);
                header[0] = 0x45;
                header[1] = tos;
                header[2..4].copy_from_slice(&u16::try_from(20 + payload_len).ok()?.to_be_bytes());
                header[8..10].copy_from_slice(&[64, protocol]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                20
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = frame.get_mut(ETHERNET..ETHERNET + 40)?;
                header.fill(0);
                header[0] = 0x60 | tos >> 4;
                header[1] = tos << 4;
                header[4..6].copy_from_slice(&u16::try_from(payload_len).ok()?.to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, 64]);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                40
            }
            _ => return None,
        };
    let ethertype = if from.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let link = frame.get_mut(..ETHERNET)?;
    link.fill(0);
    link[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let (header, payload) = frame.get_mut(ip..ip + payload_len)?.split_at_mut(prefix);
    if prefix > 0 {
        header[..2].copy_from_slice(&from.port().to_be_bytes());
        header[2..4].copy_from_slice(&to.port().to_be_bytes());
        header[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
        header[6..8].fill(0);
    }
    payload.copy_from_slice(esp);
    Some(ip + payload_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_ebpf_shared::{Kind, parse_ethernet};

    #[test]
    fn a_packet_becomes_a_frame_that_the_parser_takes() {
        for (from, to) in [
            ("192.0.2.1:777", "192.0.2.2:4500"),
            ("[2001:db8::1]:777", "[2001:db8::2]:4500"),
            ("192.0.2.1:0", "192.0.2.2:0"),
            ("[2001:db8::1]:0", "[2001:db8::2]:0"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut frame = [0xff; MAX_FRAME];
            let esp = [7, 7, 7, 7, 0, 0, 0, 9, 1, 2, 3, 4];
            let len = wrap(&mut frame, (from, to), 0xb9, &esp).unwrap();
            let parsed = parse_ethernet(&frame[..len]);
            let Kind::Esp { spi, sequence, encapsulated, offset, len: esp_len } = parsed.kind() else {
                panic!("{parsed:?}")
            };
            assert_eq!((spi, sequence, encapsulated, esp_len), ([7; 4], 9, from.port() != 0, 12));
            assert_eq!(frame[offset as usize..len], esp);
            assert_eq!((parsed.source, parsed.destination), (from.ip().into(), to.ip().into()));
            assert_eq!(wrap(&mut frame, (from, to), 0, &[0; MAX_FRAME]), None);
        }
    }
}
