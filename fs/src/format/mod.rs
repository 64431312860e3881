//! Format version 1 of the store, piece by piece: what kith-store(5) specifies, as types that cannot hold anything else.
//!
//! Nothing here touches a disk. [`crate::content`] puts the pieces into files.

pub mod attrs;
pub mod folder;
pub mod header;
pub mod length;
pub mod locator;
pub mod name;
pub mod page;
pub mod seal;
pub mod tag;
pub mod xattr;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod vectors;

/// The format's version, in every piece that authenticates.
pub const VERSION: u8 = 1;
/// Bytes of a page on the disk.
pub const PAGE: usize = 4096;
/// Bytes of a header: the first of page 0, and all of a `.kith-NODE`.
pub const HEADER: usize = 256;

/// Why a piece of the store is refused. What the piece was and where it lies is added by whoever read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is not of format version 1")]
    Version,
    #[error("it does not authenticate: it was damaged, changed, or moved from elsewhere")]
    Forged,
    #[error("its layout is not one that kith writes")]
    Layout,
    #[error("it belongs to another share")]
    Share,
    #[error("it is sealed under an epoch whose key this device does not hold")]
    NoKey,
    #[error("it does not belong to this place")]
    Place,
    #[error("its name is not one that a file can have")]
    Name,
    #[error("it lies in a sidecar that is missing")]
    Sidecar,
    #[error("it is too long")]
    TooLong,
}

/// The first `N` bytes of `bytes` from `at` on, or [`Refused::Layout`].
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Refused> {
    bytes.get(at..at + N).and_then(|piece| piece.try_into().ok()).ok_or(Refused::Layout)
}
