//! What the gateway decides: when tunnels start, restart and stop, and which routes stand. No I/O, no clock.
