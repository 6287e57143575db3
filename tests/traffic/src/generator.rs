//! Sends a stream at a given pace, or as fast as the link takes it.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::frame::Stream;
use crate::injector::{BATCH, Injector};

/// Behind its schedule by more than this, the generator lets the rest go: on a busy machine a late sender would
/// otherwise make up for it by a burst that no queue could hold, and call that loss.
const FORGIVEN: Duration = Duration::from_millis(1);

/// What was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Their IP bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How often the link's queue was full; those packets were sent later.
    pub refused: u64,
}

impl Sent {
    /// Packets per second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.packets as f64 / self.seconds } else { 0.0 }
    }
}

/// One of several senders of a stream, each of which sends every so many packets of it: with as many flows as senders or a
/// multiple of that, each flow is one sender's, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which sender it is, from 0 on.
    pub number: u64,
    /// How many there are.
    pub of: u64,
}

impl Part {
    /// The only sender.
    pub const WHOLE: Part = Part { number: 0, of: 1 };

    fn packet(self, sent: u64) -> u64 {
        sent * self.of + self.number
    }
}

/// Sends `stream`, or a part of it, under the number `run` for `duration`, `rate` packets a second or as fast as possible.
///
/// # Errors
/// When the interface is gone.
pub fn generate(
    injector: &Injector,
    stream: &Stream,
    part: Part,
    run: u32,
    rate: Option<f64>,
    duration: Duration,
) -> Result<Sent> {
    let longest = stream.longest_frame();
    // Bytes behind the headers stay zero for ever.
    let mut frames = vec![vec![0; longest]; BATCH];
    let mut lengths = [0; BATCH];
    let mut batch = injector.batch();
    let mut sent = Sent { packets: 0, bytes: 0, seconds: 0.0, refused: 0 };
    let start = Instant::now();
    // What was forgiven moves the schedule.
    let mut schedule = start;
    loop {
        let now = Instant::now();
        if now.duration_since(start) >= duration {
            break;
        }
        let count = match rate {
            None => BATCH,
            Some(rate) => {
                let due = now.duration_since(schedule).as_secs_f64() * rate;
                let behind = due - sent.packets as f64;
                if behind < 1.0 {
                    // Waking for each packet costs more than a small burst: wait for a few.
                    let few = (rate * 50e-6).max(1.0);
                    std::thread::sleep(Duration::from_secs_f64(((few - behind) / rate).min(0.01)));
                    continue;
                }
                let most = (rate * FORGIVEN.as_secs_f64()).max(BATCH as f64);
                if behind > most {
                    schedule += Duration::from_secs_f64((behind - most) / rate);
                }
                (behind as usize).min(BATCH)
            }
        };
        for at in 0..count {
            lengths[at] = stream.write(run, part.packet(sent.packets + at as u64), &mut frames[at]);
        }
        let mut slices: [&[u8]; BATCH] = [&[]; BATCH];
        for at in 0..count {
            slices[at] = &frames[at][..lengths[at]];
        }
        let gone = batch.send(&slices[..count])?;
        sent.packets += gone as u64;
        sent.bytes += slices[..gone].iter().map(|frame| frame.len() as u64 - 14).sum::<u64>();
        if gone == 0 {
            sent.refused += 1;
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    sent.seconds = start.elapsed().as_secs_f64();
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_divide_the_packets_of_a_stream() {
        let mut all: Vec<u64> =
            (0..3).flat_map(|number| (0..4).map(move |sent| Part { number, of: 3 }.packet(sent))).collect();
        all.sort_unstable();
        assert_eq!(all, (0..12).collect::<Vec<u64>>());
        assert_eq!(Part::WHOLE.packet(7), 7);
    }
}
