//! The IKE sockets: UDP 500 on each WAN address. (UDP 4500 belongs to the data plane, which shares it with ESP.)

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// A datagram that arrived, without the non-ESP marker.
pub(crate) struct Datagram {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// Datagrams that may wait for the event loop; beyond it the network loses some, as under any flood.
const BACKLOG: usize = 1024;
/// Larger than any IKE message that this version takes.
const LARGEST: usize = 65_535;

pub(crate) struct IkeSockets {
    open: BTreeMap<SocketAddr, (Arc<UdpSocket>, tokio::task::JoinHandle<()>)>,
    sender: mpsc::Sender<Datagram>,
    port: u16,
}

impl IkeSockets {
    pub(crate) fn new(port: u16) -> (Self, mpsc::Receiver<Datagram>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self { open: BTreeMap::new(), sender, port }, receiver)
    }

    /// Opens the port on an address, if it is not open.
    pub(crate) async fn open(&mut self, address: IpAddr) -> anyhow::Result<()> {
        let local = SocketAddr::new(address, self.port);
        if self.open.contains_key(&local) {
            return Ok(());
        }
        let socket = UdpSocket::bind(local).await.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow!(
                "UDP {local} is taken by another program, probably another IKE daemon; stop it \
                 (`ss -ulpn sport = :{}` names it) or set ike_port in [gateway]",
                self.port
            ),
            ErrorKind::AddrNotAvailable => {
                anyhow!("{address} is no address of this host; correct local_address or add it to the WAN interface")
            }
            ErrorKind::PermissionDenied => {
                anyhow!("not allowed to open UDP {local}; run culvertd as root or with CAP_NET_BIND_SERVICE")
            }
            _ => anyhow::Error::new(error).context(format!("cannot open UDP {local}")),
        })?;
        // Where the kernel has no IPsec there are no policies either.
        let _ = culvert_sys::xfrm::bypass(socket.as_fd(), address.is_ipv4());
        let socket = Arc::new(socket);
        let task = tokio::spawn(receive(socket.clone(), local, self.sender.clone()));
        self.open.insert(local, (socket, task));
        Ok(())
    }

    /// Closes the ports of addresses that are no longer used.
    pub(crate) fn retain(&mut self, used: impl Fn(IpAddr) -> bool) {
        self.open.retain(|local, (_, task)| {
            let keep = used(local.ip());
            if !keep {
                task.abort();
            }
            keep
        });
    }

    /// Sends; a full socket buffer loses the datagram, which IKE sends again.
    pub(crate) fn send(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        let (socket, _) = self.open.get(&local).with_context(|| format!("no socket at UDP {local}"))?;
        match socket.try_send_to(bytes, remote) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => {
                Err(anyhow::Error::new(error).context(format!("cannot send from {local} to {remote}")))
            }
        }
    }
}

impl Drop for IkeSockets {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, sender: mpsc::Sender<Datagram>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, remote)) => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if sender.try_send(Datagram { local, remote, bytes }).is_err() && sender.is_closed() {
                    return;
                }
            }
            // An ICMP error of the path, reported at the socket; the exchange's own timer handles it.
            Err(error) => {
                tracing::debug!(target: "culvertd", "UDP {local}: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}
