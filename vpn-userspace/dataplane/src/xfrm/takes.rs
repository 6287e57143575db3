//! What the kernel takes, SA by SA, before it is asked to.

use culvert_crypto::Suite;
use culvert_sys::probe::Wanted;

use super::XfrmEngine;
use crate::user::setup::SaSetup;
use crate::{DataplaneError, TunnelSpec};

/// The widest replay window, in packets (XFRMA_REPLAY_ESN_MAX, linux/xfrm.h).
const WIDEST_WINDOW: u32 = 4096;

impl XfrmEngine {
    /// Whether the kernel serves any SA that the tunnel may come to have, or why none; with `all`, whether it serves each.
    pub(crate) fn serves(&self, spec: &TunnelSpec, all: bool) -> Result<(), Vec<String>> {
        let everything = self.obstacles(spec);
        if everything.is_empty() || (!all && spec.suites.iter().any(|suite| self.takes_suite(*suite).is_ok()))
        {
            return Ok(());
        }
        Err(everything)
    }

    /// Whether the kernel takes a suite over every family of ours.
    fn takes_suite(&self, suite: Suite) -> Result<(), String> {
        let mut families =
            [false, true].into_iter().filter(|ipv6| self.wan.iter().any(|a| a.is_ipv6() == *ipv6));
        families.try_for_each(|ipv6| self.wanted(suite, ipv6, true, true))
    }

    /// Whether the kernel takes this SA, as far as it can be told before it is tried.
    pub(crate) fn takes(&self, setup: &SaSetup) -> Result<(), String> {
        self.wanted(setup.suite, setup.local.is_ipv6(), setup.encap, setup.esn)?;
        if setup.replay_window > WIDEST_WINDOW {
            return Err(format!(
                "a replay window of {} packets: the kernel has {WIDEST_WINDOW} at most",
                setup.replay_window
            ));
        }
        Ok(())
    }

    fn wanted(&self, suite: Suite, ipv6: bool, udp: bool, esn: bool) -> Result<(), String> {
        self.available()?;
        let obstacles = self.kernel.obstacles(&Wanted { suites: &[suite], ipv6, udp, esn });
        if obstacles.is_empty() { Ok(()) } else { Err(obstacles.join("; ")) }
    }

    /// Whether the kernel has interfaces for its IPsec.
    pub(crate) fn has_interfaces(&self) -> bool {
        self.kernel.interface.is_ok()
    }

    /// The tunnel's interface has this name now.
    pub(crate) fn renamed(&self, id: culvert_types::TunnelId, name: &str) {
        let Some(drive) = &self.drive else { return };
        if let Some(tunnel) = drive.shared.state().tunnels.get_mut(&id) {
            name.clone_into(&mut tunnel.interface);
        }
    }
}

/// Whether the kernel refused what an SA is, so that another engine may take it: not that it lacks room or is held up.
pub(crate) fn is_refusal(error: &DataplaneError) -> bool {
    match error {
        DataplaneError::Kernel(error) => error.kernel().is_some_and(|kernel| kernel.refuses_values()),
        DataplaneError::EngineUnavailable { .. } | DataplaneError::Selectors(_) => true,
        _ => false,
    }
}
