//! What the disk no longer shows, though nobody who may deleted it: damage, which is mended and never authored.

use keymgr::ids::NodeId;

use super::{Engine, EntryId};

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

    /// The node of an entry that this disk shows.
    pub fn disk_node_of(&self, id: &EntryId) -> Option<NodeId> {
        match id {
            EntryId::File(file) => self.disk.node_of(file),
            EntryId::Folder(node) => self.disk.has(node).then_some(*node),
        }
    }
}
