//! Epochs: the signed record of a share's key, and the key wrapped to each device.
//!
//! A record commits to its key, names the record before it by hash and seals that one's key under its own, so that
//! who is given the newest key reads everything older. It is signed by an admin; an older record counts because a
//! newer one names it, even when its maker was removed since. A wrap (X-Wing, then AES-256-GCM-SIV) is bound to
//! share, epoch and device; it needs no signature, since a key other than the committed one is refused.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use x_wing::{Decapsulate, Encapsulate};
use zeroize::Zeroize;

use crate::circle::Circle;
use crate::device::{self, DeviceKeys, Domain, Signature};
use crate::devices::{Listed, Role};
use crate::ids::{DeviceId, Epoch, ShareId};
use crate::seal;
use crate::secret::Secret32;
use crate::share::ShareKeys;

const FORMAT: u8 = 1;
const MAX_BYTES: usize = 4096;
/// Rounds from one epoch to the next: so a stolen admin cannot use up all numbers. Honest ones leap where two chains
/// of epochs were made apart.
const MAX_LEAP: u32 = 16;

/// Why an epoch's record or a wrap is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not an epoch record or wrap, or damaged")]
    Damaged,
    #[error("the epoch record's format {0} is newer than this program; use a newer kith")]
    Newer(u8),
    #[error("the epoch record's signature is false")]
    Forged,
    #[error("the epoch was made by a device that is no admin")]
    NotAdmin,
    #[error("the key is not the one that the epoch record commits to")]
    WrongKey,
    #[error("a blind device gets no key")]
    Blind,
    #[error("this device holds no key of the epoch")]
    NoKey,
    #[error("the epoch record belongs to another share")]
    OtherShare,
    #[error("there are no epochs left")]
    Exhausted,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Previous {
    epoch: Epoch,
    record: [u8; 32],
    /// That epoch's key, sealed under this one's.
    sealed: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Body {
    format: u8,
    share: ShareId,
    epoch: Epoch,
    author: DeviceId,
    commitment: [u8; 32],
    /// Who was removed when it was made, see [`Circle::removals`].
    removals: [u8; 32],
    previous: Option<Previous>,
}

/// The signed record of one epoch. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochRecord {
    body: Body,
    bytes: Vec<u8>,
    signature: Signature,
}

impl EpochRecord {
    /// The record of a new share's first epoch.
    pub fn first(keys: &ShareKeys, admin: &DeviceKeys, circle: &Circle) -> Result<Self, Error> {
        let key = keys.key(Epoch::FIRST).ok_or(Error::NoKey)?;
        Self::sign(admin, circle, keys.share(), Epoch::FIRST, key, None)
    }

    /// A new epoch after `self`, with a random key, which `keys` holds from then on.
    pub fn next(&self, keys: &mut ShareKeys, admin: &DeviceKeys, circle: &Circle) -> Result<Self, Error> {
        let before = keys.key(self.epoch()).ok_or(Error::NoKey)?;
        self.check_key(keys.share(), before)?;
        let after = keys.epochs().next_back().unwrap_or(Epoch::FIRST).max(self.epoch());
        let epoch = next_number(after, keys.share(), &admin.id())?;
        let key = Secret32::random();
        let sealed = seal::seal(&previous_key(&key, keys.share(), epoch), &self.hash(), before.expose());
        let previous = Previous { epoch: self.epoch(), record: self.hash(), sealed };
        let record = Self::sign(admin, circle, keys.share(), epoch, &key, Some(previous))?;
        keys.insert(epoch, key);
        Ok(record)
    }

