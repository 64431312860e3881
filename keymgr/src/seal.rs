//! Sealing under a secret key: AES-256-GCM-SIV (RFC 8452), a random nonce before the ciphertext, the tag after it.
//!
//! The cipher does not commit to its key. Where a key comes from something that can be guessed, a commitment is
//! checked first (see [`crate::slot`]).

// Named for its feature `zeroize`, which aes-gcm-siv's own does not switch on.
use aes as _;
use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce, Tag};
use zeroize::Zeroizing;

use crate::secret::{Secret32, random_bytes};

pub(crate) const NONCE: usize = 12;
pub(crate) const TAG: usize = 16;
/// What sealing adds to a plaintext.
pub(crate) const OVERHEAD: usize = NONCE + TAG;

/// nonce (12) || ciphertext || tag (16). Plaintexts of more than 64 GiB do not occur here: the cipher's limit.
pub(crate) fn seal(key: &Secret32, about: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_with(key, about, plain, random_bytes())
}

pub(crate) fn seal_with(key: &Secret32, about: &[u8], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
    // One allocation of the final size: growing would leave a copy of the plaintext behind.
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let body = out.get_mut(NONCE..).unwrap_or_default();
    let cipher = Aes256GcmSiv::new(&(*key.expose()).into());
    match cipher.encrypt_inout_detached(&Nonce::from(nonce), about, body.into()) {
        Ok(tag) => out.extend_from_slice(&tag),
        // Only for more than 64 GiB. Nothing unsealed may leave this function.
        Err(_) => std::process::abort(),
    }
    out
}

/// The plaintext, or None where a bit of it, of `about` or of the key differs.
pub(crate) fn open(key: &Secret32, about: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (body, tag) = rest.split_last_chunk::<TAG>()?;
    let mut plain = Zeroizing::new(body.to_vec());
    let cipher = Aes256GcmSiv::new(&(*key.expose()).into());
    cipher.decrypt_inout_detached(&Nonce::from(*nonce), about, plain.as_mut_slice().into(), &Tag::from(*tag)).ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_under_this_key_about_this() {
        let key = Secret32::from_bytes([1; 32]);
        let sealed = seal(&key, b"about", b"plain");
        assert_eq!(open(&key, b"about", &sealed).unwrap().as_slice(), b"plain");
        assert!(open(&key, b"other", &sealed).is_none());
        assert!(open(&Secret32::from_bytes([2; 32]), b"about", &sealed).is_none());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(open(&key, b"about", &bad).is_none(), "byte {i}");
            assert!(open(&key, b"about", &sealed[..i]).is_none(), "cut at {i}");
        }
    }

    #[test]
    fn vectors() {
        let sealed = seal_with(&Secret32::from_bytes([1; 32]), b"about", b"plain", [2; NONCE]);
        let about = "AES-256-GCM-SIV, key 01.., associated data 'about', plaintext 'plain', nonce 02..";
        crate::vectors::check("seal", serde_json::json!({ "about": about, "sealed": crate::vectors::hex(&sealed) }));
    }
}
