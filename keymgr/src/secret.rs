//! Secret bytes: they zeroize when dropped, compare in constant time, and cannot be printed.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` bytes from the operating system's randomness.
///
/// Aborts where the system has none: nothing that kith does is safe without it.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}

/// 32 secret bytes. No Debug, no Display, no Serialize: what has to be stored is sealed by whoever stores it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret32([u8; 32]);

impl Secret32 {
    pub fn random() -> Self {
        Self(random_bytes())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves, for a cipher. Never for a log.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE3 derive_key with a versioned context of its own over this secret and what names the key's use.
    pub fn derive(&self, context: &'static str, about: &[&[u8]]) -> Secret32 {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for part in about {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let out = Self(*hasher.finalize().as_bytes());
        hasher.zeroize();
        out
    }
}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