    fn sign(
        admin: &DeviceKeys,
        circle: &Circle,
        share: ShareId,
        epoch: Epoch,
        key: &Secret32,
        previous: Option<Previous>,
    ) -> Result<Self, Error> {
        if !circle.is_admin(&admin.id()) {
            return Err(Error::NotAdmin);
        }
        let body = Body {
            format: FORMAT,
            share,
            epoch,
            author: admin.id(),
            commitment: commitment(key, share, epoch),
            removals: circle.removals(),
            previous,
        };
        let bytes = postcard::to_allocvec(&body).map_err(|_| Error::Damaged)?;
        let signature = admin.sign(Domain::EpochKey, &bytes);
        Ok(Self { body, bytes, signature })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        [self.signature.as_bytes().as_slice(), &self.bytes].concat()
    }

    /// The shape and its author's signature. Whether that author may is [`EpochRecord::is_by_admin`], or that a
    /// newer accepted record names this one, [`EpochRecord::follows`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Damaged);
        }
        let (signature, bytes) = bytes.split_first_chunk::<64>().ok_or(Error::Damaged)?;
        let signature = Signature::from_bytes(*signature);
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(0) | None => return Err(Error::Damaged),
            Some(newer) => return Err(Error::Newer(*newer)),
        }
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(bytes) else { return Err(Error::Damaged) };
        let follows = match &body.previous {
            None => body.epoch == Epoch::FIRST,
            Some(p) => {
                p.epoch >= Epoch::FIRST && p.epoch < body.epoch && round(body.epoch) - round(p.epoch) <= MAX_LEAP
            }
        };
        if !follows {
            return Err(Error::Damaged);
        }
        // An admin that could choose the number could take the one of another's epoch.
        if body.epoch != Epoch::FIRST && body.epoch.0 & 0xffff != maker_tag(body.share, &body.author) {
            return Err(Error::Damaged);
        }
        if !device::verify(&body.author, Domain::EpochKey, bytes, &signature) {
            return Err(Error::Forged);
        }
        Ok(Self { body, bytes: bytes.to_vec(), signature })
    }

    pub fn share(&self) -> ShareId {
        self.body.share
    }

    pub fn epoch(&self) -> Epoch {
        self.body.epoch
    }

    pub fn author(&self) -> DeviceId {
        self.body.author
    }

    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 epoch record");
        hasher.update(self.signature.as_bytes());
        hasher.update(&self.bytes);
        *hasher.finalize().as_bytes()
    }

    /// Whether its maker is an admin of the owner: what the newest epoch of a share must show.
    pub fn is_by_admin(&self, circle: &Circle) -> bool {
        circle.is_admin(&self.body.author)
    }

    /// Whether these keys hold the one that the record commits to.
    pub(crate) fn is_opened_by(&self, keys: &ShareKeys) -> bool {
        keys.key(self.epoch()).is_some_and(|key| self.check_key(keys.share(), key).is_ok())
    }

    /// Whether `self` names `older` as the epoch before it.
    pub fn follows(&self, older: &EpochRecord) -> bool {
        self.body.share == older.body.share
            && self.body.previous.as_ref().is_some_and(|p| p.epoch == older.epoch() && p.record == older.hash())
    }

    /// Whether someone was removed (or let in again) since this epoch was made, so that an admin must make the next.
    pub fn is_outdated(&self, circle: &Circle) -> bool {
        self.body.removals != circle.removals()
    }

    /// Takes the key of the epoch before, sealed in this one, into `keys`, which hold this one's.
    pub fn open_previous(&self, older: &EpochRecord, keys: &mut ShareKeys) -> Result<(), Error> {
        let previous = self.body.previous.as_ref().filter(|_| self.follows(older)).ok_or(Error::Damaged)?;
        let key = keys.key(self.epoch()).ok_or(Error::NoKey)?;
        self.check_key(keys.share(), key)?;
        let sealing = previous_key(key, self.body.share, self.epoch());
        let plain = seal::open(&sealing, &previous.record, &previous.sealed).ok_or(Error::Damaged)?;
        let key = Secret32::from_bytes(plain.as_slice().try_into().map_err(|_| Error::Damaged)?);
        older.check_key(keys.share(), &key)?;
        keys.insert(older.epoch(), key);
        Ok(())
    }

    fn check_key(&self, share: ShareId, key: &Secret32) -> Result<(), Error> {
        if share != self.body.share {
            return Err(Error::OtherShare);
        }
        let is = commitment(key, share, self.body.epoch);
        if bool::from(is.ct_eq(&self.body.commitment)) { Ok(()) } else { Err(Error::WrongKey) }
    }
}

