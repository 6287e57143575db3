//! `steer`: packets for kernel ESP spread over the CPUs by the guard, and why they are not where they should be.

use culvert_config::Config;
use culvert_sys::cpus::online;
use culvert_sys::guard::AttachedMode;

use crate::guard::WanGuard;

/// The CPUs that packets are spread over; none without `steer`, or if there is but one.
pub(crate) fn cpus(config: &Config) -> Vec<u32> {
    let wanted = || Some(online()).filter(|cpus| cpus.len() > 1);
    config.gateway.dataplane.steer.then(wanted).flatten().unwrap_or_default()
}

/// Where they stay on the CPUs on which they arrive although `steer` is on: why, and what to do, a line each.
pub(crate) fn faults(config: &Config, guard: &WanGuard) -> Vec<String> {
    if !config.gateway.dataplane.steer {
        return Vec::new();
    }
    let stay = |why: &str| format!("packets for kernel ESP stay on the CPU where they arrive (steer): {why}");
    if online().len() < 2 {
        return vec![stay("this host runs one CPU")];
    }
    if let Some(why) = &guard.unspread {
        return vec![stay(why)];
    }
    let xdp = |mode| matches!(mode, AttachedMode::XdpNative | AttachedMode::XdpGeneric);
    let elsewhere = guard.wan.iter().filter(|wan| !wan.attached.is_some_and(xdp));
    let line = |wan: &crate::guard::WanInterface| match wan.attached {
        Some(mode) => stay(&format!(
            "the guard is attached to {} by {}, and XDP alone hands packets to other CPUs; take attach out of [gateway], or see \
             why under GUARD above",
            wan.name,
            mode.name()
        )),
        None => stay(&format!("there is no guard at {}, which would spread them: see GUARD above", wan.name)),
    };
    elsewhere.map(line).collect()
}
