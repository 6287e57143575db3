//! Attaching the classifier: which hook serves which link, and how to let go of it.
use super::GuardError;
use super::error::{chain, os_error};
use super::link::{self, Link};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::util::KernelVersion;
use std::io;

/// Names of the programs; all begin with `culvert_`, so that they are told in listings (`bpftool`, `tc`, `ip link`).
const XDP: &str = "culvert_xdp";
const LAN: &str = "culvert_lan";
const TC_ETHERNET: &str = "culvert_tc";
const TC_IP: &str = "culvert_tc_ip";

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// What suits the link.
    Auto,
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack, for drivers without.
    XdpGeneric,
    /// TC: TCX, or a clsact filter on kernels before 6.6.
    Tcx,
}

/// How it was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// TCX (kernel 6.6).
    Tcx,
    /// A clsact filter.
    Clsact,
}

impl AttachedMode {
    /// As in the configuration and in the API: `xdp-native`, `xdp-generic`, `tcx`, `clsact`.
    pub const fn name(self) -> &'static str {
        match self {
            AttachedMode::XdpNative => "xdp-native",
            AttachedMode::XdpGeneric => "xdp-generic",
            AttachedMode::Tcx => "tcx",
            AttachedMode::Clsact => "clsact",
        }
    }
}

/// What came of [`super::Guard::attach`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface.
    pub interface: String,
    /// How.
    pub mode: AttachedMode,
    /// Why so, if it was not simply asked for.
    pub reason: Option<String>,
}

/// An attachment; it ends with this value.
#[derive(Debug)]
pub(super) struct Hook {
    interface: String,
    pub(super) mode: AttachedMode,
    // Held for what dropping it does.
    link: HookLink,
}

#[derive(Debug)]
enum HookLink {
    /// Closing the descriptor detaches.
    Fd(FdLink),
    /// A filter of clsact; dropping it removes the filter.
    Filter(SchedClassifierLink),
}

impl Hook {
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn detach(self) -> Result<(), GuardError> {
        use aya::programs::Link as _;
        let Hook { interface, link, .. } = self;
        let outcome = match link {
            HookLink::Fd(link) => link.detach(),
            HookLink::Filter(link) => link.detach(),
        };
        outcome.map_err(|error| GuardError::Detach { interface, cause: chain(&error) })
    }
}

pub(super) fn attach(
    ebpf: &mut aya::Ebpf,
    ifname: &str,
    mode: AttachMode,
) -> Result<(Hook, Attached), GuardError> {
    let link = Link::find(ifname)?;
    match mode {
        AttachMode::Auto if !link.ethernet => {
            attach_tc(ebpf, &link, Some("the link has no Ethernet headers, which XDP needs".to_owned()))
        }
        AttachMode::Auto if link.is_virtual() => {
            let driver = link.driver.as_deref().unwrap_or("virtual");
            let reason = format!("XDP on a {driver} link would take segmentation offload from its senders");
            attach_tc(ebpf, &link, Some(reason))
        }
        AttachMode::Auto => match attach_xdp(ebpf, XDP, &link, XdpMode::Driver, None) {
            Err(GuardError::Attach { cause: native, .. }) => {
                let driver = link.driver.as_deref().unwrap_or("unknown");
                let reason = format!("driver {driver} does not take native XDP ({native})");
                match attach_xdp(ebpf, XDP, &link, XdpMode::Skb, Some(reason.clone())) {
                    Err(GuardError::Attach { cause: generic, .. }) => {
                        attach_tc(ebpf, &link, Some(format!("{reason}, nor generic XDP ({generic})")))
                    }
                    outcome => outcome,
                }
            }
            Err(GuardError::Occupied { .. }) => {
                attach_tc(ebpf, &link, Some("another XDP program is attached to the interface".to_owned()))
            }
            outcome => outcome,
        },
        AttachMode::XdpNative => attach_xdp(ebpf, XDP, &link, XdpMode::Driver, None),
        AttachMode::XdpGeneric => attach_xdp(ebpf, XDP, &link, XdpMode::Skb, None),
        AttachMode::Tcx => attach_tc(ebpf, &link, None),
    }
}