/// Of these records of one share those that count, newest first: made by an admin of the owner, or followed by one that
/// counts. The first is the epoch under which to write.
pub fn accepted<'a>(records: &'a [EpochRecord], circle: &Circle) -> Vec<&'a EpochRecord> {
    let mut sorted: Vec<_> = records.iter().collect();
    sorted.sort_by_key(|r| std::cmp::Reverse((r.epoch(), r.hash())));
    let mut accepted: Vec<&EpochRecord> = Vec::new();
    // A record is followed only by one of a greater epoch, which stands before it.
    for record in sorted {
        if record.is_by_admin(circle) || accepted.iter().any(|newer| newer.follows(record)) {
            accepted.push(record);
        }
    }
    accepted
}

/// An epoch key that only one device opens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wrapped {
    encapsulated: Vec<u8>,
    sealed: Vec<u8>,
}

/// Wraps the key of `record`'s epoch for a listed device. Any holder may; a blind device gets none.
pub fn wrap(keys: &ShareKeys, record: &EpochRecord, to: &Listed) -> Result<Wrapped, Error> {
    if to.role == Role::Blind {
        return Err(Error::Blind);
    }
    let key = keys.key(record.epoch()).ok_or(Error::NoKey)?;
    record.check_key(keys.share(), key)?;
    let receive = x_wing::EncapsulationKey::try_from(to.public.receive.as_slice()).map_err(|_| Error::Damaged)?;
    let (encapsulated, mut shared) = receive.encapsulate();
    let wrapping = wrap_key(&shared.into(), record, &to.public.id, &encapsulated);
    shared.as_mut_slice().zeroize();
    let sealed = seal::seal(&wrapping, &record.hash(), key.expose());
    Ok(Wrapped { encapsulated: encapsulated.to_vec(), sealed })
}

/// The key, if it is the one that the record commits to; insert it with [`ShareKeys::insert`].
pub fn unwrap(device: &DeviceKeys, record: &EpochRecord, wrapped: &Wrapped) -> Result<Secret32, Error> {
    let encapsulated = x_wing::Ciphertext::try_from(wrapped.encapsulated.as_slice()).map_err(|_| Error::Damaged)?;
    let mut shared = device.receive().decapsulate(&encapsulated);
    let wrapping = wrap_key(&shared.into(), record, &device.id(), &wrapped.encapsulated);
    shared.as_mut_slice().zeroize();
    let plain = seal::open(&wrapping, &record.hash(), &wrapped.sealed).ok_or(Error::Damaged)?;
    let key = Secret32::from_bytes(plain.as_slice().try_into().map_err(|_| Error::Damaged)?);
    record.check_key(record.share(), &key)?;
    Ok(key)
}

fn wrap_key(shared: &[u8; 32], record: &EpochRecord, to: &DeviceId, encapsulated: &[u8]) -> Secret32 {
    let epoch = record.epoch().0.to_le_bytes();
    Secret32::from_bytes(*shared)
        .derive("kith.v1 epoch wrap", &[record.body.share.as_bytes(), &epoch, to.as_bytes(), encapsulated])
}

fn commitment(key: &Secret32, share: ShareId, epoch: Epoch) -> [u8; 32] {
    *key.derive("kith.v1 epoch commitment", &[share.as_bytes(), &epoch.0.to_le_bytes()]).expose()
}

fn previous_key(key: &Secret32, share: ShareId, epoch: Epoch) -> Secret32 {
    key.derive("kith.v1 previous epoch", &[share.as_bytes(), &epoch.0.to_le_bytes()])
}

