//! IKEv1.

use culvert_tests::matrix::Cell;

pub(crate) fn rows() -> Vec<Cell> {
    Vec::new()
}
