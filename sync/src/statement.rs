//! What a device signs besides records: how far it has read (its heads), and what it holds of all that (a snapshot).
//! kith-protocol(7), "Signed heads" and "Snapshots".

use keymgr::device::{self, DeviceKeys, Domain, Signature};
use keymgr::ids::{DeviceId, Incarnation, RecordHash, ShareId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::engine::Heads;

/// No statement is longer: heads of some thousand authors.
pub const MAX_STATEMENT: usize = 240 * 1024;
const VERSION: u8 = 1;
const SIGNATURE: usize = 64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("is not well formed")]
    Malformed,
    #[error("is of a version that is not known here")]
    Version,
    #[error("is of another share")]
    OtherShare,
    #[error("has a false signature")]
    Forged,
}

/// A device's word on how far it has read each author's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    version: u8,
    pub share: ShareId,
    pub device: DeviceId,
    pub incarnation: Incarnation,
    /// Greater in each one that the device signs: seconds since 1970, or one more than before.
    pub number: u64,
    pub heads: Heads,
}

/// What somebody who lacks too much is given in place of the logs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    version: u8,
    pub share: ShareId,
    pub device: DeviceId,
    /// The same as of [`Seen`]: it is not older than those.
    pub number: u64,
    /// How far the records that follow go; what lies under the floor and is not among them is gone.
    pub heads: Heads,
    pub floor: Heads,
    /// How many records follow, and the hash of their hashes in that order.
    pub count: u64,
    pub records: [u8; 32],
    /// Whether the device vouches that nothing else is held: a full one that knows all itself.
    pub whole: bool,
}

/// A statement as it was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed<T> {
    bytes: Vec<u8>,
    says: T,
}

/// What may be signed, in which domain.
pub trait Statement: Serialize + DeserializeOwned {
    const DOMAIN: Domain;
    fn front(&self) -> (u8, ShareId, DeviceId);
}

impl Statement for Seen {
    const DOMAIN: Domain = Domain::Heads;
    fn front(&self) -> (u8, ShareId, DeviceId) {
        (self.version, self.share, self.device)
    }
}

impl Statement for Snapshot {
    const DOMAIN: Domain = Domain::Snapshot;
    fn front(&self) -> (u8, ShareId, DeviceId) {
        (self.version, self.share, self.device)
    }
}

impl Seen {
    pub fn new(share: ShareId, device: DeviceId, incarnation: Incarnation, number: u64, heads: Heads) -> Self {
        Self { version: VERSION, share, device, incarnation, number, heads }
    }
}

impl Snapshot {
    /// Of these records, in this order.
    pub fn new(
        (share, device, number): (ShareId, DeviceId, u64),
        heads: Heads,
        floor: Heads,
        records: &[RecordHash],
        whole: bool,
    ) -> Self {
        let mut sum = Sum::default();
        records.iter().for_each(|hash| sum.add(hash));
        let count = records.len() as u64;
        Self { version: VERSION, share, device, number, heads, floor, count, records: sum.end(), whole }
    }
}

impl<T: Statement> Signed<T> {
    /// `None` where it is longer than any may be.
    pub fn sign(keys: &DeviceKeys, says: T) -> Option<Self> {
        let mut bytes = postcard::to_stdvec(&says).ok()?;
        let signature = keys.sign(T::DOMAIN, &bytes);
        bytes.extend_from_slice(signature.as_bytes());
        (bytes.len() <= MAX_STATEMENT).then_some(Self { bytes, says })
    }

    /// Strict, and the signature checked: whether the device may say it is for the device list.
    pub fn open(bytes: &[u8], share: ShareId) -> Result<Self, Error> {
        if bytes.len() > MAX_STATEMENT {
            return Err(Error::Malformed);
        }
        let at = bytes.len().checked_sub(SIGNATURE).ok_or(Error::Malformed)?;
        let (signed, signature) = bytes.split_at(at);
        if signed.first() != Some(&VERSION) {
            return Err(Error::Version);
        }
        let says: T = postcard::from_bytes(signed).map_err(|_| Error::Malformed)?;
        if postcard::to_stdvec(&says).ok().as_deref() != Some(signed) {
            return Err(Error::Malformed);
        }
        let (_, of, device) = says.front();
        if of != share {
            return Err(Error::OtherShare);
        }
        let signature = Signature::from_bytes(signature.try_into().map_err(|_| Error::Malformed)?);
        if !device::verify(&device, T::DOMAIN, signed, &signature) {
            return Err(Error::Forged);
        }
        Ok(Self { bytes: bytes.to_vec(), says })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn says(&self) -> &T {
        &self.says
    }
}

/// The hash of a run of record hashes.
pub struct Sum(blake3::Hasher);

impl Default for Sum {
    fn default() -> Self {
        Self(blake3::Hasher::new_derive_key("kith.v1 snapshot records"))
    }
}

impl Sum {
    pub fn add(&mut self, hash: &RecordHash) {
        self.0.update(hash.as_bytes());
    }

    pub fn end(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_counts_for_its_device_share_and_kind_only() {
        let keys = DeviceKeys::generate();
        let (share, other) = (ShareId::from_bytes([1; 16]), ShareId::from_bytes([2; 16]));
        let seen = Seen::new(share, keys.id(), Incarnation::from_bytes([3; 8]), 7, Heads::default());
        let signed = Signed::sign(&keys, seen.clone()).unwrap();
        assert_eq!(Signed::<Seen>::open(signed.bytes(), share).unwrap().says(), &seen);
        assert_eq!(Signed::<Seen>::open(signed.bytes(), other), Err(Error::OtherShare));
        assert!(Signed::<Snapshot>::open(signed.bytes(), share).is_err());
        for i in 0..signed.bytes().len() {
            let mut bad = signed.bytes().to_vec();
            bad[i] ^= 1;
            assert!(Signed::<Seen>::open(&bad, share).is_err(), "byte {i}");
            assert!(Signed::<Seen>::open(&bad[..i], share).is_err(), "cut at {i}");
        }
        let long = [signed.bytes(), &[0]].concat();
        assert!(Signed::<Seen>::open(&long, share).is_err());
        let thief = Seen::new(share, keys.id(), Incarnation::from_bytes([3; 8]), 8, Heads::default());
        let thief = Signed::sign(&DeviceKeys::generate(), thief).unwrap();
        assert_eq!(Signed::<Seen>::open(thief.bytes(), share), Err(Error::Forged));
    }
}
