//! From what fs wrote to records: the difference between complete listings and what the disk was known to show.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use keymgr::ids::{FileId, NodeId, RecordHash};

use super::disk::{DiskNode, DiskPlace};
use super::{Engine, EntryId, Observation, ObservedEntry, ObservedFile, Spot};
use crate::record::{Grave, Kind, Live, MAX_REPLACES, MAX_TOGETHER, Place, Record, State, Together};

const NODE_CONTEXT: &str = "kith.v1 node of a file";

/// What the disk shows once a draft is a record.
#[derive(Clone, Debug)]
pub(super) enum Commit {
    Nothing,
    Gone,
    Shows(Box<DiskNode>),
}

/// A name taken by a file that has not settled: its records wait for its content.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub entry: ObservedEntry,
}

/// A name as it was observed.
#[derive(Clone)]
struct Seen {
    spot: Spot,
    place: Place,
    id: EntryId,
}

/// What a node becomes.
struct Change {
    node: NodeId,
    record: Record,
    commit: Commit,
    leaves: Vec<Spot>,
    takes: Vec<Spot>,
}

/// One observation, by spot and by node.
#[derive(Default)]
struct Listing {
    /// Headers of directories that were listed or that went: no entry under them means it is gone.
    listed: HashSet<NodeId>,
    nodes: BTreeMap<NodeId, Vec<Seen>>,
    /// Spots that an unsettled file holds: whoever had them is left alone.
    held: HashSet<Spot>,
    /// Spots of folders that were listed before, whose file settled now: whoever had them has them no more.
    retaken: HashSet<Spot>,
}

impl Engine {
    /// Drafts of records for what fs did. The caller signs them in this order with consecutive numbers, makes them
    /// durable and hands them back by [`Self::handle_record`] before it calls anything else. None on a device that
    /// may not write.
    pub fn author(&mut self, seen: &Observation) -> Vec<Record> {
        self.refresh();
        self.drafted.clear();
        if !self.can_write {
            return Vec::new();
        }
        let files: HashMap<FileId, &ObservedFile> = seen.files.iter().map(|f| (f.file, f)).collect();
        let listing = self.listing(seen, &files);
        let mut nodes: BTreeSet<NodeId> = listing.nodes.keys().copied().collect();
        for folder in &listing.listed {
            nodes.extend(self.disk.children(folder).map(|(_, n)| n));
            nodes.insert(*folder);
        }
        nodes.extend(listing.retaken.iter().flat_map(|spot| self.disk.at(spot)));
        nodes.extend(seen.files.iter().filter_map(|f| self.disk.node_of(&f.file)));
        let attrs: HashMap<NodeId, &Vec<u8>> = seen.folders.iter().map(|f| (f.node, &f.attrs)).collect();
        let mut changes: Vec<Change> = Vec::new();
        for node in nodes {
            self.note_shown(&node);
            changes.extend(self.change(node, &listing, &files, &attrs));
        }
        self.draft(changes)
    }

    /// Which node every observed name belongs to.
    fn listing(&mut self, seen: &Observation, files: &HashMap<FileId, &ObservedFile>) -> Listing {
        let mut listing = Listing::default();
        let mut names: Vec<(Spot, ObservedEntry)> = Vec::new();
        for folder in &seen.folders {
            let headers: Vec<NodeId> = std::iter::once(folder.node).chain(folder.also.iter().copied()).collect();
            listing.listed.extend(headers.iter().copied());
            self.pending.retain(|spot, _| !headers.contains(&spot.folder));
            for entry in &folder.entries {
                names.push((self.spot_of(entry, &headers), entry.clone()));
            }
        }
        // Names that waited for the content that settled now, of folders that did not change since.
        for (spot, pending) in &self.pending {
            if let EntryId::File(file) = pending.entry.id
                && files.contains_key(&file)
            {
                names.push((spot.clone(), pending.entry.clone()));
                listing.retaken.insert(spot.clone());
            }
        }
        let here: HashSet<EntryId> = names.iter().map(|(_, e)| e.id).collect();
        let mut claimed: HashMap<FileId, NodeId> = HashMap::new();
        let mut taken: HashSet<NodeId> = HashSet::new();
        for (spot, entry) in names {
            let node = match entry.id {
                EntryId::Folder(node) => node,
                EntryId::File(file) => match self.disk.node_of(&file).or_else(|| claimed.get(&file).copied()) {
                    Some(node) => node,
                    None if !files.contains_key(&file) => {
                        listing.held.insert(spot.clone());
                        self.pending.insert(spot, Pending { entry });
                        continue;
                    }
                    None => {
                        let kind = files.get(&file).map_or(Kind::File, |f| f.kind);
                        let node = self.node_for(file, kind, &spot, &listing, &here, &taken);
                        claimed.insert(file, node);
                        taken.insert(node);
                        node
                    }
                },
            };
            self.pending.remove(&spot);
            let place = Place { parent: entry.under, name: entry.name, locator: entry.locator };
            listing.nodes.entry(node).or_default().push(Seen { spot, place, id: entry.id });
        }
        self.follow(&mut listing);
        listing
    }

