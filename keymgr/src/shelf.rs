//! A share's shelf: the records of its epochs, and their keys wrapped for each device. It travels like the lists, and
//! everyone keeps it, also who holds no key: it is how a device that was away, or is new, comes by the newest key.
//!
//! A set that only grows but for wraps that nobody needs any more. An epoch that no other follows is a *tip* (two
//! admins may make one at once); who holds the tips' keys opens everything older. Every wrap is signed by its maker, so
//! that a false one never takes the place of a true one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::circle::Circle;
use crate::device::{self, DeviceKeys, Domain, Signature};
use crate::devices::Listed;
use crate::epoch::{self, EpochRecord, Error, Wrapped};
use crate::ids::{DeviceId, Epoch, ShareId};
use crate::share::ShareKeys;

const FORMAT: u8 = 1;
/// Of a shelf as bytes; a wrap is some 1300.
pub const MAX_BYTES: usize = 8 << 20;
/// Of one maker.
const MAX_RECORDS: usize = 256;
/// Of one maker that is no admin any more, beside what newer ones follow.
const MAX_STRAY: usize = 8;
/// Of one key for one device.
const MAX_WRAPS: usize = 8;

type Hash = [u8; 32];

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SignedWrap {
    wrapped: Wrapped,
    signature: Signature,
}

/// Of which record, for whom, by whom.
type Key = (Hash, DeviceId, DeviceId);

#[derive(Clone, PartialEq, Eq)]
pub struct Shelf {
    share: ShareId,
    records: BTreeMap<Hash, EpochRecord>,
    wraps: BTreeMap<Key, SignedWrap>,
}

impl Shelf {
    pub fn empty(share: ShareId) -> Self {
        Self { share, records: BTreeMap::new(), wraps: BTreeMap::new() }
    }

    /// Of a new share: its first epoch, for every device of the circle that may have its key.
    pub fn first(keys: &ShareKeys, admin: &DeviceKeys, circle: &Circle) -> Result<Self, Error> {
        let mut shelf = Self::empty(keys.share());
        let record = EpochRecord::first(keys, admin, circle)?;
        shelf.records.insert(record.hash(), record);
        shelf.wrap_for_all(keys, admin, circle);
        Ok(shelf)
    }

    /// A new epoch, whose key those get who are in the circle now; `keys` hold it from then on. It follows the newest
    /// whose key is here, whoever made that: what was written under it in good faith stays readable.
    pub fn next(&mut self, keys: &mut ShareKeys, admin: &DeviceKeys, circle: &Circle) -> Result<Epoch, Error> {
        let newest = self.newest_held(keys).ok_or(Error::NoKey)?;
        let record = newest.next(keys, admin, circle)?;
        let epoch = record.epoch();
        self.records.insert(record.hash(), record);
        keys.write_under(epoch);
        self.tidy(circle);
        self.wrap_for_all(keys, admin, circle);
        Ok(epoch)
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Two devices with the same one have the same.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::Hasher::new_derive_key("kith.v1 shelf hash").update(&self.to_bytes()).finalize().as_bytes()
    }

    /// Takes what the other has: records that an admin of the owner made or once could have made, wraps that a device
    /// of the circle made which may have the key. Says whether anything was new.
    pub fn merge(&mut self, other: &Self, circle: &Circle) -> bool {
        if other.share != self.share {
            return false;
        }
        let before = self.clone();
        for (hash, record) in &other.records {
            if circle.was_admin(&record.author()) {
                self.records.entry(*hash).or_insert_with(|| record.clone());
            }
        }
        for (key, wrap) in &other.wraps {
            let (_, to, by) = key;
            let holds = |device: &DeviceId| circle.get(device).is_some_and(|seat| seat.access.has_keys());
            if holds(to) && holds(by) {
                self.wraps.entry(*key).or_insert_with(|| wrap.clone());
            }
        }
        self.tidy(circle);
        *self != before
    }

    /// Devices that ought to have the keys of all tips and have no wrap of one by a device of the owner or by `me`,
    /// who holds it: [`Shelf::wrap_for`] is for these.
    pub fn lacking(&self, me: &DeviceId, keys: &ShareKeys, circle: &Circle) -> Vec<DeviceId> {
        let tips: Vec<Hash> = self.tips().filter(|r| r.is_opened_by(keys)).map(EpochRecord::hash).collect();
        let owners = |by: &DeviceId| circle.get(by).is_some_and(|seat| seat.account == circle.owner());
        let lacks = |to: &DeviceId| {
            !tips.iter().all(|tip| {
                let mut wraps = self.wraps.range((*tip, *to, DeviceId::from_bytes([0; 32]))..);
                wraps
                    .by_ref()
                    .map(|(key, _)| key)
                    .take_while(|(t, d, _)| t == tip && d == to)
                    .any(|(.., by)| by == me || owners(by))
            })
        };
        let seats = circle.devices().filter(|seat| seat.access.has_keys()).map(|seat| seat.listed.public.id);
        seats.filter(|id| id != me && lacks(id)).collect()
    }

