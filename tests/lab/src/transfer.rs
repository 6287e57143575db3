//! A TCP transfer of a given size, whose bytes are compared: what arrives, not how fast.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Bytes each way: enough for super-packets, coalescing and a few hundred ESP packets, and little in an emulator.
const SIZE: usize = 2 << 20;
/// For each way. Even an emulated machine under load is faster by far.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends [`SIZE`] bytes from one namespace to an address of another and as many others back, over one connection.
///
/// # Errors
/// When the connection fails or stalls, or other bytes arrive than were sent.
pub fn transfer(from: &Namespace, to: &Namespace, address: &str) -> Result<()> {
    let listener = to.within(|| TcpListener::bind(SocketAddr::new(address.parse().ok()?, 0)).ok())?;
    let listener = listener.with_context(|| format!("cannot listen at {address} in {}", to.name()))?;
    let port = listener.local_addr()?.port();
    let target = SocketAddr::new(address.parse()?, port);
    std::thread::scope(|scope| {
        // A socket stays in the namespace in which it was made.
        let far = scope.spawn(|| -> Result<()> {
            let mut stream = accept(&listener)?;
            receive(&mut stream, 1).context("on the way there")?;
            send(&mut stream, 2)
        });
        let near = from.within(|| -> Result<()> {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            patience(&stream)?;
            send(&mut stream, 1)?;
            receive(&mut stream, 2).context("on the way back")
        });
        let near = near.and_then(|result| result);
        let near = near.with_context(|| format!("TCP from {} to {target}", from.name()));
        let far = far.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        far.with_context(|| format!("TCP at {target} in {}", to.name())).and(near)
    })
}

/// Waits for the one connection, and not for ever.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                patience(&stream)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < end, "nobody connects");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn patience(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

/// Bytes that do not repeat within a packet or a super-packet.
fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..SIZE / 4).flat_map(|_| next()).collect()
}

fn send(stream: &mut TcpStream, seed: u32) -> Result<()> {
    stream.write_all(&content(seed)).context("sending")
}

fn receive(stream: &mut TcpStream, seed: u32) -> Result<()> {
    let expected = content(seed);
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).context("receiving")?;
    let first = got.iter().zip(&expected).position(|(a, b)| a != b);
    ensure!(first.is_none(), "other bytes arrive than were sent, from byte {}", first.unwrap_or_default());
    Ok(())
}
