//! Connections: each has one of its own to the far side, and ends as that one does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::counters::{Active, Counters};
use crate::{Destination, Forward, Protocol, Purpose, allowed};

/// For all addresses of the far side together.
const CONNECT: Duration = Duration::from_secs(10);
/// What is moved at once in each direction.
const BUFFER: usize = 64 << 10;
/// Clients that wait to be let in.
const BACKLOG: u32 = 1024;
/// After a host that has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn start(
    name: &str,
    forward: &Forward,
    counters: Arc<Counters>,
) -> io::Result<(SocketAddr, AbortHandle)> {
    let socket = socket(forward, forward.listen.is_ipv4(), Purpose::Listen(forward.listen))?;
    socket.set_reuseaddr(true)?;
    socket.bind(forward.listen)?;
    let listener = socket.listen(BACKLOG)?;
    let listen = listener.local_addr()?;
    let (name, forward) = (name.to_owned(), Arc::new(forward.clone()));
    let task = tokio::spawn(serve(name, listener, forward, counters));
    Ok((listen, task.abort_handle()))
}

/// Lets clients in until it is aborted; with it all of them go.
async fn serve(name: String, listener: TcpListener, forward: Arc<Forward>, counters: Arc<Counters>) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(forward = name, "cannot let a client in: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !allowed(&forward, from.ip()) {
            counters.not_allowed.fetch_add(1, Relaxed);
            tracing::debug!(forward = name, "{from} is not allowed");
            continue;
        }
        let (name, forward, counters) = (name.clone(), Arc::clone(&forward), Arc::clone(&counters));
        clients.spawn(async move {
            let Some(_active) = Active::enter(&counters, &forward) else {
                tracing::debug!(forward = name, "{from} is one too many");
                return;
            };
            match connect(&forward).await {
                Ok(there) => relay(stream, there, forward.idle, &counters).await,
                Err(error) => {
                    tracing::warn!(forward = name, "cannot reach {} for {from}: {error}", forward.to);
                    counters.fail(format!("{}: {error}", forward.to));
                    reset(&stream);
                }
            }
        });
    }
}

/// The client is to see that nobody is there, and not an orderly end.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn connect(forward: &Forward) -> io::Result<TcpStream> {
    let all = async {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for to in resolve(&forward.to, forward).await? {
            match to_one(forward, to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let late =
        || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT.as_secs()));
    tokio::time::timeout(CONNECT, all).await.unwrap_or_else(|_| Err(late()))
}

async fn resolve(to: &Destination, forward: &Forward) -> io::Result<Vec<SocketAddr>> {
    let all = to.resolve().await?;
    match forward.source {
        Some(source) => Ok(all.into_iter().filter(|a| a.is_ipv4() == source.is_ipv4()).collect()),
        None => Ok(all),
    }
}

fn socket(forward: &Forward, ipv4: bool, purpose: Purpose) -> io::Result<TcpSocket> {
    let socket = forward.origin.socket(Protocol::Tcp, ipv4, purpose)?;
    // Not connected yet, which the type does not show.
    Ok(TcpSocket::from_std_stream(socket.into()))
}

async fn to_one(forward: &Forward, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(forward, to.is_ipv4(), Purpose::Reach)?;
    if let Some(source) = forward.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Moves bytes both ways until both sides have ended, one has failed, or neither has sent anything for so long.
async fn relay(client: TcpStream, there: TcpStream, idle: Duration, counters: &Counters) {
    let _ = client.set_nodelay(true);
    let began = Instant::now();
    let last = AtomicU64::new(0);
    let (from_client, to_client) = client.into_split();
    let (from_there, to_there) = there.into_split();
    let beat = || last.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    let silent = async {
        loop {
            let quiet = began.elapsed().saturating_sub(Duration::from_millis(last.load(Relaxed)));
            match idle.checked_sub(quiet) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    };
    let both = async {
        tokio::try_join!(
            copy(from_client, to_there, &counters.bytes_there, &beat),
            copy(from_there, to_client, &counters.bytes_back, &beat),
        )
    };
    // An error of one side closes both by dropping them.
    tokio::select! { _ = both => {}, () = silent => {} }
}

/// One direction, its end included.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    bytes: &AtomicU64,
    beat: &(impl Fn() + Sync),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        beat();
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
        bytes.fetch_add(length as u64, Relaxed);
    }
}
