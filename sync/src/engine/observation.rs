//! What an unlocked fs wrote itself: the only thing that records are made from.

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, Root, StoreName};

use crate::record::{Content, Kind};

/// What changed and has settled. It must be of the disk as every step that is done left it: no step may run
/// between the observation and [`super::Engine::author`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observation {
    pub folders: Vec<ObservedFolder>,
    pub files: Vec<ObservedFile>,
}

/// One directory, completely. A folder that was removed is in no listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedFolder {
    /// The smallest header in the directory; the share's root has [`NodeId::root_of`].
    pub node: NodeId,
    /// Further headers in the same directory.
    pub also: Vec<NodeId>,
    pub entries: Vec<ObservedEntry>,
    /// Sealed attributes of `node`.
    pub attrs: Vec<u8>,
}

/// One name. A directory with several headers has one entry for each of them, all with the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedEntry {
    pub name: StoreName,
    /// The folder under whose key the name opens.
    pub under: NodeId,
    pub id: EntryId,
    pub locator: Locator,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntryId {
    File(FileId),
    Folder(NodeId),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedFile {
    pub file: FileId,
    pub kind: Kind,
    pub epoch: Epoch,
    pub lineage: LineageId,
    pub length: u64,
    pub root: Root,
    pub attrs: Vec<u8>,
}

impl ObservedFile {
    pub fn content(&self) -> Content {
        Content { file: self.file, epoch: self.epoch, lineage: self.lineage, length: self.length, root: self.root }
    }
}
