//! What this device's disk shows, as far as steps and observations told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keymgr::ids::{FileId, NodeId, RecordHash, Root, StoreName};
use serde::{Deserialize, Serialize};

use super::{EntryId, Spot};
use crate::record::{Content, Kind, Place};

/// One node as the disk shows it. Plain data: the index keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskNode {
    pub kind: Kind,
    pub places: Vec<DiskPlace>,
    pub places_from: Option<RecordHash>,
    pub content: Option<Content>,
    pub content_from: Option<RecordHash>,
    pub attrs: Vec<u8>,
    pub attrs_from: Option<RecordHash>,
    /// The records whose state this is: what an edit replaces.
    pub basis: Vec<RecordHash>,
}

/// A place by the records, and the entry of the disk that stands for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct DiskPlace {
    pub place: Place,
    /// `None`: another entry has the name.
    pub spot: Option<Spot>,
    /// It hangs at the root, or waits aside: fs cannot open its name, and that no listing has it means nothing.
    pub aside: bool,
}

impl DiskNode {
    pub fn spots(&self) -> impl Iterator<Item = &Spot> {
        self.places.iter().filter_map(|p| p.spot.as_ref())
    }

    pub fn id(&self, node: NodeId) -> EntryId {
        self.content.map_or(EntryId::Folder(node), |c| EntryId::File(c.file))
    }
}

/// All of it, with the ways to find things.
pub(super) struct Disk {
    root: NodeId,
    nodes: HashMap<NodeId, DiskNode>,
    entries: HashMap<NodeId, BTreeMap<StoreName, Vec<NodeId>>>,
    files: HashMap<FileId, NodeId>,
    roots: HashMap<Root, usize>,
    changed: BTreeSet<NodeId>,
}

impl Disk {
    pub fn new(root: NodeId) -> Self {
        let mut disk = Self {
            root,
            nodes: HashMap::new(),
            entries: HashMap::new(),
            files: HashMap::new(),
            roots: HashMap::new(),
            changed: BTreeSet::new(),
        };
        disk.put(
            root,
            DiskNode {
                kind: Kind::Folder,
                places: Vec::new(),
                places_from: None,
                content: None,
                content_from: None,
                attrs: Vec::new(),
                attrs_from: None,
                basis: Vec::new(),
            },
        );
        disk.changed.clear();
        disk
    }

    pub fn get(&self, node: &NodeId) -> Option<&DiskNode> {
        self.nodes.get(node)
    }

    pub fn has(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &DiskNode)> {
        self.nodes.iter()
    }

    pub fn node_of(&self, file: &FileId) -> Option<NodeId> {
        self.files.get(file).copied()
    }

    pub fn has_body(&self, root: &Root) -> bool {
        self.roots.contains_key(root)
    }

    /// Sets a node. Returns what it was, and the bodies (by root) that the disk shows now or no more.
    pub fn put(&mut self, node: NodeId, new: DiskNode) -> Vec<Root> {
        let mut changed = self.unlink(&node);
        for spot in new.spots() {
            let at = self.entries.entry(spot.folder).or_default().entry(spot.name.clone()).or_default();
            if !at.contains(&node) {
                at.push(node);
            }
        }
        if let Some(content) = new.content {
            self.files.insert(content.file, node);
            *self.roots.entry(content.root).or_default() += 1;
            changed.push(content.root);
        }
        self.nodes.insert(node, new);
        self.changed.insert(node);
        changed
    }

    pub fn remove(&mut self, node: &NodeId) -> Vec<Root> {
        let changed = self.unlink(node);
        self.nodes.remove(node);
        self.changed.insert(*node);
        changed
    }

    fn unlink(&mut self, node: &NodeId) -> Vec<Root> {
        let Some(old) = self.nodes.get(node) else { return Vec::new() };
        for spot in old.places.iter().filter_map(|p| p.spot.as_ref()) {
            let Some(folder) = self.entries.get_mut(&spot.folder) else { continue };
            if let Some(at) = folder.get_mut(&spot.name) {
                at.retain(|n| n != node);
                if at.is_empty() {
                    folder.remove(&spot.name);
                }
            }
            if folder.is_empty() {
                self.entries.remove(&spot.folder);
            }
        }
        let Some(content) = old.content else { return Vec::new() };
        if self.files.get(&content.file) == Some(node) {
            self.files.remove(&content.file);
        }
        if let Some(count) = self.roots.get_mut(&content.root) {
            *count -= 1;
            if *count == 0 {
                self.roots.remove(&content.root);
            }
        }
        vec![content.root]
    }

    /// Who has an entry; several folders where a directory has several headers.
    pub fn at(&self, spot: &Spot) -> &[NodeId] {
        self.entries.get(&spot.folder).and_then(|f| f.get(&spot.name)).map_or(&[], Vec::as_slice)
    }

    /// The entries that lie under one header.
    pub fn children(&self, folder: &NodeId) -> impl Iterator<Item = (&StoreName, NodeId)> + '_ {
        let names = self.entries.get(folder).into_iter().flatten();
        names.flat_map(|(name, nodes)| nodes.iter().map(move |n| (name, *n)))
    }

    /// Their names, each once: a directory with several headers is one entry.
    pub fn names(&self, folder: &NodeId) -> Vec<StoreName> {
        self.entries.get(folder).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    pub fn is_empty(&self, folder: &NodeId) -> bool {
        !self.entries.contains_key(folder)
    }

    /// The headers that share a folder's directory, itself among them.
    pub fn headers(&self, folder: &NodeId) -> Vec<NodeId> {
        let spot = self.nodes.get(folder).and_then(|n| n.spots().next());
        let all = spot.map_or(&[][..], |s| self.at(s));
        let mut headers: Vec<NodeId> =
            all.iter().filter(|n| self.nodes.get(n).is_some_and(|d| d.kind == Kind::Folder)).copied().collect();
        if headers.is_empty() {
            headers.push(*folder);
        }
        headers.sort();
        headers
    }

    /// From a folder up to the root, itself first, the root not among them. `None`: it is not connected.
    pub fn above(&self, folder: &NodeId) -> Option<Vec<NodeId>> {
        let mut path = Vec::new();
        let mut at = *folder;
        while at != self.root {
            if path.contains(&at) {
                return None;
            }
            path.push(at);
            at = self.nodes.get(&at)?.spots().next()?.folder;
        }
        Some(path)
    }

    pub fn path(&self, spot: &Spot) -> Option<Vec<StoreName>> {
        let mut path = vec![spot.name.clone()];
        for folder in self.above(&spot.folder)? {
            path.push(self.nodes.get(&folder)?.spots().next()?.name.clone());
        }
        path.reverse();
        Some(path)
    }

    pub fn take_changed(&mut self) -> Vec<(NodeId, Option<DiskNode>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|n| (n, self.nodes.get(&n).cloned())).collect()
    }
}
