//! The names that the parts of kith give to things: ids, epochs, roots, hashes, and the clear form of a sealed name.
//!
//! All of them are plain bytes that may be shown to anyone; what is secret lives in [`crate::secret`].

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// A text that is no valid id, name or hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not valid: {why}")]
pub struct BadId {
    pub what: &'static str,
    pub why: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            pub const LEN: usize = $len;

            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// From the operating system's randomness.
            pub fn random() -> Self {
                Self(crate::secret::random_bytes())
            }

            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            pub fn from_slice(bytes: &[u8]) -> Result<Self, BadId> {
                bytes.try_into().map(Self).map_err(|_| BadId { what: $what, why: "wrong length" })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &HEXLOWER.encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| BadId { what: $what, why: "not lower-case hex" })?;
                Self::from_slice(&bytes)
            }
        }
    };
}

id!(
    /// A vault: one store of one device, its keyring and its slots.
    VaultId, 16, "vault id"
);
id!(
    /// A subtree with members; the root of a vault is one too.
    ShareId, 16, "share id"
);
id!(
    /// A file, folder or symlink through all its renames.
    NodeId, 16, "node id"
);
id!(
    /// One ciphertext file; saving by rename gives a node another one.
    FileId, 16, "file id"
);
id!(
    /// What page keys derive from; clones of one ciphertext share it.
    LineageId, 16, "lineage id"
);
id!(
    /// A device: its Ed25519 public key.
    DeviceId, 32, "device id"
);
id!(
    /// An account: the Ed25519 public key that names its admins, see [`crate::account`].
    AccountId, 32, "account id"
);
id!(
    /// One life of a device's log; a restored backup begins another.
    Incarnation, 8, "incarnation"
);
id!(
    /// The hash by which a record is named.
    RecordHash, 32, "record hash"
);
id!(
    /// The root of a ciphertext's BLAKE3 tree, see [`crate::root`].
    Root, 32, "root"
);
id!(
    /// The keyed hash of (folder node, name, file id) that ties an entry to its place.
    Locator, 16, "locator"
);

impl NodeId {
    /// The node of a share's topmost folder: it has the share's own bytes.
    pub fn root_of(share: ShareId) -> Self {
        Self(share.0)
    }
}

/// The number of a share's key; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const FIRST: Epoch = Epoch(1);
}

/// A sealed name as it stands in a folder of the store: 1 to 255 bytes of the base64url alphabet.
///
/// A name that begins with `.` belongs to the store itself and is none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Debug)]
pub struct StoreName(String);

impl StoreName {
    pub const MAX: usize = 255;

    pub fn parse(text: &str) -> Result<Self, BadId> {
        let bad = |why| Err(BadId { what: "sealed name", why });
        if text.is_empty() {
            return bad("empty");
        }
        if text.len() > Self::MAX {
            return bad("longer than 255 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return bad("a byte outside base64url");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StoreName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outside_the_alphabet_is_refused() {
        for bad in ["", ".", "..", "a/b", ".kith-00", "a\0b", "a=", "ü"] {
            assert!(StoreName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(StoreName::parse(&"a".repeat(255)).is_ok());
        assert!(StoreName::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = NodeId::random();
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        assert!("00".parse::<NodeId>().is_err());
    }
}
