//! The epoch tag: four bytes by which a page, a name or an attribute says which of the share's keys seals it.
//!
//! It is a hash of share and epoch, not the number: when a folder becomes a share of its own its files keep pages
//! of the former share, and the tags of both must not be confused (kith-store(5), "Epoch tags").

use keymgr::ids::{Epoch, ShareId};
use keymgr::share::ShareKeys;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EpochTag(pub [u8; 4]);

impl EpochTag {
    pub const LEN: usize = 4;

    pub fn of(share: ShareId, epoch: Epoch) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 epoch tag");
        hasher.update(share.as_bytes());
        hasher.update(&epoch.0.to_le_bytes());
        let mut tag = [0; 4];
        hasher.finalize_xof().fill(&mut tag);
        Self(tag)
    }

    pub fn current(keys: &ShareKeys) -> Self {
        Self::of(keys.share(), keys.current())
    }

    /// The epochs of `keys` that have this tag: mostly one or none.
    pub fn epochs(self, keys: &ShareKeys) -> impl Iterator<Item = Epoch> {
        let share = keys.share();
        keys.epochs().filter(move |epoch| Self::of(share, *epoch) == self)
    }
}
