//! The attributes that a record carries: mode, time, owner, extended attributes, long names (kith-store(5),
//! "Attributes in records"). Sealed deterministically: equal attributes of one node are equal bytes.

use keymgr::ids::Epoch;
use keymgr::share::ShareKeys;

use super::seal::{Cipher, NONCE, TAG};
use super::tag::EpochTag;
use super::{Refused, VERSION, field};

/// The most bytes of attributes, sealed: what a record has room for beside a folder's header.
pub const MAX: usize = 40 * 1024 - super::HEADER;
const FRONT: usize = EpochTag::LEN + NONCE + TAG;

/// What a node shows besides its content and its places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attrs {
    /// Permission bits, at most 0o7777; no file type.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime: i128,
    pub uid: u32,
    pub gid: u32,
    /// By name, ascending; each once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the sidecars of this node's long names hold ([`super::name::Sealed::sidecar`]), ascending.
    pub long_names: Vec<Vec<u8>>,
}

impl Attrs {
    /// Sealed for the file or folder `id` under the current epoch.
    pub fn seal(&self, keys: &ShareKeys, id: &[u8; 16]) -> Result<Vec<u8>, Refused> {
        self.seal_under(keys, keys.current(), id)
    }

    pub fn seal_under(&self, keys: &ShareKeys, epoch: Epoch, id: &[u8; 16]) -> Result<Vec<u8>, Refused> {
        let key = keys.attrs_key(epoch).ok_or(Refused::NoKey)?;
        let tag = EpochTag::of(keys.share(), epoch);
        let mut raw = vec![0; FRONT];
        self.write(&mut raw)?;
        if raw.len() > MAX {
            return Err(Refused::TooLong);
        }
        let nonce: [u8; NONCE] = field(key.derive("kith.v1 attrs nonce", &[id, &raw[FRONT..]]).expose(), 0)?;
        let proof = Cipher::new(&key).seal(&nonce, &about(tag, id), &mut raw[FRONT..]);
        raw[..4].copy_from_slice(&tag.0);
        raw[4..4 + NONCE].copy_from_slice(&nonce);
        raw[4 + NONCE..FRONT].copy_from_slice(&proof);
        Ok(raw)
    }

    pub fn open(keys: &ShareKeys, id: &[u8; 16], raw: &[u8]) -> Result<Self, Refused> {
        if raw.len() > MAX {
            return Err(Refused::TooLong);
        }
        let tag = EpochTag(field(raw, 0)?);
        let (nonce, proof) = (field(raw, 4)?, field(raw, 4 + NONCE)?);
        let sealed = raw.get(FRONT..).ok_or(Refused::Layout)?;
        let mut last = Refused::NoKey;
        for epoch in tag.epochs(keys) {
            let Some(key) = keys.attrs_key(epoch) else { continue };
            let mut bytes = sealed.to_vec();
            match Cipher::new(&key).open(&nonce, &about(tag, id), &mut bytes, &proof) {
                Ok(()) => return Self::parse(&bytes),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Refused> {
        let short = |len: usize| u16::try_from(len).map_err(|_| Refused::TooLong);
        out.push(VERSION);
        out.extend_from_slice(&(self.mode & 0o7777).to_le_bytes());
        out.extend_from_slice(&self.mtime.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&short(self.xattrs.len())?.to_le_bytes());
        for (name, value) in &self.xattrs {
            out.extend_from_slice(&short(name.len())?.to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(&u32::try_from(value.len()).map_err(|_| Refused::TooLong)?.to_le_bytes());
            out.extend_from_slice(value);
        }
        out.extend_from_slice(&short(self.long_names.len())?.to_le_bytes());
        for name in &self.long_names {
            out.extend_from_slice(&short(name.len())?.to_le_bytes());
            out.extend_from_slice(name);
        }
        Ok(())
    }

    fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let mut rest = Reader(bytes);
        if rest.take(1)? != [VERSION] {
            return Err(Refused::Version);
        }
        let mode = u32::from_le_bytes(rest.array()?);
        let mtime = i128::from_le_bytes(rest.array()?);
        let (uid, gid) = (u32::from_le_bytes(rest.array()?), u32::from_le_bytes(rest.array()?));
        let mut xattrs = Vec::new();
        for _ in 0..rest.short()? {
            let name = rest.short()?;
            let name = rest.take(name)?.to_vec();
            let value = u32::from_le_bytes(rest.array()?) as usize;
            xattrs.push((name, rest.take(value)?.to_vec()));
        }
        let mut long_names = Vec::new();
        for _ in 0..rest.short()? {
            let len = rest.short()?;
            long_names.push(rest.take(len)?.to_vec());
        }
        let ascending = xattrs.is_sorted_by(|a, b| a.0 < b.0) && long_names.is_sorted_by(|a, b| a < b);
        if !rest.0.is_empty() || mode > 0o7777 || !ascending {
            return Err(Refused::Layout);
        }
        Ok(Self { mode, mtime, uid, gid, xattrs, long_names })
    }
}

fn about(tag: EpochTag, id: &[u8; 16]) -> Vec<u8> {
    [&[VERSION][..], &tag.0, id].concat()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let (piece, rest) = self.0.split_at_checked(len).ok_or(Refused::Layout)?;
        self.0 = rest;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        field(self.take(N)?, 0)
    }

    fn short(&mut self) -> Result<usize, Refused> {
        Ok(u16::from_le_bytes(self.array()?) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::ids::ShareId;
    use keymgr::secret::Secret32;

    fn keys() -> ShareKeys {
        ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
    }

    fn attrs() -> Attrs {
        Attrs {
            mode: 0o640,
            mtime: 1_700_000_000_123_456_789,
            uid: 1000,
            gid: 100,
            xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])],
            long_names: vec![vec![1; 200]],
        }
    }

    #[test]
    fn equal_attributes_are_equal_bytes_and_come_back() {
        for attrs in [attrs(), Attrs::default(), Attrs { mtime: -5, ..attrs() }] {
            let raw = attrs.seal(&keys(), &[3; 16]).unwrap();
            assert_eq!(raw, attrs.seal(&keys(), &[3; 16]).unwrap());
            assert_ne!(raw, attrs.seal(&keys(), &[4; 16]).unwrap());
            assert_eq!(Attrs::open(&keys(), &[3; 16], &raw).unwrap(), attrs);
            assert!(Attrs::open(&keys(), &[4; 16], &raw).is_err());
        }
    }

    #[test]
    fn a_flip_or_a_cut_is_refused() {
        let raw = attrs().seal(&keys(), &[3; 16]).unwrap();
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 1;
            assert!(Attrs::open(&keys(), &[3; 16], &bad).is_err(), "byte {at}");
            assert!(Attrs::open(&keys(), &[3; 16], &raw[..at]).is_err(), "{at} bytes");
        }
        assert_eq!(Attrs::open(&keys(), &[3; 16], &vec![0; MAX + 1]).err(), Some(Refused::TooLong));
    }

    #[test]
    fn lists_that_are_not_ascending_are_refused() {
        let mut twice = attrs();
        twice.xattrs[1].0 = b"user.a".to_vec();
        let raw = twice.seal(&keys(), &[3; 16]).unwrap();
        assert_eq!(Attrs::open(&keys(), &[3; 16], &raw).err(), Some(Refused::Layout));
    }
}
