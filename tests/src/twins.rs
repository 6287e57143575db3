//! Culvert with Culvert.

use anyhow::{Context, Result, ensure};
use culvert_lab::{Culvert, GatewayConfig, Site, SiteOptions};

use crate::Case;

/// Two culvertd across a site.
#[derive(Debug)]
pub struct Twins {
    /// The initiator, at site A.
    pub a: Culvert,
    /// The responder, at site B.
    pub b: Culvert,
    /// Where they are.
    pub site: Site,
}

impl Twins {
    /// Brings both up as `case` says (its strongSwan part does not count).
    ///
    /// # Errors
    /// When a daemon does not start or the tunnel does not come up; with the logs.
    pub fn bring_up(case: &Case) -> Result<Self> {
        let site = Site::with(SiteOptions { nat: case.nat, wan_mtu: case.wan_mtu })?;
        let b = Culvert::start(
            &site.gateway_b,
            &GatewayConfig::new(vec![case.culvert_connection(&site, false)]),
        )?;
        let a =
            Culvert::start(&site.gateway_a, &GatewayConfig::new(vec![case.culvert_connection(&site, true)]))?;
        let twins = Self { a, b, site };
        twins.a.wait_site().with_context(|| format!("the peer's log:\n{}", twins.b.log()))?;
        twins.b.wait_site()?;
        Ok(twins)
    }

    /// Whether both sides tell the same story.
    ///
    /// # Errors
    /// When they do not.
    pub fn agree(&self) -> Result<()> {
        let (a, b) = (self.a.site()?, self.b.site()?);
        let told = || format!("a: {:#}\nb: {:#}", a.0, b.0);
        ensure!(a.ike_spis() == b.ike_spis() && a.ike_spis().is_some(), "IKE SPIs differ; {}", told());
        ensure!(a.spi_in() == b.spi_out() && a.spi_out() == b.spi_in(), "ESP SPIs differ; {}", told());
        ensure!(a.child()["suite"] == b.child()["suite"], "suites differ; {}", told());
        ensure!(a.child()["encap"] == b.child()["encap"], "encapsulations differ; {}", told());
        Ok(())
    }
}
