//! From the states of all nodes to one tree: dead folders that something lives in, cycles, equal names.
//!
//! Kept up to date node by node: a change costs the names of that node, and of what hangs on it only where a folder
//! appears, goes, or closes a cycle.

use std::collections::{BTreeSet, HashMap, HashSet};

use keymgr::ids::{NodeId, RecordHash};

use super::node::Shown;
use super::{Rules, Spot};
use crate::record::{Kind, Place};

#[derive(Default)]
pub(super) struct Tree {
    root: Option<NodeId>,
    rules: Rules,
    nodes: HashMap<NodeId, Leaf>,
    /// By the parent that records name: who says that it is there.
    children: HashMap<NodeId, BTreeSet<NodeId>>,
    /// By the folder where it is shown: who claims a name.
    slots: HashMap<Spot, Vec<Claim>>,
    /// Names of several claims.
    crowded: BTreeSet<Spot>,
    /// Nodes that hang at the root, away from where their records say.
    hung: BTreeSet<NodeId>,
    /// Members of cycles, and where theirs is cut.
    cycles: HashMap<NodeId, NodeId>,
    /// Nodes whose part of the tree changed.
    touched: BTreeSet<NodeId>,
}

/// What the tree has of a node.
#[derive(Clone, Default)]
struct Leaf {
    live: bool,
    folder: bool,
    places: Vec<Place>,
    places_from: Option<RecordHash>,
    /// Children that keep a dead folder here.
    support: usize,
    /// What it adds to the tree now.
    given: Vec<(Place, Spot)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Claim {
    /// The place's source, then the node: the greatest keeps the name.
    rank: (Option<RecordHash>, NodeId),
    folder: bool,
}

impl Tree {
    pub fn new(root: NodeId, rules: Rules) -> Self {
        let mut tree = Self { root: Some(root), rules, ..Self::default() };
        tree.nodes.insert(root, Leaf { live: true, folder: true, ..Leaf::default() });
        tree
    }

    /// A node's state changed.
    pub fn set(&mut self, node: NodeId, shown: &Shown) {
        self.touched.insert(node);
        if Some(node) == self.root {
            return;
        }
        let folder = shown.kind == Some(Kind::Folder);
        let old = self.nodes.entry(node).or_default();
        let same = old.live == shown.live
            && old.folder == folder
            && old.places == shown.places
            && old.places_from == shown.places_from;
        if same {
            return;
        }
        let was_folder = old.folder && !old.places.is_empty();
        let old_places = std::mem::replace(&mut old.places, shown.places.clone());
        old.live = shown.live;
        old.folder = folder;
        old.places_from = shown.places_from;
        for place in &old_places {
            if let Some(set) = self.children.get_mut(&place.parent) {
                set.remove(&node);
                if set.is_empty() {
                    self.children.remove(&place.parent);
                }
            }
        }
        for place in &shown.places {
            self.children.entry(place.parent).or_default().insert(node);
        }
        if shown.places.is_empty() && !shown.live {
            self.give(node);
            if self.nodes.get(&node).is_some_and(|leaf| leaf.given.is_empty() && leaf.support == 0) {
                self.nodes.remove(&node);
            }
        }
        if folder || was_folder {
            self.recut(node);
        }
        self.give(node);
        if was_folder != (folder && !shown.places.is_empty()) {
            // What names it as its parent hangs there now, or no more.
            let children: Vec<NodeId> = self.children.get(&node).into_iter().flatten().copied().collect();
            children.into_iter().for_each(|child| self.give(child));
        }
    }

    /// Whether a parent is one that things can be shown in.
    fn is_folder(&self, node: &NodeId) -> bool {
        Some(*node) == self.root
            || self.nodes.get(node).is_some_and(|l| l.folder && !l.places.is_empty() && (l.live || self.rules.adddel))
    }

    fn parent(&self, node: &NodeId) -> Option<NodeId> {
        let leaf = self.nodes.get(node).filter(|l| l.folder)?;
        leaf.places.first().map(|place| place.parent)
    }

    /// A folder's parent changed: the cycle that it was in is none, and it may have closed another.
    fn recut(&mut self, node: NodeId) {
        if let Some(cut) = self.cycles.get(&node).copied() {
            self.cycles.retain(|_, c| *c != cut);
            self.give(cut);
        }
        let mut path = vec![node];
        let mut seen = HashSet::from([node]);
        let mut at = node;
        while let Some(parent) = self.parent(&at) {
            if parent == node {
                let rank = |n: &NodeId| (self.nodes.get(n).and_then(|l| l.places_from), *n);
                let cut = path.iter().copied().max_by_key(rank).unwrap_or(node);
                self.cycles.extend(path.iter().map(|n| (*n, cut)));
                self.give(cut);
                return;
            }
            if !seen.insert(parent) || !self.nodes.contains_key(&parent) {
                return;
            }
            path.push(parent);
            at = parent;
        }
    }