    /// The entry that a listing means: names that fs cannot open (they hang at the root, or wait aside) stand under
    /// another header than it can tell.
    fn spot_of(&self, entry: &ObservedEntry, headers: &[NodeId]) -> Spot {
        let spot = |folder: NodeId| Spot { folder, name: entry.name.clone() };
        let is_it = |s: &Spot| self.disk.at(s).iter().any(|n| self.disk.get(n).is_some_and(|d| d.id(*n) == entry.id));
        let own = spot(entry.under);
        if headers.contains(&entry.under) && (is_it(&own) || !headers.iter().any(|h| is_it(&spot(*h)))) {
            return own;
        }
        headers.iter().map(|h| spot(*h)).find(is_it).unwrap_or(own)
    }

    /// Saving by rename: a file id never published that takes the name of a published file, which is nowhere any
    /// more, is that node's new content. A published id (of a node that has no entry here) carries its node with it.
    fn node_for(
        &self,
        file: FileId,
        kind: Kind,
        spot: &Spot,
        listing: &Listing,
        here: &HashSet<EntryId>,
        taken: &HashSet<NodeId>,
    ) -> NodeId {
        if let Some(node) = self.by_file.get(&file).filter(|n| !self.disk.has(n)) {
            return *node;
        }
        let fresh = || {
            let hash = blake3::derive_key(NODE_CONTEXT, file.as_bytes());
            NodeId::from_bytes(std::array::from_fn(|i| hash[i]))
        };
        // A junction is the node of its share, whatever had its name before.
        if self.by_file.contains_key(&file) || kind == Kind::Share || !self.rules.saved {
            return fresh();
        }
        let retaken = self.disk.at(spot).iter().copied().find(|node| {
            let Some(disk) = self.disk.get(node) else { return false };
            let elsewhere = disk.places.iter().any(|p| {
                p.spot.as_ref().is_some_and(|s| s != spot && (p.aside || !listing.listed.contains(&s.folder)))
            });
            disk.kind == kind && !elsewhere && !here.contains(&disk.id(*node)) && !taken.contains(node)
        });
        retaken.unwrap_or_else(fresh)
    }

    /// Folders that went take what is in them along; further headers go where their directory goes.
    fn follow(&self, listing: &mut Listing) {
        let mut mates: Vec<(NodeId, Seen)> = Vec::new();
        for (node, seen) in &listing.nodes {
            let Some(first) = seen.first().filter(|_| self.is_disk_folder(node)) else { continue };
            for header in self.disk.headers(node).into_iter().filter(|h| !listing.nodes.contains_key(h)) {
                let own =
                    self.disk.get(&header).and_then(|d| d.places.iter().find(|p| p.spot.as_ref() == Some(&first.spot)));
                let place = own.map_or(&first.place, |p| &p.place).clone();
                mates.push((header, Seen { spot: first.spot.clone(), place, id: EntryId::Folder(header) }));
            }
        }
        mates.into_iter().for_each(|(header, seen)| listing.nodes.entry(header).or_default().push(seen));
        let mut todo: Vec<NodeId> = listing.listed.iter().copied().collect();
        while let Some(folder) = todo.pop() {
            for (_, child) in self.disk.children(&folder) {
                let Some(disk) = self.disk.get(&child).filter(|d| d.kind == Kind::Folder) else { continue };
                let stays = listing.nodes.contains_key(&child) || disk.places.iter().any(|p| p.aside);
                if !stays && listing.listed.insert(child) {
                    todo.push(child);
                }
            }
        }
    }

