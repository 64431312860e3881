//! From the disk to what the records show: steps in an order that always works.
//!
//! A node whose step cannot be done yet waits for a name, a folder, or a folder's end, and is looked at again when
//! that comes; a node that somebody has open waits for [`Engine::retry`]. Where all that is left waits in a circle (a
//! swap of names), one of the circle moves aside, to a name in the root that nobody can open.

use std::collections::{BTreeSet, HashMap, HashSet};

use data_encoding::HEXLOWER;
use keymgr::ids::{FileId, Locator, NodeId, StoreName};
use serde::{Deserialize, Serialize};

use super::disk::{DiskNode, DiskPlace};
use super::{Engine, EntryId};
use crate::record::{Content, Kind};

const ASIDE_CONTEXT: &str = "kith.v1 aside";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepId(pub u64);

/// An entry of a directory: the one that holds `folder`'s header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Spot {
    pub folder: NodeId,
    pub name: StoreName,
}

/// Before each the executor checks that the entries named are still what the engine thinks (ids, and no change that
/// was not observed); otherwise it answers [`Done::Busy`]. Paths come from [`Engine::spot_path`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A directory with this node's header; where `join`, the directory is there already and gets one more header.
    MakeFolder { node: NodeId, at: Spot, locator: Locator, attrs: Vec<u8>, join: bool },
    /// A file's body from beside the tree, at all its names (the first is the file, others are links to it).
    PutFile { node: NodeId, kind: Kind, at: Vec<(Spot, Locator)>, content: Content, attrs: Vec<u8>, attrs_for: EntryId },
    /// Another body for a file that is there, at all its names; the one it had goes to versions.
    Replace {
        node: NodeId,
        at: Vec<(Spot, Locator)>,
        old: Content,
        content: Content,
        attrs: Vec<u8>,
        attrs_for: EntryId,
    },
    /// Names of a file: those of `from` that are not in `to` go, the others are made. One rename where each is one.
    MoveFile { node: NodeId, content: Content, from: Vec<Spot>, to: Vec<(Spot, Locator)> },
    /// A folder's header and the entries in its directory that are under it. `split`: other headers stay behind;
    /// `join`: the target directory is there already. With neither it is one rename. `entries`: what moves along.
    MoveFolder {
        node: NodeId,
        from: Spot,
        to: Spot,
        locator: Locator,
        split: bool,
        join: bool,
        entries: Vec<StoreName>,
    },
    /// A file's names, all; its body goes to versions.
    RemoveFile { node: NodeId, at: Vec<Spot>, content: Content },
    /// A directory, which is empty, or one header of several (`split`).
    RemoveFolder { node: NodeId, at: Spot, split: bool },
    /// A file's body once more, at all its names, and its attributes: what is there was refused and goes to quarantine.
    HealFile { node: NodeId, at: Vec<(Spot, Locator)>, content: Content, attrs: Vec<u8>, attrs_for: EntryId },
    /// A folder's header once more, with its directory where that is gone too.
    HealFolder { node: NodeId, at: Spot, locator: Locator, attrs: Vec<u8> },
    /// Attributes only, of a file's first name or a folder (`None`: the root). They are bound to `attrs_for`.
    Dress { node: NodeId, at: Option<Spot>, attrs: Vec<u8>, attrs_for: EntryId },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// As asked. `attrs`: what the node shows now, sealed, where the executor dressed it and it came out otherwise.
    Made { attrs: Option<Vec<u8>> },
    /// Somebody has it open, or it changed and that was not observed yet: again after [`Engine::retry`].
    Busy,
    /// The disk is not what the engine thinks, or cannot do it: again after [`Engine::retry`].
    Refused,
}

