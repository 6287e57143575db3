//! For tests and measurements: SAs with keys of their own, without an IKE exchange. Never in a daemon.

use std::time::Duration;

pub use crate::user::setup::{Limits, SaSetup};
use crate::{Dataplane, DataplaneError};

/// Installs an SA that no peer negotiated; otherwise as [`Dataplane::install`].
pub async fn install(
    dataplane: &mut Dataplane,
    setup: &SaSetup,
    use_outbound: bool,
) -> Result<(), DataplaneError> {
    dataplane.install_setup(setup, Duration::from_secs(3600), use_outbound).await
}