    /// Wraps every tip's key that is held for this device.
    pub fn wrap_for(&mut self, keys: &ShareKeys, by: &DeviceKeys, to: &Listed) -> Result<(), Error> {
        let tips: Vec<EpochRecord> = self.tips().filter(|r| r.is_opened_by(keys)).cloned().collect();
        for record in tips {
            let wrapped = epoch::wrap(keys, &record, to)?;
            let key = (record.hash(), to.public.id, by.id());
            let signature = by.sign(Domain::Wrap, &signed(&key, &wrapped));
            self.wraps.insert(key, SignedWrap { wrapped, signature });
        }
        Ok(())
    }

    fn wrap_for_all(&mut self, keys: &ShareKeys, by: &DeviceKeys, circle: &Circle) {
        for seat in circle.devices().filter(|seat| seat.access.has_keys()) {
            // A device whose key is not valid was refused by the list.
            let _ = self.wrap_for(keys, by, seat.listed);
        }
    }

    /// Opens what is for this device and everything older, and says under which epoch to write. Whether any key is new.
    pub fn open(&self, device: &DeviceKeys, circle: &Circle, keys: &mut ShareKeys) -> bool {
        let mut learned = false;
        let mut newest_first: Vec<&EpochRecord> = self.records.values().collect();
        newest_first.sort_by_key(|r| std::cmp::Reverse((r.epoch(), r.hash())));
        for record in newest_first.iter().copied() {
            if !record.is_opened_by(keys) {
                let of = |key: &&Key| key.0 == record.hash() && key.1 == device.id();
                for key in self.wraps.keys().filter(of) {
                    let wrap = self.wraps.get(key).and_then(|w| epoch::unwrap(device, record, &w.wrapped).ok());
                    if let Some(key) = wrap {
                        keys.insert(record.epoch(), key);
                        learned = true;
                        break;
                    }
                }
            }
            let older = newest_first.iter().find(|older| record.follows(older));
            if let Some(older) = older
                && !older.is_opened_by(keys)
            {
                learned |= record.open_previous(older, keys).is_ok();
            }
        }
        if let Some(newest) = self.newest(circle) {
            keys.write_under(newest.epoch());
        }
        learned
    }

    /// Whether an admin has to make a new epoch: someone is gone since the newest one, or there is none that counts.
    pub fn is_outdated(&self, circle: &Circle) -> bool {
        self.newest(circle).is_none_or(|record| record.is_outdated(circle))
    }

    /// The epoch under which to write.
    pub fn current(&self, circle: &Circle) -> Option<Epoch> {
        self.newest(circle).map(EpochRecord::epoch)
    }

    fn newest(&self, circle: &Circle) -> Option<&EpochRecord> {
        let by_admin = self.records.values().filter(|r| r.is_by_admin(circle));
        by_admin.max_by_key(|r| (r.epoch(), r.hash()))
    }

    fn newest_held(&self, keys: &ShareKeys) -> Option<&EpochRecord> {
        let held = self.records.values().filter(|r| r.is_opened_by(keys));
        held.max_by_key(|r| (r.epoch(), r.hash()))
    }

    fn tips(&self) -> impl Iterator<Item = &EpochRecord> {
        self.records.values().filter(|r| !self.records.values().any(|newer| newer.follows(r)))
    }

    /// Drops what floods, and wraps of keys that a newer one gives.
    fn tidy(&mut self, circle: &Circle) {
        let mut of: BTreeMap<DeviceId, Vec<(Epoch, Hash)>> = BTreeMap::new();
        let followed: BTreeSet<Hash> = {
            let by_admin: Vec<&EpochRecord> = self.records.values().filter(|r| r.is_by_admin(circle)).collect();
            let mut followed: BTreeSet<Hash> = BTreeSet::new();
            let mut queue = by_admin;
            while let Some(newer) = queue.pop() {
                if let Some(older) = self.records.values().find(|older| newer.follows(older))
                    && followed.insert(older.hash())
                {
                    queue.push(older);
                }
            }
            followed
        };
        for (hash, record) in self.records.iter().filter(|(hash, _)| !followed.contains(*hash)) {
            of.entry(record.author()).or_default().push((record.epoch(), *hash));
        }
        for (author, mut own) in of {
            let most = if circle.is_admin(&author) { MAX_RECORDS } else { MAX_STRAY };
            own.sort_unstable();
            for (_, hash) in own.iter().skip(most) {
                self.records.remove(hash);
            }
        }
        let tips: BTreeSet<Hash> = self.tips().map(EpochRecord::hash).collect();
        self.wraps.retain(|(record, ..), _| tips.contains(record));
        let mut makers: BTreeMap<(Hash, DeviceId), Vec<(bool, DeviceId)>> = BTreeMap::new();
        for (record, to, by) in self.wraps.keys() {
            let others = circle.get(by).is_none_or(|seat| seat.account != circle.owner());
            makers.entry((*record, *to)).or_default().push((others, *by));
        }
        for ((record, to), mut by) in makers {
            by.sort_unstable();
            for (_, by) in by.into_iter().skip(MAX_WRAPS) {
                self.wraps.remove(&(record, to, by));
            }
        }
    }

