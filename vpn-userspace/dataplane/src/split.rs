//! A tunnel of two engines: bulk by `user`, small packets, in an SA of their own, by `bpf`, at one TUN device.

use culvert_types::TunnelId;

use crate::{Dataplane, DataplaneError, Engine, SmallPackets, TunnelReport, TunnelSpec};

impl Dataplane {
    /// Has engine `bpf` stand at the tunnel's device where that is wanted. What stands in the way of it is said, and is
    /// no error: `user` carries everything.
    pub(crate) fn split(&mut self, spec: &TunnelSpec, report: &mut TunnelReport) {
        let Some(small) = spec.small else { return };
        let joined = self.join(spec.id, small);
        report.small = joined.is_ok();
        report.why.push(match joined {
            Ok(()) => format!(
                "latency \"split\": packets of at most {} bytes{} go by engine bpf once they have a child SA of their own",
                small.longest,
                marked(small.dscp)
            ),
            Err(error) => format!("latency \"split\": engine user carries small packets as well: {error}"),
        });
    }

    fn join(&mut self, id: TunnelId, small: SmallPackets) -> Result<(), DataplaneError> {
        let shared =
            self.user.shared(id).ok_or(DataplaneError::NotServedBy { tunnel: id, engine: Engine::User })?;
        self.bpf.join_tunnel(id, shared, small)
    }
}

/// Which marks make a packet small, in words.
fn marked(dscp: u64) -> String {
    let each: Vec<String> = (0..64).filter(|d| dscp >> d & 1 != 0).map(|d| d.to_string()).collect();
    if each.is_empty() { String::new() } else { format!(" or of DSCP {}", each.join(", ")) }
}
