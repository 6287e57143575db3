//! Network namespaces by name, as `ip netns` keeps them (ip-netns(8)): made, entered, deleted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where they are.
const FOLDER: &str = "/run/netns";

/// A network namespace with a name.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// The one of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = File::open(path(name))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Makes one, with its loopback device down as the kernel makes it. It outlives the process. Needs CAP_SYS_ADMIN, and a
    /// /run/netns that can be written.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of this name.
    pub fn create(name: &str) -> io::Result<Self> {
        shared_folder()?;
        let path = path(name);
        OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none: Option<&str> = None;
            Ok(mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)?)
        });
        if let Err(error) = made.and_then(|made| made) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Self::open(name)
    }

    /// Takes its name away: it is gone when nobody is in it.
    ///
    /// # Errors
    /// As for [`NetNs::create`].
    pub fn delete(name: &str) -> io::Result<()> {
        let path = path(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not mounted: an earlier attempt got this far.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        std::fs::remove_file(&path)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something inside it, on a thread of its own, and waits for that.
    ///
    /// # Errors
    /// It cannot be entered, for want of CAP_SYS_ADMIN.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            io::Result::Ok(work())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// A thread's namespace is its own: the process stays where it is.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread in a namespace panicked"))
    })
}

/// Namespaces made here are to be seen elsewhere, as `ip netns add` sees to.
fn shared_folder() -> io::Result<()> {
    std::fs::create_dir_all(FOLDER)?;
    let none: Option<&str> = None;
    let share = || mount(none, FOLDER, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // No mount yet: it becomes one.
        Err(nix::errno::Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_entered_and_deleted() {
        let name = format!("culvert-test-{}", std::process::id());
        // Without the privilege nothing can be shown.
        let Ok(made) = NetNs::create(&name) else { return };
        assert_eq!(NetNs::create(&name).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let inside = made.within(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(inside, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
        NetNs::delete(&name).unwrap();
        assert_eq!(NetNs::open(&name).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
