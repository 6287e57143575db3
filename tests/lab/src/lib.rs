//! The lab: network namespaces, links, NATs and the daemons run in them, for tests and for the demo.
//! End-to-end tests live in tests/; this library is their common ground.
//!
//! Everything it makes carries the process id of its maker in its name, goes when the value that stands for it
//! is dropped (on panic and on a signal too, see [`cleanup`]), and is removed by the next run should its maker
//! have been killed. It needs root.

pub mod capture;
pub mod cleanup;
pub mod culvert;
pub mod flood;
pub mod freeradius;
pub mod load;
pub mod measure;
pub mod netns;
pub mod openvpn;
pub mod process;
pub mod settings;
pub mod strongswan;
mod swan_sas;
pub mod topology;
pub mod transfer;
pub mod two_paths;
pub mod vici;
pub mod wireguard;

pub use capture::Capture;
pub use culvert::{Connection, Culvert, GatewayConfig, Tunnel};
pub use flood::{Flood, Flooded};
pub use freeradius::{FreeRadius, RadiusConfig};
pub use netns::Namespace;
pub use openvpn::OpenVpn;
pub use process::Process;
pub use strongswan::{StrongSwan, SwanChild, SwanConfig, SwanConnection, SwanEngine};
pub use topology::{Site, SiteOptions};
pub use transfer::transfer;
pub use wireguard::WireGuard;

use std::time::{Duration, Instant};

/// Asks `probe` every 20 ms until it answers `Some`, at most for `timeout`.
///
/// # Errors
/// When the time is over: `what` was waited for in vain.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() > timeout {
            anyhow::bail!("waited {:.1} s in vain for {what}", timeout.as_secs_f32());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
