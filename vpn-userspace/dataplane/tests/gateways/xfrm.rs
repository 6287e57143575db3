//! The engine `xfrm` between two gateways of the lab. Where the kernel has no ESP the cases say that they are skipped;
//! CULVERT_EXPECT_ESP=1 makes that a failure.

use culvert_dataplane::EngineChoice;
use culvert_sys::probe::KernelEsp;

use super::common::Options;
use super::rekeys_at_full_rate;

fn kernel_has_esp() -> bool {
    let Err(reason) = KernelEsp::probe().available() else { return true };
    assert!(std::env::var_os("CULVERT_EXPECT_ESP").is_none(), "this kernel should have ESP: {reason}");
    println!("skipped: {reason}");
    false
}

fn options(encap: bool) -> Options {
    Options { engine: EngineChoice::Xfrm, encap, ..Options::default() }
}

#[test]
fn xfrm_rekeys_at_full_rate_lose_nothing() {
    if kernel_has_esp() {
        for encap in [true, false] {
            rekeys_at_full_rate(&options(encap), 10);
        }
    }
}
