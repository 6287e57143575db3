//! An IKE SA that is gone but for repeating its last answer, should that have been lost.

use std::time::{Duration, Instant};

use super::ctx::Ctx;
use super::{Arrival, Sa};
use crate::window::{Incoming, Window};

/// How long a lost last answer is repeated: the peer's own repetitions have mostly come by then.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Holds no keys and no children.
pub(crate) struct Closed {
    pub(crate) peer_spi: u64,
    pub(crate) initiator: bool,
    pub(crate) expires: Instant,
    window: Window,
}

impl Closed {
    pub(crate) fn remember(now: Instant, peer_spi: u64, initiator: bool, window: Window) -> Sa {
        Sa::Closed(Box::new(Self { peer_spi, initiator, expires: now + REMEMBERED, window }))
    }

    pub(crate) fn on_datagram(self: Box<Self>, ctx: &mut Ctx<'_>, arrival: &Arrival<'_>) -> Option<Sa> {
        let header = &arrival.header;
        if !header.flags.response
            && let Incoming::Repeated(response) = self.window.incoming(header.message_id, arrival.bytes)
        {
            ctx.transmit(arrival.local, arrival.remote, response.clone());
        }
        Some(Sa::Closed(self))
    }
}
