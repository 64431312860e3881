//! The header: 256 bytes that say what a ciphertext file is, apart from its pages (kith-store(5), "Headers").
//!
//! It names no vault: a file is the same, byte for byte, in every vault that holds its share. The locator, its last
//! 16 bytes, stands outside the seal and proves itself, so that a rename writes nothing else.

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, ShareId};
use keymgr::secret::{Secret32, random_bytes};
use keymgr::share::ShareKeys;
use zeroize::Zeroize;

use super::seal::{Cipher, NONCE, TAG};
use super::tag::EpochTag;
use super::{HEADER, Refused, VERSION, field};

const MAGIC: [u8; 4] = *b"kith";
const AT_VERSION: usize = 4;
const AT_KIND: usize = 5;
const AT_RESERVED: usize = 6;
const AT_SHARE: usize = 8;
const AT_EPOCH: usize = 24;
const AT_ID: usize = 28;
const AT_LINEAGE: usize = 44;
const AT_NONCE: usize = 60;
const AT_TAG: usize = AT_NONCE + NONCE;
const AT_SEALED: usize = AT_TAG + TAG;
/// Where the locator lies: [`keymgr::root::LOCATOR`].
pub const AT_LOCATOR: usize = 240;

const _: () =
    assert!(AT_SEALED == 88 && AT_LOCATOR == keymgr::root::LOCATOR.start && HEADER == keymgr::root::LOCATOR.end);

/// The most former page keys that a header holds.
pub const MAX_FORMER: usize = 4;
const FORMER: usize = EpochTag::LEN + 32;

/// What a ciphertext file is. A folder has a header, but no pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    File,
    /// Its content is the target.
    Symlink,
    Fifo,
    Socket,
    /// A junction: another share's topmost folder is shown in its place. The file id is that share's; it has no content.
    Share,
    /// Its content is major and minor number, as of [`Kind::Char`].
    Block,
    Char,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::File => 1,
            Kind::Symlink => 2,
            Kind::Fifo => 3,
            Kind::Socket => 4,
            Kind::Share => 5,
            Kind::Block => 6,
            Kind::Char => 7,
        }
    }

    fn parse(byte: u8) -> Result<Self, Refused> {
        match byte {
            1 => Ok(Kind::File),
            2 => Ok(Kind::Symlink),
            3 => Ok(Kind::Fifo),
            4 => Ok(Kind::Socket),
            5 => Ok(Kind::Share),
            6 => Ok(Kind::Block),
            7 => Ok(Kind::Char),
            _ => Err(Refused::Layout),
        }
    }
}

/// Kind byte of a folder's header.
const FOLDER: u8 = 16;

/// A page key of an epoch of the share that the file belonged to before its folder became a share of its own.
#[derive(Clone)]
pub struct Former {
    pub tag: EpochTag,
    pub key: Secret32,
}

/// The header of a ciphertext file, opened.
#[derive(Clone)]
pub struct Header {
    pub kind: Kind,
    pub share: ShareId,
    /// The epoch whose keys seal the header; pages say their own.
    pub epoch: Epoch,
    pub file: FileId,
    pub lineage: LineageId,
    /// At most [`MAX_FORMER`].
    pub former: Vec<Former>,
}

/// The header of a folder, opened: see [`super::folder`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolderHeader {
    pub share: ShareId,
    pub epoch: Epoch,
    pub node: NodeId,
}

impl Header {
    /// Of a new file in the share of `keys`, under its current epoch, with a lineage of its own.
    pub fn new(keys: &ShareKeys, file: FileId, kind: Kind) -> Self {
        Self {
            kind,
            share: keys.share(),
            epoch: keys.current(),
            file,
            lineage: LineageId::random(),
            former: Vec::new(),
        }
    }

    /// Of a file with the same pages, that is the same share, epoch, kind and lineage, under another id.
    pub fn of_copy(&self, file: FileId) -> Self {
        Self { file, ..self.clone() }
    }

