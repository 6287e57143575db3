//! culvert: the operator's command line, a client of culvertd's control socket.
fn main() {}