/// What is to be done, what waits, and for what.
#[derive(Default)]
pub(super) struct Queue {
    ready: BTreeSet<NodeId>,
    waits: HashMap<NodeId, Wait>,
    wakes: HashMap<Wait, BTreeSet<NodeId>>,
    /// Busy or refused.
    stuck: BTreeSet<NodeId>,
    flight: Option<Flight>,
    last: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Wait {
    /// That an entry goes.
    Free(Spot),
    /// That a folder is there.
    Folder(NodeId),
    /// That nothing is in a folder.
    Empty(NodeId),
    /// That folders move: its new parent is in it.
    Above(NodeId),
}

struct Flight {
    id: StepId,
    node: NodeId,
    after: Option<DiskNode>,
    heals: bool,
}

/// What the records show of a node, as the disk would.
pub(super) struct Target {
    pub disk: DiskNode,
    pub attrs_for: EntryId,
}

pub(super) enum Plan {
    Nothing,
    Do(Box<Step>, Option<Box<DiskNode>>),
    Wait(Wait),
}

impl Plan {
    pub(super) fn step(step: Step, after: Option<DiskNode>) -> Self {
        Self::Do(Box::new(step), after.map(Box::new))
    }
}

impl Queue {
    fn add(&mut self, node: NodeId) {
        self.stuck.remove(&node);
        self.unwait(&node);
        self.ready.insert(node);
    }

    fn unwait(&mut self, node: &NodeId) {
        if let Some(wait) = self.waits.remove(node)
            && let Some(set) = self.wakes.get_mut(&wait)
        {
            set.remove(node);
            if set.is_empty() {
                self.wakes.remove(&wait);
            }
        }
    }

    fn wait(&mut self, node: NodeId, wait: Wait) {
        self.wakes.entry(wait.clone()).or_default().insert(node);
        self.waits.insert(node, wait);
    }

    fn wake(&mut self, wait: &Wait) {
        for node in self.wakes.remove(wait).unwrap_or_default() {
            self.waits.remove(&node);
            self.ready.insert(node);
        }
    }
}

impl Engine {
    /// The next step that brings the disk to what the records show; the next after it once [`Self::handle_done`] was
    /// called. `None`: nothing can be done now.
    pub fn poll_step(&mut self) -> Option<(StepId, Step)> {
        self.refresh();
        if self.steps.flight.is_some() {
            return None;
        }
        loop {
            let Some(node) = self.steps.ready.pop_first() else {
                let (node, step, after) = self.break_circle()?;
                return Some(self.start(node, step, Some(after)));
            };
            match self.plan(&node) {
                Plan::Nothing => {}
                Plan::Wait(wait) => self.steps.wait(node, wait),
                Plan::Do(step, after) => return Some(self.start(node, *step, after.map(|after| *after))),
            }
        }
    }

    fn start(&mut self, node: NodeId, step: Step, after: Option<DiskNode>) -> (StepId, Step) {
        self.steps.unwait(&node);
        self.steps.last += 1;
        let id = StepId(self.steps.last);
        let heals = matches!(step, Step::HealFile { .. } | Step::HealFolder { .. });
        self.steps.flight = Some(Flight { id, node, after, heals });
        (id, step)
    }

    pub fn handle_done(&mut self, step: StepId, done: Done) {
        let Some(flight) = self.steps.flight.take_if(|f| f.id == step) else { return };
        let node = flight.node;
        let Done::Made { attrs } = done else {
            self.steps.stuck.insert(node);
            return;
        };
        match flight.after {
            Some(mut after) => {
                if let Some(attrs) = attrs {
                    after.attrs = attrs;
                }
                self.put_disk(node, after);
            }
            None => self.remove_disk(&node),
        }
        if flight.heals {
            self.healed(&node);
        }
        self.requeue(node);
    }

    /// A node has an entry now: what waits for that folder is looked at again.
    pub(super) fn came(&mut self, node: &NodeId) {
        self.steps.wake(&Wait::Folder(*node));
    }

    /// Entries changed: what waits for those that are no more is looked at again.
    pub(super) fn left(&mut self, node: &NodeId, before: Vec<Spot>) {
        for spot in before {
            if !self.disk.at(&spot).contains(node) {
                if self.disk.is_empty(&spot.folder) {
                    self.steps.wake(&Wait::Empty(spot.folder));
                }
                self.steps.wake(&Wait::Free(spot));
                self.steps.wake(&Wait::Above(self.root));
            }
        }
    }

