//! The mutex of the data plane: it outlives a panic of its holder, and tests count how often it is taken.

use std::sync::PoisonError;

pub use std::sync::MutexGuard;

#[cfg(feature = "testing")]
static TAKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// How often any mutex of this kind has been taken by this process.
#[cfg(feature = "testing")]
pub fn taken() -> u64 {
    TAKEN.load(std::sync::atomic::Ordering::Relaxed)
}

/// Mutual exclusion, for what is shared beside the path of packets.
///
/// What it guards is valid between any two statements of its holders, so that one that panics leaves nothing half done:
/// the gateway goes on without it.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Not taken.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until nobody else has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(feature = "testing")]
        TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
