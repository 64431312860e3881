//! Buffers that are used again: fresh memory for each run of pages costs about as much as the cipher.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// A greater one is not kept.
const KEPT: usize = 2 << 20;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that hold anything at first.
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    len: usize,
}

impl Scratch {
    pub fn new(len: usize) -> Self {
        let mut bytes = SPARE.take();
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Self { bytes, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mine = std::mem::take(&mut self.bytes);
        let spare = SPARE.take();
        SPARE.set(if mine.len() > spare.len() && mine.len() <= KEPT { mine } else { spare });
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_two_at_once_are_two() {
        let first = Scratch::new(5000).as_ptr();
        let (a, b) = (Scratch::new(100), Scratch::new(100));
        assert_eq!((a.as_ptr(), a.len(), b.len()), (first, 100, 100));
        assert_ne!(a.as_ptr(), b.as_ptr());
        drop((a, b));
        assert_eq!(Scratch::new(5000).as_ptr(), first);
    }
}
