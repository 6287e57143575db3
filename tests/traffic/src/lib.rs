//! Traffic for measurements: a generator on AF_PACKET, a sink that counts by flow and sequence number, a search for the
//! rate that passes without loss, and a ping-pong that tells latencies by rank.
//!
//! Sockets belong to the network namespace in which they are opened; after that any thread may use them.

mod frame;
mod generator;
mod injector;
mod latency;
mod search;
mod sink;
mod tally;

pub use frame::{Endpoint, Mac, Sizes, Stream, datagram};
pub use generator::{Part, Sent, generate};
pub use injector::{Injector, Link};
pub use latency::{Latencies, PingPong};
pub use search::{LOSS_BOUND, Search, Step};
pub use sink::{Received, Sink};
pub use tally::Tally;