    /// Equal shelves give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            format: FORMAT,
            share: self.share,
            records: self.records.values().map(EpochRecord::to_bytes).collect(),
            wraps: self.wraps.iter().map(|(key, wrap)| (*key, wrap.clone())).collect(),
        };
        postcard::to_allocvec(&wire).unwrap_or_default()
    }

    /// Shapes and signatures. Who may have made what is asked when it is merged ([`Shelf::merge`]): what is read from
    /// the disk too is merged into an empty one.
    pub fn parse(bytes: &[u8], share: &ShareId) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Damaged);
        }
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(0) | None => return Err(Error::Damaged),
            Some(newer) => return Err(Error::Newer(*newer)),
        }
        let Ok((wire, [])) = postcard::take_from_bytes::<Wire>(bytes) else { return Err(Error::Damaged) };
        if wire.share != *share {
            return Err(Error::OtherShare);
        }
        let mut shelf = Self::empty(*share);
        for bytes in wire.records {
            let record = EpochRecord::parse(&bytes)?;
            if record.share() != *share {
                return Err(Error::OtherShare);
            }
            shelf.records.insert(record.hash(), record);
        }
        for (key, wrap) in wire.wraps {
            if !device::verify(&key.2, Domain::Wrap, &signed(&key, &wrap.wrapped), &wrap.signature) {
                return Err(Error::Forged);
            }
            shelf.wraps.insert(key, wrap);
        }
        Ok(shelf)
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let epochs: Vec<_> = self.records.values().map(EpochRecord::epoch).collect();
        f.debug_struct("Shelf").field("epochs", &epochs).field("wraps", &self.wraps.len()).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u8,
    share: ShareId,
    records: Vec<Vec<u8>>,
    wraps: Vec<(Key, SignedWrap)>,
}

fn signed((record, to, by): &Key, wrapped: &Wrapped) -> Vec<u8> {
    let wrapped = postcard::to_allocvec(wrapped).unwrap_or_default();
    [record.as_slice(), to.as_bytes(), by.as_bytes(), &wrapped].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountKey;
    use crate::device::DeviceSecrets;
    use crate::devices::{DeviceList, Role};
    use crate::secret::Secret32;

    /// A wrap has randomness of its own, so what is frozen is read, not made.
    #[test]
    fn a_frozen_shelf_is_read() {
        let device = DeviceKeys::from_secrets(&DeviceSecrets { sign: [1; 32], tls: [2; 32], receive: [3; 32] });
        let account = AccountKey::from_secret(&Secret32::from_bytes([4; 32]));
        let listed = Listed::new(device.public(), Role::Full, "laptop", "", 1);
        let circle = Circle::of_account(DeviceList::create(&account, &device, listed).unwrap());
        let share = ShareId::from_bytes([5; 16]);
        let frozen = crate::vectors::frozen("shelf");
        let bytes = data_encoding::HEXLOWER.decode(frozen["bytes"].as_str().unwrap().as_bytes()).unwrap();
        let shelf = Shelf::parse(&bytes, &share).unwrap();
        assert_eq!(shelf.to_bytes(), bytes);
        assert_eq!(crate::vectors::hex(&shelf.hash()), frozen["hash"].as_str().unwrap());
        let mut keys = ShareKeys::empty(share);
        assert!(shelf.open(&device, &circle, &mut keys));
        assert_eq!(keys.epochs().map(|e| u64::from(e.0)).collect::<Vec<_>>(), [1, frozen["epoch"].as_u64().unwrap()]);
        assert!(keys.key(Epoch::FIRST).unwrap() == &Secret32::from_bytes([6; 32]));
        let current = keys.key(keys.current()).unwrap();
        assert_eq!(crate::vectors::hex(current.expose()), frozen["key"].as_str().unwrap());
    }
}
