//! Routing by BGP: what a routing program is told, and what it says, as text. No I/O, no clock.
//!
//! [`Speaker`] says what is wanted of a program: its sessions over the tunnels' inner addresses, what may be learned, what
//! is announced, how much each tunnel is preferred. [`frr`] and [`bird`] write it in the words of FRR and BIRD 2 and read what
//! these print back into a [`Report`]. Who starts the programs and speaks with them is the daemon's business.

pub mod bird;
mod change;
mod error;
pub mod frr;
mod model;
mod report;

pub use error::ReadError;
pub use model::{Bfd, Password, Preference, Program, Session, Speaker};
pub use report::{LearnedRoute, Report, SessionReport, SessionState};
