//! Tunnels whose packets no interface takes, but policies of the kernel alone.

use super::{Dataplane, DataplaneError, EngineChoice, TunnelReport, TunnelSpec};

impl Dataplane {
    /// Transport mode: the kernel's, or nobody's. A TUN device cannot have it, since what would be routed into it is what
    /// it sends.
    pub(crate) async fn create_transport(
        &mut self,
        spec: &TunnelSpec,
        mut obstacles: Vec<String>,
    ) -> Result<TunnelReport, DataplaneError> {
        if let EngineChoice::User | EngineChoice::Bpf = spec.engine {
            obstacles.insert(0, "the configuration asks for another engine".to_owned());
        }
        if !obstacles.is_empty() {
            let (interface, reason) = (spec.interface.clone(), obstacles.join("; "));
            return Err(DataplaneError::Transport { interface, reason });
        }
        let why = ["user", "bpf"].map(|e| format!("{e}: transport mode needs the kernel's own ESP")).to_vec();
        Ok(TunnelReport { why, ..self.xfrm.create_tunnel(spec).await? })
    }

    /// Keeps IKE apart from what policies of the host say, once there are any.
    pub(crate) fn pass_policies(&self, report: &TunnelReport) {
        if report.lan_port == "policy"
            && let Err(e) = self.user.bypass_policies()
        {
            tracing::warn!("IKE on the port of ESP may be held up by policies of ours: {e}");
        }
    }
}
