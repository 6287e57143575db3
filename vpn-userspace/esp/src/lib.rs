//! ESP security associations and the tunnel-mode rules for every packet. No I/O, no clock.
//!
//! [`OutboundSa`] and [`InboundSa`] seal and open in place (RFC 4303); the modules hold what else a
//! packet must meet on its way: [`selectors`], [`tunnel`] (ECN, DSCP, DF, sizes), [`mss`], [`icmp`]
//! and [`checksum`] over the borrowed views of [`packet`]. Nothing that a packet touches allocates or
//! panics.
//!
//! Knows nothing of how keys were agreed on, of sockets or of who sends the packets.

pub mod checksum;
pub mod icmp;
mod inbound;
pub mod mss;
mod outbound;
pub mod packet;
mod replay;
pub mod selectors;
pub mod tunnel;

pub use inbound::{InboundSa, NextHeader, OpenError, Opened};
pub use outbound::{OutboundSa, SealError};
pub use replay::{ReplayError, ReplayWindow};

/// Bytes of the ESP header: SPI and sequence number.
pub const ESP_HEADER_LEN: usize = 8;

#[cfg(test)]
mod sa_tests;
