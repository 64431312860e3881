//! Locators: 16 bytes in a header that tie it to its place, so that what was moved or swapped without a key is
//! refused (kith-store(5), "Locators"). They count as zero in a ciphertext's root: a rename changes no content.

use keymgr::ids::{Epoch, FileId, Locator, NodeId};
use keymgr::share::ShareKeys;

use super::VERSION;

/// What no place has: the locator of a header that was not linked yet, and of a share's topmost folder.
pub const NOWHERE: Locator = Locator::from_bytes([0; 16]);

/// Where a file with more than one link keeps the locators of its other links: an extended attribute of the
/// ciphertext file, 16 bytes each, in ascending order.
pub const OTHERS: &str = "user.kith.locators";

/// The locator of the entry `name` (plaintext) in the folder `parent`. `epoch` is that of the entry's sealed name
/// ([`super::name::epoch_of`]); `id` is the file id of a file, or the node id of a folder.
pub fn locate(keys: &ShareKeys, epoch: Epoch, parent: &NodeId, name: &[u8], id: &[u8; 16]) -> Option<Locator> {
    let key = keys.locator_key(epoch)?;
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher.update(&[VERSION]);
    hasher.update(parent.as_bytes());
    hasher.update(id);
    hasher.update(name);
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    Some(Locator::from_bytes(out))
}

/// [`locate`] for a file.
pub fn of_file(keys: &ShareKeys, epoch: Epoch, parent: &NodeId, name: &[u8], file: &FileId) -> Option<Locator> {
    locate(keys, epoch, parent, name, file.as_bytes())
}

/// [`locate`] for a folder.
pub fn of_folder(keys: &ShareKeys, epoch: Epoch, parent: &NodeId, name: &[u8], node: &NodeId) -> Option<Locator> {
    locate(keys, epoch, parent, name, node.as_bytes())
}
