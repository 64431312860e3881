//! The engine: from signed records to one tree, and from what a device's disk shows to records.
//!
//! Pure: no clock, no I/O, no randomness. Events come in by `handle_*`, what to do goes out by `poll_*`. The tree is
//! a function of the records held and of the bodies that are whole here; nothing depends on the order of arrival.

mod heads;
mod observation;
mod steps;

pub use heads::{Head, Heads};
pub use observation::{EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder};
pub use steps::{Done, Spot, Step, StepId};

use std::collections::HashSet;

use keymgr::ids::{DeviceId, FileId, Locator, NodeId, RecordHash, Root, ShareId, StoreName};

use crate::record::{Content, Entry, Kind, Place, Record};
use disk::DiskNode;

pub mod disk;

/// What became of a record that was handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It counts now.
    New,
    /// Seen before, or forgotten since.
    Known,
    /// Earlier ones of this author are missing; it was not kept, bring it again after them.
    Early { expected: u64 },
    /// Another record with this number and author counts: the author's log forked. This one counts too.
    Fork,
}

/// A body that records name and that is not here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub content: Content,
    pub node: NodeId,
    /// What this disk shows of the same node and lineage: a base for a delta.
    pub base: Option<Content>,
}

/// What only a writer with keys can put in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unsettled {
    /// Contents set apart: the loser becomes a file of its own. `copy_as(loser.root's body, file)`,
    /// `conflict_name(place.parent, place.name, file, label of by)`.
    Contents {
        node: NodeId,
        record: RecordHash,
        loser: Content,
        by: DeviceId,
        place: Place,
        copy: NodeId,
        file: FileId,
    },
    /// A name that another entry keeps: `conflict_name(place.parent, place.name, id, label of by)`.
    Name { node: NodeId, place: Place, id: EntryId, by: DeviceId },
    /// A name or locator sealed for another folder or file: `reseal(place.parent, place.name, to, id)`.
    Seal { node: NodeId, place: Place, to: NodeId, id: EntryId },
}

/// What the keys gave for an [`Unsettled`]: the new name and its locator, and for contents the copy's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    pub name: StoreName,
    pub locator: Locator,
    pub copy: Option<Content>,
}

/// What is no longer held, after [`Engine::forget`] or [`Engine::handle_snapshot`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    pub records: Vec<RecordHash>,
}

pub struct Engine {
    share: ShareId,
    me: DeviceId,
    can_write: bool,
}

impl Engine {
    pub fn new(share: ShareId, me: DeviceId, can_write: bool) -> Self {
        Self { share, me, can_write }
    }

    // ---- what came

    /// Before the log is read back: how far it was read, and under which floor records were forgotten.
    pub fn restore(&mut self, _heads: Heads, _floor: Heads) {}

    /// A record whose signature and author were verified; from the log, from a peer, or just signed here.
    pub fn handle_record(&mut self, _entry: Entry) -> Taken {
        Taken::New
    }

    /// The body with this root is whole here, be it in the tree or beside it.
    pub fn handle_body(&mut self, _root: Root) {}

    /// It is no longer kept beside the tree.
    pub fn handle_body_gone(&mut self, _root: Root) {}

    /// A device's own signed heads, from itself or from another.
    pub fn handle_peer_heads(&mut self, _device: DeviceId, _heads: &Heads) {}

    /// A peer with `heads` whose floor lies above this device's heads holds `held` and nothing else, all of which was
    /// handed in by `handle_record` or is held: what it has seen and holds no more was replaced or deleted.
    pub fn handle_snapshot(&mut self, _heads: &Heads, _floor: &Heads, _held: &HashSet<RecordHash>) -> Forgotten {
        Forgotten::default()
    }

    // ---- what the disk shows

    /// As the index kept it, after the records and bodies.
    pub fn load_disk(&mut self, _nodes: impl IntoIterator<Item = (NodeId, DiskNode)>) {}

    /// What changed of it since the last call, for the index.
    pub fn take_disk_changes(&mut self) -> Vec<(NodeId, Option<DiskNode>)> {
        Vec::new()
    }

    /// Where there is no index: a listing of every folder, every file with its root. What records explain is taken
    /// as shown by them; anything else is left, and is authored only if fs observes it.
    pub fn adopt(&mut self, _scan: &Observation) {}

    /// Drafts of records for what fs did. The caller signs them in this order with consecutive numbers, makes them
    /// durable and hands them back by `handle_record` before the next call.
    pub fn author(&mut self, _seen: &Observation) -> Vec<Record> {
        Vec::new()
    }

    // ---- what to do

    /// The next step that brings the disk to what the records show. Several may be under way.
    pub fn poll_step(&mut self) -> Option<(StepId, Step)> {
        None
    }

    pub fn handle_done(&mut self, _step: StepId, _done: Done) {}

    /// Steps that were refused or found busy are tried again.
    pub fn retry(&mut self) {}

    pub fn wanted(&self) -> Vec<Wanted> {
        Vec::new()
    }

    /// Whether a body must be kept though the tree does not show it.
    pub fn needs(&self, _root: &Root) -> bool {
        true
    }

    /// Conflicts and names to be settled by a writer; a reader and a blind device list them.
    pub fn unsettled(&self) -> Vec<Unsettled> {
        Vec::new()
    }

    /// Drafts, to be treated as those of [`Self::author`]. Empty where it was settled meanwhile. The body of a copy
    /// must have been handed in before.
    pub fn settle(&mut self, _what: &Unsettled, _how: &Settled) -> Vec<Record> {
        Vec::new()
    }

    // ---- questions

    pub fn heads(&self) -> &Heads {
        unimplemented!()
    }

    pub fn floor(&self) -> &Heads {
        unimplemented!()
    }

    pub fn holds(&self, _record: &RecordHash) -> bool {
        false
    }

    /// All records that are held; a snapshot is these and [`Self::heads`].
    pub fn held(&self) -> impl Iterator<Item = RecordHash> {
        std::iter::empty()
    }

    /// Drops what every one of `listed` is known to have seen the end of.
    pub fn forget(&mut self, _listed: &[DeviceId]) -> Forgotten {
        Forgotten::default()
    }

    /// What the records say of a file that this disk shows.
    pub fn disk_file(&self, _file: &FileId) -> Option<Content> {
        None
    }

    /// What the records say is in a directory of this disk (all of its headers), by store name.
    pub fn disk_folder(&self, _node: &NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        None
    }

    /// The store names from the share's root down to a folder or file of this disk (its first name).
    pub fn disk_path(&self, _node: &NodeId) -> Option<Vec<StoreName>> {
        None
    }

    /// The store names from the share's root down to a spot: where a step finds or puts an entry.
    pub fn spot_path(&self, _spot: &Spot) -> Option<Vec<StoreName>> {
        None
    }

    pub fn node_of(&self, _file: &FileId) -> Option<NodeId> {
        None
    }

    pub fn kind(&self, _node: &NodeId) -> Option<Kind> {
        None
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    pub fn me(&self) -> DeviceId {
        self.me
    }

    pub fn can_write(&self) -> bool {
        self.can_write
    }
}
