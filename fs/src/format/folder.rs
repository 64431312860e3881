//! A folder's header file `.kith-NODE`, and which names in a folder of the store belong to the store itself
//! (kith-store(5), "Folders").

use keymgr::ids::{BadId, NodeId, StoreName};

pub use super::header::FolderHeader;

const HEADER: &str = ".kith-";
const SIDECAR: &str = ".kith-name-";
const ASIDE: &str = ".kith-tmp-";

/// The file that holds the header of `node`.
pub fn header_name(node: &NodeId) -> String {
    format!("{HEADER}{node}")
}

/// The file that holds what is too long for `name` itself.
pub fn sidecar_name(name: &StoreName) -> String {
    // The hash form of a name is 38 bytes, so this fits any file system.
    format!("{SIDECAR}{name}")
}

/// A name for a file that is written aside before it is renamed to its place. Left over ones are removed at will.
pub fn aside_name(unique: u128) -> String {
    format!("{ASIDE}{unique:032x}")
}

/// What a name in a folder of the store stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    /// A folder's header.
    Header(NodeId),
    /// The sidecar of a long name.
    Sidecar(StoreName),
    /// A leftover of a write aside.
    Aside,
    /// A sealed name.
    Entry(StoreName),
}

/// Sorts a name that a folder of the store shows; what kith never writes is refused.
pub fn sort(name: &[u8]) -> Result<Stored, BadId> {
    let text = std::str::from_utf8(name).map_err(|_| BadId { what: "name in the store", why: "not ASCII" })?;
    if let Some(rest) = text.strip_prefix(SIDECAR) {
        StoreName::parse(rest).map(Stored::Sidecar)
    } else if text.starts_with(ASIDE) {
        Ok(Stored::Aside)
    } else if let Some(rest) = text.strip_prefix(HEADER) {
        rest.parse().map(Stored::Header)
    } else {
        StoreName::parse(text).map(Stored::Entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_store_are_sorted_or_refused() {
        let node = NodeId::from_bytes([0xab; 16]);
        let name = StoreName::parse("abc_-9").unwrap();
        assert_eq!(sort(header_name(&node).as_bytes()), Ok(Stored::Header(node)));
        assert_eq!(sort(sidecar_name(&name).as_bytes()), Ok(Stored::Sidecar(name.clone())));
        assert_eq!(sort(aside_name(7).as_bytes()), Ok(Stored::Aside));
        assert_eq!(sort(b"abc_-9"), Ok(Stored::Entry(name)));
        for bad in [&b".kith-xyz"[..], b".hidden", b"..", b".kith-name-", b"a/b", b"\xff", b"lost+found"] {
            assert!(sort(bad).is_err(), "{bad:?}");
        }
    }
}
