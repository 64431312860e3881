//! Extended attributes of a ciphertext file or folder: name and value sealed together, under a name that is a keyed
//! hash (kith-store(5), "Extended attributes").

use data_encoding::BASE64URL_NOPAD;
use keymgr::ids::Epoch;
use keymgr::secret::random_bytes;
use keymgr::share::ShareKeys;

use super::seal::{Cipher, NONCE, TAG};
use super::tag::EpochTag;
use super::{Refused, VERSION, field};

/// What the names of sealed attributes begin with on the backing file system.
pub const PREFIX: &str = "user.kith.";
/// The most bytes of an attribute's name, as everywhere on Linux.
pub const MAX_NAME: usize = 255;
const HASH: usize = 16;
const FRONT: usize = EpochTag::LEN + NONCE + TAG;

/// The attribute `name` of the file or folder `id`, as the backing file system holds it under one epoch.
fn stored_name(keys: &ShareKeys, epoch: Epoch, id: &[u8; 16], name: &[u8]) -> Option<String> {
    let key = keys.xattr_key(epoch)?.derive("kith.v1 xattr name", &[id, name]);
    Some(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&key.expose()[..HASH])))
}

/// Where to look for `name`: newest epoch first. What is written goes to the first, and the others are removed.
pub fn stored_names(keys: &ShareKeys, id: &[u8; 16], name: &[u8]) -> Vec<String> {
    let mut epochs: Vec<Epoch> = keys.epochs().collect();
    epochs.sort_unstable_by(|a, b| b.cmp(a));
    epochs.into_iter().filter_map(|epoch| stored_name(keys, epoch, id, name)).collect()
}

/// Whether a name on the backing file system may be a sealed attribute's.
pub fn is_stored(stored: &[u8]) -> bool {
    let hash = stored.strip_prefix(PREFIX.as_bytes()).and_then(|rest| BASE64URL_NOPAD.decode(rest).ok());
    hash.is_some_and(|hash| hash.len() == HASH)
}

/// Seals an attribute under the current epoch: its name on the backing file system, and its value there.
pub fn seal(keys: &ShareKeys, id: &[u8; 16], name: &[u8], value: &[u8]) -> Result<(String, Vec<u8>), Refused> {
    if name.is_empty() || name.contains(&0) {
        return Err(Refused::Name);
    }
    if name.len() > MAX_NAME {
        return Err(Refused::TooLong);
    }
    let epoch = keys.current();
    let stored = stored_name(keys, epoch, id, name).ok_or(Refused::NoKey)?;
    let cipher = Cipher::new(&keys.xattr_key(epoch).ok_or(Refused::NoKey)?);
    let (tag, nonce) = (EpochTag::of(keys.share(), epoch), random_bytes());
    let mut raw = vec![0; FRONT];
    raw.extend_from_slice(name);
    raw.push(0);
    raw.extend_from_slice(value);
    let proof = cipher.seal(&nonce, &about(tag, id, &stored), &mut raw[FRONT..]);
    raw[..4].copy_from_slice(&tag.0);
    raw[4..4 + NONCE].copy_from_slice(&nonce);
    raw[4 + NONCE..FRONT].copy_from_slice(&proof);
    Ok((stored, raw))
}

/// The name and value of an attribute as the backing file system holds it at the file or folder `id`.
pub fn open(keys: &ShareKeys, id: &[u8; 16], stored: &str, raw: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Refused> {
    let tag = EpochTag(field(raw, 0)?);
    let (nonce, proof) = (field(raw, 4)?, field(raw, 4 + NONCE)?);
    let sealed = raw.get(FRONT..).ok_or(Refused::Layout)?;
    let mut last = Refused::NoKey;
    for epoch in tag.epochs(keys) {
        let Some(key) = keys.xattr_key(epoch) else { continue };
        let mut bytes = sealed.to_vec();
        if let Err(why) = Cipher::new(&key).open(&nonce, &about(tag, id, stored), &mut bytes, &proof) {
            last = why;
            continue;
        }
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(Refused::Layout)?;
        let value = bytes.split_off(end + 1);
        bytes.truncate(end);
        // The hash is what lookup goes by; a sealed name under another's hash would answer for it.
        if stored_name(keys, epoch, id, &bytes).as_deref() != Some(stored) {
            return Err(Refused::Place);
        }
        return Ok((bytes, value));
    }
    Err(last)
}

fn about(tag: EpochTag, id: &[u8; 16], stored: &str) -> Vec<u8> {
    [&[VERSION][..], &tag.0, id, stored.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::ids::ShareId;
    use keymgr::secret::Secret32;

    const ID: [u8; 16] = [7; 16];

    fn keys() -> ShareKeys {
        ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
    }

    #[test]
    fn s7_an_attribute_comes_back_at_its_file_and_under_its_name_only() {
        let (stored, raw) = seal(&keys(), &ID, b"user.note", b"a\0value").unwrap();
        assert!(is_stored(stored.as_bytes()) && stored_names(&keys(), &ID, b"user.note").contains(&stored));
        assert_eq!(open(&keys(), &ID, &stored, &raw).unwrap(), (b"user.note".to_vec(), b"a\0value".to_vec()));
        assert!(open(&keys(), &[8; 16], &stored, &raw).is_err());
        let (other, _) = seal(&keys(), &ID, b"user.other", b"").unwrap();
        assert!(open(&keys(), &ID, &other, &raw).is_err());
        assert!(!is_stored(super::super::locator::OTHERS.as_bytes()));
    }

    #[test]
    fn a_flip_of_any_byte_is_refused() {
        let (stored, raw) = seal(&keys(), &ID, b"user.note", b"value").unwrap();
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 1;
            assert!(open(&keys(), &ID, &stored, &bad).is_err(), "byte {at}");
            assert!(open(&keys(), &ID, &stored, &raw[..at]).is_err(), "{at} bytes");
        }
    }
}