    /// Steps that were refused or found busy are tried again.
    pub fn retry(&mut self) {
        for node in std::mem::take(&mut self.steps.stuck) {
            self.steps.ready.insert(node);
        }
    }

    /// Whether all is done that can be.
    pub fn is_busy(&self) -> bool {
        !self.steps.stuck.is_empty()
    }

    pub(super) fn requeue(&mut self, node: NodeId) {
        self.steps.add(node);
    }

    pub(super) fn requeue_all(&mut self) {
        let all: BTreeSet<NodeId> = self.nodes.keys().copied().chain(self.disk.nodes().map(|(n, _)| *n)).collect();
        all.into_iter().for_each(|n| self.steps.add(n));
    }

    /// What the disk is to show of a node; `None`: nothing.
    pub(super) fn target(&self, node: &NodeId) -> Option<Target> {
        let is_root = *node == self.root;
        let entries = self.tree.entries(node);
        if !is_root && entries.iter().all(|(_, spot)| spot.is_none()) {
            return None;
        }
        let shown = match self.nodes.get(node) {
            Some(node) => &node.shown,
            None => return None,
        };
        if is_root && !shown.live {
            return None;
        }
        let side = shown.contents.first();
        let id = |file: Option<FileId>| file.map_or(EntryId::Folder(*node), EntryId::File);
        let places = entries.into_iter().map(|(place, spot)| {
            let aside = spot.as_ref().is_some_and(|s| s.folder != place.parent);
            DiskPlace { place, spot, aside }
        });
        let places = places.collect();
        let disk = DiskNode {
            kind: shown.kind.unwrap_or(Kind::Folder),
            places,
            places_from: shown.places_from,
            content: side.map(|s| s.content),
            content_from: side.map(|s| s.from),
            attrs: shown.attrs.clone(),
            attrs_from: shown.attrs_from,
            basis: shown.cover.clone(),
        };
        Some(Target { disk, attrs_for: id(shown.attrs_for) })
    }

    /// Where the disk shows a node as the records do by now, an edit has seen them.
    pub(super) fn note_shown(&mut self, node: &NodeId) {
        self.plan(node);
    }

    fn plan(&mut self, node: &NodeId) -> Plan {
        let target = self.target(node);
        let is_root = *node == self.root;
        let Some(target) = target else {
            let Some(disk) = self.disk.get(node).filter(|_| !is_root) else { return Plan::Nothing };
            let Some(content) = disk.content else {
                if !self.disk.is_empty(node) {
                    return Plan::Wait(Wait::Empty(*node));
                }
                let Some(at) = disk.spots().next().cloned() else { return Plan::Nothing };
                let split = self.disk.headers(node).len() > 1;
                return Plan::step(Step::RemoveFolder { node: *node, at, split }, None);
            };
            let at = disk.spots().cloned().collect();
            return Plan::step(Step::RemoveFile { node: *node, at, content }, None);
        };
        let Some(disk) = self.disk.get(node) else { return self.plan_new(node, target) };
        if disk.kind != target.disk.kind {
            // Records of two kinds: never by a kind author. What is here goes, then the other comes.
            let at: Vec<Spot> = disk.spots().cloned().collect();
            return match (disk.content, at.first()) {
                (Some(content), _) => Plan::step(Step::RemoveFile { node: *node, at, content }, None),
                (None, Some(at)) if self.disk.is_empty(node) => {
                    let split = self.disk.headers(node).len() > 1;
                    Plan::step(Step::RemoveFolder { node: *node, at: at.clone(), split }, None)
                }
                _ => Plan::Wait(Wait::Empty(*node)),
            };
        }
        if let Some(heal) = self.plan_heal(node, disk, &target) {
            return heal;
        }
        let moved = match disk.kind {
            Kind::Folder if is_root => Plan::Nothing,
            Kind::Folder => self.plan_folder(node, disk, &target),
            _ => self.plan_file(node, disk, &target),
        };
        if !matches!(moved, Plan::Nothing) {
            return moved;
        }
        let Target { disk: shows, attrs_for } = target;
        let first = self.disk.headers(node).first() == Some(node);
        if disk.attrs_from != shows.attrs_from && disk.attrs != shows.attrs && (first || disk.kind != Kind::Folder) {
            let at = disk.spots().next().cloned();
            let attrs = shows.attrs.clone();
            let after = DiskNode { attrs: attrs.clone(), attrs_from: shows.attrs_from, ..disk.clone() };
            return Plan::step(Step::Dress { node: *node, at, attrs, attrs_for }, Some(after));
        }
        // All that it shows is as the records say: an edit from now on has seen them.
        let attrs = if disk.attrs_from == shows.attrs_from { disk.attrs.clone() } else { shows.attrs.clone() };
        let shows = DiskNode { attrs, ..shows };
        if *disk != shows {
            self.put_disk(*node, shows);
        }
        Plan::Nothing
    }