    pub fn seal(&self, keys: &ShareKeys, locator: &Locator) -> Result<[u8; HEADER], Refused> {
        self.seal_with(keys, locator, &random_bytes())
    }

    /// As [`Self::seal`], with a nonce derived from the ids: the same bytes on every device that makes this copy.
    /// The cipher takes one nonce twice without loss where all that it seals is the same, as here.
    pub fn seal_derived(&self, keys: &ShareKeys, locator: &Locator) -> Result<[u8; HEADER], Refused> {
        let key = keys.header_key(self.epoch).ok_or(Refused::NoKey)?;
        let seed = key.derive("kith.v1 copy header nonce", &[self.file.as_bytes(), self.lineage.as_bytes()]);
        self.seal_with(keys, locator, &field(seed.expose(), 0)?)
    }

    fn seal_with(&self, keys: &ShareKeys, locator: &Locator, nonce: &[u8; NONCE]) -> Result<[u8; HEADER], Refused> {
        let mut sealed = [0; AT_LOCATOR - AT_SEALED];
        if self.former.len() > MAX_FORMER {
            return Err(Refused::TooLong);
        }
        for (former, slot) in self.former.iter().zip(sealed.chunks_exact_mut(FORMER)) {
            slot[..EpochTag::LEN].copy_from_slice(&former.tag.0);
            slot[EpochTag::LEN..].copy_from_slice(former.key.expose());
        }
        let clear = Clear {
            kind: self.kind.byte(),
            share: self.share,
            epoch: self.epoch,
            id: *self.file.as_bytes(),
            lineage: *self.lineage.as_bytes(),
        };
        clear.seal(keys, nonce, sealed, locator)
    }

    /// Opens the header of a file that a folder of the share of `keys` holds. A header of another share is refused,
    /// also where its keys are known: which share a file is in, the folder says (ATTACKS S9).
    pub fn open(keys: &ShareKeys, bytes: &[u8; HEADER]) -> Result<(Self, Locator), Refused> {
        let (clear, mut sealed) = Clear::open(keys, bytes)?;
        let kind = Kind::parse(clear.kind)?;
        let mut former = Vec::new();
        let slots = sealed.chunks_exact(FORMER);
        let mut reserved = slots.remainder().iter().all(|byte| *byte == 0);
        for slot in slots {
            let (tag, mut key) = (field(slot, 0)?, field::<32>(slot, EpochTag::LEN)?);
            if key != [0; 32] {
                former.push(Former { tag: EpochTag(tag), key: Secret32::from_bytes(key) });
            } else {
                reserved &= tag == [0; 4];
            }
            key.zeroize();
        }
        sealed.zeroize();
        if !reserved {
            return Err(Refused::Layout);
        }
        let header = Self {
            kind,
            share: clear.share,
            epoch: clear.epoch,
            file: FileId::from_bytes(clear.id),
            lineage: LineageId::from_bytes(clear.lineage),
            former,
        };
        Ok((header, locator_of(bytes)))
    }
}

impl FolderHeader {
    pub fn new(keys: &ShareKeys, node: NodeId) -> Self {
        Self { share: keys.share(), epoch: keys.current(), node }
    }

    pub fn seal(&self, keys: &ShareKeys, locator: &Locator) -> Result<[u8; HEADER], Refused> {
        let clear =
            Clear { kind: FOLDER, share: self.share, epoch: self.epoch, id: *self.node.as_bytes(), lineage: [0; 16] };
        clear.seal(keys, &random_bytes(), [0; AT_LOCATOR - AT_SEALED], locator)
    }

