//! The root of a ciphertext: the BLAKE3 hash of its bytes, the locator counted as zero, kept as the chaining
//! values of its groups of 16 KiB so that a change costs its groups and their ancestors only.
//!
//! fs brings it up to date from the pages that it wrote; sync verifies groups against it as they arrive. The
//! root of a file is exactly `blake3::hash` of the bytes (BLAKE3 paper, section 5.1; blake3's `hazmat`).

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::ids::Root;

/// Bytes of one group: 16 BLAKE3 chunks, 4 pages.
pub const GROUP: u64 = 16 * 1024;
/// Where the locator lies in a ciphertext; counted as zero by whoever hashes (see kith-store(5)).
pub const LOCATOR: std::ops::Range<usize> = 240..256;

/// The chaining values of a ciphertext's groups, in order. A ciphertext of at most one group has one entry, which
/// is its root already.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups(Vec<[u8; 32]>);

/// How many groups a ciphertext of `length` bytes has; an empty one has one.
pub fn count(length: u64) -> usize {
    usize::try_from(length.div_ceil(GROUP).max(1)).unwrap_or(usize::MAX)
}

/// The chaining value of group `index` of a ciphertext of `length` bytes. `bytes` are that group's bytes, with the
/// locator zeroed in group 0 (see [`zero_locator`]).
pub fn of_group(index: usize, length: u64, bytes: &[u8]) -> [u8; 32] {
    if count(length) == 1 {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index as u64 * GROUP);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Counts the locator as zero: `bytes` are the first bytes of group 0.
pub fn zero_locator(bytes: &mut [u8]) {
    let end = LOCATOR.end.min(bytes.len());
    if LOCATOR.start < end {
        bytes[LOCATOR.start..end].fill(0);
    }
}

impl Groups {
    pub fn from_values(values: Vec<[u8; 32]>) -> Self {
        Self(values)
    }

    pub fn values(&self) -> &[[u8; 32]] {
        &self.0
    }

    pub fn get(&self, index: usize) -> Option<&[u8; 32]> {
        self.0.get(index)
    }

    /// Sets group `index`; groups between the end and it are zeros of the tree until they are set too.
    pub fn set(&mut self, index: usize, value: [u8; 32]) {
        if self.0.len() <= index {
            self.0.resize(index + 1, [0; 32]);
        }
        self.0[index] = value;
    }

    pub fn truncate(&mut self, groups: usize) {
        self.0.truncate(groups);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The root over all groups.
    pub fn root(&self) -> Root {
        match self.0.as_slice() {
            [] => Root::from_bytes(*blake3::hash(&[]).as_bytes()),
            [only] => Root::from_bytes(*only),
            all => {
                let (left, right) = all.split_at(left_len(all.len()));
                Root::from_bytes(*merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
            }
        }
    }

    /// Of the whole ciphertext in memory (the locator is zeroed here).
    pub fn of_bytes(ciphertext: &[u8]) -> Self {
        let length = ciphertext.len() as u64;
        if ciphertext.is_empty() {
            return Self(vec![of_group(0, 0, &[])]);
        }
        let values = ciphertext.chunks(GROUP as usize).enumerate().map(|(i, chunk)| {
            if i == 0 {
                let mut first = chunk.to_vec();
                zero_locator(&mut first);
                of_group(0, length, &first)
            } else {
                of_group(i, length, chunk)
            }
        });
        Self(values.collect())
    }
}

/// The left subtree of a BLAKE3 tree holds the greatest power of two that leaves something for the right one.
fn left_len(groups: usize) -> usize {
    groups.div_ceil(2).next_power_of_two()
}

fn subtree(groups: &[[u8; 32]]) -> ChainingValue {
    match groups {
        [only] => *only,
        _ => {
            let (left, right) = groups.split_at(left_len(groups.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_plain_blake3_hash_with_the_locator_as_zero() {
        let all: Vec<u8> = (0..200_001u32).map(|i| (i * 31 % 251) as u8).collect();
        for length in [0, 1, 239, 240, 250, 256, 4096, 16383, 16384, 16385, 32768, 32769, 49153, 81920, 131072, 200_001]
        {
            let bytes = &all[..length];
            let mut plain = bytes.to_vec();
            zero_locator(&mut plain);
            assert_eq!(Groups::of_bytes(bytes).root().as_bytes(), blake3::hash(&plain).as_bytes(), "{length}");
            assert_eq!(Groups::of_bytes(bytes).len(), count(length as u64));
        }
    }

    #[test]
    fn one_changed_group_gives_the_root_of_the_changed_bytes() {
        let mut bytes = vec![7u8; 100_000];
        let mut groups = Groups::of_bytes(&bytes);
        bytes[50_000] = 8;
        let i = 50_000 / GROUP as usize;
        let end = bytes.len().min((i + 1) * GROUP as usize);
        groups.set(i, of_group(i, 100_000, &bytes[i * GROUP as usize..end]));
        assert_eq!(groups.root(), Groups::of_bytes(&bytes).root());
    }
}