/// The program of LANs, natively or else generically.
pub(super) fn attach_lan(ebpf: &mut aya::Ebpf, ifname: &str) -> Result<(Hook, Attached), GuardError> {
    let link = Link::find(ifname)?;
    match attach_xdp(ebpf, LAN, &link, XdpMode::Driver, None) {
        Err(GuardError::Attach { cause, .. }) => {
            let driver = link.driver.as_deref().unwrap_or("unknown");
            let reason = format!("driver {driver} does not take native XDP ({cause})");
            attach_xdp(ebpf, LAN, &link, XdpMode::Skb, Some(reason))
        }
        outcome => outcome,
    }
}

fn attach_xdp(
    ebpf: &mut aya::Ebpf,
    name: &'static str,
    link: &Link,
    mode: XdpMode,
    reason: Option<String>,
) -> Result<(Hook, Attached), GuardError> {
    let interface = link.name.clone();
    if !link.ethernet {
        return Err(GuardError::NotEthernet { interface });
    }
    let attached_mode = match mode {
        XdpMode::Skb => AttachedMode::XdpGeneric,
        _ => AttachedMode::XdpNative,
    };
    let XdpHook(fd) = hook(xdp(ebpf, name)?, &interface, link.index, mode)?;
    let hook = Hook { interface: interface.clone(), mode: attached_mode, link: HookLink::Fd(fd) };
    Ok((hook, Attached { interface, mode: attached_mode, reason }))
}

/// A program at the XDP hook of an interface; it ends with this value.
#[derive(Debug)]
pub(crate) struct XdpHook(FdLink);

/// Attaches a loaded program natively.
pub(crate) fn hook_xdp(program: &mut Xdp, interface: &str, index: u32) -> Result<XdpHook, GuardError> {
    hook(program, interface, index, XdpMode::Driver)
}

fn hook(program: &mut Xdp, interface: &str, index: u32, mode: XdpMode) -> Result<XdpHook, GuardError> {
    let interface = interface.to_owned();
    let how = match mode {
        XdpMode::Skb => "generic XDP",
        _ => "native XDP",
    };
    let failed = |error: &ProgramError| match os_error(error) {
        Some(libc::EBUSY | libc::EEXIST) => GuardError::Occupied { interface: interface.clone() },
        _ => GuardError::Attach { interface: interface.clone(), how, cause: chain(error) },
    };
    let id = program.attach_to_if_index(index, mode).map_err(|error| failed(&error))?;
    let owned = program.take_link(id).map_err(|error| failed(&error))?;
    // Where links are refused aya falls back to an attachment that would outlive us: dropping `owned` undoes it.
    FdLink::try_from(owned).map(XdpHook).map_err(|error| GuardError::Attach {
        interface,
        how,
        cause: format!("the kernel gave no link: {}", chain(&error)),
    })
}

fn attach_tc(
    ebpf: &mut aya::Ebpf,
    link: &Link,
    reason: Option<String>,
) -> Result<(Hook, Attached), GuardError> {
    let name = if link.ethernet { TC_ETHERNET } else { TC_IP };
    let program = classifier(ebpf, name)?;
    let interface = link.name.clone();
    let (TcHook(hook), mode) = hook_tc(program, &interface, TcAttachType::Ingress, TcPlace::First)?;
    let reason = match mode {
        AttachedMode::Clsact => {
            let old = "TCX needs kernel 6.6";
            Some(reason.map_or(old.to_owned(), |reason| format!("{reason}; {old}")))
        }
        _ => reason,
    };
    Ok((Hook { interface: interface.clone(), mode, link: hook }, Attached { interface, mode, reason }))
}