    fn is_disk_folder(&self, node: &NodeId) -> bool {
        self.disk.get(node).is_some_and(|d| d.kind == Kind::Folder)
    }

    /// What an observation makes of one node: nothing, a record, or only that the disk shows what was known.
    fn change(
        &mut self,
        node: NodeId,
        listing: &Listing,
        files: &HashMap<FileId, &ObservedFile>,
        attrs: &HashMap<NodeId, &Vec<u8>>,
    ) -> Option<Change> {
        let old = self.disk.get(&node).cloned();
        let seen = listing.nodes.get(&node).map_or(&[][..], Vec::as_slice);
        let is_folder = seen.iter().any(|s| s.id == EntryId::Folder(node)) || self.is_disk_folder(&node);
        let known = old.as_ref().and_then(|d| d.content).map(|c| c.file);
        let named = seen.iter().find_map(|s| match s.id {
            EntryId::File(file) => Some(file).filter(|f| Some(*f) != known),
            EntryId::Folder(_) => None,
        });
        let file = named.or(known).and_then(|f| files.get(&f)).copied();
        let mut places: Vec<DiskPlace> = Vec::new();
        for place in old.iter().flat_map(|d| &d.places) {
            let stays = match &place.spot {
                None => true,
                Some(_) if place.aside => true,
                Some(spot) if seen.is_empty() && listing.held.contains(spot) => true,
                Some(spot) if seen.iter().any(|s| s.spot == *spot) => true,
                // A folder has one name: that it is seen elsewhere says that this one went.
                Some(_) if is_folder && !seen.is_empty() => false,
                Some(spot) => !listing.listed.contains(&spot.folder) && !listing.retaken.contains(spot),
            };
            if stays {
                places.push(place.clone());
            }
        }
        for s in seen {
            match places.iter_mut().find(|p| p.spot.as_ref() == Some(&s.spot)) {
                Some(place) if !place.aside => place.place = s.place.clone(),
                Some(_) => {}
                None => {
                    // A name that another entry kept, and that this one got, is one place.
                    places.retain(|p| (p.place.parent, &p.place.name) != (s.place.parent, &s.place.name));
                    places.push(DiskPlace { place: s.place.clone(), spot: Some(s.spot.clone()), aside: false });
                }
            }
        }
        places.sort_by(|a, b| (a.place.parent, &a.place.name).cmp(&(b.place.parent, &b.place.name)));
        let names = |places: &[DiskPlace]| -> Vec<_> {
            places.iter().map(|p| (p.place.parent, p.place.name.clone())).collect()
        };
        let spots = |places: &[DiskPlace]| places.iter().filter_map(|p| p.spot.clone()).collect::<BTreeSet<_>>();
        let before = old.as_ref().map(|d| spots(&d.places)).unwrap_or_default();
        let after = spots(&places);
        let leaves = before.difference(&after).cloned().collect();
        let takes = after.difference(&before).cloned().collect();
        // Whoever wrote what this record replaces was seen too, whatever history is held between them.
        let writer = old.as_ref().and_then(|d| d.content_from);
        let writer = writer.filter(|h| !self.nodes.get(&node).is_some_and(|n| n.tops().contains(h)));
        let record = |replaces: Vec<RecordHash>, kind: Kind, state: State, share| {
            let mut record = Record { share, node, kind, replaces, state, together: None };
            in_order(&mut record, writer);
            record
        };
        if places.iter().all(|p| p.spot.is_none()) && node != self.root {
            let old = old?;
            // Names that other entries hold go too: what lay under them went with the last one that was shown.
            let graves = if old.kind == Kind::Folder {
                old.places.iter().map(|p| p.place.clone()).collect()
            } else {
                Vec::new()
            };
            let state =
                State::Dead(Grave { places_from: old.places_from.filter(|_| !graves.is_empty()), places: graves });
            let record = record(old.basis, old.kind, state, self.share);
            return Some(Change { node, record, commit: Commit::Gone, leaves, takes });
        }
        let new_attrs = file.map(|f| &f.attrs).or_else(|| attrs.get(&node).copied());
        let Some(old) = old else {
            // New here. A node that records know and that had no entry comes back under its own name.
            let kind = file.map_or(Kind::Folder, |f| f.kind);
            let shown = self.nodes.get(&node).map(|n| &n.shown);
            let same =
                |s: &super::node::Shown| s.contents.first().map(|c| c.content) == file.map(ObservedFile::content);
            let basis = match shown {
                None => Vec::new(),
                Some(s) if !s.live || (s.kind == Some(kind) && same(s)) => s.cover.clone(),
                Some(s) => {
                    let dead = |h: &&RecordHash| self.record(h).is_some_and(|r| r.record.is_dead());
                    s.heads.iter().filter(dead).copied().collect()
                }
            };
            let new = DiskNode {
                kind,
                places,
                places_from: None,
                content: file.map(ObservedFile::content),
                content_from: None,
                attrs: new_attrs.cloned().unwrap_or_default(),
                attrs_from: None,
                basis: basis.clone(),
            };
            let live = Live {
                places: new.places.iter().map(|p| p.place.clone()).collect(),
                places_from: None,
                content: new.content,
                content_from: None,
                attrs: new.attrs.clone(),
                attrs_from: None,
            };
            let record = record(basis, kind, State::Live(live), self.share);
            return Some(Change { node, record, commit: Commit::Shows(Box::new(new)), leaves, takes });
        };
        let mut new = DiskNode { places, ..old.clone() };
        let moved = names(&old.places) != names(&new.places) || !seen.is_empty() && self.is_users_name(&node, &old);
        let mut changed = moved || old.places.iter().zip(&new.places).any(|(a, b)| a.place != b.place);
        if moved {
            new.places_from = None;
        }
        if let Some(file) = file
            && Some(file.content()) != old.content
        {
            let winner = self.nodes.get(&node).and_then(|n| n.shown.contents.first());
            new.content = Some(file.content());
            if let Some(side) = winner.filter(|s| s.content == file.content() && !changed) {
                // What a step had put there before the index knew is no edit.
                new.content_from = Some(side.from);
                new.attrs = file.attrs.clone();
                self.put_disk(node, new);
                self.requeue(node);
                return None;
            }
            new.content_from = None;
            changed = true;
        }
        if let Some(attrs) = new_attrs.filter(|a| **a != old.attrs) {
            new.attrs = attrs.clone();
            if node == self.root && old.attrs.is_empty() && self.nodes.contains_key(&node) {
                // The first look at a root that others made is no change of it.
                self.put_disk(node, new);
                return None;
            }
            // Not known since an unclean end, and what the records say: no change of it.
            let said = self.target(&node).map(|t| t.disk).filter(|t| old.attrs.is_empty() && t.attrs == *attrs);
            if let Some(said) = said {
                new.attrs_from = said.attrs_from;
            } else {
                new.attrs_from = None;
                changed = true;
            }
        }
        if !changed {
            if new != old {
                self.put_disk(node, new);
            }
            return None;
        }
        let places = new.places.iter().map(|p| p.place.clone()).collect();
        let mut live = self.live_of(node, &new, places);
        let shown = self.nodes.get(&node).map(|n| &n.shown).filter(|s| s.live && !moved && s.cover == old.basis);
        if let Some(shown) = shown.filter(|s| s.sealed_for == live.content.map(|c| c.file)) {
            // A rename that came and that no step has done yet: the user did not undo it.
            live.places = shown.places.clone();
            live.places_from = shown.places_from;
        }
        let record = record(old.basis.clone(), old.kind, State::Live(live), self.share);
        Some(Change { node, record, commit: Commit::Shows(Box::new(new)), leaves, takes })
    }

