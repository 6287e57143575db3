//! ESP security associations and the tunnel-mode rules for every packet. No I/O, no clock.
