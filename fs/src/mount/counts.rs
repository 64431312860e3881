//! How many requests the kernel made, by kind: round trips cost more than ciphers, so they have a budget (ARCHITECTURE.md).
//! `KITH_LOG=fs=debug` tells them when a mount ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Clones count together.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counts {
    pub fn one(&self, what: &'static str) {
        *self.0.lock().entry(what).or_default() += 1;
    }

    pub fn so_far(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }
}
