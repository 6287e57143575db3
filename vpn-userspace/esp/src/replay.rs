//! The anti-replay window (RFC 4303 3.4.3, bitmap of RFC 6479) and extended sequence numbers
//! (RFC 4303 appendix A).

/// Why a sequence number is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A packet of that number was accepted before.
    #[error("sequence number seen before")]
    Duplicate,
    /// The number is left of the window.
    #[error("sequence number older than the replay window")]
    TooOld,
}

/// Which sequence numbers were accepted, as far back as the window reaches.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// A ring of bits, a power of two of words; one word more than the window, so that moving clears
    /// whole words (RFC 6479 2).
    words: Box<[u64]>,
    window: u64,
    highest: u64,
    esn: bool,
}

impl ReplayWindow {
    /// The smallest window in packets.
    pub const MIN: u32 = 64;
    /// The largest window in packets.
    pub const MAX: u32 = 8192;

    /// An empty window of 64 to 8192 packets; other sizes are brought to the nearest of these.
    pub fn new(window: u32, esn: bool) -> Self {
        let window = window.clamp(Self::MIN, Self::MAX);
        let words = (window.div_ceil(64) as usize + 1).next_power_of_two();
        Self { words: vec![0; words].into(), window: window.into(), highest: 0, esn }
    }

    /// The size in packets.
    pub fn size(&self) -> u32 {
        self.window as u32
    }

    /// The highest number accepted, 0 before the first.
    #[inline]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The lowest number that could still be accepted: whatever is below is stale.
    #[inline]
    pub fn floor(&self) -> u64 {
        self.highest.saturating_sub(self.window - 1).max(1)
    }

    /// The whole sequence number of a packet that shows its low half. `None` where that would lie before
    /// the first or after the last number there is.
    #[inline]
    pub fn infer(&self, low: u32) -> Option<u64> {
        if !self.esn {
            return Some(low.into());
        }
        // RFC 4303 A2.2. Case A: the window lies within one subspace of 2^32; what is below it must be of
        // the next. Case B: it spans two; what is in its left part is of the one before.
        let (high, top_low) = ((self.highest >> 32) as u32, self.highest as u32);
        let bottom = top_low.wrapping_sub(self.window as u32 - 1);
        let high = if u64::from(top_low) >= self.window - 1 {
            if low >= bottom { Some(high) } else { high.checked_add(1) }
        } else if low >= bottom {
            high.checked_sub(1)
        } else {
            Some(high)
        }?;
        Some(u64::from(high) << 32 | u64::from(low))
    }

    /// Whether the number is new and not too old. Changes nothing.
    #[inline]
    pub fn check(&self, sequence: u64) -> Result<(), ReplayError> {
        if sequence > self.highest {
            return Ok(());
        }
        // The first number is 1 (RFC 4303 3.3.3).
        if sequence == 0 || self.highest - sequence >= self.window {
            return Err(ReplayError::TooOld);
        }
        let (word, bit) = self.place(sequence);
        match self.words.get(word) {
            Some(word) if word & bit == 0 => Ok(()),
            _ => Err(ReplayError::Duplicate),
        }
    }

    /// Checks again and marks the number as seen, moving the window if it leads. To be called only after
    /// the packet's check value was verified (RFC 4303 3.4.3).
    #[inline]
    pub fn accept(&mut self, sequence: u64) -> Result<(), ReplayError> {
        self.check(sequence)?;
        if sequence > self.highest {
            let (from, to) = (self.highest >> 6, sequence >> 6);
            let mask = self.words.len() as u64 - 1;
            for word in (from + 1..=to).take(self.words.len()) {
                if let Some(word) = self.words.get_mut((word & mask) as usize) {
                    *word = 0;
                }
            }
            self.highest = sequence;
        }
        let (word, bit) = self.place(sequence);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
        Ok(())
    }

    #[inline]
    fn place(&self, sequence: u64) -> (usize, u64) {
        let mask = self.words.len() as u64 - 1;
        ((sequence >> 6 & mask) as usize, 1 << (sequence & 63))
    }

