//! The table of inodes: which numbers the kernel knows, where each lies in the store, and the folders' entries.
//!
//! Only memory; [`super::loading`] fills it from the disk. One lock around it all, taken before any file's own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use keymgr::ids::{Epoch, FileId, Locator, NodeId, StoreName};

use super::error::{Error, Result};
use super::file::FileNode;
use crate::content::Kind;
use crate::format::name::Names;
use crate::records::EntryId;
use crate::store::Stat;

/// The number of the mount's topmost folder.
pub const ROOT: u64 = 1;
/// Where the tree of ciphertext lies in the store.
pub const TREE: &str = "tree";

pub(crate) struct Tree {
    pub nodes: HashMap<u64, Node>,
    pub files: HashMap<FileId, u64>,
    /// By each header of the directory.
    pub folders: HashMap<NodeId, u64>,
    next: u64,
    /// Counts changes of names, so that what an fsync covered is told from what came after it.
    seq: u64,
    /// All changes up to here are durable.
    pub synced: u64,
    /// Nothing leaves the table now.
    pub pinned: bool,
    /// How many folders went on the session's list together the last time.
    pub list_step: usize,
    /// Files of a folder that is [`Folder::gone`]: they stay, for who is reading it, until the next one goes.
    pub gone: HashSet<u64>,
}

pub(crate) enum Node {
    Folder(Box<Folder>),
    File(FileRef),
}

pub(crate) struct FileRef {
    pub file: Arc<FileNode>,
    pub lookups: u64,
    /// Those of its names that were looked at. None: it is unlinked.
    pub places: Vec<Place>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub parent: u64,
    pub store: StoreName,
}

pub(crate) struct Folder {
    pub lookups: u64,
    /// None: the topmost folder, or a removed one.
    pub place: Option<Place>,
    /// The smallest first: it seals new names. Empty where none is readable.
    pub headers: Vec<(NodeId, Names)>,
    pub listing: Option<Listing>,
    pub stat: Option<Stat>,
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// It is on the session's list.
    pub listed: bool,
    /// It was observed: a record of what it was then may be on its way.
    pub observed: bool,
    /// Differs from its records by our own work; how often it changed.
    pub dirty: bool,
    pub changes: u64,
    /// The names in it are durable up to here.
    pub synced: u64,
    /// Something of it may not be durable: a name in it, its mode or times.
    pub unsynced: bool,
    /// Its headers are not.
    pub new_header: bool,
    /// It is a share of its own now. Only who has it open still sees what was in it; whoever else asks hears ESTALE, for
    /// which the kernel looks the path up anew.
    pub gone: bool,
    /// What moved into it while it was on no list: their locators are to be durable before it is recorded.
    pub moved: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub store: StoreName,
    /// The folder whose key opens the name.
    pub under: NodeId,
    pub epoch: Epoch,
    pub plain: Vec<u8>,
    pub folder: bool,
    /// As the records or its headers say; empty until one of them was read. A folder has one for each of its headers.
    pub ids: Vec<EntryId>,
    /// 0: not looked at yet.
    pub ino: u64,
    /// The disk's own number of it; 0: not known. Another number under the same name is another file.
    pub disk: u64,
    /// When the name was made, in [`Tree::seq`].
    pub seq: u64,
}

/// An entry that the records say is there and that is not, or not as it was. It stays in what is observed, so that
/// nobody's damage is signed as our delete.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub store: StoreName,
    pub under: NodeId,
    pub id: EntryId,
    pub locator: Locator,
}

/// The entries of a folder, under the names that they are shown by.
#[derive(Default)]
pub(crate) struct Listing {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    pub shown: HashMap<StoreName, Vec<u8>>,
    pub missing: Vec<Missing>,
    /// Names in the store that open under no key.
    pub hidden: BTreeSet<OsString>,
}

impl Entry {
    pub fn id(&self) -> Option<EntryId> {
        self.ids.first().copied()
    }
}

impl Listing {
    /// Adds an entry under its own name, or, where that is taken, as `name (2)` and so on.
    pub fn add(&mut self, entry: Entry) {
        let mut shown = entry.plain.clone();
        let mut number = 2u32;
        while self.entries.contains_key(&shown) {
            let suffix = format!(" ({number})");
            shown = entry.plain.clone();
            truncate(&mut shown, crate::format::name::MAX - suffix.len());
            shown.extend_from_slice(suffix.as_bytes());
            number += 1;
        }
        self.shown.insert(entry.store.clone(), shown.clone());
        self.entries.insert(shown, entry);
    }

