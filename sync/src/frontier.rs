//! The durable frontier of a log folder, `records/SHARE/frontier`: how far every author was read when records were last
//! forgotten, the floor under which they were, and which records count no more though a log may still have them.
//!
//! It is durable before any log is written anew, and read before they are: whatever a crash leaves, the logs and it
//! together say what they said before. Signed by the device itself: who has the disk cannot make one.

use std::collections::HashSet;
use std::path::Path;

use keymgr::device::{self, DeviceKeys, Domain, Signature};
use keymgr::durable;
use keymgr::ids::{DeviceId, RecordHash, ShareId};
use serde::{Deserialize, Serialize};

use crate::engine::Heads;

const NAME: &str = "frontier";
/// In front of what is signed: no snapshot that travels begins like this.
const VERSION: u8 = 0x81;
/// Some millions of records that wait to be dropped.
const MAX: u64 = 256 << 20;
const SIGNATURE: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    pub heads: Heads,
    pub floor: Heads,
    /// Records that count no more.
    pub gone: HashSet<RecordHash>,
    /// Records that were replaced by what was forgotten, and that count as long as nothing else can be shown.
    pub doomed: Vec<RecordHash>,
    /// What is held came from a blind device's snapshot, and no full device has confirmed yet that it is all.
    pub unconfirmed: bool,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u8,
    share: ShareId,
    device: DeviceId,
    heads: Heads,
    floor: Heads,
    gone: Vec<RecordHash>,
    doomed: Vec<RecordHash>,
    unconfirmed: bool,
}

impl Frontier {
    /// What is there; an empty one where there is none, or none of this device: then the logs end under the heads of the
    /// mark, as where an older store was put back, and the other devices bring what lacks.
    pub fn load(dir: &Path, share: ShareId, me: &DeviceId) -> Result<Self, durable::Error> {
        let path = dir.join(NAME);
        let bytes = match durable::load(&path, MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        match Self::parse(&bytes, share, me) {
            Some(frontier) => Ok(frontier),
            None => {
                tracing::warn!("{}: not written by this device, or changed; left out", path.display());
                Ok(Self::default())
            }
        }
    }

    fn parse(bytes: &[u8], share: ShareId, me: &DeviceId) -> Option<Self> {
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        let signature = Signature::from_bytes(signature.try_into().ok()?);
        if signed.first() != Some(&VERSION) || !device::verify(me, Domain::Snapshot, signed, &signature) {
            return None;
        }
        let Ok((wire, [])) = postcard::take_from_bytes::<Wire>(signed) else { return None };
        let Wire { share: of, device, heads, floor, gone, doomed, unconfirmed, .. } = wire;
        let ours = of == share && device == *me;
        ours.then(|| Self { heads, floor, gone: gone.into_iter().collect(), doomed, unconfirmed })
    }

    /// Durable when this returns.
    pub fn save(&self, dir: &Path, share: ShareId, keys: &DeviceKeys) -> Result<(), durable::Error> {
        let mut gone: Vec<RecordHash> = self.gone.iter().copied().collect();
        gone.sort_unstable();
        let wire = Wire {
            version: VERSION,
            share,
            device: keys.id(),
            heads: self.heads.clone(),
            floor: self.floor.clone(),
            gone,
            doomed: self.doomed.clone(),
            unconfirmed: self.unconfirmed,
        };
        let mut bytes = postcard::to_stdvec(&wire).unwrap_or_default();
        let signature = keys.sign(Domain::Snapshot, &bytes);
        bytes.extend_from_slice(signature.as_bytes());
        durable::save(&dir.join(NAME), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_a_frontier_of_another_device_or_share_or_changed_is_none() {
        let (dir, keys) = (tempfile::tempdir().unwrap(), DeviceKeys::generate());
        let (share, other) = (ShareId::from_bytes([1; 16]), ShareId::from_bytes([2; 16]));
        let frontier = Frontier { gone: HashSet::from([RecordHash::from_bytes([3; 32])]), ..Frontier::default() };
        frontier.save(dir.path(), share, &keys).unwrap();
        assert_eq!(Frontier::load(dir.path(), share, &keys.id()).unwrap(), frontier);
        assert_eq!(Frontier::load(dir.path(), other, &keys.id()).unwrap(), Frontier::default());
        let stranger = DeviceKeys::generate().id();
        assert_eq!(Frontier::load(dir.path(), share, &stranger).unwrap(), Frontier::default());
        let path = dir.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(Frontier::load(dir.path(), share, &keys.id()).unwrap(), Frontier::default(), "byte {i}");
        }
    }
}
