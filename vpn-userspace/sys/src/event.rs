//! Waiting for many descriptors at once (epoll) and waking a thread that waits (eventfd).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// One descriptor that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// There is something to read.
    pub readable: bool,
    /// There is something in the socket's error queue, or the device went away.
    pub error: bool,
}

/// A level-triggered epoll instance for reading. One thread waits on it.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// A poller that reports at most 64 descriptors per wait.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 64],
        })
    }

    /// Reports the descriptor, by its token, whenever it is readable or in error.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Forgets the descriptor.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits until a descriptor is ready or the time has passed; `None` waits for ever. A signal
    /// ends the wait with nothing ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Ready> + use<'_>> {
        // Rounded up: a deadline must have passed when the wait for it returns.
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(t) => EpollTimeout::try_from(t.as_micros().div_ceil(1000).min(1 << 30) as i32)
                .unwrap_or(EpollTimeout::MAX),
        };
        let ready = match self.epoll.wait(&mut self.events, timeout) {
            Ok(n) => n,
            Err(nix::Error::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        Ok(self.events.iter().take(ready).map(|e| Ready {
            token: e.data(),
            readable: e.events().intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP),
            error: e.events().contains(EpollFlags::EPOLLERR),
        }))
    }
}

/// Wakes a [`Poller`] of another thread.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// An eventfd that does not block.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the waker readable. Never blocks; waking twice before a [`drain`](Self::drain) wakes once.
    pub fn wake(&self) {
        // The only error is a full counter, and a full counter is readable.
        let _ = self.0.write(1);
    }

    /// Makes the waker unreadable again; call before looking at what it announced.
    pub fn drain(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until the descriptor takes more to send, or the time has passed.
pub fn wait_writable(fd: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_wakes_once_and_is_quiet_after_a_drain() {
        let (waker, mut poller) = (Waker::new().unwrap(), Poller::new().unwrap());
        poller.add(&waker, 7).unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
        waker.wake();
        waker.wake();
        let ready: Vec<_> = poller.wait(None).unwrap().collect();
        assert_eq!(ready, [Ready { token: 7, readable: true, error: false }]);
        waker.drain();
        assert_eq!(poller.wait(Some(Duration::from_millis(1))).unwrap().count(), 0);
        poller.remove(&waker).unwrap();
        waker.wake();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
    }
}