    /// Whether a name that was found after an unclean end and that the records do not say is the user's: the last name was
    /// given by this device, which had it on its disk, or no record has this one. Else a step was not done yet.
    fn is_users_name(&self, node: &NodeId, disk: &DiskNode) -> bool {
        if disk.places_from.is_some() || *node == self.root {
            return false;
        }
        let Some(known) = self.nodes.get(node) else { return true };
        let mine =
            known.shown.places_from.and_then(|h| known.records.get(&h)).is_some_and(|r| r.author.device == self.me);
        let here: BTreeSet<_> = disk.places.iter().map(|p| (p.place.parent, &p.place.name)).collect();
        let says = |r: &Record| r.places().iter().map(|p| (p.parent, &p.name)).collect::<BTreeSet<_>>() == here;
        mine || !known.records.values().any(|r| says(&r.record))
    }

    /// A record's live state from what the disk shows: fields that did not change keep their source.
    fn live_of(&self, node: NodeId, new: &DiskNode, places: Vec<Place>) -> Live {
        // Attributes that this disk could not show as they are stay as their record has them.
        let attrs = new.attrs_from.and_then(|from| {
            let records = &self.nodes.get(&node)?.records;
            new.basis.iter().find_map(|h| {
                let live = records.get(h)?.record.live()?;
                let fits = live.attrs_from.unwrap_or(*h) == from
                    && live.content.map(|c| c.file) == new.content.map(|c| c.file);
                fits.then(|| live.attrs.clone())
            })
        });
        Live {
            places,
            places_from: new.places_from,
            content: new.content,
            content_from: new.content_from.filter(|_| new.content.is_some()),
            attrs: attrs.unwrap_or_else(|| new.attrs.clone()),
            attrs_from: new.attrs_from,
        }
    }