    pub fn remove(&mut self, shown: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(shown)?;
        self.shown.remove(&entry.store);
        Some(entry)
    }

    pub fn by_store(&self, store: &StoreName) -> Option<&Entry> {
        self.entries.get(self.shown.get(store)?)
    }

    pub fn by_store_mut(&mut self, store: &StoreName) -> Option<&mut Entry> {
        self.entries.get_mut(self.shown.get(store)?)
    }
}

/// Why a file is not what a folder is needed for: a junction shows an empty one that nobody can write to.
fn no_folder(file: &FileRef) -> i32 {
    if file.file.kind == Kind::Share { libc::EROFS } else { libc::ENOTDIR }
}

/// Cuts a name, between characters where it is text.
pub(crate) fn truncate(name: &mut Vec<u8>, most: usize) {
    if name.len() > most {
        let end = match std::str::from_utf8(name) {
            Ok(text) => text.floor_char_boundary(most),
            Err(_) => most,
        };
        name.truncate(end);
    }
}

impl Tree {
    pub fn new(root: Folder) -> Self {
        let folders = root.headers.iter().map(|(node, _)| (*node, ROOT)).collect();
        Self {
            nodes: HashMap::from([(ROOT, Node::Folder(Box::new(root)))]),
            files: HashMap::new(),
            folders,
            next: ROOT + 1,
            seq: 0,
            synced: 0,
            pinned: false,
            list_step: 0,
            gone: HashSet::new(),
        }
    }

