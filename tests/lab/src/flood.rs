//! Numbered datagrams as fast as they go, and exactly which of them arrived.
//!
//! At most a window of them is on its way: the receiver says how many it has, so that no queue between overflows, and what
//! is lost was lost by whoever is under test.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Namespace;

/// Datagrams on their way at most.
const WINDOW: u64 = 256;
/// Bytes of the receiver's buffer.
const BUFFER: usize = 8 << 20;
/// The receiver tells its count after so many.
const TELL: u64 = 32;
/// Datagrams that can be told apart in one run.
const MOST: u64 = 1 << 25;
/// After so long without word, what is on its way is given up.
const PATIENCE: Duration = Duration::from_millis(500);

/// What became of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flooded {
    /// Datagrams sent.
    pub sent: u64,
    /// Of these, how many arrived, each counted once.
    pub received: u64,
    /// How often one arrived that had before.
    pub again: u64,
    /// How often one arrived behind one that was sent after it.
    pub late: u64,
}

impl Flooded {
    /// Datagrams that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// A running flood.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<(u64, u64, u64)>,
}

impl Flood {
    /// Sends datagrams of `bytes`, 8 to 1400, from `from` to the address `to`, which the namespace `at` has.
    ///
    /// # Errors
    /// When the sockets cannot be opened.
    pub fn start(from: &Namespace, at: &Namespace, to: &str, bytes: usize) -> Result<Self> {
        let to: IpAddr = to.parse().context("no address")?;
        let any: IpAddr = if to.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
        let open = |namespace: &Namespace, address| -> Result<UdpSocket> {
            let socket = namespace
                .within(|| UdpSocket::bind(SocketAddr::new(address, 0)))?
                .context("cannot open a UDP socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(2)))?;
            // A window of small packets costs the kernel more memory than a socket may have by default.
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
            Ok(socket)
        };
        let sink = open(at, to)?;
        let source = open(from, any)?;
        source.connect(sink.local_addr()?)?;
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (asked, over) = (stop.clone(), ended.clone());
        let sender = std::thread::spawn(move || send(&source, bytes.clamp(8, 1400), &asked));
        let receiver = std::thread::spawn(move || receive(&sink, &over));
        Ok(Self { stop, ended, sender, receiver })
    }

    /// Stops sending, waits up to two seconds for what is still on its way, and tells what was seen.
    ///
    /// # Errors
    /// When a thread has panicked.
    pub fn stop(self) -> Result<Flooded> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().ok().context("the sender has panicked")?;
        self.ended.store(true, Ordering::Relaxed);
        let (received, again, late) = self.receiver.join().ok().context("the receiver has panicked")?;
        Ok(Flooded { sent, received, again, late })
    }
}

fn send(socket: &UdpSocket, bytes: usize, stop: &AtomicBool) -> u64 {
    let mut packet = vec![0x5a; bytes];
    let mut word = [0; 8];
    // Sent, of these told of as arrived, and given up.
    let (mut sent, mut told, mut given_up) = (0u64, 0u64, 0u64);
    let mut heard = Instant::now();
    let mut quiet_since = None;
    loop {
        let stopping = stop.load(Ordering::Relaxed) || sent >= MOST;
        let on_its_way = sent.saturating_sub(told + given_up);
        if !stopping && on_its_way < WINDOW {
            packet[..8].copy_from_slice(&sent.to_be_bytes());
            // A full queue of the host itself is no loss: the same number goes again.
            if socket.send(&packet).is_ok() {
                sent += 1;
            }
            if on_its_way % TELL != 0 {
                continue;
            }
        }
        if stopping && (told >= sent || quiet_since.get_or_insert_with(Instant::now).elapsed().as_secs() >= 2)
        {
            return sent;
        }
        socket.set_nonblocking(!stopping && on_its_way < WINDOW / 2).ok();
        match socket.recv(&mut word) {
            Ok(_) => {
                told = told.max(u64::from_be_bytes(word));
                heard = Instant::now();
            }
            Err(_) if heard.elapsed() > PATIENCE => {
                given_up = sent - told;
                heard = Instant::now();
            }
            Err(_) => {}
        }
    }
}

fn receive(socket: &UdpSocket, ended: &AtomicBool) -> (u64, u64, u64) {
    let mut seen = vec![0u64; (MOST / 64) as usize];
    let mut buffer = [0; 1500];
    let (mut received, mut again, mut late, mut highest) = (0u64, 0u64, 0u64, 0u64);
    let mut peer = None;
    let mut told = 0;
    while !ended.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if length >= 8 => {
                peer = Some(from);
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap_or_default());
                let Some(word) = seen.get_mut((number / 64) as usize) else { continue };
                let bit = 1 << (number % 64);
                if *word & bit != 0 {
                    again += 1;
                    continue;
                }
                *word |= bit;
                received += 1;
                late += u64::from(number < highest);
                highest = highest.max(number);
                if received - told < TELL {
                    continue;
                }
            }
            _ => {}
        }
        // Also whenever nothing comes: the last word may have been lost.
        if let Some(peer) = peer {
            let _ = socket.send_to(&received.to_be_bytes(), peer);
            told = received;
        }
    }
    (received, again, late)
}