    #[cfg(test)]
    pub(crate) fn start_at(&mut self, highest: u64) {
        self.words.fill(0);
        self.highest = highest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The definition: every number ever accepted, and the highest.
    struct Model {
        seen: BTreeSet<u64>,
        window: u64,
        highest: u64,
    }

    impl Model {
        fn accept(&mut self, sequence: u64) -> Result<(), ReplayError> {
            if sequence == 0 || sequence + self.window <= self.highest {
                return Err(ReplayError::TooOld);
            }
            if !self.seen.insert(sequence) {
                return Err(ReplayError::Duplicate);
            }
            self.highest = self.highest.max(sequence);
            Ok(())
        }
    }

    fn agrees_with_model(window: u32, start: u64, steps: &[i64]) {
        let mut replay = ReplayWindow::new(window, true);
        replay.start_at(start);
        let mut model = Model { seen: BTreeSet::new(), window: replay.size().into(), highest: start };
        for step in steps {
            let sequence = model.highest.saturating_add_signed(*step);
            let checked = replay.check(sequence);
            assert_eq!(checked, replay.clone().accept(sequence));
            // What a peer within reach sends is inferred back from its low half.
            if checked.is_ok() && sequence <= model.highest.saturating_add(1 << 31) {
                assert_eq!(replay.infer(sequence as u32), Some(sequence));
            }
            assert_eq!(replay.accept(sequence), model.accept(sequence), "{sequence}");
            assert_eq!(replay.highest(), model.highest);
            assert_eq!(replay.check(replay.floor() - 1), Err(ReplayError::TooOld));
            assert_ne!(replay.check(replay.floor()), Err(ReplayError::TooOld));
        }
    }

    proptest! {
        #[test]
        fn window_agrees_with_its_definition(
            window in prop_oneof![Just(64u32), Just(65), Just(100), Just(128), Just(1024), Just(8192)],
            start in prop_oneof![Just(0u64), Just(0xffff_fff0), Just(0x1_0000_0000), Just(0x7_ffff_fc00), 0u64..1 << 50],
            steps in proptest::collection::vec(
                prop_oneof![4 => -8i64..=3, 3 => -1200i64..=200, 1 => -9000i64..=9000, 1 => 0i64..=1 << 31], 1..300),
        ) {
            agrees_with_model(window, start, &steps);
        }
    }

    #[test]
    fn every_slot_of_the_window_is_distinct() {
        for window in [64, 100, 1024, 8192] {
            let mut replay = ReplayWindow::new(window, false);
            let top = 3 * u64::from(window) + 7;
            replay.accept(top).unwrap();
            for back in 1..u64::from(window) {
                assert_eq!(replay.accept(top - back), Ok(()), "{window} {back}");
                assert_eq!(replay.accept(top - back), Err(ReplayError::Duplicate));
            }
            assert_eq!(replay.accept(top - u64::from(window)), Err(ReplayError::TooOld));
            assert_eq!(replay.floor(), top - u64::from(window) + 1);
        }
    }

    /// RFC 4303 A2.2, both cases at their borders.
    #[test]
    fn extended_numbers_across_the_subspaces() {
        let infer = |highest: u64, low: u32| {
            let mut replay = ReplayWindow::new(64, true);
            replay.start_at(highest);
            replay.infer(low)
        };
        let cases = [
            // (highest, low half seen, whole number)
            (0, 1, Some(1)),
            (0, 0xffff_ffff, None),              // would be before the first
            (0, 0x8000_0000, Some(0x8000_0000)), // far ahead, still of the first subspace
            (62, 0xffff_ffff, None),
            (63, 0xffff_ffff, Some(0xffff_ffff)),
            (63, 0, Some(0)), // the window's bottom; number 0 is then refused as too old
            (64, 0, Some(0x1_0000_0000)),
            (0xffff_ffff, 0, Some(0x1_0000_0000)),
            (0xffff_ffff, 0xffff_ffc0, Some(0xffff_ffc0)),
            (0xffff_ffff, 0xffff_ffbf, Some(0x1_ffff_ffbf)),
            (0x1_0000_0000, 0xffff_ffff, Some(0xffff_ffff)),
            (0x1_0000_0000, 0xffff_ffc1, Some(0xffff_ffc1)),
            (0x1_0000_0000, 0xffff_ffc0, Some(0x1_ffff_ffc0)),
            (0x1_0000_0000, 1, Some(0x1_0000_0001)),
            (0x1_0000_003e, 0xffff_ffff, Some(0xffff_ffff)),
            (0x1_0000_003f, 0xffff_ffff, Some(0x1_ffff_ffff)),
            (u64::MAX, 0, None), // would be after the last
            (u64::MAX, 0xffff_ffff, Some(u64::MAX)),
        ];
        for (highest, low, want) in cases {
            assert_eq!(infer(highest, low), want, "{highest:#x} {low:#x}");
        }
    }

    #[test]
    fn without_esn_the_number_is_what_it_shows() {
        let mut replay = ReplayWindow::new(64, false);
        replay.start_at(0xffff_ffff);
        assert_eq!(replay.infer(0), Some(0));
        assert_eq!(replay.check(0), Err(ReplayError::TooOld));
    }

    #[test]
    fn the_last_number_of_all_is_accepted_once() {
        let mut replay = ReplayWindow::new(1024, true);
        replay.start_at(u64::MAX - 1);
        assert_eq!(replay.accept(u64::MAX), Ok(()));
        assert_eq!(replay.accept(u64::MAX), Err(ReplayError::Duplicate));
        assert_eq!(replay.floor(), u64::MAX - 1023);
    }
}
