//! TCP's segment size on a tunnel interface of the kernel's, kept within what fits the tunnel.
//!
//! Kernel ESP leaves alone what TCP negotiates; where path MTU discovery is filtered, connections then stall. A program
//! at the interface (TCX, or clsact before Linux 6.6) lowers the offer in SYNs, both ways, by the interface's MTU at that
//! moment.

use aya::programs::{SchedClassifier, TcAttachType};

use crate::guard::{GuardError, TcHook, TcPlace, hook_tc};

/// The program, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CULVERT_MSS_OBJECT"));
const PROGRAM: &str = "culvert_mss";

/// The loaded program.
pub struct MssClamp {
    ebpf: aya::Ebpf,
}

/// The program at one interface; it ends with this value.
#[derive(Debug)]
pub struct ClampedInterface {
    // Held for what dropping them does.
    _both: [TcHook; 2],
}

impl MssClamp {
    /// Loads the program. Needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.12.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn load() -> Result<Self, GuardError> {
        let mut ebpf = aya::EbpfLoader::new().load(OBJECT).map_err(GuardError::load)?;
        program(&mut ebpf)?.load().map_err(GuardError::load)?;
        Ok(Self { ebpf })
    }

    /// Attaches it, both ways, to an interface whose packets begin with the IP header.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses.
    pub fn attach(&mut self, interface: &str) -> Result<ClampedInterface, GuardError> {
        let program = program(&mut self.ebpf)?;
        let (egress, _) = hook_tc(program, interface, TcAttachType::Egress, TcPlace::First)?;
        let (ingress, _) = hook_tc(program, interface, TcAttachType::Ingress, TcPlace::First)?;
        Ok(ClampedInterface { _both: [egress, ingress] })
    }
}

fn program(ebpf: &mut aya::Ebpf) -> Result<&mut SchedClassifier, GuardError> {
    let program = ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok());
    program.ok_or(GuardError::Missing(PROGRAM))
}
