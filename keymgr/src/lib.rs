//! keymgr: ids, keys, slots, the keyring, device lists. Knows no file system and no network.

pub mod account;
pub mod device;
pub mod devices;
pub mod durable;
pub mod epoch;
pub mod ids;
pub mod keyring;
pub mod root;
mod seal;
pub mod secret;
pub mod share;
pub mod slot;
pub mod vault;
#[cfg(test)]
mod vectors;
