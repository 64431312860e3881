//! One ciphertext file, open: plaintext in and out over the store's [`File`], by the rules of `models/pages.py` and kith-store(5).
//!
//! # For whoever builds on it
//!
//! - Reading takes `&self`, changing `&mut self`: a lock for reading and writing around a `Content` is all that it needs.
//!   Two `Content` of one file at once would each believe their own length; keep one for each inode.
//! - What differs from the record is refused ([`Error::Differs`]) once [`Content::expect`] told what the record says,
//!   group by group, before the first read or change of each. Without it pages still prove themselves.
//! - Before a change, [`Content::groups_of_write`] and its like say which groups it will touch: put those on the
//!   session's list first (each is verified by then: [`Content::verify`]).
//! - [`Content::changed`] collects what the record does not show yet. After [`Content::sync`], give it and the recorded
//!   groups to [`roots::update`] for the new root.
//! - An error in the middle of a write leaves a file that reads back; the caller may go on.

mod copy;
mod read;
mod renew;
pub mod roots;
mod scratch;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use keymgr::ids::{Epoch, FileId, Locator};
use keymgr::share::ShareKeys;
use parking_lot::Mutex;

pub use crate::format::header::{Header, Kind};
use crate::format::seal::Cipher;
use crate::format::tag::EpochTag;
use crate::format::{HEADER, PAGE, Refused, header, length};
use crate::store::File;
pub use copy::copy_as;
pub(crate) use copy::{copy_data, tags};
pub use roots::{Changed, Expected};
pub(crate) use scratch::Scratch;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What a crash leaves of a file made just before it: an empty file. [`Content::renew`] mends it.
    #[error("{}: it has no header", path.display())]
    NoHeader { path: PathBuf },
    #[error("{}: its header is refused: {why}", path.display())]
    Header { path: PathBuf, why: Refused },
    #[error("{}: page {page} is refused: {why}", path.display())]
    Page { path: PathBuf, page: u64, why: Refused },
    /// It is not what the record says: put back, cut, or changed without a key.
    #[error("{}: it differs from its record{}", path.display(), group.map(|g| format!(" in group {g}")).unwrap_or_default())]
    Differs { path: PathBuf, group: Option<u32> },
    #[error("{}: a file cannot be that large", path.display())]
    TooLarge { path: PathBuf },
}

impl Error {
    /// Whether the file is damaged, as opposed to a disk that failed, a key that is missing or a size too large.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Io { .. } | Error::TooLarge { .. } => false,
            Error::NoHeader { .. } | Error::Differs { .. } => true,
            Error::Header { why, .. } | Error::Page { why, .. } => *why != Refused::NoKey,
        }
    }
}

/// One ciphertext file, open. See the module.
pub struct Content {
    file: Arc<dyn File>,
    /// For messages only.
    path: PathBuf,
    header: Header,
    locator: Locator,
    ciphers: Ciphers,
    /// Of the ciphertext, as the disk has it: nobody else changes it meanwhile.
    length: u64,
    /// It is known that the last page holds no more than the length says.
    no_excess: bool,
    /// It is known that what follows the last page is a hole. Our own writes keep it one.
    clean_tail: bool,
    changed: Changed,
    guard: Option<Mutex<roots::Guard>>,
}

impl Content {
    /// Makes an empty file of a new one. It is not durable yet.
    pub fn create(
        file: Arc<dyn File>,
        path: &Path,
        keys: &ShareKeys,
        id: FileId,
        kind: Kind,
        locator: &Locator,
    ) -> Result<Self, Error> {
        Self::create_with(file, path, keys, Header::new(keys, id, kind), locator)
    }

    /// As [`Self::create`], with a header of the caller's making.
    pub fn create_with(
        file: Arc<dyn File>,
        path: &Path,
        keys: &ShareKeys,
        header: Header,
        locator: &Locator,
    ) -> Result<Self, Error> {
        let bytes = header.seal(keys, locator).map_err(|why| Error::Header { path: path.to_owned(), why })?;
        let length = length::of_size(0);
        let done = file.set_length(length).and_then(|()| file.write_at(&bytes, 0));
        done.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let ciphers = Ciphers::new(keys, &header);
        let mut changed = Changed::default();
        changed.all();
        Ok(Self {
            file,
            path: path.to_owned(),
            header,
            locator: *locator,
            ciphers,
            length,
            no_excess: true,
            clean_tail: true,
            changed,
            guard: None,
        })
    }

