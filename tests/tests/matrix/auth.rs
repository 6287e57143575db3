//! Authentication: who proves what to whom.

use culvert_tests::matrix::Cell;

const THEME: &str = "auth";

pub(crate) fn rows() -> Vec<Cell> {
    let cell = |name: &str| Cell::new(THEME, name, "aes128gcm16-prfsha256-ecp256", "aes128gcm16");
    vec![cell("psk")]
}
