//! The configuration file: TOML in, validated connections out, errors with line, caret and mend.
//!
//! [`Config::load`] reads the file and the secrets that it names, and collects everything that is wrong
//! at once. [`Config::diff`] says what a reload would change. Knows nothing of the kernel; what only the
//! running host can tell (do the interfaces exist?) is asked through [`Config::check_interfaces`].

mod apart;
mod auth;
#[cfg(test)]
mod auth_tests;
mod bgp;
mod check;
mod credentials;
mod dataplane;
mod diff;
mod duration;
mod environment;
mod error;
mod exchange;
mod file;
mod forward;
mod health;
mod interface;
mod kernel;
mod limits;
mod load;
mod mask;
mod model;
mod notice;
mod own;
mod per_cpu;
mod port;
mod profile;
mod psk;
mod radius;
mod remote;
mod secret;
mod section;
mod session;
mod small;
#[cfg(test)]
mod survive;
#[cfg(test)]
mod tests;
mod transport;
mod xauth;

pub use bgp::{Bgp, BgpBfd, BgpDaemon, BgpNeighbor, GatewayBgp};
pub use credentials::{Authorities, Credentials};
pub use dataplane::{BpfHook, Dataplane, Latency, Offload};
pub use diff::{Change, Effect, Kind, Subject};
pub use environment::{DEFAULT_ENVIRONMENT, Environment, Isolation};
pub use error::ConfigError;
pub use forward::{Forward, ForwardTo};
pub use health::{Failback, Health, Probe};
pub use kernel::KernelIpsec;
pub use limits::Limits;
pub use model::{
    Attach, Config, Connection, Dpd, DpdAction, Encap, Engine, Esp, Gateway, Guard, Ike, LocalProof, Log,
    LogFormat, LogLevel, RemoteProof, Revocation, RevocationPolicy, Start, Tunnel, TunnelAuth,
};
pub use notice::{Notice, NoticeHow, NoticeOn};
pub use per_cpu::PerCpu;
pub use port::{LanPort, WanPort};
pub use profile::Profile;
pub use psk::{PskFault, PskRules};
pub use radius::{Radius, RadiusServer};
pub use remote::Remote;
pub use small::SmallPackets;

/// Where the configuration stands unless culvertd is told otherwise.
pub const DEFAULT_PATH: &str = "/etc/culvert/culvert.toml";

/// Where culvertd listens unless the file says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/culvert/culvert.sock";
