//! Network namespaces to try things in: nothing of the host's is touched, and nothing is left.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::{Netlink, NetlinkError};

/// A network namespace, gone when nobody is in it and this is dropped.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// Makes one. Needs CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Self> {
        let made = std::thread::Builder::new().name("scratch".to_owned()).spawn(|| -> io::Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(Self)
        })?;
        made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace panicked")))
    }

    /// Has the calling thread be in it from now on, and the threads that it starts. To be called on a thread of one's own.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

impl Netlink {
    /// Makes a pair of virtual links, down, one of them in another namespace.
    pub async fn create_link_to(&self, there: &Scratch, name: &str, peer: &str) -> Result<(), NetlinkError> {
        let failed = |e| NetlinkError::from_rtnetlink(format!("create the links {name} and {peer}"), e);
        self.handle.link().add(LinkVeth::new(name, peer).build()).execute().await.map_err(failed)?;
        let index = self.link(peer).await?.index;
        let moved = LinkUnspec::new_with_index(index).setns_by_fd(there.0.as_raw_fd()).build();
        self.handle.link().change(moved).execute().await.map_err(failed)
    }
}
