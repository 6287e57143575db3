//! Packets that come in frames of the LAN, before the kernel has routed them: sealed where they are, if they leave in
//! frames too.

use std::sync::Arc;
use std::time::Instant;

use culvert_esp::icmp;
use culvert_esp::mss::{self, Checksum};
use culvert_esp::tunnel::decrement_ttl;
use culvert_sys::xsk::{Frame, Received, Umem};

use super::{Around, BUDGET, OutboundWorker, Path, Warned, answer, flush, may_be_cut};
use crate::samples::Seen;
use crate::user::counters::Reason;
use crate::user::port::WanTransmit;
use crate::user::port::xsk::{accept, inner_at};

impl OutboundWorker {
    /// Takes what has come to one of the LAN's queues.
    pub(super) fn serve_frames(&mut self, index: usize) {
        let Self {
            index: number, tunnels, by_interface, others, wan, rules, tap, events, frames, stray, ..
        } = self;
        let mut around = Around { index: *number, others, wan, rules, tap, events };
        let Some((_, port)) = frames.get_mut(index) else { return };
        let mut congestion = std::mem::take(&mut port.congestion);
        let mut empty = false;
        for _ in 0..BUDGET {
            let Ok(more) = port.receive() else {
                empty = true;
                break;
            };
            while let Some(interface) = port.turn() {
                let place = by_interface.get(&interface).and_then(|token| tunnels.get_mut(*token));
                let Some(Some(tunnel)) = place else {
                    // Routes led here a moment ago.
                    port.take(interface, |_, packet| {
                        around.tap.dropped(&stray.out.drops, Reason::NoOutboundSa, 1, Seen::default);
                        Some(packet.frame)
                    });
                    continue;
                };
                let (mut path, _) = tunnel.path(&mut around);
                path.congestion = &mut congestion;
                port.take(interface, |umem, packet| path.take_frame(umem, packet));
                path.flush_all();
                path.account();
            }
            port.release();
            if !more {
                empty = true;
                break;
            }
        }
        congestion.seen(Instant::now(), empty);
        port.congestion = congestion;
    }
}

impl Path<'_> {
    /// Takes a frame with a packet that routes lead into this tunnel. Gives the frame back unless it is sent itself.
    fn take_frame(&mut self, umem: &Arc<Umem>, received: Received) -> Option<Frame> {
        let inner = inner_at(&received);
        let Received { mut frame, start, len } = received;
        let bytes = umem.bytes_mut(&mut frame).get_mut(start..start + len);
        let Some(len) = bytes.and_then(accept).map(|packet| packet.len()) else {
            let drops = &self.shared.counters(self.queue).out.drops;
            self.tap.dropped(drops, Reason::Malformed, 1, || Seen::of(self.shared.id, true));
            return Some(frame);
        };
        let inner = inner.start..inner.start + len;
        let bytes = umem.bytes_mut(&mut frame).get_mut(inner.clone()).unwrap_or_default();
        let Some((index, packet)) = self.select(bytes, None) else { return Some(frame) };
        let Self { shared, active, icmp: icmp_limit, congestion, wan, rules, tap, events, .. } = self;
        let id = shared.id;
        let Some(owned) = active.get_mut(index) else { return Some(frame) };
        let (port, entry) = (owned.port, &mut owned.entry);
        let drops = &entry.counters.out.drops;
        let mtu = shared.carried();
        let mut route = entry.route;
        if len > mtu && len <= shared.mtu() && may_be_cut(&packet) {
            route.may_fragment = true;
        } else if len > mtu {
            tap.dropped(drops, Reason::TooBig, 1, || Seen::outward(id, bytes));
            answer(shared, icmp_limit, || icmp::packet_too_big(bytes, packet.destination(), mtu));
            return Some(frame);
        }
        if entry.warned == Warned::Hard {
            tap.dropped(drops, Reason::Exhausted, 1, || Seen::outward(id, bytes));
            return Some(frame);
        }
        let tos = congestion.mark(rules.outer_traffic_class(packet.traffic_class()));
        let next_header = if packet.is_ipv4() { 4 } else { 41 };
        // The program left those at their last hop to the stack.
        if decrement_ttl(bytes).is_err() {
            tap.dropped(drops, Reason::Malformed, 1, || Seen::outward(id, bytes));
            return Some(frame);
        }
        mss::clamp(bytes, mtu, Checksum::Complete);

        let Some(port) = wan.get_mut(port) else { return Some(frame) };
        if port.is_full() {
            flush(port, active, tap);
        }
        let Some(owned) = active.get_mut(index) else { return Some(frame) };
        let entry = &mut owned.entry;
        let (header_len, need) = (entry.sa.header_len(), entry.sa.sealed_len(len));
        // In place, or by a copy into whatever the port sends from.
        let (sealed, back) = match port.lend(umem, frame, inner.start.saturating_sub(header_len), need) {
            Ok(slot) => (entry.sa.seal(slot, len, next_header).map_err(Reason::from), None),
            Err(frame) => {
                let plain = umem.bytes(&frame).get(inner).unwrap_or_default();
                let sealed = match port.slot(need) {
                    None => Err(Reason::WanBusy),
                    Some(slot) => match slot.get_mut(header_len..header_len + len) {
                        None => Err(Reason::Malformed),
                        Some(room) => {
                            room.copy_from_slice(plain);
                            entry.sa.seal(slot, len, next_header).map_err(Reason::from)
                        }
                    },
                };
                (sealed, Some(frame))
            }
        };
        match sealed {
            Ok(sealed) => {
                port.commit(sealed, tos, &route, index as u32);
                owned.sent(1, len as u64, events);
                active.sent(index);
            }
            Err(reason) => {
                let drops = &entry.counters.out.drops;
                tap.dropped(drops, reason, 1, || Seen { length: len, ..Seen::of(id, true) });
            }
        }
        back
    }
}