    /// Orders drafts, and ties those together where one takes the name that another leaves.
    fn draft(&mut self, mut changes: Vec<Change>) -> Vec<Record> {
        changes.sort_by_key(|c| (rank(&c.record), c.node));
        let mut leaving: HashMap<&Spot, usize> = HashMap::new();
        for (i, change) in changes.iter().enumerate() {
            leaving.extend(change.leaves.iter().map(|spot| (spot, i)));
        }
        let mut group: Vec<usize> = (0..changes.len()).collect();
        fn find(group: &[usize], mut i: usize) -> usize {
            while let Some(&up) = group.get(i).filter(|up| **up != i) {
                i = up;
            }
            i
        }
        for (i, change) in changes.iter().enumerate() {
            for other in change.takes.iter().filter_map(|spot| leaving.get(spot)) {
                let (a, b) = (find(&group, i), find(&group, *other));
                if let Some(slot) = group.get_mut(a.max(b)) {
                    *slot = a.min(b);
                }
            }
        }
        let mut groups: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for (i, change) in changes.into_iter().enumerate() {
            groups.entry(find(&group, i)).or_default().push(change);
        }
        for mut members in groups.into_values() {
            self.tie(members.iter_mut().map(|c| &mut c.record));
            self.drafted.extend(members.into_iter().map(|c| (c.record, c.commit)));
        }
        self.drafted.iter().map(|(record, _)| record.clone()).collect()
    }

    /// Makes several records one group: all take effect or none.
    pub(super) fn tie<'a>(&self, records: impl ExactSizeIterator<Item = &'a mut Record>) {
        let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
        if (2..=MAX_TOGETHER).contains(&count) && self.rules.together {
            for (index, record) in (0..count).zip(records) {
                record.together = Some(Together { index, count });
            }
        }
    }

    /// A draft became a record: the disk shows what it says.
    pub(super) fn commit(&mut self, node: NodeId, hash: RecordHash, commit: Commit) {
        match commit {
            Commit::Nothing => {}
            Commit::Gone => self.remove_disk(&node),
            Commit::Shows(mut shows) => {
                shows.basis = vec![hash];
                shows.places_from.get_or_insert(hash);
                shows.attrs_from.get_or_insert(hash);
                if shows.content.is_some() {
                    shows.content_from.get_or_insert(hash);
                }
                self.put_disk(node, *shows);
            }
        }
    }
}

/// Puts what a record replaces in order, with the records that wrote what it replaces.
pub(super) fn in_order(record: &mut Record, writers: impl IntoIterator<Item = RecordHash>) {
    record.replaces.extend(writers);
    record.replaces.sort();
    record.replaces.dedup();
    record.replaces.truncate(MAX_REPLACES);
}

/// Folders before what is in them; what goes comes last.
fn rank(record: &Record) -> u8 {
    match (record.is_dead(), record.kind == Kind::Folder) {
        (false, true) => 0,
        (false, false) => 1,
        (true, false) => 2,
        (true, true) => 3,
    }
}