    /// Opens the header of a folder in the share of `keys`.
    pub fn open(keys: &ShareKeys, bytes: &[u8; HEADER]) -> Result<(Self, Locator), Refused> {
        let (clear, _) = Clear::open(keys, bytes)?;
        if clear.kind != FOLDER || clear.lineage != [0; 16] {
            return Err(Refused::Layout);
        }
        let header = Self { share: clear.share, epoch: clear.epoch, node: NodeId::from_bytes(clear.id) };
        Ok((header, locator_of(bytes)))
    }
}

/// Whether there is no header: the zeros that a crash leaves of a file made just before.
pub fn is_missing(bytes: &[u8]) -> bool {
    bytes.iter().take(AT_LOCATOR).all(|byte| *byte == 0)
}

fn locator_of(bytes: &[u8; HEADER]) -> Locator {
    let mut locator = [0; 16];
    locator.copy_from_slice(&bytes[AT_LOCATOR..]);
    Locator::from_bytes(locator)
}

/// The share that a header names, unproven: for whoever looks for the keys with which to open it.
pub fn claimed_share(bytes: &[u8; HEADER]) -> Result<ShareId, Refused> {
    if field::<4>(bytes, 0)? != MAGIC {
        return Err(Refused::Layout);
    }
    Ok(ShareId::from_bytes(field(bytes, AT_SHARE)?))
}

struct Clear {
    kind: u8,
    share: ShareId,
    epoch: Epoch,
    id: [u8; 16],
    lineage: [u8; 16],
}

impl Clear {
    fn seal(
        &self,
        keys: &ShareKeys,
        nonce: &[u8; NONCE],
        mut sealed: [u8; AT_LOCATOR - AT_SEALED],
        locator: &Locator,
    ) -> Result<[u8; HEADER], Refused> {
        let key = keys.header_key(self.epoch).ok_or(Refused::NoKey)?;
        let mut bytes = [0; HEADER];
        bytes[..AT_VERSION].copy_from_slice(&MAGIC);
        bytes[AT_VERSION] = VERSION;
        bytes[AT_KIND] = self.kind;
        bytes[AT_SHARE..AT_EPOCH].copy_from_slice(self.share.as_bytes());
        bytes[AT_EPOCH..AT_ID].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[AT_ID..AT_LINEAGE].copy_from_slice(&self.id);
        bytes[AT_LINEAGE..AT_NONCE].copy_from_slice(&self.lineage);
        bytes[AT_NONCE..AT_TAG].copy_from_slice(nonce);
        let tag = Cipher::new(&key).seal(nonce, &bytes[..AT_NONCE], &mut sealed);
        bytes[AT_TAG..AT_SEALED].copy_from_slice(&tag);
        bytes[AT_SEALED..AT_LOCATOR].copy_from_slice(&sealed);
        bytes[AT_LOCATOR..].copy_from_slice(locator.as_bytes());
        Ok(bytes)
    }

