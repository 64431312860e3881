//! Names: sealed deterministically, so that one name has one sealed form in its folder and lookup needs no listing
//! (kith-store(5), "Names").

use data_encoding::BASE64URL_NOPAD;
use keymgr::ids::{Epoch, NodeId, StoreName};
use keymgr::share::ShareKeys;

use super::seal::{Cipher, NONCE, TAG};
use super::tag::EpochTag;
use super::{Refused, VERSION, field};

/// The most bytes of a name.
pub const MAX: usize = 255;
/// Names are padded to a multiple of this, so that the sealed form tells less of their length.
const PAD: usize = 16;
/// The most bytes of a name whose sealed form is a name itself; longer ones have a sidecar.
pub const MAX_SHORT: usize = 160;
const FRONT: usize = EpochTag::LEN + TAG;
/// Bytes of the hash that stands for a long name: not such that a short one could have the same length.
const HASH: usize = 24;

const _: () =
    assert!((FRONT + MAX_SHORT + PAD) * 4 > StoreName::MAX * 3 && (FRONT + MAX_SHORT) * 4 <= StoreName::MAX * 3);
const _: () = assert!(HASH % PAD != TAG % PAD);

/// The nonce of all names: each folder has a key of its own, and the cipher shows only whether two are equal,
/// which a name must show in any case.
const NONCE_OF_NAMES: [u8; NONCE] = [0; NONCE];

/// A name in its sealed form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    pub name: StoreName,
    /// What [`super::folder::sidecar_name`] holds where the name is long.
    pub sidecar: Option<Vec<u8>>,
}

/// Refuses what no file can be called.
pub fn check(name: &[u8]) -> Result<(), Refused> {
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    match name.len() {
        _ if bad => Err(Refused::Name),
        len if len > MAX => Err(Refused::TooLong),
        _ => Ok(()),
    }
}

/// The names of one folder node, keyed once.
pub struct Names {
    /// Newest epoch first.
    ciphers: Vec<(Epoch, EpochTag, Cipher)>,
}

impl Names {
    pub fn new(keys: &ShareKeys, folder: &NodeId) -> Self {
        let mut epochs: Vec<Epoch> = keys.epochs().collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        let cipher =
            |epoch| Some((epoch, EpochTag::of(keys.share(), epoch), Cipher::new(&keys.name_key(epoch, folder)?)));
        Self { ciphers: epochs.into_iter().filter_map(cipher).collect() }
    }

    /// The form that a new entry gets.
    pub fn seal(&self, name: &[u8]) -> Result<Sealed, Refused> {
        self.seal_all(name)?.next().ok_or(Refused::NoKey)
    }

    /// All forms under which `name` may stand here: newest epoch first.
    pub fn seal_all<'a>(&'a self, name: &'a [u8]) -> Result<impl Iterator<Item = Sealed> + 'a, Refused> {
        check(name)?;
        Ok(self.ciphers.iter().filter_map(|(_, tag, cipher)| seal(*tag, cipher, name).ok()))
    }

