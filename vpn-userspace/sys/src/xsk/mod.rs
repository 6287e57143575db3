//! AF_XDP: frames between a device's queue and this process, past the kernel's stack.
//!
//! A [`Umem`] is the memory; a [`Frame`] is the right to one piece of it, and whoever holds the frame has its bytes. A
//! frame goes by value into a ring and comes back by value out of one, so it is never in two places. A [`Queue`] is
//! one queue of one device: its fill ring (frames to be received into), its transmit and completion rings. Any number
//! of [`Receiver`]s share a queue, each with a receive ring of its own; an XDP program says which of them gets a packet.
//! Receivers have no transmit ring, because in copy mode the kernel sends from within `poll`, which would make receiver
//! and sender contend.
//!
//! Locks are taken for a batch, never for a packet.
//!
//! Oldest kernel: 5.10 (shared UMEM of several queues). Needs CAP_NET_RAW, and CAP_IPC_LOCK for the memory.
mod error;
mod frame;
mod ring;
mod socket;
mod syscall;
mod umem;

pub use error::XskError;
pub use frame::{Outer, is_plain, outer, tunnel_of};
pub use socket::{BATCH, Endpoint, Mode, Queue, QueueOptions, Received, Receiver, Statistics};
pub use syscall::{device_index, device_mac, device_mtu, queue_count};
pub use umem::{Frame, Umem};
