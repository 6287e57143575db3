//! Kernel ESP: security associations and policies by NETLINK_XFRM.
//!
//! Raw netlink rather than `xfrmnetlink`: the kernel answers inside the send, so one blocking socket
//! is simplest; errors keep the extended-ack text; and every buffer that carried a key is ours to
//! wipe. For the same reason answers about SAs are read attribute by attribute, algorithms
//! never: `netlink-packet-xfrm` would copy the keys and print them in `Debug`.
//!
//! What is ours is told by its interface id, which lies in [`is_our_if_id`]'s range; of what has none, SAs
//! by their reqid and policies by their index, of the same range. Knows nothing of tunnels: which SA replaces which is the dataplane's to say.

mod algorithm;
mod bypass;
mod monitor;
mod policy;
mod sa;
mod socket;

pub use bypass::bypass;
pub use monitor::{XfrmEvent, XfrmMonitor};
pub use policy::{
    Direction, KernelSelector, MAX_SELECTORS, Policy, PolicyAction, PolicyId, SelectorPairError,
    selector_pairs,
};
pub use sa::{Encapsulation, Limits, OffloadTo, SaDirection, SaId, SaOptions, SaSpec, SaState, Sequence};

use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_xfrm::constants as c;

use crate::netlink::{KernelError, NetlinkError};
use socket::XfrmSocket;

/// Interface ids of ours: 0x4300_0000 to 0x43ff_ffff.
pub const IF_ID_BASE: u32 = 0x4300_0000;
/// How many interface ids are ours.
pub const IF_ID_COUNT: u32 = 0x0100_0000;

/// Whether an interface id is from the range that we use and sweep. Reqids and indices of policies of ours are too.
pub fn is_our_if_id(if_id: u32) -> bool {
    if_id & !(IF_ID_COUNT - 1) == IF_ID_BASE
}

/// A NETLINK_XFRM socket in the network namespace of the thread that opened it.
///
/// Calls block for as long as the kernel works on the request (microseconds; more where it must
/// load a cipher module). Needs CAP_NET_ADMIN.
pub struct Xfrm {
    socket: XfrmSocket,
    features: Features,
    /// How many policies of no interface were made.
    policies: AtomicU32,
}

/// What newer kernels take of an SA. Older ones ignore or refuse it, so that they are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Which way an SA's packets go (Linux 6.10): it is never used, or looked for, the other way.
    pub direction: bool,
    /// SAs for one CPU each (Linux 6.13).
    pub cpu: bool,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Security associations.
    pub states: usize,
    /// Policies.
    pub policies: usize,
}