    /// Whether an entry can be put at a spot now: the folder is there, and nothing that has to leave is in the way.
    fn way(&self, node: &NodeId, spot: &Spot, folder: bool) -> Result<bool, Wait> {
        if spot.folder != self.root && self.disk.above(&spot.folder).is_none() {
            return Err(Wait::Folder(spot.folder));
        }
        let others: Vec<&NodeId> = self.disk.at(spot).iter().filter(|n| *n != node).collect();
        let joins = |n: &&NodeId| {
            let stays = || self.target(n).is_some_and(|t| t.disk.spots().any(|s| s == spot));
            folder && self.disk.get(n).is_some_and(|d| d.kind == Kind::Folder) && stays()
        };
        if others.iter().all(joins) { Ok(!others.is_empty()) } else { Err(Wait::Free(spot.clone())) }
    }

    fn plan_new(&self, node: &NodeId, target: Target) -> Plan {
        let Target { disk: mut after, attrs_for } = target;
        if after.kind == Kind::Folder {
            let Some((locator, at)) = after.places.iter().find_map(|p| Some((p.place.locator, p.spot.clone()?))) else {
                return Plan::Nothing;
            };
            return match self.way(node, &at, true) {
                Err(wait) => Plan::Wait(wait),
                Ok(join) => {
                    let attrs = after.attrs.clone();
                    Plan::step(Step::MakeFolder { node: *node, at, locator, attrs, join }, Some(after))
                }
            };
        }
        let Some(content) = after.content else { return Plan::Nothing };
        let (at, wait) = self.ways(node, &after.places);
        if let Some(wait) = wait.filter(|_| at.is_empty()) {
            return Plan::Wait(wait);
        }
        only(&mut after, &at);
        let attrs = after.attrs.clone();
        Plan::step(Step::PutFile { node: *node, kind: after.kind, at, content, attrs, attrs_for }, Some(after))
    }

    /// Of a file's names those that can be made now, and what the first of the others waits for.
    fn ways(&self, node: &NodeId, places: &[DiskPlace]) -> (Vec<(Spot, Locator)>, Option<Wait>) {
        let mut at = Vec::new();
        let mut wait = None;
        for place in places {
            let Some(spot) = &place.spot else { continue };
            match self.way(node, spot, false) {
                Ok(_) => at.push((spot.clone(), place.place.locator)),
                Err(w) => {
                    wait.get_or_insert(w);
                }
            }
        }
        (at, wait)
    }

