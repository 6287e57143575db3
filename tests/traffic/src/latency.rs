//! One datagram there, one back, again and again: how long a round trip takes, by rank.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Bytes of a datagram's payload.
const BYTES: usize = 64;
/// After which an answer counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// Round trips, in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latencies {
    sorted: Vec<f64>,
    /// Datagrams without an answer.
    pub lost: u32,
}

impl Latencies {
    /// From measurements in any order.
    pub fn new(mut micros: Vec<f64>, lost: u32) -> Self {
        micros.sort_by(f64::total_cmp);
        Self { sorted: micros, lost }
    }

    /// The value that `share` (0 to 1) of the measurements do not exceed; none without measurements.
    pub fn rank(&self, share: f64) -> Option<f64> {
        let last = self.sorted.len().checked_sub(1)?;
        // Nearest rank.
        let at = (share * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(at.saturating_sub(1).min(last)).copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

/// A thread that answers, and the socket that asks it.
#[derive(Debug)]
pub struct PingPong {
    client: UdpSocket,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PingPong {
    /// Starts with two bound sockets, each of its own namespace.
    ///
    /// # Errors
    /// When they cannot be connected.
    pub fn start(client: UdpSocket, server: UdpSocket) -> Result<Self> {
        let to: SocketAddr = server.local_addr()?;
        client.connect(to).with_context(|| format!("no way to {to}"))?;
        client.set_read_timeout(Some(LOST))?;
        server.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; BYTES];
            while !asked.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], peer);
                }
            }
        });
        Ok(Self { client, stop, thread: Some(thread) })
    }

    /// Makes at most `count` round trips, for at most `time`.
    ///
    /// # Errors
    /// When the kernel refuses to send.
    pub fn measure(&self, count: u32, time: Duration) -> Result<Latencies> {
        let (mut all, mut lost) = (Vec::with_capacity(count as usize), 0);
        let mut buffer = [0; BYTES];
        let start = Instant::now();
        for number in 0..count {
            if start.elapsed() > time {
                break;
            }
            let mut datagram = [0x5a; BYTES];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            let sent = Instant::now();
            self.client.send(&datagram).context("cannot send a datagram")?;
            loop {
                match self.client.recv(&mut buffer) {
                    // One that was given up may come late.
                    Ok(_) if buffer[..4] == datagram[..4] => {
                        all.push(sent.elapsed().as_secs_f64() * 1e6);
                        break;
                    }
                    Ok(_) if sent.elapsed() < LOST => {}
                    _ => {
                        lost += 1;
                        break;
                    }
                }
            }
        }
        Ok(Latencies::new(all, lost))
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest() {
        let all = Latencies::new((1..=100).rev().map(f64::from).collect(), 0);
        assert_eq!((all.rank(0.5), all.rank(0.99), all.rank(1.0)), (Some(50.0), Some(99.0), Some(100.0)));
        assert_eq!(Latencies::new(vec![7.0], 1).rank(0.99), Some(7.0));
        assert_eq!(Latencies::default().rank(0.5), None);
    }

    #[test]
    fn round_trips_are_counted() {
        let open = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let game = PingPong::start(open(), open()).unwrap();
        let seen = game.measure(50, Duration::from_secs(5)).unwrap();
        assert_eq!((seen.count(), seen.lost), (50, 0));
        assert!(seen.rank(0.5).unwrap() > 0.0);
    }
}
