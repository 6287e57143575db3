//! Culvert and strongSwan with a tunnel between them: traffic, and whether both tell the same story.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::culvert::TunnelStatus;
use culvert_lab::measure::{Echo, Ping, echo};
use culvert_lab::strongswan::{SwanChildSa, SwanIke};
use culvert_lab::topology::HOST_B;
use culvert_lab::{Culvert, FreeRadius, Process, Site, StrongSwan, SwanEngine, wait_for};
use serde_json::Value;

use crate::{Case, Initiator, traffic, without_prf};

/// Culvert and strongSwan with a tunnel between them.
#[derive(Debug)]
pub struct Pair {
    /// How they were brought up.
    pub case: Case,
    /// Culvert.
    pub culvert: Culvert,
    /// The peer.
    pub swan: StrongSwan,
    /// A FreeRADIUS, where the case has one.
    pub radius: Option<FreeRadius>,
    /// What else the case runs.
    pub servers: Servers,
    /// Where they are. Last, for it must outlive them.
    pub site: Site,
}

/// Programs that run while a case does.
#[derive(Debug)]
pub struct Servers {
    // Before their folder.
    pub(crate) _running: Vec<Process>,
    pub(crate) _folder: tempfile::TempDir,
}

impl Pair {
    /// Pings and runs iperf3 in both directions, over each address family.
    ///
    /// # Errors
    /// When a ping is lost or hardly anything arrives.
    pub fn traffic(&self) -> Result<()> {
        traffic(&self.site, &self.case.hosts())
    }

    /// Negotiates, and waits until both have the tunnel.
    ///
    /// # Errors
    /// When it does not come up; with the logs.
    pub fn connect(&self) -> Result<()> {
        if self.case.initiator == Initiator::StrongSwan {
            self.swan.initiate("net").with_context(|| format!("culvertd's log:\n{}", self.culvert.log()))?;
        }
        self.culvert.wait_site().with_context(|| format!("charon's log:\n{}", self.swan.log()))?;
        self.swan.wait_child("net", Duration::from_secs(5)).map(drop)
    }

    /// Datagrams there and back, begun by either host, small and large; over each address family.
    ///
    /// # Errors
    /// When one is lost.
    pub fn pings(&self) -> Result<()> {
        if self.case.client_at_a {
            return crate::no_loss(&self.site.gateway_a, culvert_lab::topology::HOST_B);
        }
        for (a, b) in self.case.hosts() {
            let (a, b) = ((&self.site.host_a, a), (&self.site.host_b, b));
            for (from, to) in [(a, b), (b, a)] {
                for bytes in [56, 1100] {
                    let seen = echo(from, to, 5, Duration::from_millis(10), bytes)?;
                    ensure!(seen.lost() == 0, "{bytes} bytes from {} to {}: {seen:?}", from.1, to.1);
                }
            }
        }
        Ok(())
    }

    /// Whether both sides tell the same story, and the right one, of the tunnel and its traffic.
    ///
    /// # Errors
    /// When they do not.
    pub fn agree(&self) -> Result<()> {
        let ours = self.culvert.site()?;
        let ike = self.swan.ike("site")?.context("strongSwan has no IKE SA")?;
        let children = self.swan.children()?;
        let told = || format!("culvert: {:#}\nstrongSwan: {ike:#?} {children:#?}", ours.0);
        self.ike_agrees(&ours, &ike).with_context(told)?;
        self.children_agree(&ours, &children).with_context(told)
    }

    fn ike_agrees(&self, ours: &TunnelStatus, ike: &SwanIke) -> Result<()> {
        let said = &ours.0["ike"];
        ensure!(
            ours.ike_spis() == Some((ike.spi_initiator.clone(), ike.spi_responder.clone())),
            "IKE SPIs differ"
        );
        ensure!(said["version"] == ike.version, "versions differ");
        ensure!(said["initiator"] != ike.initiator, "both or none initiated");
        let id = |end: &str| said[end]["id"].as_str().unwrap_or_default().to_owned();
        ensure!(id("local") == ike.remote_id && id("remote") == ike.local_id, "ids differ");
        let (suite, _) = self.case.expected_suites();
        let said_suite = said["suite"].as_str().context("no IKE suite")?;
        for (who, named) in [("our", said_suite), ("strongSwan's", &ike.suite)] {
            ensure!(without_prf(named) == without_prf(&suite), "{who} IKE suite {named} is not {suite}");
        }
        if self.case.nat {
            // strongSwan's user-space ESP needs UDP, so it pretends a NAT whatever its `encap` says.
            let expected = match (self.case.initiator, self.case.swan_engine) {
                (Initiator::StrongSwan, _) => "remote",
                (Initiator::Culvert, SwanEngine::User) => "both",
                (Initiator::Culvert, SwanEngine::Kernel) => "local",
            };
            ensure!(said["nat"] == expected, "nat is not {expected}");
        }
        Ok(())
    }

