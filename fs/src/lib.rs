//! fs: files in, ciphertext out. The store format, the volume that works on it, and the mount.

pub mod content;
pub mod format;
pub mod mount;
pub mod observe;
pub mod records;
pub mod session;
pub mod store;
pub mod volume;
