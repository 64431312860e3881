//! The epoch keys of one share that this device holds, and every key derived from them.
//!
//! Each derivation is BLAKE3 derive_key under a versioned context string of its own, over the epoch key and
//! (share, epoch, what the key is for), so that no two uses, shares or epochs ever have one key, even if an epoch
//! key were used twice. Frozen in tests/vectors/keys.json.

use std::collections::BTreeMap;

use crate::ids::{Epoch, LineageId, NodeId, ShareId};
use crate::secret::Secret32;

/// The context strings, one for each use; a changed meaning gets a new version.
pub(crate) mod context {
    pub const PAGE: &str = "kith.v1 page key";
    pub const HEADER: &str = "kith.v1 header key";
    pub const NAME: &str = "kith.v1 name key";
    pub const LOCATOR: &str = "kith.v1 locator key";
    pub const XATTR: &str = "kith.v1 extended attribute key";
    pub const ATTRS: &str = "kith.v1 record attributes key";
    pub const LIST: &str = "kith.v1 session list key";
}

/// The epoch keys of one share that this device holds. No Debug: it is all secret.
#[derive(Clone)]
pub struct ShareKeys {
    share: ShareId,
    keys: BTreeMap<Epoch, Secret32>,
    /// Under which to write, where that is said.
    writing: Option<Epoch>,
}

impl ShareKeys {
    /// The share with its first key as epoch 1.
    pub fn new(share: ShareId, first: Secret32) -> Self {
        Self { share, keys: BTreeMap::from([(Epoch::FIRST, first)]), writing: None }
    }

    /// A new share: its first key is random.
    pub fn create(share: ShareId) -> Self {
        Self::new(share, Secret32::random())
    }

    /// A share of which this device holds no key (yet): a new member before its first wrap.
    pub fn empty(share: ShareId) -> Self {
        Self { share, keys: BTreeMap::new(), writing: None }
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    /// Under which epoch to write: the one that [`ShareKeys::write_under`] said, otherwise the newest whose key is
    /// here. [`Epoch::FIRST`] where none is.
    pub fn current(&self) -> Epoch {
        if let Some(epoch) = self.writing.filter(|e| self.keys.contains_key(e)) {
            return epoch;
        }
        self.keys.last_key_value().map_or(Epoch::FIRST, |(e, _)| *e)
    }

    /// Oldest first.
    pub fn epochs(&self) -> impl DoubleEndedIterator<Item = Epoch> + '_ {
        self.keys.keys().copied()
    }

    /// Takes a key, unless the epoch has one: a key once held is never replaced, or what was written under it would
    /// be lost.
    pub fn insert(&mut self, epoch: Epoch, key: Secret32) {
        self.keys.entry(epoch).or_insert(key);
    }

    /// The greatest number is not always the epoch that counts: one that a removed admin made does not. Not kept in
    /// the keyring: the shelf says it again.
    pub fn write_under(&mut self, epoch: Epoch) {
        self.writing = Some(epoch);
    }

    pub fn has(&self, epoch: Epoch) -> bool {
        self.keys.contains_key(&epoch)
    }

    /// Opens a lineage's pages.
    pub fn page_key(&self, e: Epoch, l: &LineageId) -> Option<Secret32> {
        self.derive(context::PAGE, e, Some(l.as_bytes()))
    }

    /// Authenticates headers of files and folders.
    pub fn header_key(&self, e: Epoch) -> Option<Secret32> {
        self.derive(context::HEADER, e, None)
    }

    /// Opens the names in a folder.
    pub fn name_key(&self, e: Epoch, folder: &NodeId) -> Option<Secret32> {
        self.derive(context::NAME, e, Some(folder.as_bytes()))
    }

    /// Ties an entry to its place.
    pub fn locator_key(&self, e: Epoch) -> Option<Secret32> {
        self.derive(context::LOCATOR, e, None)
    }

    /// Opens names and values of extended attributes on the disk.
    pub fn xattr_key(&self, e: Epoch) -> Option<Secret32> {
        self.derive(context::XATTR, e, None)
    }

    /// Opens the attributes inside records.
    pub fn attrs_key(&self, e: Epoch) -> Option<Secret32> {
        self.derive(context::ATTRS, e, None)
    }

    /// Opens the session's list of what may differ from its record.
    pub fn list_key(&self, e: Epoch) -> Option<Secret32> {
        self.derive(context::LIST, e, None)
    }

    pub(crate) fn key(&self, epoch: Epoch) -> Option<&Secret32> {
        self.keys.get(&epoch)
    }

    fn derive(&self, context: &'static str, e: Epoch, about: Option<&[u8]>) -> Option<Secret32> {
        let key = self.keys.get(&e)?;
        let epoch = e.0.to_le_bytes();
        Some(match about {
            Some(about) => key.derive(context, &[self.share.as_bytes(), &epoch, about]),
            None => key.derive(context, &[self.share.as_bytes(), &epoch]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_use_share_and_epoch_has_a_key_of_its_own() {
        let same = || Secret32::from_bytes([7; 32]);
        let mut all = Vec::new();
        for share in [ShareId::from_bytes([1; 16]), ShareId::from_bytes([2; 16])] {
            let mut keys = ShareKeys::new(share, same());
            keys.insert(Epoch(2), same());
            for e in [Epoch(1), Epoch(2)] {
                for id in [[3; 16], [4; 16]] {
                    all.push(keys.page_key(e, &LineageId::from_bytes(id)).unwrap());
                    all.push(keys.name_key(e, &NodeId::from_bytes(id)).unwrap());
                }
                all.push(keys.header_key(e).unwrap());
                all.push(keys.locator_key(e).unwrap());
                all.push(keys.xattr_key(e).unwrap());
                all.push(keys.attrs_key(e).unwrap());
                all.push(keys.list_key(e).unwrap());
            }
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().map(|k| *k.expose()).collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn an_epoch_without_a_key_gives_none_and_a_held_key_stays() {
        let mut keys = ShareKeys::create(ShareId::random());
        assert!(keys.header_key(Epoch(2)).is_none());
        let first = keys.header_key(Epoch(1)).unwrap();
        keys.insert(Epoch(1), Secret32::random());
        assert!(keys.header_key(Epoch(1)).unwrap() == first);
        keys.insert(Epoch(9), Secret32::random());
        assert_eq!(keys.current(), Epoch(9));
        assert_eq!(keys.epochs().collect::<Vec<_>>(), [Epoch(1), Epoch(9)]);
    }

    #[test]
    fn vectors() {
        let mut keys = ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]));
        keys.insert(Epoch(0x1_0203), Secret32::from_bytes([3; 32]));
        let hex = |key: Option<Secret32>| crate::vectors::hex(key.unwrap().expose());
        let made = keys.epochs().map(|e| {
            serde_json::json!({
                "epoch": e.0,
                "page, lineage 04..": hex(keys.page_key(e, &LineageId::from_bytes([4; 16]))),
                "header": hex(keys.header_key(e)),
                "name, folder 05..": hex(keys.name_key(e, &NodeId::from_bytes([5; 16]))),
                "locator": hex(keys.locator_key(e)),
                "xattr": hex(keys.xattr_key(e)),
                "attrs": hex(keys.attrs_key(e)),
                "list": hex(keys.list_key(e)),
            })
        });
        let about = "share 01.., key of epoch 1 02.., of epoch 66051 03..";
        crate::vectors::check("share", serde_json::json!({ "about": about, "keys": made.collect::<Vec<_>>() }));
    }
}