    /// Opens a file that lies in a folder of the share of `keys`.
    pub fn open(file: Arc<dyn File>, path: &Path, keys: &ShareKeys) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let length = file.length().map_err(io)?;
        let mut bytes = [0; HEADER];
        let got = file.read_at(&mut bytes, 0).map_err(io)?;
        if length < PAGE as u64 || got < HEADER || header::is_missing(&bytes) {
            return Err(Error::NoHeader { path: path.to_owned() });
        }
        let (header, locator) =
            Header::open(keys, &bytes).map_err(|why| Error::Header { path: path.to_owned(), why })?;
        let ciphers = Ciphers::new(keys, &header);
        Ok(Self {
            file,
            path: path.to_owned(),
            header,
            locator,
            ciphers,
            length,
            no_excess: false,
            clean_tail: false,
            changed: Changed::default(),
            guard: None,
        })
    }

    /// Makes a file without a header an empty one: its pages are cut off, durably, before it gets a header, so that no
    /// page of before can ever show in it.
    pub fn renew(
        file: Arc<dyn File>,
        path: &Path,
        keys: &ShareKeys,
        id: FileId,
        kind: Kind,
        locator: &Locator,
    ) -> Result<Self, Error> {
        let done = file.set_length(0).and_then(|()| file.sync(false));
        done.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::create(file, path, keys, id, kind, locator)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn id(&self) -> FileId {
        self.header.file
    }

    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    pub fn locator(&self) -> Locator {
        self.locator
    }

    /// Ties the file to a new place. Neither the root nor what is recorded of the content changes.
    pub fn set_locator(&mut self, locator: &Locator) -> Result<(), Error> {
        self.file.write_at(locator.as_bytes(), header::AT_LOCATOR as u64).map_err(|e| self.io(e))?;
        self.locator = *locator;
        Ok(())
    }

    /// Of the plaintext.
    pub fn size(&self) -> u64 {
        length::to_size(self.length)
    }

    /// Of the ciphertext.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For messages, after a rename.
    pub fn set_path(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Takes over epochs that `keys` has gained: what is written from now on is sealed under the newest.
    pub fn rekey(&mut self, keys: &ShareKeys) {
        self.ciphers = Ciphers::new(keys, &self.header);
    }

    /// Reads the length and the header anew, after something else than this `Content` changed the file. What was
    /// expected of it and what had changed is forgotten.
    pub fn reload(&mut self, keys: &ShareKeys) -> Result<(), Error> {
        *self = Self::open(self.file.clone(), &self.path, keys)?;
        Ok(())
    }

    /// fsync, or fdatasync.
    pub fn sync(&self, data_only: bool) -> Result<(), Error> {
        self.file.sync(data_only).map_err(|e| self.io(e))
    }

    /// What has changed since the content was opened, or since [`Self::take_changed`].
    pub fn changed(&self) -> &Changed {
        &self.changed
    }

    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }

    fn refused(&self, page: u64, why: Refused) -> Error {
        Error::Page { path: self.path.clone(), page, why }
    }
}

/// The page ciphers of a file, each keyed once, when it is first needed.
struct Ciphers {
    keys: ShareKeys,
    list: Vec<(EpochTag, Source, OnceLock<Option<Cipher>>)>,
    current: usize,
}

enum Source {
    Epoch(Epoch),
    Former(keymgr::secret::Secret32),
}

impl Ciphers {
    fn new(keys: &ShareKeys, header: &Header) -> Self {
        let mut list: Vec<_> = keys
            .epochs()
            .map(|epoch| (EpochTag::of(keys.share(), epoch), Source::Epoch(epoch), OnceLock::new()))
            .collect();
        let now = keys.current();
        let current = list.iter().position(|(_, source, _)| matches!(source, Source::Epoch(e) if *e == now));
        list.extend(header.former.iter().map(|f| (f.tag, Source::Former(f.key.clone()), OnceLock::new())));
        Self { keys: keys.clone(), list, current: current.unwrap_or(usize::MAX) }
    }

    fn get(&self, index: usize, header: &Header) -> Option<(EpochTag, &Cipher)> {
        let (tag, source, cell) = self.list.get(index)?;
        let cipher = cell.get_or_init(|| match source {
            Source::Epoch(epoch) => self.keys.page_key(*epoch, &header.lineage).map(|key| Cipher::new(&key)),
            Source::Former(key) => Some(Cipher::new(key)),
        });
        Some((*tag, cipher.as_ref()?))
    }

    /// For what is written now.
    fn current(&self, header: &Header) -> Result<(EpochTag, &Cipher), Refused> {
        self.get(self.current, header).ok_or(Refused::NoKey)
    }

    /// All that have this tag: more than one only by chance.
    fn tagged<'a>(&'a self, tag: EpochTag, header: &'a Header) -> impl Iterator<Item = &'a Cipher> {
        let tagged = self.list.iter().enumerate().filter(move |(_, (t, ..))| *t == tag);
        tagged.filter_map(move |(index, _)| Some(self.get(index, header)?.1))
    }
}

#[cfg(test)]
mod tests;
