//! What the end-to-end tests share: bringing Culvert and a peer up across a site, and judging what both sides say.
//! The lab underneath is `culvert-lab`; [`matrix`] runs tables of such pairs with strongSwan.

mod case;
pub mod matrix;
mod pair;
pub mod pki;
mod twins;

pub use case::{Case, Initiator};
pub use pair::Pair;
pub use twins::Twins;

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::measure::ping;
use culvert_lab::{Namespace, Site, transfer};

/// Identity of site A.
pub const ID_A: &str = "a.culvert.test";
/// Identity of site B.
pub const ID_B: &str = "b.culvert.test";

/// Pings from both sides, and bytes both ways over TCP, between hosts of site A and site B.
///
/// # Errors
/// When a ping is lost or other bytes arrive than were sent.
pub fn traffic(site: &Site, hosts: &[(&str, &str)]) -> Result<()> {
    for (a, b) in hosts {
        no_loss(&site.host_a, b)?;
        no_loss(&site.host_b, a)?;
        transfer(&site.host_a, &site.host_b, b)?;
    }
    Ok(())
}

/// Ten pings, all answered.
///
/// # Errors
/// When one is not.
pub fn no_loss(from: &Namespace, to: &str) -> Result<()> {
    let seen = ping(from, to, 10, Duration::from_millis(20))?;
    ensure!(seen.lost() == 0, "ping from {} to {to}: {seen:?}", from.name());
    Ok(())
}

/// The suite in an ESP proposal: all of it but the key exchange.
pub fn suite_of(esp: &str) -> String {
    let groups = ["modp", "ecp", "curve"];
    let kept: Vec<&str> =
        esp.split('-').filter(|word| !groups.iter().any(|group| word.starts_with(group))).collect();
    kept.join("-")
}

/// A PRF that is that of the integrity algorithm may stand in an IKE proposal or be left out.
fn without_prf(ike: &str) -> String {
    let implied =
        |word: &str| word.strip_prefix("prf").is_some_and(|prf| ike.split('-').any(|other| other == prf));
    let kept: Vec<&str> = ike.split('-').filter(|word| !implied(word)).collect();
    kept.join("-")
}

#[cfg(test)]
mod tests {
    use super::{suite_of, without_prf};

    #[test]
    fn the_group_is_no_part_of_the_suite() {
        assert_eq!(suite_of("aes128gcm16-ecp256"), "aes128gcm16");
        assert_eq!(suite_of("aes256-sha384-modp2048"), "aes256-sha384");
        assert_eq!(suite_of("chacha20poly1305"), "chacha20poly1305");
        assert_eq!(without_prf("aes256-sha256-prfsha256-ecp256"), "aes256-sha256-ecp256");
        assert_eq!(without_prf("aes256gcm16-prfsha384-ecp384"), "aes256gcm16-prfsha384-ecp384");
    }
}