/// The upper 16 bits count rounds, the lower are a hash of the maker: two admins that make an epoch at once make two
/// epochs, and a page's epoch tag says under which it was written.
fn next_number(after: Epoch, share: ShareId, maker: &DeviceId) -> Result<Epoch, Error> {
    let round = round(after).checked_add(1).filter(|round| *round <= 0xffff).ok_or(Error::Exhausted)?;
    Ok(Epoch(round << 16 | maker_tag(share, maker)))
}

fn round(epoch: Epoch) -> u32 {
    epoch.0 >> 16
}

fn maker_tag(share: ShareId, maker: &DeviceId) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key("kith.v1 epoch number");
    hasher.update(share.as_bytes());
    hasher.update(maker.as_bytes());
    let hash = hasher.finalize();
    let [a, b, ..] = *hash.as_bytes();
    u32::from(u16::from_le_bytes([a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountKey;
    use crate::device::DeviceSecrets;
    use crate::devices::DeviceList;

    #[test]
    fn vectors() {
        use crate::vectors::hex;
        let device = DeviceKeys::from_secrets(&DeviceSecrets { sign: [1; 32], tls: [2; 32], receive: [3; 32] });
        let account = AccountKey::from_secret(&Secret32::from_bytes([4; 32]));
        let list =
            DeviceList::create(&account, &device, Listed::new(device.public(), Role::Full, "laptop", "", 1)).unwrap();
        let circle = Circle::of_account(list);
        let mut keys = ShareKeys::new(ShareId::from_bytes([5; 16]), Secret32::from_bytes([6; 32]));
        let first = EpochRecord::first(&keys, &device, &circle).unwrap();

        let epoch = next_number(Epoch::FIRST, keys.share(), &device.id()).unwrap();
        let key = Secret32::from_bytes([7; 32]);
        let sealing = previous_key(&key, keys.share(), epoch);
        let sealed = seal::seal_with(&sealing, &first.hash(), &[6; 32], [8; 12]);
        let previous = Previous { epoch: first.epoch(), record: first.hash(), sealed };
        let second = EpochRecord::sign(&device, &circle, keys.share(), epoch, &key, Some(previous)).unwrap();
        keys.insert(epoch, key.clone());

        let receive = device.receive().clone();
        let (encapsulated, shared) = {
            use x_wing::Decapsulator;
            receive.encapsulation_key().encapsulate_deterministic(&[9; 64].into())
        };
        let wrapping = wrap_key(&shared.into(), &second, &device.id(), &encapsulated);
        let sealed = seal::seal_with(&wrapping, &second.hash(), &[7; 32], [8; 12]);
        let wrapped = Wrapped { encapsulated: encapsulated.to_vec(), sealed };

        let made = serde_json::json!({
            "about": "device seeds 01.., 02.., 03.., account 04.., share 05.., keys 06.. and 07.., nonces 08.., \
                      X-Wing's randomness 09..",
            "first": hex(&first.to_bytes()),
            "second": hex(&second.to_bytes()),
            "second's number": epoch.0,
            "wrap of the second's key": hex(&postcard::to_allocvec(&wrapped).unwrap()),
        });
        crate::vectors::check("epoch", made);
        assert!(unwrap(&device, &second, &wrapped).unwrap() == key);
        let mut read = ShareKeys::empty(keys.share());
        read.insert(epoch, key);
        second.open_previous(&first, &mut read).unwrap();
        assert!(read.key(Epoch::FIRST).unwrap() == keys.key(Epoch::FIRST).unwrap());
    }

    #[test]
    fn epochs_end_with_an_error() {
        let (share, maker) = (ShareId::random(), DeviceId::random());
        assert_eq!(next_number(Epoch(u32::MAX), share, &maker), Err(Error::Exhausted));
        assert!(next_number(Epoch(0xfffe_ffff), share, &maker).unwrap().0 >= 0xffff_0000);
    }
}
