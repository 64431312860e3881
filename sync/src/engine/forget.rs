//! Forgetting: what every listed device has seen the end of is dropped, and a snapshot says what that was.

use std::collections::{BTreeSet, HashSet};

use keymgr::ids::{DeviceId, NodeId, RecordHash};

use super::{Engine, Heads};
use crate::record::Content;

/// Records that are no longer held; the log drops them too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    pub records: Vec<RecordHash>,
}

impl Engine {
    /// A device's own signed heads, from itself or passed on: how far it has read every author.
    pub fn handle_peer_heads(&mut self, device: DeviceId, heads: &Heads) {
        if device != self.me {
            self.acks.entry(device).or_default().merge(heads);
        }
    }

    /// A device that is listed no more, or that began anew: what it said it had seen does not count.
    pub fn handle_peer_gone(&mut self, device: &DeviceId) {
        self.acks.remove(device);
    }

    /// Drops what every one of `listed` is known to have seen the end of. Afterwards [`Self::heads`] and
    /// [`Self::floor`] must be durable before the records are dropped from the log.
    pub fn forget(&mut self, listed: &[DeviceId]) -> Forgotten {
        self.refresh();
        let mut stable = self.heads.clone();
        for device in listed.iter().filter(|d| **d != self.me) {
            match self.acks.get(device) {
                // Something that it wrote apart may still be on its way: it decides what is stale.
                Some(heads) if !self.heads.covers_all_but(heads, &self.gone) => return Forgotten::default(),
                Some(heads) => stable = stable.meet(heads),
                None => return Forgotten::default(),
            }
        }
        let mut gone = Vec::new();
        for (id, node) in &self.nodes {
            let is_stable = |h: &RecordHash| node.records.get(h).is_some_and(|r| stable.covers(&r.author, r.number));
            let tops = node.tops();
            if tops.len() != node.shown.heads.len() || !tops.iter().all(is_stable) {
                continue; // a newer version has no body here yet, or is not known to all
            }
            if !node.shown.live {
                let busy = |child: NodeId| self.nodes.get(&child).is_some_and(|n| n.shown.live);
                // While the disk still shows it, a scan must find out that it is to go.
                if !self.tree.children(id).any(busy) && !self.disk.has(id) {
                    gone.extend(node.records.keys().copied());
                    continue;
                }
            }
            // What the disk still shows is the base of an edit that may come, and of a scan.
            let stale = self.disk.get(id).is_some_and(|d| d.basis != node.shown.cover);
            if let [only] = tops
                && !stale
            {
                gone.extend(node.records.keys().filter(|h| *h != only && is_stable(h)).copied());
            }
        }
        self.floor.merge(&stable);
        self.drop_records(gone)
    }

    /// The snapshot of a full device: with `floor`, `held` is all that it holds, and every record of that was handed
    /// in by [`Self::handle_held`] or is held here. What lies under its floor and is not among them was replaced or
    /// deleted, and everyone listed knew.
    pub fn handle_snapshot(&mut self, heads: &Heads, floor: &Heads, held: &HashSet<RecordHash>) -> Forgotten {
        self.refresh();
        let mut gone = Vec::new();
        for (id, node) in self.nodes.iter_mut().filter(|_| self.rules.frontier) {
            let mut doomed = Vec::new();
            let pending = node.tops().len() > node.shown.heads.len();
            for (hash, record) in &node.records {
                // The newest version that is whole here stays until a newer one is.
                let based = self.disk.get(id).is_some_and(|d| d.basis.contains(hash) && d.basis != node.shown.cover);
                let shown = based || (pending && node.shown.heads.contains(hash));
                // And a scan must find out that what the disk still shows is to go.
                if !node.shown.live && self.disk.has(id) && self.tree.entries(id).is_empty() {
                    continue;
                }
                if floor.covers(&record.author, record.number) && !held.contains(hash) {
                    if shown { doomed.push(*hash) } else { gone.push(*hash) }
                }
            }
            doomed.into_iter().for_each(|hash| node.doom(hash));
        }
        self.heads.merge(heads);
        self.floor.merge(floor);
        // Members that were missing of a group may be known to be forgotten now.
        let tied = |h: &RecordHash, node: &super::node::Node| {
            node.records.get(h).is_some_and(|held| held.record.together.is_some())
        };
        let groups = self.nodes.iter().filter(|(_, node)| node.tops().iter().any(|h| tied(h, node)));
        self.dirty.extend(groups.map(|(id, _)| *id));
        self.drop_records(gone)
    }

    /// Records that a snapshot ended and that are held as long as nothing else can be shown; durable with the floor.
    pub fn doomed(&self) -> impl Iterator<Item = RecordHash> + '_ {
        self.nodes.values().flat_map(|node| node.doomed())
    }

    /// As it was, after the log was read back.
    pub fn restore_doomed(&mut self, records: impl IntoIterator<Item = RecordHash>) {
        for hash in records {
            if let Some(node) = self.by_hash.get(&hash).and_then(|id| self.nodes.get_mut(id)) {
                node.doom(hash);
            }
        }
    }

    pub(super) fn drop_records(&mut self, records: Vec<RecordHash>) -> Forgotten {
        let mut nodes = BTreeSet::new();
        let mut contents = Vec::new();
        for hash in &records {
            let Some(id) = self.by_hash.remove(hash) else { continue };
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let Some(held) = node.records.remove(hash) else { continue };
            if let Some(numbers) = self.numbers.get_mut(&held.author) {
                numbers.remove(&held.number);
            }
            contents.extend(held.record.content().map(|c| (id, *c)));
            nodes.insert(id);
        }
        for (id, content) in contents {
            let still = |f: &dyn Fn(&Content) -> bool| {
                let node = self.nodes.get(&id);
                node.is_some_and(|n| n.records.values().filter_map(|h| h.record.content()).any(f))
            };
            if !still(&|c| c.file == content.file) && self.by_file.get(&content.file) == Some(&id) {
                self.by_file.remove(&content.file);
            }
            if !still(&|c| c.root == content.root)
                && let Some(named) = self.by_root.get_mut(&content.root)
            {
                named.remove(&id);
                if named.is_empty() {
                    self.by_root.remove(&content.root);
                }
            }
        }
        for id in nodes {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.reconsider();
            }
            self.dirty.insert(id);
        }
        Forgotten { records }
    }
}
