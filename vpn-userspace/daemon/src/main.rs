//! culvertd: the event loop that wires IKE, data plane, gateway decisions and the control socket.
fn main() {}
