//! AES-256-GCM-SIV (RFC 8452) in place, with the tag apart: the one cipher of the format (kith-store(5), "Cipher").

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce, Tag};
use keymgr::secret::Secret32;

use super::Refused;

pub const NONCE: usize = 12;
pub const TAG: usize = 16;

/// A keyed cipher. Its key cannot be read back or printed.
#[derive(Clone)]
pub struct Cipher(Aes256GcmSiv);

impl Cipher {
    pub fn new(key: &Secret32) -> Self {
        Self(Aes256GcmSiv::new(key.expose().into()))
    }

    pub fn seal(&self, nonce: &[u8; NONCE], about: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
        match self.0.encrypt_inout_detached(&Nonce::from(*nonce), about, bytes.into()) {
            Ok(tag) => tag.into(),
            // RFC 8452 seals up to 2^36 bytes; nothing in the format comes near.
            Err(_) => std::process::abort(),
        }
    }

    /// Leaves `bytes` unusable where it refuses.
    pub fn open(&self, nonce: &[u8; NONCE], about: &[u8], bytes: &mut [u8], tag: &[u8; TAG]) -> Result<(), Refused> {
        self.0
            .decrypt_inout_detached(&Nonce::from(*nonce), about, bytes.into(), &Tag::from(*tag))
            .map_err(|_| Refused::Forged)
    }
}
