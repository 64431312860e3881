//! What fs asks of whoever keeps the records, and what it tells: the two traits by which it stays without a network.
//!
//! Both are called from the threads that serve file operations, with the gate open for reading: an implementation must
//! not wait for anything that waits for the gate ([`crate::volume::Volume::gate`]), and must not call the volume.

use std::path::PathBuf;

use keymgr::ids::{FileId, NodeId, Root, StoreName};
use keymgr::root::Groups;

use crate::content::Kind;

/// What an entry of a folder is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntryId {
    File(FileId),
    Folder(NodeId),
}

impl EntryId {
    pub fn as_bytes(&self) -> &[u8; 16] {
        match self {
            EntryId::File(id) => id.as_bytes(),
            EntryId::Folder(id) => id.as_bytes(),
        }
    }
}

/// The ciphertext of a file as its record says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedFile {
    pub length: u64,
    pub root: Root,
    /// Where they are at hand. Without them the whole file is read before its first use.
    pub groups: Option<Groups>,
}

/// What the records say that this disk shows now.
pub trait Records: Send + Sync {
    /// `None`: not recorded.
    fn file(&self, file: FileId) -> Option<RecordedFile>;
    /// What kind of file that is, where it is recorded: with it a listing needs no header.
    fn kind(&self, _file: FileId) -> Option<Kind> {
        None
    }
    /// What lies in the directory that holds this folder's header, under all of its headers. `None`: not recorded.
    ///
    /// A directory with several headers stands in its parent's list once for each of them, under one name.
    fn folder(&self, node: NodeId) -> Option<Vec<(StoreName, EntryId)>>;
    /// Whether that folder is recorded.
    fn has_folder(&self, node: NodeId) -> bool {
        self.folder(node).is_some()
    }
}

/// Hears of what happens in a volume. The calls are short and come from the middle of file operations.
pub trait Feed: Send + Sync {
    /// There is something for [`crate::volume::Volume::observe`], a moment from now.
    fn changed(&self);
    /// Something differs from its record, or does not prove itself.
    fn refused(&self, _what: &Refusal) {}
}

/// What was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// As the mount shows it.
    pub shown: PathBuf,
    /// In the store.
    pub path: PathBuf,
    pub id: Option<EntryId>,
    pub why: String,
}

/// A vault without records: everything is new.
pub struct Unrecorded;

impl Records for Unrecorded {
    fn file(&self, _: FileId) -> Option<RecordedFile> {
        None
    }

    fn folder(&self, _: NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        None
    }
}

/// Nobody listens.
pub struct Deaf;

impl Feed for Deaf {
    fn changed(&self) {}
}
