//! The paperwork of a connection: what clouds and devices let people download or paste, read and written.
//!
//! A [`Side`] in, text out ([`export`](mod@export)). A [`Side`] is a connection as one of
//! its two ends says it, whatever device stands there, and [`Side::mirror`] is the same as the other end says it. Beside
//! that: the rules for pre-shared keys, the layout of tunnels, the packets that a firewall must let through. No files, no
//! network, no randomness of its own: all of that is `culvert`'s.

pub mod export;
pub mod firewall;
pub mod import;
mod layout;
mod offer;
mod section;
mod side;

pub use export::{Exported, Options, Target, export};
pub use layout::{Laid, LayoutError, layout};
pub use offer::Offer;
pub use section::{duration, quoted, section};
pub use side::{Bgp, Side, Tunnel};
