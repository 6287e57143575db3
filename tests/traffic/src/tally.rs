//! Counts of what arrived, flow by flow: how many, how many again, how many late.

/// Packets behind the newest whose arrival is remembered.
const WINDOW: u64 = 1 << 14;

/// What arrived of one run.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    flows: Vec<Flow>,
    /// Different packets.
    pub packets: u64,
    /// Their UDP payload bytes.
    pub bytes: u64,
    /// Packets that had arrived before.
    pub duplicates: u64,
    /// Packets that arrived after one sent later in their flow.
    pub reordered: u64,
}

#[derive(Debug, Clone, Default)]
struct Flow {
    /// One more than the highest sequence number seen.
    next: u64,
    /// A bit for each of the last [`WINDOW`] numbers.
    seen: Vec<u64>,
}

impl Flow {
    fn bit(&mut self, sequence: u64) -> (&mut u64, u64) {
        if self.seen.is_empty() {
            self.seen.resize((WINDOW / 64) as usize, 0);
        }
        let at = sequence % WINDOW;
        (&mut self.seen[(at / 64) as usize], 1 << (at % 64))
    }
}

impl Tally {
    /// Counts one packet.
    pub fn count(&mut self, flow: u16, sequence: u64, bytes: usize) {
        let at = usize::from(flow);
        if at >= self.flows.len() {
            self.flows.resize_with(at + 1, Flow::default);
        }
        let flow = &mut self.flows[at];
        if sequence >= flow.next {
            // Forget what the numbers that are passed over meant one window ago.
            if sequence - flow.next >= WINDOW {
                flow.seen.fill(0);
            } else {
                for passed in flow.next..sequence {
                    let (word, bit) = flow.bit(passed);
                    *word &= !bit;
                }
            }
            flow.next = sequence + 1;
            let (word, bit) = flow.bit(sequence);
            *word |= bit;
        } else {
            if flow.next - sequence <= WINDOW {
                let (word, bit) = flow.bit(sequence);
                if *word & bit != 0 {
                    self.duplicates += 1;
                    return;
                }
                *word |= bit;
            }
            // Later than the window remembers: it cannot be told from a duplicate, and is counted once more.
            self.reordered += 1;
        }
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// The share of `sent` packets that did not arrive, 0 to 1.
    pub fn loss(&self, sent: u64) -> f64 {
        if sent == 0 { 0.0 } else { sent.saturating_sub(self.packets) as f64 / sent as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(sequences: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        sequences.into_iter().for_each(|sequence| tally.count(0, sequence, 10));
        tally
    }

    #[test]
    fn loss_duplicates_and_reordering_are_told_apart() {
        let tally = counted([0, 1, 3, 2, 2, 6, 6, 5, 9]);
        assert_eq!((tally.packets, tally.duplicates, tally.reordered), (7, 2, 2));
        assert_eq!(tally.bytes, 70);
        assert!((tally.loss(10) - 0.3).abs() < 1e-9);
        assert_eq!(counted([]).loss(0), 0.0);
    }

    #[test]
    fn flows_do_not_mix() {
        let mut tally = Tally::default();
        for flow in [0, 5, 63] {
            (0..100).for_each(|sequence| tally.count(flow, sequence, 1));
        }
        assert_eq!((tally.packets, tally.duplicates, tally.reordered), (300, 0, 0));
    }

    #[test]
    fn the_window_slides_and_forgets() {
        // Twice round the window in order: nothing of the first round is taken for a duplicate.
        let tally = counted(0..3 * WINDOW);
        assert_eq!((tally.packets, tally.duplicates, tally.reordered), (3 * WINDOW, 0, 0));
        // A gap, filled one window's length later but one: late, no duplicate.
        let tally = counted((0..10).chain(11..WINDOW + 5).chain([10]));
        assert_eq!((tally.packets, tally.duplicates, tally.reordered), (WINDOW + 5, 0, 1));
        // A jump of more than a window leaves no old bits.
        let tally = counted((0..100).chain([5 * WINDOW, 5 * WINDOW - 50, 5 * WINDOW - 50]));
        assert_eq!((tally.packets, tally.duplicates, tally.reordered), (102, 1, 1));
    }
}