/// A program at the TC hook of an interface; it ends with this value.
#[derive(Debug)]
pub(crate) struct TcHook(HookLink);

/// Where among the TC programs of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcPlace {
    /// Before all others: what is dropped there should cost nobody else anything.
    First,
    /// Behind the guard.
    Last,
}

/// Attaches a loaded program: by TCX, or as a clsact filter on kernels before 6.6.
pub(crate) fn hook_tc(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    place: TcPlace,
) -> Result<(TcHook, AttachedMode), GuardError> {
    let failed = |how, cause: String| GuardError::Attach { interface: interface.to_owned(), how, cause };
    if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        let failed = |error: &dyn std::error::Error| failed("TCX", chain(error));
        let order = if place == TcPlace::First { LinkOrder::first() } else { LinkOrder::last() };
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(interface, direction, options).map_err(|e| failed(&e))?;
        let owned = program.take_link(id).map_err(|e| failed(&e))?;
        let link = FdLink::try_from(owned).map_err(|e| GuardError::Attach {
            interface: interface.to_owned(),
            how: "TCX",
            cause: format!("the kernel gave no link: {}", chain(&e)),
        })?;
        return Ok((TcHook(HookLink::Fd(link)), AttachedMode::Tcx));
    }
    let failed = |error: &dyn std::error::Error| failed("a clsact filter", chain(error));
    add_clsact(interface)?;
    let priority = if place == TcPlace::First { 1 } else { 2 };
    let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
    let id = program.attach_with_options(interface, direction, options).map_err(|e| failed(&e))?;
    let owned = program.take_link(id).map_err(|e| failed(&e))?;
    Ok((TcHook(HookLink::Filter(owned)), AttachedMode::Clsact))
}

/// The qdisc that filters hang on; somebody else may have made it.
fn add_clsact(interface: &str) -> Result<(), GuardError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => Ok(()),
        Err(error) if os_error(&error) == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(GuardError::Attach {
            interface: interface.to_owned(),
            how: "a clsact filter",
            cause: chain(&error),
        }),
    }
}

pub(super) fn cleanup_stale() -> Result<Vec<String>, GuardError> {
    let mut cleaned = Vec::new();
    for interface in link::names()? {
        for program in [TC_ETHERNET, TC_IP].into_iter().chain(crate::esp_bpf::PROGRAMS) {
            match tc::qdisc_detach_program(&interface, TcAttachType::Ingress, program) {
                Ok(()) => {
                    if !cleaned.contains(&interface) {
                        cleaned.push(interface.clone());
                    }
                }
                // No such filter, no clsact, or the interface has just gone.
                Err(error)
                    if matches!(
                        os_error(&error),
                        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP)
                    ) || matches!(&error, TcError::IoError(io) if io.kind() == io::ErrorKind::NotFound) => {}
                Err(error) => return Err(GuardError::Detach { interface, cause: chain(&error) }),
            }
        }
    }
    Ok(cleaned)
}

/// An XDP program, verified. Each program is loaded when it is first attached: the verifier takes its time, a second
/// and more on a slow host, and one of the three is all that most gateways need.
fn xdp<'a>(ebpf: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut Xdp, GuardError> {
    let program = ebpf.program_mut(name).and_then(|program| <&mut Xdp>::try_from(program).ok());
    let program = program.ok_or(GuardError::Missing(name))?;
    if program.fd().is_err() {
        program.load().map_err(GuardError::load)?;
    }
    Ok(program)
}

/// One of the TC programs, verified.
fn classifier<'a>(
    ebpf: &'a mut aya::Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, GuardError> {
    let program = ebpf.program_mut(name).and_then(|program| <&mut SchedClassifier>::try_from(program).ok());
    let program = program.ok_or(GuardError::Missing(name))?;
    if program.fd().is_err() {
        program.load().map_err(GuardError::load)?;
    }
    Ok(program)
}
