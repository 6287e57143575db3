//! Datagrams: each client has a socket of its own to the far side, so that answers find it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::counters::{Active, Counters};
use crate::{Forward, Protocol, Purpose, allowed};

/// The longest datagram.
const LONGEST: usize = 65_535;
/// Datagrams of one client that wait while its socket is opened, or is full; more are lost, as UDP may lose them.
const WAITING: usize = 256;
/// For a name and a socket.
const OPEN: Duration = Duration::from_secs(10);

pub(crate) async fn start(
    name: &str,
    forward: &Forward,
    counters: Arc<Counters>,
) -> io::Result<(SocketAddr, AbortHandle)> {
    if forward.listen.ip().is_unspecified() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "with UDP write the address that clients send to: answers must come from there",
        ));
    }
    let socket = Arc::new(bind(forward, forward.listen, Purpose::Listen(forward.listen))?);
    let listen = socket.local_addr()?;
    let (name, forward) = (name.to_owned(), Arc::new(forward.clone()));
    let task = tokio::spawn(serve(name, socket, forward, counters));
    Ok((listen, task.abort_handle()))
}

/// Hands datagrams to their clients' tasks until it is aborted; with it all of them go.
async fn serve(name: String, socket: Arc<UdpSocket>, forward: Arc<Forward>, counters: Arc<Counters>) {
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = tokio::select! {
            Some(ended) = tasks.join_next() => {
                if let Ok(client) = ended {
                    clients.remove(&client);
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // What ICMP says of an answer that nobody waits for any more.
                Err(_) => continue,
            },
        };
        let datagram = buffer.get(..length).unwrap_or_default().to_vec();
        if let Some(client) = clients.get(&from) {
            let _ = client.try_send(datagram);
            continue;
        }
        if !allowed(&forward, from.ip()) {
            counters.not_allowed.fetch_add(1, Relaxed);
            continue;
        }
        if clients.len() >= forward.most {
            counters.too_many.fetch_add(1, Relaxed);
            continue;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let _ = sender.try_send(datagram);
        clients.insert(from, sender);
        let (name, socket) = (name.clone(), Arc::clone(&socket));
        let (forward, counters) = (Arc::clone(&forward), Arc::clone(&counters));
        tasks.spawn(async move {
            let Some(_active) = Active::enter(&counters, &forward) else { return from };
            if let Err(error) = client(&socket, from, &forward, &counters, receiver).await {
                tracing::warn!(forward = name, "{} for {from}: {error}", forward.to);
                counters.fail(format!("{}: {error}", forward.to));
            }
            from
        });
    }
}

/// One client, until nothing comes from either side for so long.
async fn client(
    listener: &UdpSocket,
    client: SocketAddr,
    forward: &Forward,
    counters: &Counters,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "its name was not resolved in time");
    let there = tokio::time::timeout(OPEN, open(forward)).await.unwrap_or_else(|_| Err(late()))?;
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                counters.bytes_there.fetch_add(datagram.len() as u64, Relaxed);
                // Refused, or no way there: the client finds out as it would without us.
                let _ = there.send(&datagram).await;
            }
            received = there.recv(&mut buffer) => {
                if let Ok(length) = received {
                    counters.bytes_back.fetch_add(length as u64, Relaxed);
                    let _ = listener.send_to(buffer.get(..length).unwrap_or_default(), client).await;
                }
            }
            () = tokio::time::sleep(forward.idle) => return Ok(()),
        }
    }
}

fn bind(forward: &Forward, address: SocketAddr, purpose: Purpose) -> io::Result<UdpSocket> {
    let socket = forward.origin.socket(Protocol::Udp, address.is_ipv4(), purpose)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn open(forward: &Forward) -> io::Result<UdpSocket> {
    let fits = |to: &SocketAddr| forward.source.is_none_or(|source| source.is_ipv4() == to.is_ipv4());
    let to = forward.to.resolve().await?.into_iter().find(fits);
    let to =
        to.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address of the source's family"))?;
    let source = forward.source.unwrap_or(if to.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    });
    let socket = bind(forward, SocketAddr::new(source, 0), Purpose::Reach)?;
    socket.connect(to).await?;
    Ok(socket)
}