    fn plan_file(&self, node: &NodeId, disk: &DiskNode, target: &Target) -> Plan {
        let shows = &target.disk;
        let (Some(old), Some(content)) = (disk.content, shows.content) else { return Plan::Nothing };
        let from: Vec<Spot> = disk.spots().cloned().collect();
        if old != content {
            // Where it lies now; a move comes after.
            let locator = |p: &DiskPlace| {
                let same = shows.places.iter().find(|t| t.spot == p.spot);
                same.map_or(p.place.locator, |t| t.place.locator)
            };
            let at = disk.places.iter().filter_map(|p| Some((p.spot.clone()?, locator(p)))).collect();
            let attrs = shows.attrs.clone();
            let mut after = DiskNode {
                content: Some(content),
                content_from: shows.content_from,
                attrs: attrs.clone(),
                attrs_from: shows.attrs_from,
                // Whoever edits now has seen this content, and not what it took the place of in a conflict.
                basis: shows.basis.clone(),
                ..disk.clone()
            };
            for place in &mut after.places {
                place.place.locator = locator(place);
            }
            let attrs_for = target.attrs_for;
            return Plan::step(Step::Replace { node: *node, at, old, content, attrs, attrs_for }, Some(after));
        }
        let entries = |d: &DiskNode| -> BTreeSet<(Spot, Locator)> {
            d.places.iter().filter_map(|p| Some((p.spot.clone()?, p.place.locator))).collect()
        };
        if entries(disk) == entries(shows) {
            return Plan::Nothing;
        }
        let (to, wait) = self.ways(node, &shows.places);
        let mut after = DiskNode { places: shows.places.clone(), places_from: shows.places_from, ..disk.clone() };
        only(&mut after, &to);
        match wait {
            // Nothing new can be made now: what is there stays until it can.
            Some(wait) if to.is_empty() || entries(disk) == entries(&after) => Plan::Wait(wait),
            _ => Plan::step(Step::MoveFile { node: *node, content, from, to }, Some(after)),
        }
    }

    fn plan_folder(&self, node: &NodeId, disk: &DiskNode, target: &Target) -> Plan {
        let shows = &target.disk;
        let Some((from, old)) = disk.places.iter().find_map(|p| Some((p.spot.clone()?, p.place.locator))) else {
            return Plan::Nothing;
        };
        let Some((to, locator)) = shows.places.iter().find_map(|p| Some((p.spot.clone()?, p.place.locator))) else {
            return Plan::Nothing;
        };
        if from == to && old == locator {
            return Plan::Nothing;
        }
        let after = DiskNode { places: shows.places.clone(), places_from: shows.places_from, ..disk.clone() };
        if from == to {
            let (split, join) = (false, false);
            let entries = Vec::new();
            return Plan::step(Step::MoveFolder { node: *node, from, to, locator, split, join, entries }, Some(after));
        }
        if self.disk.above(&to.folder).is_some_and(|path| self.directory_has(&path, node)) {
            return Plan::Wait(Wait::Above(self.root));
        }
        match self.way(node, &to, true) {
            Err(wait) => Plan::Wait(wait),
            Ok(join) => {
                let split = self.disk.headers(node).len() > 1;
                let entries = if split || join { self.disk.names(node) } else { Vec::new() };
                Plan::step(Step::MoveFolder { node: *node, from, to, locator, split, join, entries }, Some(after))
            }
        }
    }

    /// Whether a path (of folders, upwards) runs through what would move with a node: its own entries.
    fn directory_has(&self, path: &[NodeId], node: &NodeId) -> bool {
        path.contains(node)
    }

    /// All that is left waits: where it waits in a circle, one of the circle moves aside.
    fn break_circle(&mut self) -> Option<(NodeId, Step, DiskNode)> {
        let mut done: HashSet<NodeId> = HashSet::new();
        let mut waiting: Vec<NodeId> = self.steps.waits.keys().copied().collect();
        waiting.sort();
        for start in waiting {
            let mut path = Vec::new();
            let mut at = start;
            while done.insert(at) && self.steps.waits.contains_key(&at) {
                path.push(at);
                match self.waits_for(&at) {
                    Some(next) => at = next,
                    None => break,
                }
            }
            let Some(from) = path.iter().position(|n| *n == at) else { continue };
            let circle = path.split_off(from);
            if let Some(found) = self.step_aside(circle) {
                return Some(found);
            }
        }
        None
    }

