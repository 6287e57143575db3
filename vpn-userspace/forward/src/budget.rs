//! How many clients several forwards may have at once together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Clients at once of all forwards that share it. Two of the same name are the same.
#[derive(Debug)]
pub struct Budget {
    /// What is said when it is used up: `limit forward_connections of environment production`.
    name: String,
    most: AtomicUsize,
    taken: AtomicUsize,
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Budget {}

impl Budget {
    pub(crate) fn new(name: &str, most: usize) -> Self {
        Self { name: name.to_owned(), most: AtomicUsize::new(most), taken: AtomicUsize::new(0) }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Clients at once.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Clients there now.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Changes it; those that are there stay.
    pub(crate) fn set(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Takes a place, if there is one.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let more = |taken| (taken < self.most()).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

/// A place in a budget; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Budget>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}
