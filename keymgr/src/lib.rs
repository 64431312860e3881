//! keymgr: ids, keys, slots, the keyring, device lists. Knows no file system and no network.

pub mod device;
pub mod devices;
pub mod epoch;
pub mod ids;
pub mod root;
pub mod secret;
pub mod share;
pub mod vault;