    /// The name that `sealed` stands for, and the epoch that it is sealed under. A long name needs its sidecar's
    /// content ([`is_long`]).
    pub fn open(&self, sealed: &StoreName, sidecar: Option<&[u8]>) -> Result<(Vec<u8>, Epoch), Refused> {
        let short = decode(sealed)?;
        let raw = if has_hash(&short) {
            let raw = sidecar.ok_or(Refused::Sidecar)?;
            if hashed(raw)? != short {
                return Err(Refused::Forged);
            }
            raw.to_vec()
        } else {
            short
        };
        let tag = EpochTag(field(&raw, 0)?);
        let mut last = Refused::NoKey;
        for (epoch, _, cipher) in self.ciphers.iter().filter(|(_, t, _)| *t == tag) {
            match open(cipher, &raw) {
                Ok(name) if (name.len() > MAX_SHORT) == is_long(sealed) => return Ok((name, *epoch)),
                Ok(_) => last = Refused::Layout,
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

/// Whether `sealed` needs a sidecar.
pub fn is_long(sealed: &StoreName) -> bool {
    decode(sealed).is_ok_and(|raw| has_hash(&raw))
}

/// Whether `content` is what the sidecar of `sealed` must hold. Needs no key, so that a blind replica can tell.
pub fn fits_sidecar(sealed: &StoreName, content: &[u8]) -> bool {
    decode(sealed).is_ok_and(|short| hashed(content).is_ok_and(|long| long == short))
}

/// The name under which sidecar content belongs.
pub fn of_sidecar(content: &[u8]) -> Result<StoreName, Refused> {
    encode(&hashed(content)?)
}

/// The epoch under which `sealed` was sealed, as its tag says; its locator is under the same one.
pub fn epoch_of(keys: &ShareKeys, sealed: &StoreName) -> Option<Epoch> {
    let tag = EpochTag(field(&decode(sealed).ok()?, 0).ok()?);
    tag.epochs(keys).next()
}

fn about(tag: EpochTag) -> [u8; 5] {
    let [a, b, c, d] = tag.0;
    [VERSION, a, b, c, d]
}

fn seal(tag: EpochTag, cipher: &Cipher, name: &[u8]) -> Result<Sealed, Refused> {
    let mut raw = vec![0; FRONT + name.len().next_multiple_of(PAD)];
    raw[..EpochTag::LEN].copy_from_slice(&tag.0);
    raw[FRONT..FRONT + name.len()].copy_from_slice(name);
    let proof = cipher.seal(&NONCE_OF_NAMES, &about(tag), &mut raw[FRONT..]);
    raw[EpochTag::LEN..FRONT].copy_from_slice(&proof);
    if name.len() <= MAX_SHORT {
        Ok(Sealed { name: encode(&raw)?, sidecar: None })
    } else {
        Ok(Sealed { name: encode(&hashed(&raw)?)?, sidecar: Some(raw) })
    }
}

fn open(cipher: &Cipher, raw: &[u8]) -> Result<Vec<u8>, Refused> {
    let tag = EpochTag(field(raw, 0)?);
    let proof = field(raw, EpochTag::LEN)?;
    let mut name = raw.get(FRONT..).ok_or(Refused::Layout)?.to_vec();
    if name.is_empty() || !name.len().is_multiple_of(PAD) {
        return Err(Refused::Layout);
    }
    cipher.open(&NONCE_OF_NAMES, &about(tag), &mut name, &proof)?;
    let padded = name.len();
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    name.truncate(end);
    check(&name)?;
    // One name, one form: padding that is longer than it must be would make a second one.
    if name.len().next_multiple_of(PAD) != padded { Err(Refused::Layout) } else { Ok(name) }
}

/// Epoch tag and hash of what a sidecar holds.
fn hashed(raw: &[u8]) -> Result<Vec<u8>, Refused> {
    if raw.len() > FRONT + MAX.next_multiple_of(PAD) {
        return Err(Refused::TooLong);
    }
    let tag: [u8; EpochTag::LEN] = field(raw, 0)?;
    let mut out = vec![0; EpochTag::LEN + HASH];
    out[..EpochTag::LEN].copy_from_slice(&tag);
    blake3::Hasher::new_derive_key("kith.v1 long name").update(raw).finalize_xof().fill(&mut out[EpochTag::LEN..]);
    Ok(out)
}

fn has_hash(raw: &[u8]) -> bool {
    raw.len() == EpochTag::LEN + HASH
}

fn encode(raw: &[u8]) -> Result<StoreName, Refused> {
    StoreName::parse(&BASE64URL_NOPAD.encode(raw)).map_err(|_| Refused::TooLong)
}

fn decode(sealed: &StoreName) -> Result<Vec<u8>, Refused> {
    BASE64URL_NOPAD.decode(sealed.as_str().as_bytes()).map_err(|_| Refused::Layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::ids::ShareId;
    use keymgr::secret::Secret32;

    fn keys() -> ShareKeys {
        ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
    }

    fn names() -> Names {
        Names::new(&keys(), &NodeId::from_bytes([3; 16]))
    }

    #[test]
    fn names_of_every_length_come_back() {
        for len in 1..=MAX {
            let name: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
            let sealed = names().seal(&name).unwrap();
            assert_eq!(sealed, names().seal(&name).unwrap());
            assert_eq!(sealed.sidecar.is_some(), len > MAX_SHORT);
            assert_eq!(is_long(&sealed.name), len > MAX_SHORT);
            let (back, epoch) = names().open(&sealed.name, sealed.sidecar.as_deref()).unwrap();
            assert_eq!((back, epoch), (name, Epoch::FIRST));
            assert_eq!(epoch_of(&keys(), &sealed.name), Some(Epoch::FIRST));
        }
        assert_eq!(names().seal(&[b'a'; 256]).err(), Some(Refused::TooLong));
    }

    #[test]
    fn s11_names_that_no_file_can_have_are_neither_sealed_nor_opened() {
        let names = names();
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", b"\0"] {
            assert!(names.seal(bad).is_err(), "{bad:?}");
            let (_, tag, cipher) = &names.ciphers[0];
            if !bad.is_empty() {
                let hostile = seal(*tag, cipher, bad).unwrap();
                assert!(names.open(&hostile.name, None).is_err(), "{bad:?}");
            }
        }
    }

    #[test]
    fn a_name_opens_in_its_own_folder_only() {
        let sealed = names().seal(b"report.txt").unwrap();
        let other = Names::new(&keys(), &NodeId::from_bytes([4; 16]));
        assert_eq!(other.open(&sealed.name, None).err(), Some(Refused::Forged));
        assert_ne!(other.seal(b"report.txt").unwrap(), sealed);
    }

    #[test]
    fn a_change_of_any_letter_is_refused() {
        let sealed = names().seal(b"report.txt").unwrap().name.as_str().to_owned();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let bad = StoreName::parse(std::str::from_utf8(&bad).unwrap()).unwrap();
            assert!(names().open(&bad, None).is_err(), "letter {at}");
        }
    }

    #[test]
    fn s11_a_second_form_of_one_name_is_refused() {
        let names = names();
        let (_, tag, cipher) = &names.ciphers[0];
        // A longer padding, and a sidecar for a name that needs none.
        let mut raw = vec![0; FRONT + 32];
        raw[..4].copy_from_slice(&tag.0);
        raw[FRONT] = b'x';
        let proof = cipher.seal(&NONCE_OF_NAMES, &about(*tag), &mut raw[FRONT..]);
        raw[4..FRONT].copy_from_slice(&proof);
        assert_eq!(names.open(&encode(&raw).unwrap(), None).err(), Some(Refused::Layout));
        let raw = decode(&names.seal(b"x").unwrap().name).unwrap();
        assert_eq!(names.open(&of_sidecar(&raw).unwrap(), Some(&raw)).err(), Some(Refused::Layout));
    }

    #[test]
    fn s11_a_sidecar_that_lies_is_refused() {
        let one = names().seal(&[b'a'; 200]).unwrap();
        let two = names().seal(&[b'b'; 200]).unwrap();
        assert!(fits_sidecar(&one.name, one.sidecar.as_deref().unwrap()));
        assert!(!fits_sidecar(&one.name, two.sidecar.as_deref().unwrap()));
        assert_eq!(names().open(&one.name, two.sidecar.as_deref()).err(), Some(Refused::Forged));
        assert_eq!(names().open(&one.name, None).err(), Some(Refused::Sidecar));
        assert_eq!(names().open(&one.name, Some(&[])).err(), Some(Refused::Layout));
        assert_eq!(names().open(&one.name, Some(&[0; 5000])).err(), Some(Refused::TooLong));
    }

    #[test]
    fn names_of_an_older_epoch_open_and_new_ones_get_the_newest() {
        let old = names().seal(b"x").unwrap();
        let mut keys = keys();
        keys.insert(Epoch(2), Secret32::from_bytes([9; 32]));
        let both = Names::new(&keys, &NodeId::from_bytes([3; 16]));
        assert_eq!(both.open(&old.name, None).unwrap(), (b"x".to_vec(), Epoch(1)));
        let new = both.seal(b"x").unwrap();
        assert_eq!(both.open(&new.name, None).unwrap().1, Epoch(2));
        assert_eq!(both.seal_all(b"x").unwrap().collect::<Vec<_>>(), [new.clone(), old]);
        assert_eq!(names().open(&new.name, None).err(), Some(Refused::NoKey));
    }
}
