//! What the disk does not show as the records say, though nobody who may changed it: damage, which is healed and never
//! authored.

use keymgr::ids::NodeId;

use super::disk::DiskNode;
use super::steps::{Plan, Target, Wait};
use super::{Engine, EntryId, Step};
use crate::record::Content;

impl Engine {
    /// A node's entries were found gone, or were taken away because they were not what the records say; with a folder
    /// all that was in it. Steps bring it back.
    pub fn handle_lost(&mut self, node: &NodeId) {
        if *node == self.root || !self.disk.has(node) {
            return;
        }
        let children: Vec<NodeId> = self.disk.children(node).map(|(_, n)| n).collect();
        for child in children {
            self.handle_lost(&child);
        }
        self.remove_disk(node);
        self.requeue(*node);
    }

    /// A file's ciphertext or a folder's header was refused. It stays where it is until a step can put what the records
    /// say in its place. `all`: a directory is gone, with all that was in it.
    pub fn handle_damaged(&mut self, node: &NodeId, all: bool) {
        if *node == self.root || !self.disk.has(node) {
            return;
        }
        if all {
            let children: Vec<NodeId> = self.disk.children(node).map(|(_, n)| n).collect();
            children.iter().for_each(|child| self.handle_damaged(child, true));
        }
        self.damaged.insert(*node);
        self.requeue(*node);
    }

    /// Whether what lies there was refused, and is not healed yet.
    pub fn is_damaged(&self, node: &NodeId) -> bool {
        self.damaged.contains(node)
    }

    /// Bodies that damage took from the tree, and that are not beside it.
    pub(super) fn damaged_bodies(&self) -> impl Iterator<Item = (NodeId, Content)> + '_ {
        let contents = self.damaged.iter().filter_map(|node| Some((*node, self.disk.get(node)?.content?)));
        contents.filter(|(_, content)| !self.bodies.contains(&content.root))
    }

    /// What heals a node, where it is damaged and that can be done now.
    pub(super) fn plan_heal(&self, node: &NodeId, disk: &DiskNode, target: &Target) -> Option<Plan> {
        if !self.damaged.contains(node) {
            return None;
        }
        let places = disk.places.iter().filter_map(|p| Some((p.spot.clone()?, p.place.locator)));
        let at: Vec<_> = places.collect();
        let above = self.disk.above(&at.first()?.0.folder)?;
        if let Some(folder) = above.iter().rev().find(|folder| self.damaged.contains(folder)) {
            return Some(Plan::Wait(Wait::Folder(*folder)));
        }
        let shows = &target.disk;
        let Some(content) = disk.content else {
            let (at, locator) = at.into_iter().next()?;
            let (attrs, attrs_from) = (shows.attrs.clone(), shows.attrs_from);
            let after = DiskNode { attrs: attrs.clone(), attrs_from, ..disk.clone() };
            return Some(Plan::step(Step::HealFolder { node: *node, at, locator, attrs }, Some(after)));
        };
        if shows.content != Some(content) || !self.bodies.contains(&content.root) {
            return None; // Another body comes in any case; or this one has to come first.
        }
        let attrs = if disk.attrs_from == shows.attrs_from { disk.attrs.clone() } else { shows.attrs.clone() };
        let after = DiskNode { attrs: attrs.clone(), attrs_from: shows.attrs_from, ..disk.clone() };
        let step = Step::HealFile { node: *node, at, content, attrs, attrs_for: target.attrs_for };
        Some(Plan::step(step, Some(after)))
    }

    /// A step healed a node. Whoever damaged it may have left another time on the folder that it is in.
    pub(super) fn healed(&mut self, node: &NodeId) {
        self.damaged.remove(node);
        self.came(node);
        let folders: Vec<NodeId> =
            self.disk.get(node).into_iter().flat_map(DiskNode::spots).map(|s| s.folder).collect();
        for folder in folders {
            let Some(shown) = self.disk.get(&folder).cloned() else { continue };
            self.put_disk(folder, DiskNode { attrs: Vec::new(), attrs_from: None, ..shown });
            self.requeue(folder);
        }
    }

    /// The folders above an entry of this disk, from the topmost down; not the root.
    pub fn disk_above(&self, node: &NodeId) -> Vec<NodeId> {
        let folder = self.disk.get(node).and_then(|shown| shown.spots().next()).map(|spot| spot.folder);
        let mut above = folder.and_then(|folder| self.disk.above(&folder)).unwrap_or_default();
        above.reverse();
        above
    }

    /// The node of an entry that this disk shows.
    pub fn disk_node_of(&self, id: &EntryId) -> Option<NodeId> {
        match id {
            EntryId::File(file) => self.disk.node_of(file),
            EntryId::Folder(node) => self.disk.has(node).then_some(*node),
        }
    }
}