    pub fn new_ino(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub fn folder(&self, ino: u64) -> Result<&Folder> {
        match self.nodes.get(&ino) {
            Some(Node::Folder(folder)) if !folder.gone => Ok(folder),
            Some(Node::Folder(_)) => Err(Error::Errno(libc::ESTALE)),
            Some(Node::File(file)) => Err(Error::Errno(no_folder(file))),
            None => Err(Error::Errno(libc::ESTALE)),
        }
    }

    pub fn folder_mut(&mut self, ino: u64) -> Result<&mut Folder> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Folder(folder)) if !folder.gone => Ok(folder),
            Some(Node::Folder(_)) => Err(Error::Errno(libc::ESTALE)),
            Some(Node::File(file)) => Err(Error::Errno(no_folder(file))),
            None => Err(Error::Errno(libc::ESTALE)),
        }
    }

    pub fn file(&self, ino: u64) -> Result<&FileRef> {
        match self.nodes.get(&ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(Error::Errno(libc::EISDIR)),
            None => Err(Error::Errno(libc::ESTALE)),
        }
    }

    /// A listing that is loaded; [`super::Volume`] loads it before.
    pub fn listing(&self, ino: u64) -> Result<&Listing> {
        match self.nodes.get(&ino) {
            // Also of one that is gone.
            Some(Node::Folder(folder)) => folder.listing.as_ref().ok_or(Error::Errno(libc::EIO)),
            _ => self.folder(ino)?.listing.as_ref().ok_or(Error::Errno(libc::EIO)),
        }
    }

    pub fn listing_mut(&mut self, ino: u64) -> Result<&mut Listing> {
        self.folder_mut(ino)?.listing.as_mut().ok_or(Error::Errno(libc::EIO))
    }

    pub fn entry(&self, parent: u64, shown: &[u8]) -> Result<&Entry> {
        self.listing(parent)?.entries.get(shown).ok_or(Error::Errno(libc::ENOENT))
    }

    pub fn entry_mut(&mut self, parent: u64, shown: &[u8]) -> Result<&mut Entry> {
        self.listing_mut(parent)?.entries.get_mut(shown).ok_or(Error::Errno(libc::ENOENT))
    }

    /// Where a folder lies in the store.
    pub fn folder_path(&self, ino: u64) -> Result<PathBuf> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let place = self.folder(at)?.place.as_ref().ok_or(Error::Errno(libc::ENOENT))?;
            names.push(place.store.as_str());
            at = place.parent;
        }
        let mut path = PathBuf::from(TREE);
        path.extend(names.into_iter().rev());
        Ok(path)
    }

    pub fn path_at(&self, parent: u64, store: &StoreName) -> Result<PathBuf> {
        Ok(self.folder_path(parent)?.join(store.as_str()))
    }

    /// Where a file lies in the store: one of its names. `None`: it is unlinked.
    pub fn file_path(&self, ino: u64) -> Result<Option<PathBuf>> {
        self.file(ino)?.places.first().map(|p| self.path_at(p.parent, &p.store)).transpose()
    }

    /// What the mount shows a folder as, for messages.
    pub fn shown_folder(&self, ino: u64) -> PathBuf {
        let mut names = Vec::new();
        let mut at = ino;
        while let Ok(Folder { place: Some(place), .. }) = self.folder(at) {
            let shown = self.listing(place.parent).ok().and_then(|l| l.shown.get(&place.store).cloned());
            names.push(OsString::from_vec(shown.unwrap_or_else(|| b"?".to_vec())));
            at = place.parent;
        }
        names.into_iter().rev().collect()
    }

    pub fn shown_at(&self, parent: u64, store: &StoreName) -> PathBuf {
        let shown = self.listing(parent).ok().and_then(|l| l.shown.get(store).cloned());
        self.shown_folder(parent).join(OsString::from_vec(shown.unwrap_or_else(|| b"?".to_vec())))
    }

    pub fn shown_file(&self, ino: u64) -> PathBuf {
        let place = self.file(ino).ok().and_then(|f| f.places.first().cloned());
        place.map_or_else(|| PathBuf::from("(unlinked)"), |p| self.shown_at(p.parent, &p.store))
    }

    /// The header that new names in a folder are sealed under.
    pub fn node_of(&self, ino: u64) -> Result<NodeId> {
        let folder = self.folder(ino)?;
        folder.headers.first().map(|(node, _)| *node).ok_or(Error::Errno(libc::EIO))
    }

    /// Another name for a file that is in the table, or a folder's new place.
    pub fn attach(&mut self, ino: u64, place: Place) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) if !file.places.contains(&place) => file.places.push(place),
            Some(Node::File(_)) | None => {}
            Some(Node::Folder(folder)) => folder.place = Some(place),
        }
    }

    pub fn detach(&mut self, ino: u64, place: &Place) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => file.places.retain(|p| p != place),
            Some(Node::Folder(folder)) if folder.place.as_ref() == Some(place) => folder.place = None,
            _ => {}
        }
    }

    /// The kernel forgets so many of its looks. What nobody needs leaves the table.
    pub fn forget(&mut self, ino: u64, count: u64) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => file.lookups = file.lookups.saturating_sub(count),
            Some(Node::Folder(folder)) => folder.lookups = folder.lookups.saturating_sub(count),
            None => {}
        }
        self.drop_unused(ino);
    }

    pub fn drop_unused(&mut self, ino: u64) {
        let Some(Node::File(file)) = self.nodes.get(&ino) else { return };
        // A junction stays, so that the kernel can be told where it is when its share comes or goes.
        let junction = file.file.kind == Kind::Share && !file.places.is_empty();
        if self.pinned
            || self.gone.contains(&ino)
            || junction
            || file.lookups > 0
            || Arc::strong_count(&file.file) > 1
            || !file.file.is_idle()
        {
            return;
        }
        for place in file.places.clone() {
            if let Ok(listing) = self.listing_mut(place.parent)
                && let Some(entry) = listing.by_store_mut(&place.store)
                && entry.ino == ino
            {
                entry.ino = 0;
            }
        }
        if let Some(Node::File(file)) = self.nodes.remove(&ino)
            && self.files.get(&file.file.id) == Some(&ino)
        {
            self.files.remove(&file.file.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(store: &str, plain: &[u8]) -> Entry {
        Entry {
            store: StoreName::parse(store).unwrap(),
            under: NodeId::from_bytes([1; 16]),
            epoch: Epoch::FIRST,
            plain: plain.to_vec(),
            folder: false,
            ids: Vec::new(),
            ino: 0,
            disk: 0,
            seq: 0,
        }
    }

    #[test]
    fn names_that_are_alike_are_told_apart() {
        let mut listing = Listing::default();
        let long = "ü".repeat(127);
        for (store, plain) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", &long), ("e", &long)] {
            listing.add(entry(store, plain.as_bytes()));
        }
        let shown = |store: &str| String::from_utf8(listing.shown[&StoreName::parse(store).unwrap()].clone()).unwrap();
        assert_eq!([shown("a"), shown("b"), shown("c")], ["x", "x (2)", "x (3)"]);
        assert!(shown("e").ends_with("ü (2)") && shown("e").len() <= 255);
    }
}