impl Xfrm {
    /// Opens the socket. Fails where the kernel has no XFRM (CONFIG_XFRM_USER).
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with(Features::default())
    }

    /// The same, for a kernel that was found to have these features.
    pub fn with(features: Features) -> Result<Self, NetlinkError> {
        Ok(Self { socket: XfrmSocket::open(0)?, features, policies: AtomicU32::new(0) })
    }

    /// Installs an SA; refused if there is one of the same destination and SPI.
    pub fn add_sa(&self, sa: &SaSpec<'_>) -> Result<(), NetlinkError> {
        let body = sa.encode(self.features)?;
        let flags = socket::ACK | socket::CREATE | socket::EXCL;
        self.socket
            .request(c::XFRM_MSG_NEWSA, flags, &body, |_, _| {})
            .map_err(|e| e.named(|| format!("install {sa}")))
    }

    /// Changes UDP encapsulation ports and limits of an SA that is there; all else must be as it was.
    pub fn update_sa(&self, sa: &SaSpec<'_>) -> Result<(), NetlinkError> {
        let body = sa.encode(self.features)?;
        self.socket
            .request(c::XFRM_MSG_UPDSA, socket::ACK, &body, |_, _| {})
            .map_err(|e| e.named(|| format!("update {sa}")))
    }

    /// Removes an SA; `false` if it was gone already.
    pub fn delete_sa(&self, id: SaId) -> Result<bool, NetlinkError> {
        let result = self.socket.request(c::XFRM_MSG_DELSA, socket::ACK, &id.encode(), |_, _| {});
        missing_is_false(result.map_err(|e| e.named(|| format!("remove {id}"))))
    }

    /// Counters and sequence numbers of an SA; `None` if it is gone.
    pub fn sa(&self, id: SaId) -> Result<Option<SaState>, NetlinkError> {
        let mut state = None;
        let result = self.socket.request(c::XFRM_MSG_GETSA, 0, &id.encode(), |kind, body| {
            if kind == c::XFRM_MSG_NEWSA {
                state = SaState::parse(body);
            }
        });
        missing_is_false(result.map_err(|e| e.named(|| format!("read {id}"))))?;
        Ok(state)
    }

    /// Every SA of the namespace that has an SPI, ours or not.
    pub fn sas(&self) -> Result<Vec<SaState>, NetlinkError> {
        // States without an SPI wait for an IKE daemon (acquire); the kernel reaps them itself.
        let parse = |kind, body: &[u8]| (kind == c::XFRM_MSG_NEWSA).then(|| SaState::parse(body)).flatten();
        self.socket
            .dump(c::XFRM_MSG_GETSA, &[], parse)
            .map_err(|e| e.named(|| "list the security associations".to_owned()))
    }

    /// Adds a policy, or changes the one of the same selector, direction and interface id, in one step: a packet meets
    /// the one or the other.
    pub fn put_policy(&self, policy: &Policy) -> Result<(), NetlinkError> {
        self.policy(c::XFRM_MSG_UPDPOLICY, policy, 0)
    }

    /// Adds a policy; refused if there is one of the same selector, direction and interface id. So must be added what is
    /// of no interface: it may meet a policy of others, which is not ours to change.
    pub fn add_policy(&self, policy: &Policy) -> Result<(), NetlinkError> {
        // The lower three bits say the direction; the kernel refuses an index that is in use.
        let number = self.policies.fetch_add(1, Ordering::Relaxed).wrapping_mul(8) & (IF_ID_COUNT - 1);
        let index = IF_ID_BASE | number | u32::from(policy.id.direction.code());
        self.policy(c::XFRM_MSG_NEWPOLICY, policy, if policy.id.if_id == 0 { index } else { 0 })
    }

    fn policy(&self, kind: u16, policy: &Policy, index: u32) -> Result<(), NetlinkError> {
        self.socket
            .request(kind, socket::ACK, &policy.encode(index), |_, _| {})
            .map_err(|e| e.named(|| format!("install {policy}")))
    }

    /// Removes a policy; `false` if it was gone already.
    pub fn delete_policy(&self, id: &PolicyId) -> Result<bool, NetlinkError> {
        let result = self.socket.request(c::XFRM_MSG_DELPOLICY, socket::ACK, &id.encode(), |_, _| {});
        missing_is_false(result.map_err(|e| e.named(|| format!("remove {id}"))))
    }

    /// Every policy of the namespace that belongs to an interface id, ours or not, and ours of none.
    pub fn policies(&self) -> Result<Vec<PolicyId>, NetlinkError> {
        let parse =
            |kind, body: &[u8]| (kind == c::XFRM_MSG_NEWPOLICY).then(|| PolicyId::parse(body)).flatten();
        self.socket
            .dump(c::XFRM_MSG_GETPOLICY, &policy::DUMP_BODY, parse)
            .map_err(|e| e.named(|| "list the policies".to_owned()))
    }

    /// Removes every SA and policy of ours whose interface id (0 for none) is chosen by `which`, and
    /// nothing of others: at start what a process that died left, at the end what is left of a tunnel.
    pub fn sweep(&self, which: impl Fn(u32) -> bool) -> Result<Swept, NetlinkError> {
        let mut swept = Swept::default();
        let chosen = |if_id: u32| is_our_if_id(if_id) && which(if_id);
        for policy in self.policies()?.iter().filter(|p| chosen(p.if_id) || (p.if_id == 0 && which(0))) {
            swept.policies += usize::from(self.delete_policy(policy)?);
        }
        let alone = |s: &SaState| s.if_id == 0 && is_our_if_id(s.reqid) && which(0);
        for state in self.sas()?.iter().filter(|s| chosen(s.if_id) || alone(s)) {
            swept.states += usize::from(self.delete_sa(state.id)?);
        }
        Ok(swept)
    }
}

fn missing_is_false(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kernel().is_some_and(KernelError::is_missing) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Why the kernel's IPsec dropped packets, for the whole namespace: the counters of
/// `/proc/net/xfrm_stat` that are not zero. Empty where the kernel lacks CONFIG_XFRM_STATISTICS.
pub fn drop_counters() -> Vec<(String, u64)> {
    // Not /proc/net: that is the namespace of the process's first thread.
    let text = std::fs::read_to_string("/proc/thread-self/net/xfrm_stat").unwrap_or_default();
    parse_drop_counters(&text)
}

fn parse_drop_counters(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            let value = value.trim().parse().ok().filter(|v| *v > 0)?;
            Some((name.to_owned(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_range_is_ours_alone() {
        assert!(is_our_if_id(IF_ID_BASE) && is_our_if_id(IF_ID_BASE + IF_ID_COUNT - 1));
        for other in [0, 1, 42, IF_ID_BASE - 1, IF_ID_BASE + IF_ID_COUNT, u32::MAX] {
            assert!(!is_our_if_id(other), "{other:#x}");
        }
    }

    #[test]
    fn only_counters_that_counted_are_reported() {
        let text = "XfrmInError             \t0\nXfrmInNoStates          \t7\nXfrmOutPolBlock\t1\nodd\n";
        let want = [("XfrmInNoStates".to_owned(), 7), ("XfrmOutPolBlock".to_owned(), 1)];
        assert_eq!(parse_drop_counters(text), want);
    }
}