    /// Each child of ours is one of strongSwan's, and there are as many as there should be.
    fn children_agree(&self, ours: &TunnelStatus, theirs: &[SwanChildSa]) -> Result<()> {
        let children = ours.0["children"].as_array().context("no children")?;
        let expected = self.case.children;
        ensure!(children.len() == expected, "{} children here, not {expected}", children.len());
        ensure!(theirs.len() == expected, "{} children at strongSwan, not {expected}", theirs.len());
        children.iter().try_for_each(|child| self.child_agrees(child, theirs))
    }

    fn child_agrees(&self, said: &Value, theirs: &[SwanChildSa]) -> Result<()> {
        let their = theirs
            .iter()
            .find(|child| said["spi_in"] == child.spi_out.as_str())
            .context("their outbound is not our inbound")?;
        ensure!(said["spi_out"] == their.spi_in.as_str(), "their inbound is not our outbound");
        let (_, suite) = self.case.expected_suites();
        ensure!(said["suite"] == suite.as_str(), "our ESP suite is not {suite}");
        ensure!(their.suite == suite, "strongSwan's ESP suite is {}, not {suite}", their.suite);
        // The first child of an IKE_AUTH has no group; strongSwan of 5.9 says so as well.
        ensure!(said["dh"].as_str() == their.dh.as_deref(), "groups of the child differ");
        ensure!((said["encap"] == "udp") == their.encap, "one encapsulates, the other does not");
        let selectors = |key: &str| -> BTreeSet<String> {
            let list = said[key].as_array().into_iter().flatten();
            list.filter_map(|net| net.as_str().map(str::to_owned)).collect()
        };
        let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        ensure!(selectors("local_ts") == set(&their.remote_ts), "our networks differ");
        ensure!(selectors("remote_ts") == set(&their.local_ts), "their networks differ");
        let count = |key: &str| said[key].as_u64().unwrap_or(0);
        ensure!(count("bytes_in") > 0 && count("bytes_out") > 0, "we counted no traffic");
        ensure!(their.bytes_in > 0 && their.bytes_out > 0, "strongSwan counted no traffic");
        Ok(())
    }

    /// Waits until nothing is left of a rekey on either side: one IKE SA, as many children as should be.
    ///
    /// # Errors
    /// When more is left after ten seconds.
    pub fn settle(&self) -> Result<()> {
        let left = || -> Option<(usize, usize, usize)> {
            let ours = self.culvert.site().ok()?;
            let children = ours.0["children"].as_array()?.len();
            Some((children, self.swan.children().ok()?.len(), self.swan.ike_count().ok()?))
        };
        let rest = (self.case.children, self.case.children, 1);
        wait_for("the old SAs to go", Duration::from_secs(10), || (left()? == rest).then_some(()))
            .with_context(|| format!("children here, children there, IKE SAs there: {:?}", left()))
    }

    /// Sends 100 datagrams a second there and back while `rekey` does its work, and tells what was lost. The tunnel works after.
    ///
    /// # Errors
    /// When rekeying fails, or the sides do not agree afterwards.
    pub fn rekey_under_traffic(&self, rekey: impl FnOnce(&Self) -> Result<()>) -> Result<Ping> {
        let before = self.culvert.site()?;
        let job = Echo::start(&self.site.host_a, &self.site.host_b, HOST_B, Duration::from_millis(10))?;
        std::thread::sleep(Duration::from_millis(500));
        rekey(self)?;
        // Long enough for the old SA to be deleted and drained under traffic, too.
        std::thread::sleep(Duration::from_millis(3500));
        let seen = job.stop()?;
        ensure!(seen.sent > 100, "it hardly ran: {seen:?}");
        let after = self.culvert.site()?;
        let same = before.spi_in() == after.spi_in() && before.ike_spis() == after.ike_spis();
        ensure!(!same, "nothing was rekeyed: {:#}", after.0);
        self.settle()?;
        self.agree()?;
        Ok(seen)
    }
}