    fn open(keys: &ShareKeys, bytes: &[u8; HEADER]) -> Result<(Self, [u8; AT_LOCATOR - AT_SEALED]), Refused> {
        if field::<4>(bytes, 0)? != MAGIC {
            return Err(Refused::Layout);
        }
        if bytes[AT_VERSION] != VERSION {
            return Err(Refused::Version);
        }
        if field::<2>(bytes, AT_RESERVED)? != [0; 2] {
            return Err(Refused::Layout);
        }
        let share = ShareId::from_bytes(field(bytes, AT_SHARE)?);
        if share != keys.share() {
            return Err(Refused::Share);
        }
        let epoch = Epoch(u32::from_le_bytes(field(bytes, AT_EPOCH)?));
        let key = keys.header_key(epoch).ok_or(Refused::NoKey)?;
        let mut sealed = field(bytes, AT_SEALED)?;
        let (nonce, tag) = (field(bytes, AT_NONCE)?, field(bytes, AT_TAG)?);
        Cipher::new(&key).open(&nonce, &bytes[..AT_NONCE], &mut sealed, &tag)?;
        let clear =
            Self { kind: bytes[AT_KIND], share, epoch, id: field(bytes, AT_ID)?, lineage: field(bytes, AT_LINEAGE)? };
        Ok((clear, sealed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::locator::NOWHERE;
    use super::*;

    fn keys() -> ShareKeys {
        ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
    }

    fn locator() -> Locator {
        Locator::from_bytes([4; 16])
    }

    #[test]
    fn a_header_comes_back() {
        let mut header = Header::new(&keys(), FileId::from_bytes([3; 16]), Kind::Symlink);
        header.former = vec![Former { tag: EpochTag([1; 4]), key: Secret32::from_bytes([8; 32]) }; MAX_FORMER];
        let (back, at) = Header::open(&keys(), &header.seal(&keys(), &locator()).unwrap()).unwrap();
        assert_eq!(
            (back.kind, back.file, back.lineage, back.epoch, at),
            (Kind::Symlink, header.file, header.lineage, Epoch::FIRST, locator())
        );
        assert_eq!(back.former.len(), MAX_FORMER);
        assert!(back.former.iter().all(|f| f.tag == EpochTag([1; 4]) && f.key == Secret32::from_bytes([8; 32])));
    }

    #[test]
    fn a_flip_of_any_byte_but_the_locators_is_refused() {
        let bytes = Header::new(&keys(), FileId::random(), Kind::File).seal(&keys(), &locator()).unwrap();
        for at in 0..AT_LOCATOR {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Header::open(&keys(), &bad).is_err(), "byte {at}");
        }
        let mut moved = bytes;
        moved[AT_LOCATOR] ^= 1;
        assert_ne!(Header::open(&keys(), &moved).unwrap().1, locator());
    }

    #[test]
    fn s9_a_header_of_another_share_is_refused_also_with_its_keys() {
        let other = ShareKeys::create(ShareId::from_bytes([9; 16]));
        let planted = Header::new(&other, FileId::random(), Kind::File).seal(&other, &locator()).unwrap();
        assert_eq!(Header::open(&keys(), &planted).err(), Some(Refused::Share));
        let same_id = ShareKeys::new(keys().share(), Secret32::from_bytes([77; 32]));
        let planted = Header::new(&same_id, FileId::random(), Kind::File).seal(&same_id, &locator()).unwrap();
        assert_eq!(Header::open(&keys(), &planted).err(), Some(Refused::Forged));
    }

    #[test]
    fn a_folder_is_no_file_and_a_file_no_folder() {
        let folder = FolderHeader::new(&keys(), NodeId::from_bytes([6; 16]));
        let bytes = folder.seal(&keys(), &locator()).unwrap();
        assert_eq!(FolderHeader::open(&keys(), &bytes).unwrap(), (folder, locator()));
        assert!(Header::open(&keys(), &bytes).is_err());
        let file = Header::new(&keys(), FileId::random(), Kind::File).seal(&keys(), &locator()).unwrap();
        assert!(FolderHeader::open(&keys(), &file).is_err());
    }

    #[test]
    fn a_copy_has_the_same_bytes_wherever_it_is_made() {
        let header = Header::new(&keys(), FileId::random(), Kind::File);
        let copy = header.of_copy(FileId::from_bytes([1; 16]));
        assert_eq!(copy.seal_derived(&keys(), &NOWHERE).unwrap(), copy.seal_derived(&keys(), &NOWHERE).unwrap());
        let other = header.of_copy(FileId::from_bytes([2; 16]));
        assert_ne!(
            copy.seal_derived(&keys(), &NOWHERE).unwrap()[60..72],
            other.seal_derived(&keys(), &NOWHERE).unwrap()[60..72]
        );
    }

    #[test]
    fn zeros_are_no_header() {
        assert!(is_missing(&[0; HEADER]));
        assert!(is_missing(&[]));
        assert!(!is_missing(&Header::new(&keys(), FileId::random(), Kind::File).seal(&keys(), &NOWHERE).unwrap()));
    }
}
