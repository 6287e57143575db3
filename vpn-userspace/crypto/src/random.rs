//! Where randomness comes from: a trait that callers hand in, and the operating system's source.

use ring::rand::SecureRandom as _;

/// A source of random bytes: nonces, SPIs, IVs, cookies, MODP exponents.
///
/// Simulations hand in a seeded one; everything that faces a network uses [`SystemRandom`].
pub trait Random: Send {
    /// Fills the whole buffer.
    fn fill(&mut self, out: &mut [u8]);
}

/// The operating system's source (`getrandom(2)`).
#[derive(Debug, Clone)]
pub struct SystemRandom(ring::rand::SystemRandom);

impl SystemRandom {
    /// Opens nothing and cannot fail.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    fn fill(&mut self, out: &mut [u8]) {
        // getrandom(2) fails only where the system call is missing or filtered: nothing that needs
        // a secret may go on then.
        self.0.fill(out).expect("the operating system gives random bytes (getrandom)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_random_fills_everything_differently() {
        let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
        let mut random = SystemRandom::new();
        random.fill(&mut a);
        random.fill(&mut b);
        assert_ne!(a, b);
        assert!(a.chunks(16).all(|c| c != [0; 16]));
    }
}