    /// Of what a node waits for, the node that has to do something first.
    fn waits_for(&self, node: &NodeId) -> Option<NodeId> {
        let waits = |n: &NodeId| n != node && self.steps.waits.contains_key(n);
        match self.steps.waits.get(node)? {
            Wait::Free(spot) => {
                let at = self.disk.at(spot).iter().copied().filter(|n| n != node);
                let mut at: Vec<NodeId> = at.collect();
                at.sort_by_key(|n| !waits(n));
                at.first().copied()
            }
            Wait::Folder(folder) => {
                // It is not there, or something above it is not: the first of them that has work waits.
                let mut at = *folder;
                for _ in 0..1024 {
                    if waits(&at) || !self.disk.has(&at) {
                        return Some(at);
                    }
                    at = self.disk.get(&at)?.spots().next()?.folder;
                }
                None
            }
            Wait::Empty(folder) => {
                let mut children: Vec<NodeId> = self.disk.children(folder).map(|(_, n)| n).collect();
                children.sort_by_key(|n| !waits(n));
                children.first().copied()
            }
            Wait::Above(_) => {
                let target = self.target(node)?;
                let to = target.disk.spots().next()?.folder;
                let path = self.disk.above(&to)?;
                path.iter().copied().take_while(|n| n != node).find(waits)
            }
        }
    }

    fn step_aside(&self, circle: Vec<NodeId>) -> Option<(NodeId, Step, DiskNode)> {
        let mut able: Vec<NodeId> =
            circle.into_iter().filter(|n| self.disk.has(n) && self.target(n).is_some()).collect();
        // A file is the lesser trouble: a folder takes all that is in it along.
        able.sort_by_key(|n| (self.is_dir(n), *n));
        for node in able {
            let Some(disk) = self.disk.get(&node) else { continue };
            let Some(to) = self.aside(&node) else { continue };
            let aside = disk.spots().any(|s| *s == to) || !self.disk.at(&to).is_empty();
            let Some(first) = disk.places.iter().find(|p| p.spot.is_some()).filter(|_| !aside) else { continue };
            let (Some(from), locator) = (first.spot.clone(), first.place.locator) else { continue };
            let mut after = disk.clone();
            let mut placed = false;
            for place in after.places.iter_mut().filter(|p| p.spot.is_some()) {
                place.spot = Some(to.clone()).filter(|_| !placed);
                place.aside = !placed;
                placed = true;
            }
            let step = match disk.content {
                Some(content) => {
                    let from = disk.spots().cloned().collect();
                    Step::MoveFile { node, content, from, to: vec![(to, locator)] }
                }
                None => {
                    let split = self.disk.headers(&node).len() > 1;
                    let entries = if split { self.disk.names(&node) } else { Vec::new() };
                    Step::MoveFolder { node, from, to, locator, split, join: false, entries }
                }
            };
            return Some((node, step, after));
        }
        None
    }

    fn is_dir(&self, node: &NodeId) -> bool {
        self.disk.get(node).is_some_and(|d| d.kind == Kind::Folder)
    }

    /// Whether a spot is where a node waits aside.
    pub(super) fn is_aside(&self, node: &NodeId, spot: &Spot) -> bool {
        self.aside(node).as_ref() == Some(spot)
    }

    /// A name in the root that opens under no key.
    fn aside(&self, node: &NodeId) -> Option<Spot> {
        let hash = blake3::derive_key(ASIDE_CONTEXT, node.as_bytes());
        let name = StoreName::parse(&HEXLOWER.encode(&hash)).ok()?;
        Some(Spot { folder: self.root, name })
    }
}

/// Leaves only those names that are in `at`.
fn only(after: &mut DiskNode, at: &[(Spot, Locator)]) {
    for place in &mut after.places {
        if !at.iter().any(|(spot, _)| place.spot.as_ref() == Some(spot)) {
            place.spot = None;
        }
    }
}