    /// Brings what a node adds to the tree up to date, and with it the dead folders above.
    fn give(&mut self, node: NodeId) {
        let mut todo = vec![node];
        while let Some(node) = todo.pop() {
            let Some(leaf) = self.nodes.get(&node) else { continue };
            let there = leaf.live || (leaf.folder && leaf.support > 0 && self.rules.adddel);
            let cut = self.cycles.get(&node) == Some(&node);
            let hidden = cut && !self.rules.cycle;
            let mut new = Vec::new();
            if there && !hidden {
                let mut spots = HashSet::new();
                for place in &leaf.places {
                    let hangs = cut || !self.is_folder(&place.parent);
                    if hangs && !self.rules.adddel && !cut {
                        continue;
                    }
                    let root = self.root.unwrap_or(place.parent);
                    let spot = Spot { folder: if hangs { root } else { place.parent }, name: place.name.clone() };
                    if spots.insert(spot.clone()) {
                        new.push((place.clone(), spot));
                    }
                }
            }
            let rank = (leaf.places_from, node);
            let claim = Claim { rank, folder: leaf.folder };
            let Some(leaf) = self.nodes.get_mut(&node) else { continue };
            let hangs = new.iter().any(|(place, spot)| place.parent != spot.folder);
            let old = std::mem::replace(&mut leaf.given, new.clone());
            for (_, spot) in &old {
                self.unclaim(node, spot);
                todo.extend(self.lean(&spot.folder, false));
            }
            for (_, spot) in new {
                todo.extend(self.lean(&spot.folder, true));
                self.claim(spot, claim.clone());
            }
            self.touched.insert(node);
            if hangs {
                self.hung.insert(node);
            } else {
                self.hung.remove(&node);
            }
        }
    }

    /// One child more or less in a folder. Returns the folder where that shows or hides it.
    fn lean(&mut self, folder: &NodeId, more: bool) -> Option<NodeId> {
        if Some(*folder) == self.root {
            return None;
        }
        let leaf = self.nodes.get_mut(folder)?;
        leaf.support = if more { leaf.support + 1 } else { leaf.support.saturating_sub(1) };
        (!leaf.live && leaf.support == usize::from(more)).then_some(*folder)
    }

    fn claim(&mut self, spot: Spot, claim: Claim) {
        let claims = self.slots.entry(spot.clone()).or_default();
        claims.push(claim);
        if claims.len() > 1 {
            claims.sort_by_key(|c| std::cmp::Reverse(c.rank));
            self.touched.extend(claims.iter().map(|c| c.rank.1));
            self.crowded.insert(spot);
        }
    }

    fn unclaim(&mut self, node: NodeId, spot: &Spot) {
        let Some(claims) = self.slots.get_mut(spot) else { return };
        claims.retain(|c| c.rank.1 != node);
        self.touched.extend(claims.iter().map(|c| c.rank.1));
        if claims.len() < 2 {
            self.crowded.remove(spot);
        }
        if claims.is_empty() {
            self.slots.remove(spot);
        }
    }

    /// A node's places with the entries by which it is shown; `None` for a name that another keeps. Empty: not there.
    pub fn entries(&self, node: &NodeId) -> Vec<(Place, Option<Spot>)> {
        let Some(leaf) = self.nodes.get(node) else { return Vec::new() };
        leaf.given.iter().map(|(place, spot)| (place.clone(), self.keeps(node, spot).then(|| spot.clone()))).collect()
    }

    fn keeps(&self, node: &NodeId, spot: &Spot) -> bool {
        let Some(claims) = self.slots.get(spot) else { return false };
        let folders = claims.iter().any(|c| c.folder);
        match claims.iter().find(|c| c.rank.1 == *node) {
            Some(claim) if claim.folder => true,
            Some(_) => !folders && claims.first().is_some_and(|c| c.rank.1 == *node),
            None => false,
        }
    }

    /// The file that is shown by a name.
    pub fn keeper(&self, spot: &Spot) -> Option<NodeId> {
        let claims = self.slots.get(spot)?;
        claims.first().filter(|_| claims.iter().all(|c| !c.folder)).map(|c| c.rank.1)
    }

    /// The smallest of the folders that are shown as one with this one.
    pub fn first_header(&self, folder: &NodeId) -> NodeId {
        let given = self.nodes.get(folder).and_then(|l| l.given.first());
        let claims = given.and_then(|(_, spot)| self.slots.get(spot));
        let headers = claims.into_iter().flatten().filter(|c| c.folder).map(|c| c.rank.1);
        headers.min().unwrap_or(*folder).min(*folder)
    }

    /// Folders that are shown as one with a smaller one: what is in them is to be sealed for that.
    pub fn second_headers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let crowded = self.crowded.iter().filter_map(|spot| self.slots.get(spot));
        crowded.flat_map(|claims| {
            let first = claims.iter().filter(|c| c.folder).map(|c| c.rank.1).min();
            claims.iter().filter(|c| c.folder).map(|c| c.rank.1).filter(move |n| Some(*n) != first)
        })
    }

    /// Names that more than one entry claims.
    pub fn crowded(&self) -> impl Iterator<Item = NodeId> + '_ {
        let crowded = self.crowded.iter().filter_map(|spot| self.slots.get(spot));
        crowded.flat_map(|claims| claims.iter().map(|c| c.rank.1))
    }

    pub fn hung(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.hung.iter().copied()
    }

    /// Who names this folder as a parent.
    pub fn children(&self, folder: &NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.children.get(folder).into_iter().flatten().copied()
    }

    pub fn take_touched(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.touched)
    }
}
