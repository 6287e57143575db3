//! Receives a generator's packets by recvmmsg and counts them.

use std::io::IoSliceMut;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};

use crate::frame::{LABEL, Label};
use crate::tally::Tally;

const BATCH: usize = 64;
/// Only labels are copied out of the kernel.
const SLOT: usize = LABEL.next_multiple_of(32);

/// What a run's sink has counted.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// The counts.
    pub tally: Tally,
    /// Seconds between the first and the last packet.
    pub seconds: f64,
}

#[derive(Debug, Default)]
struct State {
    run: u32,
    tally: Tally,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// A UDP socket and a thread that counts what arrives for the run of the moment.
#[derive(Debug)]
pub struct Sink {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Binds the socket, which the sink then owns. To be called in the namespace that has the address.
    ///
    /// # Errors
    /// When the address is not there or the port taken.
    pub fn bind(at: SocketAddrV4) -> Result<UdpSocket> {
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot receive on UDP {at}"))?;
        socket.set_nonblocking(true)?;
        // A scheduling delay of the sink must not be taken for loss on the way.
        setsockopt(&socket, sockopt::RcvBufForce, &(128 << 20))
            .context("cannot enlarge the receive buffer")?;
        Ok(socket)
    }

    /// Starts counting.
    pub fn start(socket: UdpSocket) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, asked) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || receive(&socket, &shared, &asked));
        Self { state, stop, thread: Some(thread) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts anew, and only packets of this run.
    pub fn begin(&self, run: u32) {
        *self.state() = State { run, ..State::default() };
    }

    /// Waits until nothing has arrived for `quiet`, at most `most`, and tells the counts.
    pub fn finish(&self, quiet: Duration, most: Duration) -> Received {
        let start = Instant::now();
        loop {
            std::thread::sleep(quiet.min(Duration::from_millis(5)));
            let state = self.state();
            let last = state.last.unwrap_or(start).max(start);
            if last.elapsed() >= quiet || start.elapsed() >= most {
                let seconds = match (state.first, state.last) {
                    (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
                    _ => 0.0,
                };
                return Received { tally: state.tally.clone(), seconds };
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(socket: &UdpSocket, state: &Mutex<State>, stop: &AtomicBool) {
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut buffer = [0; BATCH * SLOT];
    while !stop.load(Ordering::Relaxed) {
        let mut chunks = buffer.chunks_mut(SLOT);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        // MSG_TRUNC: the lengths are those of the datagrams.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let Ok(messages) = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) else {
            let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, PollTimeout::from(20_u8));
            continue;
        };
        let now = Instant::now();
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let bytes = message.bytes;
            let Some(label) = message.iovs().next().and_then(Label::read) else { continue };
            if label.run == state.run {
                state.tally.count(label.flow, label.sequence, bytes);
                state.first.get_or_insert(now);
                state.last = Some(now);
            }
        }
    }
}
