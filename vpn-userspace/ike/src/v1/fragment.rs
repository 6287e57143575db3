//! Cisco's fragmentation: messages too large for the path in pieces, and back together, within bounds.

use std::time::{Duration, Instant};

use crate::ctx::{Ctx, Path};
use crate::wire::v1::{FRAGMENT_OVERHEAD, Fragment, HEADER_LEN, Header};

/// Messages up to this size, in bytes, go whole.
const WHOLE: usize = 1280;
/// Bytes of a piece, so that its datagram fits into 1280 bytes with IPv6, UDP and the marker.
const PIECE: usize = 1280 - 40 - 8 - 4 - FRAGMENT_OVERHEAD;

/// Sends a message, in pieces where it is large and the peer takes them.
pub(crate) fn send(ctx: &mut Ctx<'_>, path: &Path, fragments: bool, message: Vec<u8>) {
    if !fragments || message.len() <= WHOLE {
        return ctx.send(path, message);
    }
    let Ok((header, _)) = Header::parse(&message) else { return };
    let id = (ctx.message_id() & 0xffff) as u16;
    let count = message.len().div_ceil(PIECE);
    for (number, piece) in (1..=u8::MAX).zip(message.chunks(PIECE)) {
        let last = usize::from(number) == count;
        ctx.send(path, Fragment { id, number, last, piece }.message(&header));
    }
}

/// Messages in the making at once; the oldest gives way.
const MAX_MESSAGES: usize = 128;
/// Bytes of one message: more than any chain of certificates needs.
const MAX_BYTES: usize = 32 * 1024;
/// Pieces of one message.
const MAX_PIECES: usize = 64;
/// How long pieces wait for the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pieces of messages that are not whole yet, by our cookie of the SA: one message for each.
#[derive(Default)]
pub(crate) struct Reassembler {
    messages: Vec<Message>,
}

struct Message {
    key: u64,
    id: u16,
    since: Instant,
    /// The number of the last piece, once it is known.
    last: Option<u8>,
    bytes: usize,
    pieces: Vec<(u8, Vec<u8>)>,
}

impl Reassembler {
    /// Takes in a piece of a message for an SA that is there. The message, if it is whole.
    pub(crate) fn add(&mut self, now: Instant, key: u64, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        self.messages.retain(|m| now < m.since + PATIENCE);
        // A new id is a new message: the one before was given up.
        self.messages.retain(|m| m.key != key || m.id == fragment.id);
        let at = match self.messages.iter().position(|m| m.key == key) {
            Some(at) => at,
            None => {
                if self.messages.len() >= MAX_MESSAGES {
                    self.messages.remove(0);
                }
                let (last, bytes, pieces) = (None, 0, Vec::new());
                self.messages.push(Message { key, id: fragment.id, since: now, last, bytes, pieces });
                self.messages.len() - 1
            }
        };
        let message = self.messages.get_mut(at)?;
        if message.pieces.iter().any(|(n, _)| *n == fragment.number) {
            return None;
        }
        let too_much = message.bytes + fragment.piece.len() > MAX_BYTES
            || message.pieces.len() >= MAX_PIECES
            || message.last.is_some_and(|last| fragment.number > last || fragment.last);
        if too_much {
            self.messages.remove(at);
            return None;
        }
        if fragment.last {
            message.last = Some(fragment.number);
        }
        message.bytes += fragment.piece.len();
        message.pieces.push((fragment.number, fragment.piece.to_vec()));
        let last = usize::from(message.last?);
        // The numbers differ and none is 0: as many as the last one says are all of them.
        if message.pieces.len() != last {
            return None;
        }
        let mut message = self.messages.remove(at);
        message.pieces.sort_by_key(|(n, _)| *n);
        let whole: Vec<u8> = message.pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        (whole.len() > HEADER_LEN).then_some(whole)
    }

    /// The SA is gone.
    pub(crate) fn forget(&mut self, key: u64) {
        self.messages.retain(|m| m.key != key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u16, number: u8, last: bool, piece: &[u8]) -> Fragment<'_> {
        Fragment { id, number, last, piece }
    }

    #[test]
    fn pieces_come_in_any_order_and_twice() {
        let (now, mut all) = (Instant::now(), Reassembler::default());
        let whole: Vec<u8> = (0..100).collect();
        assert_eq!(all.add(now, 1, &piece(7, 3, true, &whole[80..])), None);
        assert_eq!(all.add(now, 1, &piece(7, 1, false, &whole[..40])), None);
        assert_eq!(all.add(now, 1, &piece(7, 1, false, &whole[..40])), None);
        // Another SA's pieces are its own.
        assert_eq!(all.add(now, 2, &piece(7, 2, false, &whole[..40])), None);
        assert_eq!(all.add(now, 1, &piece(7, 2, false, &whole[40..80])), Some(whole));
        all.forget(2);
        assert!(all.is_empty());
    }

    #[test]
    fn what_strangers_cost_is_bounded() {
        let (now, mut all) = (Instant::now(), Reassembler::default());
        for key in 0..10_000 {
            assert_eq!(all.add(now, key, &piece(1, 1, false, &[0; 100])), None);
        }
        assert_eq!(all.messages.len(), MAX_MESSAGES);
        for number in 1..=255 {
            assert_eq!(all.add(now, 1, &piece(2, number, false, &[0; 1000])), None);
        }
        assert!(all.messages.iter().map(|m| m.bytes).max().unwrap() <= MAX_BYTES);
        // Beyond the last, two last ones, an old message.
        assert_eq!(all.add(now, 1, &piece(3, 2, true, &[0; 100])), None);
        assert_eq!(all.add(now, 1, &piece(3, 3, false, &[0; 100])), None);
        assert!(!all.messages.iter().any(|m| m.key == 1));
        all.add(now + PATIENCE, 1, &piece(4, 1, false, &[0; 100]));
        assert_eq!(all.messages.len(), 1);
    }
}
