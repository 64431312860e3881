//! keymgr: ids, keys, slots, the keyring, device lists. Knows no file system and no network.

pub mod account;
pub mod circle;
pub mod contacts;
pub mod device;
pub mod devices;
pub mod durable;
pub mod epoch;
pub mod ids;
pub mod keyring;
pub mod members;
pub mod root;
mod seal;
pub mod secret;
pub mod share;
pub mod shelf;
pub mod slot;
pub mod vault;
#[cfg(test)]
mod vectors;
